//! Tools whose types can't be read or written as JSON. Each line with an error ends in `// here`, where this project
//! has words of its own for it with these in quotation marks; what is said of a function's arguments together may
//! stand at its name, `// or here`.

use fumehood::Failure;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub struct Plain;

#[derive(Deserialize)]
pub struct Undescribed {
    pub of: String,
}

#[derive(Serialize)]
pub struct Written {
    pub of: String,
}

#[derive(Deserialize, JsonSchema)]
pub struct Read {
    pub of: String,
}

pub enum Trouble {}

/// Returns what can't be written.
#[fumehood::tool]
pub fn unwritable() -> Plain { // here "a tool cannot return `Plain`"
    Plain
}

/// Returns several of what can't be written.
#[fumehood::tool]
pub fn several() -> Vec<Plain> { // here "a tool cannot return `Vec<Plain>`"
    vec![]
}

/// Returns what can't be written, or fails.
#[fumehood::tool(effect = "pure")]
pub fn unwritable_if_good() -> Result<Plain, Failure> { // here "a tool cannot return `Plain`"
    Ok(Plain)
}

/// Fails with what isn't a failure.
#[fumehood::tool]
pub fn trouble() -> Result<String, Trouble> { // here
    Ok(String::new())
}

/// Takes what can't be read.
#[fumehood::tool]
pub fn unreadable( // or here
    first: String,
    /// What it is.
    second: Plain, // here
) -> String {
    let _ = second;
    first
}

/// Takes what can be read and has no schema.
#[fumehood::tool]
pub fn undescribed( // or here
    first: String,
    second: Undescribed, // here
) -> String {
    first + &second.of
}

/// Takes all arguments as what can't be read.
#[fumehood::tool]
pub fn unreadable_as_a_whole(
    #[arguments]
    all: Plain, // here
) -> String {
    let _ = all;
    String::new()
}

/// Is right: what is returned needs no schema.
#[fumehood::tool]
pub fn right(#[arguments] all: Read) -> Result<Written, Failure> {
    Ok(Written { of: all.of })
}
