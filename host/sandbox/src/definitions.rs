//! What a component says of its tools, checked.

use crate::{
    bindings::fumehood::tool::types::{Definition, Effect as GuestEffect},
    error::{LoadError, ToolNameError},
};
use fumehood_core::{
    name::ToolName,
    tool::{Effect, ToolDefinition},
};
use serde_json::Value;
use std::collections::HashSet;

/// More tools than any model can be shown.
pub(crate) const MAX_TOOLS: usize = 256;

/// The most text that all definitions together have: they are kept, listed, and shown to models.
pub(crate) const MAX_TEXT: usize = 1 << 20;

/// Checks every definition against the rules of the contract.
pub(crate) fn check(definitions: Vec<Definition>) -> Result<Vec<ToolDefinition>, LoadError> {
    if definitions.is_empty() {
        return Err(LoadError::NoTools);
    }
    if definitions.len() > MAX_TOOLS {
        return Err(LoadError::TooManyTools { limit: MAX_TOOLS });
    }
    // THREAT[T-box-compile]
    let text: usize = definitions.iter().map(text_len).sum();
    if text > MAX_TEXT {
        return Err(LoadError::TooLong {
            what: "definitions of tools",
            actual: text,
            limit: MAX_TEXT,
        });
    }
    let mut names = HashSet::new();
    let mut tools = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let tool = check_one(definition)?;
        if !names.insert(tool.name.clone()) {
            return Err(LoadError::DuplicateTool(tool.name.to_string()));
        }
        tools.push(tool);
    }
    Ok(tools)
}

fn text_len(definition: &Definition) -> usize {
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    definition.name.len()
        + definition.description.len()
        + definition.input_schema.len()
        + optional(&definition.title)
        + optional(&definition.output_schema)
}

fn check_one(definition: Definition) -> Result<ToolDefinition, LoadError> {
    let name = ToolName::new(&definition.name).map_err(ToolNameError::from)?;
    if definition.description.trim().is_empty() {
        return Err(LoadError::NoDescription(name.to_string()));
    }
    let input_schema = schema(&name, "input schema", &definition.input_schema)?;
    let output_schema = definition
        .output_schema
        .map(|text| schema(&name, "output schema", &text))
        .transpose()?;
    Ok(ToolDefinition {
        name,
        title: definition.title.filter(|title| !title.trim().is_empty()),
        description: definition.description,
        input_schema,
        output_schema,
        effect: match definition.effect {
            GuestEffect::Pure => Effect::Pure,
            GuestEffect::Idempotent => Effect::Idempotent,
            GuestEffect::AtMostOnce => Effect::AtMostOnce,
        },
        read_only: definition.read_only,
        destructive: definition.destructive,
        open_world: definition.open_world,
    })
}

/// A JSON Schema of an object. Whether it is otherwise a good schema is for who validates with it.
fn schema(tool: &ToolName, which: &'static str, text: &str) -> Result<Value, LoadError> {
    let invalid = |why: String| LoadError::Schema {
        tool: tool.to_string(),
        which,
        why,
    };
    let schema: Value = serde_json::from_str(text).map_err(|error| invalid(format!("it is not JSON: {error}")))?;
    let Value::Object(fields) = &schema else {
        return Err(invalid("it is not a JSON object".to_owned()));
    };
    if fields.get("type").and_then(Value::as_str) == Some("object") {
        Ok(schema)
    } else {
        Err(invalid("its `type` must be `object`".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str) -> Definition {
        Definition {
            name: name.into(),
            title: None,
            description: "Does it.".into(),
            input_schema: r#"{"type":"object"}"#.into(),
            output_schema: None,
            effect: GuestEffect::Pure,
            read_only: true,
            destructive: false,
            open_world: false,
        }
    }

    #[test]
    fn a_component_without_tools_is_refused() {
        assert_eq!(check(vec![]), Err(LoadError::NoTools));
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let error = check(vec![definition("a"), definition("a")]).unwrap_err();
        assert_eq!(error, LoadError::DuplicateTool("a".into()));
    }

    #[test]
    fn an_invalid_name_is_refused_with_the_rule() {
        let error = check(vec![definition("Read-File")]).unwrap_err();
        assert!(error.to_string().contains("underscores"), "{error}");
    }

    #[test]
    fn more_tools_than_a_component_may_have_are_refused() {
        let many = (0..=MAX_TOOLS).map(|i| definition(&format!("t{i}"))).collect();
        assert!(matches!(check(many), Err(LoadError::TooManyTools { .. })));
    }

    #[test]
    fn definitions_of_more_text_than_anybody_reads_are_refused() {
        let of = |len: usize| Definition {
            description: "d".repeat(len),
            ..definition("a")
        };
        let rest = text_len(&of(0));
        assert!(check(vec![of(MAX_TEXT - rest)]).is_ok());
        let refused = check(vec![of(MAX_TEXT - rest + 1)]);
        assert!(matches!(refused, Err(LoadError::TooLong { .. })), "{refused:?}");
    }

    #[test]
    fn a_schema_must_be_json_and_of_an_object() {
        for text in ["{", "[]", "true", r#"{"type":"string"}"#, "{}"] {
            let error = check(vec![Definition {
                input_schema: text.into(),
                ..definition("a")
            }])
            .unwrap_err();
            assert!(matches!(error, LoadError::Schema { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_description_is_refused() {
        let error = check(vec![Definition {
            description: " ".into(),
            ..definition("a")
        }])
        .unwrap_err();
        assert_eq!(error, LoadError::NoDescription("a".into()));
    }
}
