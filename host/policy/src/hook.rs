//! Hooks of agents: who is asked or told what happens in a turn, and in which order.
//!
//! Those of every agent of a chain are asked: an agent that extends another adds to its hooks and takes none away. The lower
//! `priority` comes first; of the same priority the root's first, each agent's in the order in which they are written.
//!
//! A hook never widens what a turn may do. What one gives in the place of a call's arguments passes schema, policy and approval
//! like what a model gives.

use crate::{
    agent::AgentSpec,
    network::{NetworkRule, Target},
    quantity::Span,
    tool_pattern::ToolPattern,
};
use fumehood_core::{
    hook::{HookMode, HookPoint},
    name::{AgentName, ComponentName, HookName, SecretName, ToolName},
};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Hooks of one chain of agents.
pub const MOST_HOOKS: usize = 32;
/// How long a hook has where nothing is said.
pub const TIMEOUT: Span = Span::from_secs(5);
/// How long it may have.
pub const TIMEOUTS: RangeInclusive<Span> = Span::from_millis(10)..=Span::from_secs(60);

/// `[[agent.NAME.hook]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// What it is called in events, metrics and the ledger.
    pub name: HookName,
    /// Where in a turn.
    #[serde(deserialize_with = "crate::bounded::entries")]
    pub points: Vec<HookPoint>,
    /// Whether it is asked or told.
    pub mode: HookMode,
    /// The installed component that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<ComponentName>,
    /// Where the signed HTTP request goes that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The secret of the org that signs the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<SecretName>,
    /// About calls of which tools; absent: all.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bounded::some_entries"
    )]
    pub tools: Option<Vec<ToolPattern>>,
    /// The lower comes first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// How long it may take; absent: five seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde takes")]
const fn is_zero(number: &i32) -> bool {
    *number == 0
}

/// A hook that can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HookSpec {
    /// What it is called.
    pub name: HookName,
    /// Whose it is.
    pub agent: AgentName,
    /// Where in a turn.
    pub points: Vec<HookPoint>,
    /// Whether it is asked or told.
    pub mode: HookMode,
    /// What it is.
    #[serde(flatten)]
    pub runtime: HookRuntime,
    /// About calls of which tools; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ToolPattern>>,
    /// The lower comes first.
    pub priority: i32,
    /// How long it may take.
    pub timeout: Span,
}

/// What a hook is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum HookRuntime {
    /// A component that exports `fumehood:tool/hooks`.
    Component {
        /// Its name.
        component: ComponentName,
    },
    /// A signed HTTP request.
    Webhook {
        /// Where it goes.
        url: String,
        /// The secret of the org that signs it.
        key: SecretName,
        /// That place, as a rule.
        #[serde(skip)]
        place: NetworkRule,
    },
}

/// Why a hook was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// It is nowhere asked.
    #[error(
        "`points` is empty, so it would never be asked; name at least one, as in `points = [\"before_tool_call\"]`"
    )]
    NoPoints,
    /// It is neither component nor webhook, or both.
    #[error("it has to have either a `component` or a `url` with a `key`")]
    Runtime,
    /// Nothing signs its requests.
    #[error("`url` needs a `key`: the name of the secret that signs the requests")]
    NoKey,
    /// A key that nothing is signed with.
    #[error("`key` signs the requests to a `url`; a component has none, so leave it out")]
    KeyWithoutUrl,
    /// Its URL can't be reached.
    #[error("`url` can't be used: {0}")]
    Url(String),
    /// A time in which nothing can answer, or for which nobody waits.
    #[error("timeout = \"{given}\" is not from {} to {}; choose one between, or leave the key out for {TIMEOUT}", TIMEOUTS.start(), TIMEOUTS.end())]
    Timeout {
        /// What it says.
        given: Span,
    },
    /// A list of tools where no tool is called.
    #[error("`tools` is about `before_tool_call` and `after_tool_call`, and `points` has neither; leave `tools` out")]
    ToolsNowhere,
    /// Another hook of the chain has its name.
    #[error("another hook of this agent, or of one that it extends, has that name; give it another")]
    SameName,
    /// More than every step can wait for.
    #[error("the agent and those it extends have more than {MOST_HOOKS} hooks; do with fewer what they do")]
    TooMany,
}

impl HookSpec {
    /// Makes a hook ready.
    ///
    /// # Errors
    /// When it could not be asked, or says something that would have no effect.
    pub fn compile(agent: &AgentName, written: &HookConfig) -> Result<Self, HookError> {
        if written.points.is_empty() {
            return Err(HookError::NoPoints);
        }
        if written.tools.is_some() && !written.points.iter().any(|point| point.is_about_a_tool()) {
            return Err(HookError::ToolsNowhere);
        }
        let timeout = written.timeout.unwrap_or(TIMEOUT);
        if !TIMEOUTS.contains(&timeout) {
            return Err(HookError::Timeout { given: timeout });
        }
        let runtime = match (&written.component, &written.url, &written.key) {
            (Some(_), Some(_), _) | (None, None, _) => return Err(HookError::Runtime),
            (Some(_), None, Some(_)) => return Err(HookError::KeyWithoutUrl),
            (None, Some(_), None) => return Err(HookError::NoKey),
            (Some(component), None, None) => HookRuntime::Component {
                component: component.clone(),
            },
            (None, Some(url), Some(key)) => HookRuntime::Webhook {
                place: place(url)?,
                url: url.clone(),
                key: key.clone(),
            },
        };
        Ok(Self {
            name: written.name.clone(),
            agent: agent.clone(),
            points: written.points.clone(),
            mode: written.mode,
            runtime,
            tools: written.tools.clone(),
            priority: written.priority,
            timeout,
        })
    }

    /// Whether it is asked or told at a point, about a call of a tool where the point is about one.
    #[must_use]
    pub fn is_at(&self, point: HookPoint, tool: Option<(&ComponentName, &ToolName)>) -> bool {
        let fits = match (&self.tools, tool) {
            (Some(tools), Some((component, tool))) => tools.iter().any(|pattern| pattern.matches(component, tool)),
            _ => true,
        };
        fits && self.points.contains(&point)
    }
}

/// The rule that allows this URL and what is beneath it.
///
/// # Errors
/// [`HookError::Url`] when it can't be requested, or no rule can name it.
pub fn place(url: &str) -> Result<NetworkRule, HookError> {
    let target = Target::parse("POST", url).map_err(|error| HookError::Url(error.to_string()))?;
    let rule = format!("POST {}{}", target.origin(), target.path());
    let rule: NetworkRule = rule.parse().map_err(|error| HookError::Url(format!("{error}")))?;
    if rule.allows(&target) {
        Ok(rule)
    } else {
        Err(HookError::Url(
            "no network rule can name it; write it more plainly".to_owned(),
        ))
    }
}

/// The hooks of a chain at a point, in the order in which they are asked.
#[must_use]
pub fn hooks_at<'c>(
    chain: &'c [AgentSpec],
    mode: HookMode,
    point: HookPoint,
    tool: Option<(&ComponentName, &ToolName)>,
) -> Vec<&'c HookSpec> {
    let own = chain.iter().flat_map(|agent| &agent.hooks);
    let mut hooks: Vec<_> = own
        .filter(|hook| hook.mode == mode && hook.is_at(point, tool))
        .collect();
    // Stable: of the same priority, the order of the chain.
    hooks.sort_by_key(|hook| hook.priority);
    hooks
}

/// All hooks of a chain, in the order in which they are asked.
#[must_use]
pub fn hooks_of(chain: &[AgentSpec]) -> Vec<&HookSpec> {
    let mut hooks: Vec<_> = chain.iter().flat_map(|agent| &agent.hooks).collect();
    hooks.sort_by_key(|hook| hook.priority);
    hooks
}
