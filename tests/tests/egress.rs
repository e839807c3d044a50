//! The door, end to end: guests, rules, credentials, redirects, and the ledger that tells of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, Place, tls::Authority, until, world::World};
use serde_json::{Value, json};

const LOOPBACK: &str = "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n";

async fn host_with_grant(place: &Place, grant: Value) -> Host {
    let host = place.serve().await;
    host.add_component(&fumehood_tests::guest("hostile"), None, grant).await;
    host
}

async fn fetch(host: &Host, session: &str, url: &str, headers: Value) -> Value {
    host.call("http_get", Some(session), json!({"url": url, "headers": headers}))
        .await
}

#[tokio::test]
async fn only_the_granted_path_of_the_granted_host_is_reached() {
    let world = World::start().await;
    let place = Place::new(LOOPBACK);
    let allow = format!("GET http://127.0.0.1:{}/allowed", world.port);
    let host = host_with_grant(&place, json!({"network": {"allow": [allow]}})).await;
    let session = host.session(json!({})).await;
    assert_eq!(
        fetch(&host, &session, &world.url("/allowed/x"), json!({})).await["status"],
        "ok"
    );
    for url in [
        world.url("/other"),
        world.url("/allowedevil"),
        world.url("/allowed/../other"),
        "https://example.com/".to_owned(),
    ] {
        let result = fetch(&host, &session, &url, json!({})).await;
        assert_eq!(result["status"], "denied", "{url}: {result}");
    }
    assert_eq!(world.arrived().len(), 1, "{:?}", world.arrived());
    let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
    let outcomes: Vec<_> = ledger["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        outcomes,
        ["completed", "denied", "denied", "denied", "denied"],
        "{ledger}"
    );
    host.stop().await;
}

#[tokio::test]
async fn the_session_can_only_narrow() {
    let world = World::start().await;
    let place = Place::new(LOOPBACK);
    let host = host_with_grant(
        &place,
        json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}}),
    )
    .await;
    let closed = host.session(json!({"network": {"allow": []}})).await;
    let wide = host
        .session(json!({"network": {"allow": ["https://*", format!("http://127.0.0.1:{}/only", world.port)]}}))
        .await;
    assert_eq!(
        fetch(&host, &closed, &world.url("/only"), json!({})).await["status"],
        "denied"
    );
    assert_eq!(
        fetch(&host, &wide, &world.url("/only"), json!({})).await["status"],
        "ok"
    );
    assert_eq!(
        fetch(&host, &wide, &world.url("/else"), json!({})).await["status"],
        "denied"
    );
    host.stop().await;
}

#[tokio::test]
async fn loopback_is_refused_unless_the_operator_lists_it() {
    let world = World::start().await;
    let place = Place::new("");
    let host = host_with_grant(
        &place,
        json!({"network": {"allow": ["http://127.0.0.1:*", "http://localhost:*"]}}),
    )
    .await;
    let session = host.session(json!({})).await;
    for url in [world.url("/"), format!("http://localhost:{}/", world.port)] {
        let result = fetch(&host, &session, &url, json!({})).await;
        assert_eq!(result["status"], "denied", "{url}: {result}");
    }
    assert!(world.arrived().is_empty());
    host.stop().await;
}

#[tokio::test]
async fn a_credential_is_injected_by_the_host_and_its_echo_is_redacted() {
    const TOKEN: &str = "tok-8d7f2a91c3e45b60";
    let world = World::start().await;
    let place = Place::new(LOOPBACK);
    let grant = json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}, "credential": [{"secret": "HOSTILE_TOKEN"}]});
    let host = host_with_grant(&place, grant).await;
    let session = host.session(json!({"secrets": {"HOSTILE_TOKEN": TOKEN}})).await;
    let result = fetch(&host, &session, &world.url("/echo"), json!({})).await;
    assert_eq!(result["status"], "ok", "{result}");
    assert_eq!(world.arrived()[0].headers["authorization"], format!("Bearer {TOKEN}"));
    let text = result.to_string();
    assert!(
        !text.contains(TOKEN) && text.contains("[secret:HOSTILE_TOKEN]"),
        "{text}"
    );
    let taken = fetch(
        &host,
        &session,
        &world.url("/echo"),
        json!({"authorization": "Bearer mine"}),
    )
    .await;
    assert_eq!(
        taken["status"], "denied",
        "a guest can't set the header the host injects: {taken}"
    );
    let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
    assert_eq!(ledger["items"][0]["secrets"], json!(["HOSTILE_TOKEN"]));
    assert!(!ledger.to_string().contains(TOKEN));
    let log = host.stop().await;
    assert!(!log.contains(TOKEN));
}

#[tokio::test]
async fn a_redirect_is_returned_and_following_it_is_decided_anew() {
    let world = World::start().await;
    let other = World::start().await;
    let place = Place::new(LOOPBACK);
    let host = host_with_grant(
        &place,
        json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}}),
    )
    .await;
    let session = host.session(json!({})).await;
    let result = fetch(
        &host,
        &session,
        &world.url(&format!("/redirect?{}", other.url("/"))),
        json!({}),
    )
    .await;
    assert_eq!(result["output"]["structured"]["status"], 302, "{result}");
    assert_eq!(
        fetch(&host, &session, &other.url("/"), json!({})).await["status"],
        "denied"
    );
    assert!(other.arrived().is_empty());
    host.stop().await;
}

#[tokio::test]
async fn a_body_above_the_limit_is_cut_off_with_an_error() {
    let world = World::start().await;
    let place = Place::new(LOOPBACK);
    let grant =
        json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}, "limits": {"http_body": "1MiB"}});
    let host = host_with_grant(&place, grant).await;
    let session = host.session(json!({})).await;
    let result = fetch(&host, &session, &world.url("/big"), json!({})).await;
    assert_ne!(result["status"], "ok", "{result}");
    let small = fetch(&host, &session, &world.url("/small"), json!({})).await;
    assert_eq!(small["status"], "ok", "{small}");
    host.stop().await;
}

#[tokio::test]
async fn requests_above_their_number_are_denied() {
    let world = World::start().await;
    let place = Place::new(LOOPBACK);
    let grant =
        json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}, "limits": {"http_requests": 3}});
    let host = host_with_grant(&place, grant).await;
    let session = host.session(json!({})).await;
    host.call(
        "http_get_many",
        Some(&session),
        json!({"url": world.url("/n"), "n": 10, "parallel": 1}),
    )
    .await;
    assert_eq!(world.arrived().len(), 3);
    let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
    assert_eq!(refusals(&ledger), ["limit: http_requests = 3"], "{ledger}");
    host.stop().await;
}

/// The rules by which requests were refused.
fn refusals(ledger: &Value) -> Vec<&str> {
    let items = ledger["items"].as_array().unwrap().iter();
    let refused = items.filter(|entry| entry["outcome"] == "denied");
    refused.map(|entry| entry["rule"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn requests_at_the_same_time_above_their_number_stand_in_the_ledger() {
    let world = World::start().await;
    let place = Place::new(LOOPBACK);
    let allow = format!("http://127.0.0.1:{}", world.port);
    let grant = json!({"network": {"allow": [allow]}, "limits": {"http_concurrent": 2}});
    let host = host_with_grant(&place, grant).await;
    let session = host.session(json!({})).await;
    let arguments = json!({"url": world.url("/n"), "n": 5, "parallel": 5});
    let result = host.call("http_get_many", Some(&session), arguments).await;
    assert_eq!(result["output"]["structured"]["refused"], 3, "{result}");
    let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
    assert_eq!(refusals(&ledger), ["limit: http_concurrent"; 3], "{ledger}");
    host.stop().await;
}

#[tokio::test]
async fn a_server_by_an_authority_of_the_operators_own_is_reached_where_that_is_configured() {
    let authority = Authority::new();
    let world = World::secured_by(&authority).await;
    let url = format!("https://127.0.0.1:{}/secured", world.port);
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"For tests.\"\n\n[network]\nallow = [\"https://127.0.0.1:*\"]\n";
    let grant = json!({"network": {"allow": [format!("https://127.0.0.1:{}", world.port)]}});
    let wasm = fumehood_tests::guest("hostile");

    let unknown = Place::new(LOOPBACK);
    let host = unknown.serve().await;
    host.add_component(&wasm, Some(manifest), grant.clone()).await;
    let session = host.session(json!({})).await;
    let refused = fetch(&host, &session, &url, json!({})).await;
    assert_eq!(refused["status"], "error", "{refused}");
    // How a request ended is noted beside its answer.
    let ledger = until("the ledger to say how it ended", async || {
        let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
        (ledger["items"][0]["outcome"] != "started").then(|| ledger.to_string())
    })
    .await;
    assert!(ledger.contains("`certificate_authorities` in [network]"), "{ledger}");
    assert!(world.arrived().is_empty());
    host.stop().await;

    // From a folder below the configuration's, as a path there says it.
    let place = Place::new(&format!("{LOOPBACK}certificate_authorities = [\"keys/ca.pem\"]\n"));
    std::fs::create_dir(place.path().join("keys")).unwrap();
    std::fs::write(place.path().join("keys/ca.pem"), authority.pem()).unwrap();
    let host = place.serve().await;
    host.add_component(&wasm, Some(manifest), grant).await;
    let session = host.session(json!({})).await;
    let reached = fetch(&host, &session, &url, json!({})).await;
    assert_eq!(reached["status"], "ok", "{reached}");
    host.stop().await;

    // What reads the configuration without serving has them as well.
    std::fs::write(place.path().join("hostile.wasm"), wasm).unwrap();
    std::fs::write(place.path().join("tool.toml"), manifest).unwrap();
    let grant = format!("[network]\nallow = [\"https://127.0.0.1:{}\"]\n", world.port);
    std::fs::write(place.path().join("grant.toml"), grant).unwrap();
    let arguments = json!({"url": url, "headers": {}}).to_string();
    let call = [
        "tool",
        "call",
        "hostile.wasm",
        "http_get",
        &arguments,
        "--grant",
        "grant.toml",
    ];
    let called = place.json(&call).await;
    assert_eq!(called["status"], "ok", "{called}");
    assert_eq!(world.arrived().len(), 2);
}

#[tokio::test]
async fn nothing_starts_where_a_certificate_authority_cant_be_read() {
    let place = Place::empty(&format!("{LOOPBACK}certificate_authorities = [\"ca.pem\"]\n"));
    let refused = async |args: &[&str], words: &str| {
        let output = place.run(args).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(
            said.contains("certificate_authorities") && said.contains("ca.pem"),
            "{said}"
        );
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(said.contains("fumehood.toml: line 2"), "the section's line: {said}");
    };
    for (text, words) in [
        (None, "No such file"),
        (Some(""), "no certificate in it"),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "certificate 1 in it can't be read",
        ),
    ] {
        if let Some(text) = text {
            std::fs::write(place.path().join("ca.pem"), text).unwrap();
        }
        refused(&["config", "check"], words).await;
        refused(&["serve", "--listen", "127.0.0.1:0"], words).await;
    }
}
