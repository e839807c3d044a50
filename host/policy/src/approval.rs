//! Approval rules: which calls run, which wait for a person, which are refused.
//!
//! Each agent of a chain has a list of rules, and the first that fits a call decides for that agent; none that fits allows it. The
//! strictest agent of the chain decides, so that an agent that extends another never gets more than that one.
//!
//! A condition that can't be decided, because an argument is missing or has another type, counts against the call: the rule applies
//! as if it fitted, except that one which would allow the call asks instead.

mod condition;

pub use condition::{ConditionError, MOST_CHARACTERS};

use crate::agent::{AgentSpec, ApprovalDecision, ApprovalRule};
use condition::{Condition, Seen};
use fumehood_core::{
    call::Arguments,
    name::{AgentName, ComponentName},
    tool::ToolDefinition,
};
use std::{fmt, sync::Arc};

/// A call as the rules see it.
#[derive(Debug, Clone, Copy)]
pub struct JudgedCall<'a> {
    /// The component of the tool.
    pub component: &'a ComponentName,
    /// What the tool says of itself.
    pub tool: &'a ToolDefinition,
    /// What it is to be called with.
    pub arguments: &'a Arguments,
}

/// What the rules say about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It runs.
    Allow,
    /// A person decides. Which rule says so, in words.
    Ask(String),
    /// It does not run. Which rule says so, in words.
    Deny(String),
}

impl Judgement {
    const fn strictness(&self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::Ask(_) => 1,
            Self::Deny(_) => 2,
        }
    }

    /// The stricter of two; of two that are as strict, the first.
    #[must_use]
    fn or_stricter(self, other: Self) -> Self {
        if other.strictness() > self.strictness() {
            other
        } else {
            self
        }
    }
}

/// The rules of one agent, ready to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApprovalRules(Arc<[Rule]>);

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    written: ApprovalRule,
    condition: Option<Condition>,
}

/// A rule whose condition can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {place}: {error}")]
pub struct RuleError {
    /// Counts from 1 in the agent's list.
    pub place: usize,
    /// What is wrong with it.
    pub error: ConditionError,
}

impl ApprovalRules {
    /// Makes rules ready.
    ///
    /// # Errors
    /// When a condition does not compile, or costs more than it may.
    pub fn compile(rules: &[ApprovalRule]) -> Result<Self, RuleError> {
        let compile = |(index, written): (usize, &ApprovalRule)| {
            let condition = written.when.as_deref().map(Condition::compile).transpose();
            Ok(Rule {
                written: written.clone(),
                condition: condition.map_err(|error| RuleError {
                    place: index + 1,
                    error,
                })?,
            })
        };
        rules
            .iter()
            .enumerate()
            .map(compile)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The rules as they were written, in their order.
    pub fn written(&self) -> impl Iterator<Item = &ApprovalRule> {
        self.0.iter().map(|rule| &rule.written)
    }

    /// The conditions of all rules.
    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter().filter_map(|rule| rule.condition.as_ref())
    }

    /// What this agent says: the first rule that fits.
    fn judge(&self, agent: &AgentName, call: &JudgedCall<'_>, seen: &Seen<'_>) -> Judgement {
        let named = self.0.iter().enumerate();
        for (index, rule) in named.filter(|(_, rule)| rule.written.tool.matches(call.component, &call.tool.name)) {
            let because = |undecided: Option<String>| {
                Words {
                    agent,
                    place: index + 1,
                    rule: &rule.written,
                    undecided,
                }
                .to_string()
            };
            let fits = rule
                .condition
                .as_ref()
                .map_or(Ok(true), |condition| condition.holds(seen));
            match (fits, rule.written.decide) {
                (Ok(false), _) => {}
                (Ok(true), ApprovalDecision::Allow) => return Judgement::Allow,
                (Ok(true), ApprovalDecision::Ask) => return Judgement::Ask(because(None)),
                (Ok(true), ApprovalDecision::Deny) => return Judgement::Deny(because(None)),
                // THREAT[T-appr-undecided]: what can't be decided never runs unasked.
                (Err(why), ApprovalDecision::Allow | ApprovalDecision::Ask) => {
                    return Judgement::Ask(because(Some(why)));
                }
                (Err(why), ApprovalDecision::Deny) => return Judgement::Deny(because(Some(why))),
            }
        }
        Judgement::Allow
    }
}

/// What a chain of agents says about a call: every agent is asked, the strictest decides.
#[must_use]
pub fn judge(chain: &[AgentSpec], call: &JudgedCall<'_>) -> Judgement {
    let seen = Seen::new(call, chain);
    // THREAT[T-appr-laxer-child]: no agent of the chain takes back what another says.
    chain.iter().fold(Judgement::Allow, |strictest, agent| {
        strictest.or_stricter(agent.approval.judge(&agent.name, call, &seen))
    })
}

/// Whether any agent of the chain has a rule about calls of this tool.
#[must_use]
pub fn has_rules(chain: &[AgentSpec], component: &ComponentName, tool: &ToolDefinition) -> bool {
    chain
        .iter()
        .flat_map(|agent| agent.approval.0.iter())
        .any(|rule| rule.written.tool.matches(component, &tool.name))
}

/// A rule, as the operator wrote it and finds it again.
struct Words<'a> {
    agent: &'a AgentName,
    place: usize,
    rule: &'a ApprovalRule,
    undecided: Option<String>,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            agent,
            place,
            rule,
            undecided,
        } = self;
        let decides = match rule.decide {
            ApprovalDecision::Allow => "allow",
            ApprovalDecision::Ask => "ask",
            ApprovalDecision::Deny => "deny",
        };
        write!(
            f,
            "approval rule {place} of the agent `{agent}`: {decides} `{}`",
            rule.tool
        )?;
        if let Some(when) = &rule.when {
            write!(f, " when {when}")?;
        }
        match undecided {
            None => Ok(()),
            Some(why) => write!(f, " (which can't be decided for this call: {why})"),
        }
    }
}
