//! A host that takes its leave: what is under way comes to the end of its step, and the next start goes on with the rest.

use crate::{
    compaction::talkative,
    house::{Answer, House, Told},
    steering::later,
};
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);

/// A session whose turn waits for the model, and that turn.
async fn busy(house: &House) -> (String, Told, Value) {
    let session = house.session().await;
    let model = house.next_answer();
    let turn = later(house, &session, json!({"input": "first"})).await.json();
    house.has_asked(1).await;
    (session, model, turn)
}

/// Drains the host; `meanwhile` is done when it takes its leave already.
async fn drained<T>(house: &House, meanwhile: impl Future<Output = T>) -> T {
    let mut draining = Box::pin(house.host.drain(LONG));
    assert!(futures::poll!(&mut draining).is_pending(), "nothing is under way");
    let done = meanwhile.await;
    draining.await;
    done
}

async fn status(house: &House, turn: &Value) -> Value {
    let turn = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
    house.get(&turn).answer().await.json()["status"].clone()
}

async fn kinds(house: &House, session: &str) -> Vec<String> {
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    let events = events.answer().await.json();
    let kinds = events["items"].as_array().unwrap().iter();
    kinds.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

async fn ended(house: &House, session: &str, turn: &Value) -> Value {
    let id = turn["id"].as_str().unwrap();
    let events = house.get(&format!("{session}/events?turn={id}")).stream().await;
    events.rest().await;
    status(house, turn).await
}

fn is_leaving(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn a_step_under_way_comes_to_its_end_and_the_next_one_is_of_the_next_start() {
    let house = House::new().await;
    house.add_sums().await;
    let (session, model, turn) = busy(&house).await;
    drained(&house, async { model.call("double", &json!({"n": 21})) }).await;
    assert_eq!(status(&house, &turn).await, "running");
    let before = kinds(&house, &session).await;
    assert_eq!(before.last().map(String::as_str), Some("tool.completed"));
    assert_eq!(house.asked().len(), 1, "no step began");
    let house = house.restarted().await;
    assert_eq!(ended(&house, &session, &turn).await, "completed");
    let after = kinds(&house, &session).await;
    assert_eq!(after[..before.len()], before);
    let calls = after.iter().filter(|kind| *kind == "tool.started");
    assert_eq!((calls.count(), house.asked().len()), (1, 2), "{after:?}");
}

#[tokio::test]
async fn no_turn_is_accepted_and_none_that_waits_begins() {
    let house = House::new().await;
    let (session, model, first) = busy(&house).await;
    let waits = later(&house, &session, json!({"input": "second", "mode": "queue"})).await;
    let other = house.session().await;
    drained(&house, async {
        for mode in ["reject", "queue", "steer"] {
            let refused = later(&house, &session, json!({"input": "late", "mode": mode})).await;
            is_leaving(&refused);
            assert_eq!(refused.headers["retry-after"], "5");
        }
        is_leaving(&later(&house, &other, json!({"input": "late"})).await);
        is_leaving(&house.post(&format!("{other}/compact")).json(&json!({})).answer().await);
        model.says("One.");
    })
    .await;
    assert_eq!(status(&house, &first).await, "completed");
    assert_eq!(status(&house, &waits.json()).await, "queued");
    let house = house.restarted().await;
    assert_eq!(ended(&house, &session, &waits.json()).await, "completed");
    assert_eq!(house.asked().len(), 2);
}

#[tokio::test]
async fn a_summary_under_way_is_waited_for() {
    let house = House::new().await;
    let session = talkative(&house).await;
    let (asked, model) = (house.asked().len(), house.next_answer());
    let compact = house.post(&format!("{session}/compact")).json(&json!({}));
    let work = async {
        house.has_asked(asked + 1).await;
        drained(&house, async { model.says("They said a lot.") }).await;
    };
    let (compacted, ()) = tokio::join!(compact.answer(), work);
    assert_eq!(compacted.status, StatusCode::OK, "{}", compacted.text());
}

#[tokio::test]
async fn who_waits_for_a_turn_that_is_left_is_told() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let model = house.next_answer();
    let waits = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    let work = async {
        house.has_asked(1).await;
        drained(&house, async { model.call("double", &json!({"n": 21})) }).await;
    };
    let (told, ()) = tokio::join!(waits.answer(), work);
    is_leaving(&told);
}

#[tokio::test]
async fn what_takes_longer_than_it_may_is_cut_off_and_gone_on_with() {
    let house = House::new().await;
    let (session, model, turn) = busy(&house).await;
    house.host.drain(Duration::ZERO).await;
    assert_eq!(status(&house, &turn).await, "running");
    let house = house.restarted().await;
    drop(model);
    assert_eq!(ended(&house, &session, &turn).await, "completed");
}

#[tokio::test]
async fn a_turn_is_cancelled_also_while_the_host_drains() {
    let house = House::new().await;
    let (session, _model, turn) = busy(&house).await;
    let waits = later(&house, &session, json!({"input": "second", "mode": "queue"})).await;
    drained(&house, async {
        for turn in [&waits.json(), &turn] {
            let cancel = format!("/v1/turns/{}/cancel", turn["id"].as_str().unwrap());
            let cancelled = house.post(&cancel).answer().await;
            assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
        }
    })
    .await;
}

#[tokio::test]
async fn a_host_with_nothing_under_way_does_not_wait() {
    let house = House::new().await;
    house.session().await;
    house.host.drain(LONG).await;
}
