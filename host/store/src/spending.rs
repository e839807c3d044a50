//! What is spent, held and told of budgets, as the rest of the host sees it.

use fumehood_core::{
    Time,
    id::{SessionId, TurnId},
    money::Money,
    name::{AgentName, ModelName},
    spending::Day,
    turn::Usage,
};
use serde::{Deserialize, Serialize};

/// A limit of what may be spent, and what counts towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cap {
    /// Whose.
    pub account: Account,
    /// What of it.
    pub part: Part,
    /// How much; of money, in millionths. Used up when used ≥ limit.
    pub limit: u64,
}

/// Whose spending counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// All of the org's, from this day on.
    Org {
        /// The first day that counts.
        since: Day,
    },
    /// All of the session's.
    Session,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Input and output tokens.
    Tokens,
    /// Money.
    Cost,
    /// Calls of tools that models asked for.
    ToolCalls,
    /// Steps whose model answered, or that took something.
    Steps,
    /// For how long turns were worked, in milliseconds.
    Time,
}

impl Part {
    /// The name in events and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Cost => "cost",
            Self::ToolCalls => "tool_calls",
            Self::Steps => "steps",
            Self::Time => "time",
        }
    }
}

/// So much of each part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amounts {
    /// Tokens.
    pub tokens: u64,
    /// Money.
    pub cost: Money,
    /// Calls of tools.
    pub tool_calls: u64,
    /// Steps.
    pub steps: u64,
    /// Time, in milliseconds.
    pub time_ms: u64,
}

impl Amounts {
    /// How much of one part; of money, in millionths.
    #[must_use]
    pub const fn of(&self, part: Part) -> u64 {
        match part {
            Part::Tokens => self.tokens,
            Part::Cost => self.cost.millionths(),
            Part::ToolCalls => self.tool_calls,
            Part::Steps => self.steps,
            Part::Time => self.time_ms,
        }
    }
}

/// Where a cap stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What is spent.
    pub used: u64,
    /// What is held for calls that run, beside the one that asks.
    pub held: u64,
}

impl Standing {
    /// Whether there is something of the cap that is neither spent nor held.
    #[must_use]
    pub const fn leaves_something_of(&self, cap: &Cap) -> bool {
        self.used.saturating_add(self.held) < cap.limit
    }
}

/// Who asks a model, and holds what that may take. Each has one call at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A turn.
    Turn {
        /// Its session.
        session: SessionId,
        /// The turn.
        turn: TurnId,
    },
    /// A session, for what is done while no turn is open.
    Session(SessionId),
}

impl Holder {
    /// The session it belongs to.
    #[must_use]
    pub const fn session(self) -> SessionId {
        match self {
            Self::Turn { session, .. } | Self::Session(session) => session,
        }
    }
}

/// What somebody wants to hold for a model call and what follows from it, as far as it can be foreseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Whose call. Another wish of the same takes the place of the first.
    pub holder: Holder,
    /// How much. A turn holds something of each part, though it be foreseen to take nothing; a session of tokens and money only.
    pub amounts: Amounts,
    /// When it lapses, should nothing be heard of the call.
    pub until: Time,
}

/// What became of a wish to hold something. Each has where the caps stand, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// It is held.
    Granted(Vec<Standing>),
    /// What is spent and held by others reaches a cap: nothing is held.
    Refused(Vec<Standing>),
}

/// So much of a cap is used that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Whose session tells it.
    pub session: SessionId,
    /// The cap.
    pub cap: Cap,
    /// How much, in percent.
    pub percent: u8,
}

/// The days that are asked for, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days {
    /// The first.
    pub from: Day,
    /// The last.
    pub to: Day,
}

/// What the turns of one agent took with one model on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageOfDay {
    /// The day, in UTC.
    pub day: Day,
    /// The agent, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// The model, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Model calls, with those that gave no answer.
    pub calls: u64,
    /// How many of them the provider did not count in whole: the sums are too low by what they took.
    pub unmeasured_calls: u64,
    /// Steps whose model answered, or that took something.
    pub steps: u64,
    /// Calls of tools that the model asked for.
    pub tool_calls: u64,
    /// For how long turns were worked, in milliseconds.
    pub worked_ms: u64,
    /// Tokens, as far as measured.
    pub usage: Usage,
    /// Money, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
}
