//! Placeholders: what a script takes from the turn so far.

use fumehood_core::{
    call::{CallResult, status_of},
    content::{Content, plain_text},
};
use serde_json::Value;

/// What placeholders can reach.
pub(super) struct Scope<'a> {
    pub(super) input: &'a str,
    /// The results of each step so far.
    pub(super) steps: &'a [Vec<&'a CallResult>],
}

impl Scope<'_> {
    /// The results of the last step.
    pub(super) fn last_results(&self) -> &[&CallResult] {
        self.steps.last().map_or(&[], Vec::as_slice)
    }

    fn resolve(&self, path: &str) -> Result<Value, String> {
        let mut segments = path.split('.');
        let missing = || format!("`{{{{{path}}}}}` leads nowhere");
        let results = match segments.next() {
            Some("input") if path == "input" => return Ok(self.input.into()),
            Some("result") => self.last_results(),
            Some("step") => {
                let step = number(segments.next()).ok_or_else(missing)?;
                if segments.next() != Some("result") {
                    return Err(missing());
                }
                self.steps
                    .get(step)
                    .map(Vec::as_slice)
                    .ok_or_else(|| format!("{}: the turn has had {} steps so far", missing(), self.steps.len()))?
            }
            _ => return Err(missing()),
        };
        let at = number(segments.next()).ok_or_else(missing)?;
        let result = results
            .get(at)
            .ok_or_else(|| format!("{}: there are {} results", missing(), results.len()))?;
        let rest: Vec<_> = segments.collect();
        look_into(result, &rest).ok_or_else(|| format!("{}: the result is {}", missing(), summary(result)))
    }
}

fn number(segment: Option<&str>) -> Option<usize> {
    segment?.parse().ok()
}

/// Follows `text`, `structured.a.0`, `json.…`, `status`, `error` or `message` into a result.
pub(super) fn look_into(result: &CallResult, path: &[&str]) -> Option<Value> {
    let (what, rest) = path.split_first()?;
    let start = match (*what, result) {
        ("status", _) => serde_json::to_value(status_of(result)).ok()?,
        ("text", Ok(output)) => plain_text(&output.content).into(),
        ("structured", Ok(output)) => output.structured.clone()?,
        ("json", Ok(output)) => output
            .content
            .iter()
            .find_map(|piece| match piece {
                Content::Json { json } => Some(json.clone()),
                Content::Text { text } => serde_json::from_str(text).ok(),
                _ => None,
            })
            .or_else(|| output.structured.clone())?,
        ("error", Err(error)) => serde_json::to_value(error.code).ok()?,
        ("message" | "text", Err(error)) => error.message.clone().into(),
        _ => return None,
    };
    rest.iter().try_fold(start, |value, segment| match value {
        Value::Object(mut object) => object.remove(*segment),
        Value::Array(items) => items.into_iter().nth(segment.parse().ok()?),
        _ => None,
    })
}

/// A result for an error message: bounded.
pub(super) fn summary(result: &CallResult) -> String {
    const LENGTH: usize = 400;
    let text = match result {
        Ok(output) => serde_json::to_string(output),
        Err(error) => serde_json::to_string(error),
    }
    .unwrap_or_default();
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The text with its placeholders filled in.
pub(super) fn render(text: &str, scope: &Scope<'_>) -> Result<String, String> {
    let mut rendered = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, inner, after)) = placeholder(rest) {
        rendered.push_str(before);
        match scope.resolve(inner)? {
            Value::String(text) => rendered.push_str(&text),
            value => rendered.push_str(&value.to_string()),
        }
        rest = after;
    }
    rendered.push_str(rest);
    Ok(rendered)
}

/// The value with the placeholders of its texts filled in.
pub(super) fn render_value(value: &Value, scope: &Scope<'_>) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => match placeholder(text) {
            Some(("", inner, "")) => scope.resolve(inner)?,
            _ => render(text, scope)?.into(),
        },
        Value::Array(items) => items
            .iter()
            .map(|item| render_value(item, scope))
            .collect::<Result<_, _>>()?,
        Value::Object(object) => Value::Object(
            object
                .iter()
                .map(|(key, value)| Ok((key.clone(), render_value(value, scope)?)))
                .collect::<Result<_, String>>()?,
        ),
        other => other.clone(),
    })
}

/// The first placeholder of ours: what is before it, its path, what is after it.
fn placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    loop {
        let open = from + text[from..].find("{{")?;
        let close = open + 2 + text[open + 2..].find("}}")?;
        let inner = text[open + 2..close].trim();
        if inner == "input" || inner.starts_with("result.") || inner.starts_with("step.") {
            return Some((&text[..open], inner, &text[close + 2..]));
        }
        from = open + 2;
    }
}
