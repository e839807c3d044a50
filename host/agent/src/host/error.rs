//! Why an operation of the host was refused or failed.

use super::{CallbackRefused, ResultsRefused};
use crate::{budgets::BudgetExhausted, install::InstallError, limits::Limited};
use fumehood_core::{
    Time,
    digest::Digest,
    id::{JobId, TurnId},
};
use fumehood_policy::agent::AgentConfigError;
use fumehood_store::{StoreError, WorkspaceError};

/// Why an operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no such thing in this org.
    #[error("there is no such {0} here")]
    NotFound(&'static str),
    /// The session has a turn that hasn't ended.
    #[error(
        "the session is busy with the turn {0}; wait for its end or cancel it, or send the input with `mode` `queue` or `steer`"
    )]
    Busy(TurnId),
    /// The session has a job that hasn't ended.
    #[error(
        "the background job {0} of the session has not ended; wait for its end, or stop it with `POST /v1/jobs/{{job}}/stop`"
    )]
    BusyWithJob(JobId),
    /// As many inputs wait as may.
    #[error("as many inputs wait in the session as may; wait until one of them is worked")]
    QueueFull,
    /// The session's conversation is being summed up.
    #[error("the session's conversation is being summed up; try again when that is done")]
    Compacting,
    /// The conversation was not summed up, and is as it was.
    #[error("the conversation could not be summed up and is as it was: {0}")]
    NotCompacted(String),
    /// The idempotency key came with another request before.
    #[error("this Idempotency-Key was used with a different request; use a new key for a new request")]
    KeyReused,
    /// Somebody else changed the session in the same moment.
    #[error("the session was changed in the same moment; look at it again, then repeat the request")]
    Changed,
    /// The request makes no sense; the text says why and what would.
    #[error("{0}")]
    Invalid(String),
    /// The turn waits for no decision.
    #[error("the turn waits for no decision, it is {0}; `GET /v1/turns/{{turn}}` shows what it waits for")]
    NotAwaitingApproval(&'static str),
    /// The time to decide is over.
    #[error("the time to decide was over at {}; the calls count as rejected", .0.format("%Y-%m-%dT%H:%M:%SZ"))]
    ApprovalExpired(Time),
    /// A decision makes no sense. Nothing was decided.
    #[error("{field}: {reason}")]
    Decision {
        /// Where in the request.
        field: String,
        /// Why, and what would.
        reason: String,
    },
    /// Results of calls that a client runs are not taken.
    #[error(transparent)]
    Results(#[from] ResultsRefused),
    /// What somebody outside brings for a call is not taken.
    #[error(transparent)]
    Callback(#[from] CallbackRefused),
    /// The host is shutting down.
    #[error("the host is shutting down; try again on another or later")]
    ShuttingDown,
    /// The org has used what it may for now.
    #[error(transparent)]
    Limited(#[from] Limited),
    /// The org has as many sessions as it may. Nothing was made.
    #[error(
        "the org has as many sessions as it may, {0}: delete one that is done, or ask the operator to raise `sessions` in its limits"
    )]
    TooManySessions(u64),
    /// What the org or the session may spend on models is spent.
    #[error(transparent)]
    BudgetExhausted(#[from] BudgetExhausted),
    /// The configured agents do not fit together.
    #[error(transparent)]
    Agents(#[from] AgentConfigError),
    /// A hook has denied it.
    #[error("{0}")]
    HookDenied(String),
    /// The component is other code than the one that was looked at.
    #[error("the component is {0} by now, not the code that was looked at; look at what it asks for and decide again")]
    OtherCode(Digest),
    /// The component is refused.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// Something of the host's broke; its log says what.
    #[error("a fault of the host; its log says more")]
    Fault,
    /// The session's files were not changed.
    #[error(transparent)]
    Files(#[from] WorkspaceError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
