//! Leases: which host works a turn, until when, and how what a later holder writes is told from what an earlier one writes.
//!
//! A lease says who may begin to work a turn. It does not keep an earlier holder from writing, which may have slept past its
//! lease's end: the [`Fence`] does, which is looked at in the transaction of every append made under it.

use crate::record::CancelAt;
use fumehood_core::{Time, id::TurnId};
use uuid::Uuid;

/// A host as a holder of leases. Made anew each time one starts: it holds nothing of what the one before held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostId(Uuid);

impl HostId {
    /// Another than every one before.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    pub(crate) const fn uuid(self) -> Uuid {
        self.0
    }
}

impl Default for HostId {
    fn default() -> Self {
        Self::new()
    }
}

/// What a host asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Who.
    pub host: HostId,
    /// When it asks: a lease of another that ended before does not count.
    pub at: Time,
    /// Until when, unless it is renewed.
    pub until: Time,
}

/// By which taking of a turn somebody writes. One that was followed by another writes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence {
    turn: TurnId,
    epoch: u64,
}

impl Fence {
    pub(crate) const fn new(turn: TurnId, epoch: u64) -> Self {
        Self { turn, epoch }
    }

    /// The turn.
    #[must_use]
    pub const fn turn(&self) -> TurnId {
        self.turn
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// What became of the wish to work a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is the host's.
    Mine {
        /// What it writes under.
        fence: Fence,
        /// How often in a row the turn was now taken from a holder that had gone, and came no further in between. One that was let
        /// go of counts as none.
        recoveries: u32,
        /// Whether it is to be cancelled.
        cancel: Option<CancelAt>,
    },
    /// Another host works it.
    Held,
    /// It has ended.
    Ended,
}
