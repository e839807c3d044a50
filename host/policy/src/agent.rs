//! Agents: their configuration, and how a chain of `extends` folds from root to leaf.

use crate::{
    approval::{ApprovalRules, RuleError},
    hook::{HookConfig, HookError, HookSpec, MOST_HOOKS},
    network::NetworkList,
    quantity::{ByteSize, Span},
    spending::SpendingLimit,
    time_zone::TimeZone,
    tool_pattern::ToolPattern,
};
use fumehood_core::{
    name::{AgentName, ComponentName, HookName, Locale, ModelName, SkillName, ToolName},
    turn::Budget,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::RangeInclusive};

/// `[agent.NAME]` of the configuration. What is absent comes from the agent it extends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// A configured model. None in the whole chain: the model `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Added after the parent's instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Tools it offers the model. Absent: does not narrow. Empty: none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bounded::some_entries"
    )]
    pub tools: Option<Vec<ToolPattern>>,
    /// The agent it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<AgentName>,
    /// Whom its tools may reach, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkList>,
    /// Tools whose calls may run in the background, at most. Absent: does not narrow. Empty: none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bounded::some_entries"
    )]
    pub background: Option<Vec<ToolPattern>>,
    /// How much text of one tool's result the model gets, from `1KiB` to `16MiB`; of a longer one it gets the beginning and the end,
    /// and the whole is a file of the session. None in the whole chain: `64KiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_output: Option<ByteSize>,
    /// Skills it may read, of those configured. Absent: the parent's. Never more than a parent has that lists any.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bounded::some_entries"
    )]
    pub skills: Option<Vec<SkillName>>,
    /// Whether the model is shown all tools, or searches for those it needs. None in the whole chain: `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_search: Option<ToolSearch>,
    /// For whom it writes: told to the model and to tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
    /// Where its day begins and ends, an IANA name such as `Europe/Zurich`: told to the model with the date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<TimeZone>,
    /// What a turn may use; each part overrides the parent's. A part that none in the chain has is that of [`TURN_BUDGET`].
    #[serde(default)]
    pub budget: SpendingLimit,
    /// What all turns of a session may spend together; each part overrides the parent's.
    #[serde(default)]
    pub session_budget: SpendingLimit,
    /// Which calls wait for a person or are refused; the first rule that fits a call decides.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::entries"
    )]
    pub approval: Vec<ApprovalRule>,
    /// How long a call waits for a person before it counts as rejected; from a second to 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_timeout: Option<Span>,
    /// Whether it is kept what its tools were answered from outside, so that its turns can be replayed. None in the whole chain: it is
    /// not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<bool>,
    /// Who is asked or told what happens in a turn; after those of the agent it extends.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::entries"
    )]
    pub hook: Vec<HookConfig>,
}

/// Whether a model is shown all tools, or searches for those it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolSearch {
    /// It searches where there are many tools, or their schemas are long.
    #[default]
    Auto,
    /// It searches.
    Always,
    /// It is shown all.
    Never,
}

/// What a turn may use where no agent of the chain says.
pub const TURN_BUDGET: Budget = Budget {
    tokens: None,
    time_ms: Some(10 * 60 * 1000),
    tool_calls: Some(100),
    steps: Some(50),
    cost: None,
};

/// How long a call waits for a person where no agent of the chain says.
pub const APPROVAL_TIMEOUT: Span = Span::from_secs(24 * 60 * 60);
/// The shortest and the longest that a call may wait for a person.
pub const APPROVAL_TIMEOUTS: RangeInclusive<Span> = Span::from_secs(1)..=Span::from_secs(30 * 24 * 60 * 60);

/// `[[agent.NAME.approval]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRule {
    /// Which tools.
    pub tool: ToolPattern,
    /// Under which condition, in CEL; see [`crate::approval`]. Absent: always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What then.
    pub decide: ApprovalDecision,
}

/// What an approval rule decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalDecision {
    /// Run it.
    Allow,
    /// Ask a person.
    Ask,
    /// Refuse it.
    Deny,
}

/// An agent with what its ancestors gave it. `tools`, `network`, `background`, `approval` and `hooks` are its own: every agent of the
/// chain is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSpec {
    /// Its name.
    pub name: AgentName,
    /// The model; the nearest in the chain.
    pub model: ModelName,
    /// The instructions of the chain down to here, root first, an empty line between.
    pub instructions: String,
    /// Its own list of tools; absent: it does not narrow.
    pub tools: Option<Vec<ToolPattern>>,
    /// Its own network list; absent: it does not narrow.
    pub network: Option<NetworkList>,
    /// Its own list of tools whose calls may run in the background; absent: it does not narrow.
    pub background: Option<Vec<ToolPattern>>,
    /// The budget, each part the nearest in the chain, else that of [`TURN_BUDGET`].
    pub budget: Budget,
    /// What a session may spend, each part the nearest in the chain.
    pub session_budget: SpendingLimit,
    /// How much text of one tool's result the model gets; the nearest in the chain.
    pub tool_output: ByteSize,
    /// The skills it may read: the nearest list of the chain; absent: none, and an agent that extends it may have any.
    pub skills: Option<Vec<SkillName>>,
    /// Whether the model searches for tools; the nearest in the chain.
    pub tool_search: ToolSearch,
    /// For whom it writes; the nearest in the chain.
    pub locale: Option<Locale>,
    /// Where its day begins and ends; the nearest in the chain.
    pub time_zone: Option<TimeZone>,
    /// Its own approval rules.
    pub approval: ApprovalRules,
    /// How long a call waits for a person; the nearest in the chain.
    pub approval_timeout: Span,
    /// Whether its turns are recorded; the nearest in the chain.
    pub record: bool,
    /// Its own hooks.
    pub hooks: Vec<HookSpec>,
}

/// What [`AgentConfig::tool_output`] is where nothing is said.
pub const TOOL_OUTPUT: ByteSize = ByteSize::kib(64);
/// What it may be.
pub const TOOL_OUTPUTS: RangeInclusive<ByteSize> = ByteSize::kib(1)..=ByteSize::mib(16);

/// Whether every agent of the chain that lists tools lists this one.
#[must_use]
pub fn offers(chain: &[AgentSpec], component: &ComponentName, tool: &ToolName) -> bool {
    chain
        .iter()
        .filter_map(|agent| agent.tools.as_ref())
        .all(|tools| tools.iter().any(|pattern| pattern.matches(component, tool)))
}

/// Why a configuration of agents was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentConfigError {
    /// `extends` names nobody.
    #[error("[agent.{agent}] extends `{parent}`, which is not configured; add `[agent.{parent}]` or correct `extends`")]
    UnknownParent {
        /// Who extends.
        agent: AgentName,
        /// Whom.
        parent: AgentName,
    },
    /// `extends` comes back to where it began.
    #[error("[agent.{}] extends itself in a circle: {}; take `extends` out of one of them", .0.first().map_or("", AgentName::as_str), circle(.0))]
    Cycle(Vec<AgentName>),
    /// A size of results that is no use.
    #[error("[agent.{agent}] has `tool_output = \"{size}\"`; it may be from {} to {}", TOOL_OUTPUTS.start(), TOOL_OUTPUTS.end())]
    ToolOutput {
        /// Whose.
        agent: AgentName,
        /// What it says.
        size: ByteSize,
    },
    /// A skill that the agent it extends does not have.
    #[error(
        "[agent.{agent}] has the skill `{skill}`, which the agent it extends does not have; an agent only narrows: add it there as well"
    )]
    Skill {
        /// Who has it.
        agent: AgentName,
        /// Which.
        skill: SkillName,
    },
    /// An approval rule that can't be used.
    #[error("[[agent.{agent}.approval]] {error}")]
    Approval {
        /// Whose rule.
        agent: AgentName,
        /// Which rule, and why.
        error: RuleError,
    },
    /// A call would wait for a person for no time at all, or for ever.
    #[error("[agent.{agent}] approval_timeout = \"{given}\" is not from {} to {}; choose one between, or leave the key out for {APPROVAL_TIMEOUT}", APPROVAL_TIMEOUTS.start(), APPROVAL_TIMEOUTS.end())]
    ApprovalTimeout {
        /// Whose.
        agent: AgentName,
        /// What it says.
        given: Span,
    },
    /// A hook that can't be used.
    #[error("[[agent.{agent}.hook]] `{hook}`: {error}")]
    Hook {
        /// Whose.
        agent: AgentName,
        /// Which.
        hook: HookName,
        /// Why.
        error: HookError,
    },
}

fn circle(names: &[AgentName]) -> String {
    names.iter().map(AgentName::as_str).collect::<Vec<_>>().join(" → ")
}

/// An agent and those it extends, as they are configured: all that its chain is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage(
    /// Root first.
    Vec<(AgentName, AgentConfig)>,
);

impl Lineage {
    /// The lineage of an agent; `None` if there is no such agent.
    ///
    /// # Errors
    /// On an unknown parent, and a circle.
    pub fn of(leaf: &AgentName, configs: &BTreeMap<AgentName, AgentConfig>) -> Result<Option<Self>, AgentConfigError> {
        let mut lineage: Vec<(&AgentName, &AgentConfig)> = Vec::new();
        let mut next = configs.get_key_value(leaf);
        while let Some((name, config)) = next {
            if let Some(start) = lineage.iter().position(|(seen, _)| *seen == name) {
                let circle = lineage[start..].iter().map(|(name, _)| *name).chain([name]);
                return Err(AgentConfigError::Cycle(circle.cloned().collect()));
            }
            lineage.push((name, config));
            next = match &config.extends {
                None => None,
                Some(parent) => Some(configs.get_key_value(parent).ok_or_else(|| {
                    let (agent, parent) = (name.clone(), parent.clone());
                    AgentConfigError::UnknownParent { agent, parent }
                })?),
            };
        }
        let root_first = lineage.into_iter().rev();
        let lineage: Vec<_> = root_first
            .map(|(name, config)| (name.clone(), config.clone()))
            .collect();
        Ok((!lineage.is_empty()).then_some(Self(lineage)))
    }

    /// Folds it: the chain, from root to the agent itself. Compiles every condition of its rules.
    ///
    /// # Errors
    /// On a size or a span out of its bounds, a skill too many, a hook that can't be, and what is wrong with approval rules.
    pub fn resolve(&self) -> Result<Vec<AgentSpec>, AgentConfigError> {
        let mut specs: Vec<AgentSpec> = Vec::with_capacity(self.0.len());
        for (name, config) in &self.0 {
            let parent = specs.last();
            check_skills(parent, name, config)?;
            check_hooks(&specs, name, config)?;
            let spec = fold(parent, name, config)?;
            specs.push(spec);
        }
        Ok(specs)
    }
}

/// Folds each agent's chain of `extends`: for each agent, its chain from root to itself.
///
/// # Errors
/// Those of [`Lineage::of`] and [`Lineage::resolve`].
pub fn resolve_agents(
    configs: &BTreeMap<AgentName, AgentConfig>,
) -> Result<BTreeMap<AgentName, Vec<AgentSpec>>, AgentConfigError> {
    let mut chains = BTreeMap::new();
    for name in configs.keys() {
        if let Some(lineage) = Lineage::of(name, configs)? {
            chains.insert(name.clone(), lineage.resolve()?);
        }
    }
    Ok(chains)
}

fn check_skills(parent: Option<&AgentSpec>, name: &AgentName, config: &AgentConfig) -> Result<(), AgentConfigError> {
    let Some(allowed) = parent.and_then(|parent| parent.skills.as_ref()) else {
        return Ok(());
    };
    let mut own = config.skills.iter().flatten();
    match own.find(|skill| !allowed.contains(skill)) {
        None => Ok(()),
        Some(skill) => Err(AgentConfigError::Skill {
            agent: name.clone(),
            skill: skill.clone(),
        }),
    }
}

/// A name stands for one hook in the whole chain, and there are no more than every step can wait for.
fn check_hooks(ancestors: &[AgentSpec], name: &AgentName, config: &AgentConfig) -> Result<(), AgentConfigError> {
    let inherited = ancestors.iter().flat_map(|agent| &agent.hooks).map(|hook| &hook.name);
    let mut known: Vec<&HookName> = inherited.collect();
    for HookConfig { name: hook, .. } in &config.hook {
        let refused = |error| AgentConfigError::Hook {
            agent: name.clone(),
            hook: hook.clone(),
            error,
        };
        if known.contains(&hook) {
            return Err(refused(HookError::SameName));
        }
        if known.len() >= MOST_HOOKS {
            return Err(refused(HookError::TooMany));
        }
        known.push(hook);
    }
    Ok(())
}

fn hooks(name: &AgentName, config: &AgentConfig) -> Result<Vec<HookSpec>, AgentConfigError> {
    let compile = |hook: &HookConfig| {
        HookSpec::compile(name, hook).map_err(|error| AgentConfigError::Hook {
            agent: name.clone(),
            hook: hook.name.clone(),
            error,
        })
    };
    config.hook.iter().map(compile).collect()
}

fn fold(parent: Option<&AgentSpec>, name: &AgentName, config: &AgentConfig) -> Result<AgentSpec, AgentConfigError> {
    let inherited = parent.map_or(TURN_BUDGET, |parent| parent.budget);
    let own = config.budget;
    let of_session = parent.map(|parent| parent.session_budget).unwrap_or_default();
    let instructions: Vec<&str> = parent
        .map(|parent| parent.instructions.as_str())
        .into_iter()
        .chain(config.instructions.as_deref())
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .collect();
    if let Some(size) = config.tool_output.filter(|size| !TOOL_OUTPUTS.contains(size)) {
        return Err(AgentConfigError::ToolOutput {
            agent: name.clone(),
            size,
        });
    }
    let timeout = config.approval_timeout;
    if let Some(given) = timeout.filter(|given| !APPROVAL_TIMEOUTS.contains(given)) {
        return Err(AgentConfigError::ApprovalTimeout {
            agent: name.clone(),
            given,
        });
    }
    let approval = ApprovalRules::compile(&config.approval).map_err(|error| AgentConfigError::Approval {
        agent: name.clone(),
        error,
    })?;
    Ok(AgentSpec {
        name: name.clone(),
        model: config
            .model
            .clone()
            .or_else(|| parent.map(|parent| parent.model.clone()))
            .unwrap_or_else(ModelName::main),
        instructions: instructions.join("\n\n"),
        tools: config.tools.clone(),
        network: config.network.clone(),
        background: config.background.clone(),
        budget: Budget {
            tokens: own.tokens.or(inherited.tokens),
            time_ms: own.time.map(Span::as_millis).or(inherited.time_ms),
            tool_calls: own.tool_calls.or(inherited.tool_calls),
            steps: own.steps.or(inherited.steps),
            cost: own.cost.or(inherited.cost),
        },
        session_budget: config.session_budget.or(of_session),
        tool_output: config
            .tool_output
            .or_else(|| parent.map(|parent| parent.tool_output))
            .unwrap_or(TOOL_OUTPUT),
        skills: config.skills.clone().or_else(|| parent?.skills.clone()),
        tool_search: config
            .tool_search
            .or_else(|| parent.map(|parent| parent.tool_search))
            .unwrap_or_default(),
        locale: config.locale.clone().or_else(|| parent?.locale.clone()),
        time_zone: config.time_zone.or_else(|| parent?.time_zone),
        approval,
        approval_timeout: timeout
            .or_else(|| parent.map(|parent| parent.approval_timeout))
            .unwrap_or(APPROVAL_TIMEOUT),
        record: config
            .record
            .or_else(|| parent.map(|parent| parent.record))
            .unwrap_or_default(),
        hooks: hooks(name, config)?,
    })
}
