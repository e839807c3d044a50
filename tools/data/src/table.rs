//! Opening a file as a table, and going through its rows one at a time.

use crate::value::Value;
use fumehood::Failure;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use std::{
    fs,
    path::{Component, Path, PathBuf},
};

/// The largest file that is read.
const MOST_BYTES: u64 = 64 << 20;
/// The most columns of a table.
const MOST_COLUMNS: usize = 2000;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Comma-separated, or semicolon-separated if the first line says so.
    Csv,
    /// Tab-separated.
    Tsv,
    /// An array of objects.
    Json,
    /// One object on each line.
    Jsonl,
}

/// A table: its columns, and rows to go through.
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    name: String,
    rows: Rows,
}

/// A row: one value for each column.
pub(crate) type Row = Vec<Value>;

enum Rows {
    Csv { bytes: Vec<u8>, delimiter: u8 },
    Objects(Vec<Map<String, Json>>),
}

impl Table {
    /// Opens a file of the workspace.
    pub(crate) fn open(path: &str, format: Option<Format>) -> Result<Self, Failure> {
        let full = place(path)?;
        let about = |error: std::io::Error| Failure::from(error).while_doing(format!("`{path}` cannot be read"));
        let metadata = fs::metadata(&full).map_err(about)?;
        if metadata.is_dir() {
            return Err(Failure::invalid_arguments(format!(
                "`{path}` is a directory: give a file"
            )));
        }
        if metadata.len() > MOST_BYTES {
            return Err(Failure::failed(format!(
                "`{path}` has {} bytes; the most is {MOST_BYTES}",
                metadata.len()
            )));
        }
        let bytes = fs::read(&full).map_err(about)?;
        let format = match format {
            Some(format) => format,
            None => guess(path, &bytes)?,
        };
        Self::of_bytes(path, bytes, format)
    }

    /// Reads a table that is in memory.
    pub(crate) fn of_bytes(name: &str, bytes: Vec<u8>, format: Format) -> Result<Self, Failure> {
        let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) => rest.to_vec(),
            None => bytes,
        };
        let (columns, rows) = match format {
            Format::Csv => csv_table(name, bytes, None)?,
            Format::Tsv => csv_table(name, bytes, Some(b'\t'))?,
            Format::Json => objects_table(json_objects(name, &bytes)?),
            Format::Jsonl => objects_table(jsonl_objects(name, &bytes)?),
        };
        if columns.is_empty() {
            return Err(Failure::failed(format!(
                "`{name}` has no columns: it is empty, or not a table"
            )));
        }
        if columns.len() > MOST_COLUMNS {
            return Err(Failure::failed(format!(
                "`{name}` has {} columns; the most is {MOST_COLUMNS}",
                columns.len()
            )));
        }
        Ok(Self {
            columns,
            name: name.to_owned(),
            rows,
        })
    }

    /// Where a column is.
    pub(crate) fn column(&self, name: &str) -> Result<usize, Failure> {
        position(&self.columns, name)
    }

    /// Goes through all rows.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(Row) -> Result<(), Failure>) -> Result<(), Failure> {
        match &self.rows {
            Rows::Csv { bytes, delimiter } => {
                let mut reader = csv_reader(bytes, *delimiter);
                let mut record = csv::ByteRecord::new();
                while reader
                    .read_byte_record(&mut record)
                    .map_err(|error| broken(&self.name, &error))?
                {
                    let field = |at| {
                        record
                            .get(at)
                            .map_or(Value::Missing, |f| Value::of_field(&String::from_utf8_lossy(f)))
                    };
                    visit((0..self.columns.len()).map(field).collect())?;
                }
                Ok(())
            }
            Rows::Objects(objects) => objects.iter().try_for_each(|object| {
                visit(
                    self.columns
                        .iter()
                        .map(|name| object.get(name).map_or(Value::Missing, Value::of_json))
                        .collect(),
                )
            }),
        }
    }
}

/// Where a column is among others.
pub(crate) fn position(columns: &[String], name: &str) -> Result<usize, Failure> {
    let exact = columns.iter().position(|column| column == name);
    let similar = || {
        columns
            .iter()
            .position(|column| column.trim().eq_ignore_ascii_case(name.trim()))
    };
    exact.or_else(similar).ok_or_else(|| {
        let shown: Vec<&str> = columns.iter().take(50).map(String::as_str).collect();
        Failure::invalid_arguments(format!("there is no column `{name}`; there are: {}", shown.join(", ")))
    })
}

/// A file of the workspace.
// THREAT[T-box-escape-files]: the host's preopened directory is the wall; this explains it.
fn place(path: &str) -> Result<PathBuf, Failure> {
    let inside = match path.strip_prefix("/workspace/") {
        Some(inside) => inside,
        // Tests run natively, where a temporary directory stands for the workspace.
        None if cfg!(not(target_family = "wasm")) && path.starts_with('/') => return Ok(PathBuf::from(path)),
        None => path,
    };
    let mut full = PathBuf::from("/workspace");
    for component in Path::new(inside).components() {
        match component {
            Component::Normal(name) => full.push(name),
            Component::CurDir => {}
            _ => {
                return Err(Failure::invalid_arguments(format!(
                    "`{path}` is outside of the workspace: give a path in it, such as `data/sales.csv`"
                )));
            }
        }
    }
    Ok(full)
}

fn guess(path: &str, bytes: &[u8]) -> Result<Format, Failure> {
    let extension = path
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase())
        .unwrap_or_default();
    match extension.as_str() {
        "csv" => Ok(Format::Csv),
        "tsv" | "tab" => Ok(Format::Tsv),
        "json" => Ok(Format::Json),
        "jsonl" | "ndjson" => Ok(Format::Jsonl),
        _ => match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[') => Ok(Format::Json),
            Some(b'{') => Ok(Format::Jsonl),
            _ => Err(Failure::invalid_arguments(format!(
                "`{path}` does not say what it is: give `format` (csv, tsv, json or jsonl)"
            ))),
        },
    }
}

fn csv_reader(bytes: &[u8], delimiter: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .from_reader(bytes)
}

fn csv_table(name: &str, bytes: Vec<u8>, delimiter: Option<u8>) -> Result<(Vec<String>, Rows), Failure> {
    let delimiter = delimiter.unwrap_or_else(|| {
        let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let count = |wanted| first.iter().filter(|byte| **byte == wanted).count();
        if count(b';') > count(b',') { b';' } else { b',' }
    });
    let header = csv_reader(&bytes, delimiter)
        .byte_headers()
        .map_err(|error| broken(name, &error))?
        .clone();
    let columns = unique(
        header
            .iter()
            .map(|field| String::from_utf8_lossy(field).trim().to_owned()),
    );
    Ok((columns, Rows::Csv { bytes, delimiter }))
}

/// Names for columns that have none, or one that another has already.
fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut columns: Vec<String> = Vec::new();
    for (at, name) in names.enumerate() {
        let base = if name.is_empty() {
            format!("column_{}", at + 1)
        } else {
            name
        };
        let mut candidate = base.clone();
        let mut number = 2;
        while columns.contains(&candidate) {
            candidate = format!("{base}_{number}");
            number += 1;
        }
        columns.push(candidate);
    }
    columns
}

fn broken(name: &str, error: &csv::Error) -> Failure {
    Failure::failed(format!("`{name}` is not valid CSV: {error}"))
}

fn json_objects(name: &str, bytes: &[u8]) -> Result<Vec<Map<String, Json>>, Failure> {
    let json: Json = serde_json::from_slice(bytes)
        .map_err(|error| Failure::failed(format!("`{name}` is not valid JSON: {error}")))?;
    let not_a_table = || {
        Failure::failed(format!(
            "`{name}` is JSON, but not a table: it must be an array of objects, or an object with one such member"
        ))
    };
    let array = match json {
        Json::Array(array) => array,
        // Many services wrap the rows: {"data": [...]}.
        Json::Object(object) => {
            let mut arrays = object.into_iter().filter_map(|(_, value)| match value {
                Json::Array(array) if array.first().is_some_and(Json::is_object) => Some(array),
                _ => None,
            });
            match (arrays.next(), arrays.next()) {
                (Some(only), None) => only,
                _ => return Err(not_a_table()),
            }
        }
        _ => return Err(not_a_table()),
    };
    array
        .into_iter()
        .map(|value| match value {
            Json::Object(object) => Ok(object),
            _ => Err(not_a_table()),
        })
        .collect()
}

fn jsonl_objects(name: &str, bytes: &[u8]) -> Result<Vec<Map<String, Json>>, Failure> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(at, line)| {
            serde_json::from_slice(line)
                .map_err(|error| Failure::failed(format!("line {} of `{name}` is not a JSON object: {error}", at + 1)))
        })
        .collect()
}

fn objects_table(objects: Vec<Map<String, Json>>) -> (Vec<String>, Rows) {
    let mut seen = std::collections::HashSet::new();
    let mut columns = Vec::new();
    for key in objects.iter().flat_map(Map::keys) {
        if !seen.contains(key) {
            seen.insert(key.clone());
            columns.push(key.clone());
        }
    }
    (columns, Rows::Objects(objects))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table from CSV text.
    pub(crate) fn csv(text: &str) -> Table {
        Table::of_bytes("t.csv", text.as_bytes().to_vec(), Format::Csv).unwrap()
    }

    fn rows(table: &Table) -> Vec<String> {
        let mut all = Vec::new();
        table
            .for_each(|row| {
                all.push(row.iter().map(ToString::to_string).collect::<Vec<_>>().join("|"));
                Ok(())
            })
            .unwrap();
        all
    }

    #[test]
    fn csv_is_read_with_quotes_short_rows_and_semicolons() {
        let table = csv("\u{feff}a;b;b\n1;\"x;\ny\";3\n2\n");
        assert_eq!(table.columns, ["a", "b", "b_2"]);
        assert_eq!(rows(&table), ["1|x;\ny|3", "2||"]);
    }

    #[test]
    fn json_in_its_forms_is_a_table() {
        let of = |text: &str, format| Table::of_bytes("t", text.as_bytes().to_vec(), format);
        let table = of(r#"[{"a":1},{"b":[2],"a":null}]"#, Format::Json).unwrap();
        assert_eq!(
            (table.columns.clone(), rows(&table)),
            (vec!["a".into(), "b".into()], vec!["1|".into(), "|[2]".into()])
        );
        assert_eq!(
            rows(&of("{\"a\":1}\n\n{\"a\":2}\n", Format::Jsonl).unwrap()),
            ["1", "2"]
        );
        assert_eq!(
            rows(&of(r#"{"total":1,"data":[{"a":true}]}"#, Format::Json).unwrap()),
            ["true"]
        );
        for bad in ["[1]", "1", "{}", "[", "[]"] {
            assert!(of(bad, Format::Json).is_err(), "{bad}");
        }
        assert!(
            of("{\"a\":1}\nx", Format::Jsonl)
                .err()
                .unwrap()
                .message()
                .contains("line 2")
        );
    }

    #[test]
    fn files_outside_of_the_workspace_are_refused() {
        assert!(matches!(place("../x.csv"), Err(Failure::InvalidArguments(_))));
        assert!(matches!(
            place("/workspace/../x.csv"),
            Err(Failure::InvalidArguments(_))
        ));
        assert_eq!(place("/workspace/a/./b.csv").unwrap(), Path::new("/workspace/a/b.csv"));
        assert!(matches!(Table::open("nope.csv", None), Err(Failure::NotFound(_))));
    }

    #[test]
    fn a_missing_column_lists_those_there_are() {
        let table = csv("Name,Age\nx,1\n");
        assert_eq!(table.column("age").unwrap(), 1);
        assert!(table.column("size").unwrap_err().message().contains("Name, Age"));
    }
}
