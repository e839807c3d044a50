//! Events as a person reads them: one line each, nothing for those that say nothing new.

use crate::out::{Out, Style, list, printable, text};
use serde_json::Value;

/// The longest preview of arguments and results, in characters.
const PREVIEW: usize = 160;

/// One event as a line, or nothing.
pub(crate) fn line(out: Out, event: &Value) -> Option<String> {
    let data = event.get("data").unwrap_or(&Value::Null);
    let kind = text(event, "type");
    let call = |key: &str| short(text(data, key));
    let line = match kind {
        "session.created" => format!("session with agent {}", text(data, "agent")),
        "turn.queued" => format!("you: {}", preview(&content(list(data, "input")))),
        "turn.started" => {
            format!(
                "agent {} on model {}, {} tools",
                text(data, "agent"),
                text(data, "model"),
                list(data, "tools").len()
            )
        }
        "step.started" => format!("step {}", data.get("step")?),
        "text.completed" => format!("model: {}", preview(text(data, "text"))),
        "reasoning.completed" if !text(data, "text").is_empty() => format!("thinks: {}", preview(text(data, "text"))),
        "tool.requested" => requested(out, data.get("call")?),
        "tool.started" => format!(
            "{} runs {} in the sandbox",
            call("call"),
            out.style(Style::Name, text(data, "tool"))
        ),
        "tool.progress" => format!("{} {}", call("call"), printable(text(data, "message"))),
        "tool.output" => format!("{} writes: {}", call("call"), preview(text(data, "chunk"))),
        "tool.completed" => completed(out, data),
        "approval.requested" => {
            let calls: Vec<_> = list(data, "calls").iter().map(|call| waiting(out, call)).collect();
            format!("waits for a decision: {}", calls.join("; "))
        }
        "approval.resolved" => {
            let decided: Vec<_> = list(data, "decisions").iter().map(|one| decided(out, one)).collect();
            decided.join("; ")
        }
        "egress.allowed" => format!(
            "{} {} by {}",
            out.style(Style::Good, "allowed"),
            target(data),
            text(data, "rule")
        ),
        "egress.denied" => format!(
            "{} {}: {}",
            out.style(Style::Bad, "denied"),
            target(data),
            printable(text(data, "reason"))
        ),
        "secret.used" => format!("secret {} used for {}", text(data, "secret"), text(data, "used_for")),
        "limit.reached" => format!("limit {}: {}", text(data, "limit"), text(data, "message")),
        "retry.scheduled" => {
            format!(
                "the model call failed ({}); retry in {} ms",
                text(data.get("error")?, "message"),
                data.get("delay_ms")?
            )
        }
        "turn.steered" => preview(&content(list(data, "input"))),
        "compaction.started" => format!("summing up the conversation ({})", text(data, "reason")),
        "compaction.completed" => format!(
            "about {} tokens before, {} now",
            data.get("tokens_before")?,
            data.get("tokens_after")?
        ),
        "compaction.failed" => format!("the conversation stays as it is: {}", text(data, "message")),
        "budget.exhausted" => format!(
            "budget of {} used up: {} of {}",
            text(data, "budget"),
            data.get("used")?,
            data.get("limit")?
        ),
        "turn.completed" => format!(
            "{} ({})",
            out.style(Style::Good, "completed"),
            text(data, "stop_reason")
        ),
        "turn.failed" => format!(
            "{}: {}",
            out.style(Style::Bad, "failed"),
            printable(text(data.get("error")?, "message"))
        ),
        "turn.cancelled" => out.style(Style::Bad, "cancelled"),
        _ => return None,
    };
    let seq = event
        .get("seq")
        .and_then(Value::as_u64)
        .map_or_else(|| "   ".to_owned(), |seq| format!("{seq:>3}"));
    Some(format!(
        "{} {} {line}",
        out.style(Style::Dim, seq),
        out.style(Style::Dim, format_args!("{kind:<19}"))
    ))
}

fn requested(out: Out, call: &Value) -> String {
    let arguments = match (call.get("arguments"), call.get("malformed_arguments")) {
        (Some(arguments), _) => arguments.to_string(),
        (None, Some(malformed)) => format!("malformed: {malformed}"),
        (None, None) => String::new(),
    };
    format!(
        "{} {}({})",
        short(text(call, "id")),
        out.style(Style::Name, printable(text(call, "tool"))),
        preview(&arguments)
    )
}

/// A call that waits for a decision.
pub(crate) fn waiting(out: Out, call: &Value) -> String {
    let arguments = call.get("arguments").map(Value::to_string).unwrap_or_default();
    format!(
        "{} {}({})",
        text(call, "call_id"),
        out.style(Style::Name, printable(text(call, "tool"))),
        preview(&arguments)
    )
}

fn decided(out: Out, one: &Value) -> String {
    let word = text(one, "decision");
    let style = if word == "approved" { Style::Good } else { Style::Bad };
    let said = match text(one, "feedback") {
        "" => String::new(),
        feedback => format!(" ({})", preview(feedback)),
    };
    format!("{} {}{said}", short(text(one, "call_id")), out.style(style, word))
}

fn completed(out: Out, data: &Value) -> String {
    let status = text(data, "status");
    let mark = if status == "ok" {
        out.style(Style::Good, "✓ ok")
    } else {
        out.style(Style::Bad, format_args!("✗ {status}"))
    };
    let said = match (data.get("output"), data.get("error")) {
        (Some(output), _) => content(list(output, "content")),
        (None, Some(error)) => text(error, "message").to_owned(),
        (None, None) => String::new(),
    };
    let ms = data
        .pointer("/metering/duration_ms")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    format!(
        "{} {mark} {}: {}",
        short(text(data, "call")),
        out.style(Style::Dim, format_args!("{ms} ms")),
        preview(&said)
    )
}

fn target(data: &Value) -> String {
    format!("{} {}{}", text(data, "method"), text(data, "host"), text(data, "path"))
}

/// The plain text of a list of content.
pub(crate) fn content(pieces: &[Value]) -> String {
    let texts = pieces.iter().map(|piece| match text(piece, "type") {
        "text" => text(piece, "text").to_owned(),
        "json" => piece.get("json").map(Value::to_string).unwrap_or_default(),
        "file" => format!("[file {}]", text(piece, "path")),
        _ => format!("[{}]", text(piece, "media_type")),
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// The end of an id, enough to tell the calls of a turn apart.
fn short(id: &str) -> String {
    id.char_indices().nth_back(5).map_or(id, |(at, _)| &id[at..]).to_owned()
}

fn preview(text: &str) -> String {
    let mut line: String = printable(text).replace(['\n', '\t'], " ");
    if let Some((end, _)) = line.char_indices().nth(PREVIEW) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Color;
    use serde_json::json;

    #[test]
    fn a_call_reads_as_a_call() {
        let out = Out::new(false, Color::Never);
        let event = json!({"seq": 7, "type": "tool.requested", "data": {"step": 1, "call": {
            "id": "call_0000000000000000000000000abcdef0", "tool": "add", "arguments": {"a": 1}}}});
        assert_eq!(
            line(out, &event).unwrap(),
            "  7 tool.requested      bcdef0 add({\"a\":1})"
        );
    }

    #[test]
    fn a_preview_is_one_bounded_line() {
        let text = preview(&"é\n".repeat(500));
        assert_eq!(text.chars().count(), PREVIEW + 1);
        assert!(!text.contains('\n'));
    }
}
