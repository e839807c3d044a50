//! Anthropic Messages.

use super::*;
use std::sync::Arc;

fn anthropic() -> Value {
    json!({"provider": "anthropic", "model": "m"})
}

fn stream(list: &[Value]) -> Reply {
    let start = json!({"type": "message_start", "message": {"usage": {
        "input_tokens": 5, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20, "output_tokens": 1,
    }}});
    let all: Vec<_> = std::iter::once(&start)
        .chain(list)
        .map(|event| (event["type"].as_str().unwrap().to_owned(), event.to_string()))
        .collect();
    Reply::stream(events(
        &all.iter()
            .map(|(name, data)| (name.as_str(), data.as_str()))
            .collect::<Vec<_>>(),
    ))
}

fn block(index: u64, content_block: &Value) -> Value {
    json!({"type": "content_block_start", "index": index, "content_block": content_block})
}

fn delta(index: u64, delta: &Value) -> Value {
    json!({"type": "content_block_delta", "index": index, "delta": delta})
}

fn end(index: u64) -> Value {
    json!({"type": "content_block_stop", "index": index})
}

fn finish(reason: &str) -> [Value; 2] {
    [
        json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 15}}),
        json!({"type": "message_stop"}),
    ]
}

fn text_block(parts: &[&str]) -> Vec<Value> {
    let mut events = vec![block(0, &json!({"type": "text", "text": ""})), json!({"type": "ping"})];
    events.extend(
        parts
            .iter()
            .map(|part| delta(0, &json!({"type": "text_delta", "text": part}))),
    );
    events.push(end(0));
    events
}

#[tokio::test]
async fn text_arrives_and_cached_tokens_count_as_input() {
    let step = answer(
        &anthropic(),
        stream(&[text_block(&["Hel", "lo"]), finish("end_turn").to_vec()].concat()),
    )
    .await;
    assert_eq!(step.parts, [text("Hello")]);
    assert_eq!(step.stop, StepStop::Stop);
    assert_eq!(
        step.usage,
        Some(Usage {
            cached_input_tokens: Some(100),
            cache_write_tokens: Some(20),
            ..usage(125, 15)
        })
    );
}

#[tokio::test]
async fn calls_with_split_arguments_arrive_and_no_arguments_are_an_empty_object() {
    let tool = |name: &str| json!({"type": "tool_use", "id": "toolu_1", "name": name, "input": {}});
    let json_delta = |index, part: &str| delta(index, &json!({"type": "input_json_delta", "partial_json": part}));
    let [stop, last] = finish("tool_use");
    let reply = stream(&[
        block(0, &tool("a")),
        json_delta(0, ""),
        json_delta(0, "{\"x\": "),
        block(1, &tool("b")),
        json_delta(0, "1}"),
        end(0),
        json_delta(1, ""),
        end(1),
        stop,
        last,
    ]);
    let step = answer(&anthropic(), reply).await;
    assert_eq!(calls(&step), [call("a", &json!({"x": 1})), call("b", &json!({}))]);
    assert_eq!(step.stop, StepStop::ToolCalls);
}

#[tokio::test]
async fn thinking_goes_back_unchanged_and_redacted_thinking_too() {
    let [stop, last] = finish("tool_use");
    let reply = stream(&[
        block(0, &json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, &json!({"type": "thinking_delta", "thinking": "Look "})),
        delta(0, &json!({"type": "thinking_delta", "thinking": "first."})),
        delta(0, &json!({"type": "signature_delta", "signature": "c2ln"})),
        end(0),
        block(1, &json!({"type": "redacted_thinking", "data": "b3BhcXVl"})),
        end(1),
        block(2, &json!({"type": "tool_use", "id": "t", "name": "a", "input": {}})),
        end(2),
        stop,
        last,
    ]);
    let server = Server::start([reply]).await;
    let provider = provider(anthropic(), &server);
    let (events, _) = ask(&*provider).await;
    let mut assembler = Assembler::default();
    let step = events.into_iter().find_map(|event| assembler.push(event)).unwrap();
    assert!(
        matches!(&step.parts[0], AssistantPart::Reasoning { text, .. } if text == "Look first."),
        "{step:?}"
    );
    let mut next = ModelRequest {
        tools: [tool()].into(),
        ..question()
    };
    Arc::make_mut(&mut next.messages).push(Message::Assistant { parts: step.parts });
    drop(provider.stream(&next).await.unwrap());
    let sent = server.requests()[1].body["messages"][1]["content"].clone();
    assert_eq!(
        sent[0],
        json!({"type": "thinking", "thinking": "Look first.", "signature": "c2ln"})
    );
    assert_eq!(sent[1], json!({"type": "redacted_thinking", "data": "b3BhcXVl"}));
    assert_eq!(sent[2]["type"], "tool_use");
}

#[tokio::test]
async fn each_stop_reason_has_its_stop() {
    for (reason, stop) in [
        ("max_tokens", StepStop::Length),
        ("model_context_window_exceeded", StepStop::Length),
        ("refusal", StepStop::ContentFilter),
        ("stop_sequence", StepStop::Stop),
    ] {
        let step = answer(
            &anthropic(),
            stream(&[text_block(&["a"]), finish(reason).to_vec()].concat()),
        )
        .await;
        assert_eq!(step.stop, stop, "{reason}");
    }
}

#[tokio::test]
async fn a_stream_without_its_last_event_is_incomplete() {
    let [stop, _] = finish("end_turn");
    let mut cut = text_block(&["Hel"]);
    cut.push(stop);
    for reply in [stream(&cut), stream(&cut).then_cut()] {
        let (events, error) = failure(&anthropic(), reply).await;
        assert!(
            matches!(&events[0], ModelEvent::Usage(usage) if usage.input_tokens == Some(125)),
            "{events:?}"
        );
        assert_eq!(events[1..], [ModelEvent::TextDelta("Hel".into())]);
        assert_eq!(error.kind(), &ModelErrorKind::Incomplete);
    }
}

#[tokio::test]
async fn an_error_within_the_stream_is_typed() {
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let (events, error) = failure(&anthropic(), stream(&[text_block(&["Hel"]), vec![overloaded]].concat())).await;
    assert!(
        matches!(&events[0], ModelEvent::Usage(usage) if usage.input_tokens == Some(125)),
        "{events:?}"
    );
    assert_eq!(events[1..], [ModelEvent::TextDelta("Hel".into())]);
    assert!(matches!(error.kind(), ModelErrorKind::Overloaded { .. }));
}

#[tokio::test]
async fn deltas_for_no_block_and_events_that_are_not_json_are_protocol_errors() {
    let stray = delta(7, &json!({"type": "text_delta", "text": "x"}));
    for reply in [stream(&[stray]), Reply::stream("data: {\n\n")] {
        let (_, error) = failure(&anthropic(), reply).await;
        assert!(matches!(error.kind(), ModelErrorKind::Protocol(_)), "{error:?}");
    }
}

#[tokio::test]
async fn the_key_goes_in_its_own_header_and_the_version_beside_it() {
    let server = Server::start([stream(&finish("end_turn"))]).await;
    ask(&*provider(anthropic(), &server)).await;
    let request = &server.requests()[0];
    assert_eq!(request.path, "/v1/messages");
    assert_eq!(request.headers["x-api-key"], "test-key");
    assert_eq!(request.headers["anthropic-version"], "2023-06-01");
    assert_eq!(request.headers.get("authorization"), None);
}
