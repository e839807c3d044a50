/// Adds one.
#[fumehood::tool]
fn add_one(
    #[arguments] all: serde_json::Value,
    to: i64,
) -> i64 {
    to + 1
}

fn main() {}
