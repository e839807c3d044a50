//! The standard tool `clock`: the time now, the difference between two times, and waiting.
//!
//! Zones are offsets from UTC; zone names and their daylight-saving rules are not known here.
#![forbid(unsafe_code)]

mod time;

use chrono::{DateTime, Utc};
use fumehood::{Call, Failure};
use schemars::JsonSchema;
use serde::Serialize;
use std::time::Duration;

/// The longest that `clock_sleep` waits, in milliseconds.
const LONGEST_SLEEP_MS: u64 = 60_000;

/// A point in time.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Now {
    /// RFC 3339, with milliseconds.
    pub time: String,
    /// The day of the week, such as `Monday`.
    pub weekday: String,
    /// ISO week, such as `2024-W07`.
    pub week: String,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: i64,
}

/// Tells the time now.
#[fumehood::tool(effect = "pure", read_only, title = "Time now")]
fn clock_now(
    /// Offset from UTC such as `+02:00` or `-0530`; `Z` (UTC) if not given.
    offset: Option<String>,
) -> Result<Now, Failure> {
    let offset = time::parse_offset(offset.as_deref().unwrap_or("Z")).map_err(Failure::invalid_arguments)?;
    Ok(time::describe(
        DateTime::<Utc>::from(std::time::SystemTime::now()).with_timezone(&offset),
    ))
}

/// A span of time.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Difference {
    /// The whole of it in seconds; negative when `to` is before `from`.
    pub seconds: f64,
    /// The whole of it in days.
    pub days: f64,
    /// In words, such as `2 days 3 hours`.
    pub words: String,
}

/// Tells how long it is from one time to another.
#[fumehood::tool(effect = "pure", read_only, title = "Time between")]
fn clock_diff(
    /// RFC 3339 such as `2024-05-01T12:00:00+02:00`, or a date such as `2024-05-01` (midnight UTC).
    from: String,
    /// The same forms; now if not given.
    to: Option<String>,
) -> Result<Difference, Failure> {
    let from = time::parse(&from).map_err(Failure::invalid_arguments)?;
    let to = match to {
        Some(text) => time::parse(&text).map_err(Failure::invalid_arguments)?,
        None => DateTime::<Utc>::from(std::time::SystemTime::now()),
    };
    Ok(time::difference(from, to))
}

/// Waits, at most a minute.
#[fumehood::tool(effect = "pure", read_only, title = "Wait")]
fn clock_sleep(
    call: &Call,
    /// How long, in milliseconds; at most 60000.
    #[schemars(range(max = 60_000))]
    ms: u64,
) -> Result<String, Failure> {
    if ms > LONGEST_SLEEP_MS {
        return Err(Failure::invalid_arguments(format!(
            "{ms} ms is too long: `ms` is at most {LONGEST_SLEEP_MS}"
        )));
    }
    let wait = Duration::from_millis(ms);
    if wait >= call.time_left() {
        // Without the time that is left: the host knows a call that is repeated in vain by its equal results.
        return Err(Failure::invalid_arguments(format!(
            "{ms} ms is too long: the call would be stopped before, so wait for less"
        )));
    }
    std::thread::sleep(wait);
    Ok(format!("waited {ms} ms"))
}

fumehood::export!(clock_now, clock_diff, clock_sleep);

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood::testing;
    use serde_json::json;

    #[test]
    fn the_time_is_told_at_an_offset() {
        let output = testing::call::<clock_now>(json!({"offset": "+05:30"})).unwrap();
        assert!(output.text().contains("+05:30"), "{}", output.text());
        assert!(output.structured.is_some());
    }

    #[test]
    fn a_zone_name_is_refused_with_a_hint() {
        let failure = testing::call::<clock_now>(json!({"offset": "Europe/Zurich"})).unwrap_err();
        assert!(
            matches!(&failure, Failure::InvalidArguments(m) if m.contains("+02:00")),
            "{failure}"
        );
    }

    #[test]
    fn a_sleep_longer_than_a_minute_or_than_the_call_is_refused() {
        assert!(matches!(
            testing::call::<clock_sleep>(json!({"ms": 60_001})),
            Err(Failure::InvalidArguments(_))
        ));
        let refused = testing::call::<clock_sleep>(json!({"ms": 60_000})).unwrap_err();
        assert!(
            matches!(&refused, Failure::InvalidArguments(why)
                if why == "60000 ms is too long: the call would be stopped before, so wait for less"),
            "the same question has the same answer: {refused}"
        );
        assert_eq!(
            testing::call::<clock_sleep>(json!({"ms": 1})).unwrap().text(),
            "waited 1 ms"
        );
        assert_eq!(
            testing::input_schema::<clock_sleep>()["properties"]["ms"]["maximum"],
            60_000
        );
    }

    #[test]
    fn a_difference_to_now_needs_no_second_time() {
        let output = testing::call::<clock_diff>(json!({"from": "1970-01-01"})).unwrap();
        assert!(output.text().contains("days"));
    }
}
