//! The table in the machine's documentation is the machine: each of its rows is brought about here, and no decision is missing in it.

use super::*;
use fumehood_agent::machine::{Client, Context, OUTPUT_ATTEMPTS};
use fumehood_core::turn::TurnErrorCode;

const DOCUMENTATION: &str = include_str!("../../src/machine.rs");

/// A row: phase, when, decision; the events that bring it about, and what is seen besides.
type Row = (&'static str, &'static str, &'static str, Vec<EventBody>, Seen);

fn rows() -> Vec<Row> {
    let seen = Seen::default();
    let stops = Seen {
        client: Client::Stops,
        ..seen
    };
    let steers = Seen {
        client: Client::Steers,
        ..seen
    };
    let full = Seen {
        context: Context::NearlyFull,
        ..seen
    };
    let a = call();
    let with = |more: &[EventBody]| [begun(), more.to_vec()].concat();
    let asked = with(&[step(1), asks(&a), answered(StepStop::ToolCalls, None)]);
    let held = [asked.clone(), vec![holds(&a)]].concat();
    let awaited = [asked.clone(), vec![hands_over(&a)]].concat();
    let parked = [held.clone(), vec![PAUSED]].concat();
    let said = with(&[step(1), says("x"), answered(StepStop::Stop, None)]);
    let one_step = Budget {
        steps: Some(1),
        ..Budget::default()
    };
    let last = [
        queued(),
        started(one_step),
        step(1),
        says("x"),
        answered(StepStop::Stop, None),
    ];
    let warned = EventBody::BudgetWarning {
        scope: fumehood_core::turn::BudgetScope::Turn,
        budget: "steps".into(),
        percent: 100,
        used: 1,
        limit: 1,
    };
    let used_up = [queued(), started(one_step), step(1), cut_off(&["add"])];
    let structured = [
        queued_with_schema(),
        started(Budget::default()),
        step(1),
        says("{}"),
        answered(StepStop::Stop, None),
    ];
    let valid = EventBody::OutputValidated {
        attempt: 1,
        value: json!({}),
    };
    let mut rejected = structured.to_vec();
    rejected.extend((1..=OUTPUT_ATTEMPTS).map(rejects));
    let ended = cancelled();
    vec![
        ("Queued", "always", "Begin", vec![queued()], seen),
        (
            "Parked",
            "the client asked to stop at the next boundary",
            "Cancel",
            parked.clone(),
            stops,
        ),
        ("Parked", "otherwise", "Wait", parked, steers),
        ("Asking", "always", "AskModel", with(&[step(1)]), seen),
        ("Answered", "a call can run", "RunCalls", asked, seen),
        (
            "Answered",
            "calls wait for a decision, and the client asked to stop",
            "Cancel",
            held.clone(),
            stops,
        ),
        ("Answered", "calls wait for a decision", "Park", held, steers),
        (
            "Answered",
            "calls wait for results, and the client asked to stop",
            "Cancel",
            awaited.clone(),
            stops,
        ),
        ("Answered", "calls wait for results", "Park", awaited, steers),
        (
            "Answered",
            "80 % or 100 % of a budget is used",
            "Warn",
            last.to_vec(),
            stops,
        ),
        (
            "Answered",
            "the client asked to stop at the next boundary",
            "Cancel",
            said.clone(),
            stops,
        ),
        (
            "Answered",
            "a client has added to its input, and another step may follow",
            "Steer",
            said.clone(),
            steers,
        ),
        (
            "Answered",
            "no call, and the answer must follow a schema",
            "ValidateOutput",
            structured.to_vec(),
            seen,
        ),
        ("Answered", "no call, nothing lost", "Complete", said, seen),
        (
            "Validated",
            "always",
            "Complete",
            [structured.to_vec(), vec![valid]].concat(),
            stops,
        ),
        (
            "Ready",
            "80 % or 100 % of a budget is used",
            "Warn",
            used_up.to_vec(),
            stops,
        ),
        (
            "Ready",
            "the client asked to stop at the next boundary",
            "Cancel",
            begun(),
            stops,
        ),
        (
            "Ready",
            "a client has added to its input, and another step may follow",
            "Steer",
            begun(),
            steers,
        ),
        ("Ready", "the answer was rejected too often", "Fail", rejected, full),
        (
            "Ready",
            "the model repeats itself, and was told",
            "Complete",
            repeating(),
            full,
        ),
        (
            "Ready",
            "a budget is used up",
            "Exhaust",
            [used_up.to_vec(), vec![warned]].concat(),
            full,
        ),
        (
            "Ready",
            "the conversation nears what the model takes, and summing it up did not just fail",
            "Compact",
            begun(),
            full,
        ),
        ("Ready", "otherwise", "BeginStep", begun(), seen),
        ("Ended", "always", "Nothing", with(&[ended]), stops),
    ]
}

fn repeating() -> Vec<EventBody> {
    let mut events = begun();
    for number in 1..=4 {
        let Next::BeginStep { notes, .. } = next(&events) else {
            panic!("{:?}", next(&events))
        };
        let a = call();
        events.extend([
            step_with(number, notes),
            asks(&a),
            answered(StepStop::ToolCalls, None),
            settles(&a),
        ]);
    }
    events
}

/// The name of the decision. A decision that is added has to be named here, and then needs a row.
const fn name(next: &Next) -> &'static str {
    match next {
        Next::Begin => "Begin",
        Next::Warn(_) => "Warn",
        Next::Steer => "Steer",
        Next::Compact => "Compact",
        Next::BeginStep { .. } => "BeginStep",
        Next::AskModel { .. } => "AskModel",
        Next::RunCalls(_) => "RunCalls",
        Next::Park(_) => "Park",
        Next::Wait => "Wait",
        Next::ValidateOutput { .. } => "ValidateOutput",
        Next::Exhaust(_) => "Exhaust",
        Next::Complete(_) => "Complete",
        Next::Fail(_) => "Fail",
        Next::Cancel => "Cancel",
        Next::Nothing => "Nothing",
    }
}

#[test]
fn every_row_of_the_table_is_what_the_machine_decides() {
    for (phase, when, decision, events, seen) in rows() {
        let decided = after(&events).decide(&seen);
        assert_eq!(name(&decided), decision, "{phase}, {when}: {decided:?}");
    }
}

#[test]
fn the_documentation_has_these_rows_and_no_others() {
    let written: Vec<_> = DOCUMENTATION
        .lines()
        .filter_map(|line| line.strip_prefix("//! | `"))
        .map(|line| format!("//! | `{line}"))
        .collect();
    let rows: Vec<_> = rows()
        .into_iter()
        .map(|(phase, when, decision, ..)| format!("//! | `{phase}` | {when} | `{decision}` |"))
        .collect();
    assert_eq!(written, rows);
}

#[test]
fn a_conversation_is_summed_up_once_before_the_model_is_asked_again() {
    let full = Seen {
        context: Context::NearlyFull,
        ..Seen::default()
    };
    let tried = EventBody::CompactionFailed {
        message: "the model is not there".into(),
        usage: None,
        cost: None,
    };
    let mut events = [begun(), vec![tried]].concat();
    for number in 1..=3 {
        assert!(
            matches!(after(&events).decide(&full), Next::BeginStep { step, .. } if step == number),
            "it would fail again"
        );
        events.extend([step(number), cut_off(&["add"])]);
    }
    assert_eq!(
        after(&events).decide(&full),
        Next::Compact,
        "it may be otherwise by now"
    );
    let done = EventBody::CompactionCompleted {
        summary: "so far".into(),
        kept: 0,
        tokens_before: 2,
        tokens_after: 1,
        usage: None,
        cost: None,
    };
    events.push(done);
    assert!(matches!(after(&events).decide(&full), Next::BeginStep { step: 4, .. }));
    events.extend([step(4), cut_off(&["add"])]);
    assert_eq!(
        after(&events).decide(&full),
        Next::Compact,
        "the model has answered meanwhile, and it can be done"
    );
}

#[test]
fn a_failure_says_what_is_wrong_with_the_output() {
    let (.., events, seen) = rows().into_iter().find(|row| row.2 == "Fail").unwrap();
    let Next::Fail(error) = after(&events).decide(&seen) else {
        panic!("not failed")
    };
    assert_eq!(error.code, TurnErrorCode::OutputInvalid);
    assert!(error.message.contains("at /a:"), "{}", error.message);
}
