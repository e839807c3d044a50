//! The commands, as an operator types them: on a host of their own, and while another serves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, root};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

fn hostile() -> String {
    root().join("target/guests/hostile.wasm").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_component_is_checked_added_granted_called_and_removed() {
    let place = Place::new("");
    let file = hostile();
    let checked = place.json(&["tool", "check", &file]).await;
    assert_eq!(checked["name"], "hostile");
    assert!(!checked["requests"].as_array().unwrap().is_empty());

    let added = place.json(&["tool", "add", &file]).await;
    assert!(added.get("grant").is_none(), "nothing is granted unasked: {added}");
    let waiting = place.run(&["tool", "call", "hostile", "echo", r#"{"text":"x"}"#]).await;
    assert_eq!(waiting.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&waiting.stderr).contains("waits for a grant"));

    let granted = place.json(&["tool", "grant", "hostile", "--yes"]).await;
    assert_eq!(granted["not_granted"], json!([]));
    let called = place
        .json(&["tool", "call", "hostile", "echo", r#"{"text":"x"}"#])
        .await;
    assert_eq!(called["status"], "ok");

    std::fs::write(place.path().join("less.toml"), "[files]\nworkspace = \"read\"\n").unwrap();
    let narrowed = place.json(&["tool", "grant", "hostile", "--grant", "less.toml"]).await;
    assert_eq!(narrowed["grant"]["files"]["workspace"], "read");
    place.json(&["tool", "remove", "hostile"]).await;
    let gone = place.run(&["tool", "show", "hostile"]).await;
    assert!(!gone.status.success());
}

#[tokio::test]
async fn a_file_is_called_under_a_grant_a_limit_and_a_directory_without_being_installed() {
    let place = Place::new("");
    let file = hostile();
    std::fs::create_dir(place.path().join("files")).unwrap();
    std::fs::write(place.path().join("files/a.txt"), "of the author").unwrap();
    std::fs::write(place.path().join("grant.toml"), "[files]\nworkspace = \"read\"\n").unwrap();
    let read = ["tool", "call", &file, "read_file", r#"{"path":"/workspace/a.txt"}"#];
    let granted = place
        .json(&[&read[..], &["--grant", "grant.toml", "--workspace", "files"]].concat())
        .await;
    assert!(granted.to_string().contains("of the author"), "{granted}");
    let denied = place.run(&[&read[..], &["--workspace", "files"]].concat()).await;
    assert_eq!(denied.status.code(), Some(1), "without a grant there are no files");
    let stopped = place
        .run(&["--json", "tool", "call", &file, "spin", "{}", "--limit", "cpu=50ms"])
        .await;
    assert!(String::from_utf8_lossy(&stopped.stdout).contains(r#""trap":"cpu""#));
    let listed = place.json(&["tool", "list"]).await;
    assert!(!listed.to_string().contains("hostile"));
}

#[tokio::test]
async fn commands_talk_to_the_host_that_serves() {
    let place = Place::new("listen = \"127.0.0.1:1\"\n");
    let host = place.serve().await;
    let session = host.session(json!({"title": "seen"})).await;
    let mut command = place.command(&["--json", "session", "list"]);
    let output = command.env("FUMEHOOD_URL", &host.base).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&session),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let unreachable = place.run(&["session", "list"]).await;
    assert!(String::from_utf8_lossy(&unreachable.stderr).contains("FUMEHOOD_URL"));
    host.stop().await;
}

#[tokio::test]
async fn a_secret_goes_in_by_standard_input_and_never_comes_out() {
    let place = Place::new("");
    let mut command = place.command(&["secret", "set", "GITHUB_TOKEN"]);
    let mut process = command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    process
        .stdin
        .take()
        .unwrap()
        .write_all(b"tok-31415926535\n")
        .await
        .unwrap();
    assert!(process.wait().await.unwrap().success());
    let listed = place.json(&["secret", "list"]).await.to_string();
    assert!(listed.contains("GITHUB_TOKEN") && !listed.contains("tok-"), "{listed}");
    place.json(&["secret", "delete", "GITHUB_TOKEN"]).await;
    assert_eq!(place.json(&["secret", "list"]).await["items"], json!([]));
}

#[tokio::test]
async fn run_prints_the_answer_and_tells_by_its_exit_how_the_turn_ended() {
    let script = "turns:\n  - match: \"again\"\n    steps:\n      - tool_calls: [ { tool: clock_now, arguments: {} } ]\n      - text: \"late\"\n  - match: \"fail\"\n    steps:\n      - error: { code: auth }\notherwise:\n  steps:\n    - text: \"You said: {{input}}\"\n";
    let place = Place::scripted(script, "[agent.assistant.budget]\nsteps = 1\n");
    let said = place.run(&["run", "hello"]).await;
    assert_eq!(
        (said.status.code(), &*said.stdout),
        (Some(0), b"You said: hello\n".as_slice())
    );
    assert_eq!(place.run(&["run", "fail"]).await.status.code(), Some(1));
    assert_eq!(place.run(&["run", "again"]).await.status.code(), Some(3));
}

#[tokio::test]
async fn a_budget_that_is_used_up_gives_run_its_own_exit_code_whosever_it_is() {
    let script = "otherwise:\n  steps:\n    - text: \"So far.\"\n      tool_calls: [ { tool: clock_now, arguments: {} } ]\n      usage: { input_tokens: 5, output_tokens: 5 }\n    - text: \"late\"\n";
    let place = Place::scripted(script, "[org.default.budget]\nper = \"day\"\ntokens = 10\n");
    let graceful = place.run(&["run", "hello"]).await;
    assert_eq!(
        (graceful.status.code(), &*graceful.stdout),
        (Some(3), b"So far.\n".as_slice())
    );
    let refused = place.run(&["run", "hello"]).await;
    let message = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{message}");
    assert!(
        message.contains("10 tokens") && message.contains("budget_exhausted"),
        "{message}"
    );
}
