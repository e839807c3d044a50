//! Reading and describing times. No clock here.

use crate::{Difference, Now};
use chrono::{DateTime, Datelike as _, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};

/// Reads an offset: `Z`, `+02:00`, `-0530`, `+2`.
pub(crate) fn parse_offset(text: &str) -> Result<FixedOffset, String> {
    let refused = || {
        let shown: String = text.chars().take(40).collect();
        format!("`{shown}` is not an offset from UTC: write `Z` or one like `+02:00`; zone names are not known here")
    };
    if text.eq_ignore_ascii_case("z") || text.eq_ignore_ascii_case("utc") {
        return Ok(Utc.fix_offset());
    }
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(refused()),
    };
    let (hours, minutes) = match rest.split_once(':') {
        Some(parts) => parts,
        None if rest.len() == 4 => rest.split_at_checked(2).ok_or_else(refused)?,
        None => (rest, "0"),
    };
    let number = |digits: &str, below: i32| {
        let plain = !digits.is_empty() && digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit());
        plain
            .then(|| digits.parse::<i32>().ok())
            .flatten()
            .filter(|n| *n < below)
            .ok_or_else(refused)
    };
    let seconds = sign * (number(hours, 24)? * 3600 + number(minutes, 60)? * 60);
    FixedOffset::east_opt(seconds).ok_or_else(refused)
}

trait FixOffset {
    fn fix_offset(&self) -> FixedOffset;
}

impl FixOffset for Utc {
    fn fix_offset(&self) -> FixedOffset {
        use chrono::Offset as _;
        self.fix()
    }
}

/// Reads a time: RFC 3339, the same without offset (UTC), or a date (midnight UTC).
pub(crate) fn parse(text: &str) -> Result<DateTime<Utc>, String> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    for form in [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, form) {
            return Ok(time.and_utc());
        }
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(date.and_time(NaiveTime::MIN).and_utc());
    }
    let shown: String = text.chars().take(40).collect();
    Err(format!(
        "`{shown}` is not a time: write one like `2024-05-01T12:00:00Z` or a date like `2024-05-01`"
    ))
}

/// A time with what a reader wants to know of it.
pub(crate) fn describe(time: DateTime<FixedOffset>) -> Now {
    let week = time.iso_week();
    Now {
        time: time.to_rfc3339_opts(SecondsFormat::Millis, true),
        weekday: time.format("%A").to_string(),
        week: format!("{}-W{:02}", week.year(), week.week()),
        unix_ms: time.timestamp_millis(),
    }
}

/// How long it is from one time to another.
pub(crate) fn difference(from: DateTime<Utc>, to: DateTime<Utc>) -> Difference {
    let milliseconds = (to - from).num_milliseconds();
    // Exact for spans below 280,000 years, which is more than the parser takes.
    #[allow(clippy::cast_precision_loss)]
    let seconds = milliseconds as f64 / 1000.0;
    Difference {
        seconds,
        days: seconds / 86_400.0,
        words: words(milliseconds),
    }
}

fn words(milliseconds: i64) -> String {
    let total = milliseconds.unsigned_abs() / 1000;
    let parts = [
        (total / 86_400, "day"),
        (total / 3600 % 24, "hour"),
        (total / 60 % 60, "minute"),
        (total % 60, "second"),
    ];
    let named: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    let text = if named.is_empty() {
        "less than a second".to_owned()
    } else {
        named.join(" ")
    };
    if milliseconds < 0 {
        format!("{text} earlier")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_in_their_usual_forms() {
        for (text, seconds) in [
            ("Z", 0),
            ("utc", 0),
            ("+02:00", 7200),
            ("-0530", -19_800),
            ("+2", 7200),
            ("-11", -39_600),
        ] {
            assert_eq!(parse_offset(text).unwrap().local_minus_utc(), seconds, "{text}");
        }
        for bad in ["", "2", "+", "+24:00", "+01:60", "+1:2:3", "CET", "+é", "+-1"] {
            assert!(parse_offset(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_dates_are_read() {
        for (text, ms) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:01Z", 1000),
            ("1970-01-01T02:00:00+02:00", 0),
            ("1970-01-01 00:01", 60_000),
            ("1970-01-01T00:00:00.250", 250),
        ] {
            assert_eq!(parse(text).unwrap().timestamp_millis(), ms, "{text}");
        }
        assert!(parse("tomorrow").is_err());
        assert!(parse("2024-02-30").is_err());
    }

    #[test]
    fn a_difference_is_told_in_words() {
        let of = |from, to| difference(parse(from).unwrap(), parse(to).unwrap());
        assert_eq!(of("2024-02-28", "2024-03-01").words, "2 days");
        assert_eq!(
            of("2024-01-01T00:00:00Z", "2024-01-01T01:00:05Z").words,
            "1 hour 5 seconds"
        );
        assert_eq!(of("2024-01-02", "2024-01-01").words, "1 day earlier");
        assert_eq!(of("2024-01-02", "2024-01-02").words, "less than a second");
        assert!((of("2024-01-01", "2024-01-02").days - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_time_is_described() {
        let now = describe(
            parse("2024-12-30T10:00:00Z")
                .unwrap()
                .with_timezone(&parse_offset("+01:00").unwrap()),
        );
        assert_eq!(now.time, "2024-12-30T11:00:00.000+01:00");
        assert_eq!((now.weekday.as_str(), now.week.as_str()), ("Monday", "2025-W01"));
    }
}
