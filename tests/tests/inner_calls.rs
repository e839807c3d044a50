//! Calls that a tool makes of others, over a host that is killed meanwhile: what may run once does, and what runs again is the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, PATIENCE, Place, expect_json, guest, world::World};
use reqwest::Method;
use serde_json::{Value, json};
use std::{os::unix::process::ExitStatusExt as _, time::Duration};

const SIGKILL: i32 = 9;
const POLL: Duration = Duration::from_millis(20);

/// A host whose model calls `peer_again` with these arguments, and a session; killed at the fault point, if one is given.
async fn calling(arguments: Value, manifest: Option<&str>, fault: Option<&str>) -> (Place, Host, String) {
    let call = json!({"tool_calls": [{"tool": "peer_again", "arguments": arguments}]});
    let script = json!({"turns": [{"match": "go", "steps": [call, {"text": "Gone on."}]}],
        "otherwise": {"steps": [{"text": "Heard."}]}});
    let place = Place::scripted(
        &script.to_string(),
        "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n",
    );
    let faults: Vec<_> = fault.map(|point| ("FUMEHOOD_FAULT", point)).into_iter().collect();
    let host = place.serve_with(&faults).await;
    host.add_guest("hostile", manifest).await;
    let session = host.session(json!({})).await;
    (place, host, session)
}

/// Sends the input, and does not wait for the turn.
async fn begin(host: &Host, session: &str) -> String {
    let request = host
        .request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("prefer", "respond-async")
        .json(&json!({"input": "go"}));
    let turn = expect_json(request.send().await.unwrap()).await;
    turn["id"].as_str().unwrap().to_owned()
}

/// The turn, once it has ended.
async fn ended(host: &Host, turn: &str) -> Value {
    let looking = async {
        loop {
            let turn = host.get(&format!("/v1/turns/{turn}")).await;
            if matches!(turn["status"].as_str(), Some("completed" | "failed" | "cancelled")) {
                return turn;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("the turn never ended")
}

fn of<'e>(events: &'e [Value], kind: &str) -> Vec<&'e Value> {
    let of = events.iter().filter(|event| event["type"] == kind);
    of.map(|event| &event["data"]).collect()
}

/// Has the turn killed at the fault point, in a call of a tool that may run once, and gives the events of what became of it.
async fn killed_at(world: &World, fault: &str) -> (Value, Vec<Value>) {
    let inner = json!({"tool": "http_get", "arguments": {"url": world.url("/echo")}});
    killed_calling(inner, fault).await
}

/// The same in this call.
async fn killed_calling(inner: Value, fault: &str) -> (Value, Vec<Value>) {
    let (place, host, session) = calling(inner, None, Some(fault)).await;
    let turn = begin(&host, &session).await;
    assert_eq!(host.ended().await.signal(), Some(SIGKILL));
    let host = place.serve().await;
    let turn = ended(&host, &turn).await;
    let events = host.events(&session).await;
    host.stop().await;
    (turn, events)
}

#[tokio::test]
async fn a_call_that_is_killed_before_it_is_committed_runs_again_and_what_may_run_once_runs_once() {
    let world = World::start().await;
    let (turn, events) = killed_at(&world, "journal.append/tool.committed:before").await;
    assert_eq!(turn["status"], "completed", "{turn}");
    assert_eq!(world.arrived().len(), 1);
    let attempts: Vec<_> = of(&events, "tool.started")
        .iter()
        .map(|data| data["attempt"].clone())
        .collect();
    assert_eq!(attempts, [json!(1), json!(2)]);
    assert_eq!(of(&events, "tool.committed").len(), 1);
    let ends = of(&events, "tool.completed");
    assert_eq!((ends.len(), &ends[0]["status"]), (1, &json!("ok")), "{ends:?}");
}

#[tokio::test]
async fn a_call_that_is_killed_once_it_is_committed_ends_as_interrupted_and_nothing_runs_again() {
    let world = World::start().await;
    let (turn, events) = killed_at(&world, "journal.append/tool.committed:after").await;
    assert_eq!(turn["status"], "completed", "the model was told, and went on: {turn}");
    assert_eq!(world.arrived().len(), 0, "it was killed before it called");
    assert_eq!(of(&events, "tool.started").len(), 1);
    let ends = of(&events, "tool.completed");
    assert_eq!((ends.len(), &ends[0]["status"]), (1, &json!("interrupted")), "{ends:?}");
}

#[tokio::test]
async fn a_call_that_is_killed_where_it_claims_another_runs_again_and_makes_that_under_the_same_key() {
    for (moment, claims) in [("before", 1), ("after", 2)] {
        let inner = json!({"tool": "clock_now", "arguments": {}});
        let (turn, events) = killed_calling(inner, &format!("journal.append/tool.called:{moment}")).await;
        assert_eq!(turn["status"], "completed", "{moment}: {turn}");
        let called = of(&events, "tool.called");
        assert_eq!(called.len(), claims, "{moment}");
        assert!(called.iter().all(|claim| claim == &called[0]), "{called:?}");
        let ends = of(&events, "tool.completed");
        assert_eq!((ends.len(), &ends[0]["status"]), (1, &json!("ok")), "{ends:?}");
    }
}

#[tokio::test]
async fn a_tool_that_may_run_once_is_not_called_again_when_the_host_is_killed_while_it_runs() {
    let world = World::start().await;
    let inner = json!({"tool": "http_get", "arguments": {"url": world.url("/held")}});
    let (place, host, session) = calling(inner, None, None).await;
    let turn = begin(&host, &session).await;
    world.has_seen(1).await;
    host.kill().await;
    let host = place.serve().await;
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    assert_eq!(world.arrived().len(), 1);
    let events = host.events(&session).await;
    let ends = of(&events, "tool.completed");
    assert_eq!((ends.len(), &ends[0]["status"]), (1, &json!("interrupted")), "{ends:?}");
    host.stop().await;
}

/// `peer_again` calls `clock_now`, which may run again, and is killed while it waits for a server afterwards.
async fn killed_after_the_inner_call(world: &World, manifest: Option<&str>) -> (Place, Host, String, String) {
    let inner = json!({"tool": "clock_now", "arguments": {}, "url": world.url("/held")});
    let (place, host, session) = calling(inner, manifest, None).await;
    let turn = begin(&host, &session).await;
    world.has_seen(1).await;
    (place, host, session, turn)
}

/// The clock's component as other code, by its digest: a custom section at its end.
async fn replace_the_clock(host: &Host) {
    let mut wasm = guest("clock");
    wasm.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    host.add_component(&wasm, None, json!("requested")).await;
}

#[tokio::test]
async fn a_call_that_runs_again_makes_the_same_call_under_the_same_key() {
    let world = World::start().await;
    let (place, host, session, turn) = killed_after_the_inner_call(&world, None).await;
    host.kill().await;
    world.release();
    let host = place.serve().await;
    assert_eq!(ended(&host, &turn).await["status"], "completed");
    assert_eq!(world.arrived().len(), 2);
    let events = host.events(&session).await;
    let called = of(&events, "tool.called");
    assert_eq!(called.len(), 2);
    assert_eq!(called[0], called[1], "the same call, key, code and arguments");
    assert_eq!(called[0]["call"], of(&events, "tool.started")[0]["call"]);
    assert_ne!(called[0]["made"], called[0]["call"]);
    assert_eq!(of(&events, "tool.committed").len(), 0);
    host.stop().await;
}

#[tokio::test]
async fn a_call_that_runs_again_and_would_call_other_code_than_before_fails_the_turn() {
    let world = World::start().await;
    let (place, host, session, turn) = killed_after_the_inner_call(&world, None).await;
    replace_the_clock(&host).await;
    host.kill().await;
    world.release();
    let host = place.serve().await;
    let turn = ended(&host, &turn).await;
    assert_eq!(
        (&turn["status"], &turn["error"]["code"]),
        (&json!("failed"), &json!("diverged")),
        "{turn}"
    );
    let message = turn["error"]["message"].as_str().unwrap();
    assert!(message.contains("before it called clock_now"), "{message}");
    assert_eq!(world.arrived().len(), 1, "it was ended where it differs");
    let events = host.events(&session).await;
    assert_eq!(of(&events, "tool.called").len(), 1, "the other call was not made");
    let ends = of(&events, "tool.completed");
    assert_eq!((ends.len(), &ends[0]["status"]), (1, &json!("interrupted")), "{ends:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_job_that_runs_again_and_would_call_other_code_than_before_ends_as_interrupted() {
    let world = World::start().await;
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\n[network]\nallow = [\"http://127.0.0.1:*\"]\n\
         [tools]\ncall = [\"clock_now\"]\n[jobs]\nbackground = [\"peer_again\"]\n";
    let (place, host, session, turn) = killed_after_the_inner_call(&world, Some(manifest)).await;
    assert_eq!(
        ended(&host, &turn).await["status"],
        "completed",
        "the turn does not wait for the job"
    );
    replace_the_clock(&host).await;
    host.kill().await;
    world.release();
    let host = place.serve().await;
    let looking = async {
        loop {
            let events = host.events(&session).await;
            if let [end] = of(&events, "job.completed")[..] {
                return end.clone();
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let end = tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("the job never ended");
    assert_eq!(end["status"], "interrupted", "{end}");
    assert!(
        end["error"]["message"]
            .as_str()
            .unwrap()
            .contains("before it called clock_now"),
        "{end}"
    );
    assert_eq!(world.arrived().len(), 1);
    let events = host.events(&session).await;
    assert_eq!(
        (of(&events, "job.started").len(), of(&events, "tool.called").len()),
        (2, 1)
    );
    host.stop().await;
}
