//! What runs on one version of a component, and how long it may go on once the version is out of use.
//!
//! Every call is counted from before its authority is looked up to its end, so that none slips in between a change and the count.

use crate::changes::Change;
use fumehood_core::{Time, metric};
use fumehood_policy::deadline::Deadline;
use fumehood_sandbox::{Recall, Recaller, recall};
use metrics::gauge;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The calls on one version.
pub(crate) struct InUse {
    recaller: Recaller,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: usize,
    drain: Option<Drain>,
    /// The change by which the version goes out of use, where somebody looks at it.
    told: Option<Change>,
}

/// The version is out of use.
struct Drain {
    until: Time,
    interrupted: u64,
}

impl InUse {
    pub(crate) fn new() -> Self {
        Self {
            recaller: recall().0,
            state: Mutex::default(),
        }
    }

    /// What a call on it hears of its end.
    pub(crate) fn recall(&self) -> Recall {
        self.recaller.recall()
    }

    /// It goes out of use: calls on it end by the deadline. Once it is, the deadline stays. Says how many calls that are, unless it
    /// was out of use before.
    pub(crate) fn retire(&self, deadline: Deadline, until: Time) -> Option<usize> {
        let mut state = self.lock();
        if state.drain.is_some() {
            return None;
        }
        state.drain = Some(Drain { until, interrupted: 0 });
        gauge!(metric::TOOL_CALLS_DRAINING.name).increment(state.running_as_f64());
        self.recaller.set(Some(deadline));
        state.tell();
        Some(state.running)
    }

    /// It is in use again: calls on it are as any other.
    pub(crate) fn revive(&self) {
        let mut state = self.lock();
        let told = state.told.take();
        if state.drain.take().is_none() {
            return;
        }
        gauge!(metric::TOOL_CALLS_DRAINING.name).decrement(state.running_as_f64());
        self.recaller.set(None);
        if let Some(change) = told {
            change.is_over();
        }
    }

    /// Has the change say how far its drain is, from now on.
    pub(crate) fn tell(&self, change: &Change) {
        let mut state = self.lock();
        state.told = Some(change.clone());
        state.tell();
    }

    /// One call more.
    pub(crate) fn begin(&self) {
        let mut state = self.lock();
        state.running += 1;
        if state.drain.is_some() {
            gauge!(metric::TOOL_CALLS_DRAINING.name).increment(1.0);
        }
        state.tell();
    }

    /// One call less. Whether it was the last on a version that is out of use.
    pub(crate) fn end(&self, how: Left) -> bool {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        if let Some(drain) = &mut state.drain {
            gauge!(metric::TOOL_CALLS_DRAINING.name).decrement(1.0);
            drain.interrupted += u64::from(how == Left::Interrupted);
        }
        state.tell();
        state.drain.is_some() && state.running == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self) {
        if let (Some(drain), Some(change)) = (&self.drain, &self.told) {
            change.drains(self.running, drain.until, drain.interrupted);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "there are never that many")]
    const fn running_as_f64(&self) -> f64 {
        self.running as f64
    }
}

/// How a call left the version it ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// It ended, or its caller left.
    ByItself,
    /// The version's time was over.
    Interrupted,
}
