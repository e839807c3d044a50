//! Turns that wait until something of their org's budgets is held no more. What one org lets go of wakes nobody of another.

use fumehood_core::name::OrgName;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, futures::Notified};

/// Those who wait, by org. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    orgs: Arc<Mutex<HashMap<OrgName, Line>>>,
}

#[derive(Debug, Default)]
struct Line {
    freed: Arc<Notify>,
    waiters: usize,
}

/// One who waits.
#[derive(Debug)]
pub(crate) struct Waiter {
    all: Waiting,
    org: OrgName,
    freed: Arc<Notify>,
}

impl Waiting {
    /// One more who waits for what others of the org hold.
    pub(crate) fn join(&self, org: &OrgName) -> Waiter {
        let mut orgs = self.orgs();
        let line = orgs.entry(org.clone()).or_default();
        line.waiters += 1;
        Waiter {
            all: self.clone(),
            org: org.clone(),
            freed: Arc::clone(&line.freed),
        }
    }

    /// Tells those of the org that something is held no more.
    // THREAT[T-org-starve]: those of other orgs have nothing to look for.
    pub(crate) fn let_go(&self, org: &OrgName) {
        if let Some(line) = self.orgs().get(org) {
            line.freed.notify_waiters();
        }
    }

    fn orgs(&self) -> MutexGuard<'_, HashMap<OrgName, Line>> {
        // Every change leaves it consistent.
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter {
    /// Waits until something is held no more, from when it is first polled or enabled.
    pub(crate) fn something_let_go(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut orgs = self.all.orgs();
        if let Some(line) = orgs.get_mut(&self.org) {
            line.waiters -= 1;
            if line.waiters == 0 {
                orgs.remove(&self.org);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::{Pin, pin},
        task::{Context, Waker},
    };

    fn is_woken(waiting: Pin<&mut Notified<'_>>) -> bool {
        waiting.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn what_an_org_lets_go_of_wakes_all_of_its_own_and_nobody_else() {
        let waiting = Waiting::default();
        let [acme, rival] = ["acme", "rival"].map(|name| OrgName::new(name).unwrap());
        let [first, second, other] = [&acme, &acme, &rival].map(|org| waiting.join(org));
        let (mut mine, mut too) = (pin!(first.something_let_go()), pin!(second.something_let_go()));
        let mut theirs = pin!(other.something_let_go());
        for one in [&mut mine, &mut too, &mut theirs] {
            one.as_mut().enable();
        }
        waiting.let_go(&acme);
        assert!(is_woken(mine) && is_woken(too));
        assert!(!is_woken(theirs));
    }

    #[test]
    fn nothing_is_kept_of_an_org_that_nobody_waits_for() {
        let waiting = Waiting::default();
        let org = OrgName::new("acme").unwrap();
        let waiters = [waiting.join(&org), waiting.join(&org)];
        assert_eq!(waiting.orgs().len(), 1);
        drop(waiters);
        assert!(waiting.orgs().is_empty());
        waiting.let_go(&org);
        assert!(waiting.orgs().is_empty());
    }
}
