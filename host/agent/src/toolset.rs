//! The tools of a turn, and how they follow the org's while the turn runs.
//!
//! A change is applied between two steps, whole: what the model is shown, what it may call and which code runs change together. A
//! call that runs goes on with the code it began with.

use crate::{
    callable::Tool,
    catalog::{Catalog, OfferedTools, OrgTools},
    client_tools::ClientTools,
    control::ControlTools,
    skills::Skill,
};
use fumehood_core::{
    call::CallError,
    digest::Digest,
    event::EventBody,
    name::{ComponentName, OrgName, SkillName, ToolName},
    tool::ToolDefinition,
    turn::{Note, NoteKind},
};
use fumehood_policy::agent::{AgentSpec, ToolSearch};
use std::{collections::BTreeMap, sync::Arc};

/// More tools than this are searched instead of shown, unless the agent says otherwise.
const MANY_TOOLS: usize = 48;
/// So are tools whose definitions are longer than this, in bytes.
const LONG_TOOLS: usize = 64 << 10;

/// Where the tools of a turn come from.
pub(crate) struct Toolbox {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) skills: Arc<BTreeMap<SkillName, Arc<Skill>>>,
    pub(crate) org: OrgName,
    /// The agents, root to leaf.
    pub(crate) chain: Arc<[AgentSpec]>,
    /// Those that the client brought.
    pub(crate) client: ClientTools,
}

/// The tools of a turn, as they are for one step.
pub(crate) struct Toolset {
    org: Arc<OrgTools>,
    pub(crate) offered: Arc<OfferedTools>,
    /// What the model can be told of them: the same in every step, so that providers can cache it.
    pub(crate) definitions: Arc<[ToolDefinition]>,
    /// The host's own tools.
    pub(crate) control: ControlTools,
    /// Those that the client brought.
    client: ClientTools,
}

impl Toolset {
    /// What the model is told of them, with those it has loaded.
    pub(crate) fn shown(&self, loaded: &[ToolName]) -> Arc<[ToolDefinition]> {
        self.client.beside(self.control.definitions(&self.definitions, loaded))
    }

    /// A tool by the name that the model used.
    ///
    /// # Errors
    /// As [`OfferedTools::get`].
    pub(crate) fn tool(&self, name: &str) -> Result<Tool, CallError> {
        match self.client.find(name) {
            Some(tool) => Ok(Tool::Brought(Arc::clone(tool))),
            None => self.offered.get(name).map(|tool| Tool::Installed(Arc::clone(tool))),
        }
    }
}

impl Toolbox {
    /// The tools of a catalogue's snapshot.
    pub(crate) fn toolset(&self, org: Arc<OrgTools>) -> Toolset {
        let offered = Arc::new(org.offered_by(&self.chain));
        let definitions = self.client.leave(offered.definitions());
        let control = match self.chain.last() {
            Some(leaf) => control_tools(leaf, &self.skills, &definitions),
            None => ControlTools::default(),
        };
        Toolset {
            org,
            offered,
            definitions,
            control,
            client: self.client.clone(),
        }
    }

    /// Whether what the tools are now is known without reading or compiling anything.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.catalog.is_at_hand(&self.org)
    }

    /// The tools as the catalogue has them now, if it has other ones than before. A catalogue that can't be read leaves them as they
    /// are: what each call may do is looked up for itself.
    pub(crate) async fn renewed(&self, before: &Toolset) -> Option<Toolset> {
        let org = match self.catalog.tools(&self.org).await {
            Ok(org) => org,
            Err(error) => {
                tracing::error!(%error, "whether the tools have changed can't be read");
                return None;
            }
        };
        (!Arc::ptr_eq(&org, &before.org)).then(|| self.toolset(org))
    }
}

/// How the tools on offer differ from those before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) added: Vec<ToolName>,
    pub(crate) updated: Vec<ToolName>,
    pub(crate) removed: Vec<ToolName>,
    /// Which code the components are now.
    pub(crate) components: BTreeMap<ComponentName, Digest>,
}

impl Difference {
    /// The event that tells it.
    pub(crate) fn event(&self) -> EventBody {
        EventBody::ToolsChanged {
            added: self.added.clone(),
            updated: self.updated.clone(),
            removed: self.removed.clone(),
            components: self.components.clone(),
        }
    }

    /// What the model is told.
    pub(crate) fn note(&self) -> Note {
        let parts = [
            ("added", &self.added),
            ("updated", &self.updated),
            ("removed; do not call them", &self.removed),
        ];
        let told = parts.iter().filter(|(_, tools)| !tools.is_empty()).map(|(how, tools)| {
            let names: Vec<_> = tools.iter().map(|name| name.as_str()).collect();
            format!("{} ({how})", names.join(", "))
        });
        Note {
            kind: NoteKind::ToolsChanged,
            text: format!("Your tools have changed: {}.", told.collect::<Vec<_>>().join("; ")),
            job: None,
        }
    }
}

/// The host's own tools for an agent: for the skills it has, and for finding tools where there are many.
fn control_tools(
    leaf: &AgentSpec,
    skills: &BTreeMap<SkillName, Arc<Skill>>,
    definitions: &Arc<[ToolDefinition]>,
) -> ControlTools {
    let skills = leaf
        .skills
        .iter()
        .flatten()
        .filter_map(|name| skills.get(name).cloned());
    let searched = match leaf.tool_search {
        ToolSearch::Always => true,
        ToolSearch::Never => false,
        ToolSearch::Auto => definitions.len() > MANY_TOOLS || are_long(definitions),
    };
    ControlTools::new(skills.collect(), searched.then(|| Arc::clone(definitions)))
}

fn are_long(definitions: &[ToolDefinition]) -> bool {
    let mut left = LONG_TOOLS;
    definitions.iter().any(|tool| {
        let length = tool.description.len() + tool.input_schema.to_string().len();
        let fits = left.checked_sub(length);
        left = fits.unwrap_or_default();
        fits.is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_policy::agent::{AgentConfig, resolve_agents};
    use serde_json::json;

    fn agent(search: &str) -> AgentSpec {
        let config: AgentConfig = serde_json::from_value(json!({"tool_search": search})).unwrap();
        let name: fumehood_core::name::AgentName = "a".parse().unwrap();
        let mut chains = resolve_agents(&[(name.clone(), config)].into()).unwrap();
        chains.remove(&name).unwrap().pop().unwrap()
    }

    fn tools(number: usize, description: usize) -> Arc<[ToolDefinition]> {
        let tool = |number: usize| {
            serde_json::from_value(json!({
                "name": format!("tool_{number}"), "description": "x".repeat(description), "input_schema": {},
            }))
            .unwrap()
        };
        (0..number).map(tool).collect()
    }

    #[test]
    fn many_tools_or_long_ones_are_searched_unless_the_agent_says_otherwise() {
        let searched = |search: &str, definitions: &Arc<[ToolDefinition]>| {
            control_tools(&agent(search), &BTreeMap::new(), definitions).has("tool_search")
        };
        assert!(!searched("auto", &tools(48, 10)));
        assert!(searched("auto", &tools(49, 10)));
        assert!(searched("auto", &tools(5, 20_000)));
        assert!(!searched("never", &tools(49, 10)));
        assert!(searched("always", &tools(1, 10)));
    }
}
