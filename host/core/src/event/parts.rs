//! What events say by a word.

use serde::{Deserialize, Serialize};

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
