//! Each limit of a call, and the hostile guest that hits it: the call ends with its own kind of trap, the host goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place};
use serde_json::{Value, json};

/// A host with the hostile component under small limits.
async fn host(place: &Place) -> Host {
    let host = place.serve().await;
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"Misbehaves.\"\n\
        [files]\nworkspace = \"read-write\"\n\
        [limits]\nmemory = \"16MiB\"\ncpu = \"200ms\"\ntime = \"5s\"\noutput = \"64KiB\"\ntmp = \"1MiB\"\nhost_calls = 20000\nstdout = \"16KiB\"\n";
    host.add_guest("hostile", Some(manifest)).await;
    host
}

/// The call's error, after which the host must still serve an honest call.
async fn error_of(host: &Host, tool: &str, arguments: Value) -> Value {
    let result = host.call(tool, None, arguments).await;
    let honest = host.call("echo", None, json!({"text": "still here"})).await;
    assert_eq!(honest["status"], "ok", "{honest}");
    assert!(result["error"].is_object(), "{result}");
    result["error"].clone()
}

async fn traps_as(tool: &str, arguments: Value, kind: &str) {
    let place = Place::new("");
    let host = host(&place).await;
    let error = error_of(&host, tool, arguments).await;
    assert_eq!(
        (&error["code"], &error["trap"]),
        (&json!("trapped"), &json!(kind)),
        "{error}"
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        !message.contains(".rs:") && !message.contains("wasm backtrace"),
        "a backtrace is for the log: {message}"
    );
    host.stop().await;
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_cpu_limit() {
    traps_as("spin", json!({}), "cpu").await;
}

#[tokio::test]
async fn taking_memory_ends_at_its_limit() {
    traps_as("allocate", json!({"mib": 64}), "memory").await;
}

#[tokio::test]
async fn recursion_without_end_ends_at_the_stack_limit() {
    traps_as("recurse", json!({}), "stack").await;
}

#[tokio::test]
async fn a_panic_is_a_result() {
    traps_as("panic", json!({"message": "boom"}), "unreachable").await;
}

#[tokio::test]
async fn an_abort_is_a_result() {
    traps_as("unreachable", json!({}), "unreachable").await;
}

#[tokio::test]
async fn ending_the_process_ends_only_the_call() {
    traps_as("exit", json!({"code": 0}), "unreachable").await;
}

#[tokio::test]
async fn calling_the_host_without_end_ends_at_its_limit() {
    traps_as("many_host_calls", json!({"n": 10_000_000}), "host_calls").await;
}

#[tokio::test]
async fn sleeping_past_the_wall_clock_is_a_timeout() {
    let place = Place::new("");
    let host = host(&place).await;
    let error = error_of(&host, "sleep", json!({"ms": 3_600_000})).await;
    assert_eq!(error["code"], "timeout", "{error}");
    host.stop().await;
}

#[tokio::test]
async fn a_result_above_its_limit_is_refused_whole() {
    let place = Place::new("");
    let host = host(&place).await;
    let error = error_of(&host, "huge_output", json!({"kib": 512})).await;
    assert_eq!(error["code"], "output_too_large", "{error}");
    host.stop().await;
}

#[tokio::test]
async fn standard_output_above_its_limit_is_a_trap() {
    traps_as("flood_stdout", json!({"kib": 256}), "output").await;
}

#[tokio::test]
async fn temporary_files_end_at_their_quota() {
    let place = Place::new("");
    let host = host(&place).await;
    let within = host.call("tmp_fill", None, json!({"kib": 64})).await;
    assert_eq!(within["status"], "ok", "{within}");
    let result = host.call("tmp_fill", None, json!({"kib": 8192})).await;
    assert_ne!(result["status"], "ok", "{result}");
    host.stop().await;
}

#[tokio::test]
async fn every_call_begins_with_a_fresh_instance() {
    let place = Place::new("");
    let host = host(&place).await;
    let first = host.call("state_counter", None, json!({})).await;
    let second = host.call("state_counter", None, json!({})).await;
    assert_eq!(first["output"], second["output"]);
    host.stop().await;
}

#[tokio::test]
async fn busy_guests_do_not_keep_the_host_from_answering() {
    let place = Place::new("");
    let host = host(&place).await;
    let spins = (0..8).map(|_| host.call("spin", None, json!({})));
    let honest = async {
        for _ in 0..20 {
            let result = host.call("echo", None, json!({"text": "x"})).await;
            assert_eq!(result["status"], "ok");
        }
    };
    let (spun, ()) = tokio::join!(futures::future::join_all(spins), honest);
    assert!(spun.iter().all(|result| result["error"]["trap"] == "cpu"));
    host.stop().await;
}

#[tokio::test]
async fn without_a_grant_every_part_of_wasi_is_there_and_answers_denied() {
    let place = Place::new("");
    let host = place.serve().await;
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"Asks for nothing.\"\n";
    host.add_guest("hostile", Some(manifest)).await;
    let session = host.session(json!({})).await;
    host.put_file(&session, "secret.txt", "of the session").await;
    for (tool, arguments) in [
        ("read_file", json!({"path": "/workspace/secret.txt"})),
        ("read_file", json!({"path": "/etc/passwd"})),
        ("write_file", json!({"path": "/workspace/new.txt", "kib": 1})),
        ("http_get", json!({"url": "https://example.com/"})),
        ("tcp_connect", json!({"address": "127.0.0.1:22"})),
        ("dns_lookup", json!({"name": "localhost"})),
        ("kv_get", json!({"key": "a"})),
        ("secret_sign", json!({"name": "HOSTILE_KEY", "message": "m"})),
        ("peer_call", json!({"tool": "echo", "arguments": {"text": "x"}})),
    ] {
        let result = host.call(tool, Some(&session), arguments).await;
        assert_ne!(result["status"], "ok", "{tool}: {result}");
        assert_ne!(result["status"], "trapped", "{tool}: {result}");
        let code = &result["error"]["code"];
        assert_ne!(code, "invalid_arguments", "{tool} was never asked: {result}");
    }
    let env = host.call("env", Some(&session), json!({})).await;
    assert_eq!(env["output"]["structured"], json!({}), "{env}");
    host.stop().await;
}
