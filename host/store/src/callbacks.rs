//! Calls that tools handed on, and what whoever ends them brings.

use fumehood_core::{
    Time,
    call::CallResult,
    digest::Digest,
    event::{Event, NewEvent},
    id::{CallId, CallbackId, SessionId, TurnId},
    name::OrgName,
};
use std::time::Duration;

/// A call that a tool handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// What whoever ends it names it by.
    pub id: CallbackId,
    /// The SHA-256 of the token that whoever ends it has to show.
    pub token: Digest,
    /// The org.
    pub org: OrgName,
    /// The session.
    pub session: SessionId,
    /// The turn.
    pub turn: TurnId,
    /// The call.
    pub call: CallId,
    /// When it ends without a result, if none has come.
    pub expires: Time,
    /// What came of it.
    pub state: CallbackState,
}

/// What came of a call that a tool handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackState {
    /// It has no result.
    Open,
    /// It has one, that is not in the journal yet.
    Given {
        /// The digest of the request that brought it.
        request: Digest,
    },
    /// It has its end.
    Settled {
        /// The digest of the request that brought it; absent where it ended in another way.
        request: Option<Digest>,
    },
}

/// The result of a call that a tool handed on, as it is to be in the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Giving {
    /// The call.
    pub callback: CallbackId,
    /// The digest of the request that brings it.
    pub request: Digest,
    /// The result.
    pub result: CallResult,
    /// When it was brought.
    pub at: Time,
}

/// What is told of a call that a tool handed on, before it ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The call.
    pub callback: CallbackId,
    /// When it was told.
    pub at: Time,
    /// The least time since the report before.
    pub after: Duration,
    /// How many there may be in all.
    pub most: u32,
    /// Its event.
    pub event: NewEvent,
}

/// What became of a report.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "one per request, taken apart at once; Recorded is the usual case"
)]
pub enum Reported {
    /// It is in the journal.
    Recorded(Event),
    /// It came too soon after another, or there were as many as may be: nothing was done.
    TooMany,
    /// The call waits for nothing any more: nothing was done.
    Late,
}
