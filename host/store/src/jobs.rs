//! Calls that run on in the background, as they are kept.

use fumehood_core::{
    Time,
    call::CallStatus,
    id::{CallId, JobId, SessionId, TurnId},
    name::{OrgName, ToolName},
};

/// How often a job may begin: once, and once more after a stop of the host, where it may run again.
pub const MOST_ATTEMPTS: u32 = 2;
/// Characters of what a job wrote that are kept: the first.
pub const LOG_LENGTH: u64 = 64 << 10;

/// A call that runs, or ran, in the background.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The org.
    pub org: OrgName,
    /// The session.
    pub session: SessionId,
    /// The turn that asked for it.
    pub turn: TurnId,
    /// The call.
    pub call: CallId,
    /// The tool.
    pub tool: ToolName,
    /// Where it is.
    pub state: JobState,
    /// How often it has begun.
    pub attempts: u32,
    /// Whether it is to be stopped.
    pub stopping: bool,
    /// Where the journal tells what it is called with.
    pub queued_seq: u64,
    /// When it was asked for.
    pub created: Time,
    /// When it began first.
    pub started: Option<Time>,
    /// What it said last of how far it is.
    pub progress: Option<JobProgress>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It waits for a place.
    Queued,
    /// It was taken by a host.
    Running,
    /// It has its end.
    Ended {
        /// How the call ended.
        status: CallStatus,
        /// When.
        at: Time,
        /// Where the journal tells it.
        seq: u64,
    },
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq)]
pub struct JobProgress {
    /// In words.
    pub message: String,
    /// From 0 to 1, if the tool knows.
    pub fraction: Option<f64>,
}
