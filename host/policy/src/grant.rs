//! What an org lets a component do: the manifest's keys without name and version. What is absent is not granted.

use crate::{
    credential::{Credential, Injection, bounded_hosts},
    files::Files,
    limits::LimitsRequest,
    manifest::{
        EnvSection, JobsSection, KvSection, Manifest, RateSection, SecretsSection, ToolsSection, describe_credential,
        is_default, joined,
    },
    network::{HostPattern, NetworkList},
};
use fumehood_core::name::SecretName;
use serde::{Deserialize, Deserializer, Serialize};

pub use crate::toml_text::TomlError as GrantError;

/// A grant. `Default` grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Whom it may reach. Without `allow`: nobody.
    #[serde(default, skip_serializing_if = "NetworkList::is_absent")]
    pub network: NetworkList,
    /// Credentials, by the secret's name.
    #[serde(
        default,
        rename = "credential",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::credentials"
    )]
    pub credentials: Vec<CredentialGrant>,
    /// Workspace files.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: Files,
    /// Key-values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kv: KvSection,
    /// Secrets to sign with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets: SecretsSection,
    /// Other tools to call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tools: ToolsSection,
    /// Work that outlasts a call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub jobs: JobsSection,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: EnvSection,
    /// Limits; absent ones are as requested, within the host's ceilings.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsRequest,
    /// How often it may be called; absent is as requested.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate: RateSection,
}

/// A credential that the org grants: the requested one of the same secret, perhaps to fewer hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialGrant {
    /// The secret.
    pub secret: SecretName,
    /// To these hosts only; absent is as requested.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "some_bounded_hosts"
    )]
    pub hosts: Option<Vec<HostPattern>>,
    /// In this place only; absent is as requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Injection>,
}

fn some_bounded_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<HostPattern>>, D::Error> {
    bounded_hosts(deserializer).map(Some)
}

impl CredentialGrant {
    /// What is left of a requested credential; nothing if this grant is about another secret, place or host.
    #[must_use]
    pub fn narrow(&self, requested: &Credential) -> Option<Credential> {
        let same_place = self.inject.as_ref().is_none_or(|inject| *inject == requested.inject);
        if self.secret != requested.secret || !same_place {
            return None;
        }
        let hosts = match &self.hosts {
            None => requested.hosts.clone(),
            Some(granted) => {
                let mut hosts: Vec<HostPattern> = requested
                    .hosts
                    .iter()
                    .flat_map(|wanted| granted.iter().filter_map(|own| own.intersect(wanted)))
                    .collect();
                hosts.sort();
                hosts.dedup();
                hosts
            }
        };
        (!hosts.is_empty()).then(|| Credential {
            secret: requested.secret.clone(),
            hosts,
            inject: requested.inject.clone(),
        })
    }

    fn covers(&self, requested: &Credential) -> bool {
        let same_place = self.inject.as_ref().is_none_or(|inject| *inject == requested.inject);
        let same_hosts = self.hosts.as_ref().is_none_or(|granted| {
            requested
                .hosts
                .iter()
                .all(|wanted| granted.iter().any(|own| own.covers(wanted)))
        });
        self.secret == requested.secret && same_place && same_hosts
    }
}

impl Grant {
    /// A grant of nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// A grant of all that is requested, and no more.
    #[must_use]
    pub fn everything_requested(request: &Manifest) -> Self {
        Self {
            network: request.network.clone(),
            credentials: request
                .credentials
                .iter()
                .map(|credential| CredentialGrant {
                    secret: credential.secret.clone(),
                    hosts: Some(credential.hosts.clone()),
                    inject: Some(credential.inject.clone()),
                })
                .collect(),
            files: request.files.clone(),
            kv: request.kv.clone(),
            secrets: request.secrets.clone(),
            tools: request.tools.clone(),
            jobs: request.jobs.clone(),
            env: request.env.clone(),
            limits: request.limits,
            rate: request.rate.clone(),
        }
    }

    /// Reads a grant file.
    ///
    /// # Errors
    /// With the line, and what is accepted there; unknown keys are refused.
    pub fn parse_toml(text: &str) -> Result<Self, GrantError> {
        crate::toml_text::parse(text)
    }
}

/// What a manifest asks for, one sentence each.
#[must_use]
pub fn describe(request: &Manifest) -> Vec<String> {
    request.describe()
}

/// What a manifest asks for beyond a grant, one sentence each; empty if the grant covers it.
#[must_use]
pub fn wider_than(request: &Manifest, grant: &Grant) -> Vec<String> {
    // THREAT[T-supply-wide-request]: an update that asks for more is shown, and gets nothing by itself.
    let mut words = Vec::new();
    let granted_rules = grant.network.allow.as_deref().unwrap_or_default();
    let network = beyond(request.network.allow.as_deref().unwrap_or_default(), |rule| {
        granted_rules.iter().any(|own| own.covers(rule))
    });
    if !network.is_empty() {
        words.push(format!("reach over the network: {network}"));
    }
    for credential in &request.credentials {
        if !grant.credentials.iter().any(|own| own.covers(credential)) {
            words.push(describe_credential(credential));
        }
    }
    if !grant.files.covers(&request.files) {
        let place = request.files.paths.as_ref().map_or_else(
            || "the whole workspace".to_owned(),
            |paths| format!("workspace files in {}", joined(paths)),
        );
        words.push(format!("{} access to {place}", request.files.access));
    }
    if request.kv.access > grant.kv.access {
        words.push(format!("{} access to the session's key-values", request.kv.access));
    }
    let sign = beyond(&request.secrets.sign, |name| grant.secrets.sign.contains(name));
    if !sign.is_empty() {
        words.push(format!("sign messages with: {sign}"));
    }
    let call = beyond(&request.tools.call, |pattern| {
        grant.tools.call.iter().any(|own| own.covers(pattern))
    });
    if !call.is_empty() {
        words.push(format!("call other tools: {call}"));
    }
    if request.jobs.detach && !grant.jobs.detach {
        words.push("hand calls on to somebody outside, who ends them later".to_owned());
    }
    let background = beyond(&request.jobs.background, |pattern| {
        grant.jobs.background.iter().any(|own| own.covers(pattern))
    });
    if !background.is_empty() {
        words.push(format!(
            "run in the background, for longer than a call may: {background}"
        ));
    }
    let env = beyond(&request.env.names, |name| grant.env.names.contains(name));
    if !env.is_empty() {
        words.push(format!("read environment variables: {env}"));
    }
    for (key, value) in request.limits.above(&grant.limits) {
        words.push(format!("a higher limit: {key} {value}"));
    }
    if let (Some(wanted), Some(granted)) = (request.rate.calls, grant.rate.calls)
        && wanted.stricter(granted) != wanted
    {
        words.push(format!("be called {wanted}, more often than {granted}"));
    }
    words
}

/// How a component's new version differs from the one before, in what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Difference {
    /// What it asks for that the one before did not, one sentence each.
    pub added: Vec<String>,
    /// What the one before asked for that it does not, one sentence each.
    pub removed: Vec<String>,
}

impl Difference {
    /// From the version before to the new one.
    #[must_use]
    pub fn between(before: &Manifest, now: &Manifest) -> Self {
        let mut added = wider_request(now, before);
        // Without a limit of its own a call gets the host's default, which may be more.
        let limits = now.limits.entries();
        let given_up = before.limits.entries().into_iter();
        added.extend(
            given_up
                .filter(|(key, _)| !limits.iter().any(|(own, _)| own == key))
                .map(|(key, value)| format!("no longer limit itself to: {key} {value}")),
        );
        Self {
            added,
            removed: wider_request(before, now),
        }
    }

    /// Whether the new version asks for anything that the one before did not: then what was decided about that one
    /// says nothing about it.
    #[must_use]
    pub fn is_wider(&self) -> bool {
        // THREAT[T-supply-wide-request]: a grant is taken over only by a version that asks for no more.
        !self.added.is_empty()
    }
}

/// What `request` asks for beyond `other`. A grant that says nothing of a limit grants what is asked; a manifest that
/// says nothing of it asks for the default. So limits count here as soon as they are set.
fn wider_request(request: &Manifest, other: &Manifest) -> Vec<String> {
    let mut words = wider_than(request, &Grant::everything_requested(other));
    let given_up = beyond(&other.network.deny, |rule| request.network.deny.contains(rule));
    if !given_up.is_empty() {
        words.push(format!("no longer refuse to reach: {given_up}"));
    }
    let others = other.limits.entries();
    for (key, value) in request.limits.entries() {
        if !others.iter().any(|(own, _)| *own == key) {
            words.push(format!("a limit of its own: {key} {value}"));
        }
    }
    if let (None, Some(rate)) = (request.rate.calls, other.rate.calls) {
        words.push(format!("be called more often than {rate}"));
    }
    words
}

fn beyond<T: std::fmt::Display + Clone>(wanted: &[T], granted: impl Fn(&T) -> bool) -> String {
    let beyond: Vec<T> = wanted.iter().filter(|item| !granted(item)).cloned().collect();
    joined(&beyond)
}
