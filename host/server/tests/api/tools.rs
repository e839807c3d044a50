//! Components and calls.

use crate::house::{Answer, House, wasm};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_server::ServerConfig;
use http::StatusCode;
use serde_json::json;

async fn add(house: &House, query: &str) -> Answer {
    house
        .post(&format!("/v1/tools{query}"))
        .body("application/wasm", wasm())
        .answer()
        .await
}

#[tokio::test]
async fn a_component_is_added_granted_called_and_removed() {
    let house = House::new().await;
    let added = add(&house, "?name=sums").await;
    assert_eq!(
        (added.status, added.headers["location"].to_str().unwrap()),
        (StatusCode::CREATED, "/v1/tools/sums"),
        "{}",
        added.text()
    );
    assert_eq!(added.json().get("grant"), None);
    let call = || {
        house
            .post("/v1/tools/double/call")
            .json(&json!({"arguments": {"n": 21}}))
            .answer()
    };
    let denied = call().await;
    assert_eq!(
        (denied.status, &denied.json()["status"]),
        (StatusCode::OK, &json!("denied")),
        "{}",
        denied.text()
    );

    let granted = house.put("/v1/tools/sums/grant").json(&json!({})).answer().await;
    assert_eq!(granted.json()["grant"], json!({}), "{}", granted.text());
    let called = call().await.json();
    assert_eq!(called["status"], "ok", "{called}");
    assert!(called["call"].as_str().unwrap().starts_with("call_"));
    assert!(called["output"].to_string().contains("42"), "{called}");
    assert!(called["metering"]["duration_ms"].is_u64());

    let listed = house.get("/v1/tools").answer().await.json();
    let names: Vec<_> = listed["items"][0]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["double", "fall", "shout"]);
    let mut shown = house.get("/v1/tools/sums").answer().await.json();
    let authority = shown.as_object_mut().unwrap().remove("authority").unwrap();
    assert!(authority["capabilities"].is_array(), "{authority}");
    assert_eq!(shown, listed["items"][0]);
    assert_eq!(
        house.delete("/v1/tools/sums").answer().await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(house.get("/v1/tools/sums").answer().await.problem(), "not_found");
    assert_eq!(call().await.problem(), "not_found");
}

#[tokio::test]
async fn a_failed_call_is_a_result() {
    let house = House::new().await;
    add(&house, "?name=sums&grant=requested").await;
    let fell = house
        .post("/v1/tools/fall/call")
        .json(&json!({"arguments": {"n": 1}}))
        .answer()
        .await;
    assert_eq!(fell.status, StatusCode::OK);
    assert_eq!(
        (&fell.json()["status"], &fell.json()["error"]["trap"]),
        (&json!("trapped"), &json!("unreachable"))
    );
    let wrong = house
        .post("/v1/tools/double/call")
        .json(&json!({"arguments": {"n": "x"}}))
        .answer()
        .await
        .json();
    assert_eq!(
        (&wrong["status"], &wrong["error"]["code"]),
        (&json!("error"), &json!("invalid_arguments"))
    );
}

#[tokio::test]
async fn a_call_in_a_session_is_in_the_clients_own() {
    let house = House::new().await;
    add(&house, "?name=sums&grant=requested").await;
    let session = house.session().await;
    let id = session.rsplit('/').next().unwrap();
    let body = json!({"session": id, "arguments": {"n": 1}});
    assert_eq!(
        house.post("/v1/tools/double/call").json(&body).answer().await.json()["status"],
        "ok"
    );
    let unknown = json!({"session": "ses_00000000000070008000000000000000", "arguments": {"n": 1}});
    assert_eq!(
        house
            .post("/v1/tools/double/call")
            .json(&unknown)
            .answer()
            .await
            .problem(),
        "not_found"
    );
}

#[tokio::test]
async fn a_call_without_an_object_of_arguments_is_refused() {
    let house = House::new().await;
    add(&house, "?name=sums&grant=requested").await;
    for body in [
        json!({}),
        json!({"arguments": [1]}),
        json!({"arguments": "{}"}),
        json!({"arguments": null}),
    ] {
        let answer = house.post("/v1/tools/double/call").json(&body).answer().await;
        assert_eq!(
            (answer.problem().as_str(), &answer.json()["field"]),
            ("invalid_body", &json!("arguments")),
            "{body}"
        );
    }
}

#[tokio::test]
async fn the_tools_of_an_org_are_its_own() {
    let house = House::new().await;
    add(&house, "?name=sums&grant=requested").await;
    assert_eq!(
        house.get("/v1/tools").by_other_org().answer().await.json()["items"],
        json!([])
    );
    for (method, path) in [("GET", "/v1/tools/sums"), ("DELETE", "/v1/tools/sums")] {
        let answer = house.ask(method.parse().unwrap(), path).by_other_org().answer().await;
        assert_eq!(answer.problem(), "not_found", "{method}");
    }
    let body = json!({"arguments": {"n": 1}});
    assert_eq!(
        house
            .put("/v1/tools/sums/grant")
            .by_other_org()
            .json(&json!({}))
            .answer()
            .await
            .problem(),
        "not_found"
    );
    assert_eq!(
        house
            .post("/v1/tools/double/call")
            .by_other_org()
            .json(&body)
            .answer()
            .await
            .problem(),
        "not_found"
    );
}

#[tokio::test]
async fn a_component_may_come_in_a_document_with_its_manifest_and_grant() {
    let house = House::new().await;
    let body = json!({
        "wasm": STANDARD.encode(wasm()),
        "manifest": "name = \"sums\"\nversion = \"1.0.0\"\n[network]\nallow = [\"https://api.example.com\"]\n",
        "grant": {"limits": {"cpu": "1s"}},
    });
    let added = house.post("/v1/tools").json(&body).answer().await;
    assert_eq!(added.status, StatusCode::CREATED, "{}", added.text());
    let added = added.json();
    assert_eq!(
        (&added["version"], &added["grant"]),
        (&json!("1.0.0"), &json!({"limits": {"cpu": "1s"}}))
    );
    assert!(added["not_granted"].to_string().contains("api.example.com"), "{added}");
}

#[tokio::test]
async fn what_is_no_component_is_refused_and_not_kept() {
    let house = House::new().await;
    let whole = wasm();
    for bytes in [
        Vec::new(),
        b"hello".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        b"\0asm\x01\0\0\0".to_vec(),
    ] {
        let answer = house
            .post("/v1/tools?name=x")
            .body("application/wasm", bytes)
            .answer()
            .await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (StatusCode::UNPROCESSABLE_ENTITY, "component_refused")
        );
    }
    assert_eq!(
        add(&house, "").await.problem(),
        "component_refused",
        "without a manifest it needs a name"
    );
    assert_eq!(add(&house, "?name=Not%20a%20name").await.problem(), "invalid_name");
    assert_eq!(add(&house, "?grant=everything").await.problem(), "invalid_query");
    assert_eq!(
        house.post("/v1/tools").body("text/plain", "x").answer().await.problem(),
        "unsupported_media_type"
    );
    let manifest = json!({"wasm": STANDARD.encode(wasm()), "manifest": "name = \"x\"\ncolour = 1"});
    assert_eq!(
        house.post("/v1/tools").json(&manifest).answer().await.problem(),
        "component_refused"
    );
    assert_eq!(
        house
            .post("/v1/tools")
            .json(&json!({"wasm": "?"}))
            .answer()
            .await
            .problem(),
        "invalid_body"
    );
    assert_eq!(house.get("/v1/tools").answer().await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_component_above_the_limit_is_refused() {
    let house = House::with(ServerConfig {
        component_body: 100,
        ..ServerConfig::default()
    })
    .await;
    assert_eq!(add(&house, "?name=sums").await.problem(), "body_too_large");
}

#[tokio::test]
async fn a_grant_is_read_strictly() {
    let house = House::new().await;
    add(&house, "?name=sums").await;
    let put = || house.put("/v1/tools/sums/grant");
    let answer = put()
        .json(&json!({"network": {"allow": ["not a rule at all"]}}))
        .answer()
        .await;
    assert_eq!(answer.problem(), "invalid_body");
    assert!(
        answer.json()["field"].as_str().unwrap().starts_with("network.allow"),
        "{}",
        answer.text()
    );
    assert_eq!(
        put().json(&json!({"root": true})).answer().await.json()["field"],
        "root"
    );
    assert_eq!(
        put().body("application/toml", "root = true").answer().await.problem(),
        "invalid_body"
    );
    assert_eq!(
        put()
            .body("application/toml", "[kv]\naccess = \"read\"")
            .answer()
            .await
            .json()["grant"],
        json!({"kv": {"access": "read"}})
    );
    assert_eq!(
        put().body("text/plain", "").answer().await.problem(),
        "unsupported_media_type"
    );
}

#[tokio::test]
async fn a_tool_with_the_name_of_another_component_is_not_offered() {
    let house = House::new().await;
    add(&house, "?name=sums&grant=requested").await;
    let call = || {
        house
            .post("/v1/tools/double/call")
            .json(&json!({"arguments": {"n": 21}}))
            .answer()
    };
    assert_eq!(call().await.json()["status"], "ok");
    add(&house, "?name=double").await;
    let refused = call().await.json();
    assert!(refused["detail"].to_string().contains("have that name"), "{refused}");
    house.put("/v1/tools/double/grant").json(&json!({})).answer().await;
    assert_eq!(call().await.json()["status"], "ok", "it is the component's own");
}

#[tokio::test]
async fn a_grant_is_for_the_code_that_was_looked_at() {
    let house = House::new().await;
    let digest = add(&house, "?name=sums").await.json()["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let other = format!("sha256:{}", "0".repeat(64));
    let put = |tag: String| {
        house
            .put("/v1/tools/sums/grant")
            .with("if-match", &tag)
            .json(&json!({}))
            .answer()
    };
    assert_eq!(put(format!("\"{other}\"")).await.problem(), "precondition_failed");
    assert_eq!(put("\"v1\"".into()).await.problem(), "invalid_header");
    let shown = house.get("/v1/tools/sums").answer().await.json();
    assert_eq!(shown.get("grant"), None, "{shown}");
    assert_eq!(put(format!("\"{digest}\"")).await.json()["grant"], json!({}));
}

#[tokio::test]
async fn a_fault_in_a_grant_that_comes_with_a_component_is_told_with_its_place() {
    let house = House::new().await;
    let refused = async |grant: serde_json::Value| {
        let body = json!({"wasm": STANDARD.encode(wasm()), "name": "sums", "grant": grant});
        let answer = house.post("/v1/tools").json(&body).answer().await;
        assert!(answer.status.is_client_error(), "{}", answer.text());
        answer.text()
    };
    let text = refused(json!({"network": {"alow": []}})).await;
    assert!(text.contains("alow"), "{text}");
    let text = refused(json!("requestd")).await;
    assert!(text.contains("requestd"), "{text}");
}
