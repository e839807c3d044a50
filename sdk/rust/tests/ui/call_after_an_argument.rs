/// Adds one.
#[fumehood::tool]
fn add_one(to: i64, call: &fumehood::Call) -> i64 {
    to + 1
}

fn main() {}
