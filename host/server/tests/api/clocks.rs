//! A clock that was set: what was written by a clock that was ahead, or that stands in the past by now, loses nothing and doubles nothing.

use crate::house::House;
use http::StatusCode;
use serde_json::{Value, json};

const DAY: i64 = 86_400_000_000_000;
const DECADE: i64 = 3650 * DAY;

/// As if all that is kept had been written by a clock that was off by so much.
async fn shifted(house: &House, nanos: i64) {
    let mut database = house.database().await;
    for shift in [
        "UPDATE events SET time = time + ?1",
        "UPDATE turns SET created = created + ?1, ended = ended + ?1, waits_until = waits_until + ?1, leased_until = leased_until + ?1",
        "UPDATE sessions SET created = created + ?1, updated = updated + ?1",
        "UPDATE idempotency SET created = created + ?1",
    ] {
        sqlx::query(shift).bind(nanos).execute(&mut database).await.unwrap();
    }
}

async fn turn(house: &House, session: &str, key: &str) -> Value {
    let request = house
        .post(&format!("{session}/turns"))
        .with("idempotency-key", key)
        .json(&json!({"input": "hi"}));
    let answer = request.answer().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

async fn journal(house: &House, session: &str) -> Vec<Value> {
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    events.answer().await.json()["items"].as_array().unwrap().clone()
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn what_a_clock_wrote_that_was_ahead_stays_in_its_order_and_is_gone_on_with() {
    let house = House::new().await;
    let session = house.session().await;
    let first = turn(&house, &session, "first").await;
    let before = seqs(&journal(&house, &session).await);
    shifted(&house, DECADE).await;
    let house = house.restarted().await;
    assert_eq!(turn(&house, &session, "first").await["id"], first["id"], "remembered");
    let second = turn(&house, &session, "second").await;
    assert_eq!(second["status"], "completed");
    let events = journal(&house, &session).await;
    assert_eq!(seqs(&events), (1..=events.len() as u64).collect::<Vec<_>>());
    assert!(events.len() > before.len());
    // The times go back in the middle; the places do not.
    let time = |event: &Value| event["time"].as_str().unwrap().to_owned();
    assert!(time(&events[0]) > time(events.last().unwrap()));
    let listed = house.get("/v1/sessions").answer().await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    // A stream that is taken up behind the last event by the clock that was ahead tells what came after it.
    let rest = house
        .get(&format!("{session}/events?turn={}", second["id"].as_str().unwrap()))
        .with("last-event-id", &before.len().to_string())
        .stream()
        .await
        .rest()
        .await;
    assert_eq!(rest.len(), events.len() - before.len());
}

#[tokio::test]
async fn a_key_is_remembered_for_a_day_by_the_clock_and_forgotten_by_one_that_is_set_ahead() {
    let house = House::new().await;
    let session = house.session().await;
    let first = turn(&house, &session, "key").await;
    // The clock is two days ahead of when it was written.
    shifted(&house, -2 * DAY).await;
    let second = turn(&house, &session, "key").await;
    assert_ne!(second["id"], first["id"]);
    assert_eq!(turn(&house, &session, "key").await["id"], second["id"]);
}
