//! Hooks: where in a turn they are asked or told, and how one can fail.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A point of a turn at which hooks are asked or told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    /// An input is about to be worked; also one that is added to a turn that runs.
    BeforeTurn,
    /// A turn has its answer, or has ended without one.
    AfterTurn,
    /// The model is about to be asked for a step.
    BeforeModelCall,
    /// The model has answered.
    AfterModelCall,
    /// A tool is about to be called.
    BeforeToolCall,
    /// A tool has answered.
    AfterToolCall,
}

impl HookPoint {
    /// Every point, in the order of a turn.
    pub const ALL: [Self; 6] = [
        Self::BeforeTurn,
        Self::BeforeModelCall,
        Self::AfterModelCall,
        Self::BeforeToolCall,
        Self::AfterToolCall,
        Self::AfterTurn,
    ];

    /// The word for it, as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeTurn => "before_turn",
            Self::AfterTurn => "after_turn",
            Self::BeforeModelCall => "before_model_call",
            Self::AfterModelCall => "after_model_call",
            Self::BeforeToolCall => "before_tool_call",
            Self::AfterToolCall => "after_tool_call",
        }
    }

    /// Whether it is about one call of a tool.
    #[must_use]
    pub const fn is_about_a_tool(self) -> bool {
        matches!(self, Self::BeforeToolCall | Self::AfterToolCall)
    }
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a hook may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookMode {
    /// It is told, and nobody waits for it.
    Observe,
    /// It is asked, and what it denies does not happen.
    Guard,
}

impl HookMode {
    /// The word for it, as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Guard => "guard",
        }
    }
}

/// How a hook failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookFailureKind {
    /// It did not answer in its time.
    Timeout,
    /// Its component ended without an answer.
    Crashed,
    /// It could not be reached, or answered with an error.
    Unreachable,
    /// It answered with something that is no answer.
    InvalidAnswer,
    /// What it is to be asked about is more than a hook is shown.
    TooLarge,
    /// Its component is not installed or granted, or its key is not set.
    Unavailable,
    /// A limit kept it from being asked.
    Limited,
}

impl HookFailureKind {
    /// The word for it, as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Crashed => "crashed",
            Self::Unreachable => "unreachable",
            Self::InvalidAnswer => "invalid_answer",
            Self::TooLarge => "too_large",
            Self::Unavailable => "unavailable",
            Self::Limited => "limited",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_wire() {
        for point in HookPoint::ALL {
            assert_eq!(serde_json::to_value(point).unwrap(), point.as_str());
        }
        for mode in [HookMode::Observe, HookMode::Guard] {
            assert_eq!(serde_json::to_value(mode).unwrap(), mode.as_str());
        }
        use HookFailureKind::{Crashed, InvalidAnswer, Limited, Timeout, TooLarge, Unavailable, Unreachable};
        for kind in [
            Timeout,
            Crashed,
            Unreachable,
            InvalidAnswer,
            TooLarge,
            Unavailable,
            Limited,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
