//! Approvals: calls that wait for a person, and what the person decided.

use crate::{Time, call::Arguments, digest::Digest, id::CallId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a decision is about: this tool, this code, these arguments, and no others. Arguments that differ only in the order of their
/// keys are the same.
#[must_use]
pub fn fingerprint(tool: &str, component: &Digest, arguments: &Arguments) -> Digest {
    let mut text = String::new();
    write(&mut text, &Value::from(tool));
    write(&mut text, &Value::from(component.to_string()));
    write_object(&mut text, arguments);
    Digest::of(text.as_bytes())
}

/// Writes a value as JSON, without spaces and with the keys of each object in order. No deeper than its parser let it be.
fn write(text: &mut String, value: &Value) {
    match value {
        Value::Object(map) => write_object(text, map),
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                text.push(if index == 0 { '[' } else { ',' });
                write(text, value);
            }
            text.push_str(if list.is_empty() { "[]" } else { "]" });
        }
        plain => text.push_str(&plain.to_string()),
    }
}

fn write_object(text: &mut String, map: &Arguments) {
    let mut keys: Vec<_> = map.iter().collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    for (index, (key, value)) in keys.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        write(text, &Value::from(key.as_str()));
        text.push(':');
        write(text, value);
    }
    text.push_str(if keys.is_empty() { "{}" } else { "}" });
}

/// A call that waits for a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskedApproval {
    /// The call.
    pub call_id: CallId,
    /// The tool.
    pub tool: String,
    /// Exactly what it will be called with.
    pub arguments: Arguments,
    /// The rule that asks, in words.
    pub rule: String,
    /// Of the tool, its component and the arguments: a decision is about these and no others.
    pub fingerprint: Digest,
    /// When the call counts as rejected if nobody has decided.
    pub expires: Time,
}

/// What was decided about one call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedApproval {
    /// The call.
    pub call_id: CallId,
    /// What.
    pub decision: ApprovalOutcome,
    /// The arguments to call it with, if whoever decided changed them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arguments>,
    /// What whoever decided wants the model to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<String>,
}

/// How a request for approval ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalOutcome {
    /// Somebody said yes.
    Approved,
    /// Somebody said no, or decided about other calls of the batch only.
    Rejected,
    /// Nobody decided in time.
    Expired,
    /// A new input came instead of a decision.
    Abandoned,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn print(tool: &str, code: &[u8], arguments: Value) -> Digest {
        fingerprint(tool, &Digest::of(code), &serde_json::from_value(arguments).unwrap())
    }

    #[test]
    fn a_fingerprint_is_of_the_tool_the_code_and_the_arguments() {
        let first = print("send", b"1", json!({"to": "a", "n": [1, {"x": null, "y": 2.5}]}));
        assert_eq!(
            first,
            print("send", b"1", json!({"n": [1, {"y": 2.5, "x": null}], "to": "a"}))
        );
        for other in [
            print("send2", b"1", json!({"to": "a", "n": [1, {"x": null, "y": 2.5}]})),
            print("send", b"2", json!({"to": "a", "n": [1, {"x": null, "y": 2.5}]})),
            print("send", b"1", json!({"to": "b", "n": [1, {"x": null, "y": 2.5}]})),
            print("send", b"1", json!({"to": "a", "n": [{"x": null, "y": 2.5}, 1]})),
            print("send", b"1", json!({"to": "a", "n": ["1", {"x": null, "y": 2.5}]})),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn no_text_in_an_argument_passes_for_the_end_of_it() {
        assert_ne!(
            print("t", b"", json!({"a": "x\",\"b\":\"y"})),
            print("t", b"", json!({"a": "x", "b": "y"}))
        );
        assert_ne!(print("t", b"", json!({"a": []})), print("t", b"", json!({"a": {}})));
    }
}
