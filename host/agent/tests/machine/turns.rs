//! The way of a turn, from its beginning to its one end.

use super::*;
use fumehood_agent::machine::Client;
use fumehood_core::{
    call::CallStatus,
    event::NewEvent,
    turn::{NoteKind, StopReason, TurnErrorCode, TurnStatus},
};

#[test]
fn a_turn_without_tools_begins_asks_and_completes() {
    let mut machine = after(&[]);
    machine.apply(&queued());
    assert_eq!(machine.decide(&Seen::default()), Next::Begin);
    machine.apply(&started(Budget::default()));
    assert_eq!(machine.decide(&Seen::default()), beginning(1));
    machine.apply(&step(1));
    assert_eq!(machine.decide(&Seen::default()), asking(1));
    machine.apply(&says("hello"));
    machine.apply(&answered(StepStop::Stop, None));
    assert_eq!(machine.decide(&Seen::default()), Next::Complete(StopReason::EndTurn));
    let end = machine.completion(StopReason::EndTurn);
    assert!(
        matches!(&end[0].body, EventBody::TurnCompleted { output, usage: None, .. } if *output == [Content::text("hello")])
    );
    machine.apply(&end[0].body);
    assert_eq!(
        (machine.decide(&Seen::default()), machine.status()),
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
    assert_eq!(
        machine.decide(&Seen::default()),
        Next::RunCalls(vec![unasked(&a), unasked(&b)])
    );
    machine.apply(&runs(&a));
    machine.apply(&runs(&b));
    machine.apply(&settles(&b));
    assert_eq!(
        machine.decide(&Seen::default()),
        Next::RunCalls(vec![unfinished(&a, Effect::AtMostOnce, 1)]),
        "nothing new to start, and not done"
    );
    machine.apply(&settles(&a));
    assert_eq!(machine.decide(&Seen::default()), beginning(2));
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
        assert_eq!(machine.decide(&Seen::default()), Next::Complete(reason));
    }
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
fn a_host_that_stopped_knows_what_it_left_in_flight_and_what_of_it_may_run_again() {
    let (a, b, c) = (call(), call(), call());
    let mut machine = after(&[
        queued(),
        started(Budget::default()),
        step(1),
        asks(&a),
        asks(&b),
        asks(&c),
        answered(StepStop::ToolCalls, None),
        runs(&b),
        runs_as(&c, Effect::Idempotent, 1),
        runs_as(&c, Effect::Idempotent, 2),
    ]);
    assert_eq!(machine.calls_lost(), std::slice::from_ref(&b));
    machine.apply(&interrupts(&b));
    let open = vec![unasked(&a), unfinished(&c, Effect::Idempotent, 2)];
    assert_eq!(machine.decide(&Seen::default()), Next::RunCalls(open));
    machine.apply(&EventBody::ToolCommitted {
        call: c.id,
        tool: ToolName::new("send").unwrap(),
    });
    assert_eq!(machine.calls_lost(), [c], "it has called a tool that may run once");
}

#[test]
fn a_call_that_runs_again_and_makes_another_call_than_before_is_noticed() {
    let (a, made) = (call(), CallId::new());
    let called = |made: CallId, code: &[u8]| EventBody::ToolCalled {
        call: a.id,
        made,
        tool: ToolName::new("send").unwrap(),
        component: ComponentRef {
            name: ComponentName::new("mail").unwrap(),
            digest: Digest::of(code),
        },
        fingerprint: Digest::of(code),
    };
    let machine = after(&[
        queued(),
        started(Budget::default()),
        step(1),
        asks(&a),
        answered(StepStop::ToolCalls, None),
        runs_as(&a, Effect::Idempotent, 1),
        called(made, b"1"),
        runs_as(&a, Effect::Idempotent, 2),
    ]);
    assert!(machine.contradicted_by(&called(made, b"1")).is_none());
    assert!(machine.contradicted_by(&called(CallId::new(), b"2")).is_none());
    let other = called(made, b"2");
    let (call, tool) = machine.contradicted_by(&other).unwrap();
    assert_eq!((call.id, tool.as_str()), (a.id, "send"));
}

#[test]
fn what_was_decided_about_a_call_is_known_when_it_runs_again() {
    let a = call();
    let mut events = begun();
    events.extend([
        step(1),
        asks(&a),
        answered(StepStop::ToolCalls, None),
        holds(&a),
        PAUSED,
    ]);
    events.extend([decides(&a, ApprovalOutcome::Approved), RESUMED]);
    events.extend([runs_as(&a, Effect::Pure, 1), runs_as(&a, Effect::Pure, 2)]);
    let Next::RunCalls(open) = next(&events) else {
        panic!("{:?}", next(&events))
    };
    let Verdict::Unfinished { before, attempt } = &open[0].verdict else {
        panic!("{open:?}")
    };
    assert!(matches!(**before, Verdict::Approved { .. }) && attempt.number == 2);
}

#[test]
fn a_call_of_which_nothing_is_known_but_that_it_began_does_not_run_again() {
    let a = call();
    let old = json!({"type": "tool.started", "data": {
        "call": a.id, "tool": "add", "component": {"name": "math", "digest": Digest::of(b"")},
    }});
    let mut events = begun();
    events.extend([step(1), asks(&a), answered(StepStop::ToolCalls, None)]);
    events.push(serde_json::from_value(old).unwrap());
    assert_eq!(after(&events).calls_lost(), [a]);
}

#[test]
fn after_the_end_nothing_counts() {
    let mut machine = after(&[
        queued(),
        started(Budget::default()),
        EventBody::TurnCancelled {
            usage: None,
            cost: None,
            worked_ms: None,
        },
    ]);
    machine.apply(&step(7));
    machine.apply(&EventBody::TurnCompleted {
        stop_reason: StopReason::EndTurn,
        output: Vec::new(),
        usage: None,
        cost: None,
        worked_ms: None,
    });
    assert_eq!(
        (machine.decide(&Seen::default()), machine.status()),
        (Next::Nothing, TurnStatus::Cancelled)
    );
}

#[test]
fn a_call_that_waits_for_a_decision_parks_the_turn_and_goes_on_with_it() {
    let (a, b) = (call(), call());
    let mut events = begun();
    events.extend([
        step(1),
        asks(&a),
        asks(&b),
        answered(StepStop::ToolCalls, None),
        runs(&b),
        settles(&b),
    ]);
    assert_eq!(next(&events), Next::RunCalls(vec![unasked(&a)]));
    events.push(holds(&a));
    assert_eq!(next(&events), Next::Park(WaitingFor::Approval));
    events.push(PAUSED);
    assert_eq!(
        (next(&events), after(&events).status()),
        (Next::Wait, TurnStatus::AwaitingApproval)
    );
    events.extend([decides(&a, ApprovalOutcome::Approved), RESUMED]);
    let approved = OpenCall {
        call: a.clone(),
        verdict: Verdict::Approved {
            fingerprint: Digest::of(b""),
            asked: a.arguments.as_object(),
            edited: None,
            feedback: None,
        },
    };
    assert_eq!(next(&events), Next::RunCalls(vec![approved]));
    events.extend([runs(&a), settles(&a)]);
    assert_eq!(next(&events), beginning(2));
}

#[test]
fn a_call_that_waits_for_a_result_parks_the_turn_which_goes_on_with_the_next_step() {
    let (a, b) = (call(), call());
    let mut events = begun();
    events.extend([step(1), asks(&a), asks(&b), answered(StepStop::ToolCalls, None)]);
    events.extend([hands_over(&a), hands_over(&b)]);
    assert_eq!(next(&events), Next::Park(WaitingFor::Results));
    events.push(EventBody::TurnPaused {
        waiting_for: WaitingFor::Results,
        worked_ms: None,
    });
    assert_eq!(
        (next(&events), after(&events).status()),
        (Next::Wait, TurnStatus::AwaitingResults)
    );
    events.push(settles(&b));
    let waiting: Vec<_> = after(&events).calls_awaited().iter().map(|call| call.call_id).collect();
    assert_eq!(waiting, [a.id]);
    assert_eq!(next(&events), Next::Wait);
    events.push(settles(&a));
    events.push(EventBody::TurnResumed {
        waited_for: WaitingFor::Results,
    });
    assert_eq!(next(&events), beginning(2));
    let cancelled = after(&events[..events.len() - 3]).cancellation();
    let ends = cancelled
        .iter()
        .filter(|event| matches!(event.body, EventBody::ToolCompleted { .. }));
    assert_eq!(ends.count(), 2, "each call has an end");
}

#[test]
fn a_call_that_was_handed_on_never_runs_again_and_ends_no_step_before_it_has_its_end() {
    for effect in [Effect::Pure, Effect::Idempotent, Effect::AtMostOnce] {
        let (a, b) = (call(), call());
        let mut events = begun();
        events.extend([step(1), asks(&a), asks(&b), answered(StepStop::ToolCalls, None)]);
        events.extend([runs_as(&a, effect, 1), runs_as(&b, Effect::Pure, 1), detaches(&a)]);
        // The host stops here: the other one runs again, this one is not lost either.
        assert_eq!(next(&events), Next::RunCalls(vec![unfinished(&b, Effect::Pure, 1)]));
        assert_eq!(after(&events).calls_lost(), []);
        events.push(settles(&b));
        assert_eq!(next(&events), Next::Park(WaitingFor::Results));
        events.push(EventBody::TurnPaused {
            waiting_for: WaitingFor::Results,
            worked_ms: None,
        });
        assert_eq!(
            (next(&events), after(&events).status()),
            (Next::Wait, TurnStatus::AwaitingResults)
        );
        let waiting = after(&events).calls_detached();
        assert_eq!(waiting.iter().map(|handed| handed.call.id).collect::<Vec<_>>(), [a.id]);
        assert_eq!(after(&events).calls_awaited(), []);
        let ends = after(&events).cancellation();
        let why = ends.iter().filter_map(|event| match &event.body {
            EventBody::ToolCompleted {
                call,
                error: Some(error),
                ..
            } if *call == a.id => Some(error.message.as_str()),
            _ => None,
        });
        let why: Vec<_> = why.collect();
        assert!(
            why.len() == 1 && why[0].contains("the work may go on outside"),
            "a cancelled turn ends it, and says what that does not end: {why:?}"
        );
        events.push(settles(&a));
        events.push(EventBody::TurnResumed {
            waited_for: WaitingFor::Results,
        });
        assert_eq!(next(&events), beginning(2));
    }
}

#[test]
fn a_call_that_fails_after_it_was_handed_on_has_its_end() {
    let a = call();
    let mut events = begun();
    events.extend([step(1), asks(&a), answered(StepStop::ToolCalls, None)]);
    events.extend([runs(&a), detaches(&a), fails(&a)]);
    assert_eq!(next(&events), beginning(2));
    assert_eq!(after(&events).calls_detached(), []);
}

#[test]
fn a_decision_is_used_once() {
    let a = call();
    let mut events = begun();
    events.extend([step(1), asks(&a), answered(StepStop::ToolCalls, None)]);
    // Nobody asked yet.
    events.push(decides(&a, ApprovalOutcome::Approved));
    assert_eq!(next(&events), Next::RunCalls(vec![unasked(&a)]));
    events.extend([holds(&a), PAUSED, decides(&a, ApprovalOutcome::Rejected), RESUMED]);
    events.push(decides(&a, ApprovalOutcome::Approved));
    let Next::RunCalls(open) = next(&events) else {
        panic!("{:?}", next(&events))
    };
    assert!(matches!(
        open[0].verdict,
        Verdict::Refused {
            outcome: ApprovalOutcome::Rejected,
            ..
        }
    ));
}

#[test]
fn a_call_that_waits_for_a_decision_gets_an_end_when_the_turn_is_cancelled() {
    let a = call();
    let mut events = begun();
    events.extend([
        step(1),
        asks(&a),
        answered(StepStop::ToolCalls, None),
        holds(&a),
        PAUSED,
    ]);
    let ended = after(&events).cancellation();
    let ended: Vec<_> = ended.iter().filter_map(completed_call).collect();
    assert_eq!(ended, [(a.id, CallStatus::Cancelled)]);
}

#[test]
fn calls_that_were_cut_off_are_named_to_the_model() {
    let mut events = begun();
    events.extend([step(1), says("half"), cut_off(&["write", "read"])]);
    let Next::BeginStep { step: 2, notes } = next(&events) else {
        panic!("{:?}", next(&events))
    };
    assert_eq!(notes[0].kind, NoteKind::Truncated);
    assert!(notes[0].text.contains("write, read"), "{}", notes[0].text);
}

#[test]
fn an_answer_that_must_follow_a_schema_is_checked_and_repaired_so_often() {
    let mut events = vec![queued_with_schema(), started(Budget::default())];
    for attempt in 1..=3 {
        let Next::BeginStep { step: number, notes } = next(&events) else {
            panic!("{:?}", next(&events))
        };
        assert_eq!(number, u64::from(attempt));
        assert_eq!(notes.len(), usize::from(attempt > 1), "{notes:?}");
        events.push(step_with(number, notes));
        let tools = if attempt == 1 {
            ToolUse::Allowed
        } else {
            ToolUse::Withheld
        };
        assert_eq!(next(&events), Next::AskModel { step: number, tools });
        events.extend([says("{}"), answered(StepStop::Stop, None)]);
        assert_eq!(next(&events), Next::ValidateOutput { attempt });
        events.push(rejects(attempt));
    }
    let Next::Fail(error) = next(&events) else {
        panic!("{:?}", next(&events))
    };
    assert_eq!(error.code, TurnErrorCode::OutputInvalid);
}

#[test]
fn an_answer_that_follows_its_schema_is_the_output_as_a_value() {
    let mut events = vec![
        queued_with_schema(),
        started(Budget::default()),
        step(1),
        says("{\"a\": 1}"),
    ];
    events.push(answered(StepStop::Stop, None));
    events.push(EventBody::OutputValidated {
        attempt: 1,
        value: json!({"a": 1}),
    });
    assert_eq!(next(&events), Next::Complete(StopReason::EndTurn));
    let end = after(&events).completion(StopReason::EndTurn);
    assert!(
        matches!(&end[0].body, EventBody::TurnCompleted { output, .. } if *output == [Content::Json { json: json!({"a": 1}) }])
    );
}

fn completed_call(event: &NewEvent) -> Option<(CallId, CallStatus)> {
    match &event.body {
        EventBody::ToolCompleted { call, status, .. } => Some((*call, *status)),
        _ => None,
    }
}

#[test]
fn what_no_step_would_read_does_not_become_part_of_the_turn() {
    let one_step = Budget {
        steps: Some(1),
        ..Budget::default()
    };
    let warned = EventBody::BudgetWarning {
        scope: fumehood_core::turn::BudgetScope::Turn,
        budget: "steps".into(),
        percent: 100,
        used: 1,
        limit: 1,
    };
    let last = [
        queued(),
        started(one_step),
        step(1),
        says("x"),
        answered(StepStop::Stop, None),
        warned,
    ];
    let steers = Seen {
        client: Client::Steers,
        ..Seen::default()
    };
    assert_eq!(
        after(&last).decide(&steers),
        Next::Complete(StopReason::EndTurn),
        "it is a turn of its own, and this one is complete"
    );
}
