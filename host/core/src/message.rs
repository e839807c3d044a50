//! The transcript: what a model is shown of a session. A projection of the journal, never stored as truth.

use crate::{
    call::{Arguments, CallResult},
    content::Content,
    id::CallId,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One message of the transcript.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// What the client sent.
    User {
        /// Its pieces, in order.
        content: Vec<Content>,
    },
    /// What the host tells the model. Providers get it as the user's; a user never sees it.
    Note {
        /// The text.
        text: String,
    },
    /// What stands for the part of the conversation that was summed up. Providers get it as the user's.
    Summary {
        /// The text.
        text: String,
    },
    /// What the model answered in one step.
    Assistant {
        /// Its parts, in the order they came.
        parts: Vec<AssistantPart>,
    },
    /// The result of one call. Every call of an assistant message has exactly one, in the order of the calls.
    Tool {
        /// The call it answers.
        call: CallId,
        /// The tool, as the model named it.
        tool: String,
        /// What came of it.
        #[serde(with = "result_as_object")]
        result: CallResult,
    },
}

/// One part of what a model answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AssistantPart {
    /// Visible text.
    Text {
        /// The whole text.
        text: String,
    },
    /// The model's reasoning, as far as the provider shows it.
    Reasoning {
        /// What may be shown; may be empty.
        text: String,
        /// What the provider needs back unchanged in later requests (signatures, encrypted reasoning). Opaque.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_state: Option<Value>,
    },
    /// A request to run a tool.
    ToolCall(RequestedCall),
}

/// A call as the model asked for it. The name is unchecked: a model may ask for what does not exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestedCall {
    /// Given by the host; the id sent to providers too.
    pub id: CallId,
    /// The name the model used.
    pub tool: String,
    /// The arguments the model gave.
    #[serde(flatten)]
    pub arguments: GivenArguments,
}

/// The arguments a model gave: a JSON object, or a text that isn't one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GivenArguments {
    /// `"arguments": {…}`
    Arguments(Arguments),
    /// `"malformed_arguments": "…"`: the text as it came, for the error result and the record.
    MalformedArguments(String),
}

impl GivenArguments {
    /// Reads what a model streamed as arguments. An empty text counts as no arguments.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text.trim().is_empty() {
            return Self::Arguments(Arguments::new());
        }
        serde_json::from_str(text).map_or_else(|_| Self::MalformedArguments(text.to_owned()), Self::Arguments)
    }

    /// The object, or an empty one where the model gave none that parses; for providers that accept only objects.
    #[must_use]
    pub fn as_object(&self) -> Arguments {
        match self {
            Self::Arguments(arguments) => arguments.clone(),
            Self::MalformedArguments(_) => Arguments::new(),
        }
    }
}

/// `{"output": {…}}` or `{"error": {…}}`.
mod result_as_object {
    use crate::call::{CallError, CallResult, Output};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Wire<'a> {
        Output(std::borrow::Cow<'a, Output>),
        Error(std::borrow::Cow<'a, CallError>),
    }

    pub(super) fn serialize<S: Serializer>(result: &CallResult, serializer: S) -> Result<S::Ok, S::Error> {
        match result {
            Ok(output) => Wire::Output(std::borrow::Cow::Borrowed(output)),
            Err(error) => Wire::Error(std::borrow::Cow::Borrowed(error)),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CallResult, D::Error> {
        Ok(match Wire::deserialize(deserializer)? {
            Wire::Output(output) => Ok(output.into_owned()),
            Wire::Error(error) => Err(error.into_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CallError, CallErrorCode, Output};

    #[test]
    fn arguments_that_are_not_an_object_are_kept_as_malformed() {
        assert_eq!(GivenArguments::parse("  "), GivenArguments::Arguments(Arguments::new()));
        for text in ["[1]", "\"a\"", "null", "{\"a\":", "{} {}"] {
            assert_eq!(
                GivenArguments::parse(text),
                GivenArguments::MalformedArguments(text.into())
            );
        }
    }

    #[test]
    fn messages_keep_their_wire_form() {
        let call = CallId::from_uuid(uuid::Uuid::from_u128(7));
        let messages = vec![
            Message::Assistant {
                parts: vec![AssistantPart::ToolCall(RequestedCall {
                    id: call,
                    tool: "add".into(),
                    arguments: GivenArguments::parse("{\"a\":1}"),
                })],
            },
            Message::Tool {
                call,
                tool: "add".into(),
                result: Ok(Output {
                    content: vec![Content::text("1")],
                    ..Output::default()
                }),
            },
            Message::Tool {
                call,
                tool: "add".into(),
                result: Err(CallError::new(CallErrorCode::Denied, "no")),
            },
        ];
        let wire = serde_json::to_string(&messages).unwrap();
        assert!(
            wire.contains(
                r#""type":"tool_call","id":"call_00000000000000000000000000000007","tool":"add","arguments":{"a":1}"#
            ),
            "{wire}"
        );
        assert!(
            wire.contains(r#""result":{"error":{"code":"denied","message":"no"}}"#),
            "{wire}"
        );
        assert_eq!(serde_json::from_str::<Vec<Message>>(&wire).unwrap(), messages);
    }
}
