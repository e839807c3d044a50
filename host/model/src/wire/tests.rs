//! The bodies that each wire writes for one transcript with everything in it.

use super::{
    Sink, Wire,
    anthropic::Anthropic,
    chat::{Chat, Dialect},
    fault::Fault,
    responses::Responses,
};
use crate::{
    config::ReasoningEffort,
    event::ModelEvent,
    request::{ModelRequest, ParallelToolCalls, ToolChoice},
};
use fumehood_core::{
    call::{CallError, CallErrorCode, Output, TrapKind},
    content::Content,
    id::CallId,
    message::{AssistantPart, GivenArguments, Message, RequestedCall},
    tool::ToolDefinition,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn id(number: u128) -> CallId {
    CallId::from_uuid(uuid::Uuid::from_u128(number))
}

fn call(number: u128, tool: &str, arguments: &str) -> AssistantPart {
    AssistantPart::ToolCall(RequestedCall {
        id: id(number),
        tool: tool.into(),
        arguments: GivenArguments::parse(arguments),
    })
}

fn result(number: u128, tool: &str, output: Output) -> Message {
    Message::Tool {
        call: id(number),
        tool: tool.into(),
        result: Ok(output),
    }
}

fn failed(number: u128, tool: &str, error: CallError) -> Message {
    Message::Tool {
        call: id(number),
        tool: tool.into(),
        result: Err(error),
    }
}

fn png() -> Content {
    Content::Image {
        media_type: "image/png".into(),
        data: vec![1, 2, 3],
    }
}

fn tools() -> Vec<ToolDefinition> {
    let definitions = json!([
        {
            "name": "files_read", "description": "Reads a file.",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"],
            },
        },
        {"name": "clock_now", "description": "Tells the time.", "input_schema": {"type": "object"}},
    ]);
    serde_json::from_value(definitions).unwrap()
}

/// Every kind of message, part, content and result. The reasoning's state is of one wire.
fn everything(state: Option<(&str, Value)>) -> ModelRequest {
    let state = state.map(|(wire, state)| json!({"wire": wire, "model": "m", "state": state}));
    let sound = Content::Audio {
        media_type: "audio/wav".into(),
        data: vec![9],
    };
    let file = Content::File {
        path: "in/sales.csv".into(),
    };
    let structured = Output {
        structured: Some(json!({"now": "12:00"})),
        ..Output::default()
    };
    let says_no = Output {
        content: vec![Content::text("no such file")],
        is_error: true,
        ..Output::default()
    };
    let picture = Output {
        content: vec![Content::text("a chart"), png()],
        ..Output::default()
    };
    ModelRequest {
        system: "Be brief.".into(),
        messages: Arc::new(vec![
            Message::User {
                content: vec![
                    Content::text("Look at this."),
                    png(),
                    sound,
                    file,
                    Content::Json { json: json!({"a": 1}) },
                ],
            },
            Message::Assistant {
                parts: vec![
                    AssistantPart::Reasoning {
                        text: "Files first.".into(),
                        provider_state: state,
                    },
                    AssistantPart::Text { text: "I look.".into() },
                    call(1, "files_read", r#"{"path":"a"}"#),
                    call(2, "clock_now", ""),
                    call(3, "files_read", r#"{"path":"#),
                    call(4, "nonsense", "{}"),
                    call(5, "files_read", r#"{"path":"chart.png"}"#),
                    call(6, "clock_now", "{}"),
                ],
            },
            result(1, "files_read", says_no),
            result(2, "clock_now", structured),
            failed(
                3,
                "files_read",
                CallError::new(CallErrorCode::InvalidArguments, "the arguments are not a JSON object"),
            ),
            failed(
                4,
                "nonsense",
                CallError {
                    retry_after_ms: Some(10),
                    ..CallError::trapped(TrapKind::Cpu, "it used up its CPU time")
                },
            ),
            result(5, "files_read", picture),
            result(6, "clock_now", Output::default()),
            // An answer that was cut while it was still reasoning.
            Message::Assistant {
                parts: vec![AssistantPart::Reasoning {
                    text: "Hm".into(),
                    provider_state: None,
                }],
            },
            Message::Assistant {
                parts: vec![AssistantPart::Text { text: "Done.".into() }],
            },
            Message::User {
                content: vec![Content::text("Thanks.")],
            },
        ]),
        tools: tools().into(),
        cache_key: Some("ses_1".into()),
        ..ModelRequest::default()
    }
}

#[test]
fn responses_carries_everything() {
    let reasoning = json!({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"});
    let wire = Responses::new("m".into(), Some(1000), Some(ReasoningEffort::Low));
    insta::assert_json_snapshot!(wire.body(&everything(Some(("openai-responses", reasoning)))));
}

#[test]
fn chat_carries_everything() {
    let wire = Chat::new("m".into(), Dialect::OpenAi, Some(1000), None);
    let extra = json!({"1": {"google": {"thought_signature": "sig"}}});
    insta::assert_json_snapshot!(wire.body(&everything(Some(("chat", extra)))));
}

#[test]
fn anthropic_carries_everything() {
    let thinking = json!({"type": "thinking", "thinking": "Files first.", "signature": "c2ln"});
    let wire = Anthropic::new("m".into(), None, None, Some(2048));
    insta::assert_json_snapshot!(wire.body(&everything(Some(("anthropic", thinking)))));
}

#[test]
fn anthropic_without_tools_tells_past_calls_as_text() {
    let wire = Anthropic::new("m".into(), Some(1000), Some(ReasoningEffort::High), None);
    let request = ModelRequest {
        tools: [].into(),
        temperature: Some(0.5),
        ..everything(None)
    };
    insta::assert_json_snapshot!(wire.body(&request));
}

#[test]
fn the_plainest_request_has_nothing_it_does_not_need() {
    let request = ModelRequest {
        messages: Arc::new(vec![Message::User {
            content: vec![Content::text("hi")],
        }]),
        ..ModelRequest::default()
    };
    let bodies = [
        Responses::new("m".into(), None, None).body(&request),
        Chat::new("m".into(), Dialect::OpenAi, None, None).body(&request),
        Chat::new("m".into(), Dialect::Gemini, None, None).body(&request),
        Anthropic::new("m".into(), None, None, None).body(&request),
    ];
    insta::assert_json_snapshot!(bodies);
}

#[test]
fn each_wire_has_its_own_way_to_limit_calls_tokens_and_chance() {
    let request = ModelRequest {
        messages: Arc::new(vec![Message::User {
            content: vec![Content::text("hi")],
        }]),
        tools: tools().into(),
        parallel_tool_calls: ParallelToolCalls::OneAtATime,
        max_output_tokens: Some(50),
        temperature: Some(0.7),
        ..ModelRequest::default()
    };
    let wires: [Box<dyn Wire>; 4] = [
        Box::new(Responses::new("m".into(), Some(1000), None)),
        Box::new(Chat::new(
            "m".into(),
            Dialect::OpenAi,
            Some(1000),
            Some(ReasoningEffort::Medium),
        )),
        Box::new(Chat::new("m".into(), Dialect::Ollama, Some(10), None)),
        Box::new(Anthropic::new("m".into(), Some(1000), None, None)),
    ];
    let knobs = |body: Value| {
        let Value::Object(body) = body else {
            panic!("a body is an object")
        };
        body.into_iter()
            .filter(|(key, _)| !matches!(key.as_str(), "messages" | "input" | "tools"))
            .collect::<serde_json::Map<_, _>>()
    };
    let bodies: Vec<_> = wires.iter().map(|wire| knobs(wire.body(&request))).collect();
    insta::assert_json_snapshot!(bodies);
    let none = ModelRequest {
        tool_choice: ToolChoice::None,
        ..request
    };
    let choices: Vec<_> = wires
        .iter()
        .map(|wire| wire.body(&none)["tool_choice"].clone())
        .collect();
    assert_eq!(
        choices,
        [json!("none"), json!("none"), json!("none"), json!({"type": "none"})]
    );
}

#[test]
fn a_name_that_the_model_invented_goes_back_in_the_form_that_providers_take() {
    let request = ModelRequest {
        messages: Arc::new(vec![
            Message::User {
                content: vec![Content::text("hi")],
            },
            Message::Assistant {
                parts: vec![call(1, "multi_tool_use.parallel", "{}"), call(2, &"ü".repeat(80), "{}")],
            },
            failed(
                1,
                "multi_tool_use.parallel",
                CallError::new(CallErrorCode::InvalidArguments, "no such tool"),
            ),
            failed(2, "ü", CallError::new(CallErrorCode::InvalidArguments, "no such tool")),
        ]),
        tools: tools().into(),
        ..ModelRequest::default()
    };
    let bodies = [
        (
            Responses::new("m".into(), None, None).body(&request),
            ["/input/1/name", "/input/2/name"],
        ),
        (
            Chat::new("m".into(), Dialect::OpenAi, None, None).body(&request),
            [
                "/messages/1/tool_calls/0/function/name",
                "/messages/1/tool_calls/1/function/name",
            ],
        ),
        (
            Anthropic::new("m".into(), None, None, None).body(&request),
            ["/messages/1/content/0/name", "/messages/1/content/1/name"],
        ),
    ];
    for (body, places) in bodies {
        let names = places.map(|place| body.pointer(place).and_then(Value::as_str).unwrap_or_default());
        assert_eq!(names, ["multi_tool_use_parallel", &"_".repeat(64)], "{body}");
    }
}

#[test]
fn chat_shows_the_images_of_results_after_the_last_of_them() {
    let picture = || Output {
        content: vec![Content::text("a chart"), png()],
        ..Output::default()
    };
    let calls = || Message::Assistant {
        parts: vec![
            call(1, "files_read", "{}"),
            call(2, "clock_now", "{}"),
            call(3, "draw", "{}"),
        ],
    };
    let request = ModelRequest {
        messages: Arc::new(vec![
            calls(),
            result(1, "files_read", picture()),
            result(2, "clock_now", Output::default()),
            result(3, "draw", picture()),
            calls(),
            result(1, "files_read", picture()),
            Message::User {
                content: vec![Content::text("And?")],
            },
        ]),
        ..ModelRequest::default()
    };
    let body = Chat::new("m".into(), Dialect::Gemini, None, None).body(&request);
    let roles: Vec<_> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(
        roles,
        [
            "assistant",
            "tool",
            "tool",
            "tool",
            "user",
            "assistant",
            "tool",
            "user",
            "user"
        ]
    );
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AQID"}});
    let line = format!(
        "[the images of the results above, in this order: files_read ({}), draw ({})]",
        id(1),
        id(3)
    );
    assert_eq!(
        body["messages"][4]["content"],
        json!([{"type": "text", "text": line}, image, image])
    );
    assert_eq!(body["messages"][7]["content"][1], image);
}

#[test]
fn state_of_another_wire_or_model_is_not_sent() {
    let foreign = json!({"type": "thinking", "thinking": "x", "signature": "MARK"});
    let wire = Anthropic::new("other".into(), None, None, None);
    for (wire_name, body) in [
        (
            "chat",
            Anthropic::new("m".into(), None, None, None).body(&everything(Some(("chat", foreign.clone())))),
        ),
        ("anthropic", wire.body(&everything(Some(("anthropic", foreign))))),
    ] {
        assert!(!body.to_string().contains("MARK"), "{wire_name}");
    }
}

#[test]
fn calls_that_are_refused_at_the_same_time_are_all_asked_again() {
    let refusal = Fault::from_json(&json!({"error": {"message": "no", "param": "reasoning"}}));
    let effort = Some(ReasoningEffort::Low);
    let wires: [Box<dyn Wire>; 3] = [
        Box::new(Responses::new("m".into(), None, effort)),
        Box::new(Chat::new("m".into(), Dialect::OpenAi, None, effort)),
        Box::new(Anthropic::new("m".into(), None, effort, None)),
    ];
    for wire in wires {
        let both = [wire.body(&everything(None)), wire.body(&everything(None))];
        assert!(both.iter().all(|sent| wire.adapts_to(&refusal, sent)));
        assert!(
            !wire.adapts_to(&refusal, &wire.body(&everything(None))),
            "nothing is left to leave out"
        );
    }
}

#[test]
fn anthropic_marks_what_each_step_wrote_to_the_cache_and_never_more_than_four_places() {
    let wire = Anthropic::new("m".into(), None, None, None);
    let mut messages = everything(None).messages.to_vec();
    for round in 0..8_u128 {
        let request = ModelRequest {
            messages: Arc::new(messages.clone()),
            ..everything(None)
        };
        let body = wire.body(&request);
        assert_eq!(body.to_string().matches("cache_control").count(), 4);
        let written = body["messages"].as_array().unwrap();
        let marked: Vec<_> = written
            .iter()
            .enumerate()
            .filter(|(_, message)| message.to_string().contains("cache_control"))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(marked, [written.len() - 3, written.len() - 1]);
        messages.push(Message::Assistant {
            parts: vec![call(100 + round, "clock_now", "{}")],
        });
        messages.push(result(100 + round, "clock_now", Output::default()));
    }
}

/// Every kind of event that a wire knows, once.
fn vocabulary(wire: &str) -> Vec<String> {
    let delta =
        |kind: &str, index: u64| json!({"type": format!("response.{kind}.delta"), "output_index": index, "delta": "{"});
    let block =
        |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let block_delta = |index: u64, kind: &str, key: &str| json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, key: "{"}});
    let values = match wire {
        "responses" => vec![
            delta("output_text", 0),
            delta("reasoning_summary_text", 0),
            delta("function_call_arguments", 1),
            json!({"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}}),
            json!({"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "name": "a"}}),
            json!({"type": "response.output_item.done", "output_index": 1, "item": {"type": "function_call", "name": "a", "arguments": "{}"}}),
            json!({"type": "response.output_item.done", "output_index": 0, "item": {"type": "reasoning", "encrypted_content": "e"}}),
            json!({"type": "response.completed", "response": {"usage": {"input_tokens": 1}}}),
            json!({"type": "response.incomplete", "response": {}}),
            json!({"type": "response.failed", "response": {}}),
            json!({"type": "error"}),
        ],
        "anthropic" => vec![
            json!({"type": "message_start", "message": {"usage": {"input_tokens": 1}}}),
            block(0, json!({"type": "text"})),
            block(0, json!({"type": "thinking"})),
            block(1, json!({"type": "redacted_thinking", "data": "d"})),
            block(1, json!({"type": "tool_use", "name": "a", "input": {"x": 1}})),
            block_delta(0, "text_delta", "text"),
            block_delta(0, "thinking_delta", "thinking"),
            block_delta(0, "signature_delta", "signature"),
            block_delta(1, "input_json_delta", "partial_json"),
            json!({"type": "content_block_stop", "index": 0}),
            json!({"type": "content_block_stop", "index": 1}),
            json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}}),
            json!({"type": "message_stop"}),
            json!({"type": "error"}),
        ],
        _ => vec![
            json!({"choices": [{"delta": {"content": "a"}}]}),
            json!({"choices": [{"delta": {"reasoning": "a"}}]}),
            json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "a", "arguments": "{"}}]}}]}),
            json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}}]}),
            json!({"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "b", "function": {"name": "b"}, "extra_content": {"x": 1}}]}}]}),
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 1}}),
            json!({"error": {}}),
        ],
    };
    let others = [
        "[DONE]",
        "[]",
        "{}",
        "null",
        "\"type\"",
        "{\"type\":7,\"choices\":\"x\"}",
        "{",
    ];
    values
        .iter()
        .map(Value::to_string)
        .chain(others.map(str::to_owned))
        .collect()
}

/// What every stream promises, however odd what the provider sends.
fn check_promises(events: &[ModelEvent]) {
    let mut open: Vec<bool> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        match event {
            ModelEvent::ToolCallStart { index, .. } => {
                assert_eq!(*index, open.len());
                open.push(true);
            }
            ModelEvent::ToolCallArguments { index, delta } => assert!(open[*index] && !delta.is_empty()),
            ModelEvent::ToolCallEnd { index } => assert!(std::mem::take(&mut open[*index])),
            ModelEvent::TextDelta(text) | ModelEvent::ReasoningDelta(text) => assert!(!text.is_empty()),
            ModelEvent::Done { .. } => {
                assert_eq!(at + 1, events.len(), "something came after the end");
                assert!(!open.contains(&true), "a call was left open");
            }
            ModelEvent::ReasoningDone { .. } | ModelEvent::Usage(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn events_in_any_order_break_no_promise(
        wire in prop_oneof![Just("responses"), Just("anthropic"), Just("chat")],
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let mut parser = match wire {
            "responses" => Responses::new("m".into(), None, None).parser(),
            "anthropic" => Anthropic::new("m".into(), None, None, None).parser(),
            _ => Chat::new("m".into(), Dialect::Gemini, None, None).parser(),
        };
        let vocabulary = vocabulary(wire);
        let mut sink = Sink::default();
        for index in order {
            if parser.event("", index.get::<String>(&vocabulary), &mut sink).is_err() || sink.is_done() {
                break;
            }
        }
        check_promises(&std::iter::from_fn(|| sink.pop()).collect::<Vec<_>>());
    }
}
