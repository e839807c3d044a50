//! OpenAI Responses.
//!
//! Nothing is stored at the provider: the whole transcript goes with each request, reasoning in encrypted form. Its
//! terminal markers are `response.completed`, `response.incomplete` and `response.failed`.

use super::{
    Parser, Sink, Wire,
    fault::Fault,
    shared::{
        StateTag, count, data_url, input_schema, is_error, marked_result_text, object, parse, result_content, wire_name,
    },
};
use crate::{
    config::ReasoningEffort,
    error::{ModelError, ModelErrorKind},
    request::{ModelRequest, ParallelToolCalls, ToolChoice},
};
use fumehood_core::{
    call::CallResult,
    content::Content,
    message::{AssistantPart, Message},
    turn::{StepStop, Usage},
};
use http::{HeaderName, header::AUTHORIZATION};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// The wire for one model.
#[derive(Debug)]
pub(crate) struct Responses {
    model: String,
    max_output_tokens: Option<u32>,
    effort: Option<ReasoningEffort>,
    tag: StateTag,
    /// Models that do not reason refuse to give encrypted reasoning; there is no other way to know them.
    without_encrypted: AtomicBool,
    /// Summaries need an account that is verified.
    without_summary: AtomicBool,
    /// Models that do not reason take no wish for it.
    without_reasoning: AtomicBool,
}

impl Responses {
    pub(crate) fn new(model: String, max_output_tokens: Option<u32>, effort: Option<ReasoningEffort>) -> Self {
        Self {
            tag: StateTag {
                wire: "openai-responses",
                model: model.clone(),
            },
            model,
            max_output_tokens,
            effort,
            without_encrypted: AtomicBool::new(false),
            without_summary: AtomicBool::new(false),
            without_reasoning: AtomicBool::new(false),
        }
    }

    fn reasoning(&self) -> Option<Value> {
        let effort = self.effort.filter(|_| !self.without_reasoning.load(Relaxed))?.as_str();
        Some(if self.without_summary.load(Relaxed) {
            json!({"effort": effort})
        } else {
            json!({"effort": effort, "summary": "auto"})
        })
    }

    fn input(&self, messages: &[Message]) -> Vec<Value> {
        let mut input = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                Message::User { content } => input.push(json!({
                    "role": "user",
                    "content": content.iter().map(input_piece).collect::<Vec<_>>(),
                })),
                Message::Note { text } | Message::Summary { text } => {
                    input.push(json!({"role": "user", "content": [{"type": "input_text", "text": text}]}));
                }
                Message::Assistant { parts } => self.assistant(parts, &mut input),
                Message::Tool { call, result, .. } => input.push(json!({
                    "type": "function_call_output",
                    "call_id": call,
                    "output": tool_output(result),
                })),
            }
        }
        input
    }

    fn assistant(&self, parts: &[AssistantPart], input: &mut Vec<Value>) {
        for (at, part) in parts.iter().enumerate() {
            match part {
                AssistantPart::Text { text } if text.is_empty() => {}
                AssistantPart::Text { text } => input.push(json!({"role": "assistant", "content": text})),
                AssistantPart::ToolCall(call) => input.push(json!({
                    "type": "function_call",
                    "call_id": call.id,
                    "name": wire_name(&call.tool),
                    "arguments": Value::from(call.arguments.as_object()).to_string(),
                })),
                AssistantPart::Reasoning { .. } => {
                    // Reasoning with nothing after it, from an answer that was cut, is refused by the provider.
                    let led_somewhere = parts[at + 1..].iter().any(|later| match later {
                        AssistantPart::Text { text } => !text.is_empty(),
                        AssistantPart::ToolCall(_) => true,
                        AssistantPart::Reasoning { .. } => false,
                    });
                    input.extend(self.tag.open(part).filter(|_| led_somewhere).cloned());
                }
            }
        }
    }
}

fn input_piece(content: &Content) -> Value {
    match content {
        Content::Image { media_type, data } => json!({"type": "input_image", "image_url": data_url(media_type, data)}),
        other => json!({"type": "input_text", "text": other.as_plain_text()}),
    }
}

fn tool_output(result: &CallResult) -> Value {
    let content = result_content(result);
    if is_error(result) || !content.iter().any(|piece| matches!(piece, Content::Image { .. })) {
        return marked_result_text(result).into();
    }
    content.iter().map(input_piece).collect()
}

impl Wire for Responses {
    fn path(&self, _base_path: &str) -> &'static str {
        "responses"
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
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": input_schema(tool),
                    // Strict mode takes a subset of JSON Schema that tools do not keep to, and is on by default.
                    "strict": false,
                })
            })
            .collect();
        let has_tools = !tools.is_empty();
        let limit = [request.max_output_tokens, self.max_output_tokens]
            .into_iter()
            .flatten()
            .min();
        object([
            ("model", Some(json!(self.model))),
            (
                "instructions",
                (!request.system.is_empty()).then(|| json!(request.system)),
            ),
            ("input", Some(self.input(&request.messages).into())),
            ("tools", has_tools.then(|| tools.into())),
            (
                "tool_choice",
                (has_tools && request.tool_choice == ToolChoice::None).then(|| json!("none")),
            ),
            (
                "parallel_tool_calls",
                (has_tools && request.parallel_tool_calls == ParallelToolCalls::OneAtATime).then(|| json!(false)),
            ),
            ("stream", Some(json!(true))),
            ("store", Some(json!(false))),
            (
                "include",
                (!self.without_encrypted.load(Relaxed)).then(|| json!(["reasoning.encrypted_content"])),
            ),
            ("reasoning", self.reasoning()),
            ("max_output_tokens", limit.map(Value::from)),
            ("temperature", request.temperature.map(Value::from)),
            ("prompt_cache_key", request.cache_key.as_deref().map(Value::from)),
        ])
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(Answer {
            tag: self.tag.clone(),
            calls: HashMap::new(),
            summarised: Summary::None,
        })
    }

    fn adapts_to(&self, refusal: &Fault, sent: &Value) -> bool {
        let has = |pointer| sent.pointer(pointer).is_some();
        let switch = match refusal.param.as_deref() {
            Some(param) if param.starts_with("include") && has("/include") => &self.without_encrypted,
            Some("reasoning.summary") if has("/reasoning/summary") => &self.without_summary,
            _ if refusal.refuses_reasoning() && has("/reasoning") => &self.without_reasoning,
            _ => return false,
        };
        switch.store(true, Relaxed);
        true
    }
}

/// One answer.
struct Answer {
    tag: StateTag,
    /// The calls by the provider's `output_index`.
    calls: HashMap<u64, Call>,
    summarised: Summary,
}

struct Call {
    index: usize,
    /// Whether deltas have come; if none did, the whole arguments at the end are the only ones.
    streamed: bool,
}

/// Whether the reasoning item that is being read has shown text, so that its parts are set apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Summary {
    None,
    Some,
}

impl Parser for Answer {
    fn event(&mut self, name: &str, data: &str, sink: &mut Sink) -> Result<(), ModelError> {
        let event = parse(data)?;
        let kind = event.get("type").and_then(Value::as_str).unwrap_or(name);
        let delta = || event.get("delta").and_then(Value::as_str).unwrap_or_default();
        match kind {
            // A refusal is the model's visible answer; there is no other text.
            "response.output_text.delta" | "response.refusal.delta" => sink.text(delta()),
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.summarised = Summary::Some;
                sink.reasoning(delta())
            }
            "response.reasoning_summary_part.added" if self.summarised == Summary::Some => sink.reasoning("\n\n"),
            "response.output_item.added" => self.item_added(&event, sink),
            "response.function_call_arguments.delta" => match self.calls.get_mut(&output_index(&event)) {
                Some(call) => {
                    call.streamed = true;
                    sink.arguments(call.index, delta())
                }
                None => Err(ModelError::protocol("arguments of a call that has not begun")),
            },
            "response.output_item.done" => self.item_done(&event, sink),
            "response.completed" | "response.incomplete" => finish(&event, kind, sink),
            "response.failed" => Err(Fault::from_json(event.get("response").unwrap_or(&event)).to_error(None, None)),
            "response.cancelled" => Err(ModelErrorKind::Incomplete.into()),
            "error" => Err(Fault::from_json(&event).to_error(None, None)),
            _ => Ok(()),
        }
    }
}

impl Answer {
    fn item_added(&mut self, event: &Value, sink: &mut Sink) -> Result<(), ModelError> {
        let item = &event["item"];
        match item["type"].as_str() {
            Some("function_call") => {
                let Some(name) = item["name"].as_str() else {
                    return Err(ModelError::protocol("a call without a name"));
                };
                let index = sink.start_call(name)?;
                self.calls.insert(output_index(event), Call { index, streamed: false });
            }
            Some("reasoning") => self.summarised = Summary::None,
            _ => {}
        }
        Ok(())
    }

    fn item_done(&mut self, event: &Value, sink: &mut Sink) -> Result<(), ModelError> {
        let item = &event["item"];
        match item["type"].as_str() {
            Some("function_call") => {
                if !self.calls.contains_key(&output_index(event)) {
                    self.item_added(event, sink)?;
                }
                if let Some(call) = self.calls.get(&output_index(event)) {
                    if !call.streamed {
                        sink.arguments(call.index, item["arguments"].as_str().unwrap_or_default())?;
                    }
                    sink.end_call(call.index);
                }
            }
            Some("reasoning") => {
                // Without its encrypted content the provider could not read the item back.
                let state = item["encrypted_content"]
                    .as_str()
                    .filter(|content| !content.is_empty())
                    .map(|encrypted| {
                        object([
                            ("type", Some(json!("reasoning"))),
                            ("id", item.get("id").cloned()),
                            (
                                "summary",
                                Some(item.get("summary").cloned().unwrap_or_else(|| json!([]))),
                            ),
                            ("encrypted_content", Some(json!(encrypted))),
                        ])
                    });
                if let Some(state) = &state {
                    sink.count(state.to_string().len())?;
                }
                if state.is_some() || self.summarised == Summary::Some {
                    sink.reasoning_done(state.map(|state| self.tag.seal(&state)));
                }
                self.summarised = Summary::None;
            }
            _ => {}
        }
        Ok(())
    }
}

fn output_index(event: &Value) -> u64 {
    event["output_index"].as_u64().unwrap_or_default()
}

/// Ends the answer as its status says; servers exist whose last event has another name than its status.
fn finish(event: &Value, kind: &str, sink: &mut Sink) -> Result<(), ModelError> {
    let response = &event["response"];
    let status = response["status"].as_str().unwrap_or(if kind == "response.incomplete" {
        "incomplete"
    } else {
        "completed"
    });
    let stop = match (
        status,
        response.pointer("/incomplete_details/reason").and_then(Value::as_str),
    ) {
        ("completed", _) => StepStop::Stop,
        ("incomplete", Some("content_filter")) => StepStop::ContentFilter,
        ("incomplete", _) => StepStop::Length,
        ("failed", _) => return Err(Fault::from_json(response).to_error(None, None)),
        _ => return Err(ModelErrorKind::Incomplete.into()),
    };
    let usage = &response["usage"];
    sink.usage(Usage {
        input_tokens: count(usage, "/input_tokens"),
        output_tokens: count(usage, "/output_tokens"),
        cached_input_tokens: count(usage, "/input_tokens_details/cached_tokens"),
        cache_write_tokens: None,
        reasoning_tokens: count(usage, "/output_tokens_details/reasoning_tokens"),
    });
    sink.done(stop);
    Ok(())
}
