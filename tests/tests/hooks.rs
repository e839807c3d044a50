//! Hooks from outside: a component and a webhook, in a real process, over a restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use fumehood_tests::{Host, Place, count, find, guest};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{net::TcpListener, sync::mpsc};

/// A script that writes what the guardian reads: the input names the words.
fn script(words: &[&str]) -> String {
    let mut script = String::from("turns:\n");
    for words in words {
        script.push_str(&format!(
            "  - match: \"try {words}\"\n    steps:\n      - tool_calls:\n          - {{ tool: files_write, arguments: \
             {{ path: \"a.txt\", content: \"guardian:{words}\" }} }}\n          - {{ tool: clock_now, arguments: {{}} }}\n      \
             - text: \"Done.\"\n"
        ));
    }
    script.push_str("otherwise:\n  steps:\n    - text: \"You said: {{input}}\"\n");
    script
}

const COMPONENT: &str = r#"
[network]
private_networks = ["127.0.0.1/32"]
[[agent.assistant.hook]]
name = "guard"
mode = "guard"
points = ["before_turn", "before_tool_call"]
component = "guardian"
timeout = "1m"
"#;

fn end<'a>(events: &'a [Value], tool: &str) -> &'a Value {
    find(events, "tool.completed", |data| data["tool"] == tool).unwrap()
}

/// A place with the component, granted what it asks for.
async fn with_component(words: &[&str]) -> Place {
    with_component_as(words, COMPONENT).await
}

async fn with_component_as(words: &[&str], config: &str) -> Place {
    let place = Place::scripted(&script(words), config);
    let wasm = place.path().join("guardian.wasm");
    std::fs::write(&wasm, guest("guardian")).unwrap();
    let added = place.run(&["tool", "add", wasm.to_str().unwrap(), "--yes"]).await;
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    place
}

#[tokio::test]
async fn a_component_written_with_the_sdk_guards_calls_and_what_it_does_stays_in_its_sandbox() {
    let tries = [
        (
            "deny not here",
            "calling files_write was denied by the hook `guard`: not here",
        ),
        ("panic", "(crashed)"),
        ("fail out of order", "out of order"),
        ("files", "there are no files"),
        ("fetch http://127.0.0.1:1/", "got nothing"),
        ("fetch http://169.254.169.254/", "got nothing"),
    ];
    let words: Vec<_> = tries
        .iter()
        .map(|(words, _)| *words)
        .chain(["say hello", "rename b.txt"])
        .collect();
    let place = with_component(&words).await;
    let host = place.serve().await;
    for (words, said) in tries {
        let session = host.session(json!({})).await;
        let turn = host.turn(&session, &format!("try {words}")).await;
        assert_eq!(turn["status"], "completed", "{words}: {turn}");
        let events = host.events(&session).await;
        let denied = end(&events, "files_write");
        assert_eq!(denied["status"], "denied", "{words}: {denied}");
        let message = denied["error"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{words}: {message}");
        assert_eq!(end(&events, "clock_now")["status"], "ok", "its sibling runs");
    }
    let session = host.session(json!({})).await;
    host.turn(&session, "try say hello").await;
    assert_eq!(end(&host.events(&session).await, "files_write")["status"], "ok");
    host.stop().await;
}

#[tokio::test]
async fn a_component_that_spins_is_stopped_and_what_it_was_asked_about_is_denied() {
    let config = COMPONENT
        .replace(r#"["before_turn", "before_tool_call"]"#, r#"["before_tool_call"]"#)
        .replace(r#"timeout = "1m""#, "timeout = \"2s\"\ntools = [\"files_write\"]");
    let place = with_component_as(&["spin"], &config).await;
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "try spin").await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let events = host.events(&session).await;
    let denied = end(&events, "files_write");
    let message = denied["error"]["message"].as_str().unwrap();
    assert!(
        denied["status"] == "denied" && message.contains("(timeout)"),
        "{denied}"
    );
    assert_eq!(end(&events, "clock_now")["status"], "ok", "its sibling runs");
    host.stop().await;
}

#[tokio::test]
async fn a_component_changes_the_arguments_that_run() {
    let place = with_component(&["rename b.txt"]).await;
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    host.turn(&session, "try rename b.txt").await;
    let events = host.events(&session).await;
    let changed = find(&events, "hook.changed", |_| true).unwrap();
    assert_eq!(changed["arguments"]["path"], "b.txt");
    assert_eq!(end(&events, "files_write")["status"], "ok");
    let listed = host
        .get(&format!("/v1/sessions/{session}/files?list"))
        .await
        .to_string();
    assert!(listed.contains("b.txt") && !listed.contains("a.txt"), "{listed}");
    host.stop().await;
}

#[tokio::test]
async fn an_input_that_a_component_denies_begins_no_turn() {
    let place = with_component(&[]).await;
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "guardian:deny not a word").await;
    assert_eq!(turn["error"]["code"], "hook_denied", "{turn}");
    assert_eq!(
        turn["error"]["message"],
        "the input was denied by the hook `guard`: not a word"
    );
    let later = host.turn(&session, "hello").await;
    assert_eq!(later["output"][0]["text"], "You said: hello", "{later}");
    host.stop().await;
}

/// A webhook that a test holds back, and what came to it.
struct Held {
    url: String,
    answers: Arc<AtomicBool>,
    came: mpsc::UnboundedReceiver<(String, Value)>,
}

type Shared = (Arc<AtomicBool>, mpsc::UnboundedSender<(String, Value)>);

async fn answer(State((answers, came)): State<Shared>, headers: HeaderMap, body: String) -> String {
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    came.send((id, serde_json::from_str(&body).unwrap())).unwrap();
    if !answers.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    json!({"decision": "allow"}).to_string()
}

async fn webhook() -> Held {
    let (sender, came) = mpsc::unbounded_channel();
    let answers = Arc::new(AtomicBool::new(false));
    let state: Shared = (Arc::clone(&answers), sender);
    let router = Router::new().route("/hook", post(answer)).with_state(state);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Held { url, answers, came }
}

fn by_webhook(url: &str) -> String {
    format!(
        "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n[[agent.assistant.hook]]\nname = \"guard\"\nmode = \"guard\"\npoints = \
         [\"before_tool_call\"]\ntools = [\"files_write\"]\nurl = \"{url}\"\nkey = \"HOOK_KEY\"\ntimeout = \"1m\"\n"
    )
}

async fn set_key(host: &Host) {
    let key = json!({"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    let set = host.request(reqwest::Method::PUT, "/v1/secrets/HOOK_KEY").json(&key);
    assert!(set.send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_guard_that_was_asked_when_the_host_was_killed_is_asked_the_same_again_and_the_call_runs_once() {
    let mut held = webhook().await;
    let place = Place::scripted(&script(&["it"]), &by_webhook(&held.url));
    let host = place.serve().await;
    set_key(&host).await;
    let session = host.session(json!({})).await;
    let begun = host
        .request(reqwest::Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async")
        .json(&json!({"input": "try it"}))
        .send()
        .await
        .unwrap();
    let turn: Value = begun.json().await.unwrap();
    let (first, asked) = held.came.recv().await.unwrap();
    assert_eq!(asked["data"]["about"]["arguments"]["path"], "a.txt");
    host.kill().await;

    held.answers.store(true, Ordering::SeqCst);
    let host = place.serve().await;
    let (again, _) = held.came.recv().await.unwrap();
    assert_eq!(first, again, "the same question has the same id");
    let path = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
    while host.get(&path).await["status"] == "running" {
        tokio::task::yield_now().await;
    }
    assert_eq!(host.get(&path).await["status"], "completed");
    let events = host.events(&session).await;
    assert_eq!(end(&events, "files_write")["status"], "ok");
    assert_eq!(count(&events, "tool.started"), 2, "each call ran once");
    host.stop().await;
}

#[tokio::test]
async fn a_tool_that_calls_tools_is_no_way_round_a_guard() {
    let mut held = webhook().await;
    held.answers.store(true, Ordering::SeqCst);
    let place = Place::scripted(&script(&[]), &by_webhook(&held.url));
    let host = place.serve().await;
    // Without its key the guard gives no answer, so it denies.
    let asks = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"x\"\n[tools]\ncall = [\"*\"]\n";
    let grant = json!({"tools": {"call": ["*"]}});
    host.add_component(&guest("hostile"), Some(asks), grant).await;
    let session = host.session(json!({})).await;
    let arguments = json!({"tool": "files_write", "arguments": {"path": "a.txt", "content": "x"}});
    let called = host
        .call("peer_call", Some(&session), arguments.clone())
        .await
        .to_string();
    assert!(called.contains("the hook `guard` gave no answer"), "{called}");
    set_key(&host).await;
    let called = host.call("peer_call", Some(&session), arguments).await.to_string();
    assert!(!called.contains("hook"), "{called}");
    let (_, asked) = held.came.recv().await.unwrap();
    assert_eq!(asked["data"]["about"]["tool"], "files_write");
    host.stop().await;
}

#[tokio::test]
async fn a_host_does_not_serve_with_a_hook_that_is_not_there_and_shows_those_that_are() {
    let place = Place::scripted(&script(&[]), COMPONENT);
    let refused = place.run(&["serve", "--listen", "127.0.0.1:0"]).await;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("[[agent.assistant.hook]] `guard`") && said.contains("`guardian`"),
        "{said}"
    );
    let shown = place.json(&["config", "show", "agent", "assistant"]).await;
    let hook = &shown["hooks"][0];
    assert_eq!(
        (&hook["name"], &hook["component"]),
        (&json!("guard"), &json!("guardian")),
        "{shown}"
    );
    assert_eq!(
        (&hook["agent"], &hook["timeout"]),
        (&json!("assistant"), &json!("1m")),
        "{shown}"
    );
}
