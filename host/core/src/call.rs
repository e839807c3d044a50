//! Calls: what a tool is asked, and every way a call can end. A failed call is a result the model sees.

use crate::{
    content::Content,
    digest::Digest,
    id::CallId,
    name::{ComponentName, ToolName},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The arguments of a call: always a JSON object.
pub type Arguments = serde_json::Map<String, Value>;

/// The tool-facing error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallErrorCode {
    /// The arguments are not a JSON object or break the tool's schema.
    InvalidArguments,
    /// No tool of that name is offered here.
    ToolNotFound,
    /// A capability, rule or grant said no.
    Denied,
    /// A rate limit said not now.
    RateLimited,
    /// A deadline of the call passed; see whose.
    Timeout,
    /// The turn or the caller stopped the call.
    Cancelled,
    /// The host stopped while the call ran, or the time of a component that went out of use was over; it was not run again.
    Interrupted,
    /// The component broke or passed a limit; see the trap kind.
    Trapped,
    /// The result is larger than the call may return.
    OutputTooLarge,
    /// The tool says that it failed.
    Failed,
    /// Something the tool needs is not there now; trying later may help.
    Unavailable,
}

/// Why a component trapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrapKind {
    /// A panic, an abort, an exit, or another trap instruction.
    Unreachable,
    /// Asked for more memory than its limit, or touched memory it does not have.
    Memory,
    /// Nested too deep.
    Stack,
    /// Asked for more table elements than its limit, or used a bad one.
    Table,
    /// Used up its CPU time.
    Cpu,
    /// Wrote more output than its limit.
    Output,
    /// Made more host calls than its limit.
    HostCalls,
}

/// Whose deadline ended a call: the soonest of those that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadlineOwner {
    /// The `time` limit of the component, as manifest and grant have it.
    TimeLimit,
    /// The host's default for components that ask for no `time`.
    HostDefault,
    /// The host's ceiling of `time`.
    HostCeiling,
    /// The turn's time budget.
    TurnBudget,
    /// The session's time budget.
    SessionBudget,
    /// The org's time budget.
    OrgBudget,
    /// The client that made the call, or that was to run it.
    Client,
    /// The call of another tool that made it.
    Caller,
    /// The time that whoever has a call that was handed on has to end it.
    Callback,
    /// The time that calls have when their component is removed or replaced.
    Drain,
    /// The longest that a call may run in the background.
    Job,
}

impl DeadlineOwner {
    /// The word, as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TimeLimit => "time_limit",
            Self::HostDefault => "host_default",
            Self::HostCeiling => "host_ceiling",
            Self::TurnBudget => "turn_budget",
            Self::SessionBudget => "session_budget",
            Self::OrgBudget => "org_budget",
            Self::Client => "client",
            Self::Caller => "caller",
            Self::Callback => "callback",
            Self::Drain => "drain",
            Self::Job => "job",
        }
    }
}

/// How a call ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallStatus {
    /// It returned a result.
    Ok,
    /// It returned an error, or its arguments were refused.
    Error,
    /// Policy refused it.
    Denied,
    /// A deadline passed.
    Timeout,
    /// It was stopped on request.
    Cancelled,
    /// The host stopped while it ran, or its component went out of use.
    Interrupted,
    /// A rate limit refused it.
    RateLimited,
    /// It trapped.
    Trapped,
}

/// Why a call failed: a code for programs, a message for people and models.
///
/// The message says what, why and what to do, and holds no secret, host path or stack trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// What happened.
    pub code: CallErrorCode,
    /// In words.
    pub message: String,
    /// Set when `code` is `trapped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trap: Option<TrapKind>,
    /// When trying again may help, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Set when a deadline ended the call: whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DeadlineOwner>,
}

impl CallError {
    /// An error without trap kind, retry hint or deadline.
    #[must_use]
    pub fn new(code: CallErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            trap: None,
            retry_after_ms: None,
            deadline: None,
        }
    }

    /// A trap.
    #[must_use]
    pub fn trapped(kind: TrapKind, message: impl Into<String>) -> Self {
        Self {
            trap: Some(kind),
            ..Self::new(CallErrorCode::Trapped, message)
        }
    }

    /// The status that goes with the code.
    #[must_use]
    pub const fn status(&self) -> CallStatus {
        match self.code {
            CallErrorCode::Denied => CallStatus::Denied,
            CallErrorCode::RateLimited => CallStatus::RateLimited,
            CallErrorCode::Timeout => CallStatus::Timeout,
            CallErrorCode::Cancelled => CallStatus::Cancelled,
            CallErrorCode::Interrupted => CallStatus::Interrupted,
            CallErrorCode::Trapped => CallStatus::Trapped,
            CallErrorCode::InvalidArguments
            | CallErrorCode::ToolNotFound
            | CallErrorCode::OutputTooLarge
            | CallErrorCode::Failed
            | CallErrorCode::Unavailable => CallStatus::Error,
        }
    }
}

/// What a tool returned.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Output {
    /// For the model and for people, in order.
    pub content: Vec<Content>,
    /// For programs; follows the tool's output schema if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub structured: Option<Value>,
    /// The tool ran, and says that what it was asked to do did not work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

/// How a call ended: what the tool returned, or why there is nothing.
pub type CallResult = Result<Output, CallError>;

/// The status of a result.
#[must_use]
pub const fn status_of(result: &CallResult) -> CallStatus {
    match result {
        Ok(Output { is_error: false, .. }) => CallStatus::Ok,
        Ok(_) => CallStatus::Error,
        Err(error) => error.status(),
    }
}

/// A result in the parts that events and answers have: exactly one of output and error is there.
#[must_use]
pub fn parts(result: CallResult) -> (CallStatus, Option<Output>, Option<CallError>) {
    let status = status_of(&result);
    match result {
        Ok(output) => (status, Some(output), None),
        Err(error) => (status, None, Some(error)),
    }
}

/// What one call used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metering {
    /// From accepted to ended, in milliseconds; waiting included.
    pub duration_ms: u64,
    /// CPU time in the guest, in milliseconds, to the granularity of the epoch clock.
    pub cpu_ms: u64,
    /// The most linear memory the guest had, in bytes, all memories together.
    pub memory_peak: u64,
    /// Host calls the guest made.
    pub host_calls: u64,
    /// HTTP requests the guest made, refused ones included.
    pub http_requests: u64,
}

/// A request for one call, before policy and validation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRequest {
    /// This call.
    pub id: CallId,
    /// The tool asked for.
    pub tool: ToolName,
    /// Its arguments.
    pub arguments: Arguments,
}

/// Which code a call ran: recorded with the call, so that an update in between is visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentRef {
    /// The component's name in its org.
    pub name: ComponentName,
    /// The exact code.
    pub digest: Digest,
}
