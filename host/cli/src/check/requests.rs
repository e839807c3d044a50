//! The manifest: whether it asks for more than a careful operator grants.

use super::{Carried, Facts, Finding, Lint};
use fumehood_policy::{
    address::{PrivateNetworks, check_address},
    lint::{self, Step},
    manifest::Manifest,
    network::{HostPattern, Methods, NetworkRule, PortPattern, Scheme},
};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let manifest = &facts.manifest;
    let mut findings = Vec::new();
    findings.extend(carried(facts));
    if facts.carried != Carried::NoneAtAll && manifest.description.trim().is_empty() {
        findings.push(Finding::new(
            Lint::ManifestUndescribed,
            "the manifest has no description, which is what an operator reads first",
            "write `description = \"…\"`: a sentence of what it is for",
        ));
    }
    if let Some(newer) = &facts.newer {
        findings.push(Finding::new(
            Lint::ComponentStale,
            format!("{} was saved after the component was built", newer.display()),
            "build it again with `fumehood tool build`",
        ));
    }
    findings.extend(without_effect(facts));
    for (index, rule) in manifest.network.allow.iter().flatten().enumerate() {
        findings.extend(
            too_wide(rule)
                .into_iter()
                .map(|finding| finding.at(&["network", "allow"], Some(index))),
        );
    }
    findings.extend(hints(facts));
    if let Some(index) = manifest.tools.call.iter().position(|pattern| pattern.as_str() == "*") {
        let finding = Finding::new(
            Lint::ToolsAny,
            "it asks to call every tool that the agent has",
            "name those that it calls, such as `files_*`",
        );
        findings.push(finding.at(&["tools", "call"], Some(index)));
    }
    if manifest.files.access.can_write() && manifest.files.paths.is_none() {
        let finding = Finding::new(
            Lint::FilesAll,
            "it asks to change every file of the workspace",
            "set `paths` to the folders that it writes to, if it is not about files in general",
        );
        findings.push(finding.at(&["files"], None));
    }
    findings
}

fn carried(facts: &Facts) -> Option<Finding> {
    Some(match facts.carried {
        Carried::Same => return None,
        Carried::Other => Finding::new(
            Lint::ManifestDiffers,
            "the component carries another manifest than the tool.toml beside it, so a host that gets the file alone is asked for something else",
            "build it again with `fumehood tool build`, which puts the tool.toml in",
        ),
        Carried::None => Finding::new(
            Lint::ManifestDiffers,
            "the component does not carry the tool.toml beside it, so a host that gets the file alone sees no request",
            "build it with `fumehood tool build`, which puts the tool.toml in",
        ),
        Carried::NoneAtAll => Finding::new(
            Lint::ManifestMissing,
            "the component has no manifest, so it has no version and can be granted nothing",
            "write a tool.toml beside it with at least `name`, `version` and `description`",
        ),
    })
}

fn without_effect(facts: &Facts) -> impl Iterator<Item = Finding> {
    lint::manifest(&facts.manifest, &facts.ceilings)
        .into_iter()
        .map(|found| {
            let (what, remedy) = found
                .message
                .rsplit_once("; ")
                .or_else(|| found.message.split_once(". "))
                .unwrap_or((&found.message, "remove it, or correct it"));
            Finding {
                place: found.place.clone(),
                ..Finding::new(Lint::RequestWithoutEffect, what, remedy)
            }
        })
}

fn too_wide(rule: &NetworkRule) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |lint, what: String, remedy: &str| findings.push(Finding::new(lint, what, remedy));
    match rule.host() {
        HostPattern::AnyPublic => found(
            Lint::NetworkAnyHost,
            format!("the rule `{rule}` allows every public host, also one that a hostile page names"),
            "name the hosts that it needs; if it is for any, say so in the description, and operators grant theirs",
        ),
        HostPattern::Subdomains(parent) if !parent.as_str().contains('.') => found(
            Lint::NetworkAnyHost,
            format!("the rule `{rule}` allows every host under a top-level domain"),
            "name the domain, as in `*.example.com`",
        ),
        HostPattern::Exact(name) | HostPattern::Subdomains(name) if !name.is_public() => found(
            Lint::NetworkPrivate,
            format!("the rule `{rule}` is for a name that the public network does not know"),
            "say in the description that the operator has to list its address under `private_networks`",
        ),
        HostPattern::Ip(ip) if check_address(*ip, &PrivateNetworks::default()).is_err() => found(
            Lint::NetworkPrivate,
            format!("the rule `{rule}` is for an address that is not public, which hosts refuse"),
            "say in the description that the operator has to list it under `private_networks`",
        ),
        HostPattern::Exact(_) | HostPattern::Subdomains(_) | HostPattern::Ip(_) => {}
    }
    if *rule.methods() == Methods::Any {
        found(
            Lint::NetworkAnyMethod,
            format!("the rule `{rule}` allows every method, DELETE too"),
            "begin it with the methods that it uses, as in `GET,POST https://…`",
        );
    }
    if rule.port() == PortPattern::Any {
        found(
            Lint::NetworkAnyPort,
            format!("the rule `{rule}` allows every port, those of databases and mail servers too"),
            "write the port, or none for the scheme's own",
        );
    }
    if rule.scheme() == Some(Scheme::Http) {
        found(
            Lint::NetworkPlainHttp,
            format!("the rule `{rule}` allows requests that anybody on the way reads and changes"),
            "use https where the host has it",
        );
    }
    findings
}

/// Where the request and what the tools say of themselves do not go together.
fn hints(facts: &Facts) -> Vec<Finding> {
    let (manifest, tools) = (&facts.manifest, &facts.tools);
    let mut findings = Vec::new();
    if tools.is_empty() {
        return findings;
    }
    if asks_for_network(manifest) && !tools.iter().any(|tool| tool.open_world) {
        let finding = Finding::new(
            Lint::OpenWorldUnsaid,
            "it reaches the network, and none of its tools says `open_world`: what it returns is not treated as a stranger's text",
            "set `open_world` on the tools that make requests",
        );
        findings.push(finding.at(&["network", "allow"], None));
    }
    let section = if manifest.files.access.can_write() {
        Some("files")
    } else {
        manifest.kv.access.can_write().then_some("kv")
    };
    if let Some(section) = section.filter(|_| tools.iter().all(|tool| tool.read_only)) {
        findings.push(Finding {
            place: vec![Step::Key(section.to_owned())],
            ..Finding::new(
                Lint::WritesUnsaid,
                format!("it asks to write in [{section}], and all its tools say `read_only`"),
                "ask for \"read\", or take `read_only` from the tools that write",
            )
        });
    }
    findings
}

fn asks_for_network(manifest: &Manifest) -> bool {
    manifest.network.allow.as_ref().is_some_and(|rules| !rules.is_empty())
}
