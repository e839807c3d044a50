//! What a model does not take is left out of the next request, at once and from then on.

use super::*;

/// A whole short answer on each wire.
fn good(wire: &str) -> Reply {
    Reply::stream(match wire {
        "responses" => events(&[
            (
                "",
                r#"{"type":"response.output_text.delta","output_index":0,"delta":"a"}"#,
            ),
            (
                "",
                r#"{"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":1}}}"#,
            ),
        ]),
        "chat" => events(&[
            ("", r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#),
            ("", "[DONE]"),
        ]),
        _ => events(&[
            (
                "",
                r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":1}}}"#,
            ),
            (
                "",
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}"#,
            ),
            ("", r#"{"type":"content_block_stop","index":0}"#),
            (
                "",
                r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}"#,
            ),
            ("", r#"{"type":"message_stop"}"#),
        ]),
    })
}

fn refusal(error: &Value) -> Reply {
    Reply::refusal(400, json!({ "error": error }).to_string())
}

/// A picture, and a question about it.
fn with_a_picture() -> ModelRequest {
    let picture = Content::Image {
        media_type: "image/png".into(),
        data: vec![1, 2, 3],
    };
    ModelRequest {
        messages: Arc::new(vec![Message::User {
            content: vec![Content::text("what is this"), picture],
        }]),
        ..ModelRequest::default()
    }
}

/// Asks twice about a picture a server that refuses the first request; whether each request that it got had the picture.
async fn pictures(config: Value, wire: &str, status: u16, message: &str) -> Vec<bool> {
    let refusal = Reply::refusal(status, json!({"error": {"message": message}}).to_string());
    let server = Server::start(vec![refusal, good(wire)]).await;
    let provider = provider(config, &server);
    for _ in 0..2 {
        let mut stream = provider.stream(&with_a_picture()).await.unwrap();
        while let Some(event) = stream.next().await {
            event.unwrap();
        }
    }
    let has = |request: &server::Request| {
        let body = request.body.to_string();
        let described = body.contains("[image/png, 3 bytes], which you can not be shown");
        assert_ne!(body.contains("AQID"), described, "{body}");
        !described
    };
    server.requests().iter().map(has).collect()
}

#[tokio::test]
async fn a_model_that_takes_no_pictures_has_a_text_in_their_place_and_that_is_remembered() {
    let cases = [
        (json!({"provider": "openai", "model": "m"}), "responses", 400),
        (json!({"provider": "openai", "wire": "chat", "model": "m"}), "chat", 404),
        (json!({"provider": "ollama", "model": "m"}), "chat", 500),
        (json!({"provider": "anthropic", "model": "m"}), "anthropic", 400),
    ];
    for (config, wire, status) in cases {
        let sent = pictures(config, wire, status, "m does not support image input").await;
        assert_eq!(sent, [true, false, false], "{wire}");
    }
}

#[tokio::test]
async fn a_model_that_does_not_hear_goes_on_seeing() {
    let refusal = Reply::refusal(
        400,
        json!({"error": {"message": "This model does not support audio."}}).to_string(),
    );
    let server = Server::start(vec![refusal, good("chat")]).await;
    let provider = provider(json!({"provider": "openai", "wire": "chat", "model": "m"}), &server);
    let mut request = with_a_picture();
    let sound = Content::Audio {
        media_type: "audio/wav".into(),
        data: vec![4, 5, 6],
    };
    let Some(Message::User { content }) = Arc::make_mut(&mut request.messages).first_mut() else {
        panic!("it begins with the user")
    };
    content.push(sound);
    for _ in 0..2 {
        let mut stream = provider.stream(&request).await.unwrap();
        while let Some(event) = stream.next().await {
            event.unwrap();
        }
    }
    let has = |request: &server::Request| {
        let body = request.body.to_string();
        (body.contains("AQID"), body.contains("BAUG"))
    };
    let sent: Vec<_> = server.requests().iter().map(has).collect();
    assert_eq!(sent, [(true, true), (true, false), (true, false)]);
}

#[tokio::test]
async fn a_picture_that_is_refused_says_nothing_of_the_next_one() {
    for (status, message) in [
        (400, "Could not process image"),
        (400, "The image media type image/png is not supported."),
        (413, "too large"),
    ] {
        let config = json!({"provider": "anthropic", "model": "m"});
        let sent = pictures(config, "anthropic", status, message).await;
        assert_eq!(sent, [true, false, true], "{message}");
    }
}

/// Asks twice a server that refuses first; for each request it got, whether it had these fields.
async fn sent(config: Value, refusals: &[Value], wire: &str, pointers: &[&str]) -> Vec<Vec<bool>> {
    let replies: Vec<_> = refusals.iter().map(refusal).chain([good(wire)]).collect();
    let server = Server::start(replies).await;
    let provider = provider(config, &server);
    for _ in 0..2 {
        let (_, error) = ask(&*provider).await;
        assert!(error.is_none(), "{error:?}");
    }
    let has = |request: &server::Request| {
        let body = &request.body;
        pointers.iter().map(|pointer| body.pointer(pointer).is_some()).collect()
    };
    server.requests().iter().map(has).collect()
}

#[tokio::test]
async fn a_model_that_does_not_reason_is_asked_again_without_the_wish_and_that_is_remembered() {
    let cases = [
        (
            json!({"provider": "openai", "model": "m", "reasoning_effort": "low"}),
            json!({"message": "Unsupported parameter: 'reasoning.effort' is not supported with this model.",
                "type": "invalid_request_error", "param": "reasoning.effort", "code": "unsupported_parameter"}),
            "responses",
            "/reasoning",
        ),
        (
            json!({"provider": "openai", "wire": "chat", "model": "m", "reasoning_effort": "high"}),
            json!({"message": "Unrecognized request argument supplied: reasoning_effort", "type": "invalid_request_error",
                "param": null, "code": null}),
            "chat",
            "/reasoning_effort",
        ),
        (
            json!({"provider": "ollama", "model": "m", "reasoning_effort": "high"}),
            json!({"message": "\"m\" does not support thinking", "type": "invalid_request_error"}),
            "chat",
            "/reasoning_effort",
        ),
        (
            json!({"provider": "anthropic", "model": "m", "reasoning_effort": "low"}),
            json!({"type": "invalid_request_error", "message": "adaptive thinking is not supported on this model"}),
            "anthropic",
            "/thinking",
        ),
        (
            json!({"provider": "anthropic", "model": "m", "thinking_budget_tokens": 2048}),
            json!({"type": "invalid_request_error", "message": "thinking: Extra inputs are not permitted"}),
            "anthropic",
            "/thinking",
        ),
    ];
    for (config, refusal, wire, field) in cases {
        let had = sent(config.clone(), &[refusal], wire, &[field]).await;
        assert_eq!(had, [[true], [false], [false]], "{config}");
    }
}

#[tokio::test]
async fn one_thing_after_the_other_is_left_out() {
    let config = json!({"provider": "openai", "model": "m", "reasoning_effort": "low"});
    let summary = json!({"message": "Your organization must be verified", "param": "reasoning.summary"});
    let include = json!({"message": "Encrypted content is not supported", "param": "include"});
    let fields = ["/reasoning/summary", "/include", "/reasoning/effort"];
    let had = sent(config, &[summary, include], "responses", &fields).await;
    assert_eq!(
        had,
        [
            [true, true, true],
            [false, true, true],
            [false, false, true],
            [false, false, true],
        ]
    );
}

#[tokio::test]
async fn a_refusal_that_is_about_something_else_changes_nothing() {
    let config = json!({"provider": "anthropic", "model": "m", "reasoning_effort": "low"});
    let about_transcript = json!({"type": "invalid_request_error", "message": "messages.1.content.0: Invalid `signature` in `thinking` block"});
    let server = Server::start([refusal(&about_transcript)]).await;
    let (_, error) = ask(&*provider(config, &server)).await;
    assert_eq!(error.unwrap().kind(), &ModelErrorKind::InvalidRequest);
    assert_eq!(server.requests().len(), 1);
}
