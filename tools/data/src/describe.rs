//! What a table holds.

use crate::{
    table::Table,
    value::{Value, number_to_json},
};
use fumehood::Failure;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

/// How many different examples of a column are shown.
const EXAMPLES: usize = 3;
/// How much of an example is shown, in characters.
const EXAMPLE_LENGTH: usize = 80;

/// A table.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Description {
    /// How many rows there are.
    pub(crate) rows: u64,
    pub(crate) columns: Vec<Column>,
}

/// A column.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `number`, `boolean`, `text`, `mixed`, or `empty`.
    #[serde(rename = "type")]
    pub(crate) of: &'static str,
    /// How many rows have no value.
    pub(crate) missing: u64,
    /// Some of the values.
    pub(crate) examples: Vec<Json>,
}

#[derive(Default)]
struct Seen {
    missing: u64,
    numbers: u64,
    booleans: u64,
    texts: u64,
    examples: Vec<Json>,
}

pub(crate) fn describe(table: &Table) -> Result<Description, Failure> {
    let mut seen: Vec<Seen> = table.columns.iter().map(|_| Seen::default()).collect();
    let mut rows = 0;
    table.for_each(|row| {
        rows += 1;
        for (seen, value) in seen.iter_mut().zip(&row) {
            seen.add(value);
        }
        Ok(())
    })?;
    let columns = table.columns.iter().zip(seen);
    let columns = columns.map(|(name, seen)| Column {
        name: name.clone(),
        of: seen.kind(),
        missing: seen.missing,
        examples: seen.examples,
    });
    Ok(Description {
        rows,
        columns: columns.collect(),
    })
}

impl Seen {
    fn add(&mut self, value: &Value) {
        let example = match value {
            Value::Missing => {
                self.missing += 1;
                return;
            }
            Value::Bool(it) => {
                self.booleans += 1;
                Json::Bool(*it)
            }
            Value::Number(number) => {
                self.numbers += 1;
                number_to_json(*number)
            }
            Value::Text(text) => {
                self.texts += 1;
                if self.examples.len() == EXAMPLES {
                    return;
                }
                Json::String(text.chars().take(EXAMPLE_LENGTH).collect())
            }
        };
        if self.examples.len() < EXAMPLES && !self.examples.contains(&example) {
            self.examples.push(example);
        }
    }

    fn kind(&self) -> &'static str {
        match (self.numbers > 0, self.booleans > 0, self.texts > 0) {
            (false, false, false) => "empty",
            (true, false, false) => "number",
            (false, true, false) => "boolean",
            (false, false, true) => "text",
            _ => "mixed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::csv;

    #[test]
    fn columns_have_types_missing_values_and_examples() {
        let it = describe(&csv("a,b,c,d\n1,x,true,\n2,,true,\n1,3,false,\n")).unwrap();
        assert_eq!(it.rows, 3);
        let kinds: Vec<&str> = it.columns.iter().map(|column| column.of).collect();
        assert_eq!(kinds, ["number", "mixed", "boolean", "empty"]);
        assert_eq!(it.columns[0].examples, [Json::from(1), Json::from(2)]);
        assert_eq!((it.columns[1].missing, it.columns[3].missing), (1, 3));
    }
}
