//! What a summary is made of: the messages as JSON lines, each bounded, so that no text in them can pass for a line of its own; and
//! the summary that the host makes by itself when no model can.

use super::{Window, large::head_and_tail};
use crate::transcript;
use fumehood_core::{
    call::CallResult,
    content::{Content, plain_text},
    message::{AssistantPart, GivenArguments, Message, RequestedCall},
};
use serde_json::{Value, json};

/// Bytes for a token, roughly.
const BYTES: u64 = 4;
/// The least that is given to the model to sum up, in bytes.
const LEAST: usize = 4 * 1024;
/// No message has more than this part of the whole.
const SHARE: usize = 8;
/// Of one message, a summary by the host has at most this many bytes.
const EXTRACT: usize = 400;

/// The messages for the model to sum up: a quarter of what it takes, and the summary from before, which is not lost.
pub(crate) fn request_source(left_out: &[&Message], window: Window) -> String {
    let most = usize::try_from(window.threshold() / 4 * BYTES)
        .unwrap_or(usize::MAX)
        .max(LEAST);
    let (earlier, others): (Vec<&Message>, Vec<_>) = left_out.iter().partition(|message| is_summary(message));
    let others: Vec<_> = others
        .into_iter()
        .flat_map(|message| lines(message, most / SHARE))
        .collect();
    let mut source: Vec<_> = earlier.into_iter().flat_map(|message| lines(message, most)).collect();
    source.push(bounded(&others, most));
    source.join("\n")
}

const fn is_summary(message: &Message) -> bool {
    matches!(message, Message::Summary { .. })
}

/// The beginning and the end of the lines, with a line between them that says how many are left out.
fn bounded(lines: &[String], most: usize) -> String {
    let whole: usize = lines.iter().map(|line| line.len() + 1).sum();
    if whole <= most {
        return lines.join("\n");
    }
    let take = |lines: &mut dyn Iterator<Item = &String>, most: usize| {
        let mut bytes = 0;
        lines
            .take_while(|line| {
                bytes += line.len() + 1;
                bytes <= most
            })
            .count()
    };
    let head = take(&mut lines.iter(), most / 3);
    let tail = take(&mut lines[head..].iter().rev(), most * 2 / 3);
    let left_out = lines.len() - head - tail;
    let mark = json!({"left_out": format!("{left_out} messages that do not fit")}).to_string();
    let kept = lines[..head].iter().chain([&mark]).chain(&lines[lines.len() - tail..]);
    kept.map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// A message as JSON lines, each text cut to so many bytes. Reasoning is left out.
fn lines(message: &Message, most: usize) -> Vec<String> {
    let line = |value: Value| value.to_string();
    let cut = |text: &str| head_and_tail(text, most);
    match message {
        Message::User { content } => vec![line(json!({"role": "user", "text": cut(&plain_text(content))}))],
        Message::Note { text } => vec![line(json!({"role": "host", "text": cut(text)}))],
        Message::Summary { text } => vec![line(json!({"earlier_summary": cut(transcript::unmarked(text))}))],
        Message::Assistant { parts } => parts
            .iter()
            .filter_map(|part| match part {
                AssistantPart::Text { text } => Some(line(json!({"role": "assistant", "text": cut(text)}))),
                AssistantPart::ToolCall(call) => Some(line(
                    json!({"role": "assistant", "calls": call.tool, "arguments": cut(&arguments(call))}),
                )),
                AssistantPart::Reasoning { .. } => None,
            })
            .collect(),
        Message::Tool { tool, result, .. } => {
            let (status, text) = told(result);
            vec![line(
                json!({"role": "tool", "tool": tool, "status": status, "result": cut(&text)}),
            )]
        }
    }
}

fn arguments(call: &RequestedCall) -> String {
    match &call.arguments {
        GivenArguments::Arguments(arguments) => serde_json::to_string(arguments).unwrap_or_default(),
        GivenArguments::MalformedArguments(text) => text.clone(),
    }
}

fn told(result: &CallResult) -> (&'static str, String) {
    match result {
        Ok(output) => {
            let text = match (&output.structured, output.content.is_empty()) {
                (Some(structured), true) => Content::Json {
                    json: structured.clone(),
                }
                .as_plain_text(),
                _ => plain_text(&output.content),
            };
            (if output.is_error { "error" } else { "ok" }, text)
        }
        Err(error) => ("error", error.message.clone()),
    }
}

/// A summary without a model: the beginning and the end of what is left out, each message cut short. The same messages always give
/// the same.
pub(crate) fn mechanical_summary(left_out: &[&Message], window: Window) -> String {
    let most = usize::try_from(window.longest_summary() * BYTES).unwrap_or(usize::MAX);
    let earlier = left_out.iter().filter_map(|message| match message {
        Message::Summary { text } => Some(head_and_tail(transcript::unmarked(text), most / 2)),
        _ => None,
    });
    let lines: Vec<_> = left_out
        .iter()
        .filter(|message| !is_summary(message))
        .flat_map(|message| lines(message, EXTRACT.min(most / SHARE).max(32)))
        .collect();
    let extract = bounded(&lines, most / 2);
    let intro = "No model could sum this up. This is an extract: messages are cut short, and some are left out.";
    let parts: Vec<_> = earlier.chain([intro.to_owned(), extract]).collect();
    parts.join("\n\n")
}
