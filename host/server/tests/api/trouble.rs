//! Whole turns in which the model, a tool or the client does what it should not, and what is left for the next turn.

use crate::house::{Frames, House, kinds};
use fumehood_core::{
    content::plain_text,
    message::{AssistantPart, Message},
};
use fumehood_model::{ModelErrorKind, ModelRequest};
use http::StatusCode;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// A component with the tool `spin`, which never ends by itself.
fn spin() -> Vec<u8> {
    let text = r#"(component
        (core module $code (func (export "spin") (loop (br 0))))
        (core instance $running (instantiate $code))
        (func (export "spin") (canon lift (core func $running "spin"))))"#;
    wat::parse_str(text).unwrap()
}

/// Submits a turn and waits for its end, or for what it waits for.
async fn turn(house: &House, session: &str, input: &str) -> Value {
    submit(house, session, json!({"input": input})).await
}

async fn submit(house: &House, session: &str, body: Value) -> Value {
    let answer = house.post(&format!("{session}/turns")).json(&body).answer().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

/// Submits a turn whose events are read as they come: its path, and the stream after its first event.
async fn begin(house: &House, session: &str, body: Value) -> (String, Frames) {
    let mut stream = house.post(&format!("{session}/turns")).json(&body).stream().await;
    let first = stream.next().await.unwrap();
    (format!("/v1/turns/{}", first.data["turn"].as_str().unwrap()), stream)
}

async fn cancel(house: &House, turn: &str) {
    let cancelled = house.post(&format!("{turn}/cancel")).answer().await;
    assert_eq!(cancelled.status, StatusCode::OK, "{}", cancelled.text());
}

async fn events(house: &House, session: &str) -> Vec<Value> {
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    events.answer().await.json()["items"].as_array().unwrap().clone()
}

async fn history(house: &House, session: &str) -> Vec<Value> {
    let messages = house.get(&format!("{session}/messages")).answer().await.json();
    messages["items"].as_array().unwrap().clone()
}

/// How each call ended, in the order of the requests. Each has exactly one end.
fn ends(events: &[Value]) -> Vec<(&str, &str)> {
    let of_type = |kind: &'static str| events.iter().filter(move |event| event["type"] == kind);
    let ends: Vec<_> = of_type("tool.completed").map(|event| &event["data"]).collect();
    of_type("tool.requested")
        .map(|event| &event["data"]["call"])
        .map(|call| {
            let of_call: Vec<_> = ends.iter().filter(|end| end["call"] == call["id"]).collect();
            assert_eq!(of_call.len(), 1, "{call}: {of_call:?}");
            (
                of_call[0]["tool"].as_str().unwrap(),
                of_call[0]["status"].as_str().unwrap(),
            )
        })
        .collect()
}

/// Whether every call that the model is shown has its result directly behind its answer, in order.
fn is_whole(request: &ModelRequest) -> bool {
    let mut open = Vec::new();
    for message in request.messages.iter() {
        match message {
            Message::Assistant { parts } if open.is_empty() => {
                open = parts
                    .iter()
                    .filter_map(|part| match part {
                        AssistantPart::ToolCall(call) => Some(call.id),
                        _ => None,
                    })
                    .collect();
            }
            Message::Tool { call, .. } if open.first() == Some(call) => {
                open.remove(0);
            }
            Message::Tool { .. } | Message::Assistant { .. } => return false,
            _ if open.is_empty() => {}
            _ => return false,
        }
    }
    open.is_empty()
}

/// The next turn of the session is worked to its end, and what the model is shown for it is whole.
async fn goes_on(house: &House, session: &str) {
    let next = turn(house, session, "go on").await;
    assert_eq!(next["output"], json!([{"type": "text", "text": "Hello."}]), "{next}");
    let asked = house.asked();
    let request = asked.last().unwrap();
    assert!(is_whole(request), "{:#?}", request.messages);
}

#[tokio::test]
async fn every_call_of_a_step_is_recorded_before_the_first_one_starts() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let calls: Vec<_> = (1..=5).map(|n| ("double", json!({"n": 1_234_000 + n}))).collect();
    house.next_answer().calls(&calls);
    let (_, stream) = begin(&house, &session, json!({"input": "double them"})).await;
    let frames = stream.rest().await;
    let kinds = kinds(&frames);
    let last_request = kinds.iter().rposition(|kind| *kind == "tool.requested").unwrap();
    let first_start = kinds.iter().position(|kind| *kind == "tool.started").unwrap();
    assert!(last_request < first_start, "{kinds:?}");
    let count = |wanted: &str| kinds.iter().filter(|kind| **kind == wanted).count();
    assert_eq!((count("tool.requested"), count("tool.completed")), (5, 5));
    let ends = ["turn.completed", "turn.failed", "turn.cancelled"].map(count);
    assert_eq!(ends, [1, 0, 0], "{kinds:?}");
    assert_eq!(kinds.last(), Some(&"turn.completed"));
    for n in 1..=5 {
        let result = (2 * (1_234_000 + n)).to_string();
        let with_it = frames.iter().filter(|frame| frame.data.to_string().contains(&result));
        let with_it: Vec<_> = with_it.map(|frame| frame.event.as_str()).collect();
        assert_eq!(with_it, ["tool.completed"], "a result is told once");
    }
}

#[tokio::test]
async fn a_call_that_traps_takes_nothing_from_those_beside_it() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let calls = ["double", "fall", "double", "no_such_tool"].map(|tool| (tool, json!({"n": 4})));
    house.next_answer().calls(&calls);
    let done = turn(&house, &session, "hi").await;
    assert_eq!(done["status"], "completed", "{done}");
    let events = events(&house, &session).await;
    let ends: Vec<_> = ends(&events);
    assert_eq!(
        ends,
        [
            ("double", "ok"),
            ("fall", "trapped"),
            ("double", "ok"),
            ("no_such_tool", "error")
        ]
    );
    let asked = house.asked();
    assert!(is_whole(&asked[1]), "{:#?}", asked[1].messages);
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn arguments_that_are_json_and_no_object_are_a_result_and_the_call_beside_them_runs() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let strange = [json!([]), json!(null), json!(3), json!("n"), json!([{"n": 1}])];
    let mut calls: Vec<_> = strange.into_iter().map(|arguments| ("double", arguments)).collect();
    calls.push(("double", json!({"n": 1})));
    house.next_answer().calls(&calls);
    let done = turn(&house, &session, "hi").await;
    assert_eq!(done["status"], "completed", "{done}");
    let events = events(&house, &session).await;
    let statuses: Vec<_> = ends(&events).into_iter().map(|(_, status)| status).collect();
    assert_eq!(statuses, ["error", "error", "error", "error", "error", "ok"]);
    for end in events.iter().filter(|event| event["type"] == "tool.completed") {
        let code = &end["data"]["error"]["code"];
        assert!(code.is_null() || code == "invalid_arguments", "{end}");
    }
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn a_call_of_a_tool_that_the_agent_does_not_have_is_a_result_and_does_not_run() {
    let house = House::new().await;
    house.add_sums().await;
    house.agent(json!({"model": "main", "tools": ["double"]})).await;
    let session = house.session().await;
    house
        .next_answer()
        .calls(&[("fall", json!({"n": 1})), ("double", json!({"n": 1}))]);
    turn(&house, &session, "hi").await;
    let offered: Vec<_> = house.asked()[0]
        .tools
        .iter()
        .map(|tool| tool.name.to_string())
        .collect();
    assert_eq!(offered, ["double"]);
    let events = events(&house, &session).await;
    assert_eq!(ends(&events), [("fall", "denied"), ("double", "ok")]);
    let started: Vec<_> = events.iter().filter(|event| event["type"] == "tool.started").collect();
    assert_eq!(started.len(), 1, "{started:?}");
}

#[tokio::test]
async fn a_name_that_two_components_offer_is_offered_by_neither() {
    let house = House::new().await;
    house.add_sums().await;
    house.add("more", crate::house::wasm()).await;
    let session = house.session().await;
    house.next_answer().call("double", &json!({"n": 1}));
    turn(&house, &session, "hi").await;
    assert!(house.asked()[0].tools.is_empty(), "{:?}", house.asked()[0].tools);
    let events = events(&house, &session).await;
    assert_eq!(ends(&events), [("double", "error")]);
}

#[tokio::test]
async fn a_model_that_repeats_itself_is_told_once_then_stopped_and_its_user_reads_nothing_of_it() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    for _ in 0..6 {
        house.next_answer().call("double", &json!({"n": 1}));
    }
    let done = turn(&house, &session, "double one").await;
    assert_eq!(
        (&done["status"], &done["stop_reason"]),
        (&json!("completed"), &json!("repetition")),
        "{done}"
    );
    let told = house.asked();
    let notes = |request: &ModelRequest| {
        let notes = request.messages.iter();
        notes.filter(|message| matches!(message, Message::Note { .. })).count()
    };
    assert_eq!(
        told.iter().map(notes).collect::<Vec<_>>(),
        [0, 0, 0, 1],
        "told once, in the fourth step"
    );
    let roles: Vec<_> = history(&house, &session)
        .await
        .iter()
        .map(|message| message["role"].clone())
        .collect();
    assert!(
        roles
            .iter()
            .all(|role| ["user", "assistant", "tool"].iter().any(|known| role == known)),
        "{roles:?}"
    );
    assert_eq!(roles.iter().filter(|role| **role == "user").count(), 1, "{roles:?}");
}

#[tokio::test]
async fn what_the_host_told_the_model_counts_for_no_undo() {
    let house = House::new().await;
    let session = house.session().await;
    turn(&house, &session, "first").await;
    let cut = house.next_answer();
    cut.say("Half. ");
    cut.cut_call("files_read");
    turn(&house, &session, "second").await;
    let undone = house.post(&format!("{session}/undo")).json(&json!({})).answer().await;
    assert_eq!(
        undone.json()["turns"].as_array().map(Vec::len),
        Some(1),
        "{}",
        undone.text()
    );
    let texts: Vec<_> = history(&house, &session)
        .await
        .iter()
        .filter(|message| message["role"] == "user")
        .map(|message| message["content"][0]["text"].clone())
        .collect();
    assert_eq!(texts, [json!("first")]);
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn a_turn_that_is_cancelled_while_its_answer_streams_keeps_the_text_and_drops_its_calls() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let model = house.next_answer();
    let (path, mut stream) = begin(&house, &session, json!({"input": "hi"})).await;
    model.say("Half of it");
    stream.until("text.delta").await;
    model.open_call("double");
    cancel(&house, &path).await;
    assert_eq!(stream.rest().await.last().unwrap().event, "turn.cancelled");
    let events = events(&house, &session).await;
    assert!(ends(&events).is_empty());
    let kept = events.iter().find(|event| event["type"] == "text.completed").unwrap();
    assert_eq!(kept["data"]["text"], "Half of it");
    goes_on(&house, &session).await;
    let asked = house.asked();
    let shown = asked.last().unwrap().messages.iter().any(|message| match message {
        Message::Assistant { parts } => {
            matches!(&parts[..], [AssistantPart::Text { text }] if text == "Half of it")
        }
        _ => false,
    });
    assert!(shown, "{:#?}", asked.last().unwrap().messages);
}

#[tokio::test]
async fn what_a_call_returned_before_the_turn_was_cancelled_is_kept() {
    let house = House::new().await;
    house.add_sums().await;
    house.add("spinning", spin()).await;
    let session = house.session().await;
    let calls = [("spin", json!({})), ("double", json!({"n": 21}))];
    house.next_answer().calls(&calls);
    let (path, mut stream) = begin(&house, &session, json!({"input": "hi"})).await;
    let first = stream.until("tool.completed").await;
    assert_eq!(first.last().unwrap().data["data"]["tool"], "double");
    cancel(&house, &path).await;
    assert_eq!(stream.rest().await.last().unwrap().event, "turn.cancelled");
    let events = events(&house, &session).await;
    assert_eq!(ends(&events), [("spin", "cancelled"), ("double", "ok")]);
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn a_call_that_was_approved_and_traps_has_a_result_and_the_turn_goes_on() {
    let house = House::new().await;
    house.add_sums().await;
    house
        .agent(json!({"model": "main", "approval": [{"tool": "*", "decide": "ask"}]}))
        .await;
    let session = house.session().await;
    house
        .next_answer()
        .calls(&[("fall", json!({"n": 1})), ("double", json!({"n": 2}))]);
    let waiting = turn(&house, &session, "hi").await;
    let path = format!("/v1/turns/{}", waiting["id"].as_str().unwrap());
    let decisions: Vec<_> = waiting["approvals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|asked| json!({"call_id": asked["call_id"], "decision": "approve"}))
        .collect();
    let decided = house
        .post(&format!("{path}/approvals"))
        .json(&json!({"decisions": decisions}));
    assert_eq!(decided.answer().await.status, StatusCode::OK);
    let id = waiting["id"].as_str().unwrap();
    house
        .get(&format!("{session}/events?turn={id}"))
        .stream()
        .await
        .rest()
        .await;
    assert_eq!(house.get(&path).answer().await.json()["status"], "completed");
    let events = events(&house, &session).await;
    assert_eq!(ends(&events), [("fall", "trapped"), ("double", "ok")]);
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn a_turn_cancelled_while_approved_calls_run_leaves_no_call_of_the_batch_without_an_end() {
    let house = House::new().await;
    house.add_sums().await;
    house.add("spinning", spin()).await;
    house
        .agent(json!({"model": "main", "approval": [{"tool": "*", "decide": "ask"}]}))
        .await;
    let session = house.session().await;
    let calls = [
        ("spin", json!({})),
        ("double", json!({"n": 1})),
        ("double", json!({"n": 2})),
    ];
    house.next_answer().calls(&calls);
    let waiting = turn(&house, &session, "hi").await;
    let id = waiting["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/turns/{id}");
    let mut stream = house.get(&format!("{session}/events?turn={id}")).stream().await;
    let approvals = waiting["approvals"].as_array().unwrap();
    let decisions = json!({"decisions": [
        {"call_id": approvals[0]["call_id"], "decision": "approve"},
        {"call_id": approvals[1]["call_id"], "decision": "reject"},
        {"call_id": approvals[2]["call_id"], "decision": "approve"},
    ]});
    let decided = house.post(&format!("{path}/approvals")).json(&decisions).answer().await;
    assert_eq!(decided.status, StatusCode::OK, "{}", decided.text());
    // The one that returns has: the other runs, or is about to.
    let mut returned = BTreeMap::new();
    while returned.get("double").copied().unwrap_or_default() < 2 {
        let seen = stream.until("tool.completed").await;
        let tool = seen.last().unwrap().data["data"]["tool"].as_str().unwrap().to_owned();
        *returned.entry(tool).or_insert(0) += 1;
    }
    cancel(&house, &path).await;
    assert_eq!(stream.rest().await.last().unwrap().event, "turn.cancelled");
    let events = events(&house, &session).await;
    assert_eq!(
        ends(&events),
        [("spin", "cancelled"), ("double", "denied"), ("double", "ok")]
    );
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn time_that_is_up_ends_a_model_call_and_a_tool_call_at_once_and_the_text_is_kept() {
    let house = House::new().await;
    house.add("spinning", spin()).await;
    let session = house.session().await;
    let silent = house.next_answer();
    silent.say("Half of it");
    let ended = submit(&house, &session, json!({"input": "hi", "budget": {"time": "3s"}})).await;
    assert_eq!(ended["status"], "failed", "time is hard: {ended}");
    let said = events(&house, &session).await;
    let said = said.iter().find(|event| event["type"] == "text.completed").unwrap();
    assert_eq!(said["data"]["text"], "Half of it");
    assert_eq!(ended["error"]["code"], "time_limit", "{ended}");
    goes_on(&house, &session).await;

    let grant = json!({"limits": {"time": "60s", "cpu": "60s"}});
    let granted = house.put("/v1/tools/spinning/grant").json(&grant).answer().await;
    assert!(granted.status.is_success(), "{}", granted.text());
    house.next_answer().call("spin", &json!({}));
    let ended = submit(&house, &session, json!({"input": "hi", "budget": {"time": "3s"}})).await;
    assert_eq!(ended["error"]["code"], "time_limit", "{ended}");
    let events = events(&house, &session).await;
    assert_eq!(ends(&events).len(), 1);
    let told: Vec<_> = events
        .iter()
        .filter(|event| event["type"] == "budget.exhausted")
        .collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|told| told["data"]["budget"] == "time"), "{told:?}");
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn calls_that_a_host_left_open_have_ends_in_the_whole_history_of_the_next_one() {
    let mut house = House::new().await;
    house.add_sums().await;
    house.add("spinning", spin()).await;
    let session = house.session().await;
    for _ in 0..2 {
        house
            .next_answer()
            .calls(&[("spin", json!({})), ("double", json!({"n": 1}))]);
        let (_, mut stream) = begin(&house, &session, json!({"input": "hi"})).await;
        stream.until("tool.completed").await;
        drop(stream);
        house = house.restarted().await;
        let events = house
            .get(&format!("{session}/events"))
            .with("accept", "application/json");
        let open = events.answer().await.json()["items"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()["turn"]
            .clone();
        house
            .get(&format!("{session}/events?turn={}", open.as_str().unwrap()))
            .stream()
            .await
            .rest()
            .await;
    }
    let events = events(&house, &session).await;
    assert_eq!(ends(&events).len(), 4, "each call has an end");
    goes_on(&house, &session).await;
    let asked = house.asked();
    let users: Vec<_> = asked
        .last()
        .unwrap()
        .messages
        .iter()
        .filter_map(|message| match message {
            Message::User { content } => Some(plain_text(content)),
            _ => None,
        })
        .collect();
    assert_eq!(users, ["hi", "hi", "go on"]);
}

#[tokio::test]
async fn a_picture_in_an_input_reaches_the_model_beside_its_text() {
    let house = House::new().await;
    let session = house.session().await;
    let picture = json!({"type": "image", "media_type": "image/png", "data": "iVBORw0KGgo="});
    let input = json!([{"type": "text", "text": "what is this"}, picture]);
    submit(&house, &session, json!({"input": input})).await;
    turn(&house, &session, "and now").await;
    for request in house.asked() {
        let Some(Message::User { content }) = request.messages.first() else {
            panic!("{:?}", request.messages)
        };
        assert_eq!(serde_json::to_value(content).unwrap(), input);
    }
}

#[tokio::test]
async fn calls_of_an_answer_that_the_provider_withheld_do_not_run() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let model = house.next_answer();
    model.say("I can");
    model.withheld_call("double", &json!({"n": 1}));
    let done = turn(&house, &session, "hi").await;
    assert_eq!(
        (&done["status"], &done["stop_reason"]),
        (&json!("completed"), &json!("content_filter")),
        "{done}"
    );
    let events = events(&house, &session).await;
    assert!(ends(&events).is_empty(), "{events:#?}");
    let step = events.iter().find(|event| event["type"] == "step.completed").unwrap();
    assert_eq!(step["data"]["dropped_calls"], json!(["double"]));
    assert_eq!(house.asked().len(), 1, "it is not asked again");
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn a_turn_that_fails_after_its_calls_leaves_them_with_their_results() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    house.next_answer().call("double", &json!({"n": 21}));
    house.next_refusal(ModelErrorKind::Auth);
    let failed = turn(&house, &session, "hi").await;
    assert_eq!(failed["error"]["code"], "model_auth", "{failed}");
    goes_on(&house, &session).await;
    let shown = serde_json::to_string(&house.asked().last().unwrap().messages).unwrap();
    assert!(shown.contains("42"), "{shown}");
}

#[tokio::test]
async fn a_cancel_after_the_end_changes_nothing() {
    let house = House::new().await;
    let session = house.session().await;
    let done = turn(&house, &session, "hi").await;
    let path = format!("/v1/turns/{}", done["id"].as_str().unwrap());
    cancel(&house, &path).await;
    assert_eq!(house.get(&path).answer().await.json()["status"], "completed");
    let events = events(&house, &session).await;
    assert_eq!(events.last().unwrap()["type"], "turn.completed");
}

#[tokio::test]
async fn nothing_is_undone_while_a_call_waits_for_a_decision() {
    let house = House::new().await;
    house.add_sums().await;
    house
        .agent(json!({"model": "main", "approval": [{"tool": "*", "decide": "ask"}]}))
        .await;
    let session = house.session().await;
    house.next_answer().call("double", &json!({"n": 1}));
    let waiting = turn(&house, &session, "hi").await;
    assert_eq!(waiting["status"], "awaiting_approval");
    let undo = || house.post(&format!("{session}/undo")).json(&json!({})).answer();
    let refused = undo().await;
    assert_eq!(refused.problem(), "session_busy");
    assert_eq!(refused.json()["turn"], waiting["id"]);
    cancel(&house, &format!("/v1/turns/{}", waiting["id"].as_str().unwrap())).await;
    assert_eq!(undo().await.status, StatusCode::OK);
    assert!(history(&house, &session).await.is_empty());
    goes_on(&house, &session).await;
}

#[tokio::test]
async fn what_is_added_while_a_provider_is_waited_for_is_not_lost() {
    let house = House::new().await;
    let session = house.session().await;
    house.next_refusal(ModelErrorKind::RateLimited {
        retry_after: Some(Duration::from_secs(1)),
    });
    let (_, mut stream) = begin(&house, &session, json!({"input": "hi"})).await;
    stream.until("retry.scheduled").await;
    let added = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "and this", "mode": "steer"}));
    let added = added.with("prefer", "respond-async").answer().await;
    assert!(added.status.is_success(), "{}", added.text());
    stream.rest().await;
    let asked = house.asked();
    assert_eq!(asked.len(), 3, "refused, asked again, and once more for what was added");
    let shown = serde_json::to_string(&asked[2].messages).unwrap();
    assert!(shown.contains("and this"), "{shown}");
    assert!(is_whole(&asked[2]));
    goes_on(&house, &session).await;
}
