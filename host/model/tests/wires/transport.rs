//! What is the same on every wire: refusals and their hints, caps, timeouts, keys, connections.

use super::*;
use fumehood_core::turn::TurnErrorCode;
use std::time::Duration;

fn openai() -> Value {
    json!({"provider": "openai", "wire": "chat", "model": "m"})
}

fn every_wire() -> [Value; 5] {
    [
        openai(),
        json!({"provider": "openai", "model": "m"}),
        json!({"provider": "anthropic", "model": "m"}),
        json!({"provider": "gemini", "model": "m"}),
        json!({"provider": "ollama", "model": "m"}),
    ]
}

fn whole() -> Reply {
    Reply::stream(
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
    )
}

/// A silence after which a stream is given up, and within which a machine under load delivers what was sent before.
const SHORT_SILENCE: &str = "500ms";

#[tokio::test]
async fn a_refused_key_is_not_tried_again_on_any_wire() {
    for config in every_wire() {
        let (_, error) = failure(
            &config,
            Reply::refusal(401, r#"{"error":{"message":"bad key test-key"}}"#),
        )
        .await;
        assert_eq!(error.kind(), &ModelErrorKind::Auth);
        assert!(!error.is_retryable());
        assert_eq!(error.to_turn_error().code, TurnErrorCode::ModelAuth);
    }
}

#[tokio::test]
async fn the_key_that_a_provider_repeats_is_taken_out_of_what_is_kept_for_the_log() {
    let (_, error) = failure(
        &openai(),
        Reply::refusal(401, r#"{"error":{"message":"bad key test-key"}}"#),
    )
    .await;
    assert_eq!(error.detail(), Some("bad key [key]"));
    let stream = Reply::stream("data: {\"error\":{\"message\":\"bad key test-key\",\"code\":\"invalid_api_key\"}}\n\n");
    assert_eq!(failure(&openai(), stream).await.1.detail(), Some("bad key [key]"));
}

#[tokio::test]
async fn rate_limits_carry_either_form_of_hint_on_every_wire() {
    for config in every_wire() {
        for (name, value, expected) in [("retry-after", "7", 7_000), ("retry-after-ms", "250", 250)] {
            let (_, error) = failure(&config, Reply::refusal(429, "{}").header(name, value)).await;
            assert_eq!(error.retry_after(), Some(Duration::from_millis(expected)));
            assert!(error.is_rate_limit() && error.is_retryable());
            assert_eq!(error.to_turn_error().code, TurnErrorCode::ModelRateLimited);
        }
    }
}

#[tokio::test]
async fn the_hint_survives_a_body_that_breaks_off() {
    let reply = Reply::refusal(429, "{\"err").header("retry-after", "3").then_cut();
    assert_eq!(
        failure(&openai(), reply).await.1.retry_after(),
        Some(Duration::from_secs(3))
    );
}

#[tokio::test]
async fn an_overloaded_provider_may_be_tried_again() {
    for status in [503, 529] {
        let (_, error) = failure(
            &openai(),
            Reply::refusal(status, "<html>busy</html>").header("retry-after", "2"),
        )
        .await;
        assert_eq!(
            error.kind(),
            &ModelErrorKind::Overloaded {
                retry_after: Some(Duration::from_secs(2))
            }
        );
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn a_long_refusal_is_cut() {
    let (_, error) = failure(&openai(), Reply::refusal(400, "x".repeat(1 << 20))).await;
    assert_eq!(error.kind(), &ModelErrorKind::InvalidRequest);
    assert!(error.detail().is_some_and(|detail| detail.len() <= 2048));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start([whole()]).await;
    let (_, error) = failure(&openai(), Reply::refusal(307, "").header("location", &elsewhere.url)).await;
    assert!(matches!(error.kind(), ModelErrorKind::Protocol(_)), "{error:?}");
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn an_answer_that_is_no_event_stream_is_a_protocol_error() {
    let (_, error) = failure(&openai(), whole().header("content-type", "text/html")).await;
    assert!(matches!(error.kind(), ModelErrorKind::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn a_giant_line_ends_the_answer_after_what_was_shown() {
    let hello = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    let giant = format!("{hello}data: {}", "x".repeat(9 << 20));
    let mut reply = Reply::stream(hello);
    reply = reply.then_raw(giant.into_bytes());
    let (events, error) = failure(&openai(), reply).await;
    assert_eq!(events[0], ModelEvent::TextDelta("Hel".into()));
    assert_eq!(error.kind(), &ModelErrorKind::AnswerTooLarge);
}

#[tokio::test]
async fn a_provider_that_does_not_begin_in_time_is_given_up() {
    let mut config = openai();
    config["first_byte_timeout"] = "50ms".into();
    let (_, error) = failure(&config, Reply::stream("").then_silent()).await;
    assert!(matches!(error.kind(), ModelErrorKind::Timeout { .. }), "{error:?}");
    assert!(error.is_retryable());
    assert!(error.to_string().contains("begin to answer"));
}

#[tokio::test]
async fn a_provider_that_falls_silent_is_given_up_after_what_was_shown() {
    let mut config = openai();
    config["idle_timeout"] = SHORT_SILENCE.into();
    let reply = Reply::stream("data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\ndata: half").then_silent();
    let (events, error) = failure(&config, reply).await;
    assert_eq!(events, [ModelEvent::TextDelta("Hel".into())]);
    assert!(error.to_string().contains("go on with its answer"), "{error}");
}

#[tokio::test]
async fn single_bytes_do_not_keep_a_stream_alive() {
    let mut config = openai();
    config["idle_timeout"] = SHORT_SILENCE.into();
    let hello = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    let (events, error) = failure(&config, Reply::stream(hello).then_drip()).await;
    assert_eq!(events, [ModelEvent::TextDelta("Hel".into())]);
    assert!(matches!(error.kind(), ModelErrorKind::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_unavailable_and_its_address_stays_in_the_log() {
    let server = Server::start([whole()]).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let provider = provider(openai(), &server);
    drop(server);
    tokio::task::yield_now().await;
    // The port may still accept for a moment; whichever way it fails, the caller may try again.
    let (_, error) = ask(&*provider).await;
    let error = error.expect("an error");
    assert!(error.is_retryable(), "{error:?}");
    assert!(!error.to_string().contains(&address));
}

#[tokio::test]
async fn the_key_is_sent_as_a_header_to_the_configured_path() {
    let server = Server::start([whole()]).await;
    ask(&*provider(openai(), &server)).await;
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v1/chat/completions");
    assert_eq!(request.headers["authorization"], "Bearer test-key");
    assert_eq!(request.headers["accept"], "text/event-stream");
}

#[tokio::test]
async fn the_steps_of_a_turn_share_one_connection() {
    let server = Server::start([whole()]).await;
    let provider = provider(openai(), &server);
    for _ in 0..3 {
        assert!(ask(&*provider).await.1.is_none());
    }
    let connections: Vec<_> = server.requests().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 0, 0]);
}

#[tokio::test]
async fn dropping_the_stream_closes_the_connection() {
    let hello = "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n\n";
    let server = Server::start([Reply::stream(hello).then_silent()]).await;
    let mut stream = provider(openai(), &server).stream(&question()).await.unwrap();
    assert!(matches!(stream.next().await, Some(Ok(ModelEvent::TextDelta(_)))));
    drop(stream);
    tokio::time::timeout(PATIENCE, server.closed(0))
        .await
        .expect("the server sees the connection close");
}
