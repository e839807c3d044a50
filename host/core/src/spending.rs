//! The days and windows of the calendar by which spending is counted.

use crate::Time;
use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, NaiveTime};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A span of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// From midnight to midnight.
    Day,
    /// From the first to the last day.
    #[default]
    Month,
}

impl Window {
    /// The first day of the window that a time lies in.
    #[must_use]
    pub fn first_day(self, time: Time) -> Day {
        let day = time.date_naive();
        Day(match self {
            Self::Day => day,
            Self::Month => day.with_day(1).unwrap_or(day),
        })
    }

    /// When the next window begins.
    #[must_use]
    pub fn end(self, time: Time) -> Time {
        let first = self.first_day(time).0;
        let next = match self {
            Self::Day => first.checked_add_days(Days::new(1)),
            Self::Month => first.checked_add_months(Months::new(1)),
        };
        Day(next.unwrap_or(NaiveDate::MAX)).begin()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Day => "day",
            Self::Month => "month",
        })
    }
}

/// A day in UTC. Text: `2026-11-21`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Day(NaiveDate);

/// A text is not a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a day: write it as 2026-11-21")]
pub struct NotADay;

impl Day {
    /// The day that a time lies in.
    #[must_use]
    pub fn of(time: Time) -> Self {
        Self(time.date_naive())
    }

    /// Midnight at its beginning.
    #[must_use]
    pub fn begin(self) -> Time {
        self.0.and_time(NaiveTime::MIN).and_utc()
    }

    /// The day so many days before, or the first that there is.
    #[must_use]
    pub fn minus(self, days: u64) -> Self {
        Self(self.0.checked_sub_days(Days::new(days)).unwrap_or(NaiveDate::MIN))
    }

    /// Days since 1970-01-01.
    #[must_use]
    pub fn number(self) -> i64 {
        self.begin().timestamp().div_euclid(86_400)
    }

    /// The day of that number, if there is one.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        DateTime::from_timestamp(number.checked_mul(86_400)?, 0).map(Self::of)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Day {
    type Err = NotADay;

    fn from_str(text: &str) -> Result<Self, NotADay> {
        // Four digits of a year: others would not sort as text.
        let parsed = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| NotADay)?;
        (parsed.to_string() == text && text.len() == 10)
            .then_some(Self(parsed))
            .ok_or(NotADay)
    }
}

impl TryFrom<String> for Day {
    type Error = NotADay;

    fn try_from(text: String) -> Result<Self, NotADay> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        text.parse().unwrap()
    }

    #[test]
    fn windows_are_the_days_and_months_of_utc() {
        for (at, window, first, end) in [
            (
                "2026-11-21T23:59:59Z",
                Window::Day,
                "2026-11-21",
                "2026-11-22T00:00:00Z",
            ),
            (
                "2026-11-22T00:00:00Z",
                Window::Day,
                "2026-11-22",
                "2026-11-23T00:00:00Z",
            ),
            (
                "2026-12-31T12:00:00Z",
                Window::Month,
                "2026-12-01",
                "2027-01-01T00:00:00Z",
            ),
            (
                "2028-02-29T12:00:00Z",
                Window::Month,
                "2028-02-01",
                "2028-03-01T00:00:00Z",
            ),
        ] {
            assert_eq!(window.first_day(time(at)).to_string(), first, "{at}");
            assert_eq!(window.end(time(at)), time(end), "{at}");
        }
    }

    #[test]
    fn a_day_is_its_text_and_its_number() {
        let day: Day = "2026-11-21".parse().unwrap();
        assert_eq!((day.to_string().as_str(), day.number()), ("2026-11-21", 20_778));
        assert_eq!(Day::from_number(day.number()), Some(day));
        assert_eq!(day.minus(21).to_string(), "2026-10-31");
        for text in [
            "2026-11-31",
            "2026-1-1",
            "21.11.2026",
            "+12026-01-01",
            "",
            "2026-11-21T00",
        ] {
            assert_eq!(text.parse::<Day>(), Err(NotADay), "{text}");
        }
    }
}
