/// Adds one.
#[fumehood::tool(name = "AddOne")]
fn add_one(to: i64) -> i64 {
    to + 1
}

fn main() {}
