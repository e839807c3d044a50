//! Events: the journal's entries, and the stream a client reads.
//!
//! A *recorded* event is kept and has a `seq`, gapless per session from 1, assigned by the store.
//! A *live* event has no `seq`. The deltas are shown to whoever listens now; what they told is in a recorded event later. With
//! `stream.truncated` a stream speaks of itself.

mod body;
mod catalogue;
mod made;
mod parts;
mod source;
#[cfg(test)]
mod tests;

pub use body::EventBody;
pub use catalogue::{EventKind, Life};
pub use parts::{CompactionReason, OutputChannel, TruncationReason};
pub use source::Source;

use crate::{
    Time,
    id::{EventId, SessionId, TurnId},
    name::OrgName,
};
use serde::{Deserialize, Serialize};

/// An event as clients see it and as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique.
    pub id: EventId,
    /// Place in the session's journal, from 1. Absent on live events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When it happened, by the host's clock.
    pub time: Time,
    /// The org.
    pub org: OrgName,
    /// The session.
    pub session: SessionId,
    /// The turn, where the event belongs to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// Who says so.
    pub source: Source,
    /// `type` and `data`.
    #[serde(flatten)]
    pub body: EventBody,
}

/// An event that has not been recorded yet: what happened, before the store gives it id, time and place.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The turn, where it belongs to one.
    pub turn: Option<TurnId>,
    /// Who says so.
    pub source: Source,
    /// What happened.
    pub body: EventBody,
}
