//! What holds for a component now. A step keeps the code and the definitions it began with, but what that code may do is what
//! the org decides while the step runs; and calls on a version that went out of use have only so much time left.

use crate::{
    changes::Change,
    drain::{InUse, Left},
};
use fumehood_core::{
    call::{CallError, CallErrorCode, DeadlineOwner},
    digest::Digest,
    name::{ComponentName, OrgName, ToolName},
    now,
};
use fumehood_policy::{
    deadline::{Deadline, Gone, SetBy},
    grant::Grant,
    manifest::Manifest,
    quantity::Span,
};
use fumehood_sandbox::{CallReport, Recall};
use fumehood_store::record::Component;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::Instant,
};

/// What an org decided about one version of a component: shared by every snapshot that has the version.
pub(crate) struct Standing {
    org: OrgName,
    component: ComponentName,
    digest: Digest,
    now: RwLock<Decided>,
    in_use: InUse,
}

#[derive(Clone)]
enum Decided {
    Removed,
    Waiting,
    Granted(Arc<(Manifest, Grant)>),
}

impl From<&Component> for Decided {
    fn from(component: &Component) -> Self {
        match &component.grant {
            Some(grant) => Self::Granted(Arc::new((component.manifest.clone(), grant.clone()))),
            None => Self::Waiting,
        }
    }
}

impl Standing {
    fn new(component: &Component, now: Decided) -> Arc<Self> {
        Arc::new(Self {
            org: component.org.clone(),
            component: component.name.clone(),
            digest: component.digest,
            now: RwLock::new(now),
            in_use: InUse::new(),
        })
    }

    /// Counts one call on the version. To be asked before what the version may do: a change comes before either, or is heard of.
    pub(crate) fn begin(self: &Arc<Self>) -> RunningCall {
        self.in_use.begin();
        RunningCall {
            version: Arc::clone(self),
            left: Left::ByItself,
        }
    }

    /// Has the change by which the version went out of use say what still runs on it.
    pub(crate) fn tell(&self, change: &Change) {
        self.in_use.tell(change);
    }

    /// The version is out of use: what runs on it has so much time left.
    fn retire(&self, allowed: Span, gone: Gone) {
        let set_by = SetBy::Drain {
            component: self.component.clone(),
            gone,
        };
        let deadline = Deadline::after(Instant::now(), allowed, set_by);
        let until = now() + allowed.as_duration();
        if let Some(calls) = self.in_use.retire(deadline, until)
            && calls > 0
        {
            tracing::info!(org = %self.org, component = %self.component, digest = %self.digest, calls, %until, "calls run on a version that went out of use; those that are not done by then are interrupted");
        }
    }

    /// What the version asks for and is granted now.
    ///
    /// # Errors
    /// `denied` while it has no grant, and once it is removed.
    pub(crate) fn granted(&self, tool: &ToolName) -> Result<Arc<(Manifest, Grant)>, CallError> {
        let component = &self.component;
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner).clone();
        let message = match now {
            Decided::Granted(granted) => return Ok(granted),
            Decided::Waiting => format!(
                "the component {component} of the tool {tool} waits for a grant; the operator decides with `fumehood tool grant {component}`"
            ),
            Decided::Removed => format!(
                "the component {component} of the tool {tool} was removed while the turn ran; use another tool, or ask the operator to add it again"
            ),
        };
        Err(CallError::new(CallErrorCode::Denied, message))
    }

    fn set(&self, now: Decided) {
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// A call on a version, until it is dropped.
pub(crate) struct RunningCall {
    version: Arc<Standing>,
    left: Left,
}

impl RunningCall {
    /// What it hears of its end.
    pub(crate) fn recall(&self) -> Recall {
        self.version.in_use.recall()
    }

    /// Looks at how it ended.
    pub(crate) fn ended(mut self, report: &CallReport) {
        let owner = report.result.as_ref().err().and_then(|error| error.deadline);
        if owner == Some(DeadlineOwner::Drain) {
            self.left = Left::Interrupted;
        }
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        let Standing {
            org,
            component,
            digest,
            in_use,
            ..
        } = &*self.version;
        let last = in_use.end(self.left);
        if self.left == Left::Interrupted {
            tracing::warn!(%org, %component, %digest, "a call was interrupted: its version is out of use, and its time was over");
        }
        if last {
            tracing::info!(%org, %component, %digest, "no call runs any more on a version that went out of use");
        }
    }
}

/// The standings of every org's components, as far as somebody still uses them.
pub(crate) struct Standings {
    orgs: Mutex<HashMap<OrgName, OfOrg>>,
    /// How long calls on a version that goes out of use may go on.
    drain: Span,
}

#[derive(Default)]
struct OfOrg {
    generation: u64,
    versions: HashMap<(ComponentName, Digest), Weak<Standing>>,
}

impl Standings {
    pub(crate) fn new(drain: Span) -> Self {
        Self {
            orgs: Mutex::default(),
            drain,
        }
    }

    /// A version that somebody still uses.
    pub(crate) fn version(&self, org: &OrgName, name: &ComponentName, digest: Digest) -> Option<Arc<Standing>> {
        let orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        orgs.get(org)?.versions.get(&(name.clone(), digest))?.upgrade()
    }

    /// Takes what the store says of an org's components, and gives each its standing, in the same order. What was read
    /// before something newer was taken changes nothing.
    ///
    /// What they may do holds from now on. The versions that go out of use by it begin to drain when the second half is dropped: to be
    /// done once the others can be found, so that whoever is interrupted finds them in the next step.
    pub(crate) fn take<'a>(
        &'a self,
        org: &'a OrgName,
        generation: u64,
        components: &[Component],
    ) -> (Vec<Arc<Standing>>, Retirement<'a>) {
        // THREAT[T-supply-revoked]: every snapshot that has the version shares its standing, those of turns that run as well.
        let mut orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        let own = orgs.entry(org.clone()).or_default();
        let newest = generation >= own.generation;
        let mut retiring = Vec::new();
        own.versions.retain(|_, standing| standing.strong_count() > 0);
        if newest {
            own.generation = generation;
            for ((name, digest), standing) in &own.versions {
                let Some(standing) = standing.upgrade() else { continue };
                match components.iter().find(|component| component.name == *name) {
                    Some(component) if component.digest == *digest => {}
                    // It goes on as it was decided about last.
                    Some(_) => retiring.push((standing, Gone::Replaced)),
                    None => {
                        standing.set(Decided::Removed);
                        retiring.push((standing, Gone::Removed));
                    }
                }
            }
        }
        let standing_of = |component: &Component| {
            let key = (component.name.clone(), component.digest);
            match own.versions.get(&key).and_then(Weak::upgrade) {
                Some(standing) => {
                    if newest {
                        standing.set(component.into());
                        standing.in_use.revive();
                    }
                    standing
                }
                None => {
                    let now = if newest { component.into() } else { Decided::Removed };
                    let standing = Standing::new(component, now);
                    own.versions.insert(key, Arc::downgrade(&standing));
                    standing
                }
            }
        };
        let standings = components.iter().map(standing_of).collect();
        let retirement = Retirement {
            standings: self,
            org,
            generation,
            retiring,
        };
        (standings, retirement)
    }
}

/// Versions that go out of use when it is dropped, unless something newer was taken meanwhile: that decides about them then.
#[must_use = "the versions go out of use when it is dropped"]
pub(crate) struct Retirement<'a> {
    standings: &'a Standings,
    org: &'a OrgName,
    generation: u64,
    retiring: Vec<(Arc<Standing>, Gone)>,
}

impl Drop for Retirement<'_> {
    fn drop(&mut self) {
        let orgs = self.standings.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        if orgs.get(self.org).is_some_and(|own| own.generation == self.generation) {
            for (standing, gone) in self.retiring.drain(..) {
                standing.retire(self.standings.drain, gone);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::{ChangeState, Changes, Operation};
    use fumehood_core::call::Metering;

    fn component(code: &[u8], granted: bool) -> Component {
        let name: ComponentName = "github".parse().unwrap();
        Component {
            org: OrgName::default_org(),
            digest: Digest::of(code),
            manifest: Manifest::without_requests(name.clone()),
            name,
            tools: Vec::new(),
            grant: granted.then(Grant::none),
            added: now(),
        }
    }

    fn standings() -> Standings {
        Standings::new(Span::from_secs(30))
    }

    /// What a refresh does, whose snapshot is there at once.
    fn take(standings: &Standings, org: &OrgName, generation: u64, components: &[Component]) -> Vec<Arc<Standing>> {
        standings.take(org, generation, components).0
    }

    fn may(standing: &Standing) -> bool {
        standing.granted(&"fetch".parse().unwrap()).is_ok()
    }

    #[test]
    fn a_version_in_use_has_the_grant_there_is_now() {
        let (standings, org) = (standings(), OrgName::default_org());
        let held = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        assert!(may(&held));
        take(&standings, &org, 2, &[component(b"1", false)]);
        assert!(!may(&held), "withheld");
        take(&standings, &org, 3, &[component(b"1", true)]);
        assert!(may(&held), "granted again");
        let newer = take(&standings, &org, 4, &[component(b"2", false)]).remove(0);
        assert!(
            may(&held) && !may(&newer),
            "another version decides nothing about this one"
        );
        take(&standings, &org, 5, &[]);
        assert!(!may(&held) && !may(&newer), "removed");
    }

    #[test]
    fn what_was_read_before_a_change_was_taken_undoes_nothing() {
        let (standings, org) = (standings(), OrgName::default_org());
        let held = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        take(&standings, &org, 3, &[component(b"1", false)]);
        let late = take(&standings, &org, 2, &[component(b"1", true)]).remove(0);
        assert!(!may(&held) && !may(&late));
    }

    /// A change by which `before` goes out of use.
    fn change(changes: &Changes, operation: Operation, before: &[u8]) -> Change {
        let pending = changes.begin(&OrgName::default_org(), operation, None);
        pending.applied(&"github".parse().unwrap(), None, Some(Digest::of(before)))
    }

    fn report(error: CallError) -> CallReport {
        CallReport {
            result: Err(error),
            metering: Metering::default(),
            stdout: String::new(),
            stderr: String::new(),
            denials: Vec::new(),
            dropped_reports: 0,
            instantiated: None,
        }
    }

    #[test]
    fn a_version_that_is_replaced_drains_until_its_last_call_has_ended() {
        let (standings, org, changes) = (standings(), OrgName::default_org(), Changes::default());
        let old = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let (one, two) = (old.begin(), old.begin());
        let new = take(&standings, &org, 2, &[component(b"2", true)]).remove(0);
        let change = change(&changes, Operation::Update, b"1");
        old.tell(&change);
        let on_the_new = new.begin();
        let seen = |change: &Change| (change.now().state, change.now().calls);
        assert_eq!(seen(&change), (ChangeState::Draining, 2));
        assert!(change.now().until.is_some());
        drop(one);
        assert_eq!(seen(&change), (ChangeState::Draining, 1));
        let failed = CallError::new(CallErrorCode::Timeout, "took too long by itself");
        two.ended(&report(failed));
        assert_eq!(seen(&change), (ChangeState::Applied, 0));
        // The step that was under way may still call the version it began with.
        let late = old.begin();
        assert_eq!(seen(&change), (ChangeState::Draining, 1));
        drop((late, on_the_new));
        assert_eq!(seen(&change), (ChangeState::Applied, 0));
    }

    #[test]
    fn a_change_is_forced_when_a_call_was_interrupted() {
        let (standings, org, changes) = (standings(), OrgName::default_org(), Changes::default());
        let old = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let (one, two) = (old.begin(), old.begin());
        take(&standings, &org, 2, &[]);
        let change = change(&changes, Operation::Remove, b"1");
        old.tell(&change);
        let set_by = SetBy::Drain {
            component: "github".parse().unwrap(),
            gone: Gone::Removed,
        };
        let passed = Deadline::after(Instant::now(), Span::from_secs(0), set_by);
        one.ended(&report(passed.error()));
        assert_eq!(change.now().state, ChangeState::Forced);
        drop(two);
        let now = change.now();
        assert_eq!((now.state, now.calls, now.interrupted), (ChangeState::Forced, 0, 1));
    }

    #[test]
    fn the_same_code_installed_again_ends_the_drain() {
        let (standings, org, changes) = (standings(), OrgName::default_org(), Changes::default());
        let version = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let running = version.begin();
        take(&standings, &org, 2, &[]);
        let change = change(&changes, Operation::Remove, b"1");
        version.tell(&change);
        assert!(!may(&version));
        let again = take(&standings, &org, 3, &[component(b"1", true)]).remove(0);
        assert!(Arc::ptr_eq(&version, &again) && may(&version));
        assert_eq!((change.now().state, change.now().calls), (ChangeState::Applied, 0));
        drop(running);
        assert_eq!(change.now().state, ChangeState::Applied);
    }

    #[test]
    fn a_version_is_not_interrupted_before_another_can_be_found_but_may_do_nothing_more_once_it_is_removed() {
        let (standings, org, changes) = (standings(), OrgName::default_org(), Changes::default());
        let old = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let running = old.begin();
        let (_, retirement) = standings.take(&org, 2, &[]);
        let change = change(&changes, Operation::Remove, b"1");
        old.tell(&change);
        assert!(!may(&old));
        assert_eq!(change.now().state, ChangeState::Applied);
        drop(retirement);
        assert_eq!((change.now().state, change.now().calls), (ChangeState::Draining, 1));
        drop(running);
    }

    #[test]
    fn a_version_that_is_back_before_it_went_out_of_use_does_not_drain() {
        let (standings, org, changes) = (standings(), OrgName::default_org(), Changes::default());
        let version = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let running = version.begin();
        let (_, retirement) = standings.take(&org, 2, &[]);
        take(&standings, &org, 3, &[component(b"1", true)]);
        drop(retirement);
        let change = change(&changes, Operation::Remove, b"1");
        version.tell(&change);
        assert!(may(&version));
        assert_eq!((change.now().state, change.now().calls), (ChangeState::Applied, 0));
        drop(running);
    }

    #[test]
    fn other_code_of_the_same_name_leaves_a_removed_version_to_its_drain() {
        let (standings, org, changes) = (standings(), OrgName::default_org(), Changes::default());
        let old = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let running = old.begin();
        take(&standings, &org, 2, &[]);
        let change = change(&changes, Operation::Remove, b"1");
        old.tell(&change);
        let until = change.now().until;
        take(&standings, &org, 3, &[component(b"2", true)]);
        assert!(!may(&old), "removed is removed");
        assert_eq!((change.now().state, change.now().until), (ChangeState::Draining, until));
        drop(running);
    }

    #[test]
    fn what_one_org_removes_another_keeps() {
        let (standings, org, changes) = (standings(), OrgName::default_org(), Changes::default());
        let other: OrgName = "other".parse().unwrap();
        let own = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let theirs = take(&standings, &other, 2, &[component(b"1", true)]).remove(0);
        let (_one, _two) = (own.begin(), theirs.begin());
        take(&standings, &org, 3, &[]);
        let change = change(&changes, Operation::Remove, b"1");
        theirs.tell(&change);
        assert_eq!(change.now().state, ChangeState::Applied, "theirs does not drain");
        assert!(may(&theirs) && !may(&own));
    }

    #[test]
    fn a_version_that_nobody_uses_is_forgotten() {
        let (standings, org) = (standings(), OrgName::default_org());
        let old = take(&standings, &org, 1, &[component(b"1", true)]).remove(0);
        let running = old.begin();
        drop(old);
        take(&standings, &org, 2, &[]);
        let found = || standings.version(&org, &"github".parse().unwrap(), Digest::of(b"1"));
        assert!(found().is_some(), "a call runs on it");
        drop(running);
        assert!(found().is_none());
        take(&standings, &org, 3, &[]);
        assert!(standings.orgs.lock().unwrap()[&org].versions.is_empty());
    }
}
