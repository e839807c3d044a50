//! What comes in wrong: each gets a clear refusal that names what to do, and nothing is half-written.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, guest, refused};
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_by_kind() {
    let place = Place::new("");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let turns = format!("/v1/sessions/{session}/turns");
    refused(host.request(Method::GET, "/v1/no/such/route"), 404, "unknown_route").await;
    refused(host.request(Method::DELETE, "/v1/sessions"), 405, "method_not_allowed").await;
    refused(host.request(Method::GET, "/v1/sessions/ses_0123"), 404, "not_found").await;
    refused(
        host.request(Method::GET, "/v1/turns/trn_018f0000000070008000000000000000"),
        404,
        "not_found",
    )
    .await;
    for (body, field) in [
        (json!({"input": "x", "inputs": 1}), "inputs"),
        (json!({"input": 7}), "input"),
        (json!({}), "input"),
        (json!({"input": "x", "budget": {"steps": "many"}}), "steps"),
    ] {
        let response = host.request(Method::POST, &turns).json(&body).send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert!(
            [400, 422].contains(&status) && text.contains(field),
            "{body}: {status} {text}"
        );
    }
    let broken = host
        .request(Method::POST, &turns)
        .header("content-type", "application/json")
        .body("{\"input\": ");
    assert_eq!(broken.send().await.unwrap().status(), 400);
    let large = host
        .request(Method::POST, &turns)
        .json(&json!({"input": "x".repeat(2 << 20)}));
    assert_eq!(large.send().await.unwrap().status(), 413);
    refused(
        host.request(Method::POST, "/v1/sessions")
            .json(&json!({"agent": "nobody"})),
        422,
        "invalid_request",
    )
    .await;
    refused(
        host.request(Method::POST, "/v1/tools/no_such_tool/call")
            .json(&json!({"arguments": {}})),
        404,
        "not_found",
    )
    .await;
    let list = host
        .request(Method::POST, "/v1/tools/clock_now/call")
        .json(&json!({"arguments": [1]}));
    assert!([400, 422].contains(&list.send().await.unwrap().status().as_u16()));
    host.stop().await;
}

#[tokio::test]
async fn files_that_are_not_components_are_refused_and_leave_nothing() {
    let place = Place::new("");
    let host = place.serve().await;
    let before = host.get("/v1/tools").await;
    let whole = guest("clock");
    let wat = |text: &str| wat::parse_str(text).unwrap();
    for (what, wasm, word) in [
        ("text", b"#!/bin/sh\necho hi\n".to_vec(), "not WebAssembly"),
        ("nothing", Vec::new(), "not WebAssembly"),
        ("a core module", wat("(module)"), "core WebAssembly module"),
        ("a cut component", whole[..whole.len() / 2].to_vec(), "cut off"),
        ("no exports", wat("(component)"), "exports nothing"),
        (
            "an unknown import",
            wat("(component (import \"evil:corp/backdoor@1.0.0\" (instance (export \"open\" (func)))))"),
            "evil:corp/backdoor",
        ),
    ] {
        let request = host
            .request(Method::POST, "/v1/tools?name=bad")
            .header("content-type", "application/wasm")
            .body(wasm);
        let problem = refused(request, 422, "component_refused").await;
        assert!(problem["detail"].as_str().unwrap().contains(word), "{what}: {problem}");
    }
    let unknown_key =
        json!({"wasm": "AA==", "manifest": "name = \"x\"\nversion = \"1\"\ndescription = \"\"\nnetwrk = 1\n"});
    let problem = refused(
        host.request(Method::POST, "/v1/tools").json(&unknown_key),
        422,
        "component_refused",
    )
    .await;
    assert!(problem["detail"].as_str().unwrap().contains("netwrk"), "{problem}");
    assert_eq!(host.get("/v1/tools").await, before);
    host.stop().await;
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_by_name() {
    let place = Place::new("");
    let host = place.serve().await;
    let second = place.run(&["serve", "--listen", "127.0.0.1:0"]).await;
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    assert!(message.contains("in use by another process"), "{message}");
    host.stop().await;
}

#[tokio::test]
async fn a_configuration_that_is_not_understood_stops_the_start() {
    for (config, word) in [
        ("lisen = \"127.0.0.1:0\"\n", "lisen"),
        ("[network]\nallow = [\"ftp://example.com\"]\n", "ftp"),
        ("[network]\nprivate_networks = [\"127.0.0.1/99\"]\n", "127.0.0.1/99"),
        ("[agent.a]\nextends = \"a\"\n", "circle"),
        ("[[agent.a.approval]]\ntool = \"*\"\ndecide = \"ask\"\n", "approval"),
    ] {
        let place = Place::new(config);
        let output = place.run(&["config", "check"]).await;
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(word), "{message}");
    }
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_refused_by_name() {
    let place = Place::empty("");
    std::fs::write(place.data(), "a file where the directory should be").unwrap();
    let output = place.run(&["serve", "--listen", "127.0.0.1:0"]).await;
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("data"), "{message}");
}

#[tokio::test]
async fn usage_errors_exit_with_two() {
    let place = Place::new("");
    assert_eq!(place.run(&["no-such-command"]).await.status.code(), Some(2));
    assert_eq!(place.run(&["turn", "show", "not-an-id"]).await.status.code(), Some(2));
}
