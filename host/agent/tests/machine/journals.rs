//! A journal that was cut anywhere leads to the one end of its turn.

use super::*;
use fumehood_agent::{
    machine::{Client, Context},
    transcript::Transcript,
};
use fumehood_core::{
    call::CallStatus,
    event::{CompactionReason, NewEvent},
    message::{AssistantPart, Message},
    turn::{TurnError, TurnErrorCode, TurnStatus},
};
use proptest::prelude::*;
use std::collections::HashSet;

/// How often a model may refuse one step's conversation as too long; then the turn fails.
const OVERFLOWS: u32 = 2;

/// What the model does before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// An attempt breaks, and another is planned.
    Breaks,
    /// The conversation is too long for it.
    Refuses,
}

/// What the outside does at one decision.
#[derive(Debug, Clone, Copy)]
struct Chance {
    calls: u8,
    held: bool,
    fails: bool,
    cut_off: bool,
    commits: bool,
    /// A tool hands its call on to somebody outside.
    hands_on: bool,
    before: Before,
    seen: Seen,
}

const DULL: Chance = Chance {
    calls: 0,
    held: false,
    fails: false,
    cut_off: false,
    commits: false,
    hands_on: false,
    before: Before::Nothing,
    seen: Seen {
        elapsed: std::time::Duration::ZERO,
        context: Context::Room,
        client: Client::Waits,
    },
};

fn chance() -> impl Strategy<Value = Chance> {
    let client = prop_oneof![8 => Just(Client::Waits), 1 => Just(Client::Steers), 1 => Just(Client::Stops)];
    let context = prop_oneof![6 => Just(Context::Room), 1 => Just(Context::NearlyFull)];
    let before = prop_oneof![6 => Just(Before::Nothing), 1 => Just(Before::Breaks), 1 => Just(Before::Refuses)];
    (
        0_u8..5,
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.05),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        before,
        client,
        context,
    )
        .prop_map(
            |(calls, held, fails, cut_off, commits, hands_on, before, client, context)| Chance {
                calls,
                held,
                fails,
                cut_off,
                commits,
                hands_on,
                before,
                seen: Seen {
                    client,
                    context,
                    ..Seen::default()
                },
            },
        )
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

/// Whether the client runs it.
fn is_clients(call: &RequestedCall) -> bool {
    call.tool == "mine"
}

/// A call from its begin to its end, or to where it goes on outside; on its way it may call a tool that may run once.
fn ran(call: &RequestedCall, attempt: u32, chance: Chance) -> Vec<EventBody> {
    let mut events = vec![runs_as(call, effect(call), attempt)];
    if chance.commits {
        events.push(EventBody::ToolCommitted {
            call: call.id,
            tool: ToolName::new("send").unwrap(),
        });
    }
    if chance.hands_on {
        events.push(detaches(call));
        events.push(EventBody::ToolProvisional {
            call: call.id,
            tool: ToolName::new("add").unwrap(),
            output: Output::default(),
            metering: Metering::default(),
        });
    } else {
        events.push(settles(call));
    }
    events
}

/// What becomes of the calls of a step. What the client is to run it is told when nobody is to be asked first.
fn run(calls: &[OpenCall], chance: Chance) -> Vec<EventBody> {
    let is_asked = |open: &OpenCall| chance.held && open.verdict == Verdict::Unasked;
    let may_hand_over = !calls.iter().any(is_asked);
    let (mut events, mut handed) = (Vec::new(), Vec::new());
    for open in calls {
        match &open.verdict {
            Verdict::Unasked if chance.held => events.push(holds(&open.call)),
            Verdict::Unasked | Verdict::Approved { .. } if is_clients(&open.call) => handed.push(&open.call),
            Verdict::Unasked | Verdict::Approved { .. } => events.extend(ran(&open.call, 1, chance)),
            // What a host does that goes on after a stop.
            Verdict::Unfinished { attempt, .. } if !attempt.may_be_repeated() => events.push(interrupts(&open.call)),
            Verdict::Unfinished { attempt, .. } => events.extend(ran(&open.call, attempt.number + 1, chance)),
            Verdict::Refused { .. } => events.push(fails(&open.call)),
        }
    }
    if may_hand_over {
        events.extend(handed.into_iter().map(hands_over));
    }
    events
}

/// What comes of waiting for results: all of them, or the first of those that are missing; good, or none in time.
fn results(machine: &TurnMachine, chance: Chance) -> Vec<EventBody> {
    let of_client = machine
        .calls_awaited()
        .into_iter()
        .map(|call| (call.call_id, call.tool.to_string()));
    let handed_on = machine.calls_detached().into_iter();
    let missing: Vec<_> = of_client
        .chain(handed_on.map(|handed| (handed.call.id, handed.call.tool)))
        .collect();
    let most = if chance.cut_off { 1 } else { missing.len() };
    let goes_on = missing.len() <= most;
    let result = || match chance.fails {
        true => Err(CallError::new(CallErrorCode::Timeout, "no result came in time")),
        false => Ok(Output::default()),
    };
    let ends = missing.into_iter().take(most);
    let mut events: Vec<_> = ends
        .map(|(call, tool)| EventBody::tool_completed(call, tool, result(), Metering::default()))
        .collect();
    if goes_on {
        events.push(EventBody::TurnResumed {
            waited_for: WaitingFor::Results,
        });
    }
    events
}

/// The model refuses the conversation as too long: it is made shorter, or stays as it is, or was refused too often.
fn overflows(machine: &TurnMachine, chance: Chance) -> Vec<EventBody> {
    if machine.overflows() >= OVERFLOWS {
        return bodies(machine.failure(TurnError {
            code: TurnErrorCode::ContextTooLong,
            message: "too long".into(),
        }));
    }
    let started = EventBody::CompactionStarted {
        reason: CompactionReason::Overflow,
    };
    vec![started, compacts(chance)]
}

fn compacts(chance: Chance) -> EventBody {
    if chance.fails {
        return EventBody::CompactionFailed {
            message: "no".into(),
            usage: None,
            cost: None,
        };
    }
    EventBody::CompactionCompleted {
        summary: "so far".into(),
        kept: 0,
        tokens_before: 2,
        tokens_after: 1,
        usage: None,
        cost: None,
    }
}

fn retries() -> EventBody {
    EventBody::RetryScheduled {
        step: 1,
        attempt: 1,
        max_attempts: 3,
        delay_ms: 500,
        computed_delay_ms: 500,
        retry_after_hint_ms: None,
        rate_limit_floor_applied: false,
        budget_capped: false,
        error: TurnError {
            code: TurnErrorCode::ModelUnavailable,
            message: "gone for a moment".into(),
        },
        model: None,
        failed_model: None,
        usage: None,
        cost: None,
    }
}

/// What a driver records for a decision, with this outcome.
fn outcome(machine: &TurnMachine, next: Next, budget: Budget, chance: Chance) -> Vec<EventBody> {
    match next {
        Next::Begin => vec![started(budget)],
        Next::Warn(warning) => vec![machine.warning(warning).body],
        Next::Steer => vec![EventBody::TurnSteered {
            input: vec![Content::text("and this")],
        }],
        Next::Compact => vec![
            EventBody::CompactionStarted {
                reason: CompactionReason::NearlyFull,
            },
            compacts(chance),
        ],
        Next::BeginStep { step, notes } => vec![step_with(step, notes)],
        Next::AskModel { .. } if chance.before == Before::Refuses => overflows(machine, chance),
        Next::AskModel { .. } if chance.before == Before::Breaks => vec![retries()],
        Next::AskModel { .. } if chance.fails => bodies(machine.failure(TurnError {
            code: TurnErrorCode::ModelUnavailable,
            message: "gone".into(),
        })),
        Next::AskModel { .. } if chance.cut_off => vec![says("half"), cut_off(&["add"])],
        Next::AskModel { tools, .. } => {
            // A model that may not ask for tools may do so all the same: its calls are dropped.
            if tools == ToolUse::Withheld && chance.calls > 0 {
                return vec![says("text"), answered_without_its_calls()];
            }
            let tools = ["once", "mine", "again", "pure"].iter().cycle();
            let asked: Vec<_> = tools
                .take(chance.calls.into())
                .map(|tool| asks(&call_with(tool, "{}")))
                .collect();
            let stop = if asked.is_empty() {
                StepStop::Stop
            } else {
                StepStop::ToolCalls
            };
            [vec![says("text")], asked, vec![answered(stop, None)]].concat()
        }
        Next::RunCalls(calls) => run(&calls, chance),
        Next::Park(waiting_for) => vec![EventBody::TurnPaused {
            waiting_for,
            worked_ms: None,
        }],
        Next::Wait if machine.status() == TurnStatus::AwaitingResults => results(machine, chance),
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

/// The calls that began once more though they may not: by what they are, by what they have called, or because they go on outside.
fn began_again(events: &[EventBody]) -> Vec<CallId> {
    let mut again = Vec::new();
    let mut may_not = HashSet::new();
    for event in events {
        match event {
            EventBody::ToolCommitted { call, .. } | EventBody::ToolDetached { call, .. } => {
                may_not.insert(*call);
            }
            EventBody::ToolStarted { call, effect, .. } => {
                if may_not.contains(call) {
                    again.push(*call);
                } else if *effect == Effect::AtMostOnce {
                    may_not.insert(*call);
                }
            }
            _ => {}
        }
    }
    again
}

/// The calls that were handed to somebody outside, by the turn or by their tool.
fn handed(events: &[EventBody]) -> Vec<CallId> {
    let calls = events.iter().flat_map(|event| match event {
        EventBody::ResultsRequested { calls } => calls.iter().map(|call| call.call_id).collect(),
        EventBody::ToolDetached { call, .. } => vec![*call],
        _ => Vec::new(),
    });
    calls.collect()
}

/// How often each step's conversation was found to be too long for the model.
fn overflows_of_steps(events: &[EventBody]) -> Vec<u32> {
    let mut steps = Vec::new();
    for event in events {
        match event {
            EventBody::StepStarted { .. } => steps.push(0),
            EventBody::CompactionStarted {
                reason: CompactionReason::Overflow,
            } => {
                if let Some(count) = steps.last_mut() {
                    *count += 1;
                }
            }
            _ => {}
        }
    }
    steps
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
        prop_assert!(began_again(&events).is_empty(), "no call that may run once starts twice");
        let handed = handed(&events);
        let handed_once: HashSet<_> = handed.iter().collect();
        prop_assert_eq!(handed_once.len(), handed.len(), "no call is handed to somebody twice");
        let overflows = overflows_of_steps(&events);
        prop_assert!(overflows.iter().all(|count| *count <= OVERFLOWS), "each step makes room so often: {overflows:?}");
        let ends = ends(&events);
        let requested = events.iter().filter(|event| matches!(event, EventBody::ToolRequested { .. })).count();
        let ended: HashSet<_> = ends.iter().map(|(call, _)| call).collect();
        prop_assert_eq!(ended.len(), ends.len(), "no call ends twice");
        prop_assert_eq!(ended.len(), requested, "every call has a result");
        if let Next::RunCalls(left) = left {
            for open in &left {
                let again = matches!(&open.verdict, Verdict::Unfinished { attempt, .. } if attempt.may_be_repeated());
                let goes_on = handed_once.contains(&open.call.id);
                prop_assert!(!again || goes_on || ends.contains(&(open.call.id, CallStatus::Ok)), "what may run again has its result");
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
