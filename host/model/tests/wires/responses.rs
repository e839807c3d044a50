//! OpenAI Responses.

use super::*;
use std::sync::Arc;

fn openai() -> Value {
    json!({"provider": "openai", "model": "m"})
}

fn stream(list: &[Value]) -> Reply {
    let datas: Vec<_> = list
        .iter()
        .map(|event| (event["type"].as_str().unwrap().to_owned(), event.to_string()))
        .collect();
    Reply::stream(events(
        &datas
            .iter()
            .map(|(name, data)| (name.as_str(), data.as_str()))
            .collect::<Vec<_>>(),
    ))
}

fn completed() -> Value {
    json!({"type": "response.completed", "response": {"usage": {
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 6, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 16,
    }}})
}

fn text_delta(delta: &str) -> Value {
    json!({"type": "response.output_text.delta", "output_index": 0, "delta": delta})
}

fn function_call(index: u64, name: &str) -> Value {
    let item = json!({"type": "function_call", "id": "fc", "call_id": "c", "name": name, "arguments": ""});
    json!({"type": "response.output_item.added", "output_index": index, "item": item})
}

fn function_call_done(index: u64, name: &str, arguments: &str) -> Value {
    let item = json!({"type": "function_call", "id": "fc", "call_id": "c", "name": name, "arguments": arguments});
    json!({"type": "response.output_item.done", "output_index": index, "item": item})
}

fn arguments_delta(index: u64, delta: &str) -> Value {
    json!({"type": "response.function_call_arguments.delta", "output_index": index, "delta": delta})
}

#[tokio::test]
async fn text_and_usage_arrive() {
    let reply = stream(&[
        json!({"type": "response.created", "response": {}}),
        text_delta("Hel"),
        text_delta("lo"),
        completed(),
    ]);
    let step = answer(&openai(), reply).await;
    assert_eq!(step.parts, [text("Hello")]);
    assert_eq!(step.stop, StepStop::Stop);
    let expected = Usage {
        cached_input_tokens: Some(4),
        reasoning_tokens: Some(2),
        ..usage(10, 6)
    };
    assert_eq!(step.usage, Some(expected));
}

#[tokio::test]
async fn parallel_calls_with_split_and_interleaved_arguments_arrive() {
    let reply = stream(&[
        function_call(0, "a"),
        function_call(1, "b"),
        arguments_delta(1, "{\"y\":"),
        arguments_delta(0, "{\"x\""),
        arguments_delta(1, "2}"),
        arguments_delta(0, ":1}"),
        function_call_done(0, "a", "{\"x\":1}"),
        function_call_done(1, "b", "{\"y\":2}"),
        completed(),
    ]);
    let step = answer(&openai(), reply).await;
    assert_eq!(calls(&step), [call("a", &json!({"x": 1})), call("b", &json!({"y": 2}))]);
    assert_eq!(step.stop, StepStop::ToolCalls);
}

#[tokio::test]
async fn arguments_that_only_come_whole_are_taken() {
    let step = answer(
        &openai(),
        stream(&[function_call_done(0, "a", "{\"x\":1}"), completed()]),
    )
    .await;
    assert_eq!(calls(&step), [call("a", &json!({"x": 1}))]);
}

#[tokio::test]
async fn encrypted_reasoning_goes_back_unchanged_to_the_same_model_only() {
    let item = json!({
        "type": "reasoning", "id": "rs_1", "encrypted_content": "gAAA",
        "summary": [{"type": "summary_text", "text": "Look first."}],
    });
    let reply = stream(&[
        json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "id": "rs_1", "summary": []}}),
        json!({"type": "response.reasoning_summary_part.added", "output_index": 0}),
        json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "Look "}),
        json!({"type": "response.reasoning_summary_text.delta", "output_index": 0, "delta": "first."}),
        json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
        function_call_done(1, "a", "{}"),
        completed(),
    ]);
    let server = Server::start([reply]).await;
    let same = provider(openai(), &server);
    let (events, _) = ask(&*same).await;
    let mut assembler = Assembler::default();
    let step = events.into_iter().find_map(|event| assembler.push(event)).unwrap();
    assert!(
        matches!(&step.parts[0], AssistantPart::Reasoning { text, .. } if text == "Look first."),
        "{step:?}"
    );

    let mut next = question();
    Arc::make_mut(&mut next.messages).push(Message::Assistant { parts: step.parts });
    drop(same.stream(&next).await.unwrap());
    let other = provider(json!({"provider": "openai", "model": "other"}), &server);
    drop(other.stream(&next).await.unwrap());
    let requests = server.requests();
    assert_eq!(requests[1].body["input"][1], item);
    assert_eq!(requests[2].body["input"][1]["type"], "function_call");
}

#[tokio::test]
async fn an_answer_that_was_cut_by_its_limit_or_filter_says_so() {
    for (reason, stop) in [
        ("max_output_tokens", StepStop::Length),
        ("content_filter", StepStop::ContentFilter),
    ] {
        let end = json!({"type": "response.incomplete", "response": {"incomplete_details": {"reason": reason}}});
        let step = answer(&openai(), stream(&[text_delta("a"), end])).await;
        assert_eq!((step.stop, step.usage), (stop, None));
    }
}

#[tokio::test]
async fn the_status_of_an_answer_counts_and_not_the_name_of_its_last_event() {
    let end = |status: &str| json!({"type": "response.completed", "response": {"status": status, "error": {"code": "server_error"}}});
    assert_eq!(
        answer(&openai(), stream(&[text_delta("a"), end("incomplete")]))
            .await
            .stop,
        StepStop::Length
    );
    let (_, error) = failure(&openai(), stream(&[end("failed")])).await;
    assert!(matches!(error.kind(), ModelErrorKind::Unavailable { .. }), "{error:?}");
    let (_, error) = failure(&openai(), stream(&[end("cancelled")])).await;
    assert_eq!(error.kind(), &ModelErrorKind::Incomplete);
}

#[tokio::test]
async fn a_refusal_is_the_visible_answer() {
    let refusal = json!({"type": "response.refusal.delta", "delta": "I can't."});
    assert_eq!(
        answer(&openai(), stream(&[refusal, completed()])).await.parts,
        [text("I can't.")]
    );
}

#[tokio::test]
async fn a_stream_without_its_last_event_is_incomplete() {
    for reply in [stream(&[text_delta("Hel")]), stream(&[text_delta("Hel")]).then_cut()] {
        let (events, error) = failure(&openai(), reply).await;
        assert_eq!(events, [ModelEvent::TextDelta("Hel".into())]);
        assert_eq!(error.kind(), &ModelErrorKind::Incomplete);
    }
}

#[tokio::test]
async fn failures_within_the_stream_are_typed() {
    let failed =
        json!({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "m"}}});
    assert!(failure(&openai(), stream(&[failed])).await.1.is_rate_limit());
    let error = json!({"type": "error", "code": "server_error", "message": "m", "param": null});
    assert!(matches!(
        failure(&openai(), stream(&[error])).await.1.kind(),
        ModelErrorKind::Unavailable { .. }
    ));
    let nested = json!({"type": "error", "error": {"type": "invalid_request_error", "code": "context_length_exceeded", "message": "m"}});
    assert_eq!(
        failure(&openai(), stream(&[nested])).await.1.kind(),
        &ModelErrorKind::ContextTooLong
    );
}

#[tokio::test]
async fn an_event_that_is_not_json_is_a_protocol_error() {
    let (_, error) = failure(&openai(), Reply::stream("event: response.created\ndata: <html>\n\n")).await;
    assert!(matches!(error.kind(), ModelErrorKind::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn a_model_that_cannot_encrypt_its_reasoning_is_asked_again_without_and_the_answer_is_remembered() {
    let refusal = r#"{"error":{"message":"Encrypted content is not supported with this model.","type":"invalid_request_error","param":"include","code":null}}"#;
    let good = stream(&[text_delta("a"), completed()]);
    let server = Server::start([Reply::refusal(400, refusal), good]).await;
    let provider = provider(openai(), &server);
    for _ in 0..2 {
        let (_, error) = ask(&*provider).await;
        assert!(error.is_none(), "{error:?}");
    }
    let includes: Vec<_> = server
        .requests()
        .iter()
        .map(|request| request.body.get("include").is_some())
        .collect();
    assert_eq!(includes, [true, false, false]);
}

#[tokio::test]
async fn a_request_that_stays_invalid_is_not_sent_for_ever() {
    let refusal = r#"{"error":{"message":"no","type":"invalid_request_error","param":"include"}}"#;
    let server = Server::start([Reply::refusal(400, refusal)]).await;
    let (_, error) = ask(&*provider(openai(), &server)).await;
    assert_eq!(error.unwrap().kind(), &ModelErrorKind::InvalidRequest);
    assert_eq!(server.requests().len(), 2);
}
