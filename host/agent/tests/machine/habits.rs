//! What the machine does about a model that repeats itself, or never sends JSON.

use super::*;
use fumehood_core::turn::{NoteKind, StopReason};

/// A step with one call, which ends like this.
fn round(events: &mut Vec<EventBody>, tool: &str, arguments: &str, result: &str) {
    let number = 1 + events
        .iter()
        .filter(|event| matches!(event, EventBody::StepStarted { .. }))
        .count() as u64;
    let Next::BeginStep { notes, .. } = next(events) else {
        panic!("{:?}", next(events))
    };
    let call = call_with(tool, arguments);
    events.extend([
        step_with(number, notes),
        asks(&call),
        answered(StepStop::ToolCalls, None),
    ]);
    events.push(match result {
        "malformed" => fails(&call),
        limited if limited.starts_with("limited") => fails_with(&call, CallErrorCode::RateLimited, limited),
        result => settles_with(&call, result),
    });
}

fn told(events: &[EventBody]) -> Vec<NoteKind> {
    match next(events) {
        Next::BeginStep { notes, .. } => notes.into_iter().map(|note| note.kind).collect(),
        next => panic!("{next:?}"),
    }
}

#[test]
fn the_same_call_with_the_same_result_is_told_of_once_and_ends_the_turn_if_it_goes_on() {
    let mut events = begun();
    for arguments in [r#"{"a": 1, "b": 2}"#, r#"{"b": 2, "a": 1}"#] {
        round(&mut events, "add", arguments, "3");
        assert!(told(&events).is_empty());
    }
    round(&mut events, "add", r#"{"a":1,"b":2}"#, "3");
    assert_eq!(told(&events), [NoteKind::Repetition]);
    round(&mut events, "add", r#"{"a":1,"b":2}"#, "3");
    assert_eq!(next(&events), Next::Complete(StopReason::Repetition));
}

/// A model that was told that it repeats itself.
fn told_of_repetition(mut events: Vec<EventBody>) -> Vec<EventBody> {
    for _ in 0..3 {
        round(&mut events, "add", "{}", "3");
    }
    assert_eq!(told(&events), [NoteKind::Repetition]);
    let Next::BeginStep { step, notes } = next(&events) else {
        panic!("{:?}", next(&events))
    };
    events.push(step_with(step, notes));
    events
}

#[test]
fn a_model_that_answers_when_it_was_told_has_its_answer_repaired() {
    let mut events = told_of_repetition(vec![queued_with_schema(), started(Budget::default())]);
    events.extend([says("{"), answered(StepStop::Stop, None), rejects(1)]);
    assert_eq!(told(&events), [NoteKind::OutputRejected], "it does not repeat itself");
    events.extend([step(5), says("{"), answered(StepStop::Stop, None), rejects(2)]);
    assert_eq!(told(&events), [NoteKind::OutputRejected]);
}

#[test]
fn a_model_whose_other_call_is_cut_off_when_it_was_told_hears_what_was_lost() {
    let mut events = told_of_repetition(begun());
    events.push(cut_off(&["write"]));
    assert_eq!(told(&events), [NoteKind::Truncated]);
    let Next::BeginStep { step, notes } = next(&events) else {
        panic!("{:?}", next(&events))
    };
    let call = call_with("add", "{}");
    events.extend([step_with(step, notes), asks(&call), answered(StepStop::ToolCalls, None)]);
    events.push(settles_with(&call, "3"));
    assert_eq!(
        next(&events),
        Next::Complete(StopReason::Repetition),
        "it was told, and goes on"
    );
}

#[test]
fn a_model_that_runs_against_a_rate_again_and_again_repeats_itself() {
    let mut events = begun();
    for wait in [30, 20, 10] {
        round(&mut events, "add", "{}", &format!("limited {wait}"));
    }
    assert_eq!(told(&events), [NoteKind::Repetition], "how long to wait is no progress");
}

#[test]
fn a_model_that_changes_its_ways_is_not_told_again() {
    let mut events = begun();
    for _ in 0..3 {
        round(&mut events, "add", "{}", "3");
    }
    assert_eq!(told(&events), [NoteKind::Repetition]);
    round(&mut events, "add", r#"{"a": 7}"#, "3");
    assert!(told(&events).is_empty());
    round(&mut events, "add", "{}", "3");
    assert!(told(&events).is_empty(), "the streak is over");
}

#[test]
fn polling_whose_result_changes_is_no_repetition() {
    let mut events = begun();
    for number in 0..10 {
        round(&mut events, "status", "{}", &format!("{number} %"));
        assert!(told(&events).is_empty());
    }
}

#[test]
fn a_cycle_of_calls_is_a_repetition() {
    for length in 2..=5 {
        let mut events = begun();
        for number in 0..2 * length {
            assert!(told(&events).is_empty());
            round(
                &mut events,
                "read",
                &format!("{{\"page\": {}}}", number % length),
                "same",
            );
        }
        assert_eq!(told(&events), [NoteKind::Repetition], "a cycle of {length}");
    }
}

#[test]
fn arguments_that_are_never_json_are_told_of_once() {
    let mut events = begun();
    round(&mut events, "write", "{\"a\": 1", "malformed");
    assert!(told(&events).is_empty());
    round(&mut events, "write", "{\"a\": 2", "malformed");
    assert_eq!(told(&events), [NoteKind::MalformedArguments]);
    round(&mut events, "write", "{\"a\": 3", "malformed");
    assert!(told(&events).is_empty(), "once per streak");
    round(&mut events, "write", "{}", "fine");
    round(&mut events, "write", "{\"a\": 4", "malformed");
    round(&mut events, "write", "{\"a\": 5", "malformed");
    assert_eq!(told(&events), [NoteKind::MalformedArguments], "another streak");
}
