//! Approvals: calls that wait for a person, and what the person decided.

use crate::{Time, call::Arguments, digest::Digest, id::CallId};
use serde::{Deserialize, Serialize};

/// A call that waits for a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskedApproval {
    /// The call.
    pub call_id: CallId,
    /// The tool.
    pub tool: String,
    /// Exactly what it will be called with.
    pub arguments: Arguments,
    /// The rule that asks, in words.
    pub rule: String,
    /// Of the tool, its component and the arguments: a decision is about these and no others.
    pub fingerprint: Digest,
    /// When the call counts as rejected if nobody has decided.
    pub expires: Time,
}

/// What was decided about one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedApproval {
    /// The call.
    pub call_id: CallId,
    /// What.
    pub decision: ApprovalOutcome,
    /// The arguments to call it with, if whoever decided changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arguments>,
    /// What whoever decided wants the model to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
}

/// How a request for approval ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalOutcome {
    /// Somebody said yes.
    Approved,
    /// Somebody said no, or decided about other calls of the batch only.
    Rejected,
    /// Nobody decided in time.
    Expired,
    /// A new input came instead of a decision.
    Abandoned,
}
