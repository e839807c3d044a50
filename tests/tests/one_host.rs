//! One host at a time works on what is kept, and a command works only on what it was asked about.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place, find};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

const SCRIPT: &str = r#"
turns:
  - match: "wait"
    steps:
      - tool_calls: [ { tool: clock_sleep, arguments: { ms: 25000 } } ]
      - text: "Went on."
otherwise:
  steps:
    - text: "You said: {{input}}"
"#;

/// Begins a turn and kills the host while its call runs.
async fn killed_at_work(host: Host) -> (String, Vec<Value>) {
    let session = host.session(json!({})).await;
    let request = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async")
        .json(&json!({"input": "wait"}));
    assert_eq!(request.send().await.unwrap().status(), 202);
    let events = loop {
        let events = host.events(&session).await;
        if find(&events, "tool.started", |_| true).is_some() {
            break events;
        }
        tokio::task::yield_now().await;
    };
    host.kill().await;
    (session, events)
}

async fn events(place: &Place, session: &str) -> Vec<Value> {
    let output = place.run(&["--json", "session", "events", session]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_second_host_is_kept_from_a_database_by_whatever_name_it_comes() {
    let shared = TempDir::new().unwrap();
    let database = shared.path().join("shared.db");
    let link = shared.path().join("link.db");
    std::os::unix::fs::symlink(&database, &link).unwrap();
    let store = |path: &std::path::Path| format!("[store]\nurl = \"sqlite:{}\"\n", path.display());
    let (first, second) = (Place::empty(&store(&database)), Place::empty(&store(&link)));
    let host = first.serve().await;
    for command in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["session", "list"],
        &["key", "list"],
    ] {
        let output = second.run(command).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{command:?}: {said}");
        assert!(
            said.contains("the database")
                && said.contains(&format!("pid {}", host.pid()))
                && said.contains("[store] url"),
            "{command:?}: {said}"
        );
    }
    host.kill().await;
    // The key that the first start made.
    let keys = second.json(&["key", "list"]).await;
    assert_eq!(
        keys["items"].as_array().unwrap().len(),
        1,
        "free once the first has ended, however that came"
    );
}

#[tokio::test]
async fn a_command_leaves_alone_what_a_killed_host_left_and_a_serving_host_goes_on_with_it() {
    let place = Place::scripted(SCRIPT, "");
    let (session, before) = killed_at_work(place.serve().await).await;
    place.json(&["session", "list"]).await;
    assert_eq!(events(&place, &session).await, before);

    let host = place.serve().await;
    let turn = before
        .iter()
        .find_map(|event| event["turn"].as_str())
        .unwrap()
        .to_owned();
    let path = format!("/v1/sessions/{session}/events?turn={turn}");
    let stream = host.request(Method::GET, &path).header("accept", "text/event-stream");
    let told = fumehood_tests::frames(stream.send().await.unwrap()).await;
    let told: Vec<_> = futures::StreamExt::collect::<Vec<_>>(told).await;
    assert_eq!(told.last().unwrap().1, "turn.completed");
    host.stop().await;
}

#[tokio::test]
async fn a_turn_in_the_terminal_comes_after_what_was_left_in_its_session() {
    let place = Place::scripted(SCRIPT, "");
    let (session, before) = killed_at_work(place.serve().await).await;
    let left = before
        .iter()
        .find_map(|event| event["turn"].as_str())
        .unwrap()
        .to_owned();
    let output = place.run(&["run", "--session", &session, "hello"]).await;
    let (answer, said) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(
        output.status.success() && answer.contains("You said: hello"),
        "{answer}{said}"
    );
    assert!(said.contains(&left), "{said}");
    let after = events(&place, &session).await;
    let place_of = |kind: &str, of_left: bool| {
        let is = |event: &Value| event["type"] == kind && (event["turn"] == left.as_str()) == of_left;
        after.iter().position(is).unwrap()
    };
    assert!(place_of("turn.completed", true) < place_of("turn.queued", false));
}

#[tokio::test]
async fn a_host_that_was_killed_before_its_first_key_was_in_the_store_has_it_at_the_next_start() {
    let place = Place::empty("");
    let key = format!("fh_{}", "5a".repeat(32));
    std::fs::create_dir(place.data()).unwrap();
    std::fs::write(place.data().join("key"), format!("{key}\n")).unwrap();
    let host = place.serve().await;
    assert_eq!(host.key, key);
    host.get("/v1/sessions").await;
    host.stop().await;
}
