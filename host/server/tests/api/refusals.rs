//! What every route refuses alike.

use crate::house::House;
use axum::body::Body;
use bytes::Bytes;
use fumehood_core::{content::Content, message::Message};
use fumehood_server::ServerConfig;
use futures::{
    StreamExt as _,
    stream::{self, FuturesUnordered},
};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use std::{convert::Infallible, time::Duration};

#[tokio::test]
async fn an_unknown_route_is_not_found() {
    let house = House::new().await;
    for path in [
        "/",
        "/v1",
        "/v1/sessions/",
        "/v2/sessions",
        "/v1/pools",
        "/mcp",
        "/v1/sessions/x/redo",
    ] {
        let answer = house.get(path).answer().await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (StatusCode::NOT_FOUND, "unknown_route"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let house = House::new().await;
    let answer = house.ask(Method::PATCH, "/v1/sessions").answer().await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
    );
    let allow = answer.headers["allow"].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
}

#[tokio::test]
async fn an_id_that_can_not_be_one_reads_as_not_there() {
    let house = House::new().await;
    for path in [
        "/v1/sessions/5",
        "/v1/sessions/trn_00000000000070008000000000000000",
        "/v1/turns/x",
        "/v1/sessions/..%2F..",
        "/v1/sessions/x/messages",
    ] {
        assert_eq!(house.get(path).answer().await.problem(), "not_found", "{path}");
    }
    assert_eq!(house.get("/v1/sessions/%FF").answer().await.problem(), "invalid_name");
}

#[tokio::test]
async fn a_body_is_taken_strictly() {
    let house = House::new().await;
    let post = |kind: &str, text: &str| house.post("/v1/sessions").body(kind, text.to_owned()).answer();
    let answer = post("application/json", "{\"title\": }").await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::BAD_REQUEST, "invalid_json")
    );
    assert_eq!(
        (&answer.json()["line"], &answer.json()["column"]),
        (&json!(1), &json!(11))
    );
    let answer = post("application/json", r#"{"titel": "x"}"#).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, "invalid_body")
    );
    assert_eq!(answer.json()["field"], "titel");
    assert_eq!(
        post("application/json", r#"{"title": 5}"#).await.json()["field"],
        "title"
    );
    assert_eq!(
        post("application/json", r#"{"network": {"allow": ["http://u:p@h"]}}"#)
            .await
            .problem(),
        "invalid_body"
    );
    assert_eq!(post("application/json", "").await.problem(), "invalid_json");
    assert_eq!(post("application/json", "[]").await.problem(), "invalid_body");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/wasm"] {
        let answer = post(kind, "{}").await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type")
        );
    }
    assert_eq!(
        house.post("/v1/sessions").answer().await.problem(),
        "unsupported_media_type"
    );
    assert_eq!(
        post("Application/JSON; charset=utf-8", "{}").await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_whether_it_says_so_or_not() {
    let house = House::new().await;
    let large = format!("{{\"title\": \"{}\"}}", "x".repeat(1 << 20));
    let answer = house
        .post("/v1/sessions")
        .body("application/json", large.clone())
        .answer()
        .await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
    );
    let claimed = house
        .post("/v1/sessions")
        .body("application/json", "{}")
        .with("content-length", "99999999")
        .answer()
        .await;
    assert_eq!(claimed.problem(), "body_too_large");
    let pieces = stream::iter([Ok::<_, Infallible>(Bytes::from(large))]);
    let streamed = house
        .post("/v1/sessions")
        .body("application/json", Body::from_stream(pieces))
        .answer()
        .await;
    assert_eq!(streamed.problem(), "body_too_large");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let house = House::with(ServerConfig {
        body_time: Duration::from_millis(5),
        ..ServerConfig::default()
    })
    .await;
    let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
    let answer = house
        .post("/v1/sessions")
        .body("application/json", never)
        .answer()
        .await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::REQUEST_TIMEOUT, "body_timeout")
    );
}

/// A large body of which no more comes than made it one.
fn hanging() -> Body {
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b'x'; (1 << 20) + 1]))]);
    Body::from_stream(begun.chain(stream::pending()))
}

#[tokio::test]
async fn an_org_that_uploads_slowly_keeps_no_other_from_it() {
    let house = House::with(ServerConfig {
        upload_wait: Duration::from_millis(20),
        ..ServerConfig::default()
    })
    .await;
    let path = house.session().await;
    let put = |name: &str| house.put(&format!("{path}/files/{name}"));
    let mut slow: FuturesUnordered<_> = (0..8)
        .map(|at| put(&at.to_string()).body("x/x", hanging()).answer())
        .collect();
    // Those beyond the org's places are refused; two have them and keep them.
    for _ in 0..6 {
        let answer = slow.next().await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.problem().as_str()),
            (429, "rate_limited")
        );
        assert!(answer.headers.contains_key("retry-after"));
    }
    let own = put("one").body("x/x", vec![b'x'; 2 << 20]).answer().await;
    assert_eq!(own.problem(), "rate_limited");
    assert_eq!(put("small").body("x/x", "small").answer().await.status.as_u16(), 201);
    let made = house
        .post("/v1/sessions")
        .by_other_org()
        .json(&json!({}))
        .answer()
        .await;
    let other = made.headers["location"].to_str().unwrap();
    let other = house.put(&format!("{other}/files/large")).by_other_org();
    let answer = other.body("x/x", vec![b'x'; 2 << 20]).answer().await;
    assert_eq!(answer.status.as_u16(), 201, "{}", answer.text());
    drop(slow);
    assert_eq!(
        put("one")
            .body("x/x", vec![b'x'; 2 << 20])
            .answer()
            .await
            .status
            .as_u16(),
        201
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_refused() {
    let house = House::new().await;
    let broken = Body::from_stream(stream::iter([Ok(Bytes::from("{")), Err("cut")]));
    let answer = house
        .post("/v1/sessions")
        .body("application/json", broken)
        .answer()
        .await;
    assert_eq!(answer.problem(), "body_incomplete");
}

#[tokio::test]
async fn an_unknown_query_parameter_is_refused() {
    let house = House::new().await;
    for query in ["colour=red", "limit=x", "limit=0", "limit=1001", "limit=1&limit=2"] {
        let answer = house.get(&format!("/v1/sessions?{query}")).answer().await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (StatusCode::BAD_REQUEST, "invalid_query"),
            "{query}"
        );
    }
    assert_eq!(
        house.get("/v1/sessions?cursor=x").answer().await.problem(),
        "invalid_cursor"
    );
}

#[tokio::test]
async fn a_request_id_is_kept_or_made() {
    let house = House::new().await;
    let kept = house.get("/v1/sessions").with("x-request-id", "abc-1").answer().await;
    assert_eq!(kept.headers["x-request-id"], "abc-1");
    let made = house.get("/nowhere").answer().await;
    assert_eq!(made.headers["x-request-id"].len(), 32);
    assert_eq!(made.headers["cache-control"], "no-store");
}

fn picture(bytes: usize) -> Value {
    json!({"type": "image", "media_type": "image/png", "data": "AAAA".repeat(bytes / 3)})
}

#[tokio::test]
async fn an_input_may_have_images_that_are_larger_than_other_bodies_and_nothing_else_that_is() {
    let house = House::new().await;
    let path = format!("{}/turns", house.session().await);
    let submit = async |body: Value| house.post(&path).json(&body).answer().await;
    let text = json!({"type": "text", "text": "What are these?"});
    let shown = submit(json!({"input": [text, picture(3 << 20), picture(3 << 20)]})).await;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text());
    let asked = format!(
        "{:?}",
        house.asked()[0].messages.first().map(|message| match message {
            Message::User { content } => content.iter().map(Content::byte_len).collect(),
            _ => Vec::new(),
        })
    );
    assert_eq!(asked, "Some([15, 3145728, 3145728])");
    let long = "x".repeat(1 << 20);
    for body in [
        json!({"input": long}),
        json!({"input": [picture(3 << 20)], "system": long}),
        json!({"input": [picture(3 << 20)], "mode": "steer"}),
        json!({"input": [picture(16 << 20)]}),
    ] {
        let refused = submit(body).await;
        assert_eq!(
            (refused.status, refused.problem().as_str()),
            (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
        );
    }
}

#[tokio::test]
async fn an_input_that_is_not_what_it_says_is_refused_and_its_place_named() {
    let house = House::new().await;
    let path = house.session().await;
    for piece in [
        json!({"type": "image", "media_type": "text/html", "data": "AAAA"}),
        json!({"type": "file", "path": "../x"}),
    ] {
        let answer = house
            .post(&format!("{path}/turns"))
            .json(&json!({"input": [piece]}))
            .answer()
            .await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{piece}");
        assert_eq!(answer.json()["field"], "input[0]", "{piece}");
    }
}
