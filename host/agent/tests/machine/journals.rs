//! A journal that was cut anywhere leads to the one end of its turn.

use super::*;
use fumehood_agent::{
    machine::{Client, Context},
    transcript::Transcript,
};
use fumehood_core::{
    event::NewEvent,
    message::{AssistantPart, Message},
    turn::{TurnError, TurnErrorCode},
};
use proptest::prelude::*;
use std::collections::HashSet;

/// What the outside does at one decision.
#[derive(Debug, Clone, Copy)]
struct Chance {
    calls: u8,
    held: bool,
    fails: bool,
    cut_off: bool,
    seen: Seen,
}

const DULL: Chance = Chance {
    calls: 0,
    held: false,
    fails: false,
    cut_off: false,
    seen: Seen {
        elapsed: std::time::Duration::ZERO,
        context: Context::Room,
        client: Client::Waits,
    },
};

fn chance() -> impl Strategy<Value = Chance> {
    let client = prop_oneof![8 => Just(Client::Waits), 1 => Just(Client::Steers), 1 => Just(Client::Stops)];
    let context = prop_oneof![6 => Just(Context::Room), 1 => Just(Context::NearlyFull)];
    (
        0_u8..4,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.1),
        client,
        context,
    )
        .prop_map(|(calls, held, fails, cut_off, client, context)| Chance {
            calls,
            held,
            fails,
            cut_off,
            seen: Seen {
                client,
                context,
                ..Seen::default()
            },
        })
}

fn bodies(events: Vec<NewEvent>) -> Vec<EventBody> {
    events.into_iter().map(|event| event.body).collect()
}

/// What a driver records for a decision, with this outcome.
fn outcome(machine: &TurnMachine, next: Next, budget: Budget, chance: Chance) -> Vec<EventBody> {
    match next {
        Next::Begin => vec![started(budget)],
        Next::Warn(warning) => vec![machine.warning(warning).body],
        Next::Steer => vec![EventBody::TurnSteered {
            input: vec![Content::text("and this")],
        }],
        Next::Compact if chance.fails => vec![EventBody::CompactionFailed {
            message: "no".into(),
            usage: None,
            cost: None,
        }],
        Next::Compact => vec![EventBody::CompactionCompleted {
            summary: "so far".into(),
            kept: 0,
            tokens_before: 2,
            tokens_after: 1,
            usage: None,
            cost: None,
        }],
        Next::BeginStep { step, notes } => vec![step_with(step, notes)],
        Next::AskModel { .. } if chance.fails => bodies(machine.failure(TurnError {
            code: TurnErrorCode::ModelUnavailable,
            message: "gone".into(),
        })),
        Next::AskModel { .. } if chance.cut_off => vec![says("half"), cut_off(&["add"])],
        Next::AskModel { tools, .. } => {
            let calls = if tools == ToolUse::Allowed { chance.calls } else { 0 };
            let asked: Vec<_> = (0..calls).map(|_| asks(&call())).collect();
            let stop = if asked.is_empty() {
                StepStop::Stop
            } else {
                StepStop::ToolCalls
            };
            [vec![says("text")], asked, vec![answered(stop, None)]].concat()
        }
        Next::RunCalls(calls) if calls.is_empty() => machine.calls_in_flight().iter().map(settles).collect(),
        Next::RunCalls(calls) => calls
            .iter()
            .flat_map(|open| match open.verdict {
                Verdict::Unasked if chance.held => vec![holds(&open.call)],
                Verdict::Unasked | Verdict::Approved { .. } => vec![runs(&open.call), settles(&open.call)],
                Verdict::Refused { .. } => vec![fails(&open.call)],
            })
            .collect(),
        Next::Park(_) => vec![PAUSED],
        Next::Wait => {
            let decision = if chance.fails {
                ApprovalOutcome::Expired
            } else {
                ApprovalOutcome::Approved
            };
            let held = machine.calls_held();
            held.iter()
                .map(|call| decides(call, decision))
                .chain([RESUMED])
                .collect()
        }
        Next::ValidateOutput { attempt } if chance.fails || chance.held => vec![rejects(attempt)],
        Next::ValidateOutput { attempt } => vec![EventBody::OutputValidated {
            attempt,
            value: json!({}),
        }],
        Next::Exhaust(exhausted) => bodies(machine.exhaustion(exhausted)),
        Next::Complete(reason) => bodies(machine.completion(reason)),
        Next::Fail(error) => bodies(machine.failure(error)),
        Next::Cancel => bodies(machine.cancellation()),
        Next::Nothing => Vec::new(),
    }
}

/// Goes on with a turn until it ends, or until so many events are recorded.
fn go_on(events: &mut Vec<EventBody>, budget: Budget, chances: &[Chance], cut: usize) {
    let mut machine = after(events);
    let mut chances = chances.iter().copied();
    loop {
        let chance = chances.next().unwrap_or(DULL);
        let next = machine.decide(&chance.seen);
        if next == Next::Nothing {
            return;
        }
        let new = outcome(&machine, next.clone(), budget, chance);
        assert!(
            !new.is_empty(),
            "a decision that records nothing would never end: {next:?}"
        );
        for event in new {
            if events.len() >= cut {
                return;
            }
            machine.apply(&event);
            events.push(event);
        }
    }
}

fn started_calls(events: &[EventBody]) -> Vec<CallId> {
    let started = events.iter().filter_map(|event| match event {
        EventBody::ToolStarted { call, .. } => Some(*call),
        _ => None,
    });
    started.collect()
}

proptest! {
    #[test]
    fn a_journal_cut_anywhere_folds_to_a_turn_that_can_end(
        schema in any::<bool>(),
        chances in prop::collection::vec(chance(), 0..24),
        cut in 1_usize..80,
        later in prop::collection::vec(chance(), 0..8),
    ) {
        let budget = Budget { steps: Some(6), tool_calls: Some(9), ..Budget::default() };
        let mut events = vec![if schema { queued_with_schema() } else { queued() }];
        go_on(&mut events, budget, &chances, cut);
        // What a restarted host does: settle what it left in flight, then go on.
        let left = after(&events).calls_in_flight();
        events.extend(left.iter().map(settles));
        go_on(&mut events, budget, &later, usize::MAX);

        prop_assert!(after(&events).has_ended());
        prop_assert_eq!(events.iter().filter(|event| event.is_terminal()).count(), 1);
        let started = started_calls(&events);
        let once: HashSet<_> = started.iter().collect();
        prop_assert_eq!(once.len(), started.len(), "no call starts twice");
        let mut steps = events.iter().filter_map(|event| match event {
            EventBody::StepStarted { step, .. } => Some(*step),
            _ => None,
        });
        prop_assert!(steps.by_ref().zip(1..).all(|(step, number)| step == number), "no step begins twice");

        let mut transcript = Transcript::default();
        events.iter().for_each(|event| transcript.apply(None, event));
        let mut open = Vec::new();
        for message in transcript.messages().iter() {
            match message {
                Message::Assistant { parts } => {
                    prop_assert!(open.is_empty(), "every call has its result before the next answer");
                    open.extend(parts.iter().filter_map(|part| match part {
                        AssistantPart::ToolCall(call) => Some(call.id),
                        _ => None,
                    }));
                }
                Message::Tool { call, .. } => prop_assert_eq!(open.remove(0), *call, "in the order of the calls"),
                Message::User { .. } | Message::Note { .. } | Message::Summary { .. } => {
                    prop_assert!(open.is_empty(), "a result follows its call at once");
                }
            }
        }
        prop_assert!(open.is_empty());
    }
}
