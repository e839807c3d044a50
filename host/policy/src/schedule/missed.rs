//! What is done about times that have passed: the host was not there, or its clock was set.

use super::When;
use chrono::TimeDelta;
use fumehood_core::Time;
use serde::{Deserialize, Serialize};

/// Times that [`Misfire::All`] makes up for; of more, the last count.
pub const MOST_MADE_UP: usize = 16;
/// What is no later than this is in time.
const IN_TIME: TimeDelta = TimeDelta::minutes(1);
/// Passed times are counted up to here.
const MOST_COUNTED: u64 = 1000;

/// What becomes of times that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// They are passed over.
    Skip,
    /// The last of them is made up for.
    #[default]
    Once,
    /// Each of them is made up for, the last 16 at most.
    All,
}

/// Times that nothing is done for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// The first of them.
    pub first: Time,
    /// How many, up to a thousand.
    pub count: u64,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The time to fire for.
    pub fire: Option<Time>,
    /// Whether more than that time has passed.
    pub made_up: bool,
    /// The times before it that are passed over.
    pub passed: Option<Passed>,
    /// The next time; it may have passed as well.
    pub next: Option<Time>,
}

/// What is to be done at a moment where `planned`, one of its times, is due.
#[must_use]
pub fn due(when: &When, planned: Time, now: Time, misfire: Misfire) -> Due {
    let last = when.last(planned, now);
    let (fire, passed_before) = match misfire {
        Misfire::Skip if now - last > IN_TIME => (None, None),
        Misfire::Skip | Misfire::Once => (Some(last), Some(last)),
        Misfire::All => {
            let first = first_to_make_up(when, planned, last);
            (Some(first), Some(first))
        }
    };
    Due {
        fire,
        made_up: fire.is_some_and(|fire| now - fire > IN_TIME),
        passed: passed(when, planned, passed_before, now),
        next: when.next(match misfire {
            Misfire::All => fire.unwrap_or(now),
            Misfire::Skip | Misfire::Once => now,
        }),
    }
}

/// The first of the last times that are made up for.
fn first_to_make_up(when: &When, planned: Time, last: Time) -> Time {
    let mut first = last;
    for _ in 1..MOST_MADE_UP {
        let before = first - TimeDelta::nanoseconds(1);
        if first <= planned || before < planned {
            return planned;
        }
        first = when.last(planned, before);
    }
    first
}

/// The times from `first` on that come before `end`, or that have come.
fn passed(when: &When, first: Time, end: Option<Time>, now: Time) -> Option<Passed> {
    let is_passed = |time: &Time| end.map_or(*time <= now, |end| *time < end);
    let mut next = Some(first).filter(is_passed);
    let mut count = 0;
    while let Some(time) = next {
        count += 1;
        next = when.next(time).filter(|next| is_passed(next) && count < MOST_COUNTED);
    }
    (count > 0).then_some(Passed { first, count })
}
