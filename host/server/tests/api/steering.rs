//! Inputs that come while a turn runs: refused, queued, or added to it; and turns that are cancelled at a boundary.

use crate::house::{Answer, House, Told, kinds};
use fumehood_agent::limits::{Limits, OrgLimits};
use fumehood_core::{message::Message, name::OrgName};
use fumehood_server::ServerConfig;
use http::StatusCode;
use serde_json::{Value, json};

pub(crate) async fn later(house: &House, path: &str, body: Value) -> Answer {
    let turn = house.post(&format!("{path}/turns")).with("prefer", "respond-async");
    turn.json(&body).answer().await
}

async fn ended(house: &House, path: &str, turn: &Value) -> Value {
    let id = turn["id"].as_str().unwrap();
    let events = house.get(&format!("{path}/events?turn={id}")).stream().await;
    events.rest().await;
    house.get(&format!("/v1/turns/{id}")).answer().await.json()
}

async fn events(house: &House, path: &str) -> Vec<Value> {
    let events = house.get(&format!("{path}/events")).with("accept", "application/json");
    events.answer().await.json()["items"].as_array().unwrap().clone()
}

fn said(messages: &[Message]) -> Vec<String> {
    let users = messages.iter().filter_map(|message| match message {
        Message::User { content } => Some(fumehood_core::content::plain_text(content)),
        _ => None,
    });
    users.collect()
}

/// A session whose first turn waits for the model.
async fn busy(house: &House) -> (String, Told, Value) {
    let path = house.session().await;
    let model = house.next_answer();
    let turn = later(house, &path, json!({"input": "first"})).await.json();
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    stream.until("step.started").await;
    (path, model, turn)
}

/// The turn goes on from boundary to boundary until an input has come as far as one, and is answered then.
async fn steered_then_says(house: &House, mut model: Told, answer: &str) {
    for n in 1.. {
        let next = house.next_answer();
        model.call("double", &json!({"n": n}));
        house.has_asked(n + 1).await;
        model = next;
        if said(&house.asked()[n].messages).len() > 1 {
            break;
        }
    }
    model.says(answer);
}

#[tokio::test]
async fn an_input_that_may_wait_is_worked_after_those_before_it() {
    let house = House::new().await;
    let (path, model, first) = busy(&house).await;
    let mut waiting = Vec::new();
    for input in ["second", "third"] {
        let accepted = later(&house, &path, json!({"input": input, "mode": "queue"})).await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED, "{}", accepted.text());
        assert_eq!(accepted.json()["status"], "queued");
        waiting.push(accepted.json());
    }
    let refused = later(&house, &path, json!({"input": "no"})).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::CONFLICT, "session_busy")
    );
    assert_eq!(refused.json()["turn"], first["id"]);
    assert_eq!(house.asked().len(), 1, "nothing of them runs yet");
    model.says("One.");
    for turn in &waiting {
        assert_eq!(ended(&house, &path, turn).await["status"], "completed");
    }
    let asked = house.asked();
    assert_eq!(said(&asked[0].messages), ["first"]);
    assert_eq!(said(&asked[1].messages), ["first", "second"]);
    assert_eq!(said(&asked[2].messages), ["first", "second", "third"]);
}

#[tokio::test]
async fn an_input_that_waits_streams_and_is_waited_for_like_any_other() {
    let house = House::new().await;
    let (path, model, _) = busy(&house).await;
    let ask = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "second", "mode": "queue"}));
    let mut stream = ask.stream().await;
    stream.until("turn.queued").await;
    let third = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "third", "mode": "queue"}));
    let (third, second) = tokio::join!(third.answer(), async {
        model.says("One.");
        stream.rest().await
    });
    assert_eq!(kinds(&second).first(), Some(&"turn.started"));
    assert_eq!(kinds(&second).last(), Some(&"turn.completed"));
    assert_eq!(third.json()["output"], json!([{"type": "text", "text": "Hello."}]));
}

#[tokio::test]
async fn in_an_idle_session_every_mode_is_a_turn_at_once() {
    let house = House::new().await;
    let path = house.session().await;
    for mode in ["queue", "steer", "reject"] {
        let turn = house
            .post(&format!("{path}/turns"))
            .json(&json!({"input": "hi", "mode": mode}));
        assert_eq!(turn.answer().await.json()["status"], "completed", "{mode}");
    }
}

#[tokio::test]
async fn a_waiting_turn_that_is_cancelled_ends_at_once_and_never_begins() {
    let house = House::new().await;
    let (path, model, first) = busy(&house).await;
    let second = later(&house, &path, json!({"input": "second", "mode": "queue"}))
        .await
        .json();
    let third = later(&house, &path, json!({"input": "third", "mode": "queue"}))
        .await
        .json();
    for at in [json!({}), json!({"at": "boundary"})] {
        let id = second["id"].as_str().unwrap();
        let cancelled = house.post(&format!("/v1/turns/{id}/cancel")).json(&at).answer().await;
        assert_eq!(
            (cancelled.status, &cancelled.json()["status"]),
            (StatusCode::OK, &json!("cancelled"))
        );
    }
    assert_eq!(house.asked().len(), 1, "the first goes on");
    model.says("One.");
    assert_eq!(ended(&house, &path, &third).await["status"], "completed");
    assert_eq!(ended(&house, &path, &first).await["status"], "completed");
    assert_eq!(said(&house.asked()[1].messages), ["first", "third"]);
    let started = events(&house, &path).await;
    let started = started.iter().filter(|event| event["type"] == "turn.started");
    assert_eq!(started.count(), 2);
}

#[tokio::test]
async fn only_so_many_inputs_wait() {
    let house = House::new().await;
    let (path, _model, _) = busy(&house).await;
    for _ in 0..fumehood_store::record::MAX_QUEUED {
        let accepted = later(&house, &path, json!({"input": "x", "mode": "queue"})).await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED);
    }
    let refused = later(&house, &path, json!({"input": "x", "mode": "queue"})).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::CONFLICT, "queue_full")
    );
    let gone = house.delete(&path).answer().await;
    assert_eq!(
        gone.status,
        StatusCode::NO_CONTENT,
        "a session goes with all that waits in it"
    );
}

#[tokio::test]
async fn a_key_is_one_turn_also_when_it_waits() {
    let house = House::new().await;
    let (path, model, _) = busy(&house).await;
    let submit = |body: Value| {
        let ask = house.post(&format!("{path}/turns")).with("prefer", "respond-async");
        let ask = ask.with("idempotency-key", "k").json(&body);
        async move { ask.answer().await }
    };
    let body = json!({"input": "second", "mode": "queue"});
    let (first, again) = (submit(body.clone()).await, submit(body).await);
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let other = submit(json!({"input": "second", "mode": "steer"})).await;
    assert_eq!(other.problem(), "idempotency_key_reused");
    model.says("One.");
    ended(&house, &path, &first.json()).await;
    assert_eq!(house.asked().len(), 2);
}

#[tokio::test]
async fn what_steers_is_part_of_the_turn_from_its_next_boundary_on() {
    let house = House::new().await;
    let (path, model, first) = busy(&house).await;
    let steer = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "in French", "mode": "steer"}));
    let work = steered_then_says(&house, model, "Bonjour.");
    let (steered, ()) = tokio::join!(steer.answer(), work);
    assert_eq!(steered.status, StatusCode::OK, "{}", steered.text());
    assert_eq!(
        steered.json()["id"],
        first["id"],
        "it is answered with the turn that runs"
    );
    assert_eq!(steered.json()["status"], "completed");
    let messages = house.asked().pop().unwrap().messages;
    assert_eq!(said(&messages), ["first", "in French"]);
    assert!(
        matches!(&messages[..], [.., Message::Tool { .. }, Message::User { .. }]),
        "after what was said before: {messages:?}"
    );
    let recorded = events(&house, &path).await;
    let recorded = recorded.iter().find(|event| event["type"] == "turn.steered").unwrap();
    assert_eq!(
        (&recorded["turn"], &recorded["source"]["kind"]),
        (&first["id"], &json!("client"))
    );
}

#[tokio::test]
async fn what_steers_a_turn_counts_like_one() {
    let limited = OrgLimits {
        turns: Some("2/hour".parse().unwrap()),
        ..OrgLimits::none()
    };
    let limits = Limits::new([(OrgName::default_org(), limited)].into());
    let house = House::limited(ServerConfig::default(), limits).await;
    let (path, model, _) = busy(&house).await;
    let turns = || house.post(&format!("{path}/turns"));
    let steer = turns().json(&json!({"input": "in French", "mode": "steer"}));
    let work = steered_then_says(&house, model, "Bonjour.");
    let (steered, ()) = tokio::join!(steer.answer(), work);
    assert_eq!(steered.status, StatusCode::OK, "{}", steered.text());
    let refused = turns().json(&json!({"input": "and now"})).answer().await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "rate_limited")
    );
}

#[tokio::test]
async fn what_was_to_steer_a_turn_that_ends_first_is_a_turn_of_its_own() {
    let house = House::new().await;
    let (path, _model, first) = busy(&house).await;
    let steer = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "in French", "mode": "steer"}));
    let mut steer = Box::pin(steer.answer());
    // As far as it gets before the turn ends; and not further, if it gets that far.
    for _ in 0..50 {
        if futures::poll!(&mut steer).is_ready() {
            panic!("answered before it was recorded");
        }
        tokio::task::yield_now().await;
    }
    let id = first["id"].as_str().unwrap();
    let (cancelled, steered) = tokio::join!(house.post(&format!("/v1/turns/{id}/cancel")).answer(), steer);
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_ne!(steered.json()["id"], first["id"]);
    assert_eq!(steered.json()["status"], "completed");
    assert_eq!(said(&house.asked()[1].messages), ["first", "in French"]);
}

#[tokio::test]
async fn what_steers_with_a_key_is_recorded_once() {
    let house = House::new().await;
    let (path, model, first) = busy(&house).await;
    let steer = || {
        let ask = house.post(&format!("{path}/turns")).with("idempotency-key", "k");
        ask.json(&json!({"input": "in French", "mode": "steer"})).answer()
    };
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    let (one, other, ()) = tokio::join!(steer(), steer(), async {
        model.says("Hello.");
        stream.until("turn.completed").await;
    });
    let after = steer().await;
    for answer in [&one, &other, &after] {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    }
    assert_eq!(after.headers["idempotent-replayed"], "true");
    let recorded = events(&house, &path).await;
    let texts = recorded
        .iter()
        .filter(|event| event["data"]["input"][0]["text"] == "in French");
    assert_eq!(texts.count(), 1, "{first}: {recorded:?}");
}

#[tokio::test]
async fn what_can_not_steer_is_refused() {
    let house = House::new().await;
    let path = house.session().await;
    for (body, code) in [
        (
            json!({"input": "x", "mode": "steer", "system": "be brief"}),
            "invalid_request",
        ),
        (
            json!({"input": "x", "mode": "steer", "budget": {"steps": 1}}),
            "invalid_request",
        ),
        (
            json!({"input": "x", "mode": "steer", "output_schema": {"type": "object"}}),
            "invalid_request",
        ),
        (json!({"input": "x", "mode": "push"}), "invalid_body"),
    ] {
        let refused = house.post(&format!("{path}/turns")).json(&body).answer().await;
        assert_eq!(refused.problem(), code, "{body}");
    }
}

/// A session whose turn runs while the model is about to ask for a call.
async fn about_to_call(house: &House) -> (String, Told, Value) {
    house.add_sums().await;
    busy(house).await
}

#[tokio::test]
async fn a_turn_that_is_cancelled_at_the_boundary_ends_after_the_calls_of_its_step() {
    let house = House::new().await;
    let (path, mut model, turn) = about_to_call(&house).await;
    let cancel = format!("/v1/turns/{}/cancel", turn["id"].as_str().unwrap());
    let ask = || house.post(&cancel).json(&json!({"at": "boundary"})).answer();
    // The turn goes on from boundary to boundary until the first of them has come as far as one.
    let work = async {
        for n in 1.. {
            let next = house.next_answer();
            model.call("double", &json!({"n": n}));
            house.has_asked(n + 1).await;
            model = next;
        }
    };
    let (one, again) = tokio::select! {
        cancelled = async { tokio::join!(ask(), ask()) } => cancelled,
        () = work => panic!("it never ends"),
    };
    for cancelled in [one, again] {
        assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
    }
    let events = events(&house, &path).await;
    let ends: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "tool.completed")
        .collect();
    assert_eq!(ends.len(), house.asked().len(), "the model is not asked again");
    assert!(ends.iter().all(|call| call["data"]["status"] == "ok"), "{ends:?}");
}

#[tokio::test]
async fn a_turn_that_is_to_stop_at_the_boundary_can_still_be_cancelled_at_once() {
    let house = House::new().await;
    let (_, _model, turn) = busy(&house).await;
    let cancel = format!("/v1/turns/{}/cancel", turn["id"].as_str().unwrap());
    let mut later = Box::pin(house.post(&cancel).json(&json!({"at": "boundary"})).answer());
    assert!(futures::poll!(&mut later).is_pending());
    let (now, later) = tokio::join!(house.post(&cancel).answer(), later);
    for cancelled in [now, later] {
        assert_eq!(
            (cancelled.status, &cancelled.json()["status"]),
            (StatusCode::OK, &json!("cancelled"))
        );
    }
    let refused = house.post(&cancel).json(&json!({"at": "noon"})).answer().await;
    assert_eq!(refused.problem(), "invalid_body");
}

#[tokio::test]
async fn undoing_a_turn_that_waited_leaves_the_one_before_it_whole() {
    let house = House::new().await;
    let (path, model, first) = busy(&house).await;
    let second = later(&house, &path, json!({"input": "second", "mode": "queue"}))
        .await
        .json();
    let third = later(&house, &path, json!({"input": "third", "mode": "queue"}))
        .await
        .json();
    let cancel = format!("/v1/turns/{}/cancel", third["id"].as_str().unwrap());
    house.post(&cancel).answer().await;
    model.says("One.");
    ended(&house, &path, &first).await;
    ended(&house, &path, &second).await;
    let undone = house.post(&format!("{path}/undo")).json(&json!({})).answer().await;
    assert_eq!(undone.status, StatusCode::OK, "{}", undone.text());
    assert_eq!(undone.json()["turns"], json!([second["id"]]));
    let messages = house.get(&format!("{path}/messages")).answer().await.json();
    let roles: Vec<_> = messages["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| &message["role"])
        .collect();
    assert_eq!(roles, ["user", "assistant"], "{messages}");
}

#[tokio::test]
async fn after_a_restart_what_waits_is_worked_in_its_order() {
    let house = House::new().await;
    let (path, model, first) = busy(&house).await;
    let second = later(&house, &path, json!({"input": "second", "mode": "queue"}))
        .await
        .json();
    let third = later(&house, &path, json!({"input": "third", "mode": "queue"}))
        .await
        .json();
    let house = house.restarted().await;
    drop(model);
    for turn in [&first, &second, &third] {
        assert_eq!(ended(&house, &path, turn).await["status"], "completed", "{turn}");
    }
    assert_eq!(
        said(&house.asked().last().unwrap().messages),
        ["first", "second", "third"]
    );
}
