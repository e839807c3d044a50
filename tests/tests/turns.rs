//! Turns over HTTP: streams, waiting, asynchronous, resumed, repeated, cancelled; and what is left after a restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, expect_json, find, frames, refused};
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::json;

const SCRIPT: &str = r#"
turns:
  - match: "tools"
    steps:
      - text: "Looking."
        tool_calls:
          - { tool: files_list, arguments: { path: "." } }
          - { tool: clock_now, arguments: {} }
          - { tool: files_read, malformed_arguments: "{\"path\":" }
          - { tool: no_such_tool, arguments: {} }
          - { tool: files_read, arguments: { path: 7 } }
      - text: "Done."
        usage: { input_tokens: 10, output_tokens: 2 }
  - match: "wait"
    steps:
      - tool_calls: [ { tool: clock_sleep, arguments: { ms: 25000 } } ]
      - text: "Slept."
  - match: "forever"
    steps:
      - tool_calls: [ { tool: clock_now, arguments: {} } ]
      - tool_calls: [ { tool: clock_now, arguments: {} } ]
      - tool_calls: [ { tool: clock_now, arguments: {} } ]
      - text: "never reached"
otherwise:
  steps:
    - text: "You said: {{input}}"
"#;

#[tokio::test]
async fn a_turn_runs_tools_side_by_side_and_keeps_their_order() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    host.put_file(&session, "a.txt", "hello").await;
    let turn = host.turn(&session, "use the tools").await;
    assert_eq!(
        (&turn["status"], &turn["stop_reason"]),
        (&json!("completed"), &json!("end_turn")),
        "{turn}"
    );
    assert_eq!(turn["output"], json!([{"type": "text", "text": "Done."}]));
    assert_eq!(turn["usage"]["input_tokens"], 10);

    let events = host.events(&session).await;
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "gapless from 1");
    let requested: Vec<_> = events
        .iter()
        .filter(|e| e["type"] == "tool.requested")
        .map(|e| e["data"]["call"]["id"].clone())
        .collect();
    assert_eq!(requested.len(), 5);
    let status = |nth: usize| {
        let done = find(&events, "tool.completed", |data| data["call"] == requested[nth]).unwrap();
        (
            done["status"].as_str().unwrap().to_owned(),
            done["error"]["code"].as_str().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(status(0).0, "ok");
    assert_eq!(status(1).0, "ok");
    assert_eq!(status(2), ("error".into(), "invalid_arguments".into()));
    assert_eq!(status(3), ("error".into(), "tool_not_found".into()));
    assert_eq!(status(4), ("error".into(), "invalid_arguments".into()));

    let messages = host.get(&format!("/v1/sessions/{session}/messages")).await;
    let results: Vec<_> = messages["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|m| m["role"] == "tool")
        .map(|m| m["call"].clone())
        .collect();
    assert_eq!(results, requested, "results stand in the order of the requests");
    host.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_the_turn_and_can_be_resumed_from_any_event() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let request = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("accept", "text/event-stream");
    let response = request.json(&json!({"input": "use the tools"})).send().await.unwrap();
    let all: Vec<_> = frames(response).await.collect().await;
    assert_eq!(all.last().unwrap().1, "turn.completed");
    assert!(
        all.iter()
            .all(|(id, kind, data)| data["type"] == *kind && data["seq"].as_u64() == *id)
    );
    assert!(all.iter().any(|(id, kind, _)| kind == "text.delta" && id.is_none()));
    let recorded: Vec<_> = all
        .iter()
        .filter_map(|(id, _, data)| Some((*id.as_ref()?, data.clone())))
        .collect();

    let (middle, _) = recorded[recorded.len() / 2];
    let request = host
        .request(Method::GET, &format!("/v1/sessions/{session}/events"))
        .header("accept", "text/event-stream");
    let response = request
        .header("last-event-id", middle.to_string())
        .send()
        .await
        .unwrap();
    let rest: Vec<_> = frames(response)
        .await
        .take(recorded.len() - recorded.len() / 2 - 1)
        .collect()
        .await;
    let expected: Vec<_> = recorded[recorded.len() / 2 + 1..].to_vec();
    assert_eq!(
        rest.into_iter()
            .map(|(id, _, data)| (id.unwrap(), data))
            .collect::<Vec<_>>(),
        expected
    );
    host.stop().await;
}

#[tokio::test]
async fn an_asynchronous_turn_says_where_to_look() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let request = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async");
    let response = request.json(&json!({"input": "hi"})).send().await.unwrap();
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    loop {
        let turn = host.get(&location).await;
        if turn["status"] == "completed" {
            assert_eq!(turn["output"][0]["text"], "You said: hi");
            break;
        }
        tokio::task::yield_now().await;
    }
    host.stop().await;
}

#[tokio::test]
async fn the_same_key_and_request_is_the_same_turn_and_another_request_is_refused() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let path = format!("/v1/sessions/{session}/turns");
    let send = |input: &str| {
        host.request(Method::POST, &path)
            .header("idempotency-key", "k-1")
            .json(&json!({"input": input}))
    };
    let first = expect_json(send("hi").send().await.unwrap()).await;
    let second = expect_json(send("hi").send().await.unwrap()).await;
    assert_eq!(first["id"], second["id"]);
    refused(send("something else"), 422, "idempotency_key_reused").await;
    let queued = host
        .events(&session)
        .await
        .iter()
        .filter(|event| event["type"] == "turn.queued")
        .count();
    assert_eq!(queued, 1);
    host.stop().await;
}

#[tokio::test]
async fn a_busy_session_refuses_a_second_turn_and_a_cancelled_one_ends_at_once() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let path = format!("/v1/sessions/{session}/turns");
    let request = host
        .request(Method::POST, &path)
        .header("prefer", "respond-async")
        .json(&json!({"input": "wait"}));
    let turn = expect_json(request.send().await.unwrap()).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    refused(
        host.request(Method::POST, &path).json(&json!({"input": "hi"})),
        409,
        "session_busy",
    )
    .await;
    while find(&host.events(&session).await, "tool.started", |_| true).is_none() {
        tokio::task::yield_now().await;
    }
    let cancelled = host.post(&format!("/v1/turns/{turn}/cancel"), json!({})).await;
    assert_eq!(cancelled["status"], "cancelled");
    let again = host.post(&format!("/v1/turns/{turn}/cancel"), json!({})).await;
    assert_eq!(again["status"], "cancelled", "cancelling is idempotent");
    let events = host.events(&session).await;
    assert_eq!(
        find(&events, "tool.completed", |_| true).unwrap()["status"],
        "cancelled"
    );
    assert_eq!(
        host.turn(&session, "hi").await["status"],
        "completed",
        "the session goes on"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_turn_ends_when_its_budget_of_steps_is_used_up() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let body = json!({"input": "forever", "budget": {"steps": 2}});
    let turn = host.post(&format!("/v1/sessions/{session}/turns"), body).await;
    assert_eq!(
        (&turn["status"], &turn["stop_reason"]),
        (&json!("completed"), &json!("step_limit")),
        "{turn}"
    );
    assert!(
        find(&host.events(&session).await, "budget.exhausted", |data| data["budget"]
            == "steps")
        .is_some()
    );
    host.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_everything() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({"title": "kept", "metadata": {"ticket": 7}})).await;
    host.put_file(&session, "dir/a.txt", "hello").await;
    host.put(
        &format!("/v1/sessions/{session}/secrets/TOKEN"),
        json!({"value": "s3cret-value"}),
    )
    .await;
    host.turn(&session, "use the tools").await;
    let before = (
        host.events(&session).await,
        host.get(&format!("/v1/sessions/{session}")).await,
        host.get("/v1/tools").await,
    );
    host.stop().await;

    let host = place.serve().await;
    let after = (
        host.events(&session).await,
        host.get(&format!("/v1/sessions/{session}")).await,
        host.get("/v1/tools").await,
    );
    assert_eq!(before, after);
    let file = host
        .request(Method::GET, &format!("/v1/sessions/{session}/files/dir/a.txt"))
        .send()
        .await
        .unwrap();
    assert_eq!(file.text().await.unwrap(), "hello");
    assert!(
        host.get(&format!("/v1/sessions/{session}/secrets"))
            .await
            .to_string()
            .contains("TOKEN")
    );
    host.stop().await;
}

#[tokio::test]
async fn a_killed_host_goes_on_with_the_call_that_ran_if_it_may_run_again() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let request = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async");
    let turn = expect_json(request.json(&json!({"input": "wait"})).send().await.unwrap()).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    while find(&host.events(&session).await, "tool.started", |_| true).is_none() {
        tokio::task::yield_now().await;
    }
    host.kill().await;

    let host = place.serve().await;
    let attempts = loop {
        let events = host.events(&session).await;
        let started = events.iter().filter(|event| event["type"] == "tool.started");
        let attempts: Vec<_> = started
            .map(|event| (event["data"]["call"].clone(), event["data"]["attempt"].clone()))
            .collect();
        if attempts.len() > 1 {
            break attempts;
        }
        tokio::task::yield_now().await;
    };
    let call = &attempts[0].0;
    assert_eq!(attempts, [(call.clone(), json!(1)), (call.clone(), json!(2))]);
    let cancelled = host.request(Method::POST, &format!("/v1/turns/{turn}/cancel"));
    let ended = expect_json(cancelled.send().await.unwrap()).await;
    assert_eq!(ended["status"], "cancelled", "{ended}");
    let events = host.events(&session).await;
    let results = events.iter().filter(|event| event["type"] == "tool.completed");
    assert_eq!(results.count(), 1, "one call, one result");
    host.stop().await;
}
