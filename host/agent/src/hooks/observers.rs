//! Hooks that are told, and never waited for.
//!
//! Each hook of each org has a line of its own: so many wait, so many are told at the same time, and what there is no room for is
//! dropped. A hook that is slow, and an org with much to tell, keep nobody else's from being told. What all lines hold is bounded, too.

use super::{Asker, Journal, Occasion, Whose};
use crate::telemetry;
use fumehood_core::{
    event::EventBody,
    name::{HookName, OrgName},
};
use fumehood_policy::hook::HookSpec;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Of one hook, so many wait to be told.
const WAITING: usize = 64;
/// Of all hooks of one org. With what one is shown at most, 16 MiB.
const WAITING_OF_ORG: usize = 256;
/// Of all orgs, 128 MiB. One org has no more of them than are left for others.
const WAITING_IN_ALL: usize = 2048;
/// Room that each org has, whatever others have waiting.
const ALWAYS_OF_ORG: usize = 8;
/// Of one hook, so many are told at the same time.
const AT_ONCE: usize = 4;
/// A session's journal hears once in this time that a hook can't be told.
const QUIET: Duration = Duration::from_secs(300);

/// Something to tell one hook.
pub(super) struct Told {
    pub(super) whose: Whose,
    pub(super) hook: HookSpec,
    pub(super) occasion: Arc<Occasion>,
}

/// Tells the hooks that observe.
pub(super) struct Observers {
    asker: Arc<Asker>,
    journal: Journal,
    lines: Mutex<Lines>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

impl Observers {
    /// What it tells is work of the host's, and ends when that closes.
    pub(super) fn new(
        asker: Arc<Asker>,
        journal: Journal,
        (tasks, closing): (&TaskTracker, &CancellationToken),
    ) -> Arc<Self> {
        Arc::new(Self {
            asker,
            journal,
            lines: Mutex::default(),
            tasks: tasks.clone(),
            closing: closing.clone(),
        })
    }

    /// Tells a hook, now or when it is its turn, unless there is no room.
    // THREAT[T-hook-flood]
    pub(super) fn tell(self: &Arc<Self>, told: Told) {
        let (org, hook) = (told.whose.org.clone(), told.hook.name.clone());
        let entered = self.lines().enter(&org, &hook, told);
        match entered {
            Entered::Now(told) => {
                let place = Place {
                    observers: Arc::clone(self),
                    org,
                    hook,
                    left: false,
                };
                let work = place.work(told);
                let closing = self.closing.clone();
                self.tasks
                    .spawn(async move { closing.run_until_cancelled_owned(work).await });
            }
            Entered::Waits => {}
            Entered::NoRoom => telemetry::hook_not_told(&org, &hook),
        }
    }

    async fn tell_one(&self, told: Told) {
        let Told { whose, hook, occasion } = told;
        // What an observer answers changes nothing.
        let Err(failure) = self.asker.ask(&whose, &hook, &occasion).await else {
            return;
        };
        let caller = &self.asker.caller;
        let until = Instant::now() + QUIET;
        // Each counts; a journal is not to be filled by it.
        if !caller
            .limits()
            .is_news_of_hook(&whose.org, whose.session, &hook.name, until)
        {
            return;
        }
        let failed = EventBody::HookFailed {
            hook: hook.name.clone(),
            point: occasion.point,
            mode: hook.mode,
            call: occasion.call,
            failure: failure.kind,
            message: failure.message,
        };
        match caller.secrets().of(&whose.org, Some(whose.session)).await {
            Ok(secrets) => self.journal.record(&whose, secrets.guard(), vec![failed]).await,
            Err(error) => tracing::error!(%error, "the secrets in use can't be read"),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines<Told>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those that are told at the same time; given up in any case, also when the telling breaks.
struct Place {
    observers: Arc<Observers>,
    org: OrgName,
    hook: HookName,
    left: bool,
}

impl Place {
    /// Tells this, and what waits after it.
    async fn work(mut self, first: Told) {
        let mut next = Some(first);
        while let Some(told) = next {
            self.observers.tell_one(told).await;
            next = self.observers.lines().next(&self.org, &self.hook);
        }
        self.left = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.left {
            self.observers.lines().leave(&self.org, &self.hook);
        }
    }
}

/// What waits to be told, by org and hook.
struct Lines<T = Told> {
    orgs: HashMap<OrgName, OfOrg<T>>,
    waiting: usize,
}

struct OfOrg<T> {
    hooks: HashMap<HookName, Line<T>>,
    waiting: usize,
}

struct Line<T> {
    waiting: VecDeque<T>,
    at_work: usize,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self {
            orgs: HashMap::new(),
            waiting: 0,
        }
    }
}

impl<T> Default for OfOrg<T> {
    fn default() -> Self {
        Self {
            hooks: HashMap::new(),
            waiting: 0,
        }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            at_work: 0,
        }
    }
}

/// What becomes of something to tell.
enum Entered<T> {
    /// It is told now. Whoever does asks for the next one then, or leaves.
    Now(T),
    /// It waits.
    Waits,
    /// It is dropped.
    NoRoom,
}

impl<T> Lines<T> {
    fn enter(&mut self, org: &OrgName, hook: &HookName, told: T) -> Entered<T> {
        let of_org = self.orgs.entry(org.clone()).or_default();
        let line = of_org.hooks.entry(hook.clone()).or_default();
        if line.at_work < AT_ONCE {
            line.at_work += 1;
            return Entered::Now(told);
        }
        let free = WAITING_IN_ALL.saturating_sub(self.waiting);
        let room = WAITING_OF_ORG.min(free).max(ALWAYS_OF_ORG);
        if line.waiting.len() >= WAITING || of_org.waiting >= room {
            return Entered::NoRoom;
        }
        line.waiting.push_back(told);
        of_org.waiting += 1;
        self.waiting += 1;
        Entered::Waits
    }

    /// The next of a line, for one who has told another; where there is none, that one has left.
    fn next(&mut self, org: &OrgName, hook: &HookName) -> Option<T> {
        let of_org = self.orgs.get_mut(org)?;
        let next = of_org.hooks.get_mut(hook)?.waiting.pop_front();
        if next.is_some() {
            of_org.waiting -= 1;
            self.waiting -= 1;
        } else {
            self.leave(org, hook);
        }
        next
    }

    fn leave(&mut self, org: &OrgName, hook: &HookName) {
        let Some(of_org) = self.orgs.get_mut(org) else { return };
        if let Some(line) = of_org.hooks.get_mut(hook) {
            line.at_work = line.at_work.saturating_sub(1);
            if line.at_work == 0 && line.waiting.is_empty() {
                of_org.hooks.remove(hook);
            }
        }
        if of_org.hooks.is_empty() {
            self.orgs.remove(org);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(name: &str) -> OrgName {
        name.parse().unwrap()
    }

    fn hook(name: &str) -> HookName {
        name.parse().unwrap()
    }

    /// Enters so many; how many are told now, wait, and are dropped.
    fn enter(lines: &mut Lines<u32>, org: &OrgName, hook: &HookName, count: usize) -> (usize, usize, usize) {
        let (mut now, mut waits, mut dropped) = (0, 0, 0);
        for _ in 0..count {
            match lines.enter(org, hook, 0) {
                Entered::Now(_) => now += 1,
                Entered::Waits => waits += 1,
                Entered::NoRoom => dropped += 1,
            }
        }
        (now, waits, dropped)
    }

    #[test]
    fn a_hook_that_is_slow_has_a_line_of_its_own() {
        let mut lines = Lines::default();
        let (org, slow) = (org("default"), hook("slow"));
        assert_eq!(
            enter(&mut lines, &org, &slow, 100),
            (AT_ONCE, WAITING, 100 - AT_ONCE - WAITING)
        );
        assert_eq!(enter(&mut lines, &org, &hook("quick"), 1), (1, 0, 0));
        // One is told, and another comes in its place.
        assert_eq!(lines.next(&org, &slow), Some(0));
        assert_eq!(enter(&mut lines, &org, &slow, 2), (0, 1, 1));
    }

    #[test]
    fn an_org_has_only_so_much_waiting_and_leaves_room_to_others() {
        let mut lines = Lines::default();
        let fill = |lines: &mut Lines<u32>, name: String| {
            let hooks = (0..8).map(|n| enter(lines, &org(&name), &hook(&format!("h{n}")), AT_ONCE + WAITING).1);
            hooks.sum::<usize>()
        };
        assert_eq!(fill(&mut lines, "first".into()), WAITING_OF_ORG);
        for n in 0..50 {
            assert!(fill(&mut lines, format!("org{n}")) >= ALWAYS_OF_ORG, "org{n}");
        }
        assert!(lines.waiting <= WAITING_IN_ALL + 51 * ALWAYS_OF_ORG);
    }

    #[test]
    fn a_line_in_which_nobody_is_left_is_forgotten() {
        let mut lines = Lines::default();
        let (org, hook) = (org("default"), hook("audit"));
        enter(&mut lines, &org, &hook, AT_ONCE + 1);
        assert_eq!(lines.next(&org, &hook), Some(0));
        for _ in 1..AT_ONCE {
            assert_eq!(lines.next(&org, &hook), None);
        }
        assert_eq!(enter(&mut lines, &org, &hook, 1), (1, 0, 0), "there was a place");
        // One that broke, and the last.
        lines.leave(&org, &hook);
        assert_eq!(lines.next(&org, &hook), None);
        assert!(lines.orgs.is_empty() && lines.waiting == 0);
    }
}
