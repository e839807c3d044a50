//! The time and the chance of a test that sets them: the same in each run.

use anyhow::anyhow;
use fumehood_core::Time;
use fumehood_sandbox::ports::Ambient;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How far the clocks go from one look at either to the next: for a program they never stand still.
const STEP: u64 = 1_000_000;

/// What a test's call takes for the time and for chance.
#[derive(Debug)]
pub(super) struct Staged {
    clock: Clock,
    seed: [u8; 32],
    /// What the call has, in milliseconds.
    time_ms: u64,
}

#[derive(Debug)]
enum Clock {
    /// The system's, since then.
    System(Instant),
    /// From this time on, a step at each look, and what is waited.
    Stepping {
        from: Duration,
        /// In nanoseconds.
        passed: AtomicU64,
    },
}

impl Staged {
    /// As a test sets them; what it does not set is the system's. None where it sets neither. The call may take `time_ms` at most.
    pub(super) fn new(clock: Option<Time>, seed: Option<u64>, time_ms: u64) -> anyhow::Result<Option<Self>> {
        if clock.is_none() && seed.is_none() {
            return Ok(None);
        }
        let clock = match clock {
            None => Clock::System(Instant::now()),
            Some(time) => Clock::Stepping {
                from: SystemTime::from(time).duration_since(UNIX_EPOCH).unwrap_or_default(),
                passed: AtomicU64::new(0),
            },
        };
        let mut bytes = [0; 32];
        match seed {
            Some(seed) => bytes[..8].copy_from_slice(&seed.to_le_bytes()),
            None => getrandom::fill(&mut bytes).map_err(|_| anyhow!("the system gives no random bytes"))?,
        }
        Ok(Some(Self {
            clock,
            seed: bytes,
            time_ms,
        }))
    }
}

impl Ambient for Staged {
    fn wall_clock(&self) -> Duration {
        match &self.clock {
            Clock::System(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Clock::Stepping { from, passed } => *from + Duration::from_nanos(look(passed)),
        }
    }

    fn monotonic_clock(&self) -> u64 {
        match &self.clock {
            Clock::System(since) => u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Clock::Stepping { passed, .. } => look(passed),
        }
    }

    fn after(&self, wait: Duration) -> Option<u64> {
        match &self.clock {
            Clock::System(_) => None,
            Clock::Stepping { passed, .. } => {
                let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                Some(passed.load(Ordering::Relaxed).saturating_add(wait))
            }
        }
    }

    fn reached(&self, monotonic: u64) {
        if let Clock::Stepping { passed, .. } = &self.clock {
            // What was waited for may be over already, by another wait.
            passed.fetch_max(monotonic, Ordering::Relaxed);
        }
    }

    fn seed(&self) -> [u8; 32] {
        self.seed
    }

    fn deadline_ms(&self, own: u64) -> u64 {
        match &self.clock {
            Clock::System(_) => own,
            Clock::Stepping { from, .. } => {
                let from = u64::try_from(from.as_millis()).unwrap_or(u64::MAX);
                from.saturating_add(self.time_ms)
            }
        }
    }
}

/// How far the clocks are at this look.
fn look(passed: &AtomicU64) -> u64 {
    passed.fetch_add(STEP, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_goes_on_by_the_same_steps_in_each_run() {
        let looks = || {
            let clock = Some("2026-01-02T03:04:05Z".parse().unwrap());
            let staged = Staged::new(clock, None, 10_000).unwrap().unwrap();
            let wall = staged.wall_clock().as_millis();
            (
                wall,
                staged.monotonic_clock(),
                staged.wall_clock().as_millis() - wall,
                staged.deadline_ms(1),
            )
        };
        assert_eq!(looks(), looks());
        assert_eq!(looks(), (1_767_323_045_000, 1_000_000, 2, 1_767_323_055_000));
    }

    #[test]
    fn a_wait_moves_both_clocks_as_far_as_was_waited_and_never_back() {
        let clock = Some("2026-01-02T03:04:05Z".parse().unwrap());
        let staged = Staged::new(clock, None, 10_000).unwrap().unwrap();
        let begun = staged.wall_clock();
        let long = staged.after(Duration::from_secs(2)).unwrap();
        let short = staged.after(Duration::from_secs(1)).unwrap();
        staged.reached(long);
        staged.reached(short);
        assert_eq!(staged.wall_clock() - begun, Duration::from_millis(2001));
        assert_eq!(staged.monotonic_clock(), 2_002_000_000);
        let seeded = Staged::new(None, Some(7), 1).unwrap().unwrap();
        assert_eq!(
            seeded.after(Duration::from_secs(1)),
            None,
            "the system's goes by itself"
        );
    }

    #[test]
    fn what_is_not_set_is_the_systems() {
        let staged = |clock: Option<Time>, seed| Staged::new(clock, seed, 1).unwrap();
        assert!(staged(None, None).is_none());
        let seeded = staged(None, Some(7)).unwrap();
        let since = SystemTime::UNIX_EPOCH + seeded.wall_clock();
        assert!(since <= SystemTime::now() && seeded.deadline_ms(5) == 5);
        assert_eq!(seeded.seed(), staged(None, Some(7)).unwrap().seed());
        assert_ne!(seeded.seed(), staged(None, Some(8)).unwrap().seed());
        let clock: Time = "2026-01-02T03:04:05Z".parse().unwrap();
        let seeds = [staged(Some(clock), None), staged(Some(clock), None)].map(|staged| staged.unwrap().seed());
        assert_ne!(seeds[0], seeds[1]);
    }
}
