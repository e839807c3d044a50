//! What a turn writes in one: the disk is asked once for all that follows without anybody being waited for.

use crate::house::{House, Plan};
use fumehood_core::{name::OrgName, spending::Window};
use fumehood_policy::spending::OrgBudget;
use serde_json::{Value, json};

/// The events of a session by the write that made them durable: those of one have the same time.
async fn writes(house: &House, session: &str) -> Vec<Vec<String>> {
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    let events = events.answer().await.json();
    let events = events["items"].as_array().unwrap();
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    let together = events.chunk_by(|one, next| one["time"] == next["time"]);
    together.map(|write| write.iter().map(kind).collect()).collect()
}

/// A turn that calls a tool once and says something about it.
async fn turn(house: &House) -> String {
    house.add_sums().await;
    let session = house.session().await;
    let model = house.next_answer();
    model.call("double", &json!({"n": 21}));
    let last = house.next_answer();
    last.says("It is 42.");
    let turn = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "double it"}));
    assert_eq!(turn.answer().await.json()["status"], "completed");
    session
}

#[tokio::test]
async fn what_nobody_waits_for_in_between_is_written_together() {
    let house = House::new().await;
    let session = turn(&house).await;
    assert_eq!(
        writes(&house, &session).await,
        [
            vec!["session.created"],
            vec!["turn.queued"],
            vec!["turn.started", "step.started"],
            vec!["tool.requested", "step.completed", "tool.started"],
            vec!["tool.completed", "step.started"],
            vec!["text.completed", "step.completed", "turn.completed"],
        ]
    );
}

#[tokio::test]
async fn what_an_answer_took_of_a_budget_is_written_before_anything_else_happens() {
    let budget = OrgBudget {
        per: Window::Day,
        tokens: Some(1_000_000),
        ..OrgBudget::default()
    };
    let house = House::built(Plan {
        budgets: [(OrgName::default_org(), budget)].into(),
        ..Plan::default()
    })
    .await;
    let session = turn(&house).await;
    let writes = writes(&house, &session).await;
    for answer in [
        vec!["tool.requested", "step.completed"],
        vec!["text.completed", "step.completed"],
    ] {
        assert!(writes.iter().any(|write| *write == answer), "{writes:?}");
    }
}
