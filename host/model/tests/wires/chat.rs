//! Chat Completions, as OpenAI, Gemini and Ollama speak it.

use super::*;
use std::sync::Arc;

fn openai() -> Value {
    json!({"provider": "openai", "wire": "chat", "model": "m"})
}

fn delta(delta: &Value) -> String {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]}).to_string()
}

fn finish(reason: &str) -> String {
    json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}).to_string()
}

fn chunks<'a>(datas: impl IntoIterator<Item = &'a str>) -> Reply {
    Reply::stream(events(&datas.into_iter().map(|data| ("", data)).collect::<Vec<_>>()))
}

#[tokio::test]
async fn text_and_usage_arrive() {
    let step = answer(&openai(), chunks([
        delta(&json!({"role": "assistant", "content": ""})).as_str(),
        &delta(&json!({"content": "Hel"})),
        &delta(&json!({"content": "lo €"})),
        &finish("stop"),
        r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":3,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}"#,
        "[DONE]",
    ])).await;
    assert_eq!(step.parts, [text("Hello €")]);
    assert_eq!(step.stop, StepStop::Stop);
    let expected = Usage {
        cached_input_tokens: Some(3),
        cache_write_tokens: Some(2),
        reasoning_tokens: Some(1),
        ..usage(9, 4)
    };
    assert_eq!(step.usage, Some(expected));
}

#[tokio::test]
async fn usage_that_was_not_sent_is_absent() {
    let step = answer(
        &openai(),
        chunks([delta(&json!({"content": "a"})).as_str(), &finish("stop"), "[DONE]"]),
    )
    .await;
    assert_eq!(step.usage, None);
}

#[tokio::test]
async fn parallel_calls_with_split_and_interleaved_arguments_arrive() {
    let part = |index: u64, id: Option<&str>, name: Option<&str>, arguments: &str| {
        delta(&json!({"tool_calls": [{"index": index, "id": id, "function": {"name": name, "arguments": arguments}}]}))
    };
    let step = answer(
        &openai(),
        chunks([
            part(0, Some("a"), Some("files_list"), "").as_str(),
            &part(1, Some("b"), Some("clock"), "{\"zo"),
            &part(0, None, None, "{\"path\":"),
            &part(1, None, None, "ne\":\"UTC\"}"),
            &part(0, None, None, "\".\"}"),
            &finish("tool_calls"),
            "[DONE]",
        ]),
    )
    .await;
    assert_eq!(
        calls(&step),
        [
            call("files_list", &json!({"path": "."})),
            call("clock", &json!({"zone": "UTC"}))
        ]
    );
    assert_eq!(step.stop, StepStop::ToolCalls);
}

#[tokio::test]
async fn calls_that_share_a_number_are_told_apart_by_their_ids_and_end_the_answer_with_calls() {
    let whole = |id: &str, name: &str| {
        delta(
            &json!({"tool_calls": [{"index": 0, "id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}]}),
        )
    };
    let config = json!({"provider": "ollama", "model": "m"});
    let step = answer(
        &config,
        chunks([whole("1", "a").as_str(), &whole("2", "b"), &finish("stop"), "[DONE]"]),
    )
    .await;
    assert_eq!(calls(&step), [call("a", &json!({})), call("b", &json!({}))]);
    assert_eq!(step.stop, StepStop::ToolCalls);
}

#[tokio::test]
async fn reasoning_comes_before_the_text_in_a_part_of_its_own() {
    for key in ["reasoning_content", "reasoning"] {
        let step = answer(
            &openai(),
            chunks([
                delta(&json!({key: "hm", "content": null})).as_str(),
                &delta(&json!({key: "m"})),
                &delta(&json!({"content": "yes"})),
                &finish("stop"),
                "[DONE]",
            ]),
        )
        .await;
        let reasoning = AssistantPart::Reasoning {
            text: "hmm".into(),
            provider_state: None,
        };
        assert_eq!(step.parts, [reasoning, text("yes")]);
    }
}

#[tokio::test]
async fn what_gemini_attaches_to_calls_goes_back_with_them() {
    let config = json!({"provider": "gemini", "model": "gemini-3"});
    let signature = json!({"google": {"thought_signature": "sig=="}});
    let reply = chunks([
        delta(&json!({"tool_calls": [
            {"id": "f1", "type": "function", "function": {"name": "a", "arguments": "{}"}, "extra_content": signature},
        ]}))
        .as_str(),
        &delta(
            &json!({"tool_calls": [{"id": "f2", "type": "function", "function": {"name": "b", "arguments": "{}"}}]}),
        ),
        &finish("tool_calls"),
        "[DONE]",
    ]);
    let server = Server::start([reply]).await;
    let provider = provider(config, &server);
    let (events, _) = ask(&*provider).await;
    let mut assembler = Assembler::default();
    let step = events.into_iter().find_map(|event| assembler.push(event)).unwrap();
    let mut next = question();
    Arc::make_mut(&mut next.messages).push(Message::Assistant { parts: step.parts });
    drop(provider.stream(&next).await.unwrap());
    let sent = &server.requests()[1].body["messages"][1]["tool_calls"];
    assert_eq!(sent[0]["extra_content"], signature);
    assert_eq!(sent[1].get("extra_content"), None);
}

#[tokio::test]
async fn each_finish_reason_has_its_stop() {
    for (reason, stop) in [
        ("length", StepStop::Length),
        ("content_filter", StepStop::ContentFilter),
    ] {
        let step = answer(
            &openai(),
            chunks([delta(&json!({"content": "a"})).as_str(), &finish(reason), "[DONE]"]),
        )
        .await;
        assert_eq!(step.stop, stop);
        assert_eq!(step.parts, [text("a")]);
    }
}

#[tokio::test]
async fn a_stream_without_its_last_marker_is_incomplete() {
    let hello = delta(&json!({"content": "Hel"}));
    for reply in [
        chunks([hello.as_str()]),
        chunks([hello.as_str(), &finish("stop")]),
        chunks([hello.as_str(), "[DONE]"]),
        chunks([hello.as_str()]).then_cut(),
    ] {
        let (events, error) = failure(&openai(), reply).await;
        assert_eq!(events, [ModelEvent::TextDelta("Hel".into())]);
        assert_eq!(error.kind(), &ModelErrorKind::Incomplete);
        assert!(error.is_retryable());
    }
}

#[tokio::test]
async fn an_error_within_the_stream_is_typed_and_comes_after_what_was_shown() {
    let hello = delta(&json!({"content": "Hel"}));
    let error = r#"{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}"#;
    let (events, error) = failure(&openai(), chunks([hello.as_str(), error])).await;
    assert_eq!(events, [ModelEvent::TextDelta("Hel".into())]);
    assert!(error.is_rate_limit() && error.is_retryable());
}

#[tokio::test]
async fn an_event_that_is_not_json_is_a_protocol_error() {
    let (_, error) = failure(&openai(), chunks(["{\"choices\":"])).await;
    assert!(matches!(error.kind(), ModelErrorKind::Protocol(_)), "{error:?}");
    assert!(!error.is_retryable());
}
