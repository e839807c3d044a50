//! What a model is told before the conversation: the agent's instructions, the turn's, and what follows from how both are set.
//!
//! What changes stands last, and the date changes once a day: providers cache what two requests begin with.

use crate::control::ControlTools;
use fumehood_core::Time;
use fumehood_policy::agent::AgentSpec;
use serde_json::Value;

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
}
