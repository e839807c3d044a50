//! What hooks are shown at each point. Text and values as they are, bytes described: by their type, how many there are, and their
//! digest.

use crate::{callable::Callable, driver::Given};
use fumehood_core::{
    call::{Arguments, CallResult, Output, status_of},
    content::Content,
    digest::Digest,
    id::CallId,
    message::{AssistantPart, GivenArguments, Message, RequestedCall},
    name::{ModelName, ToolName},
    turn::{StepStop, TurnStatus, Usage},
};
use serde_json::{Value, json};

/// `before_turn`, of an input that begins one: all that its client gives a model.
// THREAT[T-hook-bypass]
pub(crate) fn beginning(input: &[Content], given: &Given) -> Value {
    let Given {
        system,
        output_schema,
        tools,
        // Not what a model is given.
        record: _,
    } = given;
    let mut about = json!({"input": contents(input), "steers": false});
    if let Some(system) = system {
        about["system"] = json!(system);
    }
    if let Some(schema) = output_schema {
        about["output_schema"] = schema.clone();
    }
    if !tools.is_empty() {
        about["tools"] = json!(tools);
    }
    about
}

/// `before_turn`, of an input that is added to a turn that runs.
pub(crate) fn addition(input: &[Content]) -> Value {
    json!({"input": contents(input), "steers": true})
}

/// `after_turn`.
pub(crate) fn end(status: TurnStatus, output: &str) -> Value {
    json!({"status": status, "output": output})
}

/// `before_model_call`: what is new to the model, and how long the whole is.
pub(crate) fn question(step: u64, model: &ModelName, messages: &[Message], tools: &[&ToolName]) -> Value {
    let answered = messages
        .iter()
        .rposition(|message| matches!(message, Message::Assistant { .. }));
    let new: Vec<_> = messages[answered.map_or(0, |at| at + 1)..]
        .iter()
        .map(message)
        .collect();
    json!({"step": step, "model": model, "messages": messages.len(), "new": new, "tools": tools})
}

/// `after_model_call`.
pub(crate) fn answer(step: u64, parts: &[AssistantPart], stop: StepStop, usage: Option<Usage>) -> Value {
    let text: String = parts
        .iter()
        .filter_map(|part| match part {
            AssistantPart::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let calls: Vec<_> = parts
        .iter()
        .filter_map(|part| match part {
            AssistantPart::ToolCall(call) => Some(requested(call)),
            _ => None,
        })
        .collect();
    json!({"step": step, "text": text, "calls": calls, "stop_reason": stop, "usage": usage})
}

/// `before_tool_call`.
pub(crate) fn call(id: CallId, tool: &dyn Callable, arguments: &Arguments) -> Value {
    let definition = tool.definition();
    json!({
        "call": id,
        "tool": definition.name,
        "component": tool.code(),
        "effect": definition.effect,
        "read_only": definition.read_only,
        "arguments": arguments,
    })
}

/// `after_tool_call`.
pub(crate) fn result(id: CallId, tool: &dyn Callable, arguments: &Arguments, result: &CallResult) -> Value {
    let mut about = call(id, tool, arguments);
    about["status"] = json!(status_of(result));
    match result {
        Ok(given) => about["output"] = output(given),
        Err(error) => about["error"] = json!(error),
    }
    about
}

/// Of what is longer than it may be, the beginning of its text.
pub(crate) fn cut(about: &mut Value, most: usize) {
    let text = about.to_string();
    if text.len() > most {
        *about = json!({"truncated": true, "bytes": text.len(), "text": &text[..text.floor_char_boundary(most)]});
    }
}

fn message(message: &Message) -> Value {
    match message {
        Message::User { content } => json!({"role": "user", "content": contents(content)}),
        Message::Note { text } => json!({"role": "note", "text": text}),
        Message::Summary { text } => json!({"role": "summary", "text": text}),
        Message::Assistant { parts } => answer(0, parts, StepStop::Stop, None),
        Message::Tool { call, tool, result } => match result {
            Ok(given) => json!({"role": "tool", "call": call, "tool": tool, "output": output(given)}),
            Err(error) => json!({"role": "tool", "call": call, "tool": tool, "error": error}),
        },
    }
}

fn requested(call: &RequestedCall) -> Value {
    match &call.arguments {
        GivenArguments::Arguments(arguments) => json!({"call": call.id, "tool": call.tool, "arguments": arguments}),
        GivenArguments::MalformedArguments(text) => {
            json!({"call": call.id, "tool": call.tool, "malformed_arguments": text})
        }
    }
}

fn output(output: &Output) -> Value {
    json!({
        "content": contents(&output.content),
        "structured": output.structured,
        "is_error": output.is_error,
    })
}

fn contents(pieces: &[Content]) -> Value {
    pieces.iter().map(piece).collect()
}

fn piece(piece: &Content) -> Value {
    let bytes = |kind: &str, media_type: &str, data: &[u8]| json!({"type": kind, "media_type": media_type, "bytes": data.len(), "digest": Digest::of(data)});
    match piece {
        Content::Text { text } => json!({"type": "text", "text": text}),
        Content::Json { json } => json!({"type": "json", "json": json}),
        Content::File { path } => json!({"type": "file", "path": path}),
        Content::Image { media_type, data } => bytes("image", media_type, data),
        Content::Audio { media_type, data } => bytes("audio", media_type, data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_described_and_text_is_shown() {
        let image = Content::Image {
            media_type: "image/png".into(),
            data: vec![0; 3],
        };
        let about = addition(&[Content::text("see"), image]);
        assert_eq!(about["input"][0], json!({"type": "text", "text": "see"}));
        assert_eq!(about["input"][1]["bytes"], 3);
        assert!(about["input"][1].get("data").is_none());
        assert_eq!(about["steers"], true);
    }

    #[test]
    fn before_a_model_call_what_is_new_to_the_model_is_shown() {
        let user = |text: &str| Message::User {
            content: vec![Content::text(text)],
        };
        let answered = Message::Assistant {
            parts: vec![AssistantPart::Text { text: "hi".into() }],
        };
        let about = question(2, &ModelName::main(), &[user("a"), answered, user("b")], &[]);
        assert_eq!(about["messages"], 3);
        let new = json!([{"role": "user", "content": [{"type": "text", "text": "b"}]}]);
        assert_eq!(about["new"], new);
    }

    #[test]
    fn what_is_too_long_for_an_observer_is_cut_at_a_character() {
        let mut about = json!({"text": "é".repeat(100)});
        cut(&mut about, 50);
        assert_eq!(about["truncated"], true);
        assert!(about["text"].as_str().unwrap().len() <= 50);
        let mut short = json!({"a": 1});
        cut(&mut short, 50);
        assert_eq!(short, json!({"a": 1}));
    }
}
