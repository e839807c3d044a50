//! The generic cell rate algorithm, as arithmetic: how much of a rate is used, and whether more fits.
//!
//! This is the continuous-state form (ITU-T I.371, a leaky bucket as a meter): what was taken is a backlog measured in time,
//! which drains as time passes. A whole period's worth fits at once; after that, units fit one by one as the backlog drains. It is
//! equal to keeping a theoretical arrival time, but stays exact in the floating point of the script that runs in a shared store.

use fumehood_policy::quantity::{ByteRate, Rate};
use std::time::Duration;

/// How many units fit in how long. Neither is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    units: u64,
    period: Duration,
}

/// Where a limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The units of the whole quota.
    pub limit: u64,
    /// In how long.
    pub period: Duration,
    /// The units that fit now.
    pub remaining: u64,
    /// How long until the whole quota fits again.
    pub reset: Duration,
}

impl From<Rate> for Quota {
    fn from(rate: Rate) -> Self {
        Self {
            units: u64::from(rate.count()),
            period: rate.per().as_duration(),
        }
    }
}

impl From<ByteRate> for Quota {
    fn from(rate: ByteRate) -> Self {
        Self {
            units: rate.size().bytes(),
            period: rate.per().as_duration(),
        }
    }
}

impl Quota {
    /// The period in nanoseconds; 584 years at most.
    #[must_use]
    pub(super) fn period_ns(self) -> u64 {
        u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX)
    }

    /// What `units` add to the backlog, in nanoseconds, rounded down: the whole quota always fits in an empty bucket.
    #[must_use]
    pub(super) fn cost_ns(self, units: u64) -> u64 {
        let cost = u128::from(units) * u128::from(self.period_ns()) / u128::from(self.units.max(1));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// What taking `units` adds to the backlog. More than the whole quota could never fit, so it is taken as the whole.
    #[must_use]
    pub(super) fn take_ns(self, units: u64) -> u64 {
        self.cost_ns(units.min(self.units))
    }

    /// How long until `cost_ns` fits on top of a backlog; zero if it fits now.
    #[must_use]
    pub(super) fn wait(self, backlog_ns: u64, cost_ns: u64) -> Duration {
        Duration::from_nanos(backlog_ns.saturating_add(cost_ns).saturating_sub(self.period_ns()))
    }

    /// What a backlog means to a client.
    #[must_use]
    pub(super) fn standing(self, backlog_ns: u64) -> Standing {
        let period = self.period_ns();
        let free = period.saturating_sub(backlog_ns);
        let remaining = u128::from(free) * u128::from(self.units) / u128::from(period.max(1));
        Standing {
            limit: self.units,
            period: self.period,
            remaining: u64::try_from(remaining).unwrap_or(u64::MAX),
            reset: Duration::from_nanos(backlog_ns),
        }
    }
}

/// One limit's state: a backlog as it was at a time of the store's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    backlog_ns: u64,
    at_ns: u64,
}

impl Bucket {
    pub(super) fn new(backlog_ns: u64, at_ns: u64) -> Self {
        Self { backlog_ns, at_ns }
    }

    /// What is left of the backlog. A clock that went back drains nothing.
    pub(super) fn backlog_ns(self, now_ns: u64) -> u64 {
        self.backlog_ns.saturating_sub(now_ns.saturating_sub(self.at_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_policy::quantity::Span;
    use proptest::prelude::*;

    fn quota(count: u32, millis: u64) -> Quota {
        Rate::new(count, Span::from_millis(millis)).unwrap().into()
    }

    #[test]
    fn a_backlog_drains_with_time_and_not_when_the_clock_goes_back() {
        let bucket = Bucket::new(1000, 5000);
        assert_eq!(bucket.backlog_ns(5400), 600);
        assert_eq!(bucket.backlog_ns(9000), 0);
        assert_eq!(bucket.backlog_ns(1), 1000);
    }

    #[test]
    fn more_than_the_whole_is_taken_as_the_whole() {
        let quota = quota(10, 1000);
        assert_eq!(quota.take_ns(1_000_000), quota.period_ns());
    }

    proptest! {
        #[test]
        fn exactly_the_quota_fits_at_once(count in 1u32..5000, millis in 1u64..100_000_000) {
            let quota = quota(count, millis);
            let mut backlog = 0;
            for taken in 0..u64::from(count) {
                prop_assert_eq!(quota.wait(backlog, quota.take_ns(1)), Duration::ZERO);
                prop_assert!(quota.standing(backlog).remaining >= u64::from(count) - taken);
                backlog += quota.take_ns(1);
            }
            // One more does not fit, unless units are so small that they round to nothing.
            let wait = quota.wait(backlog, quota.take_ns(1));
            prop_assert!(wait > Duration::ZERO || quota.take_ns(1) <= u64::from(count));
        }

        #[test]
        fn after_the_wait_it_fits(count in 1u32..5000, millis in 1u64..100_000_000, backlog: u32, cost in 1u64..5000) {
            let quota = quota(count, millis);
            let wait = quota.wait(u64::from(backlog), quota.take_ns(cost));
            let bucket = Bucket::new(u64::from(backlog), 0);
            let later = bucket.backlog_ns(u64::try_from(wait.as_nanos()).unwrap());
            prop_assert_eq!(quota.wait(later, quota.take_ns(cost)), Duration::ZERO);
        }
    }
}
