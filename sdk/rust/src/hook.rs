//! Hooks: components that judge, or watch, what happens in a turn.
//!
//! ```
//! use fumehood::hook::{Decision, Occasion, Point};
//!
//! fn decide(occasion: &Occasion) -> fumehood::Result<Decision> {
//!     let path = &occasion.about()["arguments"]["path"];
//!     if occasion.point() == Point::BeforeToolCall && path == "secrets.txt" {
//!         return Ok(Decision::deny("this file is off limits"));
//!     }
//!     Ok(Decision::Allow)
//! }
//!
//! let occasion = fumehood::testing::occasion(
//!     Point::BeforeToolCall,
//!     serde_json::json!({"arguments": {"path": "secrets.txt"}}),
//! );
//! assert_eq!(decide(&occasion).unwrap(), Decision::deny("this file is off limits"));
//! ```
//!
//! [`export_hook!`](crate::export_hook) makes such a function the hook of a component.

use crate::{
    Failure, Result,
    bindings::fumehood::tool::types::Failure as WitFailure,
    hook_bindings::exports::fumehood::tool::hooks::{Decision as WitDecision, Occasion as WitOccasion},
};
use serde_json::Value;
use std::time::{Duration, SystemTime};

pub use crate::hook_bindings::exports::fumehood::tool::hooks::{Mode, Point};

/// What is about to happen, or has happened.
#[derive(Debug, Clone)]
pub struct Occasion {
    wit: WitOccasion,
    about: Value,
}

impl Occasion {
    /// The same for every attempt to ask about the same thing. Give it to services that deduplicate requests.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.wit.id
    }

    /// Where in the turn.
    #[must_use]
    pub fn point(&self) -> Point {
        self.wit.point
    }

    /// Whether the answer counts.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.wit.mode
    }

    /// The name of the hook in the configuration.
    #[must_use]
    pub fn hook(&self) -> &str {
        &self.wit.hook
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.wit.agent
    }

    /// The session.
    #[must_use]
    pub fn session(&self) -> &str {
        &self.wit.session
    }

    /// The turn; absent for a call that a client makes itself.
    #[must_use]
    pub fn turn(&self) -> Option<&str> {
        self.wit.turn.as_deref()
    }

    /// How long there is until the host gives up; zero if that has passed.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        let deadline = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.wit.deadline_ms));
        deadline.map_or(Duration::MAX, |deadline| {
            deadline.duration_since(SystemTime::now()).unwrap_or_default()
        })
    }

    /// The rest: a JSON object, whose fields depend on the point.
    #[must_use]
    pub fn about(&self) -> &Value {
        &self.about
    }

    fn from_wit(wit: WitOccasion) -> Result<Self> {
        let about = serde_json::from_str(&wit.about)?;
        Ok(Self { wit, about })
    }

    /// An occasion for tests: made-up ids, five seconds of time, a guard.
    pub(crate) fn example(point: Point, about: &Value) -> Self {
        let deadline = SystemTime::now() + Duration::from_secs(5);
        let since_epoch = deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            about: about.clone(),
            wit: WitOccasion {
                id: "hook_test".to_owned(),
                point,
                mode: Mode::Guard,
                hook: "test".to_owned(),
                agent: "assistant".to_owned(),
                session: "ses_test".to_owned(),
                turn: Some("trn_test".to_owned()),
                deadline_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
                about: about.to_string(),
            },
        }
    }
}

/// What a guard decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It may happen.
    Allow,
    /// It must not, and why.
    Deny(String),
    /// It may happen with these arguments: a JSON object. Only at [`Point::BeforeToolCall`].
    ChangeArguments(Value),
}

impl Decision {
    /// It must not happen, and why.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self::Deny(reason.into())
    }
}

impl From<Decision> for WitDecision {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Allow => Self::Allow,
            Decision::Deny(reason) => Self::Deny(reason),
            Decision::ChangeArguments(arguments) => Self::ChangeArguments(arguments.to_string()),
        }
    }
}

/// Reads an occasion, and hands the decision on.
#[doc(hidden)]
pub fn decide(
    occasion: WitOccasion,
    decide: impl FnOnce(&Occasion) -> Result<Decision, Failure>,
) -> core::result::Result<WitDecision, WitFailure> {
    let decided = Occasion::from_wit(occasion).and_then(|occasion| decide(&occasion));
    decided.map(WitDecision::from).map_err(WitFailure::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(about: &str, answer: Result<Decision>) -> core::result::Result<WitDecision, WitFailure> {
        let mut wit = Occasion::example(Point::BeforeTurn, &json!({})).wit;
        about.clone_into(&mut wit.about);
        decide(wit, |occasion| {
            assert_eq!(
                (occasion.point(), occasion.about()["n"].as_i64()),
                (Point::BeforeTurn, Some(1))
            );
            answer
        })
    }

    #[test]
    fn a_decision_crosses_the_boundary() {
        let about = r#"{"n": 1}"#;
        assert!(matches!(asked(about, Ok(Decision::Allow)), Ok(WitDecision::Allow)));
        let denied = asked(about, Ok(Decision::deny("no")));
        assert!(matches!(denied, Ok(WitDecision::Deny(reason)) if reason == "no"));
        let changed = asked(about, Ok(Decision::ChangeArguments(json!({"a": 1}))));
        assert!(matches!(changed, Ok(WitDecision::ChangeArguments(text)) if text == r#"{"a":1}"#));
        let failed = asked(about, Err(Failure::failed("out of order")));
        assert!(matches!(failed, Err(WitFailure::Failed(message)) if message == "out of order"));
    }

    #[test]
    fn what_can_not_be_read_is_a_failure() {
        assert!(asked("{", Ok(Decision::Allow)).is_err());
    }
}
