//! Keys, orgs, and what one org can see of another: nothing.
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
async fn a_missing_or_wrong_key_opens_nothing() {
    let place = Place::new("");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    for path in [
        "/v1/sessions",
        "/v1/tools",
        "/v1/secrets",
        &format!("/v1/sessions/{session}"),
    ] {
        refused(host.anonymous(Method::GET, path), 401, "unauthorized").await;
        for key in ["", "wrong", &format!("{}x", host.key), &host.key[..host.key.len() - 1]] {
            refused(
                host.anonymous(Method::GET, path)
                    .header("authorization", format!("Bearer {key}")),
                401,
                "unauthorized",
            )
            .await;
        }
        refused(
            host.anonymous(Method::GET, path)
                .header("authorization", format!("Basic {}", host.key)),
            401,
            "unauthorized",
        )
        .await;
        refused(
            host.anonymous(Method::GET, path)
                .header("authorization", format!("Bearer {} extra", host.key)),
            401,
            "unauthorized",
        )
        .await;
    }
    assert!(
        host.anonymous(Method::GET, "/healthz")
            .send()
            .await
            .unwrap()
            .status()
            .is_success()
    );
    host.stop().await;
}

#[tokio::test]
async fn another_org_sees_nothing_of_a_session_turn_or_tool() {
    let place = Place::new("");
    let other = place.json(&["org", "create", "acme"]).await["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let host = place.serve().await;
    host.add_component(&guest("hostile"), None, json!("none")).await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "hi").await["id"].as_str().unwrap().to_owned();
    host.put_file(&session, "a.txt", "ours").await;
    let as_other = |method, path: &str| host.anonymous(method, path).bearer_auth(&other);
    for path in [
        format!("/v1/sessions/{session}"),
        format!("/v1/sessions/{session}/events"),
        format!("/v1/sessions/{session}/messages"),
        format!("/v1/sessions/{session}/files/a.txt"),
        format!("/v1/sessions/{session}/ledger"),
        format!("/v1/sessions/{session}/secrets"),
        format!("/v1/turns/{turn}"),
        "/v1/tools/hostile".to_owned(),
    ] {
        let request = as_other(Method::GET, &path).header("accept", "application/json");
        refused(request, 404, "not_found").await;
    }
    refused(
        as_other(Method::POST, &format!("/v1/sessions/{session}/turns")).json(&json!({"input": "hi"})),
        404,
        "not_found",
    )
    .await;
    refused(
        as_other(Method::POST, &format!("/v1/turns/{turn}/cancel")).json(&json!({})),
        404,
        "not_found",
    )
    .await;
    refused(
        as_other(Method::DELETE, &format!("/v1/sessions/{session}")),
        404,
        "not_found",
    )
    .await;
    refused(
        as_other(Method::PUT, &format!("/v1/sessions/{session}/files/a.txt")).body("theirs"),
        404,
        "not_found",
    )
    .await;
    refused(as_other(Method::DELETE, "/v1/tools/hostile"), 404, "not_found").await;
    let list = fumehood_tests::expect_json(as_other(Method::GET, "/v1/sessions").send().await.unwrap()).await;
    assert_eq!(list["items"], json!([]));
    host.stop().await;
}

#[tokio::test]
async fn a_revoked_key_is_refused() {
    let place = Place::new("");
    let made = place.json(&["key", "create", "--label", "second"]).await;
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert_eq!(place.json(&["key", "list"]).await["items"].as_array().unwrap().len(), 2);
    assert!(
        !place.json(&["key", "list"]).await.to_string().contains(key),
        "a list shows no token"
    );
    place.json(&["key", "revoke", id]).await;
    let host = place.serve().await;
    refused(
        host.anonymous(Method::GET, "/v1/sessions").bearer_auth(key),
        401,
        "unauthorized",
    )
    .await;
    host.stop().await;
}
