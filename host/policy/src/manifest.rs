//! What a component requests: `tool.toml`, also embedded in the component.

use crate::{
    credential::Credential,
    files::{Access, Files, KvAccess},
    limits::LimitsRequest,
    network::NetworkList,
    quantity::Rate,
    text_serde::{as_text, shown},
    tool_pattern::ToolPattern,
};
use fumehood_core::name::{ComponentName, SecretName};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{fmt, str::FromStr, sync::Arc};

pub use crate::toml_text::TomlError as ManifestError;

/// The longest manifest, in bytes.
pub const MAX_MANIFEST: usize = 64 << 10;

/// A manifest: the component's name, and what it asks for. What is absent is not asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The component's name.
    pub name: ComponentName,
    /// The author's version; any text of 1 to 64 characters.
    #[serde(deserialize_with = "version_text")]
    pub version: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Whom it wants to reach. Without `allow`: nobody.
    #[serde(default, skip_serializing_if = "NetworkList::is_absent")]
    pub network: NetworkList,
    /// Secrets that the host is to put into its requests.
    #[serde(
        default,
        rename = "credential",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::credentials"
    )]
    pub credentials: Vec<Credential>,
    /// Workspace files.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: Files,
    /// Key-values.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kv: KvSection,
    /// Secrets that the host is to sign with.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secrets: SecretsSection,
    /// Other tools it wants to call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tools: ToolsSection,
    /// Work that outlasts a call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub jobs: JobsSection,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: EnvSection,
    /// Limits it asks for; the host's ceilings win.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: LimitsRequest,
    /// How often it may be called.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rate: RateSection,
}

/// `[kv]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvSection {
    /// How far.
    #[serde(default)]
    pub access: KvAccess,
}

/// `[secrets]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsSection {
    /// Secrets to sign with.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::entries"
    )]
    pub sign: Vec<SecretName>,
}

/// `[tools]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolsSection {
    /// Tools to call.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::entries"
    )]
    pub call: Vec<ToolPattern>,
}

/// `[jobs]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobsSection {
    /// Whether a call may be handed on to somebody outside, who ends it later.
    #[serde(default)]
    pub detach: bool,
    /// Its own tools whose calls run on in the background, and do not keep the turn that asks for them.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::entries"
    )]
    pub background: Vec<ToolPattern>,
}

/// `[env]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvSection {
    /// Names of variables.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::entries"
    )]
    pub names: Vec<EnvName>,
}

/// `[rate]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateSection {
    /// Calls of the component's tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<Rate>,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn version_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if (1..=64).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Ok(text)
    } else {
        Err(D::Error::custom(
            "a version is 1 to 64 characters without spaces, as in \"0.1.0\"",
        ))
    }
}

/// The name of an environment variable: `[A-Za-z_][A-Za-z0-9_]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvName(Arc<str>);

/// Why a text is not the name of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not the name of an environment variable: use letters, digits and underscores, not starting with a digit"
)]
pub struct ParseEnvNameError(String);

impl EnvName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EnvName {
    type Err = ParseEnvNameError;

    fn from_str(text: &str) -> Result<Self, ParseEnvNameError> {
        let first = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if first && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            Ok(Self(text.into()))
        } else {
            Err(ParseEnvNameError(shown(text)))
        }
    }
}

as_text!(EnvName, "the name of an environment variable");

impl Manifest {
    /// The manifest of a component that has none: it asks for nothing.
    #[must_use]
    pub fn without_requests(name: ComponentName) -> Self {
        Self {
            name,
            version: "0.0.0".to_owned(),
            description: String::new(),
            network: NetworkList::default(),
            credentials: Vec::new(),
            files: Files::default(),
            kv: KvSection::default(),
            secrets: SecretsSection::default(),
            tools: ToolsSection::default(),
            jobs: JobsSection::default(),
            env: EnvSection::default(),
            limits: LimitsRequest::default(),
            rate: RateSection::default(),
        }
    }

    /// Reads a `tool.toml`.
    ///
    /// # Errors
    /// With the line, and what is accepted there; unknown keys are refused.
    pub fn parse_toml(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MAX_MANIFEST {
            return Err(ManifestError {
                line: None,
                message: format!(
                    "the manifest has {} bytes, where at most {MAX_MANIFEST} are accepted; make it shorter",
                    text.len()
                ),
            });
        }
        crate::toml_text::parse(text)
    }

    /// What the component asks for, one sentence each, for whoever decides on the grant.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let mut words = Vec::new();
        match self.network.allow.as_deref() {
            None | Some([]) => {}
            Some(rules) => words.push(format!("reach over the network: {}", joined(rules))),
        }
        if !self.network.deny.is_empty() {
            words.push(format!("never reach: {}", joined(&self.network.deny)));
        }
        for credential in &self.credentials {
            words.push(describe_credential(credential));
        }
        if self.files.access != Access::None {
            let what = if self.files.access.can_write() {
                "read and change"
            } else {
                "read"
            };
            words.push(match &self.files.paths {
                None => format!("{what} every file of the session's workspace"),
                Some(paths) => format!("{what} workspace files in: {}", joined(paths)),
            });
        }
        match self.kv.access {
            Access::None => {}
            Access::Read => words.push("read the session's key-values".to_owned()),
            Access::ReadWrite => words.push("read and change the session's key-values".to_owned()),
        }
        if !self.secrets.sign.is_empty() {
            words.push(format!(
                "sign messages with: {} (it never sees the key)",
                joined(&self.secrets.sign)
            ));
        }
        if !self.tools.call.is_empty() {
            words.push(format!("call other tools: {}", joined(&self.tools.call)));
        }
        if self.jobs.detach {
            words.push("hand calls on to somebody outside, who ends them later".to_owned());
        }
        if !self.jobs.background.is_empty() {
            words.push(format!(
                "run these of its tools in the background, for longer than a call may: {}",
                joined(&self.jobs.background)
            ));
        }
        if !self.env.names.is_empty() {
            words.push(format!("read environment variables: {}", joined(&self.env.names)));
        }
        let limits = self.limits.entries();
        if !limits.is_empty() {
            let limits: Vec<String> = limits.iter().map(|(key, value)| format!("{key} {value}")).collect();
            words.push(format!("use up to: {}", joined(&limits)));
        }
        if let Some(rate) = self.rate.calls {
            words.push(format!("be called at most {rate}"));
        }
        words
    }
}

pub(crate) fn describe_credential(credential: &Credential) -> String {
    format!(
        "have the host send the secret {} to {} in {} (it never sees the value)",
        credential.secret,
        joined(&credential.hosts),
        credential.inject
    )
}

pub(crate) fn joined<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
