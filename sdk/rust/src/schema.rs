//! JSON Schemas for arguments and results, as short as they can be: the model pays for every word.

use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::Value;

/// The schema of a tool's arguments: an object without further members.
#[must_use]
pub fn of_arguments<T: JsonSchema>() -> String {
    let mut schema = settings()
        .for_deserialize()
        .into_generator()
        .into_root_schema_for::<T>();
    let object = schema.ensure_object();
    object.remove("title");
    object.insert("type".to_owned(), "object".into());
    if !["oneOf", "anyOf", "allOf", "$ref"]
        .iter()
        .any(|key| object.contains_key(*key))
    {
        object
            .entry("properties")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        object.entry("additionalProperties").or_insert(Value::Bool(false));
    }
    schema.to_value().to_string()
}

/// The schema of a result, if it is an object.
pub(crate) fn of_output<T: JsonSchema>() -> Option<String> {
    let mut schema = settings().for_serialize().into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    (schema.get("type").and_then(Value::as_str) == Some("object")).then(|| schema.to_value().to_string())
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(RecursiveTransform(drop_number_formats))
}

/// `"format": "double"` and its like say nothing that `type`, `minimum` and `maximum` do not.
fn drop_number_formats(schema: &mut Schema) {
    let is_noise = |format: &Value| {
        format
            .as_str()
            .is_some_and(|f| matches!(f, "double" | "float") || f.starts_with("int") || f.starts_with("uint"))
    };
    if schema.get("format").is_some_and(is_noise) {
        schema.remove("format");
    }
}
