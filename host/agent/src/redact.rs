//! Takes the values of secrets out of what is journaled, shown or returned, and leaves `[secret:NAME]` in their place.
//!
//! Everything that a model, a client or a tool says passes here before it is kept or handed on. What the host itself says
//! (names, ids, numbers, kinds) is not searched: no value gets there.

use fumehood_core::{
    awaited::ClientTool,
    call::{Arguments, CallError, CallErrorCode, CallResult, Output},
    content::Content,
    event::{EventBody, OutputChannel},
    message::{AssistantPart, GivenArguments, Message, RequestedCall},
};
use fumehood_egress::LeakGuard;
use serde_json::Value;
use std::borrow::Cow;

/// What a call returned.
pub(crate) fn result(guard: &LeakGuard, mut result: CallResult) -> CallResult {
    if !guard.is_empty() {
        match &mut result {
            Err(error) => text(guard, &mut error.message),
            Ok(output) => self::output(guard, output),
        }
    }
    result
}

/// What a call is given. A tool never holds a value, whoever passed it.
///
/// # Errors
/// When a value lies over more than one part of the object, where nothing can stand in its place.
// THREAT[T-sec-exfiltration]: what is journaled as asked is exactly what runs, and neither holds a value.
pub(crate) fn arguments(guard: &LeakGuard, arguments: &mut Arguments) -> Result<(), CallError> {
    if guard.is_empty() {
        return Ok(());
    }
    map(guard, arguments);
    match serde_json::to_string(arguments) {
        Ok(whole) if guard.find(whole.as_bytes()).is_none() => Ok(()),
        _ => {
            let message = "the arguments hold the value of a secret, spread over several parts: leave it out, and let the host inject it";
            Err(CallError::new(CallErrorCode::InvalidArguments, message))
        }
    }
}

/// Several pieces of content.
pub(crate) fn contents(guard: &LeakGuard, pieces: &mut [Content]) {
    for piece in pieces {
        content(guard, piece);
    }
}

/// A text.
pub(crate) fn words<'t>(guard: &LeakGuard, text: &'t str) -> Cow<'t, str> {
    guard.redact_str(text)
}

/// What happened, before it is kept or shown.
pub(crate) fn event(guard: &LeakGuard, body: &mut EventBody) {
    if guard.is_empty() {
        return;
    }
    match body {
        EventBody::TurnQueued {
            input,
            system,
            output_schema,
            tools,
            ..
        } => {
            contents(guard, input);
            tools.iter_mut().for_each(|tool| client_tool(guard, tool));
            if let Some(system) = system {
                text(guard, system);
            }
            if let Some(schema) = output_schema {
                json(guard, schema);
            }
        }
        EventBody::TurnSteered { input } => contents(guard, input),
        EventBody::ToolStarted {
            arguments: Some(given), ..
        } => {
            if arguments(guard, given).is_err() {
                // No call without the values: it is not run again.
                given.clear();
            }
        }
        EventBody::StepStarted { notes, .. } => notes.iter_mut().for_each(|note| text(guard, &mut note.text)),
        EventBody::StepCompleted { dropped_calls, .. } => dropped_calls.iter_mut().for_each(|name| text(guard, name)),
        EventBody::OutputValidated { value, .. } => json(guard, value),
        EventBody::OutputRejected { faults, .. } => faults.iter_mut().for_each(|fault| text(guard, fault)),
        EventBody::ApprovalRequested { calls } => {
            for call in calls {
                text(guard, &mut call.tool);
                map(guard, &mut call.arguments);
            }
        }
        EventBody::ApprovalResolved { decisions } => {
            for decided in decisions {
                decided.feedback.iter_mut().for_each(|said| text(guard, said));
                decided.arguments.iter_mut().for_each(|given| map(guard, given));
            }
        }
        EventBody::ResultsRequested { calls } => {
            for call in calls {
                map(guard, &mut call.arguments);
                call.note.iter_mut().for_each(|note| text(guard, note));
            }
        }
        // No call without the values: what is left is not what was asked for, and does not run.
        EventBody::JobQueued { arguments: given, .. } => {
            if arguments(guard, given).is_err() {
                given.clear();
            }
        }
        EventBody::JobCompleted { output, error, .. } => {
            if let Some(output) = output {
                self::output(guard, output);
            }
            if let Some(error) = error {
                text(guard, &mut error.message);
            }
        }
        EventBody::ToolDetached { note, .. } => note.iter_mut().for_each(|note| text(guard, note)),
        EventBody::ToolProvisional { output, .. } => self::output(guard, output),
        EventBody::HookChanged { arguments, .. } => map(guard, arguments),
        EventBody::HookDenied { reason: said, .. } | EventBody::HookFailed { message: said, .. } => text(guard, said),
        EventBody::CompactionCompleted { summary: said, .. } | EventBody::CompactionFailed { message: said, .. } => {
            text(guard, said);
        }
        EventBody::TurnCompleted { output, .. } => contents(guard, output),
        EventBody::TurnFailed { error, .. } | EventBody::RetryScheduled { error, .. } => {
            text(guard, &mut error.message);
        }
        EventBody::StepFailed { error, .. } => error.iter_mut().for_each(|error| text(guard, &mut error.message)),
        EventBody::TextDelta { delta: said, .. }
        | EventBody::ReasoningDelta { delta: said, .. }
        | EventBody::TextCompleted { text: said, .. }
        | EventBody::ToolProgress { message: said, .. }
        | EventBody::LimitReached { message: said, .. }
        | EventBody::EgressDenied { reason: said, .. } => text(guard, said),
        EventBody::ReasoningCompleted {
            text: said,
            provider_state,
            ..
        } => reasoning(guard, said, provider_state),
        EventBody::ToolRequested { call, .. } => requested(guard, call),
        EventBody::ToolOutput { channel, chunk, .. } => {
            text(guard, chunk);
            if let OutputChannel::Named(name) = channel {
                text(guard, name);
            }
        }
        EventBody::ToolCompleted {
            tool, output, error, ..
        } => {
            text(guard, tool);
            if let Some(output) = output {
                self::output(guard, output);
            }
            if let Some(error) = error {
                text(guard, &mut error.message);
            }
        }
        EventBody::SessionCreated { title, .. } => title.iter_mut().for_each(|title| text(guard, title)),
        EventBody::SessionCopied { messages } => messages.iter_mut().for_each(|message| self::message(guard, message)),
        // The host's own words: names, ids, numbers, and paths and rules that the door has searched.
        EventBody::SessionUpdated { .. }
        | EventBody::SessionRewound { .. }
        | EventBody::TurnStarted { .. }
        | EventBody::TurnCancelled { .. }
        | EventBody::TurnPaused { .. }
        | EventBody::TurnResumed { .. }
        | EventBody::CompactionStarted { .. }
        | EventBody::ToolsChanged { .. }
        | EventBody::BudgetWarning { .. }
        | EventBody::ToolStarted { arguments: None, .. }
        | EventBody::ToolCommitted { .. }
        | EventBody::ToolCalled { .. }
        | EventBody::JobStarted { .. }
        | EventBody::ToolRecorded { .. }
        | EventBody::StepRestarted { .. }
        | EventBody::EgressAllowed { .. }
        | EventBody::SecretUsed { .. }
        | EventBody::BudgetExhausted { .. }
        | EventBody::StreamTruncated { .. } => {}
    }
}

/// A tool that a client brings.
pub(crate) fn client_tool(guard: &LeakGuard, tool: &mut ClientTool) {
    text(guard, &mut tool.description);
    json(guard, &mut tool.input_schema);
}

fn reasoning(guard: &LeakGuard, said: &mut String, provider_state: &mut Option<Value>) {
    text(guard, said);
    // Signed or sealed by the provider: changed, it would be worth nothing.
    if provider_state.as_ref().is_some_and(|state| holds(guard, state)) {
        *provider_state = None;
    }
}

fn requested(guard: &LeakGuard, call: &mut RequestedCall) {
    text(guard, &mut call.tool);
    match &mut call.arguments {
        GivenArguments::Arguments(given) => {
            if arguments(guard, given).is_err() {
                let whole = Value::Object(std::mem::take(given)).to_string();
                call.arguments = GivenArguments::MalformedArguments(guard.redact_str(&whole).into_owned());
            }
        }
        GivenArguments::MalformedArguments(given) => text(guard, given),
    }
}

/// A message that another session was shown: it had other secrets.
fn message(guard: &LeakGuard, message: &mut Message) {
    match message {
        Message::User { content } => contents(guard, content),
        Message::Note { text: said } | Message::Summary { text: said } => text(guard, said),
        Message::Assistant { parts } => {
            for part in parts {
                match part {
                    AssistantPart::Text { text: said } => text(guard, said),
                    AssistantPart::Reasoning {
                        text: said,
                        provider_state,
                    } => reasoning(guard, said, provider_state),
                    AssistantPart::ToolCall(call) => requested(guard, call),
                }
            }
        }
        Message::Tool { tool, result, .. } => {
            text(guard, tool);
            match result {
                Ok(output) => self::output(guard, output),
                Err(error) => text(guard, &mut error.message),
            }
        }
    }
}

fn output(guard: &LeakGuard, output: &mut Output) {
    contents(guard, &mut output.content);
    if let Some(structured) = &mut output.structured {
        json(guard, structured);
    }
}

fn content(guard: &LeakGuard, piece: &mut Content) {
    match piece {
        Content::Text { text: said } | Content::File { path: said } => text(guard, said),
        Content::Json { json: value } => json(guard, value),
        Content::Image { media_type, data } | Content::Audio { media_type, data } => {
            text(guard, media_type);
            if let Cow::Owned(clean) = guard.redact(data) {
                *data = clean;
            }
        }
    }
}

/// Takes values out of a JSON value: out of each string, key and number. One that spans several of them makes the whole a text.
pub(crate) fn json(guard: &LeakGuard, value: &mut Value) {
    // Usually there is nothing to find, and one look over the whole says so.
    if !holds(guard, value) && !contains_escaped(value) {
        return;
    }
    parts(guard, value);
    if holds(guard, value) {
        let whole = value.to_string();
        *value = Value::String(guard.redact_str(&whole).into_owned());
    }
}

fn holds(guard: &LeakGuard, value: &Value) -> bool {
    guard.find(value.to_string().as_bytes()).is_some()
}

/// Whether the JSON text of the value may differ from its strings: then looking over the text is not enough.
fn contains_escaped(value: &Value) -> bool {
    let escaped = |text: &str| text.bytes().any(|b| b < b' ' || b == b'"' || b == b'\\');
    match value {
        Value::String(text) => escaped(text),
        Value::Array(items) => items.iter().any(contains_escaped),
        Value::Object(entries) => entries
            .iter()
            .any(|(key, value)| escaped(key) || contains_escaped(value)),
        _ => false,
    }
}

fn parts(guard: &LeakGuard, value: &mut Value) {
    match value {
        Value::String(said) => text(guard, said),
        Value::Array(items) => items.iter_mut().for_each(|item| parts(guard, item)),
        Value::Object(entries) => map(guard, entries),
        Value::Number(number) => {
            if let Cow::Owned(clean) = guard.redact_str(&number.to_string()) {
                *value = Value::String(clean);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn map(guard: &LeakGuard, entries: &mut serde_json::Map<String, Value>) {
    let telling = entries.keys().any(|key| guard.find(key.as_bytes()).is_some());
    if telling {
        let taken = std::mem::take(entries);
        entries.extend(
            taken
                .into_iter()
                .map(|(key, value)| (guard.redact_str(&key).into_owned(), value)),
        );
    }
    entries.values_mut().for_each(|value| parts(guard, value));
}

fn text(guard: &LeakGuard, said: &mut String) {
    if let Cow::Owned(clean) = guard.redact_str(said) {
        *said = clean;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{id::CallId, name::SecretName};
    use serde_json::json;

    fn guard(value: &str) -> LeakGuard {
        let name = SecretName::new("KEY").unwrap();
        LeakGuard::new([(name, &value.into())])
    }

    #[test]
    fn values_leave_strings_keys_and_numbers_of_json_and_its_form_stays() {
        let guard = guard("12345678");
        let mut value = json!({"a": ["x12345678y", 12_345_678, true], "k12345678": {"b": null}});
        super::json(&guard, &mut value);
        assert_eq!(
            value,
            json!({"a": ["x[secret:KEY]y", "[secret:KEY]", true], "k[secret:KEY]": {"b": null}})
        );
    }

    #[test]
    fn a_value_that_needs_escapes_is_found_in_a_string() {
        let guard = guard("pass\"word\\1\n2");
        let mut value = json!({"a": "<pass\"word\\1\n2>"});
        super::json(&guard, &mut value);
        assert_eq!(value, json!({"a": "<[secret:KEY]>"}));
    }

    #[test]
    fn a_value_over_several_parts_makes_the_whole_a_text() {
        let guard = guard("alpha\",\"beta");
        let mut value = json!(["alpha", "beta"]);
        super::json(&guard, &mut value);
        assert_eq!(value, json!("[\"[secret:KEY]\"]"));
        let mut given: Arguments = [("x".to_owned(), json!(["alpha", "beta"]))].into_iter().collect();
        assert_eq!(
            arguments(&guard, &mut given).unwrap_err().code,
            CallErrorCode::InvalidArguments
        );
    }

    #[test]
    fn what_a_model_asks_for_is_kept_without_the_value() {
        let guard = guard("hunter2-hunter2");
        let call = |arguments| EventBody::ToolRequested {
            step: 1,
            call: RequestedCall {
                id: CallId::new(),
                tool: "echo".into(),
                arguments,
            },
        };
        for given in [
            GivenArguments::parse(r#"{"text": "hunter2-hunter2"}"#),
            GivenArguments::parse(r#"{"text": "hunter2-hunter2""#),
        ] {
            let mut body = call(given);
            event(&guard, &mut body);
            let shown = serde_json::to_string(&body).unwrap();
            assert!(shown.contains("[secret:KEY]") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn an_image_is_searched_as_bytes() {
        let guard = guard("hunter2-hunter2");
        let mut piece = Content::Image {
            media_type: "image/png".into(),
            data: b"\x89PNG hunter2-hunter2 \xff".to_vec(),
        };
        content(&guard, &mut piece);
        assert!(matches!(&piece, Content::Image { data, .. } if data == b"\x89PNG [secret:KEY] \xff"));
    }
}
