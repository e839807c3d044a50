//! What is wrong or pointless in a configuration, told with file and line.

use super::Config;
use fumehood_policy::{
    lint::{self, Finding, Step},
    network::NetworkList,
};

/// A refusal that begins with its section (`[agent.a] …`), with the line of that section.
pub(super) fn located(error: anyhow::Error, file: &str, text: &str) -> anyhow::Error {
    let message = format!("{error:#}");
    let section = message.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let line = section.and_then(|(keys, _)| {
        let place = keys.split('.').map(|key| Step::Key(key.to_owned())).collect();
        Finding {
            place,
            message: String::new(),
        }
        .line_in(text)
    });
    match line {
        Some(line) => anyhow::anyhow!("{file}: line {line}: {message}"),
        None => error,
    }
}

/// What has no effect or contradicts itself.
pub(super) fn warnings(config: &Config, file: &str, text: &str) -> Vec<String> {
    let list = NetworkList {
        allow: config.network.allow.clone(),
        deny: config.network.deny.clone(),
    };
    let ceilings = config.host_policy().ceilings;
    let mut findings = lint::host_network(&list, &config.network.private_networks);
    findings.extend(lint::agents(&config.agent, &list));
    findings.extend(money_that_nothing_costs(config));
    for (name, tool) in &config.tool {
        let granted = tool.grant.iter().flat_map(|grant| lint::grant(grant, &ceilings));
        findings.extend(granted.map(|finding| finding.below(&["tool", name.as_str(), "grant"])));
    }
    findings.iter().map(|finding| told(finding, file, text)).collect()
}

/// Budgets of money where a model has no price: its calls would cost nothing.
fn money_that_nothing_costs(config: &Config) -> Vec<Finding> {
    let models = config.models(&|_| None);
    let unpriced: Vec<_> = models
        .iter()
        .filter(|(_, model)| model.price.is_none())
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if unpriced.is_empty() {
        return Vec::new();
    }
    let of_orgs = config.org.iter().filter_map(|(name, org)| {
        org.budget?.cost?;
        Some(["org", name.as_str(), "budget", "cost"])
    });
    let of_agents = config.agent.iter().flat_map(|(name, agent)| {
        let own = agent.budget.cost.map(|_| ["agent", name.as_str(), "budget", "cost"]);
        let of_session = agent.session_budget.cost;
        let of_session = of_session.map(|_| ["agent", name.as_str(), "session_budget", "cost"]);
        own.into_iter().chain(of_session)
    });
    let message = format!(
        "a budget of money does not count the calls of models without a price: {}; give them one in `[model.NAME.price]`",
        unpriced.join(", ")
    );
    of_orgs
        .chain(of_agents)
        .map(|place| Finding {
            place: place.into_iter().map(|key| Step::Key(key.to_owned())).collect(),
            message: message.clone(),
        })
        .collect()
}

/// A finding with its file, and its line where the file has it: a variable may have set it.
pub(crate) fn told(finding: &Finding, file: &str, text: &str) -> String {
    match finding.line_in(text) {
        Some(line) => format!("{file}: line {line}: {finding}"),
        None => format!("{file}: {finding}"),
    }
}
