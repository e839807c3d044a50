//! What the configuration names and the host does not have: it has no effect, and what was meant has none either.

use crate::config::Loaded;
use fumehood_core::name::{ComponentName, ToolName};
use fumehood_policy::suggest::nearest;

/// Sections of orgs that there are not.
pub(crate) fn orgs(loaded: &Loaded, there: &[&str]) -> Vec<String> {
    let unknown = loaded.config.orgs().filter(|org| !there.contains(&org.as_str()));
    let told = unknown.map(|org| {
        let hint = nearest(org.as_str(), there.iter().copied());
        format!("[org.{org}] is about an org that there is not{hint}; `fumehood org list` shows those there are")
    });
    told.collect()
}

/// Lists of tools and approval rules of agents that name none of these tools, which are installed and granted.
pub(crate) fn tools(loaded: &Loaded, there: &[(ComponentName, ToolName)]) -> Vec<String> {
    let mut unmatched = Vec::new();
    for (name, agent) in loaded.config.agents() {
        let listed = agent.tools.iter().flatten();
        let listed = listed.map(|pattern| (format!("[agent.{name}] tools"), pattern));
        let ruled = agent.approval.iter().zip(1..);
        let ruled = ruled.map(|(rule, place)| (format!("[[agent.{name}.approval]] rule {place}"), &rule.tool));
        for (place, pattern) in listed.chain(ruled) {
            if !there.iter().any(|(component, tool)| pattern.matches(component, tool)) {
                unmatched.push(format!(
                    "{place}: `{pattern}` names no tool that is installed and granted; `fumehood tool list` shows those there are"
                ));
            }
        }
    }
    unmatched
}
