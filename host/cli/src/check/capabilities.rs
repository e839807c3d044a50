//! What a component imports, beside what its manifest asks for.

use super::{Facts, Finding, Lint};
use fumehood_policy::manifest::Manifest;
use serde::Serialize;

/// What needs a grant: the interfaces that use it, and the part of the manifest that asks for it.
struct Capability {
    name: &'static str,
    interfaces: &'static [&'static str],
    section: &'static str,
    /// Whether importing it without asking for it is a mistake: not where languages import it whether it is used or not, or where a
    /// part of it needs no grant.
    always_used: bool,
    asked: fn(&Manifest) -> Option<String>,
}

const CAPABILITIES: [Capability; 7] = [
    Capability {
        name: "network",
        interfaces: &["wasi:http/outgoing-handler"],
        section: "network",
        always_used: true,
        asked: network,
    },
    Capability {
        name: "files",
        interfaces: &["wasi:filesystem/types", "wasi:filesystem/preopens"],
        section: "files",
        // `/tmp` needs no grant.
        always_used: false,
        asked: |manifest| {
            let access = manifest.files.access;
            access.can_read().then(|| access.to_string())
        },
    },
    Capability {
        name: "key-values",
        interfaces: &["wasi:keyvalue/store"],
        section: "kv",
        always_used: true,
        asked: |manifest| {
            let access = manifest.kv.access;
            access.can_read().then(|| access.to_string())
        },
    },
    Capability {
        name: "signatures",
        interfaces: &["fumehood:tool/secrets"],
        section: "secrets",
        // To ask whether a secret is there is another use of it.
        always_used: false,
        asked: |manifest| listed(&manifest.secrets.sign),
    },
    Capability {
        name: "other tools",
        interfaces: &["fumehood:tool/peers"],
        section: "tools",
        always_used: true,
        asked: |manifest| listed(&manifest.tools.call),
    },
    Capability {
        name: "jobs",
        interfaces: &["fumehood:tool/jobs"],
        section: "jobs",
        always_used: true,
        asked: |manifest| manifest.jobs.detach.then(|| "detach".to_owned()),
    },
    Capability {
        name: "environment",
        interfaces: &["wasi:cli/environment", "wasi:config/store"],
        section: "env",
        always_used: false,
        asked: |manifest| listed(&manifest.env.names),
    },
];

/// One line of the table: what is imported for something, and what is asked for.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// What for; absent for what needs no grant.
    pub(crate) capability: Option<&'static str>,
    pub(crate) imports: Vec<String>,
    /// What the manifest asks for, in its words.
    pub(crate) asks_for: Option<String>,
}

/// Imports beside requests: what is imported or asked for, and last what needs no grant.
pub(crate) fn table(facts: &Facts) -> Vec<Row> {
    let mut rows: Vec<Row> = CAPABILITIES
        .iter()
        .map(|capability| Row {
            capability: Some(capability.name),
            imports: capability.imports(facts),
            asks_for: (capability.asked)(&facts.manifest),
        })
        .filter(|row| !row.imports.is_empty() || row.asks_for.is_some())
        .collect();
    let free: Vec<String> = facts
        .anatomy
        .imports
        .iter()
        .filter(|import| !CAPABILITIES.iter().any(|capability| capability.has(import)))
        .cloned()
        .collect();
    if !free.is_empty() {
        rows.push(Row {
            capability: None,
            imports: free,
            asks_for: None,
        });
    }
    rows
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for capability in &CAPABILITIES {
        let section = capability.section;
        match (capability.imports(facts).first(), (capability.asked)(&facts.manifest)) {
            (Some(import), None) if capability.always_used && !carries_no_request(facts) => {
                findings.push(Finding::new(
                    Lint::CapabilityUndeclared,
                    format!(
                        "it imports {import}, and its manifest asks for no {}: each use is denied",
                        capability.name
                    ),
                    format!("ask for it in [{section}], or remove what uses it"),
                ));
            }
            (None, Some(asked)) => {
                let finding = Finding::new(
                    Lint::CapabilityUnused,
                    format!(
                        "the manifest asks for {} ({asked}), and the component does not import {}",
                        capability.name, capability.interfaces[0]
                    ),
                    format!("remove [{section}] from the manifest: who reads it wonders what for"),
                );
                findings.push(finding.at(&[section], None));
            }
            _ => {}
        }
    }
    if let Some(socket) = facts
        .anatomy
        .imports
        .iter()
        .find(|import| import.starts_with("wasi:sockets/"))
    {
        findings.push(Finding::new(
            Lint::SocketsRefused,
            format!("it imports {socket}, and a host refuses every socket"),
            "make requests over wasi:http; where only the language's library imports it, there is nothing to do",
        ));
    }
    findings
}

/// Whether there is no manifest that could ask for anything: that is said once.
fn carries_no_request(facts: &Facts) -> bool {
    facts.carried == super::Carried::NoneAtAll
}

impl Capability {
    fn has(&self, import: &str) -> bool {
        let name = import.split_once('@').map_or(import, |(name, _)| name);
        self.interfaces.contains(&name)
    }

    fn imports(&self, facts: &Facts) -> Vec<String> {
        facts
            .anatomy
            .imports
            .iter()
            .filter(|import| self.has(import))
            .cloned()
            .collect()
    }
}

/// Rules, and credentials for the hosts of rules: neither is anything without a request.
fn network(manifest: &Manifest) -> Option<String> {
    let mut asked: Vec<String> = manifest
        .network
        .allow
        .iter()
        .flatten()
        .map(ToString::to_string)
        .collect();
    asked.extend(
        manifest
            .credentials
            .iter()
            .map(|credential| format!("the secret {}", credential.secret)),
    );
    listed(&asked)
}

fn listed<T: ToString>(items: &[T]) -> Option<String> {
    (!items.is_empty()).then(|| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}
