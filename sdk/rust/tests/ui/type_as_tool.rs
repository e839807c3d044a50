/// Adds one.
#[fumehood::tool]
struct AddOne;

fn main() {}
