//! How the tools of one version of a component differ from those of another. Only compares.

use fumehood_core::{name::ToolName, tool::ToolDefinition};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// A difference, from the version before to the new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(crate) enum ToolDifference {
    /// A tool that was not there.
    ToolAdded { tool: ToolName },
    /// A tool that is no longer there.
    ToolRemoved { tool: ToolName },
    /// A parameter that was not there.
    ParameterAdded {
        tool: ToolName,
        parameter: String,
        required: bool,
    },
    /// A parameter that is no longer there.
    ParameterRemoved { tool: ToolName, parameter: String },
    /// A parameter that takes something else.
    ParameterChanged {
        tool: ToolName,
        parameter: String,
        before: String,
        now: String,
    },
    /// A parameter that has to be given now, or need not be any more.
    ParameterRequired {
        tool: ToolName,
        parameter: String,
        required: bool,
    },
    /// Anything else that a model or a host goes by.
    Changed {
        tool: ToolName,
        what: &'static str,
        before: String,
        now: String,
    },
}

impl ToolDifference {
    /// In words.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Self::ToolAdded { tool } => format!("+ the tool {tool}"),
            Self::ToolRemoved { tool } => format!("- the tool {tool}"),
            Self::ParameterAdded {
                tool,
                parameter,
                required: true,
            } => format!("+ {tool}: `{parameter}`, which has to be given"),
            Self::ParameterAdded { tool, parameter, .. } => format!("+ {tool}: `{parameter}`"),
            Self::ParameterRemoved { tool, parameter } => format!("- {tool}: `{parameter}`"),
            Self::ParameterChanged {
                tool,
                parameter,
                before,
                now,
            } => format!("~ {tool}: `{parameter}` takes {now}, no longer {before}"),
            Self::ParameterRequired {
                tool,
                parameter,
                required: true,
            } => format!("~ {tool}: `{parameter}` has to be given now"),
            Self::ParameterRequired { tool, parameter, .. } => {
                format!("~ {tool}: `{parameter}` need not be given any more")
            }
            Self::Changed {
                tool,
                what,
                before,
                now,
            } => format!("~ {tool}: {what} is {now}, no longer {before}"),
        }
    }
}

/// Every difference, tool by tool.
pub(crate) fn between(before: &[ToolDefinition], now: &[ToolDefinition]) -> Vec<ToolDifference> {
    let find = |tools: &[ToolDefinition], name: &ToolName| tools.iter().find(|tool| tool.name == *name).cloned();
    let names: BTreeSet<&ToolName> = before.iter().chain(now).map(|tool| &tool.name).collect();
    let mut differences = Vec::new();
    for name in names {
        match (find(before, name), find(now, name)) {
            (None, _) => differences.push(ToolDifference::ToolAdded { tool: name.clone() }),
            (_, None) => differences.push(ToolDifference::ToolRemoved { tool: name.clone() }),
            (Some(before), Some(now)) => of_one(&before, &now, &mut differences),
        }
    }
    differences
}

fn of_one(before: &ToolDefinition, now: &ToolDefinition, differences: &mut Vec<ToolDifference>) {
    let known = differences.len();
    parameters(before, now, differences);
    let tool = &now.name;
    let mut changed = |what, before: String, now: String| {
        if before != now {
            differences.push(ToolDifference::Changed {
                tool: tool.clone(),
                what,
                before,
                now,
            });
        }
    };
    let text = |value: &Option<Value>| value.as_ref().map_or_else(|| "nothing".to_owned(), Value::to_string);
    let effect = |tool: &ToolDefinition| {
        serde_json::to_value(tool.effect).map_or_else(|_| String::new(), |effect| effect.to_string())
    };
    changed("its description", before.description.clone(), now.description.clone());
    changed("what it returns", text(&before.output_schema), text(&now.output_schema));
    changed("its effect", effect(before), effect(now));
    changed("read_only", before.read_only.to_string(), now.read_only.to_string());
    changed(
        "destructive",
        before.destructive.to_string(),
        now.destructive.to_string(),
    );
    changed("open_world", before.open_world.to_string(), now.open_world.to_string());
    if differences.len() == known && before.input_schema != now.input_schema {
        // What is not said parameter by parameter.
        differences.push(ToolDifference::Changed {
            tool: tool.clone(),
            what: "its input schema",
            before: before.input_schema.to_string(),
            now: now.input_schema.to_string(),
        });
    }
}

fn parameters(before: &ToolDefinition, now: &ToolDefinition, differences: &mut Vec<ToolDifference>) {
    let none = Map::new();
    let properties = |tool: &ToolDefinition| tool.input_schema.get("properties").and_then(Value::as_object).cloned();
    let (old, new) = (properties(before).unwrap_or_default(), properties(now).unwrap_or(none));
    let required = |tool: &ToolDefinition, name: &str| {
        let list = tool.input_schema.get("required").and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|one| one == name))
    };
    let tool = &now.name;
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let parameter = name.clone();
        let tool = tool.clone();
        match (old.get(name), new.get(name)) {
            (None, _) => differences.push(ToolDifference::ParameterAdded {
                tool,
                parameter,
                required: required(now, name),
            }),
            (_, None) => differences.push(ToolDifference::ParameterRemoved { tool, parameter }),
            (Some(was), Some(is)) => {
                if was != is {
                    differences.push(ToolDifference::ParameterChanged {
                        tool: tool.clone(),
                        parameter: parameter.clone(),
                        before: was.to_string(),
                        now: is.to_string(),
                    });
                }
                if required(before, name) != required(now, name) {
                    differences.push(ToolDifference::ParameterRequired {
                        tool,
                        parameter,
                        required: required(now, name),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(name: &str, schema: &Value, more: &Value) -> ToolDefinition {
        let mut value = json!({"name": name, "description": "Does it.", "input_schema": schema});
        for (key, to) in more.as_object().into_iter().flatten() {
            value[key.as_str()] = to.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn each_difference_of_tools_and_parameters_is_said() {
        let before = [
            tool(
                "get",
                &json!({"type": "object", "properties": {"id": {"type": "integer"}, "old": {}, "way": {}}, "required": ["id"]}),
                &json!({}),
            ),
            tool("gone", &json!({"type": "object"}), &json!({})),
            tool("same", &json!({"type": "object"}), &json!({})),
        ];
        let now = [
            tool(
                "get",
                &json!({"type": "object", "properties": {"id": {"type": "string"}, "way": {}, "more": {}}, "required": ["way", "more"]}),
                &json!({"effect": "pure", "destructive": true}),
            ),
            tool("new", &json!({"type": "object"}), &json!({})),
            tool("same", &json!({"type": "object"}), &json!({})),
        ];
        let said: Vec<String> = between(&before, &now).iter().map(ToolDifference::sentence).collect();
        assert_eq!(
            said,
            [
                "~ get: `id` takes {\"type\":\"string\"}, no longer {\"type\":\"integer\"}",
                "~ get: `id` need not be given any more",
                "+ get: `more`, which has to be given",
                "- get: `old`",
                "~ get: `way` has to be given now",
                "~ get: its effect is \"pure\", no longer \"at-most-once\"",
                "~ get: destructive is true, no longer false",
                "- the tool gone",
                "+ the tool new",
            ]
        );
        assert!(between(&now, &now).is_empty());
    }

    #[test]
    fn what_is_not_a_parameters_is_said_as_the_schemas() {
        let before = [tool("get", &json!({"type": "object"}), &json!({}))];
        let now = [tool(
            "get",
            &json!({"type": "object", "additionalProperties": false}),
            &json!({}),
        )];
        let said = between(&before, &now)[0].sentence();
        assert!(said.starts_with("~ get: its input schema is"), "{said}");
    }
}
