//! JSON Schemas of strangers, checked by the host: for the arguments of tools and for the output of turns.
//!
//! A [`Schema`] is compiled once. What a check costs is counted before it is made, and one that would cost too much is not made: a
//! check takes milliseconds at most, whoever wrote the schema and whoever wrote the value.

mod cost;

use cost::{Cost, TooCostly};
use fumehood_policy::suggest::nearest;
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;
use std::{io, thread};

/// The largest a `pattern` may become in memory, in bytes.
const PATTERN_SIZE: usize = 1 << 20;
/// The stack on which schemas are compiled: for the longest way through the largest.
const STACK: usize = 64 << 20;
/// Faults that are told of one value.
const FAULTS: usize = 3;
/// What a check may cost for faults to be told one by one: that costs a multiple, also in memory.
const TOLD: u64 = 1 << 16;
/// Characters of one fault.
const FAULT: usize = 200;
/// What a JSON Schema can call a type.
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "array", "object", "null"];

/// A compiled schema, of draft 2020-12.
#[derive(Debug)]
pub struct Schema {
    validator: Validator,
    cost: Cost,
}

/// Why a schema can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It is not a JSON Schema, refers to nothing, or has a `pattern` that takes more than a linear search: one that looks around or
    /// back.
    #[error("{0}")]
    Invalid(String),
    /// It refers to something outside itself.
    #[error("`$ref` to `{0}`: only `#` and places in the same schema, like `#/$defs/name`, can be referred to")]
    Outside(String),
    /// It has a keyword that changes what references mean.
    #[error("`{0}` is not supported: use `$ref` with `#/$defs/name`")]
    Keyword(&'static str),
    /// It is larger than a schema may be.
    #[error("it has more than {0} subschemas")]
    Large(usize),
    /// A way through it is longer than it may be.
    #[error("it is nested more than {0} deep, references included")]
    Deep(usize),
    /// A reference leads back to itself without going into the value.
    #[error("`$ref` to `{0}` leads back to itself")]
    Circular(String),
    /// The host can't make the thread that compiles it.
    #[error("the host can't compile it now: {0}")]
    Host(#[source] io::Error),
}

/// Why a value does not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It does not follow the schema: the places and the reasons, the first few.
    #[error("{}", .0.join("; "))]
    Faults(Vec<String>),
    /// To check it would cost more than a check may.
    #[error("to check this takes more than {} steps: send less, or nest it less", cost::BUDGET)]
    TooCostly,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// [`SchemaError`], also for a good schema that is larger or deeper than any that people write.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        // THREAT[T-box-schema-cost]: compiling is recursive, along ways through the schema that its author chose.
        thread::scope(|scope| {
            let compiling = thread::Builder::new()
                .name("schema".into())
                .stack_size(STACK)
                .spawn_scoped(scope, || compile(schema))
                .map_err(SchemaError::Host)?;
            compiling
                .join()
                .unwrap_or_else(|_| Err(SchemaError::Invalid("the host can't compile it".into())))
        })
    }

    /// Whether a value follows the schema.
    ///
    /// # Errors
    /// [`Misfit`], in words for who made the value.
    pub fn check(&self, value: &Value) -> Result<(), Misfit> {
        // THREAT[T-box-schema-cost]: nothing is checked before it is known what that costs.
        let cost = self.cost.of(value).map_err(|TooCostly| Misfit::TooCostly)?;
        if self.validator.is_valid(value) {
            return Ok(());
        }
        if cost > TOLD {
            return Err(Misfit::Faults(vec![
                "somewhere in it, and it is too large to say where".into(),
            ]));
        }
        let faults = self.validator.iter_errors(value).take(FAULTS);
        Err(Misfit::Faults(faults.map(|fault| describe(&fault)).collect()))
    }
}

fn compile(schema: &Value) -> Result<Schema, SchemaError> {
    let cost = Cost::count(schema)?;
    // THREAT[T-box-schema-pattern]: the host matches the patterns of strangers, outside a call's limits.
    let patterns = PatternOptions::regex()
        .size_limit(PATTERN_SIZE)
        .dfa_size_limit(PATTERN_SIZE);
    let validator = jsonschema::options()
        .with_draft(Draft::Draft202012)
        .with_pattern_options(patterns)
        .build(schema)
        .map_err(|error| SchemaError::Invalid(misplaced(schema, &error)))?;
    Ok(Schema { validator, cost })
}

/// What is wrong with a schema, and where in it.
fn misplaced(schema: &Value, fault: &jsonschema::ValidationError<'_>) -> String {
    let place = fault.instance_path().to_string();
    if let Some((place, word)) = unknown_type(schema, &place) {
        let word = shortened(word);
        let (near, place) = (nearest(&word, TYPES), shortened(&place));
        return format!(
            "at `{place}`: `{word}` is no type{near}; there are {}",
            TYPES.join(", ")
        );
    }
    let reason = shortened(&fault.to_string());
    match &*place {
        "" => reason,
        place => format!("at `{}`: {reason}", shortened(place)),
    }
}

/// The word at a place of a schema that should be a type and is none, with its own place where it is one of several.
fn unknown_type<'s>(schema: &'s Value, place: &str) -> Option<(String, &'s str)> {
    let around = place.strip_suffix("/type")?;
    // A property that is called so.
    if around.ends_with("/properties") || around.ends_with("/$defs") {
        return None;
    }
    let is_unknown = |word: &&str| !TYPES.contains(word);
    match schema.pointer(place)? {
        Value::String(word) => Some((place.to_owned(), &**word)).filter(|(_, word)| is_unknown(word)),
        Value::Array(words) => words.iter().enumerate().find_map(|(at, word)| {
            let word = word.as_str().filter(is_unknown)?;
            Some((format!("{place}/{at}"), word))
        }),
        _ => None,
    }
}

fn describe(fault: &jsonschema::ValidationError<'_>) -> String {
    let place = fault.instance_path().to_string();
    let reason = shortened(&fault.to_string());
    if place.is_empty() {
        reason
    } else {
        format!("at {}: {reason}", shortened(&place))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(FAULT).collect()
}
