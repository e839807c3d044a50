//! Key-values, secrets and the ledger.

use crate::house::House;
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn a_value_is_bytes_under_a_key() {
    let house = House::new().await;
    let kv = format!("{}/kv", house.session().await);
    let bytes = vec![0, 255, 10];
    assert_eq!(
        house
            .put(&format!("{kv}/a%2Fb"))
            .body("x/y", bytes.clone())
            .answer()
            .await
            .status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(house.get(&format!("{kv}/a%2Fb")).answer().await.body, bytes);
    assert_eq!(house.get(&kv).answer().await.json()["items"], json!([{"key": "a/b"}]));
    assert_eq!(
        house.delete(&format!("{kv}/a%2Fb")).answer().await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        house.delete(&format!("{kv}/a%2Fb")).answer().await.problem(),
        "not_found"
    );
    assert_eq!(house.get(&format!("{kv}/a%2Fb")).answer().await.problem(), "not_found");
}

#[tokio::test]
async fn keys_are_listed_by_prefix_in_pages() {
    let house = House::new().await;
    let kv = format!("{}/kv", house.session().await);
    for key in ["b1", "b2", "b3", "c"] {
        house.put(&format!("{kv}/{key}")).body("text/plain", "x").answer().await;
    }
    let first = house.get(&format!("{kv}?prefix=b&limit=2")).answer().await.json();
    assert_eq!(first["items"], json!([{"key": "b1"}, {"key": "b2"}]));
    let next = first["next"].as_str().unwrap();
    let second = house
        .get(&format!("{kv}?prefix=b&limit=2&cursor={next}"))
        .answer()
        .await
        .json();
    assert_eq!((&second["items"], second.get("next")), (&json!([{"key": "b3"}]), None));
}

#[tokio::test]
async fn a_key_or_value_that_is_too_long_is_refused() {
    let house = House::new().await;
    let kv = format!("{}/kv", house.session().await);
    let key = "k".repeat(256);
    assert_eq!(
        house
            .put(&format!("{kv}/{key}"))
            .body("text/plain", "x")
            .answer()
            .await
            .problem(),
        "invalid_name"
    );
    let answer = house
        .put(&format!("{kv}/k"))
        .body("text/plain", vec![b'x'; (1 << 20) + 1])
        .answer()
        .await;
    assert_eq!(answer.problem(), "body_too_large");
}

#[tokio::test]
async fn a_secret_is_written_and_deleted_but_never_read() {
    let house = House::new().await;
    let session = house.session().await;
    for secrets in ["/v1/secrets".to_owned(), format!("{session}/secrets")] {
        let secret = format!("{secrets}/TOKEN");
        let written = house.put(&secret).json(&json!({"value": "hunter2"})).answer().await;
        assert_eq!(
            (written.status, written.body.len()),
            (StatusCode::NO_CONTENT, 0),
            "{}",
            written.text()
        );
        assert_eq!(
            house.put(&secret).body("text/plain", "hunter3").answer().await.status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(
            house.get(&secrets).answer().await.text(),
            r#"{"items":[{"name":"TOKEN"}]}"#
        );
        let read = house.get(&secret).answer().await;
        assert_eq!(
            (read.status, read.problem().as_str()),
            (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
        );
        assert_eq!(
            house.delete(&secret).by_other_org().answer().await.problem(),
            "not_found"
        );
        assert_eq!(house.delete(&secret).answer().await.status, StatusCode::NO_CONTENT);
        assert_eq!(house.delete(&secret).answer().await.problem(), "not_found");
    }
}

#[tokio::test]
async fn the_names_of_secrets_are_listed_by_page() {
    let house = House::new().await;
    let session = house.session().await;
    for secrets in ["/v1/secrets".to_owned(), format!("{session}/secrets")] {
        for name in ["B", "C", "A"] {
            let secret = house.put(&format!("{secrets}/{name}")).body("text/plain", "hunter2");
            assert_eq!(secret.answer().await.status, StatusCode::NO_CONTENT);
        }
        let first = house.get(&format!("{secrets}?limit=2")).answer().await.json();
        assert_eq!(first["items"], json!([{"name": "A"}, {"name": "B"}]));
        let next = first["next"].as_str().unwrap();
        // What is deleted meanwhile moves nothing.
        house.delete(&format!("{secrets}/A")).answer().await;
        let last = house.get(&format!("{secrets}?limit=2&cursor={next}")).answer().await;
        assert_eq!(last.json(), json!({"items": [{"name": "C"}]}));
        let wrong = house.get(&format!("{secrets}?cursor=x")).answer().await;
        assert_eq!(wrong.problem(), "invalid_cursor");
    }
}

#[tokio::test]
async fn a_secret_that_can_not_be_one_is_refused_without_repeating_it() {
    let house = House::new().await;
    let put = |name: &str| house.put(&format!("/v1/secrets/{name}"));
    assert_eq!(
        put("A-B").body("text/plain", "hunter2").answer().await.problem(),
        "invalid_name"
    );
    assert_eq!(put("A").body("text/plain", "").answer().await.problem(), "invalid_body");
    assert_eq!(
        put("A").body("text/plain", vec![0xff]).answer().await.problem(),
        "invalid_body"
    );
    assert_eq!(
        put("A").body("text/plain", vec![b'x'; 65_537]).answer().await.problem(),
        "body_too_large"
    );
    assert_eq!(
        put("A").body("image/png", "hunter2").answer().await.problem(),
        "unsupported_media_type"
    );
    let answer = put("A").json(&json!({"value": "hunter2", "extra": 1})).answer().await;
    assert_eq!(answer.problem(), "invalid_body");
    assert!(!answer.text().contains("hunter2"));
    assert_eq!(house.get("/v1/secrets").answer().await.json()["items"], json!([]));
}

#[tokio::test]
async fn the_ledger_of_a_session_begins_empty() {
    let house = House::new().await;
    let path = house.session().await;
    assert_eq!(
        house.get(&format!("{path}/ledger")).answer().await.json(),
        json!({"items": []})
    );
}
