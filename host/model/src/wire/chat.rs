//! OpenAI Chat Completions, and the endpoints of others that speak it.
//!
//! Its terminal marker is `data: [DONE]` after a chunk with a `finish_reason`. It has no place for images in tool results: they follow
//! the results in a message of the user. Nor has it one for reasoning, except for what Gemini attaches to calls and wants back.

use super::{
    Parser, Sink, Wire,
    fault::Fault,
    shared::{StateTag, count, data_url, input_schema, marked_result_text, object, parse, wire_name},
};
use crate::{
    config::ReasoningEffort,
    error::{ModelError, ModelErrorKind},
    request::{ModelRequest, ParallelToolCalls, ToolChoice},
};
use fumehood_core::{
    call::CallResult,
    content::Content,
    id::CallId,
    message::{AssistantPart, Message},
    turn::{StepStop, Usage},
};
use http::{HeaderName, header::AUTHORIZATION};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whose Chat Completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    /// Another server that speaks it, of whose caches nothing is known.
    LikeOpenAi,
    Gemini,
    Ollama,
}

/// The wire for one model.
#[derive(Debug)]
pub(crate) struct Chat {
    model: String,
    dialect: Dialect,
    max_output_tokens: Option<u32>,
    effort: Option<ReasoningEffort>,
    tag: StateTag,
    /// Models that do not reason take no wish for it.
    without_effort: AtomicBool,
}

impl Chat {
    pub(crate) fn new(
        model: String,
        dialect: Dialect,
        max_output_tokens: Option<u32>,
        effort: Option<ReasoningEffort>,
    ) -> Self {
        Self {
            tag: StateTag {
                wire: "chat",
                model: model.clone(),
            },
            model,
            dialect,
            max_output_tokens,
            effort,
            without_effort: AtomicBool::new(false),
        }
    }

    fn effort(&self) -> Option<&'static str> {
        let effort = self.effort.filter(|_| !self.without_effort.load(Relaxed))?;
        Some(effort.as_str())
    }

    fn messages(&self, request: &ModelRequest) -> Vec<Value> {
        let mut messages = Vec::with_capacity(request.messages.len() + 1);
        if !request.system.is_empty() {
            messages.push(json!({"role": "system", "content": request.system}));
        }
        let mut shown = Shown::default();
        for message in request.messages.iter() {
            if !matches!(message, Message::Tool { .. }) {
                messages.extend(shown.take());
            }
            messages.extend(match message {
                Message::User { content } => Some(json!({"role": "user", "content": user_content(content)})),
                Message::Note { text } | Message::Summary { text } => Some(json!({"role": "user", "content": text})),
                Message::Assistant { parts } => self.assistant(parts),
                Message::Tool { call, tool, result } => {
                    shown.note(call, tool, result);
                    Some(json!({
                        "role": "tool",
                        "tool_call_id": call,
                        "content": marked_result_text(result),
                    }))
                }
            });
        }
        messages.extend(shown.take());
        messages
    }

    fn assistant(&self, parts: &[AssistantPart]) -> Option<Value> {
        let extras = parts.iter().filter_map(|part| self.tag.open(part)).next_back();
        let mut text = String::new();
        let mut calls = Vec::new();
        for part in parts {
            match part {
                AssistantPart::Text { text: more } => text.push_str(more),
                AssistantPart::Reasoning { .. } => {}
                AssistantPart::ToolCall(call) => {
                    let extra = extras.and_then(|extras| extras.get(calls.len().to_string())).cloned();
                    calls.push(object([
                        ("id", Some(json!(call.id))),
                        ("type", Some(json!("function"))),
                        (
                            "function",
                            Some(json!({
                                "name": wire_name(&call.tool),
                                "arguments": Value::from(call.arguments.as_object()).to_string(),
                            })),
                        ),
                        ("extra_content", extra),
                    ]));
                }
            }
        }
        (!text.is_empty() || !calls.is_empty()).then(|| {
            object([
                ("role", Some(json!("assistant"))),
                ("content", Some(if text.is_empty() { Value::Null } else { text.into() })),
                ("tool_calls", (!calls.is_empty()).then(|| calls.into())),
            ])
        })
    }
}

/// The images in the results of one answer. All of these have to stand side by side, so that the images come after the last.
#[derive(Default)]
struct Shown {
    of: Vec<String>,
    images: Vec<Value>,
}

impl Shown {
    fn note(&mut self, call: &CallId, tool: &str, result: &CallResult) {
        let content = result.as_ref().map_or(&[][..], |output| &output.content);
        for image in content.iter().filter(|piece| matches!(piece, Content::Image { .. })) {
            self.of.push(format!("{tool} ({call})"));
            self.images.push(piece(image));
        }
    }

    fn take(&mut self) -> Option<Value> {
        let Self { of, images } = std::mem::take(self);
        (!images.is_empty()).then(|| {
            let line = format!("[the images of the results above, in this order: {}]", of.join(", "));
            let content: Vec<_> = std::iter::once(json!({"type": "text", "text": line}))
                .chain(images)
                .collect();
            json!({"role": "user", "content": content})
        })
    }
}

/// One text as a plain string, as the simplest servers want it; else pieces.
fn user_content(content: &[Content]) -> Value {
    if let [piece] = content
        && !matches!(piece, Content::Image { .. } | Content::Audio { .. })
    {
        return piece.as_plain_text().into();
    }
    content.iter().map(piece).collect()
}

fn piece(content: &Content) -> Value {
    match content {
        Content::Image { media_type, data } => {
            json!({"type": "image_url", "image_url": {"url": data_url(media_type, data)}})
        }
        Content::Audio { media_type, data } if audio_format(media_type).is_some() => {
            json!({"type": "input_audio", "input_audio": {"data": super::shared::base64(data), "format": audio_format(media_type)}})
        }
        other => json!({"type": "text", "text": other.as_plain_text()}),
    }
}

fn audio_format(media_type: &str) -> Option<&'static str> {
    match media_type {
        "audio/wav" | "audio/x-wav" | "audio/wave" => Some("wav"),
        "audio/mpeg" | "audio/mp3" => Some("mp3"),
        _ => None,
    }
}

impl Wire for Chat {
    fn path(&self, _base_path: &str) -> &'static str {
        "chat/completions"
    }

    fn key_header(&self) -> (HeaderName, &'static str) {
        (AUTHORIZATION, "Bearer ")
    }

    fn body(&self, request: &ModelRequest) -> Value {
        let tools: Vec<_> = request
            .tools
            .iter()
            .map(|tool| {
                json!({
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        "description": tool.description,
                        "parameters": input_schema(tool),
                    },
                })
            })
            .collect();
        let has_tools = !tools.is_empty();
        let one_at_a_time = request.parallel_tool_calls == ParallelToolCalls::OneAtATime;
        let limit = [request.max_output_tokens, self.max_output_tokens]
            .into_iter()
            .flatten()
            .min();
        let limit_name = match self.dialect {
            Dialect::OpenAi | Dialect::LikeOpenAi => "max_completion_tokens",
            Dialect::Gemini | Dialect::Ollama => "max_tokens",
        };
        object([
            ("model", Some(json!(self.model))),
            ("messages", Some(self.messages(request).into())),
            ("tools", has_tools.then(|| tools.into())),
            (
                "tool_choice",
                (has_tools && request.tool_choice == ToolChoice::None).then(|| json!("none")),
            ),
            (
                "parallel_tool_calls",
                (has_tools && one_at_a_time && matches!(self.dialect, Dialect::OpenAi | Dialect::LikeOpenAi))
                    .then(|| json!(false)),
            ),
            ("stream", Some(json!(true))),
            ("stream_options", Some(json!({"include_usage": true}))),
            (limit_name, limit.map(Value::from)),
            ("temperature", request.temperature.map(Value::from)),
            ("reasoning_effort", self.effort().map(Value::from)),
            (
                "prompt_cache_key",
                request
                    .cache_key
                    .as_deref()
                    .filter(|_| self.dialect == Dialect::OpenAi)
                    .map(Value::from),
            ),
        ])
    }

    fn adapts_to(&self, refusal: &Fault, sent: &Value) -> bool {
        let adapts = refusal.refuses_reasoning() && sent.get("reasoning_effort").is_some();
        if adapts {
            self.without_effort.store(true, Relaxed);
        }
        adapts
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(Answer {
            tag: self.tag.clone(),
            calls: Vec::new(),
            extras: Map::new(),
            reasoning: Reasoning::None,
            stop: None,
        })
    }
}

/// One answer.
struct Answer {
    tag: StateTag,
    calls: Vec<Call>,
    /// What the provider attached to calls, by their index.
    extras: Map<String, Value>,
    reasoning: Reasoning,
    stop: Option<StepStop>,
}

/// A call as the provider numbers it. Some servers give every call the number 0 and tell them apart by id.
struct Call {
    number: Option<u64>,
    id: Option<String>,
    index: usize,
}

#[derive(PartialEq, Eq)]
enum Reasoning {
    None,
    Open,
}

impl Parser for Answer {
    fn event(&mut self, _name: &str, data: &str, sink: &mut Sink) -> Result<(), ModelError> {
        if data.trim() == "[DONE]" {
            let stop = self.stop.ok_or(ModelErrorKind::Incomplete)?;
            self.close_reasoning(sink);
            sink.end_calls();
            if !self.extras.is_empty() {
                sink.reasoning_done(Some(self.tag.seal(&std::mem::take(&mut self.extras).into())));
            }
            sink.done(stop);
            return Ok(());
        }
        let chunk = parse(data)?;
        if chunk.get("error").is_some_and(|error| !error.is_null()) {
            return Err(Fault::from_json(&chunk).to_error(None, None));
        }
        if let Some(choice) = chunk.pointer("/choices/0") {
            self.delta(&choice["delta"], sink)?;
            if let Some(reason) = choice["finish_reason"].as_str() {
                self.stop = Some(stop(reason)?);
            }
        }
        let usage = &chunk["usage"];
        sink.usage(Usage {
            input_tokens: count(usage, "/prompt_tokens"),
            output_tokens: count(usage, "/completion_tokens"),
            cached_input_tokens: count(usage, "/prompt_tokens_details/cached_tokens"),
            // Not the protocol's own; what stands before providers that charge for it tells it so.
            cache_write_tokens: count(usage, "/prompt_tokens_details/cache_write_tokens"),
            reasoning_tokens: count(usage, "/completion_tokens_details/reasoning_tokens"),
        });
        Ok(())
    }
}

fn stop(reason: &str) -> Result<StepStop, ModelError> {
    Ok(match reason {
        "length" | "max_tokens" => StepStop::Length,
        "content_filter" | "safety" => StepStop::ContentFilter,
        "tool_calls" | "function_call" => StepStop::ToolCalls,
        // vLLM and others report a failure of the running engine this way.
        "error" | "abort" => return Err(ModelErrorKind::Incomplete.into()),
        _ => StepStop::Stop,
    })
}

impl Answer {
    fn delta(&mut self, delta: &Value, sink: &mut Sink) -> Result<(), ModelError> {
        let reasoning = ["reasoning_content", "reasoning"]
            .into_iter()
            .find_map(|key| delta[key].as_str());
        if let Some(text) = reasoning.filter(|text| !text.is_empty()) {
            self.reasoning = Reasoning::Open;
            sink.reasoning(text)?;
        }
        for text in ["content", "refusal"].into_iter().filter_map(|key| delta[key].as_str()) {
            if !text.is_empty() {
                self.close_reasoning(sink);
            }
            sink.text(text)?;
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.close_reasoning(sink);
            self.call(call, sink)?;
        }
        Ok(())
    }

    fn call(&mut self, delta: &Value, sink: &mut Sink) -> Result<(), ModelError> {
        let number = delta["index"].as_u64();
        let id = delta["id"].as_str().filter(|id| !id.is_empty());
        let known = self.calls.iter().rev().find(|call| match (id, &call.id) {
            (Some(id), Some(known)) => id == known && number == call.number,
            (Some(_), None) | (None, _) => number == call.number,
        });
        let index = match known {
            Some(call) => call.index,
            None => {
                let Some(name) = delta["function"]["name"].as_str() else {
                    return Err(ModelError::protocol("a call without a name"));
                };
                let index = sink.start_call(name)?;
                self.calls.push(Call {
                    number,
                    id: id.map(str::to_owned),
                    index,
                });
                index
            }
        };
        match &delta["function"]["arguments"] {
            Value::String(arguments) => sink.arguments(index, arguments)?,
            // Some servers send the object itself.
            arguments @ Value::Object(_) => sink.arguments(index, &arguments.to_string())?,
            _ => {}
        }
        if let Some(extra) = delta.get("extra_content").filter(|extra| extra.is_object()) {
            sink.count(extra.to_string().len())?;
            self.extras.insert(index.to_string(), extra.clone());
        }
        Ok(())
    }

    fn close_reasoning(&mut self, sink: &mut Sink) {
        if std::mem::replace(&mut self.reasoning, Reasoning::None) == Reasoning::Open {
            sink.reasoning_done(None);
        }
    }
}
