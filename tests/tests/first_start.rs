//! What an operator finds after the first start, with no configuration at all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::Place;
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;

#[tokio::test]
async fn the_first_start_makes_a_private_key_and_installs_the_standard_tools_without_network() {
    let place = Place::empty("");
    let host = place.serve().await;
    let mode = std::fs::metadata(place.data().join("key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let tools = host.get("/v1/tools").await;
    let names: Vec<_> = tools["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["clock", "data", "files", "http"]);
    let http = tools["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|tool| tool["name"] == "http")
        .unwrap();
    assert_eq!(http["grant"]["network"], json!({"allow": []}));
    let session = host.session(json!({})).await;
    let fetched = host
        .call("http_fetch", Some(&session), json!({"url": "https://example.com/"}))
        .await;
    assert_eq!(fetched["status"], "denied", "{fetched}");
    let turn = host.turn(&session, "hello").await;
    assert_eq!(turn["status"], "completed");
    assert!(
        turn["output"][0]["text"].as_str().unwrap().contains("You said: hello"),
        "{turn}"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_tampered_cache_is_compiled_anew_and_never_run() {
    let place = Place::new("");
    for entry in std::fs::read_dir(place.data().join("compiled")).unwrap() {
        let file = entry.unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&file, bytes).unwrap();
    }
    let host = place.serve().await;
    let told = host.call("clock_now", None, json!({})).await;
    assert_eq!(told["status"], "ok", "{told}");
    host.stop().await;
}
