//! What a hook answers: the same words from a component and over HTTP.

use super::Failure;
use crate::host::cleaned;
use fumehood_core::{call::Arguments, hook::HookFailureKind};
use serde::Deserialize;
use serde_json::Value;

/// A hook's answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// It may happen.
    Allow,
    /// It may happen with these arguments.
    Change(Arguments),
    /// It must not, and why.
    Deny(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    decision: Decision,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    arguments: Option<Arguments>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decision {
    Allow,
    Deny,
}

impl Answer {
    /// An answer as JSON text.
    // THREAT[T-hook-fail-open]: what is not wholly understood is no answer.
    pub(super) fn read(text: &[u8]) -> Result<Self, Failure> {
        let written: Written = serde_json::from_slice(text).map_err(|error| invalid(&error.to_string()))?;
        written.try_into()
    }

    /// An answer as a JSON value.
    pub(super) fn from_value(value: Value) -> Result<Self, Failure> {
        let written: Written = serde_json::from_value(value).map_err(|error| invalid(&error.to_string()))?;
        written.try_into()
    }
}

impl TryFrom<Written> for Answer {
    type Error = Failure;

    fn try_from(written: Written) -> Result<Self, Failure> {
        match (written.decision, written.arguments, written.reason) {
            (Decision::Allow, None, None) => Ok(Self::Allow),
            (Decision::Allow, Some(arguments), None) => Ok(Self::Change(arguments)),
            (Decision::Allow, _, Some(_)) => Err(invalid("`reason` is for `deny`")),
            (Decision::Deny, Some(_), _) => Err(invalid("`arguments` is for `allow`")),
            (Decision::Deny, None, reason) => {
                let reason = reason.as_deref().map(cleaned).filter(|reason| !reason.is_empty());
                Ok(Self::Deny(reason.unwrap_or_else(|| "it gave no reason".to_owned())))
            }
        }
    }
}

fn invalid(why: &str) -> Failure {
    let message = format!("its answer can't be used: {}", cleaned(why));
    Failure::new(HookFailureKind::InvalidAnswer, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_allows_changes_or_denies() {
        let read = |text: &str| Answer::read(text.as_bytes()).unwrap();
        assert_eq!(read(r#"{"decision":"allow"}"#), Answer::Allow);
        assert_eq!(
            read(r#"{"decision":"deny","reason":" not\u001b here "}"#),
            Answer::Deny("not here".into())
        );
        assert_eq!(read(r#"{"decision":"deny"}"#), Answer::Deny("it gave no reason".into()));
        let changed = Answer::from_value(json!({"decision": "allow", "arguments": {"n": 1}})).unwrap();
        assert!(matches!(changed, Answer::Change(arguments) if arguments["n"] == 1));
    }

    #[test]
    fn what_is_not_wholly_understood_is_no_answer() {
        for text in [
            "",
            "ok",
            "{}",
            "null",
            r#"{"decision":"ALLOW"}"#,
            r#"{"decision":"maybe"}"#,
            r#"{"decision":"allow","decision":"deny"}"#,
            r#"{"decision":"allow","reason":"because"}"#,
            r#"{"decision":"allow","arguments":[1]}"#,
            r#"{"decision":"allow","arguments":"{}"}"#,
            r#"{"decision":"deny","arguments":{}}"#,
            r#"{"decision":"allow","also":1}"#,
            r#"{"decision":"allow"} {"decision":"deny"}"#,
        ] {
            let failure = Answer::read(text.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, HookFailureKind::InvalidAnswer, "{text}");
        }
    }
}
