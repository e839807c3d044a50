//! Fires schedules when their time has come: one task of the host's, which sleeps until the next one is due, and a few firings at a
//! time.
//!
//! One that waits for its session (a fork, an undo, a deletion) keeps those of other sessions waiting as little as those of other orgs.
//! In one session they fire in the order of their times.

use super::super::{Host, HostError};
use fumehood_core::{
    Time,
    id::{ScheduleId, SessionId},
    name::OrgName,
    now,
};
use fumehood_policy::schedule::due;
use fumehood_store::schedules::{Aimed, Cause, Firing, Schedule, State};
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};
use tokio::task::{Id, JoinError, JoinSet};

/// Firings at the same time.
const AT_ONCE: usize = 32;
/// Of one org.
const OF_ONE_ORG: usize = 4;
/// Schedules that are looked at together.
const PAGE: u32 = 100;
/// The longest sleep: the clock of the wall may be set, and does not stop when the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How long to leave alone what could not be read or fired.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
/// The longest that those are left alone that are due, between one look at them and the next because a firing has ended.
const LONGEST_BREATH: Duration = Duration::from_secs(1);
/// A clock that differs by less was not set.
const SLACK: Duration = Duration::from_secs(5);
/// Times that were decided about, and that a clock that went back comes to again.
const MOST_DECIDED: usize = 1000;

/// The clock of the wall and one that can't be set, at the same moment.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    wall: Time,
    steady: Instant,
}

impl Clocks {
    fn now() -> Self {
        Self {
            wall: now(),
            steady: Instant::now(),
        }
    }

    /// Whether the clock of the wall was set back between two moments.
    fn went_back(self, later: Self) -> bool {
        let passed = later.steady.saturating_duration_since(self.steady);
        let shown = (later.wall - self.wall).to_std().unwrap_or_default();
        later.wall < self.wall || shown + SLACK < passed
    }
}

/// A schedule that fires just now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fires {
    schedule: ScheduleId,
    org: OrgName,
    session: Option<SessionId>,
}

/// The firings under way: of a schedule one at most, and so of a session.
#[derive(Default)]
struct UnderWay {
    fires: HashMap<Id, Fires>,
    tasks: JoinSet<Fired>,
    /// Those that could not be fired, until when they are left alone.
    rest: HashMap<ScheduleId, Instant>,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fired {
    Well,
    Badly,
}

impl UnderWay {
    fn is_full(&self) -> bool {
        self.fires.len() >= AT_ONCE
    }

    // THREAT[T-org-starve]: one that can't be fired keeps none of the others.
    fn has_room_for(&self, one: &Fires) -> bool {
        let of_org = self.fires.values().filter(|other| other.org == one.org).count();
        let in_its_way =
            |other: &Fires| other.schedule == one.schedule || (one.session.is_some() && other.session == one.session);
        !self.is_full() && of_org < OF_ONE_ORG && !self.fires.values().any(in_its_way)
    }

    /// Whether it could not be fired a moment ago. Nothing of others waits for it.
    fn rests(&mut self, schedule: ScheduleId) -> bool {
        let time = Instant::now();
        self.rest.retain(|_, until| *until > time);
        self.rest.contains_key(&schedule)
    }

    /// Leaves one alone for a while. False if that is so already.
    fn lay_to_rest(&mut self, schedule: ScheduleId) -> bool {
        let rested = self.rests(schedule);
        if !rested {
            self.rest.insert(schedule, Instant::now() + AFTER_FAILURE);
        }
        !rested
    }

    fn longest_sleep(&self) -> Duration {
        match self.rest.is_empty() {
            true => LONGEST_SLEEP,
            false => AFTER_FAILURE,
        }
    }

    fn begin(&mut self, one: Fires, work: impl Future<Output = Fired> + Send + 'static) {
        let task = self.tasks.spawn(work).id();
        self.fires.insert(task, one);
    }

    /// The same, not before this has passed.
    async fn ended_after(&mut self, breath: Duration) {
        tokio::time::sleep(breath).await;
        self.ended().await;
    }

    /// Waits until one has ended, and takes the others that have as well. Never, where there is none. Cancel-safe.
    async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(joined) => self.is_over(joined),
            None => std::future::pending().await,
        }
        self.take_ended();
    }

    /// Takes those that have ended by now.
    fn take_ended(&mut self) {
        while let Some(joined) = self.tasks.try_join_next_with_id() {
            self.is_over(joined);
        }
    }

    fn is_over(&mut self, joined: Result<(Id, Fired), JoinError>) {
        let (task, fired) = joined.unwrap_or_else(|error| {
            tracing::error!(%error, "firing a schedule broke");
            (error.id(), Fired::Badly)
        });
        if let Some(one) = self.fires.remove(&task)
            && fired == Fired::Badly
        {
            self.rest.insert(one.schedule, Instant::now() + AFTER_FAILURE);
        }
    }
}

impl Host {
    /// Runs for as long as the host does.
    pub(in crate::host) async fn fire_schedules(&self) {
        // The clock may have been set while no host was there.
        let mut anew = true;
        // What was begun is done to its end by the host.
        let mut under_way = UnderWay::default();
        loop {
            let looked = Clocks::now();
            if anew && let Err(error) = self.plan_anew(looked.wall).await {
                tracing::error!(%error, "schedules can't be planned anew by the clock");
            }
            under_way.take_ended();
            let sleep = match self.start_due_schedules(&mut under_way, looked.wall).await {
                Ok(sleep) => sleep,
                Err(error) => {
                    tracing::error!(%error, "schedules can't be read");
                    AFTER_FAILURE
                }
            };
            // A look reads all that are due: no more than half of the time is spent on looking because a firing has ended.
            let breath = looked.steady.elapsed().min(LONGEST_BREATH);
            tokio::select! {
                () = self.inner.draining.cancelled() => return,
                // One was made or changed, perhaps for sooner than those that are known.
                () = self.inner.schedules.changed.notified() => {}
                // That makes room, and it may be due once more.
                () = under_way.ended_after(breath) => {}
                () = tokio::time::sleep(sleep) => {}
            }
            anew = looked.went_back(Clocks::now());
        }
    }

    /// Begins to fire those that are due, as far as there is room, and says when the next one is.
    async fn start_due_schedules(&self, under_way: &mut UnderWay, time: Time) -> Result<Duration, HostError> {
        let mut after = None;
        // Sessions in which one of an earlier time waits for room.
        let mut waits = HashSet::new();
        while !under_way.is_full() && !self.is_draining() {
            let page = self.store().schedules_planned(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.at, last.id));
            for planned in page {
                if planned.at > time {
                    let left = (planned.at - now()).to_std().unwrap_or_default();
                    return Ok(left.min(under_way.longest_sleep()));
                }
                match planned.schedule {
                    Ok(schedule) => self.start_if_free(under_way, &mut waits, (schedule, planned.at), time),
                    Err(error) if under_way.lay_to_rest(planned.id) => {
                        tracing::error!(schedule = %planned.id, %error, "a schedule that is due can't be read; it is tried again later");
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(under_way.longest_sleep())
    }

    fn start_if_free(
        &self,
        under_way: &mut UnderWay,
        waits: &mut HashSet<SessionId>,
        (schedule, at): (Schedule, Time),
        time: Time,
    ) {
        let fires = Fires {
            schedule: schedule.id,
            org: schedule.org.clone(),
            session: schedule.plan.place.session(),
        };
        if under_way.rests(schedule.id) {
            return;
        }
        let comes_later = fires.session.is_some_and(|session| waits.contains(&session));
        if comes_later || !under_way.has_room_for(&fires) {
            waits.extend(fires.session);
            return;
        }
        let (host, id) = (self.clone(), schedule.id);
        under_way.begin(fires, async move {
            let firing = host.clone();
            let fired = host.to_the_end(async move { firing.fire_planned(schedule, at, time).await });
            match fired.await {
                Ok(()) => Fired::Well,
                Err(error) => {
                    tracing::error!(schedule = %id, %error, "a schedule that is due can't be fired; it is tried again soon");
                    Fired::Badly
                }
            }
        });
    }

    /// Once, for the time for which it is planned and what is due with it.
    async fn fire_planned(&self, schedule: Schedule, at: Time, time: Time) -> Result<(), HostError> {
        let due = due(&schedule.plan.when, at, time, schedule.plan.misfire);
        let firing = Firing {
            schedule,
            cause: Cause::Due,
            fire: None,
            makes_up: due.made_up,
            passed: due.passed,
            state: State::until(due.next),
        };
        // One that somebody changed meanwhile is looked at as it is then.
        self.fire_at(firing, due.fire).await.map(drop)
    }

    /// Brings those nearer whose next time lies further ahead than it should: the clock showed a later time when they were planned.
    async fn plan_anew(&self, time: Time) -> Result<(), HostError> {
        let mut after = None;
        loop {
            let page = self.store().schedules_planned(after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some((last.at, last.id));
            // Those that are due are not too far ahead.
            for planned in page.into_iter().filter(|planned| planned.at > time) {
                match planned.schedule {
                    Ok(schedule) => self.bring_nearer(&schedule, planned.at, time).await?,
                    Err(error) => tracing::error!(schedule = %planned.id, %error, "a schedule can't be read"),
                }
            }
        }
    }

    /// To the first time that nothing was decided about.
    // THREAT[T-sched-twice]
    async fn bring_nearer(&self, schedule: &Schedule, planned: Time, time: Time) -> Result<(), HostError> {
        let mut next = schedule.plan.when.next(time);
        for _ in 0..MOST_DECIDED {
            let Some(sooner) = next.filter(|next| *next < planned) else {
                return Ok(());
            };
            match self.store().aim_schedule(schedule, sooner).await? {
                Aimed::Decided => next = schedule.plan.when.next(sooner),
                Aimed::Done => {
                    tracing::warn!(schedule = %schedule.id, "the clock went back: a schedule fires sooner than it was planned to");
                    return Ok(());
                }
                Aimed::Stale => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::Time;

    fn fires(org: &str, session: Option<SessionId>) -> Fires {
        Fires {
            schedule: ScheduleId::new(),
            org: OrgName::new(org).unwrap(),
            session,
        }
    }

    #[tokio::test]
    async fn what_waits_for_its_session_keeps_others_of_that_session_and_more_of_its_org_than_it_may_have() {
        let mut under_way = UnderWay::default();
        let session = Some(SessionId::new());
        let first = fires("one", session);
        under_way.begin(first.clone(), std::future::pending());
        assert!(!under_way.has_room_for(&first), "it fires already");
        assert!(!under_way.has_room_for(&fires("one", session)), "in its session");
        for _ in 1..OF_ONE_ORG {
            let another = fires("one", Some(SessionId::new()));
            assert!(under_way.has_room_for(&another));
            under_way.begin(another, std::future::pending());
        }
        assert!(!under_way.has_room_for(&fires("one", None)), "of its org");
        let other = fires("other", None);
        assert!(under_way.has_room_for(&other));
        under_way.begin(other.clone(), async { Fired::Well });
        under_way.ended().await;
        assert!(under_way.has_room_for(&other), "it ended");
        assert!(!under_way.rests(other.schedule));
        under_way.begin(other.clone(), async { Fired::Badly });
        under_way.ended().await;
        assert!(under_way.rests(other.schedule), "it could not be fired");
        assert!(under_way.has_room_for(&fires("other", None)));
    }

    #[tokio::test]
    async fn what_can_not_be_read_is_told_once_and_left_alone_then() {
        let mut under_way = UnderWay::default();
        let unreadable = ScheduleId::new();
        assert!(under_way.lay_to_rest(unreadable));
        assert!(!under_way.lay_to_rest(unreadable) && under_way.rests(unreadable));
        assert_eq!(under_way.longest_sleep(), AFTER_FAILURE);
    }

    #[tokio::test]
    async fn firings_that_end_together_are_one_reason_to_look() {
        let mut under_way = UnderWay::default();
        for _ in 0..10 {
            under_way.begin(fires("one", Some(SessionId::new())), async { Fired::Well });
        }
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        under_way.ended().await;
        assert!(under_way.fires.is_empty(), "{:?}", under_way.fires);
    }

    #[test]
    fn a_clock_that_goes_back_is_noticed_and_one_that_goes_ahead_is_not_one() {
        let begun = Instant::now();
        let at = |wall: i64, steady: u64| Clocks {
            wall: Time::from_timestamp(1_000_000 + wall, 0).unwrap(),
            steady: begun + Duration::from_secs(steady),
        };
        let start = at(0, 0);
        for (wall, steady, back) in [
            (60, 60, false),
            (58, 60, false),
            (3600, 60, false),
            (-1, 60, true),
            (20, 60, true),
            (-3600, 0, true),
        ] {
            assert_eq!(start.went_back(at(wall, steady)), back, "{wall} {steady}");
        }
    }
}
