/// Adds one.
#[fumehood::tool(title = "Add", title = "Add one")]
fn add_one(to: i64) -> i64 {
    to + 1
}

fn main() {}
