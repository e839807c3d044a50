//! The examples of the pages for operators: they do what the pages say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, find, root};
use serde_json::{Value, json};

/// The n-th block of a language on a page.
fn block(page: &str, language: &str, n: usize) -> String {
    let page = std::fs::read_to_string(root().join("docs/operators").join(page)).unwrap();
    let block = page.split(&format!("```{language}\n")).nth(n + 1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

const ASSISTANT: &str = r#"
turns:
  - match: "plain"
    steps:
      - tool_calls: [ { tool: http_fetch, arguments: { url: "https://docs.rs/" } } ]
      - text: "It ran."
  - match: "post"
    steps:
      - tool_calls: [ { tool: http_fetch, arguments: { url: "https://docs.rs/", method: "POST" } } ]
      - text: "It ran."
  - match: "write"
    steps:
      - tool_calls:
          - { tool: files_write, arguments: { path: "scratch/plan.md", content: "a" } }
          - { tool: files_write, arguments: { path: "scratch/../notes.md", content: "b" } }
      - text: "{{result.0.status}} {{result.1.status}}"
"#;

#[tokio::test]
async fn the_approval_rules_of_the_page_ask_before_something_is_sent_and_keep_new_files_in_one_place() {
    let place = Place::scripted(ASSISTANT, &block("approvals.md", "toml", 0));
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let plain = host.turn(&session, "plain").await;
    assert_eq!(plain["status"], "completed", "{plain}");
    let events = host.events(&session).await;
    let ran = |data: &Value| data["tool"] == "http_fetch";
    assert!(
        find(&events, "tool.started", ran).is_some(),
        "a plain fetch waits for nobody"
    );

    let write = host.turn(&session, "write").await;
    assert_eq!(write["output"][0]["text"], "ok denied", "{write}");

    let post = host.turn(&session, "post").await;
    assert_eq!(post["status"], "awaiting_approval", "{post}");
    let rule = post["approvals"][0]["rule"].as_str().unwrap();
    assert!(
        rule.contains("rule 2") && rule.contains("`http_fetch`") && !rule.contains("can't be decided"),
        "{rule}"
    );
    let log = host.stop().await;
    assert!(!log.contains("names no tool"), "{log}");
}

#[tokio::test]
async fn the_first_configuration_of_getting_started_is_valid_and_warns_of_nothing() {
    let place = Place::empty("");
    std::fs::write(place.path().join("page.toml"), block("getting-started.md", "toml", 0)).unwrap();
    let mut command = place.command(&["--json", "--config", "page.toml", "config", "check"]);
    let output = command.env("ANTHROPIC_API_KEY", "of a test").output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let checked: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(checked["warnings"], json!([]));
}

#[tokio::test]
async fn the_script_of_the_page_plays_as_the_page_says() {
    let place = Place::new(&block("scripted-model.md", "toml", 0));
    std::fs::write(place.path().join("script.yaml"), block("scripted-model.md", "yaml", 0)).unwrap();
    for (input, answer) in [
        ("Write the sales report.", "The total is 42.\n"),
        ("hello", "You said: hello\n"),
    ] {
        let output = place.run(&["run", input]).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), answer, "{errors}");
    }
}
