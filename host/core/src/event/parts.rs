//! What events say by a word, and what they leave out.

use serde::{Deserialize, Serialize};

/// A number that goes without saying.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde takes")]
pub(super) const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The attempt of a call that says nothing of it.
pub(super) const fn first() -> u32 {
    1
}

/// Which output stream of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputChannel {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A channel the tool named with `progress.emit`.
    Named(String),
}

/// Why a stream does not show every delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationReason {
    /// The client read too slowly.
    Lagged,
    /// The text had begun when the client came.
    JoinedLate,
}

/// Why a conversation is summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompactionReason {
    /// It nears what the model takes.
    NearlyFull,
    /// The model refused it as too long.
    Overflow,
    /// A client asked for it.
    Requested,
}
