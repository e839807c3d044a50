//! When schedules come, and what becomes of times that were missed.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use chrono::TimeDelta;
use fumehood_core::Time;
use fumehood_policy::{
    quantity::Span,
    schedule::{CronLine, Due, MOST_MADE_UP, Misfire, Passed, When, WhenError, Written, due},
};
use proptest::prelude::*;

fn time(text: &str) -> Time {
    text.parse().unwrap()
}

fn cron(line: &str, zone: &str) -> When {
    When::Cron {
        line: line.parse().unwrap(),
        zone: zone.parse().unwrap(),
    }
}

fn every(span: &str, from: &str) -> When {
    When::Every {
        every: span.parse().unwrap(),
        from: time(from),
    }
}

/// The next times after one, as texts.
fn times(when: &When, after: &str, count: usize) -> Vec<String> {
    let mut last = time(after);
    let mut times = Vec::new();
    while times.len() < count
        && let Some(next) = when.next(last)
    {
        times.push(next.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        last = next;
    }
    times
}

#[test]
fn a_cron_line_comes_at_the_times_of_its_zone() {
    let mornings = cron("30 9 * * 1-5", "Europe/Zurich");
    // A Friday in winter, then Monday.
    let expected = ["2026-11-20T08:30:00Z", "2026-11-23T08:30:00Z"];
    assert_eq!(times(&mornings, "2026-11-20T08:29:59.5Z", 2), expected);
    let summer = ["2026-07-01T07:30:00Z"];
    assert_eq!(times(&mornings, "2026-07-01T00:00:00Z", 1), summer);
}

#[test]
fn seconds_may_come_before_the_five_fields() {
    let expected = ["2026-01-01T00:00:15Z", "2026-01-01T00:01:15Z"];
    assert_eq!(times(&cron("15 * * * * *", "UTC"), "2026-01-01T00:00:00Z", 2), expected);
}

#[test]
fn a_time_that_a_zone_skips_comes_when_the_hour_is_over() {
    // In Zurich, 2026-03-29 has no time between 02:00 and 03:00.
    let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
    let nightly = cron("30 2 * * *", "Europe/Zurich");
    assert_eq!(times(&nightly, "2026-03-28T00:00:00Z", 3), expected);
}

#[test]
fn a_time_that_comes_twice_in_a_zone_counts_once() {
    // In Zurich, 2026-10-25 has 02:30 twice: at 00:30 and at 01:30 UTC.
    let nightly = cron("30 2 * * *", "Europe/Zurich");
    let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
    assert_eq!(times(&nightly, "2026-10-25T00:00:00Z", 2), expected);
}

#[test]
fn what_recurs_within_the_day_goes_on_through_the_hour_that_comes_twice() {
    let half_hours = cron("*/30 * * * *", "Europe/Zurich");
    let expected = [
        "2026-10-25T00:00:00Z",
        "2026-10-25T00:30:00Z",
        "2026-10-25T01:00:00Z",
        "2026-10-25T01:30:00Z",
        "2026-10-25T02:00:00Z",
    ];
    assert_eq!(times(&half_hours, "2026-10-24T23:59:00Z", 5), expected);
}

#[test]
fn an_interval_keeps_to_its_first_time() {
    let hourly = every("1h", "2026-01-01T00:10:00Z");
    assert_eq!(times(&hourly, "2025-06-01T00:00:00Z", 1), ["2026-01-01T00:10:00Z"]);
    assert_eq!(times(&hourly, "2026-01-01T00:10:00Z", 1), ["2026-01-01T01:10:00Z"]);
    assert_eq!(times(&hourly, "2026-01-02T05:09:59.999Z", 1), ["2026-01-02T05:10:00Z"]);
}

#[test]
fn one_moment_comes_once() {
    let at = When::At {
        at: time("2026-01-01T00:00:00Z"),
    };
    assert_eq!(times(&at, "2025-01-01T00:00:00Z", 5), ["2026-01-01T00:00:00Z"]);
    let late = at.check(time("2026-01-01T00:00:00Z"), Span::from_secs(60));
    assert_eq!(late, Err(WhenError::Never));
}

#[test]
fn what_never_comes_is_refused() {
    let now = time("2026-01-01T00:00:00Z");
    for line in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
        let refused = cron(line, "UTC").check(now, Span::from_secs(60));
        assert_eq!(refused, Err(WhenError::Never), "{line}");
    }
    // Rare is not never: 2096 is a leap year, and 2100 is none.
    assert_eq!(cron("0 0 29 2 *", "UTC").check(now, Span::from_secs(60)), Ok(()));
}

#[test]
fn what_comes_too_often_is_refused_with_how_often_it_may() {
    let (now, least) = (time("2026-01-01T00:00:00Z"), Span::from_secs(60));
    for (when, found) in [
        (cron("* * * * * *", "UTC"), 1),
        (cron("0,30 0 3 1 1 *", "UTC"), 30),
        (cron("59,0 * * * * *", "UTC"), 1),
        (every("59s", "2026-01-01T00:00:00Z"), 59),
    ] {
        let found = Span::from_secs(found);
        assert_eq!(when.check(now, least), Err(WhenError::TooOften { found, least }));
    }
    for when in [cron("* * * * *", "UTC"), every("1m", "2026-01-01T00:00:00Z")] {
        assert_eq!(when.check(now, least), Ok(()));
    }
}

#[test]
fn what_is_no_cron_line_is_refused_with_what_is() {
    let long = "0,".repeat(200);
    for line in [
        "",
        "* * * *",
        "61 * * * *",
        "0 9 * * 1-5 2027 1",
        "a b c d e",
        "0 0 0 1 1 * 2020",
        &long,
    ] {
        let refused = line.parse::<CronLine>().unwrap_err().to_string();
        assert!(refused.contains("30 9 * * 1-5"), "{line}: {refused}");
    }
}

#[test]
fn exactly_one_way_to_recur_is_taken() {
    let now = time("2026-01-01T00:00:00Z");
    let written = |text: &str| serde_json::from_str::<Written>(text).unwrap().at(now);
    let line = written(r#"{"cron": "0 9 * * *"}"#).unwrap();
    assert_eq!(line, cron("0 9 * * *", "UTC"));
    let interval = written(r#"{"every": "1h"}"#).unwrap();
    assert_eq!(interval, every("1h", "2026-01-01T01:00:00Z"));
    for (text, refusal) in [
        ("{}", WhenError::NotOne),
        (r#"{"cron": "0 9 * * *", "every": "1h"}"#, WhenError::NotOne),
        (
            r#"{"every": "1h", "time_zone": "UTC"}"#,
            WhenError::OnlyWith("time_zone", "cron"),
        ),
        (
            r#"{"at": "2027-01-01T00:00:00Z", "from": "2027-01-01T00:00:00Z"}"#,
            WhenError::OnlyWith("from", "every"),
        ),
        (r#"{"every": "0s"}"#, WhenError::NoInterval),
    ] {
        assert_eq!(written(text), Err(refusal), "{text}");
    }
    assert!(serde_json::from_str::<Written>(r#"{"cron": "0 9 * * *", "time_zone": "Mars"}"#).is_err());
}

fn hourly() -> When {
    every("1h", "2026-01-01T00:00:00Z")
}

#[test]
fn what_is_due_in_time_fires_by_every_policy() {
    let planned = time("2026-01-01T05:00:00Z");
    for misfire in [Misfire::Skip, Misfire::Once, Misfire::All] {
        let due = due(&hourly(), planned, planned + TimeDelta::seconds(2), misfire);
        let expected = Due {
            fire: Some(planned),
            made_up: false,
            passed: None,
            next: Some(time("2026-01-01T06:00:00Z")),
        };
        assert_eq!(due, expected, "{misfire:?}");
    }
}

#[test]
fn missed_times_are_passed_over_made_up_for_once_or_all() {
    let planned = time("2026-01-01T05:00:00Z");
    let now = time("2026-01-01T08:30:00Z");
    let next = Some(time("2026-01-01T09:00:00Z"));
    let passed = |count| Some(Passed { first: planned, count });
    let skip = due(&hourly(), planned, now, Misfire::Skip);
    assert_eq!((skip.fire, skip.passed, skip.next), (None, passed(4), next));
    let once = due(&hourly(), planned, now, Misfire::Once);
    let last = Some(time("2026-01-01T08:00:00Z"));
    assert_eq!((once.fire, once.passed, once.next), (last, passed(3), next));
    assert!(once.made_up);
    let all = due(&hourly(), planned, now, Misfire::All);
    let second = Some(time("2026-01-01T06:00:00Z"));
    assert_eq!((all.fire, all.passed, all.next), (Some(planned), None, second));
}

#[test]
fn of_too_many_missed_times_the_last_are_made_up_for() {
    let planned = time("2026-01-01T00:00:00Z");
    let now = time("2026-01-03T00:30:00Z");
    let all = due(&hourly(), planned, now, Misfire::All);
    let first = time("2026-01-03T00:00:00Z") - TimeDelta::hours(MOST_MADE_UP as i64 - 1);
    assert_eq!(all.fire, Some(first));
    assert_eq!(all.passed.map(|passed| passed.count), Some(49 - MOST_MADE_UP as u64));
}

#[test]
fn ten_years_of_seconds_are_not_gone_through_one_by_one() {
    let planned = time("2016-01-01T00:00:00Z");
    let now = time("2026-01-01T00:00:00.5Z");
    let once = due(&cron("* * * * * *", "UTC"), planned, now, Misfire::Once);
    assert_eq!(once.fire, Some(time("2026-01-01T00:00:00Z")));
    assert_eq!(once.passed.map(|passed| passed.count), Some(1000));
}

fn some_line() -> impl Strategy<Value = When> {
    let field = |lines: &'static [&'static str]| proptest::sample::select(lines);
    (
        field(&["", "0 ", "15,45 ", "*/20 "]),
        field(&["*", "0", "30", "*/7", "5-10"]),
        field(&["*", "2", "3", "1,2,3", "*/5"]),
        field(&["*", "1", "29", "31", "L"]),
        field(&["*", "2", "3,10", "*/4"]),
        field(&["*", "0", "1-5", "7"]),
        field(&[
            "UTC",
            "Europe/Zurich",
            "America/New_York",
            "Australia/Lord_Howe",
            "Asia/Kathmandu",
        ]),
    )
        .prop_map(|(second, minute, hour, day, month, weekday, zone)| {
            cron(&format!("{second}{minute} {hour} {day} {month} {weekday}"), zone)
        })
}

fn some_when() -> impl Strategy<Value = When> {
    let interval = (1_u64..200_000_000, 0_i64..2_000_000_000).prop_map(|(every, from)| When::Every {
        every: Span::from_millis(every),
        from: Time::from_timestamp(from, 0).unwrap(),
    });
    prop_oneof![some_line(), interval]
}

fn some_moment() -> impl Strategy<Value = Time> {
    (1_600_000_000_i64..2_000_000_000, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| Time::from_timestamp(seconds, nanos).unwrap())
}

proptest! {
    #[test]
    fn the_next_time_is_later_and_none_lies_between(when in some_when(), moment in some_moment(), thousandths in 0..1000_i32) {
        if let Some(next) = when.next(moment) {
            prop_assert!(next > moment);
            let between = moment + (next - moment).checked_div(1000).unwrap() * thousandths;
            if between < next {
                prop_assert_eq!(when.next(between), Some(next));
            }
        }
    }

    #[test]
    fn the_last_time_is_the_one_whose_next_is_still_to_come(when in some_when(), first in some_moment(), ahead in 0_i64..5_000_000) {
        if let Some(first) = when.next(first) {
            let moment = first + TimeDelta::seconds(ahead);
            let last = when.last(first, moment);
            prop_assert!(first <= last && last <= moment);
            prop_assert!(when.next(last).is_none_or(|next| next > moment));
        }
    }

    #[test]
    fn what_is_planned_next_lies_after_all_that_was_decided_about(
        when in some_when(),
        first in some_moment(),
        late in 0_i64..5_000_000,
        misfire in proptest::sample::select(&[Misfire::Skip, Misfire::Once, Misfire::All][..]),
    ) {
        if let Some(planned) = when.next(first) {
            let now = planned + TimeDelta::seconds(late);
            let due = due(&when, planned, now, misfire);
            prop_assert!(due.fire.is_none_or(|fire| planned <= fire && fire <= now));
            prop_assert!(due.next.is_none_or(|next| due.fire.is_none_or(|fire| next > fire)));
            prop_assert!(misfire == Misfire::All || due.next.is_none_or(|next| next > now));
        }
    }

    #[test]
    fn any_text_is_a_line_or_refused(text in "[0-9*/,L#W?@+a-z -]{0,40}", moment in some_moment()) {
        if let Ok(line) = text.parse::<CronLine>() {
            let zone = "Europe/Zurich".parse().unwrap();
            let _ = When::Cron { line, zone }.next(moment);
        }
    }

    #[test]
    fn a_when_reads_as_it_is_written(when in some_when()) {
        let text = serde_json::to_string(&when).unwrap();
        prop_assert_eq!(serde_json::from_str::<When>(&text).unwrap(), when);
    }
}
