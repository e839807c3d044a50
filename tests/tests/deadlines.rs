//! Whose deadline ends a call, through the real host: the limits of the configuration, and tools that call tools.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place};
use reqwest::Method;
use serde_json::{Value, json};

/// A manifest of the hostile component that asks for these limits.
fn manifest(limits: &str) -> String {
    format!("name = \"hostile\"\nversion = \"0.1.0\"\n[tools]\ncall = [\"*\"]\n[limits]\n{limits}\n")
}

/// A client's call of a tool that would sleep for a minute.
async fn sleep(host: &Host) -> Value {
    host.call("sleep", None, json!({"ms": 60_000})).await["error"].clone()
}

#[tokio::test]
async fn the_hosts_ceiling_and_its_default_are_named_where_they_decide() {
    let place = Place::new("[limits.ceiling]\ntime = \"300ms\"\n");
    let host = place.serve().await;
    host.add_guest("hostile", Some(&manifest("time = \"1h\""))).await;
    let error = sleep(&host).await;
    assert_eq!(error["deadline"], "host_ceiling", "{error}");
    assert!(error["message"].as_str().unwrap().contains("300ms"), "{error}");
    host.stop().await;

    let place = Place::new("[limits.default]\ntime = \"200ms\"\n");
    let host = place.serve().await;
    host.add_guest("hostile", Some(&manifest("cpu = \"1s\""))).await;
    let error = sleep(&host).await;
    assert_eq!(error["deadline"], "host_default", "{error}");
    assert!(error["message"].as_str().unwrap().contains("200ms"), "{error}");
    host.stop().await;
}

#[tokio::test]
async fn a_tool_that_a_tool_calls_has_what_its_caller_has_left() {
    let place = Place::new("");
    let host = place.serve().await;
    host.add_guest("hostile", Some(&manifest("time = \"60s\""))).await;
    // Both would have a minute; the client gives the outer one far less.
    let request = host
        .request(Method::POST, "/v1/tools/peer_call/call")
        .json(&json!({"arguments": {"tool": "call_info", "arguments": {}}, "time": "20s"}));
    let called: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(called["status"], "ok", "{called}");
    let deadline = called["output"]["structured"]["deadline_ms"].as_u64().unwrap();
    let epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let left = deadline.saturating_sub(u64::try_from(epoch.as_millis()).unwrap());
    assert!(left <= 20_000, "{left} ms are left");

    host.add_guest("hostile", Some(&manifest("time = \"3s\""))).await;
    let called = host
        .call("peer_call", None, json!({"tool": "sleep", "arguments": {"ms": 60_000}}))
        .await;
    assert_eq!(called["error"]["deadline"], "time_limit", "{called}");
    let metrics = host
        .request(Method::GET, "/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let counted = |tool: &str, owner: &str| {
        let labels = [format!("tool=\"{tool}\""), format!("deadline=\"{owner}\"")];
        let mut lines = metrics
            .lines()
            .filter(|line| line.starts_with("fumehood_tool_deadlines_total"));
        lines.any(|line| labels.iter().all(|label| line.contains(label.as_str())))
    };
    assert!(
        counted("peer_call", "time_limit") && counted("sleep", "caller"),
        "{metrics}"
    );
    host.stop().await;
}
