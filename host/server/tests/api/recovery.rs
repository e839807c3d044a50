//! Turns that a stop of the host, or another host, cut into.

use crate::house::House;
use fumehood_core::{
    id::{SessionId, TurnId},
    name::OrgName,
    now,
    turn::Budget,
};
use fumehood_store::{
    lease::{Fence, HostId, Lease, Taken},
    record::{IfBusy, NewTurn},
};
use serde_json::{Value, json};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// A session in which a turn waits for its model: the session's path, and the turn.
async fn waiting_for_the_model(house: &House) -> (String, TurnId) {
    let session = house.session().await;
    let submitted = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "hi"}))
        .with("prefer", "respond-async");
    let turn = submitted.answer().await.json()["id"].as_str().unwrap().parse().unwrap();
    house.has_asked(1).await;
    (session, turn)
}

/// Takes a turn as another host would, once the lease of this one has ended.
async fn taken_over(house: &House, turn: TurnId, host: HostId, until: fumehood_core::Time) -> (Fence, u32) {
    let (org, at) = (OrgName::default_org(), now() + HOUR);
    let lease = Lease { host, at, until };
    match house.host.store().take_turn(&org, turn, lease).await.unwrap() {
        Some(Taken::Mine { fence, recoveries }) => (fence, recoveries),
        other => panic!("{other:?}"),
    }
}

/// Waits for the turn's end, and gives all events of the session.
async fn events_at_the_end(house: &House, session: &str, turn: TurnId) -> Vec<Value> {
    house
        .get(&format!("{session}/events?turn={turn}"))
        .stream()
        .await
        .rest()
        .await;
    events(house, session).await
}

async fn events(house: &House, session: &str) -> Vec<Value> {
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    events.answer().await.json()["items"].as_array().unwrap().clone()
}

fn of<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

#[tokio::test]
async fn what_a_host_finishes_late_of_a_turn_that_another_has_taken_does_not_count() {
    let house = House::new().await;
    let told = house.next_answer();
    let (session, turn) = waiting_for_the_model(&house).await;
    let (fence, _) = taken_over(&house, turn, HostId::new(), now() + 2 * HOUR).await;
    told.says("Too late.");
    // The other host is done with it, and leaves it to whoever comes next.
    house.host.store().let_go(fence).await.unwrap();
    let goes_on = async {
        loop {
            house.host.recover().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let events = tokio::select! {
        events = events_at_the_end(&house, &session, turn) => events,
        () = goes_on => unreachable!(),
    };
    let said: Vec<_> = of(&events, "text.completed")
        .iter()
        .map(|said| &said["data"]["text"])
        .collect();
    assert_eq!(said, ["Hello."]);
    assert_eq!(of(&events, "step.completed").len(), 1);
    assert_eq!(of(&events, "turn.completed").len(), 1);
}

#[tokio::test]
async fn a_turn_that_ends_its_host_each_time_is_given_up_with_a_reason() {
    let mut house = House::new().await;
    let _never = house.next_answer();
    let (session, turn) = waiting_for_the_model(&house).await;
    // Hosts that took it and were gone before anything came of it.
    let gone = HostId::new();
    for times in 1..=3 {
        let (_, recoveries) = taken_over(&house, turn, gone, now()).await;
        assert_eq!(recoveries, times);
    }
    house = house.restarted().await;
    let events = events_at_the_end(&house, &session, turn).await;
    let failed = of(&events, "turn.failed");
    assert_eq!(failed.len(), 1, "{events:?}");
    assert_eq!(failed[0]["data"]["error"]["code"], "interrupted");
    assert_eq!(house.asked().len(), 1, "it was not worked again");
    // The session goes on.
    let next = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    assert_eq!(next.answer().await.json()["status"], "completed");
}

#[tokio::test]
async fn stops_that_let_go_of_a_turn_do_not_count_against_it() {
    let mut house = House::new().await;
    let mut never = vec![house.next_answer()];
    let (session, turn) = waiting_for_the_model(&house).await;
    for stops in 1..=5 {
        never.push(house.next_answer());
        house = house.restarted().await;
        house.has_asked(stops + 1).await;
    }
    never.pop().unwrap().says("Hello.");
    let events = events_at_the_end(&house, &session, turn).await;
    assert_eq!(of(&events, "turn.completed").len(), 1);
}

#[tokio::test]
async fn a_turn_that_nobody_works_is_found_while_the_host_runs() {
    let house = House::new().await;
    let path = house.session().await;
    let session: SessionId = path.rsplit('/').next().unwrap().parse().unwrap();
    let new = NewTurn {
        id: TurnId::new(),
        input: vec![fumehood_core::content::Content::text("hi")],
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        idempotency: None,
        replaces: None,
        ends: None,
        if_busy: IfBusy::Refuse,
    };
    // As a host leaves it that accepts a turn and is gone.
    let org = OrgName::default_org();
    house.host.store().accept_turn(&org, session, &new).await.unwrap();
    let (_, recoveries) = taken_over(&house, new.id, HostId::new(), now()).await;
    assert_eq!(recoveries, 0);
    let events = events_at_the_end(&house, &path, new.id).await;
    assert_eq!(of(&events, "turn.completed").len(), 1);
}
