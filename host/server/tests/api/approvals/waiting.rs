//! While a turn waits for a person: the time that passes, other inputs that come, and who cancels or listens.

use super::{ask, call, completed, decide, events, governed, governed_for, of_type, parked, path, to_the_end};
use crate::house::{House, kinds, wasm};
use fumehood_core::{
    approval::{AskedApproval, fingerprint},
    call::Arguments,
    content::Content,
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{CallId, SessionId, TurnId},
    message::{GivenArguments, Message, RequestedCall},
    name::{AgentName, ModelName, OrgName},
    now,
    turn::{Budget, StepStop, WaitingFor},
};
use fumehood_store::record::{Accepted, IfBusy, NewTurn};
use http::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn a_request_that_nobody_answers_expires_and_the_turn_goes_on() {
    let house = governed_for("1s", ask()).await;
    let session = house.session().await;
    house.next_answer().calls(&[("double", json!({"n": 1}))]);
    // It may have expired before its answer: the events say how it went.
    let turn = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "double it"}));
    let turn = turn.answer().await.json();
    let events = to_the_end(&house, &session, &turn).await;
    let id = &of_type(&events, "approval.requested")[0]["data"]["calls"][0]["call_id"];
    let resolved = of_type(&events, "approval.resolved")[0];
    assert_eq!(resolved["data"]["decisions"][0]["decision"], "expired");
    assert_eq!(resolved["source"], json!({"kind": "host"}));
    let end = completed(&events, id);
    assert_eq!(end["status"], "denied");
    assert!(
        end["error"]["message"]
            .as_str()
            .unwrap()
            .contains("nobody approved this call in time")
    );
    assert_eq!(events.last().unwrap()["type"], "turn.completed");
    let late = decide(&house, &turn, json!([{"call_id": id, "decision": "approve"}])).await;
    assert_eq!(late.problem(), "not_awaiting_approval");
}

#[tokio::test]
async fn a_request_whose_journal_cannot_be_read_fails_its_turn_and_keeps_no_other_from_ending() {
    let house = governed(ask()).await;
    let mut overdue_turns = Vec::new();
    for _ in 0..2 {
        let session = house.session().await;
        let (turn, _) = overdue(&house, session.rsplit('/').next().unwrap().parse().unwrap()).await;
        overdue_turns.push((session, turn));
    }
    house.damage(overdue_turns[0].1).await;
    let house = house.restarted().await;
    let (session, turn) = &overdue_turns[1];
    let events = to_the_end(&house, session, &json!({"id": turn})).await;
    assert_eq!(
        of_type(&events, "approval.resolved")[0]["data"]["decisions"][0]["decision"],
        "expired"
    );
    let failed = loop {
        let unread = house.get(&format!("/v1/turns/{}", overdue_turns[0].1)).answer().await;
        if unread.json()["status"] == "failed" {
            break unread.json();
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(failed["error"]["code"], "journal_unreadable", "{failed}");
}

#[tokio::test]
async fn who_decides_too_late_is_refused_also_where_the_request_was_not_ended_yet() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let (turn, call) = overdue(&house, session.rsplit('/').next().unwrap().parse().unwrap()).await;
    let turn = json!({"id": turn});
    let late = decide(&house, &turn, json!([{"call_id": call, "decision": "approve"}])).await;
    assert_eq!(
        (late.status, late.problem().as_str()),
        (StatusCode::CONFLICT, "approval_expired")
    );
    let events = to_the_end(&house, &session, &turn).await;
    assert_eq!(
        of_type(&events, "approval.resolved")[0]["data"]["decisions"][0]["decision"],
        "expired"
    );
    assert!(of_type(&events, "tool.started").is_empty());
}

/// A turn that has waited too long, and of which this host has not heard yet.
async fn overdue(house: &House, session: SessionId) -> (TurnId, CallId) {
    let (store, org) = (house.host.store(), OrgName::default_org());
    let new = NewTurn {
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
    };
    let Some(Accepted::New(turn, _)) = store.accept_turn(&org, session, &new).await.unwrap() else {
        panic!("not accepted")
    };
    let arguments: Arguments = serde_json::from_value(json!({"n": 1})).unwrap();
    let call = CallId::new();
    let digest = Digest::of(&wasm());
    let bodies = [
        EventBody::TurnStarted {
            agent: AgentName::new("assistant").unwrap(),
            model: ModelName::new("main").unwrap(),
            tools: Vec::new(),
            components: std::collections::BTreeMap::new(),
            budget: Budget::default(),
            files: None,
        },
        EventBody::StepStarted {
            step: 1,
            notes: Vec::new(),
            worked_ms: None,
        },
        EventBody::ToolRequested {
            step: 1,
            call: RequestedCall {
                id: call,
                tool: "double".into(),
                arguments: GivenArguments::Arguments(arguments.clone()),
            },
        },
        EventBody::StepCompleted {
            step: 1,
            stop_reason: StepStop::ToolCalls,
            usage: None,
            model: None,
            cost: None,
            unmeasured: false,
            dropped_calls: Vec::new(),
            worked_ms: None,
        },
        EventBody::ApprovalRequested {
            calls: vec![AskedApproval {
                call_id: call,
                tool: "double".into(),
                fingerprint: fingerprint("double", &digest, &arguments),
                arguments,
                rule: "a rule".into(),
                expires: now(),
            }],
        },
        EventBody::TurnPaused {
            waiting_for: WaitingFor::Approval,
            worked_ms: None,
        },
    ];
    let events = bodies.map(|body| NewEvent {
        turn: Some(turn.id),
        source: Source::Host,
        body,
    });
    store.append(&org, session, &events).await.unwrap();
    (turn.id, call)
}

#[tokio::test]
async fn a_new_input_comes_instead_of_a_decision() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1, 2]).await;
    let answer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "forget that"}))
        .answer()
        .await;
    assert_eq!(answer.json()["status"], "completed", "{}", answer.text());
    let before = to_the_end(&house, &session, &turn).await;
    assert_eq!(before.last().unwrap()["type"], "turn.cancelled");
    let resolved = of_type(&before, "approval.resolved")[0];
    assert_eq!(resolved["data"]["decisions"][1]["decision"], "abandoned");
    for nth in 0..2 {
        let end = completed(&before, call(&turn, nth));
        assert_eq!(end["status"], "cancelled");
        assert!(
            end["error"]["message"]
                .as_str()
                .unwrap()
                .contains("a new message instead"),
            "{end}"
        );
    }
    let asked = house.asked();
    let shown = serde_json::to_string(&asked.last().unwrap().messages).unwrap();
    assert_eq!(
        shown.matches("a new message instead").count(),
        2,
        "the model reads it: {shown}"
    );
    let late = decide(
        &house,
        &turn,
        json!([{"call_id": call(&turn, 0), "decision": "approve"}]),
    )
    .await;
    assert_eq!(late.problem(), "not_awaiting_approval");
}

#[tokio::test]
async fn the_input_of_a_turn_that_waits_can_be_replaced() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1]).await;
    let answer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "something else", "replaces": turn["id"]}))
        .answer()
        .await;
    assert_eq!(answer.json()["status"], "completed", "{}", answer.text());
    let events = events(&house, &session).await;
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let of = |kind: &str| types.iter().position(|found| *found == kind).unwrap();
    assert!(of("turn.cancelled") < of("session.rewound"), "{types:?}");
    let shown = house.asked().pop().unwrap().messages;
    let user = Message::User {
        content: vec![Content::text("something else")],
    };
    assert_eq!(*shown, [user], "nothing of what was replaced");
}

#[tokio::test]
async fn a_turn_that_is_to_stop_at_its_boundary_does_not_wait_for_a_person_there() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let model = house.next_answer();
    let turn = house.post(&format!("{session}/turns")).with("prefer", "respond-async");
    let turn = turn.json(&json!({"input": "double it"})).answer().await.json();
    house.has_asked(1).await;
    let cancel = house.post(&format!("{}/cancel", path(&turn)));
    let mut cancel = Box::pin(cancel.json(&json!({"at": "boundary"})).answer());
    // As far as it gets before the model answers.
    for _ in 0..50 {
        assert!(futures::poll!(&mut cancel).is_pending(), "the model has not answered");
        tokio::task::yield_now().await;
    }
    model.calls(&[("double", json!({"n": 1}))]);
    let cancelled = cancel.await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["status"]),
        (StatusCode::OK, &json!("cancelled")),
        "{}",
        cancelled.text()
    );
    let events = to_the_end(&house, &session, &turn).await;
    assert_eq!(of_type(&events, "tool.completed")[0]["data"]["status"], "cancelled");
    assert_eq!(of_type(&events, "tool.started").len(), 0);
}

#[tokio::test]
async fn a_turn_that_waited_is_told_how_its_tools_have_changed_meanwhile() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1]).await;
    let mut other = wasm();
    other.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    house.add("sums", other).await;
    let approve = json!([{"call_id": call(&turn, 0), "decision": "approve"}]);
    assert_eq!(decide(&house, &turn, approve).await.status, StatusCode::OK);
    let events = to_the_end(&house, &session, &turn).await;
    let changed = of_type(&events, "tools.changed");
    assert_eq!(changed.len(), 1, "{events:?}");
    assert!(
        changed[0]["data"]["updated"].to_string().contains("double"),
        "{changed:?}"
    );
    let told = &of_type(&events, "step.started")[1]["data"]["notes"][0]["text"];
    assert!(told.as_str().unwrap().contains("Your tools have changed"), "{told}");
}

#[tokio::test]
async fn a_turn_goes_on_with_the_agent_that_it_began_with() {
    let house = governed(ask()).await;
    let agent = |text: &str| json!({"model": "main", "instructions": text, "approval": ask()});
    house
        .agents([
            ("assistant", agent("You are one.")),
            ("other", agent("You are another.")),
        ])
        .await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1]).await;
    let changed = house.ask(Method::PATCH, &session).json(&json!({"agent": "other"}));
    assert_eq!(changed.answer().await.status, StatusCode::OK);
    let approve = json!([{"call_id": call(&turn, 0), "decision": "approve"}]);
    assert_eq!(decide(&house, &turn, approve).await.status, StatusCode::OK);
    to_the_end(&house, &session, &turn).await;
    let again = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    assert_eq!(again.answer().await.json()["status"], "completed");
    let systems: Vec<_> = house.asked().into_iter().map(|asked| asked.system).collect();
    let is_another = |system: &String| system.contains("You are another.");
    assert_eq!(systems.iter().map(is_another).collect::<Vec<_>>(), [false, false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_inputs_and_decisions_that_come_at_once_one_is_taken() {
    let house = governed(ask()).await;
    for _ in 0..5 {
        let session = house.session().await;
        let turn = parked(&house, &session, &[1]).await;
        let model = house.next_answer();
        let inputs = (0..4).map(|_| {
            house
                .post(&format!("{session}/turns"))
                .with("prefer", "respond-async")
                .json(&json!({"input": "forget that"}))
                .answer()
        });
        let decisions = (0..4).map(|_| {
            decide(
                &house,
                &turn,
                json!([{"call_id": call(&turn, 0), "decision": "approve"}]),
            )
        });
        let (inputs, decisions) = tokio::join!(futures::future::join_all(inputs), futures::future::join_all(decisions));
        let taken = inputs
            .iter()
            .filter(|answer| answer.status == StatusCode::ACCEPTED)
            .count()
            + decisions
                .iter()
                .filter(|answer| answer.status == StatusCode::OK)
                .count();
        let events = events(&house, &session).await;
        let resolved = of_type(&events, "approval.resolved");
        assert_eq!(resolved.len(), 1, "{resolved:?}");
        assert!(taken >= 1, "somebody was first");
        for answer in &inputs {
            assert!(
                matches!(answer.status, StatusCode::ACCEPTED | StatusCode::CONFLICT),
                "{}",
                answer.text()
            );
        }
        completed(&events_of_call(&house, &session, call(&turn, 0)).await, call(&turn, 0));
        // Whichever turn it is that goes on: it is over before the model is asked about another.
        model.says("Bye.");
        let mut stream = house.get(&format!("{session}/events?after=0")).stream().await;
        stream.until("turn.completed").await;
    }
}

/// The events of a session, once the call has ended.
async fn events_of_call(house: &House, session: &str, call: &Value) -> Vec<Value> {
    let mut stream = house.get(&format!("{session}/events?after=0")).stream().await;
    loop {
        let seen = stream.until("tool.completed").await;
        if seen.last().unwrap().data["data"]["call"] == *call {
            return events(house, session).await;
        }
    }
}

#[tokio::test]
async fn a_turn_that_waits_can_be_cancelled() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1]).await;
    let cancelled = house.post(&format!("{}/cancel", path(&turn))).answer().await;
    assert_eq!(
        (
            cancelled.status,
            &cancelled.json()["status"],
            &cancelled.json()["approvals"]
        ),
        (StatusCode::OK, &json!("cancelled"), &json!([]))
    );
    let events = to_the_end(&house, &session, &turn).await;
    assert_eq!(completed(&events, call(&turn, 0))["status"], "cancelled");
}

#[tokio::test]
async fn the_stream_of_a_turn_goes_on_over_the_pause() {
    let house = governed(ask()).await;
    let session = house.session().await;
    house.next_answer().calls(&[("double", json!({"n": 1}))]);
    let mut stream = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "x"}))
        .stream()
        .await;
    let seen = stream.until("turn.paused").await;
    let asked = seen.iter().find(|frame| frame.event == "approval.requested").unwrap();
    let turn = json!({"id": asked.data["turn"]});
    let id = &asked.data["data"]["calls"][0]["call_id"];
    decide(&house, &turn, json!([{"call_id": id, "decision": "approve"}])).await;
    let rest = stream.rest().await;
    let types = kinds(&rest);
    assert_eq!(types[..2], ["approval.resolved", "turn.resumed"]);
    assert_eq!(types.last(), Some(&"turn.completed"));
}
