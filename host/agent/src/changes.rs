//! What an org changes about its components, and how far that has come: for whoever operates the host.
//!
//! A change is *pending* while the component is read and compiled, and *failed* if nothing came of it: then what was in use
//! stays so. Else it holds for every call and every step that begins from then on. While calls still run on the version that
//! went out of use it is *draining*, and when none does, *applied*; it is *forced* when any of them had to be interrupted.
//!
//! Kept in memory, the last of each org: the journal has what became of the calls, and the store what is installed.

use fumehood_core::{
    Time,
    digest::Digest,
    metric,
    name::{ComponentName, OrgName},
    now,
};
use metrics::counter;
use serde::Serialize;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Changes that are remembered of each org.
const KEPT: usize = 64;

/// What is done to a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// It is new, or as far as is known yet.
    Add,
    /// It takes the place of other code of its name.
    Update,
    /// It is removed.
    Remove,
}

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeState {
    /// The component is being read and compiled.
    Pending,
    /// It holds, and nothing runs on the version before.
    Applied,
    /// It holds, and calls still run on the version before.
    Draining,
    /// It holds, and calls on the version before were interrupted.
    Forced,
    /// Nothing came of it; what was in use stays so.
    Failed,
}

impl ChangeState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Draining => "draining",
            Self::Forced => "forced",
            Self::Failed => "failed",
        }
    }

    const fn is_settled(self) -> bool {
        matches!(self, Self::Applied | Self::Forced | Self::Failed)
    }
}

/// One change of one component.
#[derive(Debug, Clone, Serialize)]
pub struct ToolChange {
    /// Which; absent until it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// What is done.
    pub operation: Operation,
    /// How far it has come.
    pub state: ChangeState,
    /// The code that it puts into use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The code that it takes out of use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Digest>,
    /// Calls that run on the code before.
    pub calls: usize,
    /// When those are interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Calls on the code before that were interrupted.
    pub interrupted: u64,
    /// Why nothing came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for.
    pub begun: Time,
}

/// The changes of all orgs.
#[derive(Default)]
pub(crate) struct Changes(Mutex<HashMap<OrgName, VecDeque<Change>>>);

/// A change that goes on.
#[derive(Clone)]
pub(crate) struct Change(Arc<Mutex<ToolChange>>);

/// A change of which it is not known yet whether anything comes of it. Dropped before, it failed: whoever asked for it left.
pub(crate) struct PendingChange {
    change: Change,
    ended: bool,
}

impl Changes {
    pub(crate) fn begin(&self, org: &OrgName, operation: Operation, component: Option<ComponentName>) -> PendingChange {
        PendingChange {
            change: self.remember(org, operation, component),
            ended: false,
        }
    }

    /// A component that is installed can't be loaded. Said once for as long as nothing else is done to it.
    pub(crate) fn not_loaded(&self, org: &OrgName, component: &ComponentName, digest: Digest, why: &str) {
        let of_component = |change: &ToolChange| change.component.as_ref() == Some(component);
        let last = self.of(org).into_iter().find(of_component);
        if last.is_some_and(|last| last.state == ChangeState::Failed && last.digest == Some(digest)) {
            return;
        }
        let change = self.remember(org, Operation::Add, Some(component.clone()));
        change.lock().digest = Some(digest);
        change.fail(why.to_owned());
    }

    /// Those of an org, the newest first.
    pub(crate) fn of(&self, org: &OrgName) -> Vec<ToolChange> {
        let orgs = self.lock();
        let changes = orgs.get(org).into_iter().flatten();
        changes.rev().map(Change::now).collect()
    }

    fn remember(&self, org: &OrgName, operation: Operation, component: Option<ComponentName>) -> Change {
        let change = Change(Arc::new(Mutex::new(ToolChange {
            component,
            operation,
            state: ChangeState::Pending,
            digest: None,
            before: None,
            calls: 0,
            until: None,
            interrupted: 0,
            reason: None,
            begun: now(),
        })));
        let mut orgs = self.lock();
        let own = orgs.entry(org.clone()).or_default();
        // THREAT[T-org-flood]: what is remembered holds memory. Those that go on are worth more than those that are over.
        if own.len() >= KEPT {
            let over = own.iter().position(|change| change.lock().state.is_settled());
            own.remove(over.unwrap_or(0));
        }
        own.push_back(change.clone());
        change
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OrgName, VecDeque<Change>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    /// As it is now.
    pub(crate) fn now(&self) -> ToolChange {
        self.lock().clone()
    }

    /// What still runs on the code before, and how many of its calls were interrupted.
    pub(crate) fn drains(&self, calls: usize, until: Time, interrupted: u64) {
        let mut change = self.lock();
        let state = match (calls, interrupted) {
            (_, 1..) => ChangeState::Forced,
            (1.., 0) => ChangeState::Draining,
            (0, 0) => ChangeState::Applied,
        };
        if state == ChangeState::Forced && change.state != state {
            count(state);
        }
        change.state = state;
        change.calls = calls;
        change.interrupted = interrupted;
        change.until = (calls > 0).then_some(until);
    }

    /// The code before is in use again.
    pub(crate) fn is_over(&self) {
        let mut change = self.lock();
        if change.state == ChangeState::Draining {
            change.state = ChangeState::Applied;
        }
        change.calls = 0;
        change.until = None;
    }

    fn fail(&self, why: String) {
        let mut change = self.lock();
        change.state = ChangeState::Failed;
        change.reason = Some(why);
        count(ChangeState::Failed);
    }

    fn lock(&self) -> MutexGuard<'_, ToolChange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingChange {
    /// It holds: this code is in use in place of that.
    pub(crate) fn applied(
        mut self,
        component: &ComponentName,
        digest: Option<Digest>,
        before: Option<Digest>,
    ) -> Change {
        self.ended = true;
        let mut change = self.change.lock();
        change.component = Some(component.clone());
        change.digest = digest;
        change.before = before.filter(|before| Some(*before) != digest);
        if change.operation == Operation::Add && before.is_some() {
            change.operation = Operation::Update;
        }
        change.state = ChangeState::Applied;
        count(ChangeState::Applied);
        drop(change);
        self.change.clone()
    }

    /// Nothing came of it.
    pub(crate) fn failed(mut self, why: String) {
        self.ended = true;
        self.change.fail(why);
    }
}

impl Drop for PendingChange {
    fn drop(&mut self) {
        if !self.ended {
            let why = "whoever asked for it left before it was done; look at what is installed, and ask again";
            self.change.fail(why.to_owned());
        }
    }
}

fn count(state: ChangeState) {
    counter!(metric::TOOL_CHANGES.name, "state" => state.as_str()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org() -> OrgName {
        OrgName::default_org()
    }

    fn name() -> ComponentName {
        "github".parse().unwrap()
    }

    fn state(changes: &Changes) -> ChangeState {
        changes.of(&org())[0].state
    }

    #[test]
    fn a_change_is_pending_until_it_holds_or_fails() {
        let changes = Changes::default();
        let pending = changes.begin(&org(), Operation::Add, None);
        assert_eq!(state(&changes), ChangeState::Pending);
        pending.applied(&name(), Some(Digest::of(b"1")), None);
        assert_eq!(state(&changes), ChangeState::Applied);
        let pending = changes.begin(&org(), Operation::Add, None);
        pending.failed("it is no component".into());
        let failed = &changes.of(&org())[0];
        assert_eq!(
            (failed.state, failed.reason.as_deref()),
            (ChangeState::Failed, Some("it is no component"))
        );
        drop(changes.begin(&org(), Operation::Add, None));
        assert_eq!(state(&changes), ChangeState::Failed, "who asked went away");
    }

    #[test]
    fn an_update_drains_is_applied_and_once_forced_stays_so() {
        let changes = Changes::default();
        let pending = changes.begin(&org(), Operation::Add, None);
        let change = pending.applied(&name(), Some(Digest::of(b"2")), Some(Digest::of(b"1")));
        assert_eq!(change.now().operation, Operation::Update);
        change.drains(2, now(), 0);
        assert_eq!(change.now().state, ChangeState::Draining);
        change.drains(0, now(), 0);
        assert_eq!((change.now().state, change.now().until), (ChangeState::Applied, None));
        change.drains(1, now(), 1);
        change.drains(0, now(), 1);
        assert_eq!(change.now().state, ChangeState::Forced);
    }

    #[test]
    fn the_last_changes_of_an_org_are_kept_and_those_that_go_on_before_others() {
        let changes = Changes::default();
        let goes_on = changes.begin(&org(), Operation::Remove, Some(name()));
        for _ in 0..2 * KEPT {
            changes.begin(&org(), Operation::Add, None).failed("no".into());
        }
        let kept = changes.of(&org());
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept.last().unwrap().operation, Operation::Remove);
        assert!(changes.of(&"other".parse().unwrap()).is_empty());
        drop(goes_on);
    }

    #[test]
    fn what_can_not_be_loaded_is_said_once() {
        let changes = Changes::default();
        for _ in 0..3 {
            changes.not_loaded(&org(), &name(), Digest::of(b"1"), "its code is missing");
        }
        assert_eq!(changes.of(&org()).len(), 1);
        changes.not_loaded(&org(), &name(), Digest::of(b"2"), "its code is missing");
        assert_eq!(changes.of(&org()).len(), 2);
    }
}
