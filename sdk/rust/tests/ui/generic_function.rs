/// Adds one.
#[fumehood::tool]
fn add_one<T: Into<i64>>(to: T) -> i64 {
    to.into() + 1
}

fn main() {}
