//! Input schemas: whether they say what a model has to send, and refuse what it should not.

use super::{Facts, Finding, Lint};
use fumehood_core::tool::ToolDefinition;
use fumehood_sandbox::ComponentKind;
use serde_json::{Map, Value};
use std::collections::HashSet;

/// Deeper than schemas that people write, and as deep as is looked.
const DEEPEST: usize = 12;
/// Places that one finding names.
const NAMED: usize = 6;
/// What says which values there are.
const SAYS_WHAT: [&str; 9] = ["type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if"];
/// What says how long a text may be.
const BOUNDS_TEXT: [&str; 6] = ["maxLength", "enum", "const", "format", "pattern", "contentEncoding"];
/// Texts that nobody makes long.
const SHORT: [&str; 7] = ["id", "key", "method", "name", "path", "uri", "url"];
/// Schemas below which are others of the same value.
const SAME_VALUE: [&str; 3] = ["anyOf", "oneOf", "allOf"];

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let written = facts.kind == ComponentKind::FumehoodTool;
    facts
        .tools
        .iter()
        .flat_map(|tool| {
            let mut seen = Seen {
                defs: tool.input_schema.get("$defs").and_then(Value::as_object),
                sends: tool.open_world && !tool.read_only,
                parts_closed: closes_over_parts(&tool.input_schema),
                ..Seen::default()
            };
            seen.look(&tool.input_schema, "", 0, Above::default());
            seen.findings(tool, written)
        })
        .collect()
}

/// What the schemas around a branch say of the same value, so that the branch need not.
#[derive(Clone, Copy, Default)]
struct Above<'a> {
    /// One of them refuses the properties that are nowhere.
    closed: bool,
    properties: Option<&'a Map<String, Value>>,
    further: Option<&'a Above<'a>>,
}

impl Above<'_> {
    fn has(&self, name: &str) -> bool {
        self.properties.is_some_and(|properties| properties.contains_key(name))
            || self.further.is_some_and(|further| further.has(name))
    }
}

/// The places of a schema at which something was seen.
#[derive(Default)]
struct Seen<'a> {
    /// What `$ref` may refer to.
    defs: Option<&'a Map<String, Value>>,
    /// What is sent leaves for the outside.
    sends: bool,
    /// What refers to a definition may refuse what that leaves open.
    parts_closed: bool,
    undescribed: Vec<String>,
    untyped: Vec<String>,
    open: Vec<String>,
    impossible: Vec<String>,
    unbounded: Vec<String>,
    in_words: Vec<String>,
}

impl Seen<'_> {
    /// Looks at a schema of the value at `path`, and below it.
    fn look(&mut self, schema: &Value, path: &str, depth: usize, above: Above<'_>) {
        let Some(fields) = schema.as_object().filter(|_| depth < DEEPEST) else {
            return;
        };
        self.object(fields, path, above);
        let properties = fields.get("properties").and_then(Value::as_object);
        for (name, schema) in properties.into_iter().flatten() {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            // What a branch adds to a property of the whole is judged with the whole.
            if !above.has(name) {
                self.property(schema, &path);
            }
            self.look(schema, &path, depth + 1, Above::default());
        }
        let here = Above {
            closed: above.closed || closing(fields).is_some_and(|more| more != &Value::Bool(true)),
            properties,
            further: Some(&above),
        };
        for key in SAME_VALUE {
            for schema in fields.get(key).and_then(Value::as_array).into_iter().flatten() {
                self.look(schema, path, depth + 1, here);
            }
        }
        if let Some(items) = fields.get("items") {
            self.look(items, &format!("{path}[]"), depth + 1, Above::default());
        }
        let part = Above {
            closed: self.parts_closed,
            ..Above::default()
        };
        for key in ["$defs", "definitions"] {
            for (name, schema) in fields.get(key).and_then(Value::as_object).into_iter().flatten() {
                self.look(schema, &format!("#{name}"), depth + 1, part);
            }
        }
    }

    fn object(&mut self, fields: &Map<String, Value>, path: &str, above: Above<'_>) {
        let shown = || {
            if path.is_empty() {
                "the arguments".to_owned()
            } else {
                format!("`{path}`")
            }
        };
        let properties = fields.get("properties").and_then(Value::as_object);
        let open = match closing(fields) {
            None => !above.closed && !self.is_closed(fields, 0),
            // Where a branch says so, the whole takes them too: nothing is left unevaluated.
            Some(more) => more == &Value::Bool(true),
        };
        if open && properties.is_some_and(|properties| !properties.is_empty()) {
            self.open.push(shown());
        }
        // This one alone looks at no branch and no reference, and so refuses what only those have.
        if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
            let required = fields.get("required").and_then(Value::as_array).into_iter().flatten();
            for name in required.filter_map(Value::as_str) {
                let allowed = properties.is_some_and(|properties| properties.contains_key(name))
                    || fields.contains_key("patternProperties");
                if !allowed {
                    self.impossible.push(format!("`{name}`"));
                }
            }
        }
        if is_type(fields, "array") && !fields.contains_key("maxItems") && !fields.contains_key("prefixItems") {
            self.unbounded.push(shown());
        }
        let bounded = BOUNDS_TEXT.iter().any(|key| fields.contains_key(*key));
        let short = SHORT.iter().any(|name| path.rsplit('.').next() == Some(name));
        if self.sends && !short && is_type(fields, "string") && !bounded {
            self.unbounded.push(shown());
        }
    }

    /// Whether a schema takes no properties that it does not have: it says so itself, or whatever it follows with it does.
    fn is_closed(&self, fields: &Map<String, Value>, depth: usize) -> bool {
        if depth >= DEEPEST {
            return false;
        }
        if let Some(more) = closing(fields) {
            return more != &Value::Bool(true);
        }
        let closes = |schema: &Value| {
            schema
                .as_object()
                .is_some_and(|fields| self.is_closed(fields, depth + 1))
        };
        let branches = |key: &str| fields.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let one_of_all = |branches: &[Value]| !branches.is_empty() && branches.iter().all(closes);
        let referred = fields
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|place| place.strip_prefix("#/$defs/"))
            .and_then(|name| self.defs?.get(name));
        branches("allOf").iter().any(closes)
            || one_of_all(branches("oneOf"))
            || one_of_all(branches("anyOf"))
            || referred.is_some_and(closes)
    }

    fn property(&mut self, schema: &Value, path: &str) {
        let Some(fields) = schema.as_object() else {
            if schema == &Value::Bool(true) {
                self.untyped.push(format!("`{path}`"));
            }
            return;
        };
        let description = fields.get("description").and_then(Value::as_str).unwrap_or_default();
        // One below another is described by its name and by the one that it is in.
        if description.trim().is_empty() && !path.contains(['.', '[']) && !fields.contains_key("$ref") {
            self.undescribed.push(format!("`{path}`"));
        }
        if !SAYS_WHAT.iter().any(|key| fields.contains_key(*key)) {
            self.untyped.push(format!("`{path}`"));
        }
        if is_type(fields, "string")
            && !BOUNDS_TEXT.iter().any(|key| fields.contains_key(*key))
            && lists_values(description)
        {
            self.in_words.push(format!("`{path}`"));
        }
    }

    fn findings(self, tool: &ToolDefinition, written: bool) -> Vec<Finding> {
        let name = &tool.name;
        let told = |lint: Lint, places: Vec<String>, what: &dyn Fn(&str) -> String, remedy: &str| {
            (!places.is_empty()).then(|| Finding::new(lint, what(&few(&places)), remedy))
        };
        let mut findings = vec![
            told(
                Lint::ParameterImpossible,
                self.impossible,
                &|places| {
                    format!(
                        "the tool `{name}` requires {places}, which its schema does not allow: no arguments follow it"
                    )
                },
                "add it to `properties`, or remove it from `required`",
            ),
            told(
                Lint::SchemaUntyped,
                self.untyped,
                &|places| format!("the tool `{name}` takes any JSON as {places}"),
                "give a `type`, so that a model knows what to send and the host refuses the rest",
            ),
            told(
                Lint::SchemaOpen,
                self.open,
                &|places| {
                    format!("the tool `{name}` takes properties that {places} does not have, and passes over them")
                },
                "set `additionalProperties` to false, so that a misspelt name is refused with a hint",
            ),
            told(
                Lint::EnumInWords,
                self.in_words,
                &|places| format!("the tool `{name}` lists the values of {places} in its description only"),
                "list them as `enum`, which the host checks",
            ),
            told(
                Lint::SchemaUnbounded,
                self.unbounded,
                &|places| format!("the tool `{name}` takes any length of {places}"),
                "set `maxItems` or `maxLength` to the most that it can use",
            ),
        ];
        if written {
            findings.push(told(
                Lint::ParameterUndescribed,
                self.undescribed,
                &|places| format!("the tool `{name}` does not describe {places}"),
                "say what it means, its unit, and what it may be",
            ));
        } else {
            // What is made of WIT types is bounded by them; there is no place to say more.
            findings.retain(|finding| {
                finding
                    .as_ref()
                    .is_some_and(|finding| finding.lint != Lint::SchemaUnbounded)
            });
        }
        findings.into_iter().flatten().collect()
    }
}

/// What an object's schema says of the properties that it does not have.
fn closing(fields: &Map<String, Value>) -> Option<&Value> {
    fields
        .get("additionalProperties")
        .or_else(|| fields.get("unevaluatedProperties"))
}

/// Whether a schema, or one in it, refuses properties that neither it nor a schema that it refers to has.
fn closes_over_parts(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            fields
                .get("unevaluatedProperties")
                .is_some_and(|more| more != &Value::Bool(true))
                || fields.values().any(closes_over_parts)
        }
        Value::Array(items) => items.iter().any(closes_over_parts),
        _ => false,
    }
}

fn is_type(fields: &Map<String, Value>, wanted: &str) -> bool {
    match fields.get("type") {
        Some(Value::String(own)) => own == wanted,
        Some(Value::Array(several)) => several.iter().any(|own| own == wanted),
        _ => false,
    }
}

/// Whether a text says which words there are: `` `a`, `b` or `c` ``, `` one of `a` and `b` ``.
fn lists_values(text: &str) -> bool {
    let word = |quoted: &&str| {
        quoted.len() <= 32
            && quoted
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let quoted = text.split('`').skip(1).step_by(2).filter(word).count();
    let between: Vec<&str> = text.split('`').skip(2).step_by(2).collect();
    let joined = between
        .iter()
        .any(|words| matches!(words.trim(), "or" | ", or" | "|" | "/"));
    quoted >= 2 && (joined || text.to_lowercase().contains("one of"))
}

fn few(places: &[String]) -> String {
    let mut seen = HashSet::new();
    let places: Vec<&String> = places.iter().filter(|place| seen.insert(place.as_str())).collect();
    let mut shown = places
        .iter()
        .take(NAMED)
        .map(|place| place.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    if places.len() > NAMED {
        shown.push_str(&format!(" and {} more", places.len() - NAMED));
    }
    shown
}
