//! Turns that a stop of the host, or another host, cut into.

use crate::{
    hooks::guests::{Does, hook},
    house::{House, kinds},
};
use fumehood_core::{
    approval::fingerprint,
    call::{Arguments, Metering},
    content::Content,
    digest::Digest,
    event::{NewEvent, Source},
    id::{CallId, SessionId, TurnId},
    name::{ComponentName, OrgName},
    now,
    turn::Budget,
};
use fumehood_store::{
    lease::{Fence, HostId, Lease, Taken},
    record::{CancelAt, IfBusy, NewTurn},
};
use serde_json::{Value, json};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// A session in which a turn waits for its model: the session's path, and the turn.
async fn waiting_for_the_model(house: &House) -> (String, TurnId) {
    let session = house.session().await;
    let submitted = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "hi"}))
        .with("prefer", "respond-async");
    let turn = submitted.answer().await.json()["id"].as_str().unwrap().parse().unwrap();
    house.has_asked(1).await;
    (session, turn)
}

/// Takes a turn as another host would, once the lease of this one has ended.
async fn taken_over(house: &House, turn: TurnId, host: HostId, until: fumehood_core::Time) -> (Fence, u32) {
    let (org, at) = (OrgName::default_org(), now() + HOUR);
    let lease = Lease { host, at, until };
    match house.host.store().take_turn(&org, turn, lease).await.unwrap() {
        Some(Taken::Mine { fence, recoveries, .. }) => (fence, recoveries),
        other => panic!("{other:?}"),
    }
}

/// Waits for the turn's end, and gives all events of the session.
async fn events_at_the_end(house: &House, session: &str, turn: TurnId) -> Vec<Value> {
    house
        .get(&format!("{session}/events?turn={turn}"))
        .stream()
        .await
        .rest()
        .await;
    events(house, session).await
}

async fn events(house: &House, session: &str) -> Vec<Value> {
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    events.answer().await.json()["items"].as_array().unwrap().clone()
}

fn of<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

fn new_turn() -> NewTurn {
    NewTurn {
        id: TurnId::new(),
        input: vec![Content::text("hi")],
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
        idempotency: None,
        replaces: None,
        ends: None,
        if_busy: IfBusy::Refuse,
    }
}

#[tokio::test]
async fn what_a_host_finishes_late_of_a_turn_that_another_has_taken_does_not_count() {
    let house = House::new().await;
    let told = house.next_answer();
    let (session, turn) = waiting_for_the_model(&house).await;
    let (fence, _) = taken_over(&house, turn, HostId::new(), now() + 2 * HOUR).await;
    told.says("Too late.");
    // The other host is done with it, and leaves it to whoever comes next.
    house.host.store().let_go(fence).await.unwrap();
    let goes_on = async {
        loop {
            house.host.recover().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let events = tokio::select! {
        events = events_at_the_end(&house, &session, turn) => events,
        () = goes_on => unreachable!(),
    };
    let said: Vec<_> = of(&events, "text.completed")
        .iter()
        .map(|said| &said["data"]["text"])
        .collect();
    assert_eq!(said, ["Hello."]);
    assert_eq!(of(&events, "step.completed").len(), 1);
    assert_eq!(of(&events, "turn.completed").len(), 1);
}

#[tokio::test]
async fn a_turn_that_ends_its_host_each_time_is_given_up_with_a_reason() {
    let mut house = House::new().await;
    let _never = house.next_answer();
    let (session, turn) = waiting_for_the_model(&house).await;
    // Hosts that took it and were gone before anything came of it.
    let gone = HostId::new();
    for times in 1..=3 {
        let (_, recoveries) = taken_over(&house, turn, gone, now()).await;
        assert_eq!(recoveries, times);
    }
    house = house.restarted().await;
    let events = events_at_the_end(&house, &session, turn).await;
    let failed = of(&events, "turn.failed");
    assert_eq!(failed.len(), 1, "{events:?}");
    assert_eq!(failed[0]["data"]["error"]["code"], "interrupted");
    assert_eq!(house.asked().len(), 1, "it was not worked again");
    // The session goes on.
    let next = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    assert_eq!(next.answer().await.json()["status"], "completed");
}

#[tokio::test]
async fn turns_that_may_be_what_ends_their_hosts_are_gone_on_with_one_after_the_other() {
    let mut house = House::new().await;
    let mut held = Vec::new();
    let mut turns = Vec::new();
    for number in 1..=3 {
        held.push(house.next_answer());
        let session = house.session().await;
        let submitted = house
            .post(&format!("{session}/turns"))
            .json(&json!({"input": "hi"}))
            .with("prefer", "respond-async");
        let turn: TurnId = submitted.answer().await.json()["id"].as_str().unwrap().parse().unwrap();
        house.has_asked(number).await;
        turns.push((session, turn));
    }
    // A host that worked all of them, and was gone; the one before had been as well.
    let gone = HostId::new();
    for (_, turn) in &turns {
        let (_, recoveries) = taken_over(&house, *turn, gone, now()).await;
        assert_eq!(recoveries, 1);
    }
    drop(held);
    let first = house.next_answer();
    house = house.restarted().await;
    house.host.recover().await.unwrap();
    house.has_asked(4).await;
    for _ in 0..200 {
        house.host.recover().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(house.asked().len(), 4, "one of them is worked");
    first.says("Hello.");
    for (session, turn) in &turns {
        let events = events_at_the_end(&house, session, *turn).await;
        assert_eq!(of(&events, "turn.completed").len(), 1, "{events:?}");
    }
}

#[tokio::test]
async fn stops_that_let_go_of_a_turn_do_not_count_against_it() {
    let mut house = House::new().await;
    let mut never = vec![house.next_answer()];
    let (session, turn) = waiting_for_the_model(&house).await;
    for stops in 1..=5 {
        never.push(house.next_answer());
        house = house.restarted().await;
        house.has_asked(stops + 1).await;
    }
    never.pop().unwrap().says("Hello.");
    let events = events_at_the_end(&house, &session, turn).await;
    assert_eq!(of(&events, "turn.completed").len(), 1);
}

#[tokio::test]
async fn a_turn_that_nobody_works_is_found_while_the_host_runs() {
    let house = House::new().await;
    let path = house.session().await;
    let session: SessionId = path.rsplit('/').next().unwrap().parse().unwrap();
    let new = new_turn();
    // As a host leaves it that accepts a turn and is gone.
    let org = OrgName::default_org();
    house.host.store().accept_turn(&org, session, &new).await.unwrap();
    let (_, recoveries) = taken_over(&house, new.id, HostId::new(), now()).await;
    assert_eq!(recoveries, 0);
    let events = events_at_the_end(&house, &path, new.id).await;
    assert_eq!(of(&events, "turn.completed").len(), 1);
}

/// A turn as a host leaves it that was killed while calls of `double` ran, each with the effect and the code that its claim names; and
/// taken up.
async fn killed_in_calls(house: &House, calls: &[(&str, u64, Digest)]) -> (String, TurnId) {
    let (session, fence) = left_in_calls(house, calls).await;
    house.host.store().let_go(fence).await.unwrap();
    house.host.recover().await.unwrap();
    (session, fence.turn())
}

/// The same before somebody may take it up.
async fn left_in_calls(house: &House, calls: &[(&str, u64, Digest)]) -> (String, Fence) {
    let path = house.session().await;
    let session: SessionId = path.rsplit('/').next().unwrap().parse().unwrap();
    let (org, store) = (OrgName::default_org(), house.host.store());
    let new = new_turn();
    store.accept_turn(&org, session, &new).await.unwrap();
    // Nobody else works it until all of that is in its journal.
    let (fence, _) = taken_over(house, new.id, HostId::new(), now() + 2 * HOUR).await;
    let mut bodies = begun();
    let ids: Vec<_> = calls.iter().map(|_| CallId::new()).collect();
    for (id, (_, n, _)) in ids.iter().zip(calls) {
        let call = json!({"id": id, "tool": "double", "arguments": {"n": n}});
        bodies.push(json!({"type": "tool.requested", "data": {"step": 1, "call": call}}));
    }
    bodies.push(json!({"type": "step.completed", "data": {"step": 1, "stop_reason": "tool_calls"}}));
    for (id, (effect, n, code)) in ids.iter().zip(calls) {
        let given: Arguments = serde_json::from_value(json!({"n": n})).unwrap();
        bodies.push(json!({"type": "tool.started", "data": {
            "call": id, "tool": "double", "component": {"name": "sums", "digest": code},
            "effect": effect, "fingerprint": fingerprint("double", code, &given), "attempt": 1,
        }}));
    }
    store
        .append_held(&org, session, fence, &recorded(new.id, bodies))
        .await
        .unwrap();
    (path, fence)
}

/// A turn that has ten minutes, in its first step.
fn begun() -> Vec<Value> {
    let budget = json!({"time_ms": 600_000});
    vec![
        json!({"type": "turn.started", "data": {"agent": "assistant", "model": "main", "tools": ["double"], "budget": budget}}),
        json!({"type": "step.started", "data": {"step": 1}}),
    ]
}

fn recorded(turn: TurnId, bodies: Vec<Value>) -> Vec<NewEvent> {
    let events = bodies.into_iter().map(|body| NewEvent {
        turn: Some(turn),
        source: Source::Host,
        body: serde_json::from_value(body).unwrap(),
    });
    events.collect()
}

/// The message of the one call that ended, which is interrupted.
fn interruption(events: &[Value]) -> &str {
    assert_eq!(results(events), ["interrupted"]);
    let message = &of(events, "tool.completed")[0]["data"]["error"]["message"];
    message.as_str().unwrap()
}

async fn code_of_sums(house: &House) -> Digest {
    let name = ComponentName::new("sums").unwrap();
    let component = house.host.store().component(&OrgName::default_org(), &name).await;
    component.unwrap().unwrap().digest
}

/// What the calls returned, or how they ended.
fn results(events: &[Value]) -> Vec<String> {
    let mut results: Vec<_> = of(events, "tool.completed")
        .iter()
        .map(|event| match &event["data"]["output"]["structured"] {
            Value::Null => event["data"]["status"].as_str().unwrap().to_owned(),
            value => value.to_string(),
        })
        .collect();
    results.sort();
    results
}

#[tokio::test]
async fn what_may_run_again_does_and_what_may_not_ends_as_interrupted() {
    let house = House::new().await;
    house.add_sums().await;
    let code = code_of_sums(&house).await;
    let calls = [("pure", 1, code), ("idempotent", 2, code), ("at-most-once", 3, code)];
    let (session, turn) = killed_in_calls(&house, &calls).await;
    let events = events_at_the_end(&house, &session, turn).await;
    assert_eq!(of(&events, "turn.completed").len(), 1, "{events:#?}");
    assert_eq!(of(&events, "tool.completed").len(), 3);
    let interrupted = of(&events, "tool.completed")
        .into_iter()
        .filter(|event| event["data"]["status"] == "interrupted");
    assert_eq!(interrupted.count(), 1);
    let begun = of(&events, "tool.started");
    let attempts: Vec<_> = begun
        .iter()
        .map(|event| event["data"]["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, [1, 1, 1, 2, 2]);
    for (first, again) in [(0, 3), (1, 4)] {
        for part in ["call", "fingerprint"] {
            assert_eq!(begun[first]["data"][part], begun[again]["data"][part], "{part}");
        }
    }
    assert_eq!(results(&events).len(), 3);
}

#[tokio::test]
async fn a_call_that_would_be_another_now_fails_its_turn() {
    let house = House::new().await;
    house.add_sums().await;
    let calls = [("pure", 1, Digest::of(b"the code before"))];
    let (session, turn) = killed_in_calls(&house, &calls).await;
    let events = events_at_the_end(&house, &session, turn).await;
    let failed = of(&events, "turn.failed");
    assert_eq!(failed.len(), 1, "{events:#?}");
    assert_eq!(failed[0]["data"]["error"]["code"], "diverged");
    assert_eq!(of(&events, "tool.started").len(), 1, "nothing ran again");
    assert_eq!(results(&events), ["interrupted"]);
}

#[tokio::test]
async fn a_call_whose_tool_is_gone_ends_as_interrupted_and_its_turn_goes_on() {
    let house = House::new().await;
    let calls = [("idempotent", 1, Digest::of(b"removed"))];
    let (session, turn) = killed_in_calls(&house, &calls).await;
    let events = events_at_the_end(&house, &session, turn).await;
    assert_eq!(results(&events), ["interrupted"]);
    assert_eq!(of(&events, "turn.completed").len(), 1);
}

#[tokio::test]
async fn who_saw_the_beginning_of_an_answer_is_told_that_it_is_asked_for_anew() {
    let mut house = House::new().await;
    let session = house.session().await;
    let told = house.next_answer();
    let request = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    let mut stream = request.stream().await;
    told.say("Hel");
    let seen = stream.until("text.delta").await;
    let turn: TurnId = seen.last().unwrap().data["turn"].as_str().unwrap().parse().unwrap();
    drop((stream, told));
    house = house.restarted().await;
    let events = events_at_the_end(&house, &session, turn).await;
    let restarted = of(&events, "step.restarted");
    assert_eq!(restarted.len(), 1, "{events:#?}");
    assert_eq!(restarted[0]["data"]["step"], 1);
    let said = of(&events, "text.completed");
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["data"]["text"], "Hello.");
    assert!(restarted[0]["seq"].as_u64() < said[0]["seq"].as_u64());
}

#[tokio::test]
async fn a_turn_that_nothing_cut_into_is_told_to_be_begun_anew_nowhere() {
    let house = House::new().await;
    let session = house.session().await;
    let request = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    let frames = request.stream().await.rest().await;
    assert!(!kinds(&frames).contains(&"step.restarted"));
}

#[tokio::test]
async fn a_call_that_the_guards_of_now_do_not_let_be_does_not_run_again() {
    for (does, words) in [
        (Does::Denies("not any more"), "not any more"),
        (Does::Changes(r#"{"n": 5}"#), "the call had begun with them"),
    ] {
        let house = House::new().await;
        house.add_sums().await;
        house.add("guardian", hook(&does)).await;
        let guard = json!({"name": "guard", "points": ["before_tool_call"], "mode": "guard", "component": "guardian"});
        house.agent(json!({"model": "main", "hook": [guard]})).await;
        let calls = [("idempotent", 1, code_of_sums(&house).await)];
        let (session, turn) = killed_in_calls(&house, &calls).await;
        let events = events_at_the_end(&house, &session, turn).await;
        let message = interruption(&events);
        assert!(message.contains("may have taken effect"), "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(of(&events, "tool.started").len(), 1, "it did not run again");
        assert_eq!(of(&events, "turn.completed").len(), 1, "{events:#?}");
    }
}

#[tokio::test]
async fn a_call_that_the_guards_of_now_allow_runs_again_with_what_it_had_begun_with() {
    let house = House::new().await;
    house.add_sums().await;
    house.add("guardian", hook(&Does::Allows)).await;
    let guard = json!({"name": "guard", "points": ["before_tool_call"], "mode": "guard", "component": "guardian"});
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let calls = [("idempotent", 4, code_of_sums(&house).await)];
    let (session, turn) = killed_in_calls(&house, &calls).await;
    let events = events_at_the_end(&house, &session, turn).await;
    assert_eq!(results(&events), [r#"{"result":8}"#]);
}

#[tokio::test]
async fn a_call_that_is_refused_when_it_would_run_again_says_that_it_may_have_taken_effect() {
    let house = House::new().await;
    house.add_sums().await;
    let rule = json!({"tool": "double", "decide": "deny"});
    house.agent(json!({"model": "main", "approval": [rule]})).await;
    let calls = [("idempotent", 1, code_of_sums(&house).await)];
    let (session, turn) = killed_in_calls(&house, &calls).await;
    let events = events_at_the_end(&house, &session, turn).await;
    let message = interruption(&events);
    assert!(message.contains("may have taken effect"), "{message}");
    assert!(message.contains("calling double was denied"), "{message}");
}

#[tokio::test]
async fn a_call_that_ran_ends_as_interrupted_also_where_its_turn_is_cancelled() {
    let house = House::new().await;
    house.add_sums().await;
    let calls = [("at-most-once", 1, code_of_sums(&house).await)];
    let (session, fence) = left_in_calls(&house, &calls).await;
    house.host.store().let_go(fence).await.unwrap();
    let cancelled = house.post(&format!("/v1/turns/{}/cancel", fence.turn())).answer().await;
    assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
    let message = interruption(&events(&house, &session).await).to_owned();
    assert!(message.contains("may have taken effect"), "{message}");
}

#[tokio::test]
async fn a_call_that_ran_ends_as_interrupted_also_where_nothing_can_work_its_turn() {
    let house = House::new().await;
    house.add_sums().await;
    let calls = [("idempotent", 1, code_of_sums(&house).await)];
    let (session, fence) = left_in_calls(&house, &calls).await;
    house.agents([("another", json!({"model": "main"}))]).await;
    house.host.store().let_go(fence).await.unwrap();
    house.host.recover().await.unwrap();
    let events = events_at_the_end(&house, &session, fence.turn()).await;
    assert_eq!(of(&events, "turn.failed")[0]["data"]["error"]["code"], "configuration");
    let message = interruption(&events);
    assert!(message.contains("may have taken effect"), "{message}");
}

#[tokio::test]
async fn time_without_a_host_between_two_steps_does_not_count() {
    let mut house = House::new().await;
    let path = house.session().await;
    let session: SessionId = path.rsplit('/').next().unwrap().parse().unwrap();
    let (org, new) = (OrgName::default_org(), new_turn());
    let store = house.host.store();
    store.accept_turn(&org, session, &new).await.unwrap();
    let (fence, _) = taken_over(&house, new.id, HostId::new(), now() + 2 * HOUR).await;
    let call = CallId::new();
    let mut bodies = begun();
    bodies.extend([
        json!({"type": "tool.requested", "data": {"step": 1, "call": {"id": call, "tool": "gone", "arguments": {}}}}),
        json!({"type": "step.completed", "data": {"step": 1, "stop_reason": "tool_calls"}}),
        json!({"type": "tool.completed", "data": {
            "call": call, "tool": "gone", "status": "error", "error": {"code": "tool_not_found", "message": "gone"},
            "metering": Metering::default(),
        }}),
    ]);
    store
        .append_held(&org, session, fence, &recorded(new.id, bodies))
        .await
        .unwrap();
    // An hour ago, and its host was stopped in order between the two steps.
    sqlx::query("UPDATE events SET time = time - 3600000000000 WHERE turn = ?1")
        .bind(&new.id.uuid().as_bytes()[..])
        .execute(&mut house.database().await)
        .await
        .unwrap();
    let _never = house.next_answer();
    store.let_go(fence).await.unwrap();
    house.host.recover().await.unwrap();
    house.has_asked(1).await;
    house = house.restarted().await;
    let events = events_at_the_end(&house, &path, new.id).await;
    assert_eq!(of(&events, "turn.completed").len(), 1, "{events:#?}");
    let worked = of(&events, "step.started")[1]["data"]["worked_ms"].as_u64().unwrap();
    assert!(worked < 600_000, "{worked}");
}

#[tokio::test]
async fn a_turn_whose_journal_can_t_be_read_ends_and_says_so() {
    let mut house = House::new().await;
    let _never = house.next_answer();
    let (session, turn) = waiting_for_the_model(&house).await;
    house.damage(turn).await;
    house = house.restarted().await;
    let view = loop {
        let answer = house.get(&format!("/v1/turns/{turn}")).answer().await;
        if answer.json()["status"] == "failed" {
            break answer.json();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(view["error"]["code"], "journal_unreadable", "{view}");
    assert_eq!(house.asked().len(), 1, "it was not worked again");
    let deleted = house.delete(&session).answer().await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
}

#[tokio::test]
async fn a_session_whose_journal_can_t_be_read_can_be_deleted_while_its_turn_is_open() {
    let mut house = House::new().await;
    let never = [house.next_answer(), house.next_answer()];
    let (session, turn) = waiting_for_the_model(&house).await;
    house = house.restarted().await;
    house.has_asked(2).await;
    house.host.shut_down().await;
    house.damage(turn).await;
    // Nobody has looked at it yet.
    house = house.restarted().await;
    let deleted = house.delete(&session).answer().await;
    assert_eq!(deleted.status, 204, "{}", deleted.text());
    drop(never);
}

#[tokio::test]
async fn a_cancel_that_a_host_did_not_live_to_do_is_done_by_the_next() {
    for (at, asked) in [(CancelAt::Now, 1), (CancelAt::Boundary, 2)] {
        let mut house = House::new().await;
        let _never = house.next_answer();
        let (session, turn) = waiting_for_the_model(&house).await;
        let kept = house.host.store().keep_cancel(&OrgName::default_org(), turn, at).await;
        assert!(kept.unwrap());
        house = house.restarted().await;
        let events = events_at_the_end(&house, &session, turn).await;
        assert_eq!(of(&events, "turn.cancelled").len(), 1, "{at:?}: {events:#?}");
        assert_eq!(house.asked().len(), asked, "{at:?}");
    }
}

#[tokio::test]
async fn a_turn_that_waits_for_somebody_and_is_to_be_cancelled_is_by_the_next_host() {
    let mut house = House::new().await;
    house.add_sums().await;
    let rule = json!({"tool": "*", "decide": "ask"});
    house.agent(json!({"model": "main", "approval": [rule]})).await;
    let session = house.session().await;
    house.next_answer().call("double", &json!({"n": 1}));
    let request = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    let waiting = request.answer().await.json();
    assert_eq!(waiting["status"], "awaiting_approval", "{waiting}");
    let turn: TurnId = waiting["id"].as_str().unwrap().parse().unwrap();
    let store = house.host.store();
    let kept = store.keep_cancel(&OrgName::default_org(), turn, CancelAt::Now).await;
    assert!(kept.unwrap());
    house = house.restarted().await;
    let events = events_at_the_end(&house, &session, turn).await;
    assert_eq!(of(&events, "turn.cancelled").len(), 1, "{events:#?}");
}

#[tokio::test]
async fn a_cancel_is_kept_before_anybody_is_answered() {
    let mut house = House::new().await;
    let _never = house.next_answer();
    let (session, turn) = waiting_for_the_model(&house).await;
    let cancel = house
        .post(&format!("/v1/turns/{turn}/cancel"))
        .json(&json!({"at": "boundary"}))
        .answer();
    let kept = async {
        while house.host.store().turns_to_cancel(None, 10).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = cancel => panic!("{}", answer.text()),
        () = kept => {}
    }
    house = house.restarted().await;
    let events = events_at_the_end(&house, &session, turn).await;
    assert_eq!(of(&events, "turn.cancelled").len(), 1, "{events:#?}");
}
