//! What a script may expect of a turn so far.

use super::template::{Scope, look_into, summary};
use fumehood_core::{
    call::{CallResult, CallStatus, status_of},
    content::plain_text,
    tool::ToolDefinition,
};
use serde::Deserialize;
use serde_json::Value;

/// One assertion; a table with exactly one of `result`, `results`, `offered` and `not_offered`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    result: Option<usize>,
    results: Option<usize>,
    offered: Option<String>,
    not_offered: Option<String>,
    status: Option<CallStatus>,
    contains: Option<String>,
    lacks: Option<String>,
    path: Option<String>,
    equals: Option<Value>,
}

impl Expectation {
    /// What is wrong with it as it stands in the file.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let subjects = [
            self.result.is_some(),
            self.results.is_some(),
            self.offered.is_some(),
            self.not_offered.is_some(),
        ];
        let of_result = [
            self.status.is_some(),
            self.contains.is_some(),
            self.lacks.is_some(),
            self.path.is_some() || self.equals.is_some(),
        ];
        let count = |flags: &[bool]| flags.iter().filter(|flag| **flag).count();
        if count(&subjects) != 1 {
            return Some("an expectation has exactly one of `result`, `results`, `offered` and `not_offered`");
        }
        match (self.result.is_some(), count(&of_result)) {
            (true, 0) => return Some("`result` needs one of `status`, `contains`, `lacks`, and `path` with `equals`"),
            (false, 1..) => return Some("`status`, `contains`, `lacks`, `path` and `equals` go with `result`"),
            _ => {}
        }
        (self.path.is_some() != self.equals.is_some()).then_some("`path` and `equals` go together")
    }
}

/// Checks all; the first that is not true is the error.
pub(super) fn check(expected: &[Expectation], scope: &Scope<'_>, tools: &[ToolDefinition]) -> Result<(), String> {
    expected
        .iter()
        .try_for_each(|expectation| check_one(expectation, scope, tools))
}

fn check_one(expected: &Expectation, scope: &Scope<'_>, tools: &[ToolDefinition]) -> Result<(), String> {
    let results = scope.last_results();
    let is_offered = |name: &String| tools.iter().any(|tool| tool.name.as_str() == name);
    if let Some(count) = expected.results
        && count != results.len()
    {
        return Err(format!("expected {count} results, there are {}", results.len()));
    }
    if let Some(name) = expected.offered.as_ref().filter(|name| !is_offered(name)) {
        return Err(format!("expected that the tool `{name}` is offered, it is not"));
    }
    if let Some(name) = expected.not_offered.as_ref().filter(|name| is_offered(name)) {
        return Err(format!("expected that the tool `{name}` is not offered, it is"));
    }
    let Some(at) = expected.result else { return Ok(()) };
    let Some(result) = results.get(at) else {
        return Err(format!("expected a result {at}, there are {}", results.len()));
    };
    check_result(expected, result)
        .map_err(|problem| format!("expected of result {at} that {problem}; it is {}", summary(result)))
}

fn check_result(expected: &Expectation, result: &CallResult) -> Result<(), String> {
    if let Some(status) = expected.status
        && status_of(result) != status
    {
        return Err(format!(
            "its status is {}",
            serde_json::to_string(&status).unwrap_or_default()
        ));
    }
    if let Some(part) = expected.contains.as_ref().filter(|part| !says(result).contains(*part)) {
        return Err(format!("it contains {part:?}"));
    }
    if let Some(part) = expected.lacks.as_ref().filter(|part| says(result).contains(*part)) {
        return Err(format!("it does not contain {part:?}"));
    }
    if let (Some(path), Some(value)) = (&expected.path, &expected.equals) {
        let found = look_into(result, &path.split('.').collect::<Vec<_>>());
        if found.as_ref() != Some(value) {
            return Err(format!("`{path}` equals {value}"));
        }
    }
    Ok(())
}

fn says(result: &CallResult) -> String {
    match result {
        Ok(output) => {
            let structured = output.structured.as_ref().map(Value::to_string).unwrap_or_default();
            format!("{}\n{structured}", plain_text(&output.content))
        }
        Err(error) => error.message.clone(),
    }
}
