//! The time and the chance of a test that sets them: the same in each run.

use anyhow::anyhow;
use fumehood_core::Time;
use fumehood_sandbox::ports::Ambient;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How far the clocks go from one look at either to the next: for a program they never stand still.
const STEP: Duration = Duration::from_millis(1);

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
    /// From this time on, a step at each look.
    Stepping { from: Duration, looks: AtomicU64 },
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
                looks: AtomicU64::new(0),
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
            Clock::Stepping { from, looks } => *from + step(looks),
        }
    }

    fn monotonic_clock(&self) -> u64 {
        let passed = match &self.clock {
            Clock::System(since) => since.elapsed(),
            Clock::Stepping { looks, .. } => step(looks),
        };
        u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
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

/// How far a clock is at this look.
fn step(looks: &AtomicU64) -> Duration {
    let looks = looks.fetch_add(1, Ordering::Relaxed);
    STEP.saturating_mul(u32::try_from(looks).unwrap_or(u32::MAX))
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
