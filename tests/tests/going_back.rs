//! Undo and fork, end to end: a tool writes files, and they go back with the conversation, also over a restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place};
use reqwest::Method;
use serde_json::json;

const SCRIPT: &str = r#"
turns:
  - match: "first"
    steps:
      - tool_calls: [ { tool: files_write, arguments: { path: "notes/today.md", content: "first" } } ]
      - text: "Written."
  - match: "second"
    steps:
      - tool_calls:
          - { tool: files_edit, arguments: { path: "notes/today.md", old: "first", new: "second" } }
          - { tool: files_write, arguments: { path: "more.md", content: "second" } }
      - text: "Changed."
otherwise:
  steps:
    - text: "You said: {{input}}"
"#;

async fn read(host: &Host, session: &str, path: &str) -> Option<String> {
    let request = host.request(Method::GET, &format!("/v1/sessions/{session}/files/{path}"));
    let answer = request.send().await.unwrap();
    if !answer.status().is_success() {
        return None;
    }
    Some(answer.text().await.unwrap())
}

#[tokio::test]
async fn what_a_tool_wrote_is_undone_with_its_turn_also_after_a_restart() {
    let place = Place::scripted(SCRIPT, "");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    host.turn(&session, "first").await;
    let second = host.turn(&session, "second").await;
    assert_eq!(second["status"], "completed", "{second}");
    assert_eq!(read(&host, &session, "notes/today.md").await.as_deref(), Some("second"));
    host.kill().await;

    let host = place.serve().await;
    let fork = host.post(&format!("/v1/sessions/{session}/fork"), json!({})).await;
    let undone = host.post(&format!("/v1/sessions/{session}/undo"), json!({})).await;
    assert_eq!(undone["turns"], json!([second["id"]]), "{undone}");
    assert_eq!(
        (&undone["files"], &undone["files_lost"]),
        (&json!("restored"), &json!([])),
        "{undone}"
    );
    assert_eq!(
        undone["outside"][0]["tool"], "files_edit",
        "it does not say that it is harmless: {undone}"
    );
    assert_eq!(read(&host, &session, "notes/today.md").await.as_deref(), Some("first"));
    assert_eq!(read(&host, &session, "more.md").await, None);
    let forked = fork["id"].as_str().unwrap();
    assert_eq!(read(&host, forked, "more.md").await.as_deref(), Some("second"));

    host.post(&format!("/v1/sessions/{session}/undo"), json!({})).await;
    assert_eq!(
        read(&host, &session, "notes/today.md").await,
        None,
        "nothing was there before"
    );
    host.stop().await;
}
