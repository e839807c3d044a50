//! How long things are kept, and by what clock they are too old.

use crate::quantity::Span;
use fumehood_core::Time;
use std::time::Duration;

/// The shortest that anything is kept: what is needed now is not too old yet.
pub const SHORTEST: Span = Span::from_secs(60 * 60);
/// The shortest that what models took is kept: a month that goes on, and the one before it.
pub const SHORTEST_USAGE: Span = Span::from_secs(62 * DAY);
const DAY: u64 = 24 * 60 * 60;

/// What is deleted once it is too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Sessions in which nothing has happened.
    Sessions,
    /// Archived sessions, from when they were archived.
    ArchivedSessions,
    /// The ledger of the door.
    Ledger,
    /// What webhooks were told.
    Deliveries,
    /// What webhooks could not be told.
    DeadDeliveries,
    /// What came of the times of schedules.
    ScheduleRuns,
    /// What models took, by day.
    Usage,
    /// What calls were answered from outside.
    Recordings,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Sessions,
        Self::ArchivedSessions,
        Self::Ledger,
        Self::Deliveries,
        Self::DeadDeliveries,
        Self::ScheduleRuns,
        Self::Usage,
        Self::Recordings,
    ];

    /// Its name, in the configuration and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::ArchivedSessions => "archived_sessions",
            Self::Ledger => "ledger",
            Self::Deliveries => "deliveries",
            Self::DeadDeliveries => "dead_deliveries",
            Self::ScheduleRuns => "schedule_runs",
            Self::Usage => "usage",
            Self::Recordings => "recordings",
        }
    }

    /// How long it is kept where nobody says so; `None`: until somebody deletes it, as it is with what people made.
    #[must_use]
    pub const fn by_default(self) -> Option<Span> {
        match self {
            Self::Sessions | Self::ArchivedSessions | Self::Usage => None,
            Self::Ledger => Some(Span::from_secs(365 * DAY)),
            Self::Deliveries | Self::Recordings => Some(Span::from_secs(30 * DAY)),
            Self::DeadDeliveries | Self::ScheduleRuns => Some(Span::from_secs(90 * DAY)),
        }
    }

    /// The shortest it may be kept.
    #[must_use]
    pub const fn shortest(self) -> Span {
        match self {
            Self::Usage => SHORTEST_USAGE,
            _ => SHORTEST,
        }
    }
}

/// How long an org's things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    kept: [Option<Span>; Kind::ALL.len()],
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            kept: Kind::ALL.map(Kind::by_default),
        }
    }
}

impl Retention {
    /// How long this is kept; `None`: until somebody deletes it.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> Option<Span> {
        self.kept[kind as usize]
    }

    /// The same with this kept for as long.
    #[must_use]
    pub const fn with(mut self, kind: Kind, kept: Option<Span>) -> Self {
        self.kept[kind as usize] = kept;
        self
    }

    /// What is older than this is too old, by a clock that shows `time`. `None`: nothing is.
    #[must_use]
    pub fn limit(&self, kind: Kind, time: Time) -> Option<Time> {
        let kept = chrono::TimeDelta::from_std(self.of(kind)?.as_duration()).ok()?;
        // Nothing is from before the clocks of computers begin.
        time.checked_sub_signed(kept).filter(|limit| *limit >= Time::UNIX_EPOCH)
    }
}

/// By what clock things are too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// The time that counts.
    pub time: Time,
    /// What the next round is to take for the time that counted.
    pub seen: Time,
    /// How far the clock is ahead of it.
    pub ahead: Duration,
}

/// Follows the clock: never further ahead than a day at once, and back at once. A clock that jumps years ahead does not make
/// everything too old in one moment, and whoever sets it back finds what was kept; a host that was away for weeks catches up. What is
/// remembered goes back by a day at once as well, so that a clock that was wrong for one round is not followed from there for years.
///
/// `seen` is what was remembered of the round before.
// THREAT[T-keep-clock]
#[must_use]
pub fn follow(clock: Time, seen: Time) -> Followed {
    let day = chrono::TimeDelta::seconds(DAY.cast_signed());
    let time = seen.checked_add_signed(day).map_or(clock, |most| clock.min(most));
    Followed {
        time,
        seen: seen.checked_sub_signed(day).map_or(time, |least| time.max(least)),
        ahead: (clock - time).to_std().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn what_people_made_is_kept_until_they_delete_it() {
        let by_default = Retention::default();
        for kind in [Kind::Sessions, Kind::ArchivedSessions] {
            assert_eq!(by_default.of(kind), None);
            assert_eq!(by_default.limit(kind, at(0)), None);
        }
    }

    #[test]
    fn what_is_older_than_its_time_is_too_old() {
        let kept = Retention::default().with(Kind::Ledger, Some(Span::from_secs(3600)));
        assert_eq!(kept.limit(Kind::Ledger, at(7200)), Some(at(3600)));
        assert_eq!(kept.with(Kind::Ledger, None).limit(Kind::Ledger, at(7200)), None);
        assert_eq!(kept.of(Kind::Deliveries), Kind::Deliveries.by_default());
    }

    #[test]
    fn a_clock_that_jumps_is_followed_a_day_at_a_time_and_back_at_once() {
        let day = i64::try_from(DAY).unwrap();
        assert_eq!(
            follow(at(3600), at(0)),
            Followed {
                time: at(3600),
                seen: at(3600),
                ahead: Duration::ZERO
            }
        );
        let years = 3650 * day;
        let mut seen = at(0);
        for round in 1..=3 {
            let followed = follow(at(years), seen);
            assert_eq!(followed.time, at(round * day));
            assert_eq!(followed.ahead.as_secs(), (years - round * day).cast_unsigned());
            seen = followed.time;
        }
        let back = follow(at(3600), seen);
        assert_eq!((back.time, back.ahead), (at(3600), Duration::ZERO));
        assert_eq!(follow(at(3600), at(years)).time, at(3600));
    }

    #[test]
    fn a_clock_that_was_years_back_for_one_round_costs_a_day() {
        let day = i64::try_from(DAY).unwrap();
        let wrong = follow(at(-3650 * day), at(0));
        assert_eq!((wrong.time, wrong.seen), (at(-3650 * day), at(-day)));
        let right = follow(at(3600), wrong.seen);
        assert_eq!((right.time, right.ahead.as_secs()), (at(0), 3600));
    }

    #[test]
    fn what_is_to_be_kept_for_longer_than_there_are_clocks_is_never_too_old() {
        let kept = Retention::default().with(Kind::Ledger, Some(Span::from_secs(200_000 * DAY)));
        assert_eq!(kept.limit(Kind::Ledger, at(0)), None);
    }

    #[test]
    fn names_are_distinct_and_each_kind_has_a_place_of_its_own() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place, "{}", kind.as_str());
            assert!(kind.by_default().is_none_or(|kept| kept >= kind.shortest()));
        }
    }
}
