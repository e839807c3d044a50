struct Counter;

impl Counter {
    /// Adds one.
    #[fumehood::tool]
    fn add_one(&self, to: i64) -> i64 {
        to + 1
    }
}

fn main() {}
