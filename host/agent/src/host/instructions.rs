//! What a model is told before the conversation: the agent's instructions, the turn's, and what follows from how both are set.
//!
//! What changes stands last, and the date changes once a day: providers cache what two requests begin with.

use crate::{control::ControlTools, skills::Skill};
use fumehood_core::{Time, name::SkillName, tool::ToolDefinition};
use fumehood_policy::agent::{AgentSpec, ToolSearch};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// More tools than this are searched instead of shown, unless the agent says otherwise.
const MANY_TOOLS: usize = 48;
/// So are tools whose definitions are longer than this, in bytes.
const LONG_TOOLS: usize = 64 << 10;

/// The whole text.
pub(super) fn instructions(
    leaf: &AgentSpec,
    control: &ControlTools,
    system: Option<String>,
    output_schema: Option<&Value>,
    now: Time,
) -> String {
    let expected = output_schema.map(|schema| {
        format!(
            "Your final answer must be one JSON value that follows this JSON Schema, without any other text:\n{schema}"
        )
    });
    let parts = [
        Some(leaf.instructions.clone()),
        control.instructions(),
        system,
        expected,
        surroundings(leaf, now),
    ];
    let parts = parts.into_iter().flatten().filter(|text| !text.is_empty());
    parts.collect::<Vec<_>>().join("\n\n")
}

/// The date and for whom to write, where the agent says.
fn surroundings(leaf: &AgentSpec, now: Time) -> Option<String> {
    let date = leaf
        .time_zone
        .map(|zone| format!("Today is {} ({zone}).", zone.date(now)));
    let locale = (leaf.locale.as_ref()).map(|locale| format!("Write for readers of the locale {locale}."));
    match (date, locale) {
        (Some(date), Some(locale)) => Some(format!("{date} {locale}")),
        (date, locale) => date.or(locale),
    }
}

/// The host's own tools for an agent: for the skills it has, and for finding tools where there are many.
pub(super) fn control_tools(
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

    fn agent(config: Value) -> AgentSpec {
        let config: AgentConfig = serde_json::from_value(config).unwrap();
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
    fn what_changes_stands_last() {
        let leaf = agent(json!({"instructions": "Be brief.", "locale": "de-CH", "time_zone": "Europe/Zurich"}));
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        let control = ControlTools::default();
        let text = instructions(
            &leaf,
            &control,
            Some("Only today.".into()),
            Some(&json!({"type": "string"})),
            now,
        );
        let parts: Vec<_> = text.split("\n\n").collect();
        assert_eq!(parts[..2], ["Be brief.", "Only today."]);
        assert!(parts[2].ends_with(r#"{"type":"string"}"#));
        assert_eq!(
            parts[3],
            "Today is Saturday, 21 November 2026 (Europe/Zurich). Write for readers of the locale de-CH."
        );
        assert_eq!(instructions(&agent(json!({})), &control, None, None, now), "");
    }

    #[test]
    fn many_tools_or_long_ones_are_searched_unless_the_agent_says_otherwise() {
        let searched = |search: &str, definitions: &Arc<[ToolDefinition]>| {
            let leaf = agent(json!({"tool_search": search}));
            control_tools(&leaf, &BTreeMap::new(), definitions).has("tool_search")
        };
        assert!(!searched("auto", &tools(48, 10)));
        assert!(searched("auto", &tools(49, 10)));
        assert!(searched("auto", &tools(5, 20_000)));
        assert!(!searched("never", &tools(49, 10)));
        assert!(searched("always", &tools(1, 10)));
    }
}
