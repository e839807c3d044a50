//! Says a text again, by way of the SDK. What a call of it takes longer than one of `echo-bare` is what the SDK costs.
#![forbid(unsafe_code)]

/// Returns the text.
#[fumehood::tool(effect = "pure", read_only)]
pub fn echo(
    /// What to return.
    text: String,
) -> String {
    text
}

fumehood::export!(echo);
