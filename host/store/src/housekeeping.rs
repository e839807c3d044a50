//! What a store does about age: deleting what is too old, in steps that keep nobody waiting, and saying what nobody needs.

use crate::api::Result;
use async_trait::async_trait;
use fumehood_core::{Time, digest::Digest, id::SessionId, name::OrgName};
use std::collections::BTreeSet;

/// Sessions that are too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Those in use in which nothing happened since.
    Unused {
        /// The last change of one that is too old lies before.
        since: Time,
    },
    /// Those that were archived before.
    Archived {
        /// It lies before.
        since: Time,
    },
}

/// What is forgotten row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forgettable {
    /// Entries of the door's ledger.
    Ledger,
    /// Deliveries of webhooks that arrived.
    Deliveries,
    /// Deliveries of webhooks that were given up.
    DeadDeliveries,
    /// What came of the times of schedules, but for each schedule's latest.
    ScheduleRuns,
    /// What models took, by day.
    Usage,
    /// What calls were answered from outside.
    Recordings,
}

impl Forgettable {
    /// So many at once keep nobody waiting for long.
    #[must_use]
    pub const fn at_once(self) -> u32 {
        match self {
            // Each may be of megabytes.
            Self::Recordings => 10,
            _ => 500,
        }
    }
}

/// Deleting what is too old. Each step is one short transaction or a few, to be repeated until there is nothing left for it.
#[async_trait]
pub trait Housekeeping {
    /// What the last round remembered of its time; `None` before the first.
    async fn housekeeping_clock(&self) -> Result<Option<Time>>;
    /// Remembers the time by which things are too old in this round.
    async fn set_housekeeping_clock(&self, time: Time) -> Result<()>;
    /// Sessions of the org that are too old and that nothing holds, in the order of their ids from the one on that comes after `after`,
    /// at most `limit`.
    ///
    /// Its age is told by its row alone: when it was made, changed or used ([`crate::Sessions::touch_session`]).
    /// A session is held by a turn that hasn't ended; by what an active webhook is still to be told of it; and, if it is in use, by a
    /// schedule of it that hasn't ended.
    async fn idle_sessions(
        &self,
        org: &OrgName,
        idle: Idle,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>>;
    /// Deletes a session as [`crate::Sessions::delete_session`] does, if it is still too old and nothing holds it.
    async fn delete_idle_session(&self, org: &OrgName, id: SessionId, idle: Idle) -> Result<bool>;
    /// Deletes what is older, at most so many rows, and says how many.
    async fn forget(&self, org: &OrgName, what: Forgettable, before: Time, limit: u32) -> Result<u64>;
    /// Deletes what is left of sessions whose deletion is decided, and says of how many.
    async fn end_deletions(&self) -> Result<u64>;
    /// The code that components of any org have.
    async fn code_in_use(&self) -> Result<BTreeSet<Digest>>;
}
