//! The turn machine and the transcript, without a clock, a network or a store: events in, decisions out.

#![allow(clippy::unwrap_used, reason = "tests")]

use fumehood_agent::{
    machine::{Next, TurnMachine},
    transcript::Transcript,
};
use fumehood_core::{
    call::{CallStatus, ComponentRef, Metering, Output},
    content::Content,
    digest::Digest,
    event::{EventBody, NewEvent},
    id::{CallId, TurnId},
    message::{GivenArguments, Message, RequestedCall},
    name::{AgentName, ComponentName, ModelName, ToolName},
    turn::{Budget, StepStop, StopReason, TurnError, TurnErrorCode, TurnStatus, Usage},
};
use proptest::prelude::*;

fn machine() -> TurnMachine {
    TurnMachine::new(TurnId::new())
}

fn queued() -> EventBody {
    EventBody::TurnQueued {
        input: vec![Content::text("hi")],
        system: None,
        budget: Budget::default(),
    }
}

fn started(budget: Budget) -> EventBody {
    EventBody::TurnStarted {
        agent: AgentName::new("assistant").unwrap(),
        model: ModelName::new("main").unwrap(),
        tools: Vec::new(),
        budget,
    }
}

fn step(number: u64) -> EventBody {
    EventBody::StepStarted { step: number }
}

fn says(text: &str) -> EventBody {
    EventBody::TextCompleted {
        step: 1,
        text: text.into(),
    }
}

fn asks(call: &RequestedCall) -> EventBody {
    EventBody::ToolRequested {
        step: 1,
        call: call.clone(),
    }
}

fn answered(stop_reason: StepStop, usage: Option<Usage>) -> EventBody {
    EventBody::StepCompleted {
        step: 1,
        stop_reason,
        usage,
    }
}

fn call() -> RequestedCall {
    RequestedCall {
        id: CallId::new(),
        tool: "add".into(),
        arguments: GivenArguments::parse("{}"),
    }
}

fn runs(call: &RequestedCall) -> EventBody {
    let component = ComponentRef {
        name: ComponentName::new("math").unwrap(),
        digest: Digest::of(b""),
    };
    EventBody::ToolStarted {
        call: call.id,
        tool: ToolName::new("add").unwrap(),
        component,
        authority: None,
    }
}

fn settles(call: &RequestedCall) -> EventBody {
    EventBody::tool_completed(call.id, call.tool.clone(), Ok(Output::default()), Metering::default())
}

fn after(events: &[EventBody]) -> TurnMachine {
    let mut machine = machine();
    events.iter().for_each(|event| machine.apply(event));
    machine
}

#[test]
fn a_turn_without_tools_begins_asks_and_completes() {
    let mut machine = machine();
    machine.apply(&queued());
    assert_eq!(machine.decide(), Next::Begin);
    machine.apply(&started(Budget::default()));
    assert_eq!(machine.decide(), Next::BeginStep(1));
    machine.apply(&step(1));
    assert_eq!(machine.decide(), Next::AskModel(1));
    machine.apply(&says("hello"));
    machine.apply(&answered(StepStop::Stop, None));
    assert_eq!(machine.decide(), Next::Complete(StopReason::EndTurn));
    let end = machine.completion(StopReason::EndTurn);
    assert!(
        matches!(&end[0].body, EventBody::TurnCompleted { output, usage: None, .. } if *output == [Content::text("hello")])
    );
    machine.apply(&end[0].body);
    assert_eq!(
        (machine.decide(), machine.status()),
        (Next::Nothing, TurnStatus::Completed)
    );
}

#[test]
fn the_next_step_waits_for_every_call() {
    let (a, b) = (call(), call());
    let mut machine = after(&[
        queued(),
        started(Budget::default()),
        step(1),
        asks(&a),
        asks(&b),
        answered(StepStop::ToolCalls, None),
    ]);
    assert_eq!(machine.decide(), Next::RunCalls(vec![a.clone(), b.clone()]));
    machine.apply(&runs(&a));
    machine.apply(&runs(&b));
    machine.apply(&settles(&b));
    assert_eq!(
        machine.decide(),
        Next::RunCalls(Vec::new()),
        "nothing new to start, and not done"
    );
    machine.apply(&settles(&a));
    assert_eq!(machine.decide(), Next::BeginStep(2));
}

#[test]
fn a_model_stopped_by_its_limit_or_filter_completes_the_turn_with_that_reason() {
    for (stop, reason) in [
        (StepStop::Length, StopReason::OutputLimit),
        (StepStop::ContentFilter, StopReason::ContentFilter),
    ] {
        let machine = after(&[
            queued(),
            started(Budget::default()),
            step(1),
            says("half"),
            answered(stop, None),
        ]);
        assert_eq!(machine.decide(), Next::Complete(reason));
    }
}

#[test]
fn each_budget_ends_the_turn_before_another_step() {
    let used = Usage {
        input_tokens: Some(90),
        output_tokens: Some(10),
        ..Usage::default()
    };
    for (budget, name, reason) in [
        (
            Budget {
                steps: Some(1),
                ..Budget::default()
            },
            "steps",
            StopReason::StepLimit,
        ),
        (
            Budget {
                tool_calls: Some(1),
                ..Budget::default()
            },
            "tool_calls",
            StopReason::ToolCallLimit,
        ),
        (
            Budget {
                tokens: Some(100),
                ..Budget::default()
            },
            "tokens",
            StopReason::TokenLimit,
        ),
    ] {
        let a = call();
        let events = [
            queued(),
            started(budget),
            step(1),
            says("so far"),
            asks(&a),
            answered(StepStop::ToolCalls, Some(used)),
            settles(&a),
        ];
        let machine = after(&events);
        let Next::Exhaust(exhausted) = machine.decide() else {
            panic!("{name}: {:?}", machine.decide())
        };
        assert_eq!((exhausted.budget, exhausted.stop_reason), (name, reason));
        let end = machine.exhaustion(exhausted);
        assert!(matches!(&end[0].body, EventBody::BudgetExhausted { budget, .. } if budget == name));
        assert!(
            matches!(&end[1].body, EventBody::TurnCompleted { output, .. } if *output == [Content::text("so far")])
        );
    }
}

#[test]
fn calls_beyond_the_budget_do_not_count_as_admitted() {
    let (a, b, c) = (call(), call(), call());
    let budget = Budget {
        tool_calls: Some(2),
        ..Budget::default()
    };
    let machine = after(&[
        queued(),
        started(budget),
        step(1),
        asks(&a),
        asks(&b),
        asks(&c),
        answered(StepStop::ToolCalls, None),
    ]);
    assert_eq!(machine.calls_within_budget(), 2);
    assert_eq!((machine.place_of(a.id), machine.place_of(c.id)), (Some(0), Some(2)));
}

#[test]
fn cancelling_gives_every_open_call_an_end() {
    let (a, b, c) = (call(), call(), call());
    let machine = after(&[
        queued(),
        started(Budget::default()),
        step(1),
        asks(&a),
        asks(&b),
        asks(&c),
        answered(StepStop::ToolCalls, None),
        runs(&a),
        runs(&b),
        settles(&a),
    ]);
    let events = machine.cancellation();
    let ended: Vec<_> = events.iter().filter_map(completed_call).collect();
    assert_eq!(ended, [(b.id, CallStatus::Cancelled), (c.id, CallStatus::Cancelled)]);
    assert!(matches!(events.last().unwrap().body, EventBody::TurnCancelled { .. }));
}

#[test]
fn a_host_that_stopped_knows_which_calls_it_left_in_flight() {
    let (a, b) = (call(), call());
    let machine = after(&[
        queued(),
        started(Budget::default()),
        step(1),
        asks(&a),
        asks(&b),
        answered(StepStop::ToolCalls, None),
        runs(&b),
    ]);
    assert_eq!(machine.calls_in_flight(), [b]);
    assert_eq!(machine.decide(), Next::RunCalls(vec![a]));
}

#[test]
fn after_the_end_nothing_counts() {
    let mut machine = after(&[
        queued(),
        started(Budget::default()),
        EventBody::TurnCancelled { usage: None },
    ]);
    machine.apply(&step(7));
    machine.apply(&EventBody::TurnCompleted {
        stop_reason: StopReason::EndTurn,
        output: Vec::new(),
        usage: None,
    });
    assert_eq!(
        (machine.decide(), machine.status()),
        (Next::Nothing, TurnStatus::Cancelled)
    );
}

#[test]
fn results_stand_behind_their_answer_in_the_order_of_the_requests() {
    let (a, b) = (call(), call());
    let mut transcript = Transcript::default();
    for event in [
        queued(),
        step(1),
        says("x"),
        asks(&a),
        asks(&b),
        answered(StepStop::ToolCalls, None),
        settles(&b),
        settles(&a),
        step(2),
    ] {
        transcript.apply(&event);
    }
    let messages = transcript.messages();
    let calls: Vec<_> = messages
        .iter()
        .filter_map(|m| {
            if let Message::Tool { call, .. } = m {
                Some(*call)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(calls, [a.id, b.id]);
    assert!(matches!(&messages[1], Message::Assistant { parts } if parts.len() == 3));
}

#[test]
fn an_answer_that_broke_off_is_not_shown_to_the_model_again() {
    let mut transcript = Transcript::default();
    for event in [queued(), step(1), says("half an ans")] {
        transcript.apply(&event);
    }
    assert_eq!(
        transcript.messages(),
        [Message::User {
            content: vec![Content::text("hi")]
        }]
    );
}

fn completed_call(event: &NewEvent) -> Option<(CallId, CallStatus)> {
    match &event.body {
        EventBody::ToolCompleted { call, status, .. } => Some((*call, *status)),
        _ => None,
    }
}

/// What a driver would record: the machine is asked, and answered with made-up outcomes.
fn play(budget: Budget, choices: &[(u8, bool)], cut: usize) -> Vec<EventBody> {
    let mut events = vec![queued()];
    let mut machine = after(&events);
    let mut choices = choices.iter().copied();
    loop {
        let (calls, fails) = choices.next().unwrap_or((0, false));
        let new: Vec<EventBody> = match machine.decide() {
            Next::Begin => vec![started(budget)],
            Next::BeginStep(number) => vec![step(number)],
            Next::AskModel(_) if fails => {
                let error = TurnError {
                    code: TurnErrorCode::ModelUnavailable,
                    message: "gone".into(),
                };
                machine.failure(error).into_iter().map(|event| event.body).collect()
            }
            Next::AskModel(_) => {
                let asked: Vec<_> = (0..calls % 4).map(|_| asks(&call())).collect();
                let stop = if asked.is_empty() {
                    StepStop::Stop
                } else {
                    StepStop::ToolCalls
                };
                [vec![says("text")], asked, vec![answered(stop, None)]].concat()
            }
            Next::RunCalls(calls) if calls.is_empty() => machine.calls_in_flight().iter().map(settles).collect(),
            Next::RunCalls(calls) => calls.iter().flat_map(|call| [runs(call), settles(call)]).collect(),
            Next::Exhaust(exhausted) => machine
                .exhaustion(exhausted)
                .into_iter()
                .map(|event| event.body)
                .collect(),
            Next::Complete(reason) => machine.completion(reason).into_iter().map(|event| event.body).collect(),
            Next::Nothing => return events,
        };
        assert!(!new.is_empty(), "a decision that records nothing would never end");
        for event in new {
            if events.len() == cut {
                return events;
            }
            machine.apply(&event);
            events.push(event);
        }
    }
}

proptest! {
    #[test]
    fn a_journal_cut_anywhere_folds_to_a_turn_that_can_end(
        choices in prop::collection::vec((0_u8..4, prop::bool::weighted(0.1)), 0..12),
        cut in 1_usize..60,
    ) {
        let budget = Budget { steps: Some(6), ..Budget::default() };
        let mut events = play(budget, &choices, cut);
        let mut machine = after(&events);
        // What a restarted host does: settle what it left in flight, then go on.
        for call in machine.calls_in_flight() {
            machine.apply(&settles(&call));
            events.push(settles(&call));
        }
        for _ in 0..100 {
            let new: Vec<EventBody> = match machine.decide() {
                Next::Nothing => break,
                Next::Begin => vec![started(budget)],
                Next::BeginStep(number) => vec![step(number)],
                Next::AskModel(_) => vec![answered(StepStop::Stop, None)],
                Next::RunCalls(calls) => calls.iter().flat_map(|call| [runs(call), settles(call)]).collect(),
                Next::Exhaust(exhausted) => machine.exhaustion(exhausted).into_iter().map(|event| event.body).collect(),
                Next::Complete(reason) => machine.completion(reason).into_iter().map(|event| event.body).collect(),
            };
            for event in new {
                machine.apply(&event);
                events.push(event);
            }
        }
        prop_assert!(machine.has_ended());
        prop_assert_eq!(events.iter().filter(|event| event.is_terminal()).count(), 1);
        let starts = events.iter().filter_map(|event| if let EventBody::ToolStarted { call, .. } = event { Some(*call) } else { None });
        let mut starts: Vec<_> = starts.collect();
        let all = starts.len();
        starts.sort_unstable();
        starts.dedup();
        prop_assert_eq!(starts.len(), all, "no call starts twice");
        let mut transcript = Transcript::default();
        events.iter().for_each(|event| transcript.apply(event));
        let (mut asked, mut answered) = (0, 0);
        for message in transcript.messages() {
            match message {
                Message::Assistant { parts } => {
                    prop_assert_eq!(asked, answered, "every call has its result before the next answer");
                    asked += parts.iter().filter(|part| matches!(part, fumehood_core::message::AssistantPart::ToolCall(_))).count();
                }
                Message::Tool { .. } => answered += 1,
                Message::User { .. } => {}
            }
        }
        prop_assert_eq!(asked, answered);
    }
}
