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
    let about_transcript =
        json!({"type": "invalid_request_error", "message": "messages.3: all messages must have non-empty content"});
    let server = Server::start([refusal(&about_transcript)]).await;
    let (_, error) = ask(&*provider(config, &server)).await;
    assert_eq!(error.unwrap().kind(), &ModelErrorKind::InvalidRequest);
    assert_eq!(server.requests().len(), 1);
}

/// A conversation whose last answer reasoned, called a tool and has its result.
fn with_state(wire: &str, state: &Value) -> ModelRequest {
    let call = fumehood_core::id::CallId::new();
    let request = fumehood_core::message::RequestedCall {
        id: call,
        tool: "clock_now".into(),
        arguments: fumehood_core::message::GivenArguments::parse("{}"),
    };
    ModelRequest {
        messages: Arc::new(vec![
            Message::User {
                content: vec![Content::text("the time?")],
            },
            Message::Assistant {
                parts: vec![
                    AssistantPart::Reasoning {
                        text: "The clock knows.".into(),
                        provider_state: Some(json!({"wire": wire, "model": "m", "state": state})),
                    },
                    AssistantPart::ToolCall(request),
                ],
            },
            Message::Tool {
                call,
                tool: "clock_now".into(),
                result: Ok(fumehood_core::call::Output {
                    content: vec![Content::text("12:00")],
                    ..fumehood_core::call::Output::default()
                }),
            },
        ]),
        tools: [tool()].into(),
        ..ModelRequest::default()
    }
}

/// On each wire: the configuration, the name of its state, a state, and how its provider refuses that.
fn refusals_of_state() -> [(Value, &'static str, &'static str, Value, Value); 4] {
    let anthropic = || json!({"provider": "anthropic", "model": "m", "thinking_budget_tokens": 2048});
    let thinking = || json!({"type": "thinking", "thinking": "The clock knows.", "signature": "STATE"});
    let invalid = |message: &str| json!({"type": "invalid_request_error", "message": message});
    [
        (
            anthropic(),
            "anthropic",
            "anthropic",
            thinking(),
            invalid("messages.1.content.0: Invalid `signature` in `thinking` block"),
        ),
        (
            // The answer before was that of another model: its reasoning is not sent, and its calls have none.
            anthropic(),
            "anthropic",
            "chat",
            json!({}),
            invalid("messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`."),
        ),
        (
            json!({"provider": "openai", "model": "m", "reasoning_effort": "low"}),
            "responses",
            "openai-responses",
            json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "STATE"}),
            json!({"type": "invalid_request_error", "code": "invalid_encrypted_content", "param": null,
                "message": "The encrypted content STATE could not be verified."}),
        ),
        (
            json!({"provider": "gemini", "model": "m"}),
            "chat",
            "chat",
            json!({"0": {"google": {"thought_signature": "STATE"}}}),
            json!({"code": 400, "status": "INVALID_ARGUMENT", "message": "Corrupted thought signature."}),
        ),
    ]
}

#[tokio::test]
async fn reasoning_that_the_provider_does_not_take_back_is_left_out_of_that_request_alone() {
    for (config, wire, of, state, why) in refusals_of_state() {
        let server = Server::start([refusal(&why), good(wire), good(wire)]).await;
        let provider = provider(config.clone(), &server);
        let request = with_state(of, &state);
        for _ in 0..2 {
            let mut stream = provider.stream(&request).await.unwrap();
            while let Some(event) = stream.next().await {
                event.unwrap();
            }
        }
        let sent: Vec<_> = server.requests().into_iter().map(|request| request.body).collect();
        assert_eq!(sent.len(), 3, "{config}");
        assert_eq!(sent[0], sent[2], "{config}: the next call begins anew");
        assert_ne!(sent[0], sent[1], "{config}");
        assert!(!sent[1].to_string().contains("STATE"), "{config}");
        assert!(sent[1].to_string().contains("clock_now"), "{config}");
        if wire == "anthropic" {
            assert!(sent[0].get("thinking").is_some() && sent[1].get("thinking").is_none());
        } else {
            assert!(sent[0].to_string().contains("STATE"), "{config}");
        }
    }
}

#[tokio::test]
async fn reasoning_is_left_out_once_and_a_refusal_that_stays_ends_the_call() {
    for (config, _, of, state, why) in refusals_of_state() {
        let server = Server::start([refusal(&why)]).await;
        let failed = provider(config.clone(), &server)
            .stream(&with_state(of, &state))
            .await
            .err();
        assert_eq!(failed.unwrap().kind(), &ModelErrorKind::InvalidRequest, "{config}");
        assert_eq!(server.requests().len(), 2, "{config}");
    }
}
