//! Calls whose results come from outside: of tools that a client brings with a turn and runs itself, and of tools that handed the call
//! on to somebody.

use crate::{
    Time,
    call::Arguments,
    id::{CallId, CallbackId},
    name::ToolName,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A tool that a client brings with a turn, and runs itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientTool {
    /// What the model calls it: a name that no tool of the host has.
    pub name: ToolName,
    /// What the model reads to decide when to use it.
    pub description: String,
    /// JSON Schema (2020-12) of the arguments, an object.
    pub input_schema: Value,
    /// How long a call waits for its result, in milliseconds.
    pub timeout_ms: u64,
}

/// A call that waits for its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AwaitedCall {
    /// The call.
    pub call_id: CallId,
    /// The tool.
    pub tool: ToolName,
    /// What it is called with: they fit the tool's schema.
    pub arguments: Arguments,
    /// When the call ends without a result, if none has come.
    pub expires: Time,
    /// What the model is told with the result: who changed the arguments, or what was said when the call was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A call that its tool handed on to somebody outside, who ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachedCall {
    /// The call.
    pub call_id: CallId,
    /// The tool.
    pub tool: ToolName,
    /// What whoever ends it names it by.
    pub callback: CallbackId,
    /// When the call ends without a result, if none has come.
    pub expires: Time,
    /// What the tool said of it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
