//! Tools that a client brings with a turn and runs itself: the model asks for them like for others, and the turn waits for the result.
//!
//! Rules, hooks, approvals and the turn's budget of calls apply to them; nothing of them runs in the host, so no grant, sandbox or rate
//! of calls does. Their names are no other tool's. What was accepted with the turn holds for it: a tool of the host that comes later
//! under such a name is not offered in the turn.

use crate::{
    callable::{Callable, misfit},
    schema::{Schema, SchemaError},
};
use fumehood_core::{
    approval::fingerprint,
    awaited::ClientTool,
    call::{Arguments, CallError, ComponentRef},
    digest::Digest,
    event::{Event, EventBody},
    name::{ComponentName, ToolName},
    tool::{Effect, ToolDefinition},
};
use fumehood_policy::quantity::Span;
use fumehood_store::StoreError;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

/// Tools that a turn may bring.
pub const MOST_TOOLS: usize = 50;
/// What their definitions may take, in bytes of JSON.
pub const LONGEST_TOOLS: usize = 128 << 10;
/// How long a call waits for its result, unless the client says otherwise.
pub const RESULT_TIMEOUT: Span = Span::from_secs(5 * 60);
/// The longest that a client may say.
pub const LONGEST_TIMEOUT: Span = Span::from_secs(7 * 24 * 60 * 60);
/// The shortest.
pub const SHORTEST_TIMEOUT: Span = Span::from_secs(1);

/// Why a client's tools can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientToolsError {
    /// There are too many.
    #[error("a turn brings at most {MOST_TOOLS} tools, not {0}")]
    Many(usize),
    /// They are too long.
    #[error("the definitions of the `tools` take {0} bytes, more than the {LONGEST_TOOLS} that they may take together")]
    Long(usize),
    /// Two have one name.
    #[error("`tools` has {0} twice")]
    Twice(ToolName),
    /// The host has a tool or component of that name.
    #[error("the host has a tool or component with the name {0}: give the client's tool another one")]
    Taken(ToolName),
    /// The model would know nothing of it.
    #[error("the tool {0} needs a `description`: by it the model decides when to use the tool")]
    Undescribed(ToolName),
    /// Its schema can't be used.
    #[error("the `input_schema` of the tool {0} can't be used: {1}")]
    Schema(ToolName, #[source] SchemaError),
    /// Its schema is not one of an object.
    #[error("the `input_schema` of the tool {0} is not that of an object: it needs `\"type\": \"object\"`")]
    NoObject(ToolName),
    /// It would wait too long, or not at all.
    #[error("the `timeout` of the tool {0} is not between {SHORTEST_TIMEOUT} and {LONGEST_TIMEOUT}")]
    Timeout(ToolName),
}

/// A client's tool whose calls can be checked.
#[derive(Debug)]
pub(crate) struct ReadyTool {
    definition: ToolDefinition,
    component: ComponentRef,
    schema: Schema,
    pub(crate) timeout: Span,
}

impl ReadyTool {
    fn new(tool: &ClientTool) -> Result<Self, ClientToolsError> {
        let name = || tool.name.clone();
        if tool.description.trim().is_empty() {
            return Err(ClientToolsError::Undescribed(name()));
        }
        // What a model is told, and what every provider takes.
        if tool.input_schema["type"] != "object" {
            return Err(ClientToolsError::NoObject(name()));
        }
        let timeout = Span::from_millis(tool.timeout_ms);
        if !(SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(&timeout) {
            return Err(ClientToolsError::Timeout(name()));
        }
        let schema = Schema::compile(&tool.input_schema).map_err(|error| ClientToolsError::Schema(name(), error))?;
        let code = json!([tool.name, tool.description, tool.input_schema]).to_string();
        Ok(Self {
            component: ComponentRef {
                name: ComponentName::client(),
                digest: Digest::of(code.as_bytes()),
            },
            definition: ToolDefinition {
                name: name(),
                title: None,
                description: tool.description.clone(),
                input_schema: tool.input_schema.clone(),
                output_schema: None,
                effect: Effect::AtMostOnce,
                read_only: false,
                destructive: false,
                open_world: true,
            },
            schema,
            timeout,
        })
    }
}

impl Callable for ReadyTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    fn component_name(&self) -> &ComponentName {
        &self.component.name
    }

    fn code(&self) -> ComponentRef {
        self.component.clone()
    }

    fn check(&self, arguments: &mut Arguments) -> Result<(), CallError> {
        let value = Value::Object(std::mem::take(arguments));
        let checked = self.schema.check(&value);
        if let Value::Object(back) = value {
            *arguments = back;
        }
        checked.map_err(|why| misfit(&self.definition.name, &why))
    }

    fn fingerprint(&self, arguments: &Arguments) -> Digest {
        fingerprint(self.definition.name.as_str(), &self.component.digest, arguments)
    }
}

/// The tools that a turn's client brought, in its order.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientTools(Arc<[Arc<ReadyTool>]>);

impl ClientTools {
    /// Makes them ready.
    // THREAT[T-client-tools]: how many there are, how long they are, and what checking their calls costs is bounded.
    pub(crate) fn ready(tools: &[ClientTool]) -> Result<Self, ClientToolsError> {
        if tools.len() > MOST_TOOLS {
            return Err(ClientToolsError::Many(tools.len()));
        }
        let length = |tool: &ClientTool| tool.description.len() + tool.input_schema.to_string().len();
        let all = tools.iter().map(length).sum();
        if all > LONGEST_TOOLS {
            return Err(ClientToolsError::Long(all));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = tools.iter().find(|tool| !names.insert(&tool.name)) {
            return Err(ClientToolsError::Twice(twice.name.clone()));
        }
        let tools: Result<Arc<[_]>, _> = tools.iter().map(|tool| ReadyTool::new(tool).map(Arc::new)).collect();
        tools.map(Self)
    }

    /// Those that came with the turn of these events.
    ///
    /// # Errors
    /// When they can't be used, which was looked at before they were kept.
    pub(crate) fn brought_by(events: &[Event]) -> Result<Self, StoreError> {
        let brought = events.iter().find_map(|event| match &event.body {
            EventBody::TurnQueued { tools, .. } => Some(tools.as_slice()),
            _ => None,
        });
        Self::ready(brought.unwrap_or_default()).map_err(|error| StoreError::Corrupt {
            reason: format!("the tools that a turn brought can't be used: {error}"),
        })
    }

    /// One of them.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<ReadyTool>> {
        self.0.iter().find(|tool| *tool.definition.name == *name)
    }

    /// The host's tools but those whose names these have.
    pub(crate) fn leave(&self, definitions: Arc<[ToolDefinition]>) -> Arc<[ToolDefinition]> {
        if definitions.iter().all(|tool| self.find(&tool.name).is_none()) {
            return definitions;
        }
        let others = definitions.iter().filter(|tool| self.find(&tool.name).is_none());
        others.cloned().collect()
    }

    /// What the model is told of the host's tools, and after that of these.
    pub(crate) fn beside(&self, others: Arc<[ToolDefinition]>) -> Arc<[ToolDefinition]> {
        if self.0.is_empty() {
            return others;
        }
        let own = self.0.iter().map(|tool| tool.definition.clone());
        others.iter().cloned().chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> ClientTool {
        ClientTool {
            name: name.parse().unwrap(),
            description: "Asks for a place.".into(),
            input_schema: json!({"type": "object", "properties": {"place": {"type": "string"}}}),
            timeout_ms: RESULT_TIMEOUT.as_millis(),
        }
    }

    fn refusal(tools: &[ClientTool]) -> String {
        ClientTools::ready(tools).unwrap_err().to_string()
    }

    #[test]
    fn what_can_not_be_used_is_refused_with_words() {
        let many: Vec<_> = (0..=MOST_TOOLS).map(|n| tool(&format!("tool_{n}"))).collect();
        assert!(refusal(&many).contains("at most 50 tools"));
        assert!(refusal(&[tool("a"), tool("b"), tool("a")]).contains("has a twice"));
        let changed = |change: fn(&mut ClientTool)| {
            let mut tool = tool("locate");
            change(&mut tool);
            refusal(&[tool])
        };
        assert!(changed(|tool| tool.description = " ".into()).contains("needs a `description`"));
        assert!(changed(|tool| tool.description = "x".repeat(LONGEST_TOOLS)).contains("bytes"));
        assert!(changed(|tool| tool.input_schema = json!({"type": "array"})).contains("not that of an object"));
        assert!(changed(|tool| tool.input_schema = json!(true)).contains("not that of an object"));
        let pattern = |tool: &mut ClientTool| tool.input_schema = json!({"type": "object", "required": 7});
        assert!(changed(pattern).contains("`input_schema` of the tool locate can't be used"));
        for timeout in [0, 999, LONGEST_TIMEOUT.as_millis() + 1] {
            let mut tool = tool("locate");
            tool.timeout_ms = timeout;
            assert!(refusal(&[tool]).contains("`timeout` of the tool locate"), "{timeout}");
        }
    }

    #[test]
    fn the_model_is_told_of_them_after_the_hosts_tools_and_of_no_name_twice() {
        let tools = ClientTools::ready(&[tool("b"), tool("a")]).unwrap();
        let host: Arc<[ToolDefinition]> = ["a", "z"]
            .map(|name| {
                tools.find("a").map(|tool| {
                    let mut definition = tool.definition.clone();
                    definition.name = name.parse().unwrap();
                    definition
                })
            })
            .into_iter()
            .flatten()
            .collect();
        let shown = tools.beside(tools.leave(host));
        let names: Vec<_> = shown.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["z", "b", "a"]);
    }

    #[test]
    fn an_approval_is_about_the_tool_as_it_was_described() {
        let print = |tool: &ClientTool| {
            ClientTools::ready(std::slice::from_ref(tool)).unwrap().0[0].fingerprint(&Arguments::new())
        };
        let mut other = tool("a");
        other.description += "!";
        assert_ne!(print(&tool("a")), print(&other));
        assert_eq!(print(&tool("a")), print(&tool("a")));
    }
}
