//! What a turn waits for.

use super::{HandedOn, Phase, TurnMachine};
use fumehood_core::{awaited::AwaitedCall, id::CallId};

impl TurnMachine {
    /// Whether it waits for somebody outside.
    #[must_use]
    pub const fn is_parked(&self) -> bool {
        matches!(self.phase, Phase::Parked(_))
    }

    /// The calls of a client's tools that wait for their results.
    #[must_use]
    pub fn calls_awaited(&self) -> Vec<AwaitedCall> {
        self.calls.awaited().cloned().collect()
    }

    /// The calls that tools handed on and that have no end, whether or not the tool itself is done.
    #[must_use]
    pub fn calls_detached(&self) -> Vec<HandedOn> {
        self.calls.detached().collect()
    }

    /// One of those.
    #[must_use]
    pub fn detached(&self, call: CallId) -> Option<HandedOn> {
        self.calls.detached().find(|handed| handed.call.id == call)
    }
}
