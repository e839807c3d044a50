//! What is configured, installed and granted, as far as expectations are judged by it.
//!
//! An expectation that names no component or no agent is about every pair of those there are: it is allowed as soon as one
//! pair may, and denied only if none may.

use crate::{
    agent::AgentSpec,
    authority::{HostPolicy, SessionNarrowing},
    expect::{Action, Callee, Decided, Expectation, Layers, LineError, Subject, Which, decide},
    network::Layer,
};
use fumehood_core::{
    id::SessionId,
    name::{AgentName, ComponentName, ToolName},
};
use std::collections::BTreeMap;

/// A component and its tools.
#[derive(Debug, Clone)]
pub struct Installed {
    /// What it asks for, and what it may do.
    pub subject: Subject,
    /// The tools it offers.
    pub tools: Vec<ToolName>,
}

/// Everything that expectations are judged by.
#[derive(Debug, Clone)]
pub struct World {
    /// The host's own part.
    pub host: HostPolicy,
    /// The chain of each agent, root to leaf.
    pub agents: BTreeMap<AgentName, Vec<AgentSpec>>,
    /// The components.
    pub components: BTreeMap<ComponentName, Installed>,
    /// The sessions that are named.
    pub sessions: BTreeMap<SessionId, (AgentName, SessionNarrowing)>,
}

/// One component with one agent, either of which may be left out.
type Pair<'w> = (
    Option<(&'w ComponentName, &'w Installed)>,
    Option<(&'w AgentName, &'w [AgentSpec])>,
);

impl World {
    /// A world where nothing is installed.
    #[must_use]
    pub const fn new(host: HostPolicy, agents: BTreeMap<AgentName, Vec<AgentSpec>>) -> Self {
        Self {
            host,
            agents,
            components: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// The lines that name what is not there: judged without it, they would hold or fail for no reason.
    #[must_use]
    pub fn unknown(&self, expectations: &[Expectation]) -> Vec<LineError> {
        let mut errors = Vec::new();
        for Expectation { line, context, .. } in expectations {
            let mut missing = |message: String| errors.push(LineError { line: *line, message });
            match &context.tool {
                Which::This(tool) if !self.components.contains_key(tool) => missing(format!(
                    "no component `{tool}` is installed; `fumehood tool list` shows those that are"
                )),
                _ => {}
            }
            match &context.agent {
                Which::This(agent) if !self.agents.contains_key(agent) => missing(format!(
                    "there is no agent `{agent}`; add `[agent.{agent}]` to fumehood.toml or correct the name"
                )),
                _ => {}
            }
            match context.session.map(|id| (id, self.sessions.get(&id))) {
                Some((id, None)) => missing(format!(
                    "there is no session {id}; `fumehood session list` shows those there are"
                )),
                Some((_, Some((agent, _)))) if context.agent == Which::Any && !self.agents.contains_key(agent) => {
                    missing(format!(
                        "the session's agent `{agent}` is not in fumehood.toml; name another with `agent NAME`"
                    ));
                }
                _ => {}
            }
        }
        errors
    }

    /// Decides on what an expectation is about.
    #[must_use]
    pub fn decide(&self, expectation: &Expectation) -> Decided {
        let pairs = self.pairs(expectation);
        let mut nearest: Option<(u8, Decided)> = None;
        for pair in &pairs {
            let decided = named(self.decide_pair(expectation, pair), pair, pairs.len());
            let Decided::Denied { layer, .. } = &decided else {
                return decided;
            };
            // Of many refusals the one that came furthest says most.
            let came = distance(layer);
            if nearest.as_ref().is_none_or(|(furthest, _)| came > *furthest) {
                nearest = Some((came, decided));
            }
        }
        nearest.map_or_else(
            || {
                let reason = "no component is installed, so nothing may do it";
                Decided::denied(Layer::Host, "nothing is installed", reason)
            },
            |(_, decided)| decided,
        )
    }

    fn pairs(&self, Expectation { context, action, .. }: &Expectation) -> Vec<Pair<'_>> {
        let session = context.session.and_then(|id| self.sessions.get(&id));
        let by_name = |name| self.agents.get_key_value(name).map(|(name, chain)| (name, &**chain));
        let agents: Vec<_> = match (&context.agent, session) {
            (Which::This(name), _) | (Which::Any, Some((name, _))) => vec![by_name(name)],
            (Which::None, _) => vec![None],
            (Which::Any, None) => self.agents.iter().map(|(name, chain)| Some((name, &**chain))).collect(),
        };
        let components: Vec<_> = match &context.tool {
            // Whoever asks: one answer is enough.
            _ if matches!(action, Action::RefusedHttp(_)) => return vec![(None, None)],
            Which::This(name) => vec![self.components.get_key_value(name)],
            Which::None => vec![None],
            Which::Any => self.components.iter().map(Some).collect(),
        };
        components
            .into_iter()
            .flat_map(|component| agents.iter().map(move |agent| (component, *agent)))
            .collect()
    }

    fn decide_pair(&self, expectation: &Expectation, (component, agent): &Pair<'_>) -> Decided {
        let session = expectation.context.session.and_then(|id| self.sessions.get(&id));
        let open = SessionNarrowing::default();
        let layers = Layers {
            component: component.map(|(_, installed)| &installed.subject),
            agents: agent.map_or(&[], |(_, chain)| chain),
            session: session.map_or(&open, |(_, narrowing)| narrowing),
            host: &self.host,
            callee: match &expectation.action {
                Action::Call(tool) => self.callee(tool),
                _ => Callee::Nobody,
            },
        };
        decide(&expectation.action, &layers)
    }

    /// Who offers a tool: the one component that has it and a grant.
    fn callee(&self, tool: &ToolName) -> Callee<'_> {
        // A tool that has the name of another component is offered by nobody.
        let taken =
            |name: &ComponentName| self.components.contains_key(tool.as_str()) && name.as_str() != tool.as_str();
        let offers = |(name, installed): &(&ComponentName, &Installed)| installed.tools.contains(tool) && !taken(name);
        let mut granted = self
            .components
            .iter()
            .filter(offers)
            .filter(|(_, installed)| installed.subject.grant.is_some());
        match (granted.next(), granted.next()) {
            (Some((name, _)), None) => Callee::One(name),
            (Some(_), Some(_)) => Callee::Several,
            (None, _) => self
                .components
                .iter()
                .find(offers)
                .map_or(Callee::Nobody, |(name, _)| Callee::Waiting(name)),
        }
    }
}

/// How far a request came that this layer refuses.
const fn distance(layer: &Layer) -> u8 {
    match layer {
        Layer::Request => 0,
        Layer::Grant => 1,
        Layer::Agent(_) => 2,
        Layer::Session => 3,
        Layer::Host => 4,
    }
}

/// Says which pair decided, where there were several.
fn named(mut decided: Decided, (component, agent): &Pair<'_>, pairs: usize) -> Decided {
    if pairs > 1 {
        let component = component.map(|(name, _)| name.to_string());
        let agent = agent.map(|(name, _)| format!("with the agent {name}"));
        let pair: Vec<_> = component.into_iter().chain(agent).collect();
        let (Decided::Allowed { by } | Decided::Denied { by, .. }) = &mut decided;
        by.push_str(&format!(" ({})", pair.join(" ")));
    }
    decided
}
