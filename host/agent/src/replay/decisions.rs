//! What was decided in a turn, asked of the machine again: with the answers of the model and of the tools as the journal has them.
//!
//! Three things decide that are not in the journal: how long the turn has been worked, how full the conversation was, and what the
//! client asked for meanwhile. So a decision is the same if it is what the machine says under any of those.

use super::{DecisionsReplayed, Difference};
use crate::{
    machine::{Client, Context, Next, Seen, TurnMachine},
    worked::Worked,
};
use fumehood_core::{
    event::{Event, EventBody},
    id::TurnId,
    turn::{BudgetScope, TurnErrorCode, WaitingFor},
};
use std::time::Duration;

/// Folds the journal of a turn that has ended, and compares each decision.
pub(super) fn replay(turn: TurnId, events: &[Event]) -> DecisionsReplayed {
    let (mut machine, mut worked) = (TurnMachine::new(turn), Worked::default());
    let mut replayed = DecisionsReplayed {
        compared: 0,
        differs: None,
    };
    let mut used_up = false;
    for event in events.iter().filter(|event| event.turn == Some(turn)) {
        worked.apply(&event.body, event.time);
        used_up |= matches!(
            event.body,
            EventBody::BudgetExhausted {
                scope: BudgetScope::Org | BudgetScope::Session,
                ..
            }
        );
        if let Some(is_it) = expected(&event.body, used_up)
            && replayed.differs.is_none()
        {
            replayed.compared += 1;
            if !nexts(&machine, worked.so_far()).any(|next| is_it(&machine, &next)) {
                let at = format!("the decision before event {}", event.seq.unwrap_or_default());
                let now = machine.decide(&Seen::default());
                replayed.differs = Some(Difference::new(at, event.body.type_name(), name(&now)));
            }
        }
        machine.apply(&event.body);
    }
    replayed
}

/// What the machine may decide, whatever is not in the journal.
fn nexts(machine: &TurnMachine, worked: Duration) -> impl Iterator<Item = Next> {
    let clients = [Client::Waits, Client::Steers, Client::Stops];
    let contexts = [Context::Room, Context::NearlyFull];
    let elapsed = [worked, Duration::ZERO, Duration::MAX];
    let seen = elapsed.into_iter().flat_map(move |elapsed| {
        contexts.into_iter().flat_map(move |context| {
            clients.into_iter().map(move |client| Seen {
                elapsed,
                context,
                client,
            })
        })
    });
    seen.map(|seen| machine.decide(&seen))
}

type Expected<'e> = Box<dyn Fn(&TurnMachine, &Next) -> bool + 'e>;

/// Which decision an event tells of; none where it is the driver's, a tool's or a person's.
fn expected(body: &EventBody, used_up: bool) -> Option<Expected<'_>> {
    Some(match body {
        EventBody::TurnStarted { .. } => Box::new(|_, next| *next == Next::Begin),
        EventBody::BudgetWarning {
            scope: BudgetScope::Turn,
            ..
        } => Box::new(|_, next| matches!(next, Next::Warn(_))),
        EventBody::TurnSteered { .. } => Box::new(|_, next| *next == Next::Steer),
        // Also asked for where a provider refuses the conversation as too long.
        EventBody::CompactionStarted { .. } => {
            Box::new(|_, next| matches!(next, Next::Compact | Next::AskModel { .. }))
        }
        EventBody::StepStarted { step, notes, .. } => Box::new(move |_, next| match next {
            // Those of other tools on offer come after the machine's.
            Next::BeginStep { step: now, notes: own } => now == step && notes.starts_with(own),
            _ => false,
        }),
        EventBody::StepCompleted { step, .. } => {
            Box::new(move |_, next| matches!(next, Next::AskModel { step: now, .. } if now == step))
        }
        EventBody::ToolStarted { call, .. } => Box::new(move |_, next| match next {
            Next::RunCalls(open) => open.iter().any(|open| open.call.id == *call),
            _ => false,
        }),
        EventBody::TurnPaused { waiting_for, .. } => Box::new(move |_, next| match next {
            Next::Park(now) => now == waiting_for,
            // A person decides first; what a client runs beside that is still to be handed to it.
            Next::RunCalls(_) => *waiting_for == WaitingFor::Approval,
            _ => false,
        }),
        EventBody::OutputValidated { attempt, .. } | EventBody::OutputRejected { attempt, .. } => {
            Box::new(move |_, next| matches!(next, Next::ValidateOutput { attempt: now } if now == attempt))
        }
        EventBody::TurnCompleted { stop_reason, .. } => Box::new(move |machine, next| {
            let decided = match next {
                Next::Complete(reason) => reason == stop_reason,
                Next::Exhaust(exhausted) => exhausted.stop_reason == *stop_reason,
                // A budget of the org or the session, which the machine does not know.
                _ => used_up,
            };
            let completion = machine.completion(*stop_reason);
            decided && completion.last().is_some_and(|last| same_answer(&last.body, body))
        }),
        // Other failures are the model's, a hook's or the host's; a cancel is the client's.
        EventBody::TurnFailed { error, .. } if error.code == TurnErrorCode::OutputInvalid => {
            Box::new(|_, next| matches!(next, Next::Fail(now) if now.code == TurnErrorCode::OutputInvalid))
        }
        _ => return None,
    })
}

fn same_answer(one: &EventBody, other: &EventBody) -> bool {
    match (one, other) {
        (EventBody::TurnCompleted { output: one, .. }, EventBody::TurnCompleted { output: other, .. }) => one == other,
        _ => false,
    }
}

const fn name(next: &Next) -> &'static str {
    match next {
        Next::Begin => "to begin the turn",
        Next::Warn(_) => "to warn of a budget",
        Next::Steer => "to take up what the client added",
        Next::Compact => "to sum up the conversation",
        Next::BeginStep { .. } => "to begin a step",
        Next::AskModel { .. } => "to ask the model",
        Next::RunCalls(_) => "to run calls",
        Next::Park(_) => "to wait for somebody",
        Next::Wait => "to go on waiting",
        Next::ValidateOutput { .. } => "to validate the output",
        Next::Exhaust(_) => "to end the turn, with a budget used up",
        Next::Complete(_) => "to complete the turn, with this answer",
        Next::Fail(_) => "to fail the turn",
        Next::Cancel => "to cancel the turn",
        Next::Nothing => "nothing: the turn has ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{
        content::Content,
        id::{EventId, SessionId},
        name::OrgName,
    };
    use serde_json::{Value, json};

    fn journal(turn: TurnId, bodies: &[Value]) -> Vec<Event> {
        let event = |(seq, body): (u64, &Value)| Event {
            id: EventId::new(),
            seq: Some(seq),
            time: fumehood_core::now(),
            org: OrgName::default_org(),
            session: SessionId::from_uuid(turn.uuid()),
            turn: Some(turn),
            source: fumehood_core::event::Source::Host,
            body: serde_json::from_value(body.clone()).unwrap(),
        };
        (1..).zip(bodies).map(event).collect()
    }

    fn said(answer: &str) -> Vec<Value> {
        let output = json!([Content::text(answer)]);
        vec![
            json!({"type": "turn.queued", "data": {"input": [Content::text("hi")]}}),
            json!({"type": "turn.started", "data": {"agent": "a", "model": "main", "tools": [], "budget": {}}}),
            json!({"type": "step.started", "data": {"step": 1}}),
            json!({"type": "text.completed", "data": {"step": 1, "text": "hello"}}),
            json!({"type": "step.completed", "data": {"step": 1, "stop_reason": "stop"}}),
            json!({"type": "turn.completed", "data": {"stop_reason": "end_turn", "output": output}}),
        ]
    }

    #[test]
    fn a_turn_that_was_decided_so_is_decided_so_again() {
        let turn = TurnId::new();
        let replayed = super::replay(turn, &journal(turn, &said("hello")));
        assert_eq!((replayed.compared, replayed.differs), (4, None));
    }

    #[test]
    fn an_answer_that_does_not_follow_is_the_difference() {
        let turn = TurnId::new();
        let differs = super::replay(turn, &journal(turn, &said("something else")))
            .differs
            .unwrap();
        assert_eq!(differs.at, "the decision before event 6");
        assert_eq!(differs.recorded, "turn.completed");
    }

    const CALL: &str = "call_018f3c5b7d2a7c3e9f00112233445566";
    const OTHER: &str = "call_018f3c5b7d2a7c3e9f00112233445567";

    fn queued() -> Value {
        json!({"type": "turn.queued", "data": {"input": [Content::text("hi")]}})
    }

    fn begun() -> Vec<Value> {
        vec![
            queued(),
            json!({"type": "turn.started", "data": {"agent": "a", "model": "main", "tools": [], "budget": {}}}),
            json!({"type": "step.started", "data": {"step": 1}}),
        ]
    }

    fn asks(call: &str) -> Value {
        json!({"type": "tool.requested", "data": {"step": 1, "call": {"id": call, "tool": "build", "arguments": {}}}})
    }

    fn asked() -> Value {
        json!({"type": "step.completed", "data": {"step": 1, "stop_reason": "tool_calls"}})
    }

    fn starts(call: &str, attempt: u32) -> Value {
        let component = json!({"name": "builder", "digest": format!("sha256:{}", "0".repeat(64))});
        json!({"type": "tool.started", "data": {
            "call": call, "tool": "build", "component": component, "effect": "pure", "attempt": attempt,
        }})
    }

    fn ends(call: &str) -> Value {
        json!({"type": "tool.completed", "data": {
            "call": call, "tool": "build", "status": "ok", "output": {"content": []},
            "metering": fumehood_core::call::Metering::default(),
        }})
    }

    fn pauses(waiting_for: &str) -> Value {
        json!({"type": "turn.paused", "data": {"waiting_for": waiting_for}})
    }

    fn resumes(waited_for: &str) -> Value {
        json!({"type": "turn.resumed", "data": {"waited_for": waited_for}})
    }

    /// The rest of a turn whose calls have ended.
    fn answered() -> Vec<Value> {
        let output = json!([Content::text("built")]);
        vec![
            json!({"type": "step.started", "data": {"step": 2}}),
            json!({"type": "text.completed", "data": {"step": 2, "text": "built"}}),
            json!({"type": "step.completed", "data": {"step": 2, "stop_reason": "stop"}}),
            json!({"type": "turn.completed", "data": {"stop_reason": "end_turn", "output": output}}),
        ]
    }

    fn differs(bodies: &[Value]) -> Option<(String, String)> {
        let turn = TurnId::new();
        let differs = super::replay(turn, &journal(turn, bodies)).differs;
        differs.map(|one| (one.at, one.replayed))
    }

    fn handed_on() -> Value {
        json!({"type": "tool.detached", "data": {
            "call": CALL, "tool": "build", "callback": "cbk_018f3c5b7d2a7c3e9f00112233445566",
            "token": format!("sha256:{}", "0".repeat(64)), "expires": "2026-01-01T00:00:00Z",
        }})
    }

    #[test]
    fn a_call_that_was_handed_on_and_ended_outside_is_decided_so_again() {
        let parked = [
            begun(),
            vec![asks(CALL), asked(), starts(CALL, 1), handed_on(), pauses("results")],
        ]
        .concat();
        let ended = [parked.clone(), vec![ends(CALL), resumes("results")], answered()].concat();
        assert_eq!(differs(&ended), None);
        // Without its result there is nothing to go on with.
        let early = [parked, vec![resumes("results")], answered()].concat();
        assert_eq!(
            differs(&early),
            Some(("the decision before event 10".into(), "to wait for somebody".into()))
        );
    }

    #[test]
    fn calls_and_a_step_that_began_anew_after_a_stop_are_decided_so_again() {
        let again = [
            begun(),
            // The model is asked anew, and then a call runs again beside one that had ended.
            vec![json!({"type": "step.restarted", "data": {"step": 1}})],
            vec![asks(CALL), asks(OTHER), asked()],
            vec![
                starts(CALL, 1),
                starts(OTHER, 1),
                ends(OTHER),
                starts(CALL, 2),
                ends(CALL),
            ],
            answered(),
        ]
        .concat();
        assert_eq!(differs(&again), None);
        let mut ended = again;
        // One that has its end does not run again.
        let place = ended.iter().position(|body| *body == starts(CALL, 2)).unwrap();
        ended[place] = starts(OTHER, 2);
        let (at, _) = differs(&ended).unwrap();
        assert_eq!(at, format!("the decision before event {}", place + 1));
    }

    #[test]
    fn a_call_that_waited_for_a_decision_is_decided_so_again_and_runs_not_before() {
        let waits = |call: &str| {
            json!({"type": "approval.requested", "data": {"calls": [{
                "call_id": call, "tool": "build", "arguments": {}, "rule": "ask", "fingerprint": format!("sha256:{}", "0".repeat(64)),
                "expires": "2026-01-01T00:00:00Z",
            }]}})
        };
        let decided = json!({"type": "approval.resolved", "data": {"decisions": [
            {"call_id": CALL, "decision": "approved"},
        ]}});
        let parked = [
            begun(),
            vec![asks(CALL), asks(OTHER), asked(), starts(OTHER, 1), ends(OTHER)],
            vec![waits(CALL), pauses("approval")],
        ]
        .concat();
        let approved = [
            parked.clone(),
            vec![decided, resumes("approval"), starts(CALL, 1), ends(CALL)],
            answered(),
        ]
        .concat();
        assert_eq!(differs(&approved), None);
        let unasked = [parked, vec![starts(CALL, 1), ends(CALL)], answered()].concat();
        assert_eq!(
            differs(&unasked),
            Some(("the decision before event 11".into(), "to go on waiting".into()))
        );
    }

    fn used_up(scope: &str) -> Value {
        json!({"type": "budget.exhausted", "data": {"scope": scope, "budget": "tokens", "used": 9, "limit": 9}})
    }

    fn ends_for_want() -> Value {
        json!({"type": "turn.completed", "data": {"stop_reason": "token_limit", "output": []}})
    }

    #[test]
    fn a_budget_that_others_spend_from_excuses_the_end_of_a_turn_and_its_own_does_not() {
        for (scope, excused) in [("org", true), ("session", true), ("turn", false)] {
            let mut ended = begun();
            ended.pop();
            ended.extend([used_up(scope), ends_for_want()]);
            assert_eq!(differs(&ended).is_none(), excused, "{scope}");
        }
    }

    fn rejected(attempt: u32) -> Vec<Value> {
        vec![
            json!({"type": "step.started", "data": {"step": attempt, "notes": []}}),
            json!({"type": "text.completed", "data": {"step": attempt, "text": "no"}}),
            json!({"type": "step.completed", "data": {"step": attempt, "stop_reason": "stop"}}),
            json!({"type": "output.rejected", "data": {"attempt": attempt, "faults": ["no"]}}),
        ]
    }

    #[test]
    fn a_turn_whose_answer_was_rejected_too_often_fails_then_and_not_before() {
        let failed = |code: &str| json!({"type": "turn.failed", "data": {"error": {"code": code, "message": "no"}}});
        let turn = |attempts: u32, end: Value| {
            let mut queued = queued();
            queued["data"]["output_schema"] = json!({"type": "object"});
            let started = begun()[1].clone();
            let mut bodies = vec![queued, started];
            for attempt in 1..=attempts {
                let mut attempt = rejected(attempt);
                if bodies.len() > 2 {
                    // What the model is told of the last attempt.
                    let turn = TurnId::new();
                    let mut machine = TurnMachine::new(turn);
                    machine.apply_all(&journal(turn, &bodies));
                    let Next::BeginStep { notes, .. } = machine.decide(&Seen::default()) else {
                        panic!("no step follows")
                    };
                    attempt[0]["data"]["notes"] = serde_json::to_value(notes).unwrap();
                }
                bodies.extend(attempt);
            }
            bodies.push(end);
            bodies
        };
        assert_eq!(differs(&turn(3, failed("output_invalid"))), None);
        let (_, now) = differs(&turn(2, failed("output_invalid"))).unwrap();
        assert_eq!(now, "to begin a step");
        // That the model was out of reach is nobody's decision.
        assert_eq!(differs(&turn(1, failed("model_unavailable"))), None);
        assert_eq!(differs(&turn(1, json!({"type": "turn.cancelled", "data": {}}))), None);
    }

    #[test]
    fn a_step_out_of_turn_is_the_difference() {
        let turn = TurnId::new();
        let mut bodies = said("hello");
        bodies[2] = json!({"type": "step.started", "data": {"step": 3}});
        let differs = super::replay(turn, &journal(turn, &bodies)).differs.unwrap();
        assert_eq!(differs.at, "the decision before event 3");
        assert_eq!(differs.replayed, "to begin a step");
    }
}
