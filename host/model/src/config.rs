//! The operator's configuration of one model, and how it becomes a provider.

use crate::{
    event::{ModelInfo, Provider},
    http::{Endpoint, HttpProvider, Timeouts},
    scripted::{ScriptError, Scripted},
    windows,
    wire::{
        Wire,
        anthropic::Anthropic,
        chat::{Chat, Dialect},
        responses::Responses,
    },
};
use fumehood_core::{name::ModelName, price::Price};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};
use url::{Host, Url};

/// Retries of a model call for which nothing is configured.
pub const DEFAULT_RETRIES: u32 = 3;
/// The most that may be configured: with the waits that grow, more would outlast any turn.
pub const MOST_RETRIES: u32 = 10;

/// One `[model.NAME]` table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Whose model it is.
    pub provider: ProviderKind,
    /// Its name at the provider. Absent: [`ProviderKind::default_model`].
    #[serde(default)]
    pub model: Option<String>,
    /// The environment variable that holds the key. Absent: [`ProviderKind::default_key_env`], but only towards the
    /// provider's own base URL; a key is sent to another host only when this names it.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Where the provider's API begins, for example `https://api.openai.com/v1`. `https`, or `http` to a host that is
    /// not a public name: loopback and private addresses, names without a dot, and names under `local`, `internal`,
    /// `lan`, `home.arpa` and `localhost`.
    #[serde(default, deserialize_with = "url")]
    pub base_url: Option<Url>,
    /// OpenAI only: which of its two wires.
    #[serde(default)]
    pub wire: Option<OpenAiWire>,
    /// Scripted only: the script, YAML; see `docs/operators/scripted-model.md`. A relative path begins at the configuration file's
    /// directory. Absent: a built-in one that echoes.
    #[serde(default)]
    pub script: Option<PathBuf>,
    /// The most tokens of one answer. Absent: the provider's default (Anthropic, which has none: 16384).
    #[serde(default)]
    pub max_output_tokens: Option<u32>,
    /// How many tokens the model takes; what compaction goes by. Absent: that of the model, where it is known.
    #[serde(default)]
    pub context_window: Option<u64>,
    /// How hard a reasoning model thinks. Absent: nothing is sent, the provider's default holds.
    #[serde(default)]
    pub reasoning_effort: Option<ReasoningEffort>,
    /// Anthropic only, for models that take a budget instead of an effort: tokens of thinking, at least 1024.
    #[serde(default)]
    pub thinking_budget_tokens: Option<u32>,
    /// How often a call that failed is tried again, at most [`MOST_RETRIES`].
    #[serde(default = "default_retries")]
    pub max_retries: u32,
    /// The models to ask when this one doesn't answer, in this order.
    #[serde(default)]
    pub fallback: Vec<ModelName>,
    /// What its tokens cost.
    #[serde(default)]
    pub price: Option<Price>,
    /// How long a connection may take to open, for example `"10s"`.
    #[serde(default = "default_connect", deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// How long after sending the request the answer may take to begin.
    #[serde(default = "default_first_byte", deserialize_with = "duration")]
    pub first_byte_timeout: Duration,
    /// How long two events of the answer may be apart.
    #[serde(default = "default_idle", deserialize_with = "duration")]
    pub idle_timeout: Duration,
}

/// The providers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// OpenAI, and servers that speak one of its wires.
    #[serde(rename = "openai")]
    OpenAi,
    /// Anthropic, and servers that speak its Messages wire.
    Anthropic,
    /// Google Gemini, through its OpenAI-compatible endpoint.
    Gemini,
    /// Ollama, through its OpenAI-compatible endpoint.
    Ollama,
    /// Replies from a file.
    Scripted,
}

impl ProviderKind {
    /// The name in configuration and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Ollama => "ollama",
            Self::Scripted => "scripted",
        }
    }

    /// The model used when the configuration names none.
    #[must_use]
    pub const fn default_model(self) -> &'static str {
        match self {
            Self::OpenAi => "gpt-5",
            Self::Anthropic => "claude-sonnet-4-5",
            Self::Gemini => "gemini-2.5-pro",
            Self::Ollama => "llama3.2",
            Self::Scripted => "scripted",
        }
    }

    /// The environment variable that holds the key by convention.
    #[must_use]
    pub const fn default_key_env(self) -> Option<&'static str> {
        match self {
            Self::OpenAi => Some("OPENAI_API_KEY"),
            Self::Anthropic => Some("ANTHROPIC_API_KEY"),
            Self::Gemini => Some("GEMINI_API_KEY"),
            Self::Ollama | Self::Scripted => None,
        }
    }

    const fn default_base_url(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com",
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta/openai",
            Self::Ollama => "http://127.0.0.1:11434/v1",
            Self::Scripted => "http://localhost",
        }
    }
}

/// OpenAI's wires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpenAiWire {
    /// Responses: keeps encrypted reasoning between steps. The default.
    #[default]
    Responses,
    /// Chat Completions: what most compatible servers speak.
    Chat,
}

/// How hard a reasoning model thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningEffort {
    /// Little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
}

impl ReasoningEffort {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// How keys are looked up: the name of an environment variable to its value.
pub type SecretLookup<'a> = dyn Fn(&str) -> Option<SecretString> + 'a;

/// Why a configuration makes no provider. Says what to change; holds no key.
#[derive(Debug, thiserror::Error)]
pub enum ModelConfigError {
    /// The key is not in the environment.
    #[error(
        "provider `{provider}` needs a key: set the environment variable `{variable}`, or name another one in `api_key_env`"
    )]
    MissingKey {
        /// The provider.
        provider: &'static str,
        /// Where it was looked for.
        variable: String,
    },
    /// The key has characters that no header can carry.
    #[error("the key in `{variable}` has characters that a header cannot carry; check for line breaks and quotes")]
    UnusableKey {
        /// Where it came from.
        variable: String,
    },
    /// The base URL can't be used.
    #[error("`base_url` cannot be used: {reason}")]
    BaseUrl {
        /// What is wrong and what to write instead.
        reason: &'static str,
    },
    /// A key that does nothing for this provider.
    #[error("`{key}` has no meaning for provider `{provider}`; remove it")]
    NotForProvider {
        /// The key.
        key: &'static str,
        /// The provider.
        provider: &'static str,
    },
    /// A value out of its bounds.
    #[error("`{key}` {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong and what to write instead.
        problem: &'static str,
    },
    /// The script can't be used.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// The HTTP client can't be made.
    #[error("the HTTP client could not be set up: {0}")]
    Client(String),
}

impl ModelConfig {
    /// The configuration of a provider with everything else at its default.
    #[must_use]
    pub fn of(provider: ProviderKind) -> Self {
        Self {
            provider,
            model: None,
            api_key_env: None,
            base_url: None,
            wire: None,
            script: None,
            max_output_tokens: None,
            context_window: None,
            reasoning_effort: None,
            thinking_budget_tokens: None,
            max_retries: DEFAULT_RETRIES,
            fallback: Vec::new(),
            price: None,
            connect_timeout: default_connect(),
            first_byte_timeout: default_first_byte(),
            idle_timeout: default_idle(),
        }
    }

    /// What to use where nothing is configured: the first provider whose key is in the environment (Anthropic, OpenAI,
    /// Gemini, in this order), else the scripted model with its built-in script.
    #[must_use]
    pub fn from_environment(secrets: &SecretLookup<'_>) -> Self {
        let found = [ProviderKind::Anthropic, ProviderKind::OpenAi, ProviderKind::Gemini]
            .into_iter()
            .find(|provider| {
                provider
                    .default_key_env()
                    .is_some_and(|name| usable(secrets(name)).is_some())
            });
        Self::of(found.unwrap_or(ProviderKind::Scripted))
    }

    /// The model's name at the provider.
    #[must_use]
    pub fn model_name(&self) -> &str {
        self.model.as_deref().unwrap_or_else(|| self.provider.default_model())
    }

    /// A local server gives a model as much as it is set up to, whatever the model could take.
    fn known_window(&self) -> Option<u64> {
        match self.provider {
            ProviderKind::Ollama | ProviderKind::Scripted => None,
            ProviderKind::OpenAi | ProviderKind::Anthropic | ProviderKind::Gemini => windows::known(self.model_name()),
        }
    }

    fn check(&self) -> Result<(), ModelConfigError> {
        let kind = self.provider;
        let scripted = kind == ProviderKind::Scripted;
        let misplaced = [
            ("wire", self.wire.is_some() && kind != ProviderKind::OpenAi),
            ("script", self.script.is_some() && !scripted),
            (
                "thinking_budget_tokens",
                self.thinking_budget_tokens.is_some() && kind != ProviderKind::Anthropic,
            ),
            ("reasoning_effort", self.reasoning_effort.is_some() && scripted),
            ("base_url", self.base_url.is_some() && scripted),
            ("api_key_env", self.api_key_env.is_some() && scripted),
        ];
        if let Some((key, _)) = misplaced.into_iter().find(|(_, misplaced)| *misplaced) {
            return Err(ModelConfigError::NotForProvider {
                key,
                provider: kind.as_str(),
            });
        }
        let bad = |key, problem| Err(ModelConfigError::Value { key, problem });
        if self.model.as_deref().is_some_and(|model| model.trim().is_empty()) {
            return bad(
                "model",
                "is empty; name a model of the provider, or remove the key for its default",
            );
        }
        if self.max_output_tokens == Some(0) {
            return bad("max_output_tokens", "is 0; give a positive number, or remove the key");
        }
        if self.context_window == Some(0) {
            return bad(
                "context_window",
                "is 0; give the tokens that the model takes, or remove the key",
            );
        }
        if self.thinking_budget_tokens.is_some_and(|budget| budget < 1024) {
            return bad(
                "thinking_budget_tokens",
                "is below 1024, the least that the provider takes",
            );
        }
        if self.thinking_budget_tokens.is_some() && self.reasoning_effort.is_some() {
            return bad(
                "thinking_budget_tokens",
                "cannot stand beside `reasoning_effort`; keep the one that the model takes",
            );
        }
        if self.max_retries > MOST_RETRIES {
            return bad(
                "max_retries",
                "is above 10; the waits grow, and no turn lasts that long",
            );
        }
        for (key, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("idle_timeout", self.idle_timeout),
        ] {
            if timeout.is_zero() || timeout > Duration::from_hours(1) {
                return bad(key, "is not between 1ms and 1h");
            }
        }
        Ok(())
    }

    fn key(&self, secrets: &SecretLookup<'_>) -> Result<Option<(String, SecretString)>, ModelConfigError> {
        let provider = self.provider.as_str();
        if let Some(name) = &self.api_key_env {
            return match usable(secrets(name)) {
                Some(key) => Ok(Some((name.clone(), key))),
                None => Err(ModelConfigError::MissingKey {
                    provider,
                    variable: name.clone(),
                }),
            };
        }
        // THREAT[T-sec-exfiltration]: a provider's key goes to that provider; to another host only by name.
        let (None, Some(name)) = (&self.base_url, self.provider.default_key_env()) else {
            return Ok(None);
        };
        match usable(secrets(name)) {
            Some(key) => Ok(Some((name.to_owned(), key))),
            None => Err(ModelConfigError::MissingKey {
                provider,
                variable: name.to_owned(),
            }),
        }
    }

    fn wire(&self) -> Arc<dyn Wire> {
        let model = self.model_name().to_owned();
        let (limit, effort) = (self.max_output_tokens, self.reasoning_effort);
        let chat = |dialect| Arc::new(Chat::new(model.clone(), dialect, limit, effort)) as Arc<dyn Wire>;
        match (self.provider, self.wire.unwrap_or_default()) {
            (ProviderKind::OpenAi, OpenAiWire::Responses) => Arc::new(Responses::new(model, limit, effort)),
            (ProviderKind::OpenAi, OpenAiWire::Chat) => chat(match self.base_url {
                None => Dialect::OpenAi,
                Some(_) => Dialect::LikeOpenAi,
            }),
            (ProviderKind::Gemini, _) => chat(Dialect::Gemini),
            (ProviderKind::Ollama | ProviderKind::Scripted, _) => chat(Dialect::Ollama),
            (ProviderKind::Anthropic, _) => Arc::new(Anthropic::new(model, limit, effort, self.thinking_budget_tokens)),
        }
    }
}

/// Makes the provider of a configuration. Reads the script of a scripted one; opens no connection.
///
/// # Errors
/// When the configuration contradicts itself, the key is missing, or the script can't be read.
pub fn build(config: &ModelConfig, secrets: &SecretLookup<'_>) -> Result<Arc<dyn Provider>, ModelConfigError> {
    config.check()?;
    let info = ModelInfo {
        provider: config.provider,
        model: config.model_name().to_owned(),
        context_window: config.context_window.or_else(|| config.known_window()),
    };
    if config.provider == ProviderKind::Scripted {
        let scripted = match &config.script {
            Some(path) => Scripted::from_file(path)?,
            None => Scripted::built_in(),
        };
        return Ok(Arc::new(scripted.named(info)));
    }
    let base = match &config.base_url {
        Some(url) => url.clone(),
        None => Url::parse(config.provider.default_base_url()).map_err(|_| ModelConfigError::BaseUrl {
            reason: "the built-in one is wrong",
        })?,
    };
    check_base_url(&base)?;
    let endpoint = Endpoint {
        loopback: is_loopback(&base),
        base,
        key: config.key(secrets)?,
        timeouts: Timeouts {
            connect: config.connect_timeout,
            first_byte: config.first_byte_timeout,
            idle: config.idle_timeout,
        },
    };
    Ok(Arc::new(HttpProvider::new(config.wire(), endpoint, info)?))
}

fn usable(key: Option<SecretString>) -> Option<SecretString> {
    use secrecy::ExposeSecret;
    key.filter(|key| !key.expose_secret().trim().is_empty())
}

fn check_base_url(url: &Url) -> Result<(), ModelConfigError> {
    let refuse = |reason| Err(ModelConfigError::BaseUrl { reason });
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(
            "it holds a user or password; put the key into an environment variable and name it in `api_key_env`",
        );
    }
    if url.fragment().is_some() {
        return refuse("it has a fragment (`#…`); remove it");
    }
    match (url.scheme(), url.host()) {
        // THREAT[T-sec-exfiltration]: the key and the conversation don't cross the internet in the clear.
        ("https", Some(_)) => Ok(()),
        ("http", Some(host)) if is_private(&host) => Ok(()),
        ("http", _) => refuse(
            "it is `http` to a public host, where anybody on the way can read the key and the conversation; write `https`",
        ),
        _ => refuse("it is not an `https` URL; write for example `https://api.example.com/v1`"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => in_zone(name, "localhost"),
        None => false,
    }
}

/// Whether a host is on the operator's own network as far as its name or address tells.
fn is_private(host: &Host<&str>) -> bool {
    let address = match *host {
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            return !name.contains('.')
                || ["localhost", "local", "internal", "lan", "home.arpa"]
                    .into_iter()
                    .any(|zone| in_zone(name, zone));
        }
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => address.to_canonical(),
    };
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn in_zone(name: &str, zone: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.strip_suffix(zone)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

const fn default_retries() -> u32 {
    DEFAULT_RETRIES
}

const fn default_connect() -> Duration {
    Duration::from_secs(10)
}

/// Long: a local server loads the model first.
const fn default_first_byte() -> Duration {
    Duration::from_secs(180)
}

/// Long: a reasoning model may be silent for minutes between its first event and its answer.
const fn default_idle() -> Duration {
    Duration::from_secs(300)
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    // The text is not repeated: somebody may have written a key into it.
    Url::parse(&text)
        .map(Some)
        .map_err(|error| D::Error::custom(format!("`base_url` is not a URL: {error}")))
}

/// `"500ms"`, `"30s"`, `"5m"`, `"1h"`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom("not a duration: write for example \"500ms\", \"30s\" or \"5m\""))
}

fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests;
