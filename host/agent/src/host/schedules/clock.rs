//! Fires schedules when their time has come: one task of the host's, which sleeps until the next one is due.

use super::super::{Host, HostError};
use fumehood_core::{Time, now};
use fumehood_policy::schedule::due;
use fumehood_store::schedules::{Aimed, Cause, Fired, Firing, PlannedAt, Schedule, State};
use std::time::{Duration, Instant};

/// Schedules that are looked at together.
const PAGE: u32 = 100;
/// The longest sleep: the clock of the wall may be set, and does not stop when the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How long to leave alone what could not be read or fired.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
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

/// What was found when schedules were looked at.
#[derive(Debug, Clone, Copy)]
struct Looked {
    /// One that was fired is due once more.
    is_due_again: bool,
    /// How long nothing is due.
    sleep: Duration,
}

impl Host {
    /// Runs for as long as the host does.
    pub(in crate::host) async fn fire_schedules(&self) {
        // The clock may have been set while no host was there.
        let mut anew = true;
        loop {
            let looked = Clocks::now();
            if anew && let Err(error) = self.plan_anew(looked.wall).await {
                tracing::error!(%error, "schedules can't be planned anew by the clock");
            }
            let sleep = self.fire_due_schedules(looked.wall).await;
            tokio::select! {
                () = self.inner.draining.cancelled() => return,
                // One was made or changed, perhaps for sooner than those that are known.
                () = self.inner.schedules.changed.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
            anew = looked.went_back(Clocks::now());
        }
    }

    /// Fires those that are due, and says when to look again.
    async fn fire_due_schedules(&self, time: Time) -> Duration {
        loop {
            match self.fire_each_due(time).await {
                Ok(Looked { is_due_again: true, .. }) if !self.is_draining() => {}
                Ok(Looked { sleep, .. }) => return sleep,
                Err(error) => {
                    tracing::error!(%error, "schedules can't be read");
                    return AFTER_FAILURE;
                }
            }
        }
    }

    /// Fires each that is due once.
    async fn fire_each_due(&self, time: Time) -> Result<Looked, HostError> {
        let mut looked = Looked {
            is_due_again: false,
            sleep: LONGEST_SLEEP,
        };
        let mut after = None;
        loop {
            let page = self.store().schedules_planned(after, PAGE).await?;
            if page.is_empty() {
                return Ok(looked);
            }
            for planned in page {
                if planned.at > time {
                    let left = (planned.at - now()).to_std().unwrap_or_default();
                    looked.sleep = looked.sleep.min(left);
                    return Ok(looked);
                }
                if self.is_draining() {
                    return Ok(looked);
                }
                let next = (planned.at, planned.id);
                // THREAT[T-org-starve]: one that can't be fired keeps none of the others.
                match self.fire_planned(planned, time).await {
                    Ok(again) => looked.is_due_again |= again,
                    Err(error) => {
                        tracing::error!(schedule = %next.1, %error, "a schedule that is due can't be fired; it is tried again soon");
                        looked.sleep = AFTER_FAILURE;
                    }
                }
                after = Some(next);
            }
        }
    }

    /// Whether it is due once more.
    async fn fire_planned(&self, planned: PlannedAt, time: Time) -> Result<bool, HostError> {
        let schedule = planned.schedule?;
        let due = due(&schedule.plan.when, planned.at, time, schedule.plan.misfire);
        let firing = Firing {
            schedule,
            cause: Cause::Due,
            fire: None,
            makes_up: due.made_up,
            passed: due.passed,
            state: State::until(due.next),
        };
        let fired = self.fire_at(firing, due.fire).await?;
        // One that somebody changed meanwhile is looked at as it is now.
        Ok(fired == Fired::Stale || due.next.is_some_and(|next| next <= time))
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
