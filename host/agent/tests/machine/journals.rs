//! A journal that was cut anywhere leads to the one end of its turn.

use super::*;
use fumehood_agent::{
    machine::{Client, Context},
    transcript::Transcript,
};
use fumehood_core::call::CallStatus;
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
    commits: bool,
    seen: Seen,
}

const DULL: Chance = Chance {
    calls: 0,
    held: false,
    fails: false,
    cut_off: false,
    commits: false,
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
        prop::bool::weighted(0.2),
        client,
        context,
    )
        .prop_map(|(calls, held, fails, cut_off, commits, client, context)| Chance {
            calls,
            held,
            fails,
            cut_off,
            commits,
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

fn effect(call: &RequestedCall) -> Effect {
    match &*call.tool {
        "again" => Effect::Idempotent,
        "pure" => Effect::Pure,
        _ => Effect::AtMostOnce,
    }
}

/// A call from its begin to its end; on its way it may call a tool that may run once.
fn ran(call: &RequestedCall, attempt: u32, chance: Chance) -> Vec<EventBody> {
    let mut events = vec![runs_as(call, effect(call), attempt)];
    if chance.commits {
        events.push(EventBody::ToolCommitted {
            call: call.id,
            tool: ToolName::new("send").unwrap(),
        });
    }
    events.push(settles(call));
    events
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
            let tools = ["once", "again", "pure"].iter().cycle();
            let asked: Vec<_> = tools
                .take(calls.into())
                .map(|tool| asks(&call_with(tool, "{}")))
                .collect();
            let stop = if asked.is_empty() {
                StepStop::Stop
            } else {
                StepStop::ToolCalls
            };
            [vec![says("text")], asked, vec![answered(stop, None)]].concat()
        }
        Next::RunCalls(calls) => calls
            .iter()
            .flat_map(|open| match &open.verdict {
                Verdict::Unasked if chance.held => vec![holds(&open.call)],
                Verdict::Unasked | Verdict::Approved { .. } => ran(&open.call, 1, chance),
                // What a host does that goes on after a stop.
                Verdict::Unfinished { attempt, .. } if !attempt.may_be_repeated() => vec![interrupts(&open.call)],
                Verdict::Unfinished { attempt, .. } => ran(&open.call, attempt.number + 1, chance),
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

/// Calls that may run once, as often as they began: by what they are, or by what they have called.
fn started_once(events: &[EventBody]) -> Vec<CallId> {
    let mut started = Vec::new();
    let mut committed = HashSet::new();
    for event in events {
        match event {
            EventBody::ToolCommitted { call, .. } => {
                committed.insert(*call);
            }
            EventBody::ToolStarted { call, effect, .. }
                if *effect == Effect::AtMostOnce || committed.contains(call) =>
            {
                started.push(*call);
            }
            _ => {}
        }
    }
    started
}

/// How each call of the journal ended.
fn ends(events: &[EventBody]) -> Vec<(CallId, CallStatus)> {
    let ended = events.iter().filter_map(|event| match event {
        EventBody::ToolCompleted { call, status, .. } => Some((*call, *status)),
        _ => None,
    });
    ended.collect()
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
        // A host goes on that knows nothing else.
        let left = after(&events).decide(&Seen::default());
        go_on(&mut events, budget, &later, usize::MAX);

        prop_assert!(after(&events).has_ended());
        prop_assert_eq!(events.iter().filter(|event| event.is_terminal()).count(), 1);
        let started = started_once(&events);
        let once: HashSet<_> = started.iter().collect();
        prop_assert_eq!(once.len(), started.len(), "no call that may run once starts twice");
        let ends = ends(&events);
        let requested = events.iter().filter(|event| matches!(event, EventBody::ToolRequested { .. })).count();
        let ended: HashSet<_> = ends.iter().map(|(call, _)| call).collect();
        prop_assert_eq!(ended.len(), ends.len(), "no call ends twice");
        prop_assert_eq!(ended.len(), requested, "every call has a result");
        if let Next::RunCalls(left) = left {
            for open in &left {
                let again = matches!(&open.verdict, Verdict::Unfinished { attempt, .. } if attempt.may_be_repeated());
                prop_assert!(!again || ends.contains(&(open.call.id, CallStatus::Ok)), "what may run again has its result");
            }
        }
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
