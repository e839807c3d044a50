//! What the wires have in common: how content and results read, and how opaque state is kept per wire and model.

use crate::error::ModelError;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::{
    call::CallResult,
    content::{Content, plain_text},
    message::AssistantPart,
    tool::ToolDefinition,
};
use serde_json::{Value, json};
use std::borrow::Cow;

/// A JSON object from pairs; those without a value are left out.
pub(super) fn object<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Value {
    pairs
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Reads the data of an event.
pub(super) fn parse(data: &str) -> Result<Value, ModelError> {
    serde_json::from_str(data).map_err(|_| ModelError::protocol("an event is not JSON").with_detail(data))
}

/// What a model is told of a call's end.
pub(super) struct ResultText {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// The pieces of a result that go to the model: its content, or its structured value where it has no content.
pub(super) fn result_content(result: &CallResult) -> Vec<Content> {
    match result {
        Ok(output) if output.content.is_empty() => output
            .structured
            .iter()
            .map(|structured| Content::Json {
                json: structured.clone(),
            })
            .collect(),
        Ok(output) => output.content.clone(),
        Err(error) => {
            let mut report = json!({"error": error.code, "message": error.message});
            if let Some(kind) = error.trap {
                report["trap"] = json!(kind);
            }
            if let Some(after) = error.retry_after_ms {
                report["retry_after_ms"] = json!(after);
            }
            vec![Content::Json { json: report }]
        }
    }
}

/// Whether a result is an error to the model.
pub(super) fn is_error(result: &CallResult) -> bool {
    result.as_ref().map_or(true, |output| output.is_error)
}

/// The result as one text; never empty, as some providers refuse empty ones.
pub(super) fn result_text(result: &CallResult) -> ResultText {
    let text = plain_text(&result_content(result));
    let text = if text.is_empty() {
        "(no output)".to_owned()
    } else {
        text
    };
    ResultText {
        text,
        is_error: is_error(result),
    }
}

/// The result as one text for wires that have no mark for errors.
pub(super) fn marked_result_text(result: &CallResult) -> String {
    let ResultText { text, is_error } = result_text(result);
    // A failed call says so itself, in JSON; a tool that failed in its own words may not.
    if is_error && result.is_ok() {
        format!("Error: {text}")
    } else {
        text
    }
}

pub(super) fn base64(data: &[u8]) -> String {
    STANDARD.encode(data)
}

pub(super) fn data_url(media_type: &str, data: &[u8]) -> String {
    format!("data:{media_type};base64,{}", base64(data))
}

/// The longest name of a tool that providers take.
const LONGEST_NAME: usize = 64;

/// The name of a call as providers take it back: `[A-Za-z0-9_-]{1,64}`. A model may have invented any, and a provider that refused it in
/// the transcript would refuse each further request of the session.
pub(super) fn wire_name(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(fits) {
        return Cow::Borrowed(name);
    }
    let name: String = name
        .chars()
        .take(LONGEST_NAME)
        .map(|c| if fits(c) { c } else { '_' })
        .collect();
    Cow::Owned(if name.is_empty() { "_".to_owned() } else { name })
}

/// The schema as providers take it: without the dialect's address, which some refuse.
pub(super) fn input_schema(tool: &ToolDefinition) -> Value {
    let mut schema = tool.input_schema.clone();
    if let Some(schema) = schema.as_object_mut() {
        schema.shift_remove("$schema");
        // Providers want an object with properties even of a tool that takes nothing.
        schema.entry("type").or_insert_with(|| json!("object"));
        schema.entry("properties").or_insert_with(|| json!({}));
    }
    schema
}

/// Opaque state that only the same wire and model get back: another model can't read it and refuses the request.
#[derive(Debug, Clone)]
pub(super) struct StateTag {
    pub(super) wire: &'static str,
    pub(super) model: String,
}

impl StateTag {
    pub(super) fn seal(&self, state: &Value) -> Value {
        json!({"wire": self.wire, "model": self.model, "state": state})
    }

    /// The state of a part, if it is reasoning of this wire and model.
    pub(super) fn open<'a>(&self, part: &'a AssistantPart) -> Option<&'a Value> {
        let AssistantPart::Reasoning {
            provider_state: Some(sealed),
            ..
        } = part
        else {
            return None;
        };
        (sealed.get("wire")?.as_str()? == self.wire && sealed.get("model")?.as_str()? == self.model)
            .then(|| sealed.get("state"))?
    }
}

/// A count in a usage object, absent where the provider gave none.
pub(super) fn count(usage: &Value, pointer: &str) -> Option<u64> {
    usage.pointer(pointer)?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::wire_name;

    #[test]
    fn any_name_of_a_call_becomes_one_that_providers_take() {
        for (given, sent) in [
            ("files_read", "files_read"),
            ("multi_tool_use.parallel", "multi_tool_use_parallel"),
            ("Read-File", "Read-File"),
            ("zeit für ☕", "zeit_f_r__"),
            ("a\nb", "a_b"),
            ("", "_"),
        ] {
            assert_eq!(wire_name(given), sent, "{given:?}");
        }
        assert_eq!(wire_name(&"x".repeat(64)).len(), 64);
        assert_eq!(wire_name(&"x".repeat(65)).len(), 64);
        assert_eq!(wire_name(&"é".repeat(100)), "_".repeat(64));
    }
}
