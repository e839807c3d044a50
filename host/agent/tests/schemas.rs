//! Input schemas are written by strangers and compiled by the host.
#![allow(clippy::unwrap_used, reason = "tests")]

use fumehood_agent::catalog::schema_of;
use fumehood_core::tool::ToolDefinition;
use serde_json::json;

fn with_pattern(pattern: &str) -> ToolDefinition {
    serde_json::from_value(json!({
        "name": "search",
        "description": "Searches.",
        "input_schema": {"type": "object", "properties": {"text": {"type": "string", "pattern": pattern}}},
    }))
    .unwrap()
}

#[test]
fn a_pattern_is_matched_in_linear_time() {
    // Takes a backtracking search longer than the universe has been there.
    let schema = schema_of(&with_pattern("^(a+)+$")).unwrap();
    let text = format!("{}!", "a".repeat(50_000));
    assert!(!schema.is_valid(&json!({"text": text})));
    assert!(schema.is_valid(&json!({"text": "aaa"})));
}

#[test]
fn a_pattern_that_looks_around_or_back_is_refused() {
    for pattern in ["(?=a)b", "(?!a)b", "(a)\\1", "(?<=a)b"] {
        assert!(schema_of(&with_pattern(pattern)).is_err(), "{pattern}");
    }
}

#[test]
fn a_pattern_that_unfolds_to_something_huge_is_refused() {
    assert!(schema_of(&with_pattern("((a{1000}){1000}){1000}")).is_err());
}
