//! Every end of a turn is told, wherever it was decided.

use super::{
    by_webhook, calling, data, events, house,
    outside::{Came, Outside, allow},
    say,
};
use crate::house::House;
use serde_json::{Value, json};

/// Somebody who is told how turns end.
async fn told(house: &House, mut agent: Value) -> Outside {
    let outside = Outside::new(|_| allow()).await;
    let mut hook = by_webhook("audit", outside.base.clone(), json!(["after_turn"]));
    hook["mode"] = json!("observe");
    agent["hook"] = json!([hook]);
    house.agent(agent).await;
    outside
}

async fn is_told(outside: &Outside, turn: &Value, status: &str) {
    let is_it = |came: &Came| {
        let data = came.data();
        data["turn"] == turn["id"] && data["about"]["status"] == status
    };
    outside.until(|came| came.iter().any(is_it)).await;
}

async fn cancel(house: &House, turn: &Value) {
    let path = format!("/v1/turns/{}/cancel", turn["id"].as_str().unwrap());
    assert_eq!(house.post(&path).answer().await.json()["status"], "cancelled");
}

#[tokio::test]
async fn a_turn_that_is_cancelled_before_it_begins_is_told_of() {
    let house = house().await;
    let outside = told(&house, json!({"model": "main"})).await;
    let session = house.session().await;
    let first = house.next_answer();
    let accepted = |input: &str| {
        let ask = house.post(&format!("{session}/turns")).with("prefer", "respond-async");
        ask.json(&json!({"input": input, "mode": "queue"})).answer()
    };
    accepted("first").await;
    house.has_asked(1).await;
    let queued = accepted("second").await.json();
    cancel(&house, &queued).await;
    is_told(&outside, &queued, "cancelled").await;
    first.done();
}

#[tokio::test]
async fn a_turn_that_waits_for_a_decision_and_ends_without_one_is_told_of() {
    let house = house().await;
    let rule = json!({"tool": "double", "decide": "ask"});
    let outside = told(&house, json!({"model": "main", "approval": [rule]})).await;
    let session = house.session().await;
    let waits = calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    assert_eq!(waits["status"], "awaiting_approval", "{waits}");
    cancel(&house, &waits).await;
    is_told(&outside, &waits, "cancelled").await;

    let waits = calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    assert_eq!(say(&house, &session, "something else").await["status"], "completed");
    is_told(&outside, &waits, "cancelled").await;
}

#[tokio::test]
async fn a_turn_that_can_not_be_worked_is_told_of() {
    let house = house().await;
    let outside = told(&house, json!({"model": "nobody"})).await;
    let session = house.session().await;
    let turn = say(&house, &session, "hi").await;
    assert_eq!(turn["status"], "failed", "{turn}");
    is_told(&outside, &turn, "failed").await;
    assert!(data(&events(&house, &session).await, "turn.started").is_empty());
}
