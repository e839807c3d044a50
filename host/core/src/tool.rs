//! What a tool says of itself.

use crate::name::ToolName;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a re-run of a call would do outside the sandbox. The default is the careful one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing: the same arguments give the same answer and change nothing.
    Pure,
    /// The same as one run did.
    Idempotent,
    /// Possibly something twice: never run again without being asked.
    #[default]
    AtMostOnce,
}

/// A tool's definition, as `definitions` returned it at install and as `GET /v1/tools` shows it.
///
/// The hints (`read_only`, `destructive`, `open_world`) inform people and models; they never authorise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolDefinition {
    /// Unique in its component.
    pub name: ToolName,
    /// A short human name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What the model reads to decide when to use it.
    pub description: String,
    /// JSON Schema (2020-12) of the arguments, an object.
    pub input_schema: Value,
    /// JSON Schema of `structured`, if the tool promises one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// What a re-run would do.
    #[serde(default)]
    pub effect: Effect,
    /// Changes nothing.
    #[serde(default)]
    pub read_only: bool,
    /// May destroy something.
    #[serde(default)]
    pub destructive: bool,
    /// Talks to a world outside the session.
    #[serde(default)]
    pub open_world: bool,
}
