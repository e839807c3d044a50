#[fumehood::tool]
fn add_one(to: i64) -> i64 {
    to + 1
}

fn main() {}
