//! Changes of components in words, for `fumehood tool list|show|add|remove`.

use crate::out::{printable, text};
use serde_json::Value;

/// What is worth telling of the last change of each component: what is not simply done.
pub(crate) fn news(changes: &[Value]) -> Vec<String> {
    let mut seen: Vec<&str> = Vec::new();
    let mut news = Vec::new();
    for change in changes {
        let component = text(change, "component");
        // One without a name has no other change.
        if !component.is_empty() && seen.contains(&component) {
            continue;
        }
        seen.push(component);
        if text(change, "state") != "applied" {
            news.push(sentence(change));
        }
    }
    news
}

/// A change, what was done and how far it has come.
pub(crate) fn sentence(change: &Value) -> String {
    let component = match text(change, "component") {
        "" => "a component without a name yet".to_owned(),
        name => printable(name),
    };
    let (done, undone) = match text(change, "operation") {
        "remove" => ("removed", "was not removed"),
        "update" => ("updated", "was not updated"),
        _ => ("added", "was not added"),
    };
    let number = |key: &str| change.get(key).and_then(Value::as_u64).unwrap_or_default();
    let calls = |number: u64| match number {
        1 => "1 call".to_owned(),
        many => format!("{many} calls"),
    };
    match text(change, "state") {
        "pending" => format!("{component}: pending, it is being compiled"),
        "failed" => format!("{component} {undone}: {}", printable(text(change, "reason"))),
        "draining" => format!(
            "{component}: {done}, draining: {} on the version before until {}",
            calls(number("calls")),
            text(change, "until")
        ),
        "forced" => format!(
            "{component}: {done}, forced: {} on the version before interrupted",
            calls(number("interrupted"))
        ),
        _ => format!("{component}: {done}, applied"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_state_has_its_sentence() {
        let said = |state: &str, more: Value| {
            let mut change =
                json!({"component": "github", "operation": "update", "state": state, "calls": 0, "interrupted": 0});
            for (key, value) in more.as_object().into_iter().flatten() {
                change[key.as_str()] = value.clone();
            }
            sentence(&change)
        };
        assert_eq!(said("applied", json!({})), "github: updated, applied");
        assert_eq!(said("pending", json!({})), "github: pending, it is being compiled");
        assert_eq!(
            said("failed", json!({"reason": "it is no component"})),
            "github was not updated: it is no component"
        );
        assert_eq!(
            said("draining", json!({"calls": 2, "until": "2026-01-01T00:00:00Z"})),
            "github: updated, draining: 2 calls on the version before until 2026-01-01T00:00:00Z"
        );
        assert_eq!(
            said("forced", json!({"interrupted": 1, "operation": "remove"})),
            "github: removed, forced: 1 call on the version before interrupted"
        );
    }

    #[test]
    fn news_are_the_last_changes_that_are_not_simply_done() {
        let change =
            |component: Option<&str>, state: &str| json!({"component": component, "operation": "add", "state": state});
        let changes = [
            change(Some("a"), "applied"),
            change(None, "pending"),
            change(Some("a"), "failed"),
            change(Some("b"), "draining"),
            change(None, "failed"),
        ];
        let news = news(&changes);
        assert_eq!(news.len(), 3, "{news:?}");
        assert!(news[1].starts_with("b: added, draining"), "{news:?}");
    }
}
