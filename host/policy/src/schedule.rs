//! When something recurs: by a cron line in a time zone, at an interval, or once.
//!
//! Pure: [`When::next`] is a function of a moment, so what is due after a restart is what would have been due without one.

mod missed;

pub use missed::{Due, MOST_MADE_UP, Misfire, Passed, due};

use crate::{
    quantity::Span,
    text_serde::{as_text, shown},
    time_zone::TimeZone,
};
use chrono::{DurationRound as _, TimeDelta};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use fumehood_core::Time;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The longest cron line.
const LONGEST_LINE: usize = 200;
/// What comes later than this never comes.
const AHEAD: TimeDelta = TimeDelta::days(366 * 100);
/// Times that are looked at to find out how often something recurs: more than there are in an hour by minutes and by seconds.
const LOOKED_AT: usize = 130;

/// Five or six fields of a cron line: minute, hour, day of the month, month and day of the week, with the second before them or without.
#[derive(Debug, Clone)]
pub struct CronLine {
    text: String,
    cron: Box<Cron>,
}

/// Why a text is no cron line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no cron line: {reason}; write minute, hour, day of the month, month and day of the week, as in `30 9 * * 1-5`, with \
     the second before them if it matters"
)]
pub struct ParseCronError {
    text: String,
    reason: String,
}

impl CronLine {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for CronLine {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CronLine {}

impl fmt::Display for CronLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for CronLine {
    type Err = ParseCronError;

    fn from_str(text: &str) -> Result<Self, ParseCronError> {
        let refused = |reason: String| ParseCronError {
            text: shown(text),
            reason,
        };
        if text.len() > LONGEST_LINE {
            return Err(refused(format!("it is longer than {LONGEST_LINE} bytes")));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(text).map_err(|error| refused(shown(&error.to_string())))?;
        Ok(Self {
            text: text.trim().to_owned(),
            cron: Box::new(cron),
        })
    }
}

as_text!(CronLine, "a cron line, such as \"30 9 * * 1-5\"");

/// When something recurs.
///
/// In the hour that a zone skips, a line that names a time fires at its end, and one that recurs within the day passes over it; in the
/// hour that comes twice, the first fires once and the second in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum When {
    /// At the times of a cron line.
    Cron {
        /// The line.
        line: CronLine,
        /// Whose clock it is about.
        zone: TimeZone,
    },
    /// At an interval.
    Every {
        /// The interval; not zero.
        every: Span,
        /// The first time.
        from: Time,
    },
    /// Once.
    At {
        /// Then.
        at: Time,
    },
}

/// The same as it is written: exactly one of `cron`, `every` and `at`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// A cron line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<CronLine>,
    /// Whose clock the line is about; UTC if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZone>,
    /// An interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// The first time of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// The only time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// Why nothing can be planned by it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhenError {
    /// Not exactly one of the three.
    #[error("say exactly one of `cron` (with `time_zone`), `every` (with `from`) and `at`")]
    NotOne,
    /// It goes with something else.
    #[error("`{0}` goes with `{1}` only; leave it out")]
    OnlyWith(&'static str, &'static str),
    /// An interval of nothing.
    #[error("an interval is longer than nothing")]
    NoInterval,
    /// An interval without a beginning.
    #[error("an interval has a first time")]
    NoBeginning,
    /// No time is ahead.
    #[error(
        "it never comes: no time that it names lies within the next 100 years; mend it, for example the day of the month"
    )]
    Never,
    /// Less time in between than must be.
    #[error("it comes again after {found}, and no schedule of this host may come more often than every {least}")]
    TooOften {
        /// Between two times.
        found: Span,
        /// What must be.
        least: Span,
    },
}

impl Written {
    /// What is meant by it at a moment: an interval without a first time begins then.
    ///
    /// # Errors
    /// When it is not one thing, or makes no sense.
    pub fn at(self, now: Time) -> Result<When, WhenError> {
        let from = match (self.from, self.every) {
            (None, Some(every)) => after(now, every),
            (from, _) => from,
        };
        Self { from, ..self }.try_into()
    }
}

impl TryFrom<Written> for When {
    type Error = WhenError;

    fn try_from(written: Written) -> Result<Self, WhenError> {
        let Written {
            cron,
            time_zone,
            every,
            from,
            at,
        } = written;
        if cron.is_none() && time_zone.is_some() {
            return Err(WhenError::OnlyWith("time_zone", "cron"));
        }
        if every.is_none() && from.is_some() {
            return Err(WhenError::OnlyWith("from", "every"));
        }
        match (cron, every, at) {
            (Some(line), None, None) => Ok(Self::Cron {
                line,
                zone: time_zone.unwrap_or(TimeZone::UTC),
            }),
            (None, Some(every), None) if every.as_millis() == 0 => Err(WhenError::NoInterval),
            (None, Some(every), None) => Ok(Self::Every {
                every,
                from: from.ok_or(WhenError::NoBeginning)?,
            }),
            (None, None, Some(at)) => Ok(Self::At { at }),
            _ => Err(WhenError::NotOne),
        }
    }
}

impl From<When> for Written {
    fn from(when: When) -> Self {
        let nothing = Self::default();
        match when {
            When::Cron { line, zone } => Self {
                cron: Some(line),
                time_zone: Some(zone),
                ..nothing
            },
            When::Every { every, from } => Self {
                every: Some(every),
                from: Some(from),
                ..nothing
            },
            When::At { at } => Self {
                at: Some(at),
                ..nothing
            },
        }
    }
}

impl When {
    /// The first time after a moment. `None`: there is none, or none within a hundred years.
    #[must_use]
    pub fn next(&self, moment: Time) -> Option<Time> {
        let next = match self {
            Self::Cron { line, zone } => {
                let second = moment.duration_trunc(TimeDelta::seconds(1)).ok()?;
                let there = zone.local(second);
                let found = line.cron.find_next_occurrence(&there, false).ok()?;
                Some(found.to_utc())
            }
            Self::Every { from, .. } if *from > moment => Some(*from),
            Self::Every { every, from } => {
                let passed = u64::try_from((moment - from).num_milliseconds()).ok()?;
                let times = passed / every.as_millis().max(1) + 1;
                after(*from, Span::from_millis(times.checked_mul(every.as_millis())?))
            }
            Self::At { at } => (*at > moment).then_some(*at),
        };
        // A time that is not later would be planned again and again.
        next.filter(|next| *next > moment && *next - moment <= AHEAD)
    }

    /// The last time that is not after a moment, from a time on that is one.
    #[must_use]
    pub fn last(&self, first: Time, moment: Time) -> Time {
        let mut last = self.near(moment).filter(|near| *near >= first).unwrap_or(first);
        // What counts is what comes after what; looking back may find less, where clocks are set.
        while let Some(next) = self.next(last).filter(|next| *next <= moment) {
            last = next;
        }
        last
    }

    /// A time that is not after a moment, and close to it.
    fn near(&self, moment: Time) -> Option<Time> {
        let near = match self {
            Self::Cron { line, zone } => {
                let second = moment.duration_trunc(TimeDelta::seconds(1)).ok()?;
                let found = line.cron.find_previous_occurrence(&zone.local(second), true).ok()?;
                Some(found.to_utc())
            }
            Self::Every { every, from } => {
                let passed = u64::try_from((moment - from).num_milliseconds()).ok()?;
                let every = every.as_millis().max(1);
                after(*from, Span::from_millis(passed / every * every))
            }
            Self::At { at } => Some(*at),
        };
        near.filter(|near| *near <= moment)
    }

    /// Refuses what never comes and what comes too often, as seen from a moment.
    ///
    /// # Errors
    /// [`WhenError::Never`], [`WhenError::TooOften`].
    // THREAT[T-sched-flood]
    pub fn check(&self, now: Time, least: Span) -> Result<(), WhenError> {
        let mut last = self.next(now).ok_or(WhenError::Never)?;
        for _ in 0..LOOKED_AT {
            let Some(next) = self.next(last) else { break };
            let between = u64::try_from((next - last).num_milliseconds()).unwrap_or(0);
            if between < least.as_millis() {
                let found = Span::from_millis(between);
                return Err(WhenError::TooOften { found, least });
            }
            // The others are as far apart.
            if matches!(self, Self::Every { .. }) {
                break;
            }
            last = next;
        }
        Ok(())
    }
}

fn after(time: Time, span: Span) -> Option<Time> {
    let span = TimeDelta::try_milliseconds(i64::try_from(span.as_millis()).ok()?)?;
    time.checked_add_signed(span)
}
