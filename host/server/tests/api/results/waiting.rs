//! While a turn waits for results: the time that passes, restarts, hooks, and whatever comes at the same moment.

use super::{asked, call, completed, events, give, locate, of_type, path, submit, to_the_end};
use crate::{
    hooks::outside::{Outside, allow, change, deny},
    house::{House, Plan, kinds},
};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::{Mutex, mpsc};

/// A house that asks a webhook at this point.
async fn watched(outside: &Outside, point: &str) -> House {
    let hook = json!({
        "name": "guard", "points": [point], "mode": "guard", "url": outside.base, "key": "HOOK_KEY", "timeout": "30s", "tools": ["locate"],
    });
    let mut plan = Plan {
        agent: json!({"model": "main", "hook": [hook]}),
        ..Plan::default()
    };
    plan.policy.private_networks = serde_json::from_value(json!(["127.0.0.1/32"])).unwrap();
    let house = House::built(plan).await;
    let key = house.put("/v1/secrets/HOOK_KEY");
    let key = key
        .json(&json!({"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}))
        .answer()
        .await;
    assert!(key.status.is_success(), "{}", key.text());
    house
}

/// A webhook that allows what it is asked about when the test lets it.
async fn gate() -> (Outside, mpsc::Sender<()>) {
    let (open, opened) = mpsc::channel();
    let opened = Mutex::new(opened);
    let outside = Outside::new(move |_| {
        opened.lock().unwrap().recv().unwrap();
        allow()
    });
    (outside.await, open)
}

fn here(turn: &Value) -> Value {
    json!([{"call_id": call(turn, 0), "content": "here"}])
}

/// A result that a model is told the beginning and the end of.
fn long(turn: &Value, text: &str) -> Value {
    json!([{"call_id": call(turn, 0), "content": text.repeat(100_000)}])
}

/// The files that have the whole of what was too long.
async fn kept(house: &House, session: &str) -> Vec<String> {
    let listed = house.get(&format!("{session}/files?list")).answer().await.json();
    let paths = listed["items"].as_array().unwrap().iter();
    let paths = paths.map(|file| file["path"].as_str().unwrap().to_owned());
    paths.filter(|path| path.starts_with("tool-outputs/")).collect()
}

#[tokio::test]
async fn a_turn_waits_through_a_restart_and_goes_on_with_the_result() {
    let house = House::new().await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({}))]).await;
    let house = house.restarted().await;
    let shown = house.get(&path(&turn)).answer().await.json();
    assert_eq!(shown["awaited"], turn["awaited"]);
    let given = give(&house, &turn, here(&turn)).await;
    assert_eq!(given.status, StatusCode::OK, "{}", given.text());
    let events = to_the_end(&house, &session, &turn).await;
    assert_eq!(events.last().unwrap()["type"], "turn.completed");
    assert_eq!(of_type(&events, "results.requested").len(), 1, "handed over once");
}

#[tokio::test]
async fn a_result_that_does_not_come_in_time_is_a_timeout_and_the_turn_goes_on() {
    let house = House::new().await;
    let session = house.session().await;
    house.next_answer().calls(&[("locate", json!({}))]);
    let mut tool = locate();
    tool["timeout"] = json!("1s");
    // It may have gone on before the answer: the events say how it went.
    let turn = submit(&house, &session, &json!({"input": "where?", "tools": [tool]}))
        .await
        .json();
    let events = to_the_end(&house, &session, &turn).await;
    let id = &of_type(&events, "results.requested")[0]["data"]["calls"][0]["call_id"];
    let end = completed(&events, id);
    assert_eq!(
        (&end["data"]["status"], &end["source"]["kind"]),
        (&json!("timeout"), &json!("host"))
    );
    assert_eq!(end["data"]["error"]["deadline"], "client");
    assert_eq!(events.last().unwrap()["type"], "turn.completed");
    let late = give(&house, &turn, json!([{"call_id": id, "content": "late"}])).await;
    assert_eq!(
        (late.status, late.problem().as_str()),
        (StatusCode::CONFLICT, "not_awaiting_results")
    );
}

#[tokio::test]
async fn a_new_input_comes_instead_and_each_call_has_a_result_that_says_so() {
    let house = House::new().await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({})), ("locate", json!({}))]).await;
    give(&house, &turn, here(&turn)).await;
    let queued = json!({"input": "later", "mode": "queue"});
    let queued = house
        .post(&format!("{session}/turns"))
        .with("prefer", "respond-async")
        .json(&queued);
    let queued = queued.answer().await.json();
    assert_eq!(queued["status"], "queued", "what may wait does not come instead");
    let cancelled = house.post(&format!("{}/cancel", path(&queued))).answer().await;
    assert_eq!(cancelled.json()["status"], "cancelled");

    let answer = submit(&house, &session, &json!({"input": "never mind"})).await;
    assert_eq!(answer.json()["status"], "completed", "{}", answer.text());
    let before = to_the_end(&house, &session, &turn).await;
    assert_eq!(before.last().unwrap()["type"], "turn.cancelled");
    assert_eq!(
        completed(&before, call(&turn, 0))["data"]["status"],
        "ok",
        "what had come is kept"
    );
    let end = completed(&before, call(&turn, 1));
    assert_eq!(end["data"]["status"], "cancelled");
    assert!(end.to_string().contains("a new message instead"), "{end}");
    let shown = serde_json::to_string(&house.asked().last().unwrap().messages).unwrap();
    assert_eq!(
        shown.matches("a new message instead").count(),
        1,
        "the model reads it: {shown}"
    );
    assert_eq!(give(&house, &turn, here(&turn)).await.problem(), "not_awaiting_results");
}

#[tokio::test]
async fn a_turn_that_waits_is_cancelled_at_once() {
    for at in ["now", "boundary"] {
        let house = House::new().await;
        let session = house.session().await;
        let turn = asked(&house, &session, &[("locate", json!({}))]).await;
        let cancel = house.post(&format!("{}/cancel", path(&turn))).json(&json!({"at": at}));
        let cancelled = cancel.answer().await.json();
        assert_eq!(
            (&cancelled["status"], &cancelled["awaited"]),
            (&json!("cancelled"), &json!([]))
        );
        let events = events(&house, &session, &turn).await;
        assert_eq!(completed(&events, call(&turn, 0))["data"]["status"], "cancelled");
    }
}

#[tokio::test]
async fn a_stream_tells_what_is_waited_for_and_goes_on_to_the_end_of_the_turn() {
    let house = House::new().await;
    let session = house.session().await;
    house.next_answer().calls(&[("locate", json!({}))]);
    let ask = house
        .post(&format!("{session}/turns"))
        .with("accept", "text/event-stream");
    let mut stream = ask
        .json(&json!({"input": "where?", "tools": [locate()]}))
        .stream()
        .await;
    let frames = stream.until("turn.paused").await;
    let requested = frames.iter().find(|frame| frame.event == "results.requested").unwrap();
    let data = requested.data["data"].clone();
    let turn = json!({"id": requested.data["turn"], "awaited": data["calls"]});
    assert_eq!(give(&house, &turn, here(&turn)).await.status, StatusCode::OK);
    let rest = stream.rest().await;
    let rest = kinds(&rest);
    assert_eq!(rest[..2], ["tool.completed", "turn.resumed"]);
    assert_eq!(rest.last(), Some(&"turn.completed"));
}

#[tokio::test]
async fn the_same_request_joins_the_turn_that_waits() {
    let house = House::new().await;
    let session = house.session().await;
    house.next_answer().calls(&[("locate", json!({}))]);
    let send = |tool: Value| {
        let ask = house.post(&format!("{session}/turns")).with("idempotency-key", "k");
        ask.json(&json!({"input": "where?", "tools": [tool]})).answer()
    };
    let first = send(locate()).await.json();
    assert_eq!(first["status"], "awaiting_results");
    assert_eq!(send(locate()).await.json(), first);
    let mut other = locate();
    other["description"] = json!("Tells where somebody else is.");
    assert_eq!(send(other).await.problem(), "idempotency_key_reused");
}

#[tokio::test]
async fn guards_judge_the_call_before_it_is_handed_over_and_the_result_before_it_is_kept() {
    let outside = Outside::new(|_| change(&json!({"room": "a"}))).await;
    let house = watched(&outside, "before_tool_call").await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({"room": "vault"}))]).await;
    assert_eq!(turn["awaited"][0]["arguments"], json!({"room": "a"}));
    assert_eq!(outside.came()[0].data()["about"]["component"]["name"], "client");
    give(&house, &turn, here(&turn)).await;
    let events = to_the_end(&house, &session, &turn).await;
    let end = completed(&events, call(&turn, 0)).to_string();
    assert!(end.contains("The host changed the arguments"), "{end}");

    let outside = Outside::new(|_| deny("not for the model")).await;
    let house = watched(&outside, "after_tool_call").await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({}))]).await;
    assert_eq!(give(&house, &turn, here(&turn)).await.status, StatusCode::OK);
    let events = to_the_end(&house, &session, &turn).await;
    let end = completed(&events, call(&turn, 0));
    assert_eq!(end["data"]["status"], "denied");
    assert!(end["data"].get("output").is_none(), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_result_that_is_being_judged_when_the_turn_is_cancelled_is_not_taken() {
    let (outside, open) = gate().await;
    let house = watched(&outside, "after_tool_call").await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({}))]).await;
    let giving = give(&house, &turn, long(&turn, "a"));
    let cancelling = async {
        outside.until(|came| came.len() == 1).await;
        let cancelled = house.post(&format!("{}/cancel", path(&turn))).answer().await;
        open.send(()).unwrap();
        cancelled
    };
    let (given, cancelled) = tokio::join!(giving, cancelling);
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_eq!(
        (given.status, given.problem().as_str()),
        (StatusCode::CONFLICT, "not_awaiting_results")
    );
    let events = to_the_end(&house, &session, &turn).await;
    assert_eq!(completed(&events, call(&turn, 0))["data"]["status"], "cancelled");
    assert_eq!(
        kept(&house, &session).await,
        Vec::<String>::new(),
        "nothing of it is kept"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_results_for_one_call_that_come_at_once_one_is_taken() {
    let (outside, open) = gate().await;
    let house = watched(&outside, "after_tool_call").await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({}))]).await;
    let texts = ["a", "b", "c"];
    let all = futures::future::join_all(texts.map(|text| give(&house, &turn, long(&turn, text))));
    let opening = async {
        // Each was looked at while the turn still waited.
        outside.until(|came| came.len() == 3).await;
        for _ in 0..3 {
            open.send(()).unwrap();
        }
    };
    let (given, ()) = tokio::join!(all, opening);
    let taken = texts
        .iter()
        .zip(&given)
        .filter(|(_, answer)| answer.status == StatusCode::OK);
    let taken: Vec<_> = taken.map(|(text, _)| *text).collect();
    assert_eq!(taken.len(), 1);
    let events = to_the_end(&house, &session, &turn).await;
    let end = completed(&events, call(&turn, 0));
    let shown = end["data"]["output"]["content"][0]["text"].as_str().unwrap();
    let files = kept(&house, &session).await;
    assert!(files.len() == 1 && shown.contains(&files[0]), "{files:?}");
    let whole = house.get(&format!("{session}/files/{}", files[0])).answer().await;
    assert_eq!(
        whole.text(),
        taken[0].repeat(100_000),
        "the file is that of the one that was taken"
    );
    assert_eq!(of_type(&events, "turn.resumed").len(), 1);
}
