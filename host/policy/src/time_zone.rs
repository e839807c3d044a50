//! Time zones, by their IANA names.

use crate::text_serde::{as_text, shown};
use chrono::DateTime;
use chrono_tz::Tz;
use fumehood_core::Time;
use std::{fmt, str::FromStr};

/// A zone of the IANA database, such as `Europe/Zurich` or `UTC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeZone(Tz);

/// Why a text is no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no time zone: use a name of the IANA database, such as `Europe/Zurich` or `UTC`")]
pub struct ParseTimeZoneError(String);

impl TimeZone {
    /// The zone without summer time that others are told by.
    pub const UTC: Self = Self(Tz::UTC);

    /// What the clocks show there at a time.
    pub(crate) fn local(self, time: Time) -> DateTime<Tz> {
        time.with_timezone(&self.0)
    }

    /// The date there at a time, with the day of the week: `Saturday, 21 November 2026`.
    #[must_use]
    pub fn date(self, time: Time) -> String {
        time.with_timezone(&self.0).format("%A, %-d %B %Y").to_string()
    }
}

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl FromStr for TimeZone {
    type Err = ParseTimeZoneError;

    fn from_str(text: &str) -> Result<Self, ParseTimeZoneError> {
        text.parse().map(Self).map_err(|_| ParseTimeZoneError(shown(text)))
    }
}

as_text!(TimeZone, "a time zone, such as \"Europe/Zurich\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_that_of_the_zone() {
        let time: Time = "2026-11-21T23:30:00Z".parse().unwrap();
        let date = |zone: &str| zone.parse::<TimeZone>().unwrap().date(time);
        assert_eq!(date("UTC"), "Saturday, 21 November 2026");
        assert_eq!(date("Europe/Zurich"), "Sunday, 22 November 2026");
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for text in ["", "CEST", "Europe", "+01:00", "Europe/Atlantis"] {
            assert!(text.parse::<TimeZone>().is_err(), "{text}");
        }
    }
}
