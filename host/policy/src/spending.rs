//! What turns may spend, and sessions and orgs over all their turns.

use crate::quantity::Span;
use fumehood_core::{money::Money, spending::Window};
use serde::{Deserialize, Serialize};

/// What may be spent. An absent part is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpendingLimit {
    /// Input and output tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// For how long a turn is worked, those of a session or an org added up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
    /// Calls of tools that models ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<u64>,
    /// Steps; over turns, those whose model answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Money, in the currency of the price tables. Model calls without a price cost nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
}

impl SpendingLimit {
    /// Each part this one's, or where it has none, the other's.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.or(other.tokens),
            time: self.time.or(other.time),
            tool_calls: self.tool_calls.or(other.tool_calls),
            steps: self.steps.or(other.steps),
            cost: self.cost.or(other.cost),
        }
    }
}

/// `[org.NAME.budget]`: what an org may spend in a day or a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgBudget {
    /// After which time it begins anew.
    #[serde(default)]
    pub per: Window,
    /// As [`SpendingLimit::tokens`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// As [`SpendingLimit::time`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Span>,
    /// As [`SpendingLimit::tool_calls`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<u64>,
    /// As [`SpendingLimit::steps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// As [`SpendingLimit::cost`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Money>,
}

impl OrgBudget {
    /// What may be spent in one window.
    #[must_use]
    pub const fn limit(&self) -> SpendingLimit {
        SpendingLimit {
            tokens: self.tokens,
            time: self.time,
            tool_calls: self.tool_calls,
            steps: self.steps,
            cost: self.cost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_without_a_window_is_of_a_month_and_takes_no_other_key() {
        let budget: OrgBudget = serde_json::from_str(r#"{"cost": 50}"#).unwrap();
        assert_eq!(
            (budget.per, budget.limit().cost),
            (Window::Month, Some(Money::from_millionths(50_000_000)))
        );
        assert!(serde_json::from_str::<OrgBudget>(r#"{"per": "week"}"#).is_err());
        assert!(serde_json::from_str::<OrgBudget>(r#"{"calls": 3}"#).is_err());
    }

    #[test]
    fn every_part_of_a_budget_is_read_and_is_part_of_its_limit() {
        let parts = r#"{"tokens": 1, "time": "2s", "tool_calls": 3, "steps": 4, "cost": 5}"#;
        let limit: SpendingLimit = serde_json::from_str(parts).unwrap();
        let budget: OrgBudget = serde_json::from_str(parts).unwrap();
        assert_eq!(budget.limit(), limit);
        assert_eq!(limit.time, Some(Span::from_secs(2)));
        assert_eq!(SpendingLimit::default().or(limit), limit);
        let own = SpendingLimit {
            steps: Some(9),
            ..SpendingLimit::default()
        };
        let both = own.or(limit);
        assert_eq!((both.steps, both.tool_calls), (Some(9), Some(3)));
    }
}
