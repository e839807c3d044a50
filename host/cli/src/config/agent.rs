//! What `config show agent` shows: an agent with everything it has from those it extends, and what the host adds where none of them
//! says anything.

use super::Loaded;
use crate::fault::OrFault as _;
use anyhow::anyhow;
use fumehood_core::{
    money::Money,
    name::{AgentName, Locale, ModelName, SkillName},
};
use fumehood_policy::{
    agent::{AgentSpec, ApprovalRule, ToolSearch, resolve_agents},
    hook::{HookSpec, hooks_of},
    network::NetworkList,
    quantity::{ByteSize, Span},
    spending::SpendingLimit,
    time_zone::TimeZone,
    tool_pattern::ToolPattern,
};
use serde::Serialize;

/// An agent as its turns have it.
#[derive(Debug, Serialize)]
pub(crate) struct EffectiveAgent {
    name: AgentName,
    /// Those it extends, root first, and itself.
    chain: Vec<AgentName>,
    model: ModelName,
    instructions: String,
    tool_output: ByteSize,
    tool_search: ToolSearch,
    skills: Vec<SkillName>,
    locale: Option<Locale>,
    time_zone: Option<TimeZone>,
    record: bool,
    /// Of a turn.
    budget: EffectiveBudget,
    session_budget: SpendingLimit,
    approval_timeout: Span,
    /// A tool has to be in each list.
    tools: Vec<ListOf<Vec<ToolPattern>>>,
    /// A request has to pass each list.
    network: Vec<ListOf<NetworkList>>,
    /// A tool whose calls run in the background has to be in each list.
    background: Vec<ListOf<Vec<ToolPattern>>>,
    /// In each list the first rule that fits a call decides; the strictest of the lists holds.
    approval: Vec<ListOf<Vec<ApprovalRule>>>,
    /// In the order in which they are asked.
    hooks: Vec<HookSpec>,
}

/// What one agent of the chain lists.
#[derive(Debug, Serialize)]
struct ListOf<T> {
    agent: AgentName,
    list: T,
}

/// Absent: not limited.
#[derive(Debug, Serialize)]
struct EffectiveBudget {
    tokens: Option<u64>,
    time: Option<Span>,
    tool_calls: Option<u64>,
    steps: Option<u64>,
    cost: Option<Money>,
}

impl EffectiveAgent {
    /// # Errors
    /// When there is no such agent.
    pub(crate) fn new(loaded: &Loaded, name: &AgentName) -> anyhow::Result<Self> {
        let agents = loaded.config.agents();
        let mut chains = resolve_agents(&agents)?;
        let known = agents.keys().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let unknown = || anyhow!("there is no agent `{name}`; there are: {known}");
        let chain = chains.remove(name).ok_or_else(unknown).or_fault()?;
        let leaf = chain.last().ok_or_else(unknown).or_fault()?;
        Ok(Self {
            name: name.clone(),
            chain: chain.iter().map(|agent| agent.name.clone()).collect(),
            model: leaf.model.clone(),
            instructions: leaf.instructions.clone(),
            tool_output: leaf.tool_output,
            tool_search: leaf.tool_search,
            skills: leaf.skills.clone().unwrap_or_default(),
            locale: leaf.locale.clone(),
            time_zone: leaf.time_zone,
            record: leaf.record,
            budget: EffectiveBudget {
                tokens: leaf.budget.tokens,
                time: leaf.budget.time_ms.map(Span::from_millis),
                tool_calls: leaf.budget.tool_calls,
                steps: leaf.budget.steps,
                cost: leaf.budget.cost,
            },
            session_budget: leaf.session_budget,
            approval_timeout: leaf.approval_timeout,
            tools: lists(&chain, |agent| agent.tools.clone()),
            network: lists(&chain, |agent| agent.network.clone()),
            background: lists(&chain, |agent| agent.background.clone()),
            approval: lists(&chain, |agent| {
                Some(agent.approval.written().cloned().collect::<Vec<_>>()).filter(|rules| !rules.is_empty())
            }),
            hooks: hooks_of(&chain).into_iter().cloned().collect(),
        })
    }
}

fn lists<T>(chain: &[AgentSpec], list: impl Fn(&AgentSpec) -> Option<T>) -> Vec<ListOf<T>> {
    chain
        .iter()
        .filter_map(|agent| {
            Some(ListOf {
                agent: agent.name.clone(),
                list: list(agent)?,
            })
        })
        .collect()
}
