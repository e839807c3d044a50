//! What a turn may use and has used.

use fumehood_core::{
    event::EventBody,
    money::Money,
    turn::{Budget, BudgetScope, StopReason, Usage},
};
use std::time::Duration;

/// A budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// Whose budget.
    pub scope: BudgetScope,
    /// `steps`, `tool_calls`, `tokens` or `cost`.
    pub budget: &'static str,
    /// How much was used.
    pub used: u64,
    /// How much there was.
    pub limit: u64,
    /// The stop reason it gives the turn.
    pub stop_reason: StopReason,
}

/// So much of a budget is used that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Warning {
    /// Whose budget.
    pub scope: BudgetScope,
    /// `steps`, `tool_calls`, `tokens`, `time` or `cost`.
    pub budget: &'static str,
    /// 80 or 100.
    pub percent: u8,
    /// How much was used.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
}

impl From<Warning> for EventBody {
    fn from(warning: Warning) -> Self {
        let Warning {
            scope,
            budget,
            percent,
            used,
            limit,
        } = warning;
        Self::BudgetWarning {
            scope,
            budget: budget.into(),
            percent,
            used,
            limit,
        }
    }
}

/// When it is told, in percent.
const TOLD_AT: [u8; 2] = [100, 80];

/// What a turn has used, helpers included.
#[derive(Debug, Clone, Default)]
pub(super) struct Spending {
    budget: Budget,
    usage: Option<Usage>,
    cost: Option<Money>,
    pub(super) steps: u64,
    pub(super) tool_calls: u64,
    /// What was told, with the percentage.
    warned: Vec<(String, u8)>,
}

impl Spending {
    pub(super) const fn begin(&mut self, budget: Budget) {
        self.budget = budget;
    }

    pub(super) const fn budget(&self) -> Budget {
        self.budget
    }

    pub(super) const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    pub(super) const fn cost(&self) -> Option<Money> {
        self.cost
    }

    pub(super) fn spend(&mut self, usage: Option<Usage>, cost: Option<Money>) {
        if let Some(usage) = usage {
            self.usage = Some(self.usage.unwrap_or_default().plus(usage));
        }
        if let Some(cost) = cost {
            self.cost = Some(self.cost.unwrap_or_default().plus(cost));
        }
    }

    pub(super) fn warned(&mut self, budget: &str, percent: u8) {
        self.warned.push((budget.to_owned(), percent));
    }

    /// What must be told and was not. What was told at 100 is not told at 80 any more.
    pub(super) fn warning(&self, elapsed: Duration) -> Option<Warning> {
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let time = (self.budget.time_ms).map(|limit| ("time", millis.min(limit), limit));
        let others = self.parts().map(|(budget, used, limit, _)| (budget, used, limit));
        others.chain(time).find_map(|(budget, used, limit)| {
            let percent = TOLD_AT
                .into_iter()
                .find(|percent| u128::from(used) * 100 >= u128::from(limit) * u128::from(*percent))?;
            let told = self.warned.iter().any(|(told, at)| told == budget && *at >= percent);
            (!told).then_some(Warning {
                scope: BudgetScope::Turn,
                budget,
                percent,
                used,
                limit,
            })
        })
    }

    pub(super) fn exhausted(&self) -> Option<Exhausted> {
        self.parts()
            .find(|(_, used, limit, _)| used >= limit)
            .map(|(budget, used, limit, stop_reason)| Exhausted {
                scope: BudgetScope::Turn,
                budget,
                used,
                limit,
                stop_reason,
            })
    }

    /// How many more calls there may be, beside those of the step that is open.
    pub(super) fn calls_left(&self, open: u64) -> u64 {
        self.budget
            .tool_calls
            .map_or(u64::MAX, |limit| limit.saturating_sub(self.tool_calls - open))
    }

    /// The parts that end a turn gracefully, in the order in which they are looked at: used and limit of each that has one.
    fn parts(&self) -> impl Iterator<Item = (&'static str, u64, u64, StopReason)> {
        let tokens = self.usage.map_or(0, Usage::total);
        let cost = self.cost.unwrap_or_default().millionths();
        [
            ("tokens", tokens, self.budget.tokens, StopReason::TokenLimit),
            (
                "cost",
                cost,
                self.budget.cost.map(Money::millionths),
                StopReason::CostLimit,
            ),
            (
                "tool_calls",
                self.tool_calls,
                self.budget.tool_calls,
                StopReason::ToolCallLimit,
            ),
            ("steps", self.steps, self.budget.steps, StopReason::StepLimit),
        ]
        .into_iter()
        .filter_map(|(budget, used, limit, reason)| limit.map(|limit| (budget, used, limit, reason)))
    }
}
