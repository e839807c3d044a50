/// Adds one.
#[fumehood::tool]
fn add_one(to: impl Into<i64>) -> i64 {
    to.into() + 1
}

fn main() {}
