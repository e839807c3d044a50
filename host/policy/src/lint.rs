//! What a file says that can have no effect, or contradicts itself: an `allow` that a `deny` refuses whole, a grant of
//! what nobody asked for, an agent that leaves nothing of its parent's list.
//!
//! Nothing here is an error: such a file means what the layers make of it, never more. But whoever wrote it meant
//! something else, so it is said, with the place and the way out.

use crate::{
    address::PrivateNetworks,
    agent::AgentConfig,
    credential::Credential,
    files::Files,
    grant::{CredentialGrant, Grant},
    limits::{Limits, LimitsRequest},
    manifest::Manifest,
    network::{NetworkList, NetworkRule},
    toml_text::line_of,
};
use fumehood_core::name::AgentName;
use std::collections::BTreeMap;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where in the file: its keys from the outermost in, an index where it is in a list.
    pub place: Vec<Step>,
    /// What is the matter, and what to do.
    pub message: String,
}

/// One step into a TOML document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(String),
    /// An element of a list, counted from 0.
    Item(usize),
}

impl Finding {
    /// The line in the text that the finding was made of, counted from 1.
    #[must_use]
    pub fn line_in(&self, text: &str) -> Option<usize> {
        line_of(text, &self.place)
    }

    /// With the keys that lead to the part of the file that was looked at.
    #[must_use]
    pub fn below(mut self, keys: &[&str]) -> Self {
        self.place
            .splice(0..0, keys.iter().map(|key| Step::Key((*key).to_owned())));
        self
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

fn finding(keys: &[&str], item: Option<usize>, message: String) -> Finding {
    let keys = keys.iter().map(|key| Step::Key((*key).to_owned()));
    Finding {
        place: keys.chain(item.map(Step::Item)).collect(),
        message,
    }
}

/// What is the matter with a manifest by itself.
#[must_use]
pub fn manifest(manifest: &Manifest, ceilings: &Limits) -> Vec<Finding> {
    let mut findings = below(network(&manifest.network), &["network"]);
    for (index, credential) in manifest.credentials.iter().enumerate() {
        if !reaches(credential, &manifest.network) {
            let message = format!(
                "the credential {} is for hosts that `[network] allow` does not request, so it is never sent; add a rule for one of them",
                credential.secret
            );
            findings.push(finding(&["credential"], Some(index), message));
        }
    }
    findings.extend(limits(&manifest.limits, ceilings));
    findings
}

/// Whether any of its hosts is one that the list allows.
fn reaches(credential: &Credential, list: &NetworkList) -> bool {
    let rules = list.allow.as_deref().unwrap_or_default();
    credential
        .hosts
        .iter()
        .any(|host| rules.iter().any(|rule| rule.host().intersect(host).is_some()))
}

/// What is the matter with a grant by itself.
#[must_use]
pub fn grant(grant: &Grant, ceilings: &Limits) -> Vec<Finding> {
    let mut findings = below(network(&grant.network), &["network"]);
    findings.extend(limits(&grant.limits, ceilings));
    findings
}

/// What a grant gives that the component does not ask for, so that it gives nothing.
#[must_use]
pub fn grant_for(grant: &Grant, request: &Manifest) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &request.name;
    let mut unasked = |keys: &[&str], item: Option<usize>, what: String| {
        let message = format!("{what}, which {name} does not ask for: it grants nothing; remove it, or correct it");
        findings.push(finding(keys, item, message));
    };
    let asked = request.network.allow.as_deref().unwrap_or_default();
    for (index, rule) in grant.network.allow.iter().flatten().enumerate() {
        if !asked.iter().any(|wanted| wanted.intersect(rule).is_some()) {
            unasked(&["network", "allow"], Some(index), format!("the grant allows `{rule}`"));
        }
    }
    for (index, credential) in grant.credentials.iter().enumerate() {
        if !request
            .credentials
            .iter()
            .any(|wanted| credential.narrow(wanted).is_some())
        {
            unasked(
                &["credential"],
                Some(index),
                format!("the grant has {}", words(credential)),
            );
        }
    }
    if !Files::none().covers(&grant.files) && Files::none().covers(&request.files.intersect(&grant.files)) {
        unasked(
            &["files"],
            None,
            format!("the grant gives {} access to files there", grant.files.access),
        );
    }
    if grant.kv.access > request.kv.access {
        unasked(
            &["kv", "access"],
            None,
            format!("the grant gives {} access to key-values", grant.kv.access),
        );
    }
    for (index, secret) in grant.secrets.sign.iter().enumerate() {
        if !request.secrets.sign.contains(secret) {
            unasked(
                &["secrets", "sign"],
                Some(index),
                format!("the grant lets it sign with {secret}"),
            );
        }
    }
    for (index, tool) in grant.tools.call.iter().enumerate() {
        if request.tools.call.is_empty() {
            unasked(
                &["tools", "call"],
                Some(index),
                format!("the grant lets it call `{tool}`"),
            );
        }
    }
    if grant.jobs.detach && !request.jobs.detach {
        unasked(&["jobs", "detach"], None, "the grant lets it hand calls on".to_owned());
    }
    for (index, tool) in grant.jobs.background.iter().enumerate() {
        if request.jobs.background.is_empty() {
            unasked(
                &["jobs", "background"],
                Some(index),
                format!("the grant lets `{tool}` run in the background"),
            );
        }
    }
    for (index, variable) in grant.env.names.iter().enumerate() {
        if !request.env.names.contains(variable) {
            unasked(
                &["env", "names"],
                Some(index),
                format!("the grant shows it the variable {variable}"),
            );
        }
    }
    findings
}

fn words(credential: &CredentialGrant) -> String {
    match &credential.hosts {
        None => format!("a credential {}", credential.secret),
        Some(hosts) => format!(
            "a credential {} for {}",
            credential.secret,
            crate::manifest::joined(hosts)
        ),
    }
}

/// What is the matter with the host-wide `[network]`.
#[must_use]
pub fn host_network(list: &NetworkList, private: &PrivateNetworks) -> Vec<Finding> {
    let mut findings = network(list);
    for (index, net) in private.0.iter().enumerate() {
        if net.prefix_len() == 0 {
            let message = format!(
                "`{net}` opens every address there is, loopback and cloud metadata among them; list the networks that are meant"
            );
            findings.push(finding(&["private_networks"], Some(index), message));
        }
    }
    below(findings, &["network"])
}

/// What is the matter with agents, each by itself and below the one it extends and the host-wide list.
#[must_use]
pub fn agents(agents: &BTreeMap<AgentName, AgentConfig>, host: &NetworkList) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, agent) in agents {
        let Some(list) = &agent.network else { continue };
        let mut own = network(list);
        let mut above: Vec<(String, &Vec<NetworkRule>)> = ancestors(agents, agent)
            .filter_map(|(parent, config)| {
                Some((
                    format!("the agent `{parent}`"),
                    config.network.as_ref()?.allow.as_ref()?,
                ))
            })
            .collect();
        let host = host
            .allow
            .as_ref()
            .filter(|rules| !rules.iter().any(NetworkRule::is_bare_star));
        above.extend(host.map(|rules| ("the host-wide list".to_owned(), rules)));
        for (whose, rules) in above {
            let allow = list.allow.as_deref().unwrap_or_default();
            let shared = |own: &NetworkRule| rules.iter().any(|rule| rule.intersect(own).is_some());
            for (index, rule) in allow.iter().enumerate().filter(|(_, rule)| !shared(rule)) {
                let message = format!(
                    "`{rule}` can never allow anything: {whose} allows none of it; remove it, or allow it there as well"
                );
                own.push(finding(&["allow"], Some(index), message));
            }
        }
        findings.extend(below(own, &["agent", name.as_str(), "network"]));
    }
    findings
}

/// The agents that one extends, from the nearest on; each once, also in a circle.
fn ancestors<'a>(
    agents: &'a BTreeMap<AgentName, AgentConfig>,
    agent: &'a AgentConfig,
) -> impl Iterator<Item = (&'a AgentName, &'a AgentConfig)> {
    let step = |config: &'a AgentConfig| agents.get_key_value(config.extends.as_ref()?);
    std::iter::successors(step(agent), move |(_, config)| step(config)).take(agents.len())
}

/// What is the matter with one list.
fn network(list: &NetworkList) -> Vec<Finding> {
    let mut findings = Vec::new();
    let allow = list.allow.as_deref().unwrap_or_default();
    for (index, rule) in allow.iter().enumerate() {
        let wider = allow.iter().enumerate().find(|(other, wider)| {
            let equal = rule.covers(wider);
            *other != index && wider.covers(rule) && (!equal || *other < index)
        });
        if let Some(deny) = list.deny.iter().find(|deny| deny.denies_all_of(rule)) {
            let message = format!(
                "`{rule}` can never allow anything: the rule `{deny}` of the same list denies all of it; remove one of them"
            );
            findings.push(finding(&["allow"], Some(index), message));
        } else if let Some((_, wider)) = wider {
            let message = format!(
                "`{rule}` has no effect: the rule `{wider}` of the same list allows all of it; remove one of them"
            );
            findings.push(finding(&["allow"], Some(index), message));
        }
    }
    for (index, rule) in list.deny.iter().enumerate() {
        if list.deny[..index].contains(rule) {
            findings.push(finding(
                &["deny"],
                Some(index),
                format!("`{rule}` stands twice in `deny`; remove one of them"),
            ));
        } else if !allow.is_empty() && !may_matter(rule, allow) {
            let message =
                format!("`{rule}` has no effect: `allow` of the same list allows none of it; remove it, or correct it");
            findings.push(finding(&["deny"], Some(index), message));
        }
    }
    findings
}

/// A denial of an address also holds for the names that turn out to have it.
fn may_matter(deny: &NetworkRule, allow: &[NetworkRule]) -> bool {
    let address = matches!(deny.host(), crate::network::HostPattern::Ip(_));
    address || allow.iter().any(|rule| deny.denies_some_of(rule))
}

fn limits(limits: &LimitsRequest, ceilings: &Limits) -> Vec<Finding> {
    limits
        .above_ceilings(ceilings)
        .into_iter()
        .map(|above| {
            let message = format!(
                "{above}; a call gets the ceiling. Lower it, or raise `{}` under `[limits.ceiling]` in fumehood.toml",
                above.key
            );
            finding(&["limits", above.key], None, message)
        })
        .collect()
}

fn below(findings: Vec<Finding>, keys: &[&str]) -> Vec<Finding> {
    findings.into_iter().map(|finding| finding.below(keys)).collect()
}
