//! What becomes of a serving host that is told to stop.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place, signal};
use reqwest::Method;
use serde_json::{Value, json};

/// A turn with one call that takes so long, in milliseconds.
fn script(ms: u32) -> String {
    format!(
        "otherwise:\n  steps:\n    - tool_calls: [ {{ tool: clock_sleep, arguments: {{ ms: {ms} }} }} ]\n    - text: done\n"
    )
}

fn place(drain: &str, ms: u32) -> Place {
    Place::scripted(&script(ms), &format!("[shutdown]\ndrain = \"{drain}\"\n"))
}

/// Begins a turn and waits until its call runs.
async fn begun(host: &Host) -> (String, String) {
    let session = host.session(json!({})).await;
    let turn = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async")
        .json(&json!({"input": "wait"}))
        .send()
        .await
        .unwrap();
    let turn: Value = turn.json().await.unwrap();
    while !host
        .events(&session)
        .await
        .iter()
        .any(|event| event["type"] == "tool.started")
    {}
    (session, turn["id"].as_str().unwrap().to_owned())
}

/// How the turn ends after the next start, and what the journal tells of its call.
async fn afterwards(place: &Place, (session, turn): &(String, String)) -> (Value, Vec<String>) {
    let host = place.serve().await;
    let ended = loop {
        let shown = host.get(&format!("/v1/turns/{turn}")).await;
        if shown["status"] != "running" {
            break shown["status"].clone();
        }
    };
    let events = host.events(session).await;
    let of_call = events.iter().filter_map(|event| match event["type"].as_str()? {
        "tool.started" => Some("started".to_owned()),
        "tool.completed" => Some(event["data"]["status"].as_str()?.to_owned()),
        _ => None,
    });
    let of_call = of_call.collect();
    host.stop().await;
    (ended, of_call)
}

#[tokio::test]
async fn a_host_ends_as_it_should_from_the_moment_it_says_that_it_serves() {
    let place = Place::new("");
    for _ in 0..5 {
        place.serve().await.stop().await;
    }
}

#[tokio::test]
async fn a_call_that_runs_is_waited_for_and_the_next_start_goes_on_after_it() {
    let place = place("1h", 1500);
    let host = place.serve().await;
    let turn = begun(&host).await;
    host.stop().await;
    let (ended, call) = afterwards(&place, &turn).await;
    assert_eq!((ended, call), (json!("completed"), vec!["started".into(), "ok".into()]));
}

#[tokio::test]
async fn a_call_that_takes_longer_than_the_host_waits_runs_again_if_it_may() {
    let place = place("0s", 60_000);
    let host = place.serve().await;
    let turn = begun(&host).await;
    host.stop().await;
    let host = place.serve().await;
    let attempts = loop {
        let events = host.events(&turn.0).await;
        let started = events.iter().filter(|event| event["type"] == "tool.started");
        let attempts: Vec<_> = started
            .map(|event| (event["data"]["call"].clone(), event["data"]["attempt"].clone()))
            .collect();
        if attempts.len() > 1 {
            break attempts;
        }
    };
    let call = &attempts[0].0;
    assert_eq!(attempts, [(call.clone(), json!(1)), (call.clone(), json!(2))]);
    host.kill().await;
}

#[tokio::test]
async fn a_second_signal_ends_the_host_at_once() {
    let place = place("1h", 60_000);
    let host = place.serve().await;
    begun(&host).await;
    signal(host.pid(), "-TERM").await;
    // Once it listens no more it has heard the first.
    while host.anonymous(Method::GET, "/healthz").send().await.is_ok() {}
    signal(host.pid(), "-INT").await;
    assert_eq!(host.ended().await.code(), Some(1));
}
