//! Components that change while calls run on them: which calls finish, which are interrupted, and what an operator sees of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::{Host, PATIENCE, Place, expect_json, find, guest, refused, world::World};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// A call waits while other code is compiled, which may take long.
const MANIFEST: &str =
    "name = \"hostile\"\nversion = \"0.1.0\"\n[network]\nallow = [\"http://127.0.0.1:*\"]\n[limits]\ntime = \"10m\"\n";

fn config(drain: &str) -> String {
    format!("[limits]\ndrain = \"{drain}\"\n[network]\nprivate_networks = [\"127.0.0.1/32\"]\n")
}

/// The same guest as other code: a custom section makes it another digest.
fn other_version() -> Vec<u8> {
    let mut wasm = guest("hostile");
    wasm.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    wasm
}

async fn add(host: &Host, wasm: &[u8]) -> Value {
    host.add_component(wasm, Some(MANIFEST), json!("requested")).await
}

/// Begins a call that waits in the outside world, and returns when it is there.
async fn held(host: &Host, world: &World, number: usize) -> JoinHandle<Value> {
    let body = json!({"arguments": {"url": world.url("/held")}});
    let request = host.request(Method::POST, "/v1/tools/http_get/call").json(&body);
    let call = tokio::spawn(async move { expect_json(request.send().await.unwrap()).await });
    world.has_seen(number).await;
    call
}

async fn newest(host: &Host) -> Value {
    host.get("/v1/tool-changes").await["items"][0].clone()
}

/// Asks until the newest change is in the state.
async fn reaches(host: &Host, state: &str) -> Value {
    let asking = async {
        loop {
            let change = newest(host).await;
            if change["state"] == state {
                return change;
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking)
        .await
        .unwrap_or_else(|_| panic!("never {state}"))
}

#[tokio::test]
async fn a_call_finishes_on_the_version_it_began_with_within_the_drain() {
    let (world, place) = (World::start().await, Place::new(&config("1h")));
    let host = place.serve().await;
    let first = add(&host, &guest("hostile")).await;
    assert_eq!(
        (&first["change"]["operation"], &first["change"]["state"]),
        (&json!("add"), &json!("applied"))
    );
    let call = held(&host, &world, 1).await;

    let second = add(&host, &other_version()).await;
    let change = &second["change"];
    assert_eq!(change["operation"], "update", "{change}");
    assert_eq!(
        (&change["state"], &change["calls"]),
        (&json!("draining"), &json!(1)),
        "{change}"
    );
    assert_eq!(
        (&change["before"], &change["digest"]),
        (&first["digest"], &second["digest"])
    );
    assert!(change["until"].is_string(), "{change}");
    let mut command = place.command(&["tool", "list"]);
    let listed = command.env("FUMEHOOD_URL", &host.base).output().await.unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("hostile: updated, draining: 1 call"), "{listed}");
    // The new version serves meanwhile.
    assert_eq!(host.call("echo", None, json!({"text": "x"})).await["status"], "ok");

    world.release();
    let called = call.await.unwrap();
    assert_eq!(called["status"], "ok", "{called}");
    let change = reaches(&host, "applied").await;
    assert_eq!(
        (&change["calls"], &change["interrupted"]),
        (&json!(0), &json!(0)),
        "{change}"
    );
    assert_eq!(host.get("/v1/tools/hostile").await["change"]["state"], "applied");
    host.stop().await;
}

#[tokio::test]
async fn a_call_that_is_not_done_by_the_end_of_the_drain_is_interrupted_and_says_why() {
    let (world, place) = (World::start().await, Place::new(&config("0s")));
    let host = place.serve().await;
    add(&host, &guest("hostile")).await;
    let call = held(&host, &world, 1).await;
    add(&host, &other_version()).await;
    let called = call.await.unwrap();
    assert_eq!(called["status"], "interrupted", "{called}");
    let error = &called["error"];
    assert_eq!(
        (&error["code"], &error["deadline"]),
        (&json!("interrupted"), &json!("drain")),
        "{error}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("hostile was replaced by another version"), "{message}");
    let change = reaches(&host, "forced").await;
    assert_eq!(
        (&change["calls"], &change["interrupted"]),
        (&json!(0), &json!(1)),
        "{change}"
    );
    assert_eq!(host.call("echo", None, json!({"text": "x"})).await["status"], "ok");
    let metrics = host
        .request(Method::GET, "/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        metrics.contains("fumehood_tool_changes_total{state=\"forced\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("fumehood_tool_calls_draining 0"), "{metrics}");
    let log = host.stop().await;
    assert!(log.contains("a call was interrupted"), "{log}");
}

#[tokio::test]
async fn a_removed_component_drains_takes_no_new_call_and_comes_back_as_the_same_or_as_another() {
    let (world, place) = (World::start().await, Place::new(&config("1h")));
    let host = place.serve().await;
    add(&host, &guest("hostile")).await;
    let call = held(&host, &world, 1).await;
    let removed = host.request(Method::DELETE, "/v1/tools/hostile").send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::ACCEPTED);
    let change = expect_json(removed).await;
    assert_eq!(
        (&change["operation"], &change["state"]),
        (&json!("remove"), &json!("draining")),
        "{change}"
    );
    refused(
        host.request(Method::POST, "/v1/tools/echo/call")
            .json(&json!({"arguments": {"text": "x"}})),
        404,
        "not_found",
    )
    .await;
    // Other code of the name leaves the call to its drain; the same code takes it back.
    add(&host, &other_version()).await;
    assert_eq!(host.call("echo", None, json!({"text": "x"})).await["status"], "ok");
    assert_eq!(host.get("/v1/tool-changes").await["items"][1]["state"], "draining");
    add(&host, &guest("hostile")).await;
    let changes = host.get("/v1/tool-changes").await;
    for change in changes["items"].as_array().unwrap() {
        assert_ne!(change["state"], "draining", "{change}");
    }
    world.release();
    assert_eq!(call.await.unwrap()["status"], "ok");

    let removed = host.request(Method::DELETE, "/v1/tools/hostile").send().await.unwrap();
    assert_eq!(removed.status(), StatusCode::NO_CONTENT, "nothing runs on it");
    host.stop().await;
}

#[tokio::test]
async fn an_update_that_does_not_compile_leaves_the_version_that_serves() {
    let (world, place) = (World::start().await, Place::new(&config("0s")));
    let host = place.serve().await;
    let served = add(&host, &guest("hostile")).await;
    let call = held(&host, &world, 1).await;
    let mut broken = guest("hostile");
    broken.truncate(broken.len() / 2);
    let body = json!({"wasm": STANDARD.encode(&broken), "manifest": MANIFEST, "grant": "requested"});
    refused(
        host.request(Method::POST, "/v1/tools").json(&body),
        422,
        "component_refused",
    )
    .await;
    let change = newest(&host).await;
    assert_eq!(
        (&change["state"], &change["component"]),
        (&json!("failed"), &json!("hostile")),
        "{change}"
    );
    assert!(change["reason"].as_str().unwrap().contains("damaged"), "{change}");
    assert_eq!(host.get("/v1/tools/hostile").await["digest"], served["digest"]);
    assert_eq!(host.call("echo", None, json!({"text": "x"})).await["status"], "ok");
    world.release();
    assert_eq!(call.await.unwrap()["status"], "ok", "it was not touched");
    host.stop().await;
}

#[tokio::test]
async fn a_host_that_stops_while_calls_drain_does_not_wait_for_their_time() {
    let world = World::start().await;
    let config = format!("{}[shutdown]\ndrain = \"1s\"\n", config("1h"));
    let place = Place::scripted(&script(&world), &config);
    let host = place.serve().await;
    add(&host, &guest("hostile")).await;
    let session = turn(&host, &world).await;
    add(&host, &other_version()).await;
    assert_eq!(newest(&host).await["state"], "draining");
    host.stop().await;
    // The next start knows nothing of a drain, and what became of the call.
    let host = place.serve().await;
    let events = ended(&host, &session).await;
    let completed = find(&events, "tool.completed", |_| true).unwrap();
    assert_eq!(completed["status"], "interrupted", "{completed}");
    assert_eq!(host.get("/v1/tool-changes").await["items"], json!([]));
    host.stop().await;
}

#[tokio::test]
async fn a_turn_goes_on_after_a_call_of_it_was_interrupted_with_the_tools_of_now() {
    let world = World::start().await;
    let place = Place::scripted(&script(&world), &config("0s"));
    let host = place.serve().await;
    add(&host, &guest("hostile")).await;
    let session = turn(&host, &world).await;
    add(&host, &other_version()).await;
    let events = ended(&host, &session).await;
    let completed = find(&events, "tool.completed", |_| true).unwrap();
    assert_eq!(completed["error"]["deadline"], "drain", "{completed}");
    let changed = find(&events, "tools.changed", |_| true).unwrap();
    assert!(changed["updated"].to_string().contains("http_get"), "{changed}");
    assert!(find(&events, "turn.completed", |_| true).is_some(), "{events:?}");
    host.stop().await;
}

/// A model that has the world asked, and then is done.
fn script(world: &World) -> String {
    let url = world.url("/held");
    format!(
        "otherwise:\n  steps:\n    - tool_calls: [ {{ tool: http_get, arguments: {{ url: \"{url}\" }} }} ]\n    - text: \"done\"\n"
    )
}

/// Begins a turn whose call waits in the outside world, and returns its session when it is there.
async fn turn(host: &Host, world: &World) -> String {
    let session = host.session(json!({})).await;
    let path = format!("/v1/sessions/{session}/turns");
    let request = host.request(Method::POST, &path).header("prefer", "respond-async");
    let begun = request.json(&json!({"input": "go"})).send().await.unwrap();
    assert_eq!(begun.status(), StatusCode::ACCEPTED);
    world.has_seen(1).await;
    session
}

/// The events of a session whose turn has ended.
async fn ended(host: &Host, session: &str) -> Vec<Value> {
    let waiting = async {
        loop {
            let events = host.events(session).await;
            let over = |event: &Value| matches!(event["type"].as_str(), Some("turn.completed" | "turn.failed"));
            if events.iter().any(over) {
                return events;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("the turn did not end")
}
