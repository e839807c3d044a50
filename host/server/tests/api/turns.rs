use crate::house::{House, kinds, seqs};
use fumehood_agent::{
    host::{HostError, TurnRequest},
    limits::{Limits, OrgLimits},
};
use fumehood_core::{
    content::Content,
    digest::Digest,
    id::{SessionId, TurnId},
    name::OrgName,
    turn::{Budget, TurnStatus},
};
use fumehood_server::ServerConfig;
use fumehood_store::record::{Accepted, IfBusy, NewTurn};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn id(path: &str) -> SessionId {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

fn hello() -> TurnRequest {
    TurnRequest {
        input: vec![Content::text("hi")],
        ..TurnRequest::default()
    }
}

/// A turn as a host leaves it that could not work it.
async fn left(house: &House, session: SessionId, idempotency: Option<(String, Digest)>) -> TurnId {
    let new = NewTurn {
        id: TurnId::new(),
        input: vec![Content::text("hi")],
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
        idempotency,
        replaces: None,
        ends: None,
        if_busy: IfBusy::Refuse,
    };
    let org = OrgName::default_org();
    match house.host.store().accept_turn(&org, session, &new).await.unwrap() {
        Some(Accepted::New(turn, _)) => turn.id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_turn_whose_client_left_while_it_was_accepted_is_worked() {
    let house = House::new().await;
    let org = OrgName::default_org();
    // The client leaves after its first poll, after its second, and so on.
    for polls in 1..=12 {
        let session = id(&house.session().await);
        let mut submitting = Box::pin(house.host.submit_turn(&org, session, hello()));
        for _ in 0..polls {
            if futures::poll!(&mut submitting).is_ready() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(submitting);
    }
    let begun = Instant::now();
    let unfinished = [TurnStatus::Queued, TurnStatus::Running];
    while !house.host.store().turns_in(&unfinished).await.unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "a turn is left behind");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_turn_that_was_left_is_taken_up_by_who_asks_for_it_again() {
    let house = House::new().await;
    let org = OrgName::default_org();
    let session = id(&house.session().await);
    let key = ("again".to_owned(), Digest::of(b"the request"));
    let turn = left(&house, session, Some(key.clone())).await;
    let request = TurnRequest {
        idempotency: Some(key),
        ..hello()
    };
    let submitted = house.host.submit_turn(&org, session, request).await.unwrap();
    assert_eq!((submitted.turn.id, submitted.repeated), (turn, true));
    let view = house.host.wait_for_turn(&org, turn).await.unwrap();
    assert_eq!(view.status, TurnStatus::Completed);

    let turn = left(&house, session, None).await;
    let refused = house.host.submit_turn(&org, session, hello()).await.unwrap_err();
    assert!(matches!(refused, HostError::Busy(busy) if busy == turn), "{refused}");
    let view = house.host.wait_for_turn(&org, turn).await.unwrap();
    assert_eq!(view.status, TurnStatus::Completed);
}

#[tokio::test]
async fn every_session_is_told_of_a_limit_of_turns_once_and_one_that_is_not_there_takes_nothing_from_it() {
    let limited = OrgLimits {
        turns: Some("1/hour".parse().unwrap()),
        ..OrgLimits::none()
    };
    let limits = Limits::new([(OrgName::default_org(), limited)].into());
    let house = House::limited(ServerConfig::default(), limits).await;
    let (one, other) = (house.session().await, house.session().await);
    let submit = async |path: &str| {
        let turn = house.post(&format!("{path}/turns")).json(&json!({"input": "hi"}));
        turn.answer().await
    };
    assert_eq!(submit(&one).await.status, StatusCode::OK);
    let nowhere = format!("/v1/sessions/{}", SessionId::new());
    assert_eq!(submit(&nowhere).await.problem(), "not_found");
    for path in [&one, &other, &one, &other] {
        let refused = submit(path).await;
        assert_eq!(
            (refused.status, refused.problem().as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limited")
        );
    }
    for path in [&one, &other] {
        let events = house
            .get(&format!("{path}/events"))
            .with("accept", "application/json")
            .answer()
            .await
            .json();
        let told = events["items"].as_array().unwrap().iter();
        let told = told.filter(|event| event["type"] == "limit.reached").count();
        assert_eq!(told, 1, "{events}");
    }
}

#[tokio::test]
async fn a_turn_is_waited_for() {
    let house = House::new().await;
    let path = house.session().await;
    let answer = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let turn = answer.json();
    assert_eq!(turn["status"], "completed");
    assert_eq!(turn["output"], json!([{"type": "text", "text": "Hello."}]));
    let shown = house
        .get(answer.headers["location"].to_str().unwrap())
        .answer()
        .await
        .json();
    assert_eq!(shown, turn);
    let foreign = house
        .get(answer.headers["location"].to_str().unwrap())
        .by_other_org()
        .answer()
        .await;
    assert_eq!(foreign.problem(), "not_found");
}

#[tokio::test]
async fn a_turn_streams_to_its_terminal_event_and_ends() {
    let house = House::new().await;
    let path = house.session().await;
    let frames = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .stream()
        .await
        .rest()
        .await;
    let kinds = kinds(&frames);
    assert_eq!(kinds.first(), Some(&"turn.queued"));
    assert_eq!(kinds.last(), Some(&"turn.completed"));
    assert!(
        kinds.contains(&"text.delta") && kinds.contains(&"text.completed"),
        "{kinds:?}"
    );
    let seqs = seqs(&frames);
    assert_eq!(
        seqs,
        (2..2 + seqs.len() as u64).collect::<Vec<_>>(),
        "gapless from the turn's first event"
    );
    for frame in &frames {
        assert_eq!(frame.data["seq"].as_u64(), frame.id);
        assert_eq!(frame.data["type"], frame.event.as_str());
    }
}

#[tokio::test]
async fn deltas_are_shown_while_the_model_speaks() {
    let house = House::new().await;
    let path = house.session().await;
    let model = house.next_answer();
    let mut stream = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .stream()
        .await;
    stream.until("step.started").await;
    model.say("a");
    assert_eq!(
        stream.until("text.delta").await.last().unwrap().data["data"]["delta"],
        "a"
    );
    model.say("b");
    model.done();
    let rest = stream.rest().await;
    let whole = rest.iter().find(|frame| frame.event == "text.completed").unwrap();
    assert_eq!(whole.data["data"]["text"], "ab");
}

#[tokio::test]
async fn a_turn_may_be_told_of_later() {
    let house = House::new().await;
    let path = house.session().await;
    let model = house.next_answer();
    let answer = house
        .post(&format!("{path}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.headers["preference-applied"], "respond-async");
    let turn = answer.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(house.get(&turn).answer().await.json()["output"], json!([]));
    let id = turn.rsplit('/').next().unwrap();
    let events = house.get(&format!("{path}/events?turn={id}")).stream().await;
    model.say("Hi.");
    model.done();
    events.rest().await;
    assert_eq!(house.get(&turn).answer().await.json()["status"], "completed");
}

#[tokio::test]
async fn a_busy_session_names_its_turn() {
    let house = House::new().await;
    let path = house.session().await;
    let model = house.next_answer();
    let first = house
        .post(&format!("{path}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    let second = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "me, too"}))
        .answer()
        .await;
    assert_eq!(
        (second.status, second.problem().as_str()),
        (StatusCode::CONFLICT, "session_busy")
    );
    assert_eq!(second.json()["turn"], first.json()["id"]);
    model.done();
}

#[tokio::test]
async fn a_turn_is_cancelled_once() {
    let house = House::new().await;
    let path = house.session().await;
    let _model = house.next_answer();
    let submitted = house
        .post(&format!("{path}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    let turn = submitted.headers["location"].to_str().unwrap();
    let cancelled = house.post(&format!("{turn}/cancel")).answer().await;
    assert_eq!(
        (cancelled.status, &cancelled.json()["status"]),
        (StatusCode::OK, &json!("cancelled"))
    );
    assert_eq!(
        house.post(&format!("{turn}/cancel")).answer().await.json(),
        cancelled.json()
    );
    assert_eq!(
        house
            .post(&format!("{turn}/cancel"))
            .by_other_org()
            .answer()
            .await
            .problem(),
        "not_found"
    );
}

#[tokio::test]
async fn the_same_key_and_request_are_the_same_turn() {
    let house = House::new().await;
    let path = house.session().await;
    let submit = |body: Value| {
        let ask = house
            .post(&format!("{path}/turns"))
            .with("idempotency-key", "k1")
            .json(&body);
        async move { ask.answer().await }
    };
    let first = submit(json!({"input": "hi"})).await;
    let second = submit(json!({"input": [{"type": "text", "text": "hi"}]})).await;
    assert_eq!(second.json(), first.json());
    assert_eq!(
        (
            first.headers.get("idempotent-replayed"),
            &second.headers["idempotent-replayed"]
        ),
        (None, &"true".parse().unwrap())
    );
    let third = submit(json!({"input": "something else"})).await;
    assert_eq!(
        (third.status, third.problem().as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
    );
}

#[tokio::test]
async fn a_repeated_request_that_does_not_wait_is_answered_with_the_turn_as_it_is() {
    let house = House::new().await;
    let path = house.session().await;
    let submit = |waits: bool| {
        let ask = house.post(&format!("{path}/turns")).with("idempotency-key", "k");
        let ask = if waits {
            ask
        } else {
            ask.with("prefer", "respond-async")
        };
        ask.json(&json!({"input": "hi"})).answer()
    };
    let first = submit(true).await;
    assert_eq!(first.json()["output"][0]["text"], "Hello.");
    let again = submit(false).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.json(), first.json());
}

#[tokio::test]
async fn a_broken_stream_goes_on_with_the_key_and_the_last_event() {
    let house = House::new().await;
    let path = house.session().await;
    let model = house.next_answer();
    let ask = || {
        house
            .post(&format!("{path}/turns"))
            .with("idempotency-key", "k")
            .json(&json!({"input": "hi"}))
    };
    let mut broken = ask().stream().await;
    let seen = broken.until("step.started").await;
    drop(broken);
    model.say("Hi.");
    model.done();
    let last = seqs(&seen).last().copied().unwrap();
    let rest = ask()
        .with("last-event-id", &last.to_string())
        .stream()
        .await
        .rest()
        .await;
    assert_eq!(seqs(&rest)[0], last + 1);
    assert_eq!(
        kinds(&rest).last(),
        Some(&"turn.completed"),
        "the turn went on without its client"
    );
}

#[tokio::test]
async fn what_a_turn_can_not_be_is_refused() {
    let house = House::new().await;
    let path = house.session().await;
    for (body, code) in [
        (json!({"input": "  "}), "invalid_request"),
        (json!({"input": []}), "invalid_request"),
        (json!({"input": 5}), "invalid_body"),
        (json!({"input": [{"type": "video"}]}), "invalid_body"),
        (json!({}), "invalid_body"),
        (
            json!({"input": "hi", "output_schema": {"type": "strange"}}),
            "invalid_request",
        ),
        (json!({"input": "hi", "budget": {"time": "soon"}}), "invalid_body"),
        (json!({"input": "hi", "budget": {"coins": 1}}), "invalid_body"),
        (json!({"input": "hi", "colour": "red"}), "invalid_body"),
    ] {
        let answer = house.post(&format!("{path}/turns")).json(&body).answer().await;
        assert_eq!(answer.problem(), code, "{body}");
    }
    let events = house
        .get(&format!("{path}/events"))
        .with("accept", "application/json")
        .answer()
        .await
        .json();
    assert_eq!(
        events["items"].as_array().unwrap().len(),
        1,
        "nothing but session.created"
    );
}

#[tokio::test]
async fn a_closing_server_takes_no_turn_and_leaves_a_waiting_client() {
    let house = House::new().await;
    let path = house.session().await;
    let _model = house.next_answer();
    let waiting = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .answer();
    let close = async {
        let mut events = house.get(&format!("{path}/events")).stream().await;
        events.until("step.started").await;
        house.closing.cancel();
    };
    let (answer, ()) = tokio::join!(waiting, close);
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "shutting_down")
    );
    assert!(answer.headers.contains_key("retry-after"));
    assert!(answer.json()["turn"].as_str().unwrap().starts_with("trn_"));
    let refused = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    assert_eq!(refused.problem(), "shutting_down");
}
