//! The configuration: `fumehood.toml`, then `FUMEHOOD_` environment variables, then defaults. Every key is optional.
//!
//! A key that is not known is refused, and so is a value that would not be enforced: a host never starts with a
//! configuration that it did not understand.

mod agent;
mod callbacks;
mod effective;
mod faults;
mod files;
mod jobs;
mod keys;
mod kv;
mod limits;
mod org_limits;
mod overrides;
mod recordings;
mod retention;
mod schedules;
mod shape;
mod shutdown;
#[cfg(test)]
mod tests;
mod tools;

pub(crate) use agent::EffectiveAgent;
pub(crate) use effective::Effective;
pub(crate) use faults::told;
pub(crate) use keys::{VARIABLES, meanings};
pub(crate) use limits::InstallLimits;
pub(crate) use shape::{Key, keys};

use crate::{
    compiled_code,
    distribution::{Source, Trust},
    fault::OrFault as _,
};
use anyhow::{Context as _, bail};
use fumehood_agent::host::RetentionRules;
use fumehood_core::{
    digest::Digest,
    name::{AgentName, ComponentName, ModelName, OrgName, SkillName, ToolName},
};
use fumehood_egress::{CertificateDer, certificate_authorities};
use fumehood_model::{ModelConfig, SecretLookup, resolve_fallbacks};
use fumehood_policy::{
    address::PrivateNetworks,
    agent::{AgentConfig, resolve_agents},
    authority::HostPolicy,
    bounded,
    grant::Grant,
    network::{NetworkList, NetworkRule},
    retention::Retention,
    spending::OrgBudget,
    toml_text,
};
use fumehood_store::{Quotas, StoreUrl};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The file looked for when none is named.
pub(crate) const FILE: &str = "fumehood.toml";
/// The whole configuration, as a file may state it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where the host listens.
    #[serde(default = "default_listen")]
    pub(crate) listen: SocketAddr,
    /// Where it keeps everything.
    #[serde(default = "default_data_dir")]
    pub(crate) data_dir: PathBuf,
    /// The database.
    #[serde(default)]
    pub(crate) store: UrlSection,
    /// The bus of a cluster; must be empty in this version.
    #[serde(default)]
    bus: UrlSection,
    /// Where rates are kept; empty: in the process.
    #[serde(default)]
    limits_store: UrlSection,
    /// What calls may use.
    #[serde(default)]
    limits: limits::CallLimits,
    /// Who reads `/metrics`.
    #[serde(default)]
    pub(crate) metrics: MetricsSection,
    /// The log.
    #[serde(default)]
    pub(crate) log: LogSection,
    /// The models, by the names agents use.
    #[serde(default)]
    pub(crate) model: BTreeMap<ModelName, ModelConfig>,
    /// The host-wide network list.
    #[serde(default)]
    network: NetworkSection,
    /// What the files of each session may take.
    #[serde(default)]
    files: files::FilesSection,
    /// What the key-values of each session may take.
    #[serde(default)]
    kv: kv::KvSection,
    /// What is kept of calls so that they can be replayed.
    #[serde(default)]
    pub(crate) recordings: recordings::RecordingsSection,
    /// How it ends.
    #[serde(default)]
    pub(crate) shutdown: shutdown::ShutdownSection,
    /// Calls that tools hand on.
    #[serde(default)]
    pub(crate) callbacks: callbacks::CallbacksSection,
    /// Calls that run in the background.
    #[serde(default)]
    pub(crate) jobs: jobs::JobsSection,
    /// What schedules may be.
    #[serde(default)]
    pub(crate) schedules: schedules::SchedulesSection,
    /// How long things are kept.
    #[serde(default)]
    retention: retention::RetentionSection,
    /// Per org.
    #[serde(default)]
    org: BTreeMap<OrgName, OrgSection>,
    /// The agents.
    #[serde(default)]
    pub(crate) agent: BTreeMap<AgentName, AgentConfig>,
    /// The skills, by the names agents use.
    #[serde(default)]
    pub(crate) skill: BTreeMap<SkillName, SkillSection>,
    /// Where components come from.
    #[serde(default)]
    pub(crate) tools: tools::ToolsSection,
    /// Components to install at start.
    #[serde(default)]
    pub(crate) tool: BTreeMap<ComponentName, ToolSection>,
    /// MCP servers; must be empty in this version.
    #[serde(default)]
    mcp: BTreeMap<String, toml::Value>,
}

/// `[store]`, `[bus]`, `[limits_store]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UrlSection {
    /// Absent or empty: the default.
    #[serde(default)]
    pub(crate) url: String,
}

/// `[skill.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SkillSection {
    /// The directory with its `SKILL.md`; a relative path begins at the configuration file's directory.
    pub(crate) source: PathBuf,
}

/// `[metrics]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsSection {
    /// Whether everybody reads them, or nobody without a key of the org `default`. Absent: who is on this machine, if the
    /// host listens on loopback.
    #[serde(default)]
    pub(crate) public: Option<bool>,
}

/// `[log]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogSection {
    /// Absent: JSON lines from a serving host whose standard error is no terminal, else text.
    #[serde(default)]
    pub(crate) format: Option<LogFormat>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For machines: an object per line.
    Json,
}

/// `[network]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkSection {
    #[serde(default)]
    private_networks: PrivateNetworks,
    #[serde(default, deserialize_with = "bounded::some_entries")]
    allow: Option<Vec<NetworkRule>>,
    #[serde(default, deserialize_with = "bounded::entries")]
    deny: Vec<NetworkRule>,
    /// Files in PEM with authorities of the operator's own.
    #[serde(default)]
    certificate_authorities: Vec<PathBuf>,
}

/// `[org.NAME]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OrgSection {
    /// What the org may use.
    #[serde(default)]
    limits: org_limits::Section,
    /// What the org may spend on models in a day or month.
    #[serde(default)]
    budget: Option<OrgBudget>,
    /// How long its things are kept, where it is otherwise than for all.
    #[serde(default)]
    retention: retention::RetentionSection,
}

/// `[tool.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolSection {
    /// Where it is. A path is relative to the configuration file.
    pub(crate) source: Source,
    /// Refuse any other code.
    #[serde(default)]
    pub(crate) digest: Option<Digest>,
    /// What it may do; absent: somebody decides with `fumehood tool grant`.
    #[serde(default)]
    pub(crate) grant: Option<Grant>,
}

/// A configuration and where it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    /// The file, if there was one.
    pub(crate) file: Option<PathBuf>,
    /// The variables that override it.
    pub(crate) variables: Vec<String>,
    /// What in it has no effect or contradicts itself, with file and line.
    pub(crate) warnings: Vec<String>,
}

impl Loaded {
    /// A refusal that begins with its section, with the line of that section in the file.
    pub(crate) fn located(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(file) = &self.file else { return error };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        faults::located(error, &file.display().to_string(), &text)
    }

    /// Whose signatures count.
    pub(crate) fn trust(&self) -> anyhow::Result<Trust> {
        let trust = self.config.tools.trust(self.base());
        trust.map_err(|error| self.located(error)).or_fault()
    }

    /// The certificates of the operator's own authorities, read. They vouch for servers that tools and webhooks reach.
    pub(crate) fn certificate_authorities(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        let mut all = Vec::new();
        for file in &self.config.network.certificate_authorities {
            let file = self.base().join(file);
            let refused = || format!("[network] certificate_authorities: {}", file.display());
            let read = std::fs::read(&file).map_err(anyhow::Error::from);
            let certificates = read.and_then(|text| Ok(certificate_authorities(&text)?));
            let certificates = certificates.with_context(refused);
            all.extend(certificates.map_err(|error| self.located(error)).or_fault()?);
        }
        Ok(all)
    }

    /// Where components that were fetched are kept.
    pub(crate) fn tool_cache(&self) -> anyhow::Result<PathBuf> {
        match &self.config.tools.cache {
            Some(dir) => Ok(self.base().join(dir)),
            None => Ok(compiled_code::user_cache()?.join("components")),
        }
    }

    /// The directory that relative paths of the configuration start from.
    pub(crate) fn base(&self) -> &Path {
        self.file
            .as_deref()
            .and_then(Path::parent)
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }
}

/// Reads the configuration. `file` is the one named by the user; without it `fumehood.toml` is read if it exists.
pub(crate) fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (String, String)>,
) -> anyhow::Result<Loaded> {
    let file = match file {
        Some(file) => Some(file.to_owned()),
        None => Some(PathBuf::from(FILE)).filter(|file| file.exists()),
    };
    let text = match &file {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => String::new(),
    };
    let name = file.as_deref().map_or(FILE.into(), |file| file.display().to_string());
    // Parsed on its own first, so that a fault in the file is reported with its line.
    let mut config: Config = toml_text::parse(&text).with_context(|| format!("{name} is not a valid configuration"))?;
    let overrides = overrides::overrides(variables)?;
    if !overrides.is_empty() {
        let mut table: toml::Table = toml::from_str(&text).with_context(|| format!("{name} is not valid TOML"))?;
        for over in &overrides {
            over.set(&mut table)?;
        }
        config = table.try_into().with_context(|| {
            let names: Vec<_> = overrides.iter().map(|over| over.variable.as_str()).collect();
            format!("the configuration is not valid with {}", names.join(", "))
        })?;
    }
    check(&config).map_err(|error| faults::located(error, &name, &text))?;
    Ok(Loaded {
        warnings: faults::warnings(&config, &name, &text),
        config,
        file,
        variables: overrides.into_iter().map(|over| over.variable).collect(),
    })
}

impl Config {
    /// Whether it names a component of a registry or a web server by this name.
    pub(crate) fn names_elsewhere(&self, name: &ComponentName) -> bool {
        self.tool.get(name).is_some_and(|section| section.source.is_remote())
    }

    /// The orgs that it sets limits for.
    pub(crate) fn orgs(&self) -> impl Iterator<Item = &OrgName> {
        self.org.keys()
    }

    /// The operator's part of every call's authority.
    pub(crate) fn host_policy(&self) -> HostPolicy {
        let network = NetworkList {
            allow: self.network.allow.clone(),
            deny: self.network.deny.clone(),
        };
        HostPolicy {
            network,
            private_networks: self.network.private_networks.clone(),
            defaults: self.limits.defaults(),
            ceilings: self.limits.ceilings(),
        }
    }

    /// What calls may use, and what components may be.
    pub(crate) const fn call_limits(&self) -> &limits::CallLimits {
        &self.limits
    }

    /// What the orgs may spend.
    pub(crate) fn budgets(&self) -> BTreeMap<OrgName, OrgBudget> {
        let of = |(name, org): (&OrgName, &OrgSection)| Some((name.clone(), org.budget?));
        self.org.iter().filter_map(of).collect()
    }

    /// What each session may keep.
    pub(crate) fn quotas(&self) -> Quotas {
        Quotas {
            files: self.files.in_effect(),
            snapshots: self.files.snapshots(),
            key_values: self.kv.in_effect(),
        }
    }

    /// The models, with `main` taken from the environment where the file has none.
    pub(crate) fn models(&self, secrets: &SecretLookup<'_>) -> BTreeMap<ModelName, ModelConfig> {
        let mut models = self.model.clone();
        if let Ok(main) = ModelName::new("main") {
            models
                .entry(main)
                .or_insert_with(|| ModelConfig::from_environment(secrets));
        }
        models
    }

    /// Makes every agent use one model.
    pub(crate) fn use_model(&mut self, model: &ModelName) -> anyhow::Result<()> {
        if !self.models(&|_| None).contains_key(model) {
            bail!("there is no model `{model}`; add [model.{model}] to the configuration");
        }
        self.agent = self.agents();
        for agent in self.agent.values_mut() {
            agent.model = Some(model.clone());
        }
        Ok(())
    }

    /// The agents, with `assistant` where the file has none.
    pub(crate) fn agents(&self) -> BTreeMap<AgentName, AgentConfig> {
        let mut agents = self.agent.clone();
        if agents.is_empty() {
            let instructions =
                "You are a helpful assistant. Use the tools you are offered when they help, and say what you did.";
            let assistant = AgentConfig {
                instructions: Some(instructions.into()),
                ..AgentConfig::default()
            };
            agents.extend(default_agent_name().map(|name| (name, assistant)));
        }
        agents
    }

    /// The agent of sessions that name none: `assistant` where there is one, else the first.
    pub(crate) fn default_agent(&self) -> anyhow::Result<AgentName> {
        let agents = self.agents();
        let assistant = default_agent_name().filter(|name| agents.contains_key(name));
        assistant
            .or_else(|| agents.keys().next().cloned())
            .context("there is no agent")
    }
}

fn default_agent_name() -> Option<AgentName> {
    AgentName::new("assistant").ok()
}

/// What a file may say but this version would not do is refused, not passed over.
fn check(config: &Config) -> anyhow::Result<()> {
    if !config.bus.url.is_empty() {
        bail!("[bus] url is set, but this version has no bus; remove it");
    }
    config.store_url().parse::<StoreUrl>().context("[store] url")?;
    config.limits.check()?;
    config.shutdown.check()?;
    org_limits::check(config)?;
    if let Some(name) = config.mcp.keys().next() {
        bail!("[mcp.{name}] is set, but this version does not use MCP servers; remove it");
    }
    if let Some(name) = config
        .tool
        .keys()
        .find(|name| ToolName::new(name.replace('-', "_")).is_err())
    {
        bail!("[tool.{name}] is not a component's name");
    }
    config.files.check()?;
    config.schedules.check()?;
    config.retention.check("retention")?;
    for (name, org) in &config.org {
        org.retention.check(&format!("org.{name}.retention"))?;
    }
    config.callbacks.check()?;
    config.tools.check()?;
    config.jobs.check()?;
    let agents = config.agents();
    let chains = resolve_agents(&agents)?;
    let models = config.models(&|_| None);
    resolve_fallbacks(&models)?;
    for (name, agent) in &config.agent {
        if agent.budget.time.is_some_and(|time| time.as_millis() == 0) {
            bail!(
                "[agent.{name}.budget] time is zero, so no turn could begin; use a span above zero, or leave the key out"
            );
        }
    }
    for (name, agent) in &agents {
        let mut skills = agent.skills.iter().flatten();
        if let Some(skill) = skills.find(|skill| !config.skill.contains_key(*skill)) {
            bail!("[agent.{name}] has the skill `{skill}`, which is not configured; add [skill.{skill}]");
        }
    }
    for (name, chain) in &chains {
        let model = chain.last().map(|leaf| &leaf.model);
        if let Some(model) = model.filter(|model| !models.contains_key(*model)) {
            bail!("[agent.{name}] uses the model `{model}`, which is not configured; add [model.{model}]");
        }
    }
    Ok(())
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7070))
}

fn default_data_dir() -> PathBuf {
    PathBuf::from(".fumehood")
}

impl Config {
    /// How long things are kept.
    pub(crate) fn retention(&self) -> RetentionRules {
        let usual = self.retention.within(Retention::default());
        let orgs = self.org.iter();
        RetentionRules {
            usual,
            orgs: orgs
                .map(|(name, org)| (name.clone(), org.retention.within(usual)))
                .collect(),
        }
    }

    /// The database's URL.
    pub(crate) fn store_url(&self) -> String {
        if self.store.url.is_empty() {
            format!("sqlite:{}", self.data_dir.join("fumehood.db").display())
        } else {
            self.store.url.clone()
        }
    }
}
