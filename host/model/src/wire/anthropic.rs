//! Anthropic Messages.
//!
//! Thinking blocks are kept whole and go back unchanged. Its terminal marker is `message_stop`. All four cache marks that there
//! may be are set: on the last tool, on the instructions, on the newest message, and on what was the newest one in the step before,
//! where that step wrote to the cache: without it the provider looks only some twenty blocks back.

use super::{
    Parser, Sink, Wire,
    fault::Fault,
    shared::{StateTag, base64, count, input_schema, is_error, object, parse, result_content, result_text, wire_name},
};
use crate::{
    config::ReasoningEffort,
    error::ModelError,
    request::{ModelRequest, ParallelToolCalls, ToolChoice},
};
use fumehood_core::{
    call::CallResult,
    content::Content,
    message::{AssistantPart, Message},
    turn::{StepStop, Usage},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// The wire requires a limit; this one is within what every current model takes.
const DEFAULT_MAX_TOKENS: u32 = 16_384;

/// The wire for one model.
#[derive(Debug)]
pub(crate) struct Anthropic {
    model: String,
    max_output_tokens: Option<u32>,
    effort: Option<ReasoningEffort>,
    thinking_budget: Option<u32>,
    tag: StateTag,
    /// Models that do not think take no wish for it.
    without_thinking: AtomicBool,
}

impl Anthropic {
    pub(crate) fn new(
        model: String,
        max_output_tokens: Option<u32>,
        effort: Option<ReasoningEffort>,
        thinking_budget: Option<u32>,
    ) -> Self {
        Self {
            tag: StateTag {
                wire: "anthropic",
                model: model.clone(),
            },
            model,
            max_output_tokens,
            effort,
            thinking_budget,
            without_thinking: AtomicBool::new(false),
        }
    }

    /// The effort and the budget, as far as the model takes them.
    fn wishes(&self) -> (Option<ReasoningEffort>, Option<u32>) {
        if self.without_thinking.load(Relaxed) {
            (None, None)
        } else {
            (self.effort, self.thinking_budget)
        }
    }

    fn thinking(&self) -> Option<Value> {
        match self.wishes() {
            (_, Some(budget)) => Some(json!({"type": "enabled", "budget_tokens": budget})),
            (Some(_), None) => Some(json!({"type": "adaptive"})),
            (None, None) => None,
        }
    }

    /// The limit includes thinking, and has to be above its budget.
    fn max_tokens(&self, request: &ModelRequest) -> u32 {
        let asked = [request.max_output_tokens, self.max_output_tokens]
            .into_iter()
            .flatten()
            .min();
        let budget = self.wishes().1.unwrap_or(0);
        match asked {
            Some(limit) => limit.max(budget.saturating_add(1)),
            None => DEFAULT_MAX_TOKENS.saturating_add(budget),
        }
    }

    fn messages(&self, request: &ModelRequest) -> Vec<Value> {
        let blocks = Blocks {
            tag: &self.tag,
            tools: if request.tools.is_empty() {
                Tools::AsText
            } else {
                Tools::AsBlocks
            },
        };
        let mut messages: Vec<(&str, Vec<Value>)> = Vec::with_capacity(request.messages.len());
        for message in request.messages.iter() {
            let (role, content) = match message {
                Message::User { content } => ("user", user_blocks(content)),
                Message::Note { text } | Message::Summary { text } => ("user", user_blocks(&[Content::text(text)])),
                Message::Assistant { parts } => ("assistant", blocks.assistant(parts)),
                Message::Tool { call, tool, result } => ("user", vec![blocks.result(&call.to_string(), tool, result)]),
            };
            if content.is_empty() {
                continue;
            }
            // All results of one answer have to stand in one message.
            match messages.last_mut() {
                Some((last, blocks)) if *last == role => blocks.extend(content),
                _ => messages.push((role, content)),
            }
        }
        let newest_of_each_step = messages.iter_mut().rev().filter(|(role, _)| *role == "user").take(2);
        for (_, blocks) in newest_of_each_step {
            if let Some(last) = blocks.last_mut() {
                mark_for_cache(last);
            }
        }
        messages
            .into_iter()
            .map(|(role, content)| json!({"role": role, "content": content}))
            .collect()
    }
}

/// How calls and their results are written. The wire refuses their blocks in a request that offers no tools.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tools {
    AsBlocks,
    AsText,
}

struct Blocks<'a> {
    tag: &'a StateTag,
    tools: Tools,
}

impl Blocks<'_> {
    fn assistant(&self, parts: &[AssistantPart]) -> Vec<Value> {
        let shows_something = parts.iter().any(|part| match part {
            AssistantPart::Text { text } => !text.trim().is_empty(),
            AssistantPart::ToolCall(_) => true,
            AssistantPart::Reasoning { .. } => false,
        });
        if !shows_something {
            return Vec::new();
        }
        parts
            .iter()
            .filter_map(|part| match part {
                AssistantPart::Text { text } => text_block(text),
                AssistantPart::Reasoning { .. } => self.tag.open(part).cloned(),
                AssistantPart::ToolCall(call) if self.tools == Tools::AsText => {
                    let arguments = Value::from(call.arguments.as_object());
                    text_block(&format!("[called {} with {arguments}]", call.tool))
                }
                AssistantPart::ToolCall(call) => Some(json!({
                    "type": "tool_use",
                    "id": call.id,
                    "name": wire_name(&call.tool),
                    "input": call.arguments.as_object(),
                })),
            })
            .collect()
    }

    fn result(&self, call: &str, tool: &str, result: &CallResult) -> Value {
        if self.tools == Tools::AsText {
            return json!({"type": "text", "text": format!("[{tool} returned] {}", result_text(result).text)});
        }
        let content = result_content(result);
        let content = if content.iter().any(|piece| matches!(piece, Content::Image { .. })) && !is_error(result) {
            user_blocks(&content).into()
        } else {
            Value::from(result_text(result).text)
        };
        object([
            ("type", Some(json!("tool_result"))),
            ("tool_use_id", Some(json!(call))),
            ("content", Some(content)),
            ("is_error", is_error(result).then(|| json!(true))),
        ])
    }
}

/// A text block, unless the text is blank: the wire refuses blank ones.
fn text_block(text: &str) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}))
}

fn user_blocks(content: &[Content]) -> Vec<Value> {
    content
        .iter()
        .filter_map(|piece| match piece {
            Content::Image { media_type, data } => Some(json!({
                "type": "image",
                "source": {"type": "base64", "media_type": media_type, "data": base64(data)},
            })),
            other => text_block(&other.as_plain_text()),
        })
        .collect()
}

fn mark_for_cache(block: &mut Value) {
    if block["type"] != "thinking" && block["type"] != "redacted_thinking" {
        block["cache_control"] = json!({"type": "ephemeral"});
    }
}

fn tool_choice(request: &ModelRequest) -> Option<Value> {
    match (request.tool_choice, request.parallel_tool_calls) {
        (ToolChoice::None, _) => Some(json!({"type": "none"})),
        (ToolChoice::Auto, ParallelToolCalls::OneAtATime) => {
            Some(json!({"type": "auto", "disable_parallel_tool_use": true}))
        }
        (ToolChoice::Auto, ParallelToolCalls::Allowed) => None,
    }
}

impl Wire for Anthropic {
    fn path(&self, base_path: &str) -> &'static str {
        // Base URLs of this provider are written without the version, those of others with it: take both.
        if base_path.trim_end_matches('/').ends_with("/v1") {
            "messages"
        } else {
            "v1/messages"
        }
    }

    fn key_header(&self) -> (HeaderName, &'static str) {
        (HeaderName::from_static("x-api-key"), "")
    }

    fn headers(&self) -> HeaderMap {
        HeaderMap::from_iter([(
            HeaderName::from_static("anthropic-version"),
            HeaderValue::from_static("2023-06-01"),
        )])
    }

    fn body(&self, request: &ModelRequest) -> Value {
        let mut tools: Vec<_> = request
            .tools
            .iter()
            .map(|tool| json!({"name": tool.name, "description": tool.description, "input_schema": input_schema(tool)}))
            .collect();
        if let Some(last) = tools.last_mut() {
            mark_for_cache(last);
        }
        let has_tools = !tools.is_empty();
        let mut system = text_block(&request.system);
        if let Some(system) = &mut system {
            mark_for_cache(system);
        }
        let thinking = self.thinking();
        // A model that thinks takes no temperature but its own.
        let temperature = request.temperature.filter(|_| thinking.is_none());
        object([
            ("model", Some(json!(self.model))),
            ("max_tokens", Some(self.max_tokens(request).into())),
            ("system", system.map(|system| json!([system]))),
            ("tools", has_tools.then(|| tools.into())),
            ("tool_choice", has_tools.then(|| tool_choice(request)).flatten()),
            ("messages", Some(self.messages(request).into())),
            ("stream", Some(json!(true))),
            ("thinking", thinking),
            (
                "output_config",
                self.wishes().0.map(|effort| json!({"effort": effort.as_str()})),
            ),
            ("temperature", temperature.map(Value::from)),
        ])
    }

    fn body_without_state(&self, request: &ModelRequest) -> Value {
        let mut body = self.body(&request.without_state());
        // While it thinks it wants the thinking back that led to the calls before.
        if let Some(body) = body.as_object_mut() {
            body.shift_remove("thinking");
        }
        body
    }

    fn adapts_to(&self, refusal: &Fault, sent: &Value) -> bool {
        let wished = sent.get("thinking").is_some() || sent.get("output_config").is_some();
        let adapts = wished && refusal.refuses_reasoning();
        if adapts {
            self.without_thinking.store(true, Relaxed);
        }
        adapts
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(Answer {
            tag: self.tag.clone(),
            blocks: HashMap::new(),
            counts: Counts::default(),
            stop: StepStop::Stop,
        })
    }
}

/// One answer.
struct Answer {
    tag: StateTag,
    /// The open blocks by the provider's index.
    blocks: HashMap<u64, Block>,
    counts: Counts,
    stop: StepStop,
}

/// Counts come twice, the later ones final; what a later one leaves out stays.
#[derive(Default)]
struct Counts {
    fresh: Option<u64>,
    read: Option<u64>,
    written: Option<u64>,
    output: Option<u64>,
    thinking: Option<u64>,
}

impl Counts {
    fn update(&mut self, usage: &Value) {
        for (held, pointer) in [
            (&mut self.fresh, "/input_tokens"),
            (&mut self.read, "/cache_read_input_tokens"),
            (&mut self.written, "/cache_creation_input_tokens"),
            (&mut self.output, "/output_tokens"),
            (&mut self.thinking, "/output_tokens_details/thinking_tokens"),
        ] {
            *held = count(usage, pointer).or(*held);
        }
    }

    fn usage(&self) -> Usage {
        let cached = self.read.unwrap_or(0).saturating_add(self.written.unwrap_or(0));
        Usage {
            // This provider counts cached tokens apart from the others.
            input_tokens: self.fresh.map(|fresh| fresh.saturating_add(cached)),
            output_tokens: self.output,
            cached_input_tokens: self.read,
            cache_write_tokens: self.written,
            reasoning_tokens: self.thinking,
        }
    }
}

enum Block {
    Text,
    Thinking { text: String, signature: String },
    Redacted { data: Value },
    Call { index: usize, input: Value, streamed: bool },
}

impl Parser for Answer {
    fn event(&mut self, name: &str, data: &str, sink: &mut Sink) -> Result<(), ModelError> {
        let event = parse(data)?;
        match event.get("type").and_then(Value::as_str).unwrap_or(name) {
            "message_start" => {
                self.counts.update(&event["message"]["usage"]);
                // Now already: an answer that breaks off has cost its input.
                sink.usage(self.counts.usage());
                Ok(())
            }
            "content_block_start" => self.start(&event, sink),
            "content_block_delta" => self.delta(&event, sink),
            "content_block_stop" => self.stop(&event, sink),
            "message_delta" => {
                self.stop = match event["delta"]["stop_reason"].as_str() {
                    Some("max_tokens" | "model_context_window_exceeded") => StepStop::Length,
                    Some("refusal") => StepStop::ContentFilter,
                    Some("tool_use") => StepStop::ToolCalls,
                    _ => StepStop::Stop,
                };
                self.counts.update(&event["usage"]);
                Ok(())
            }
            "message_stop" => {
                sink.usage(self.counts.usage());
                sink.done(self.stop);
                Ok(())
            }
            "error" => Err(Fault::from_json(&event).to_error(None, None)),
            _ => Ok(()),
        }
    }
}

impl Answer {
    fn start(&mut self, event: &Value, sink: &mut Sink) -> Result<(), ModelError> {
        let block = &event["content_block"];
        let open = match block["type"].as_str() {
            Some("text") => {
                sink.text(block["text"].as_str().unwrap_or_default())?;
                Block::Text
            }
            Some("thinking") => {
                let text = block["thinking"].as_str().unwrap_or_default();
                sink.reasoning(text)?;
                let signature = block["signature"].as_str().unwrap_or_default();
                Block::Thinking {
                    text: text.to_owned(),
                    signature: signature.to_owned(),
                }
            }
            Some("redacted_thinking") => Block::Redacted {
                data: block["data"].clone(),
            },
            Some("tool_use") => {
                let Some(name) = block["name"].as_str() else {
                    return Err(ModelError::protocol("a call without a name"));
                };
                Block::Call {
                    index: sink.start_call(name)?,
                    input: block["input"].clone(),
                    streamed: false,
                }
            }
            // Blocks of tools that run at the provider, which are never asked for.
            _ => return Ok(()),
        };
        self.blocks.insert(block_index(event), open);
        Ok(())
    }

    fn delta(&mut self, event: &Value, sink: &mut Sink) -> Result<(), ModelError> {
        let delta = &event["delta"];
        let text = |key: &str| delta[key].as_str().unwrap_or_default();
        match (delta["type"].as_str(), self.blocks.get_mut(&block_index(event))) {
            (Some("text_delta"), Some(Block::Text)) => sink.text(text("text")),
            (Some("thinking_delta"), Some(Block::Thinking { text: held, .. })) => {
                held.push_str(text("thinking"));
                sink.reasoning(text("thinking"))
            }
            (Some("signature_delta"), Some(Block::Thinking { signature, .. })) => {
                signature.push_str(text("signature"));
                sink.count(text("signature").len())
            }
            (Some("input_json_delta"), Some(Block::Call { index, streamed, .. })) => {
                let part = text("partial_json");
                *streamed |= !part.is_empty();
                sink.arguments(*index, part)
            }
            (Some("text_delta" | "thinking_delta" | "signature_delta" | "input_json_delta"), _) => {
                Err(ModelError::protocol("a delta for a block that is not open"))
            }
            _ => Ok(()),
        }
    }

    fn stop(&mut self, event: &Value, sink: &mut Sink) -> Result<(), ModelError> {
        match self.blocks.remove(&block_index(event)) {
            Some(Block::Thinking { text, signature }) => {
                // Without a signature the provider would not take the block back.
                let block = json!({"type": "thinking", "thinking": text, "signature": signature});
                sink.reasoning_done((!signature.is_empty()).then(|| self.tag.seal(&block)));
            }
            Some(Block::Redacted { data }) => {
                sink.count(data.as_str().map_or(0, str::len))?;
                sink.reasoning_done(Some(self.tag.seal(&json!({"type": "redacted_thinking", "data": data}))));
            }
            Some(Block::Call { index, input, streamed }) => {
                if !streamed && input.as_object().is_some_and(|input| !input.is_empty()) {
                    sink.arguments(index, &input.to_string())?;
                }
                sink.end_call(index);
            }
            Some(Block::Text) | None => {}
        }
        Ok(())
    }
}

fn block_index(event: &Value) -> u64 {
    event["index"].as_u64().unwrap_or_default()
}
