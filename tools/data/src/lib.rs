//! The standard tool `data`: questions about CSV and JSON files of the workspace.
//!
//! Files are only read. A query is an object with a fixed order of steps, not a language; README.md
//! says what values are and how they compare.
#![forbid(unsafe_code)]

mod describe;
mod group;
mod query;
mod stats;
mod table;
mod value;

use describe::Description;
use fumehood::{Failure, Output};
use stats::Stats;
use table::{Format, Table};

/// Describes a table of the workspace: its columns with their types, missing values and examples.
///
/// Call this first, to learn the names of the columns.
#[fumehood::tool(effect = "pure", read_only, title = "Describe a table")]
fn data_describe(
    /// A CSV, TSV, JSON (array of objects) or JSON lines file, such as `sales.csv`.
    path: String,
    /// What the file is; told from its name if not given.
    format: Option<Format>,
) -> Result<Description, Failure> {
    describe::describe(&Table::open(&path, format)?)
}

/// Asks a table of the workspace: filter, group, aggregate, select, sort, limit, in this order.
///
/// The result is CSV for reading; programs get `columns` and `rows`.
#[fumehood::tool(effect = "pure", read_only, title = "Query a table")]
fn data_query(#[arguments] query: query::Query) -> Result<Output, Failure> {
    let table = Table::open(&query.path, query.format)?;
    query::run(&table, &query)?.into_output()
}

/// Computes statistics of a table's columns: count, missing, distinct; for numbers mean, standard
/// deviation and quantiles; for texts the most frequent values.
#[fumehood::tool(effect = "pure", read_only, title = "Statistics of a table")]
fn data_stats(
    /// A CSV, TSV, JSON (array of objects) or JSON lines file.
    path: String,
    /// Which columns; all if not given.
    columns: Option<Vec<String>>,
    /// What the file is; told from its name if not given.
    format: Option<Format>,
) -> Result<Stats, Failure> {
    stats::stats(&Table::open(&path, format)?, columns.as_deref())
}

fumehood::export!(data_describe, data_query, data_stats);
