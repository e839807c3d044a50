/// Counts letters.
#[fumehood::tool]
fn count(
    /// What is counted.
    text: &str,
) -> usize {
    text.len()
}

fn main() {}
