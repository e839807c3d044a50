//! The words of a refusal: which capability, which layer decided, and what would change it.
//!
//! A refusal names the one rule that decided, if a rule did, and nothing else of its layer or of another one: who
//! asks a tool to try things out must not learn a policy from what it is refused.

use crate::{files::Access, network::Layer};
use serde::Serialize;
use std::fmt;

/// What a component may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// To reach a host.
    Network,
    /// To have a secret put into its requests.
    Credential,
    /// Workspace files.
    Files,
    /// The session's key-values.
    Kv,
    /// To have a message signed.
    Sign,
    /// To call other tools.
    CallTools,
    /// To be handed on to somebody outside.
    Detach,
    /// To run in the background.
    Background,
    /// To see an environment variable.
    Env,
    /// A limit of one call.
    Limit,
    /// How often it may be called.
    Rate,
}

impl Capability {
    /// Every capability, in the order in which explanations list them.
    pub const ALL: [Self; 11] = [
        Self::Network,
        Self::Credential,
        Self::Files,
        Self::Kv,
        Self::Sign,
        Self::CallTools,
        Self::Detach,
        Self::Background,
        Self::Env,
        Self::Limit,
        Self::Rate,
    ];

    /// In a word or two.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Credential => "credential",
            Self::Files => "files",
            Self::Kv => "key-values",
            Self::Sign => "sign",
            Self::CallTools => "call tools",
            Self::Detach => "detach",
            Self::Background => "background",
            Self::Env => "environment",
            Self::Limit => "limit",
            Self::Rate => "rate",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

/// What somebody may not do, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What was wanted.
    pub capability: Capability,
    /// The layer that decided.
    pub layer: Layer,
    /// What happened, why, and what to do.
    pub message: String,
}

impl Refusal {
    /// The refusal of `what` (`signing with KEY`), which `layer` does not allow; `setting` is what it lacks.
    #[must_use]
    pub fn not_allowed(layer: &Layer, what: &str, setting: &Setting<'_>) -> Self {
        // THREAT[T-sec-policy-probe]: made of what was asked and of the layer's name, of nothing that the layer holds.
        Self {
            capability: setting.capability(),
            layer: layer.clone(),
            message: format!(
                "{what} was denied: {}; {}",
                lacks(layer, setting.capability()),
                advice(layer, setting)
            ),
        }
    }
}

/// One entry that a layer would have to have.
#[derive(Debug, Clone, Copy)]
pub enum Setting<'a> {
    /// A network rule.
    Network(&'a str),
    /// A credential for this secret, bound to this host.
    Credential {
        /// The secret.
        secret: &'a str,
        /// Where it would go.
        host: &'a str,
    },
    /// Access to files.
    Files(Access),
    /// A path among those that files may be accessed below.
    FilesPath(&'a str),
    /// Access to key-values.
    Kv(Access),
    /// A secret to sign with.
    Sign(&'a str),
    /// A tool to call.
    CallTools(&'a str),
    /// To hand calls on.
    Detach,
    /// A tool that runs in the background.
    Background(&'a str),
    /// An environment variable.
    Env(&'a str),
    /// A limit, and the value it would need.
    Limit {
        /// The limit.
        key: &'a str,
        /// Its value.
        value: &'a str,
    },
    /// How often.
    Rate(&'a str),
}

impl Setting<'_> {
    /// The capability that it is about.
    #[must_use]
    pub const fn capability(&self) -> Capability {
        match self {
            Self::Network(_) => Capability::Network,
            Self::Credential { .. } => Capability::Credential,
            Self::Files(_) | Self::FilesPath(_) => Capability::Files,
            Self::Kv(_) => Capability::Kv,
            Self::Sign(_) => Capability::Sign,
            Self::CallTools(_) => Capability::CallTools,
            Self::Detach => Capability::Detach,
            Self::Background(_) => Capability::Background,
            Self::Env(_) => Capability::Env,
            Self::Limit { .. } => Capability::Limit,
            Self::Rate(_) => Capability::Rate,
        }
    }

    /// As a manifest or a grant has it: what to put where.
    fn in_component_file(&self) -> String {
        match self {
            Self::Network(rule) => format!("add `{rule}` to `allow` under `[network]`"),
            Self::Credential { secret, host } => {
                format!("add `{host}` to the `hosts` of a `[[credential]]` with `secret = \"{secret}\"`")
            }
            Self::Files(access) => format!("set `workspace = \"{access}\"` under `[files]`"),
            Self::FilesPath(path) => format!("add `{path}` to `paths` under `[files]`"),
            Self::Kv(access) => format!("set `access = \"{access}\"` under `[kv]`"),
            Self::Sign(name) => format!("add `{name}` to `sign` under `[secrets]`"),
            Self::CallTools(tool) => format!("add `{tool}` to `call` under `[tools]`"),
            Self::Detach => "set `detach = true` under `[jobs]`".to_owned(),
            Self::Background(tool) => format!("add `{tool}` to `background` under `[jobs]`"),
            Self::Env(name) => format!("add `{name}` to `names` under `[env]`"),
            Self::Limit { key, value } => format!("set `{key} = \"{value}\"` under `[limits]`"),
            Self::Rate(rate) => format!("set `calls = \"{rate}\"` under `[rate]`"),
        }
    }
}

/// Why the layer does not let it through, when none of its `deny` rules refuses it.
#[must_use]
pub fn lacks(layer: &Layer, capability: Capability) -> String {
    match (layer, capability) {
        (Layer::Request, _) => "the component's manifest does not request it".to_owned(),
        (Layer::Grant, _) => "the component's grant does not allow it".to_owned(),
        (Layer::Agent(name), Capability::CallTools) => {
            format!("the `tools` list of the agent `{name}` does not name it")
        }
        (Layer::Agent(name), Capability::Background) => {
            format!("the `background` list of the agent `{name}` does not name it")
        }
        (Layer::Agent(name), _) => format!("the network list of the agent `{name}` does not allow it"),
        (Layer::Session, Capability::Files) => "the session's `files` does not allow it".to_owned(),
        (Layer::Session, Capability::Background) => "the session's `background` list does not name it".to_owned(),
        (Layer::Session, _) => "the session's network list does not allow it".to_owned(),
        (Layer::Host, Capability::Limit) => "the host's ceiling does not allow it".to_owned(),
        (Layer::Host, _) => "the host-wide list does not allow it".to_owned(),
    }
}

/// Who changes what, in which place or by which command, so that the layer lets it through.
#[must_use]
pub fn advice(layer: &Layer, setting: &Setting<'_>) -> String {
    match layer {
        Layer::Request => format!(
            "to have it, the component's author would {} in tool.toml",
            setting.in_component_file()
        ),
        Layer::Grant => format!(
            "to allow it, {} of the grant (`fumehood tool grant`)",
            setting.in_component_file()
        ),
        Layer::Agent(name) => match setting {
            Setting::CallTools(tool) => {
                format!("to allow it, add `{tool}` to `tools` under `[agent.{name}]` in fumehood.toml")
            }
            Setting::Background(tool) => {
                format!("to allow it, add `{tool}` to `background` under `[agent.{name}]` in fumehood.toml")
            }
            Setting::Network(rule) => {
                format!("to allow it, add `{rule}` to `allow` under `[agent.{name}.network]` in fumehood.toml")
            }
            _ => format!("to allow it, the operator changes `[agent.{name}]` in fumehood.toml"),
        },
        Layer::Session => match setting {
            Setting::Network(rule) => {
                format!("to allow it, add `{rule}` to the session's `network.allow` (`PATCH /v1/sessions/…`)")
            }
            Setting::Files(access) => {
                format!("to allow it, set the session's `files` to `{access}` (`PATCH /v1/sessions/…`)")
            }
            Setting::Background(tool) => {
                format!("to allow it, add `{tool}` to the session's `background` (`PATCH /v1/sessions/…`)")
            }
            _ => "to allow it, change the session (`PATCH /v1/sessions/…`)".to_owned(),
        },
        Layer::Host => match setting {
            Setting::Network(rule) => {
                format!("to allow it, the operator adds `{rule}` to `allow` under `[network]` in fumehood.toml")
            }
            Setting::Limit { key, .. } => {
                format!("to allow it, the operator raises `{key}` under `[limits.ceiling]` in fumehood.toml")
            }
            _ => "to allow it, the operator changes fumehood.toml".to_owned(),
        },
    }
}

/// Who takes a `deny` rule of the layer away, and where.
#[must_use]
pub fn removal(layer: &Layer) -> String {
    match layer {
        Layer::Request => "the component's author can remove it from `deny` under `[network]` in tool.toml".to_owned(),
        Layer::Grant => {
            "whoever grants in the org can remove it from `deny` under `[network]` of the grant (`fumehood tool grant`)"
                .to_owned()
        }
        Layer::Agent(name) => {
            format!("the operator can remove it from `deny` under `[agent.{name}.network]` in fumehood.toml")
        }
        Layer::Session => {
            "whoever owns the session can remove it from its `network.deny` (`PATCH /v1/sessions/…`)".to_owned()
        }
        Layer::Host => "the operator can remove it from `deny` under `[network]` in fumehood.toml".to_owned(),
    }
}
