//! Calls that wait for a person, from outside: over a restart, from the command line, and out of the reach of tools.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place, find, guest, root};
use serde_json::{Value, json};

const SCRIPT: &str = r#"
turns:
  - match: "write"
    steps:
      - tool_calls:
          - { tool: clock_now, arguments: {} }
          - { tool: files_write, arguments: { path: "a.txt", content: "hello" } }
      - text: "Done."
  - match: "both"
    steps:
      - tool_calls:
          - { tool: files_write, arguments: { path: "a.txt", content: "a" } }
          - { tool: files_write, arguments: { path: "b.txt", content: "b" } }
      - text: "Done."
otherwise:
  steps:
    - text: "You said: {{input}}"
"#;

const ASK: &str = r#"
[agent.assistant]
approval_timeout = "TIMEOUT"
[[agent.assistant.approval]]
tool = "files_write"
decide = "ask"
[[agent.assistant.approval]]
tool = "files_read"
when = "arguments.path.startsWith('private/')"
decide = "deny"
"#;

fn place(timeout: &str) -> Place {
    Place::scripted(SCRIPT, &ASK.replace("TIMEOUT", timeout))
}

/// A turn that waits, and its session.
async fn parked(host: &Host, input: &str) -> (String, Value) {
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, input).await;
    assert_eq!(turn["status"], "awaiting_approval", "{turn}");
    (session, turn)
}

async fn ended(host: &Host, turn: &Value) -> Value {
    loop {
        let view = host.get(&format!("/v1/turns/{}", turn["id"].as_str().unwrap())).await;
        if ["completed", "failed", "cancelled"]
            .iter()
            .any(|status| view["status"] == *status)
        {
            return view;
        }
        tokio::task::yield_now().await;
    }
}

/// Runs a command against the host that serves.
async fn command(place: &Place, host: &Host, args: &[&str]) -> std::process::Output {
    let mut command = place.command(args);
    command.env("FUMEHOOD_URL", &host.base).output().await.unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn an_approval_from_before_the_host_was_killed_still_works() {
    let place = place("24h");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    // It may have expired already: then nobody was there as well.
    let turn = host.turn(&session, "write").await;
    host.kill().await;

    let host = place.serve().await;
    let shown = host.get(&format!("/v1/turns/{}", turn["id"].as_str().unwrap())).await;
    assert_eq!(shown, turn, "it waits as it did");
    let decision = json!({"call_id": turn["approvals"][0]["call_id"], "decision": "approve"});
    let path = format!("/v1/turns/{}/approvals", turn["id"].as_str().unwrap());
    host.post(&path, json!({"decisions": [decision]})).await;
    let view = ended(&host, &turn).await;
    assert_eq!(view["output"][0]["text"], "Done.", "{view}");
    let events = host.events(&session).await;
    let started = |tool: &str| {
        let started = events.iter().filter(|event| event["type"] == "tool.started");
        started.filter(|event| event["data"]["tool"] == tool).count()
    };
    assert_eq!((started("clock_now"), started("files_write")), (1, 1), "each ran once");
    host.stop().await;
}

#[tokio::test]
async fn a_request_expires_also_while_no_host_is_there() {
    let place = place("1s");
    let host = place.serve().await;
    let (session, turn) = parked(&host, "write").await;
    host.kill().await;

    let host = place.serve().await;
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    let events = host.events(&session).await;
    let resolved = find(&events, "approval.resolved", |_| true).unwrap();
    assert_eq!(resolved["decisions"][0]["decision"], "expired");
    let started = |data: &Value| data["tool"] == "files_write";
    assert!(find(&events, "tool.started", started).is_none(), "it never ran");
    host.stop().await;
}

#[tokio::test]
async fn the_command_line_shows_what_it_decides() {
    let place = place("24h");
    let host = place.serve().await;

    let (_, turn) = parked(&host, "write").await;
    let id = turn["id"].as_str().unwrap();
    let shown = said(&command(&place, &host, &["turn", "show", id]).await.stdout);
    assert!(
        shown.contains("waits for a decision") && shown.contains("files_write({\"path\":\"a.txt\""),
        "{shown}"
    );
    let edit = r#"{"path":"b.txt","content":"mine"}"#;
    let done = command(
        &place,
        &host,
        &["turn", "approve", id, "--arguments", edit, "--feedback", "not there"],
    )
    .await;
    let told = said(&done.stdout);
    assert!(done.status.success(), "{told}{}", said(&done.stderr));
    assert!(
        told.contains("approves") && told.contains("files_write({\"path\":\"b.txt\""),
        "{told}"
    );
    assert!(
        told.contains("completed") && told.contains("Done."),
        "it shows what came of it: {told}"
    );
    let again = command(&place, &host, &["turn", "approve", id]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again.stderr).contains("waits for no decision: it is completed"));

    let (session, turn) = parked(&host, "both").await;
    let id = turn["id"].as_str().unwrap();
    let one = turn["approvals"][1]["call_id"].as_str().unwrap();
    let several = command(&place, &host, &["turn", "approve", id, "--arguments", "{}"]).await;
    assert!(said(&several.stderr).contains("name it with --call"));
    let none = command(
        &place,
        &host,
        &["turn", "approve", id, "--call", "call_00000000000000000000000000000001"],
    )
    .await;
    assert!(said(&none.stderr).contains(one), "the calls that wait are named");
    let told = said(
        &command(&place, &host, &["turn", "approve", id, "--call", one])
            .await
            .stdout,
    );
    assert!(told.contains("approves") && told.contains("rejects"), "{told}");
    ended(&host, &turn).await;
    let files = host
        .get(&format!("/v1/sessions/{session}/files?list"))
        .await
        .to_string();
    assert!(files.contains("b.txt") && !files.contains("a.txt"), "{files}");

    let (_, turn) = parked(&host, "write").await;
    let told = said(
        &command(
            &place,
            &host,
            &["turn", "approve", turn["id"].as_str().unwrap(), "--reject"],
        )
        .await
        .stdout,
    );
    assert!(told.contains("rejects") && !told.contains("approves"), "{told}");
    ended(&host, &turn).await;
    host.stop().await;
}

#[tokio::test]
async fn a_run_without_a_terminal_asks_nobody_and_says_who_can_decide() {
    let place = place("24h");
    let run = place.run(&["run", "write"]).await;
    let told = said(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{told}");
    assert!(
        told.contains("nobody at a terminal to ask") && told.contains("fumehood turn approve trn_"),
        "{told}"
    );
    // It still waits, for whoever comes.
    let id = told
        .split("fumehood turn approve ")
        .nth(1)
        .unwrap()
        .split('`')
        .next()
        .unwrap();
    let turn = place.json(&["turn", "show", id]).await;
    assert_eq!(turn["status"], "awaiting_approval");
}

#[tokio::test]
async fn a_tool_can_neither_approve_nor_call_what_waits_for_approval() {
    let place = place("24h");
    let host = place.serve().await;
    let asks = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"x\"\n[tools]\ncall = [\"*\"]\n\
                [network]\nallow = [\"http://127.0.0.1:*\"]\n";
    let grant = json!({"tools": {"call": ["*"]}, "network": {"allow": ["http://127.0.0.1:*"]}});
    host.add_component(&guest("hostile"), Some(asks), grant).await;
    let session = host.session(json!({})).await;
    let peer = async |tool: &str, arguments: Value| {
        let arguments = json!({"tool": tool, "arguments": arguments});
        host.call("peer_call", Some(&session), arguments).await.to_string()
    };
    let asked = peer("files_write", json!({"path": "a.txt", "content": "x"})).await;
    assert!(
        asked.contains("needs a person's approval, which a tool can't get")
            && asked.contains("approval rule 1 of the agent `assistant`"),
        "{asked}"
    );
    let denied = peer("files_read", json!({"path": "private/x"})).await;
    assert!(denied.contains("approval rule 2 of the agent `assistant`"), "{denied}");
    let free = peer("clock_now", json!({})).await;
    assert!(!free.contains("\"error\""), "what no rule names is called: {free}");

    // The host's own API is at an address that no grant reaches.
    let (_, turn) = parked(&host, "write").await;
    let url = host.anonymous(
        reqwest::Method::POST,
        &format!("/v1/turns/{}/approvals", turn["id"].as_str().unwrap()),
    );
    let url = url.build().unwrap().url().to_string();
    let reached = host
        .call("http_get", Some(&session), json!({"url": url, "headers": {}}))
        .await;
    assert_ne!(reached["status"], "ok", "{reached}");
    host.stop().await;
}

#[test]
fn the_tool_contract_has_no_way_to_decide() {
    for entry in std::fs::read_dir(root().join("wit")).unwrap() {
        let path = entry.unwrap().path();
        // What a hook exports is asked of it: nothing there is a tool's to call.
        if path.extension().is_none_or(|extension| extension != "wit") || path.ends_with("hooks.wit") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in ["approv", "decision", "consent", "turn"] {
                assert!(!line.contains(word), "{}: {line}", path.display());
            }
        }
    }
}
