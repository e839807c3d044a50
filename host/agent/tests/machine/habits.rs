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
    events.push(if result == "malformed" {
        fails(&call)
    } else {
        settles_with(&call, result)
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
