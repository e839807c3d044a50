//! Turns: their states, their budgets, how they end.

use crate::{id::JobId, money::Money};
use serde::{Deserialize, Serialize};

/// Where a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnStatus {
    /// Accepted, not yet begun.
    Queued,
    /// Being worked on.
    Running,
    /// Parked until somebody decides.
    AwaitingApproval,
    /// Parked until results come from outside.
    AwaitingResults,
    /// Ended with an answer.
    Completed,
    /// Ended by an error.
    Failed,
    /// Ended on request.
    Cancelled,
}

impl TurnStatus {
    /// Whether nothing more will happen in the turn.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Why a completed turn stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model was done.
    EndTurn,
    /// The model reached its output limit.
    OutputLimit,
    /// The provider withheld the answer.
    ContentFilter,
    /// The budget of steps was used up.
    StepLimit,
    /// The budget of tool calls was used up.
    ToolCallLimit,
    /// The budget of tokens was used up.
    TokenLimit,
    /// The budget of money was used up.
    CostLimit,
    /// The session's budget of tokens was used up.
    SessionTokenLimit,
    /// The session's budget of money was used up.
    SessionCostLimit,
    /// The session's budget of tool calls was used up.
    SessionToolCallLimit,
    /// The session's budget of steps was used up.
    SessionStepLimit,
    /// The org's budget of tokens was used up.
    OrgTokenLimit,
    /// The org's budget of money was used up.
    OrgCostLimit,
    /// The org's budget of tool calls was used up.
    OrgToolCallLimit,
    /// The org's budget of steps was used up.
    OrgStepLimit,
    /// The model repeated the same calls with the same results, also after it was told.
    Repetition,
}

impl StopReason {
    /// Whether a budget ended the turn.
    #[must_use]
    pub const fn is_budget(self) -> bool {
        matches!(
            self,
            Self::StepLimit
                | Self::ToolCallLimit
                | Self::TokenLimit
                | Self::CostLimit
                | Self::SessionTokenLimit
                | Self::SessionCostLimit
                | Self::SessionToolCallLimit
                | Self::SessionStepLimit
                | Self::OrgTokenLimit
                | Self::OrgCostLimit
                | Self::OrgToolCallLimit
                | Self::OrgStepLimit
        )
    }
}

/// Why the model stopped in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStop {
    /// It said all it wanted.
    Stop,
    /// It wants tools to run.
    ToolCalls,
    /// It reached its output limit.
    Length,
    /// The provider withheld the rest.
    ContentFilter,
}

/// Tokens, as the provider counted them. A count the provider did not give is absent, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the request, cached ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    /// Tokens of the answer, reasoning included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Of the input, how many came from the provider's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_input_tokens: Option<u64>,
    /// Of the input, how many were written to the provider's cache; none of them came from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_tokens: Option<u64>,
    /// Of the output, how many were reasoning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

impl Usage {
    /// The sum; a part that neither side measured stays absent.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        fn add(a: Option<u64>, b: Option<u64>) -> Option<u64> {
            match (a, b) {
                (None, None) => None,
                (a, b) => Some(a.unwrap_or(0).saturating_add(b.unwrap_or(0))),
            }
        }
        Self {
            input_tokens: add(self.input_tokens, other.input_tokens),
            output_tokens: add(self.output_tokens, other.output_tokens),
            cached_input_tokens: add(self.cached_input_tokens, other.cached_input_tokens),
            cache_write_tokens: add(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens: add(self.reasoning_tokens, other.reasoning_tokens),
        }
    }

    /// Whether both the request and the answer were counted.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.input_tokens.is_some() && self.output_tokens.is_some()
    }

    /// What a token budget counts: input and output, as far as measured.
    #[must_use]
    pub fn total(self) -> u64 {
        self.input_tokens
            .unwrap_or(0)
            .saturating_add(self.output_tokens.unwrap_or(0))
    }
}

/// What a turn may use. Each part is exhausted when used ≥ limit; absent means the host's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Input and output tokens of all steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Wall time in milliseconds, from `turn.started`. Passing it fails the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Tool calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<u64>,
    /// Model calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Money, in the currency of the price tables. Model calls without a price cost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
}

impl Budget {
    /// Each part the smaller of the two; a part set on one side only is that side's.
    #[must_use]
    pub fn narrowed_by(self, other: Self) -> Self {
        fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
            match (a, b) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        }
        Self {
            tokens: least(self.tokens, other.tokens),
            time_ms: least(self.time_ms, other.time_ms),
            tool_calls: least(self.tool_calls, other.tool_calls),
            steps: least(self.steps, other.steps),
            cost: least(self.cost, other.cost),
        }
    }
}

/// Whose budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetScope {
    /// The turn's own.
    #[default]
    Turn,
    /// The session's, over all its turns.
    Session,
    /// The org's, over all its sessions in a day or month.
    Org,
}

/// What a parked turn waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// A decision about calls.
    Approval,
    /// Results from outside.
    Results,
}

/// What the host tells the model before a step, beside what the client said. Kept in the journal, shown to the model at its place,
/// never part of what a user sees of the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// What the model is told.
    pub text: String,
    /// The job whose end it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
}

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// The model repeats itself.
    Repetition,
    /// The arguments of its calls are no JSON again and again.
    MalformedArguments,
    /// Its answer was cut off, and calls were lost.
    Truncated,
    /// Its answer does not follow the output schema.
    OutputRejected,
    /// The tools on offer have changed.
    ToolsChanged,
    /// A call that ran in the background has ended.
    JobEnded,
}

/// Why a turn failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnErrorCode {
    /// The provider could not be reached or kept failing.
    ModelUnavailable,
    /// The provider limits the rate and did not relent.
    ModelRateLimited,
    /// The provider refused the key.
    ModelAuth,
    /// The provider refused the request.
    ModelRejected,
    /// The conversation is longer than the model takes.
    ContextTooLong,
    /// The provider answered with something other than its protocol.
    ModelProtocol,
    /// The time budget ran out.
    TimeLimit,
    /// The model answered with neither text nor a call; its whole output may have gone into reasoning.
    EmptyAnswer,
    /// The answer does not follow the turn's output schema, also after the model was told.
    OutputInvalid,
    /// A hook refused the turn, or could not be asked.
    HookDenied,
    /// The agent or its model is not configured here any more.
    Configuration,
    /// The host stopped while the turn ran and could not go on with it.
    Interrupted,
    /// A call that was to run again after a stop of the host is not the call that had begun.
    Diverged,
    /// What is recorded of the turn or its session can't be read.
    JournalUnreadable,
    /// A fault of the host; the log has more.
    Internal,
}

/// Why a turn failed: a code for programs, a message for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct TurnError {
    /// What happened.
    pub code: TurnErrorCode,
    /// In words; no secret, host path or provider text.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_that_nobody_measured_stays_absent() {
        let a = Usage {
            input_tokens: Some(3),
            ..Usage::default()
        };
        let b = Usage {
            input_tokens: Some(4),
            output_tokens: Some(1),
            ..Usage::default()
        };
        assert_eq!(
            a.plus(b),
            Usage {
                input_tokens: Some(7),
                output_tokens: Some(1),
                ..Usage::default()
            }
        );
        assert_eq!(serde_json::to_string(&a).unwrap(), r#"{"input_tokens":3}"#);
    }

    #[test]
    fn a_budget_only_narrows() {
        let agent = Budget {
            steps: Some(5),
            tokens: Some(100),
            ..Budget::default()
        };
        let turn = Budget {
            steps: Some(50),
            tool_calls: Some(2),
            ..Budget::default()
        };
        assert_eq!(
            agent.narrowed_by(turn),
            Budget {
                steps: Some(5),
                tokens: Some(100),
                tool_calls: Some(2),
                time_ms: None,
                cost: None
            }
        );
    }
}
