use crate::house::{House, kinds, seqs};
use http::StatusCode;
use serde_json::{Value, json};

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
            json!({"input": "hi", "output_schema": {"type": "object"}}),
            "unsupported",
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
