//! Queries: filter, group and aggregate, select, sort, limit.

use crate::{
    group::{Aggregate, Groups},
    table::{Format, Row, Table, position},
    value::Value,
};
use fumehood::{Failure, Output};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::cmp::Ordering;

/// The most rows that are kept for sorting.
const MOST_ROWS: usize = 200_000;
/// The most rows of a result.
const MOST_RESULT: u64 = 1000;
/// How many rows a result has if not said.
const RESULT: u64 = 100;

/// What to ask.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    /// A CSV, TSV, JSON (array of objects) or JSON lines file.
    pub(crate) path: String,
    /// What the file is; told from its name if not given.
    pub(crate) format: Option<Format>,
    /// Only rows for which the conditions hold.
    #[serde(default, rename = "where")]
    pub(crate) conditions: Vec<Condition>,
    /// Whether `all` conditions must hold, or `any` of them.
    #[serde(default, rename = "match")]
    pub(crate) combine: Combine,
    /// One row for each combination of values of these columns.
    #[serde(default)]
    pub(crate) group_by: Vec<String>,
    /// What to compute for each group, or for all rows if `group_by` is not given.
    #[serde(default)]
    pub(crate) aggregate: Vec<Aggregate>,
    /// Which columns to return, in this order; all if not given.
    #[serde(default)]
    pub(crate) select: Vec<String>,
    /// How to sort; later ones decide between equals.
    #[serde(default)]
    pub(crate) order_by: Vec<OrderBy>,
    /// How many rows to skip.
    #[serde(default)]
    pub(crate) offset: u64,
    /// How many rows to return; 100 if not given.
    #[schemars(range(min = 1, max = 1000))]
    pub(crate) limit: Option<u64>,
}

/// How conditions are combined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Combine {
    #[default]
    All,
    Any,
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum Op {
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = "<=")]
    LessOrEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = ">=")]
    GreaterOrEqual,
    /// `value` is an array that holds it.
    #[serde(rename = "in")]
    In,
    /// The text holds `value`, whatever the case.
    #[serde(rename = "contains")]
    Contains,
    #[serde(rename = "starts_with")]
    StartsWith,
    #[serde(rename = "is_null")]
    IsNull,
    #[serde(rename = "not_null")]
    NotNull,
}

/// What must hold for a row.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Condition {
    pub(crate) column: String,
    pub(crate) op: Op,
    /// What to compare with; `is_null` and `not_null` need none.
    #[serde(default)]
    pub(crate) value: Json,
}

/// A column to sort by.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OrderBy {
    pub(crate) column: String,
    /// The largest first.
    #[serde(default)]
    pub(crate) descending: bool,
}

/// What a query gives.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// How many rows there are before `offset` and `limit`.
    pub(crate) total: u64,
    offset: u64,
}

/// Runs a query.
pub(crate) fn run(table: &Table, query: &Query) -> Result<Answer, Failure> {
    let filter = Filter::new(table, query)?;
    let (columns, mut rows) = if query.group_by.is_empty() && query.aggregate.is_empty() {
        return ungrouped(table, query, &filter);
    } else {
        let mut groups = Groups::new(&table.columns, &query.group_by, &query.aggregate)?;
        table.for_each(|row| if filter.holds(&row) { groups.add(&row) } else { Ok(()) })?;
        groups.finish()
    };
    sort(&columns, &mut rows, &query.order_by)?;
    let total = rows.len() as u64;
    finish(columns, rows, total, query)
}

/// Without groups, rows need not be kept unless they are to be sorted.
fn ungrouped(table: &Table, query: &Query, filter: &Filter) -> Result<Answer, Failure> {
    let sorted = !query.order_by.is_empty();
    let last = query.offset.saturating_add(limit(query));
    let (mut rows, mut total) = (Vec::new(), 0_u64);
    table.for_each(|row| {
        if !filter.holds(&row) {
            return Ok(());
        }
        total += 1;
        if sorted && rows.len() == MOST_ROWS {
            return Err(Failure::failed(format!(
                "more than {MOST_ROWS} rows would have to be sorted: filter first, or group"
            )));
        }
        if sorted || (total > query.offset && total <= last) {
            rows.push(row);
        }
        Ok(())
    })?;
    if sorted {
        sort(&table.columns, &mut rows, &query.order_by)?;
        return finish(table.columns.clone(), rows, total, query);
    }
    let (columns, rows) = select(table.columns.clone(), rows, &query.select)?;
    Ok(Answer {
        columns,
        rows,
        total,
        offset: query.offset,
    })
}

fn finish(columns: Vec<String>, rows: Vec<Row>, total: u64, query: &Query) -> Result<Answer, Failure> {
    let skip = usize::try_from(query.offset).unwrap_or(usize::MAX);
    let take = usize::try_from(limit(query)).unwrap_or(usize::MAX);
    let rows = rows.into_iter().skip(skip).take(take).collect();
    let (columns, rows) = select(columns, rows, &query.select)?;
    Ok(Answer {
        columns,
        rows,
        total,
        offset: query.offset,
    })
}

fn limit(query: &Query) -> u64 {
    query.limit.unwrap_or(RESULT).min(MOST_RESULT)
}

fn sort(columns: &[String], rows: &mut [Row], by: &[OrderBy]) -> Result<(), Failure> {
    let keys = by
        .iter()
        .map(|key| Ok((position(columns, &key.column)?, key.descending)));
    let keys = keys.collect::<Result<Vec<_>, Failure>>()?;
    rows.sort_by(|a, b| {
        keys.iter().fold(Ordering::Equal, |so_far, (at, descending)| {
            so_far.then_with(|| match (a[*at].is_missing(), b[*at].is_missing()) {
                // Missing comes last, whatever the direction.
                (false, false) if *descending => b[*at].order(&a[*at]),
                _ => a[*at].order(&b[*at]),
            })
        })
    });
    Ok(())
}

fn select(columns: Vec<String>, rows: Vec<Row>, wanted: &[String]) -> Result<(Vec<String>, Vec<Row>), Failure> {
    if wanted.is_empty() {
        return Ok((columns, rows));
    }
    let places = wanted
        .iter()
        .map(|name| position(&columns, name))
        .collect::<Result<Vec<_>, _>>()?;
    let rows = rows
        .iter()
        .map(|row| places.iter().map(|at| row[*at].clone()).collect())
        .collect();
    Ok((places.iter().map(|at| columns[*at].clone()).collect(), rows))
}

/// The conditions, with their columns found and their values read.
struct Filter {
    tests: Vec<(usize, Op, Vec<Value>)>,
    combine: Combine,
}

impl Filter {
    fn new(table: &Table, query: &Query) -> Result<Self, Failure> {
        let tests = query.conditions.iter().map(|condition| {
            let values = match (condition.op, &condition.value) {
                (Op::In, Json::Array(values)) => values.iter().map(Value::of_json).collect(),
                (Op::In, _) => return Err(Failure::invalid_arguments("`in` needs an array as its `value`")),
                (Op::IsNull | Op::NotNull, _) => Vec::new(),
                (_, Json::Null) => {
                    return Err(Failure::invalid_arguments(
                        "a condition needs a `value`; to find missing ones use `is_null` or `not_null`",
                    ));
                }
                (_, value) => vec![Value::of_json(value)],
            };
            Ok((table.column(&condition.column)?, condition.op, values))
        });
        Ok(Self {
            tests: tests.collect::<Result<_, _>>()?,
            combine: query.combine,
        })
    }

    fn holds(&self, row: &Row) -> bool {
        let mut results = self.tests.iter().map(|(at, op, values)| holds(&row[*at], *op, values));
        match self.combine {
            Combine::All => results.all(|holds| holds),
            Combine::Any => self.tests.is_empty() || results.any(|holds| holds),
        }
    }
}

fn holds(value: &Value, op: Op, with: &[Value]) -> bool {
    let order = || with.first().and_then(|with| value.compare(with));
    let text = |test: fn(&str, &str) -> bool| {
        let (Some(with), false) = (with.first(), value.is_missing()) else {
            return false;
        };
        test(&value.to_string().to_lowercase(), &with.to_string().to_lowercase())
    };
    match op {
        Op::Equal => order() == Some(Ordering::Equal),
        Op::NotEqual => !value.is_missing() && order() != Some(Ordering::Equal),
        Op::Less => order() == Some(Ordering::Less),
        Op::LessOrEqual => matches!(order(), Some(Ordering::Less | Ordering::Equal)),
        Op::Greater => order() == Some(Ordering::Greater),
        Op::GreaterOrEqual => matches!(order(), Some(Ordering::Greater | Ordering::Equal)),
        Op::In => with.iter().any(|with| value.compare(with) == Some(Ordering::Equal)),
        Op::Contains => text(|a, b| a.contains(b)),
        Op::StartsWith => text(|a, b| a.starts_with(b)),
        Op::IsNull => value.is_missing(),
        Op::NotNull => !value.is_missing(),
    }
}

impl Answer {
    /// CSV for reading, an object for programs.
    pub(crate) fn into_output(self) -> Result<Output, Failure> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(&self.columns)?;
        for row in &self.rows {
            writer.write_record(row.iter().map(ToString::to_string))?;
        }
        let bytes = writer
            .into_inner()
            .map_err(|error| Failure::failed(error.to_string()))?;
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        let shown = self.rows.len() as u64;
        let end = self.offset.saturating_add(shown);
        text.push_str(&if shown == 0 {
            format!("[no rows; {} in all]", self.total)
        } else if end < self.total {
            format!(
                "[rows {} to {end} of {}; to go on, give `offset` {end}]",
                self.offset + 1,
                self.total
            )
        } else {
            format!("[{} rows]", self.total)
        });
        let rows: Vec<Vec<Json>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(Value::to_json).collect())
            .collect();
        Output::new(text).with_structured(&json!({"columns": self.columns, "rows": rows, "total": self.total}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::csv;

    const SALES: &str =
        "region,year,amount,note\nnorth,2023,10,\nsouth,2023,5,late\nnorth,2024,2.5,Late pay\nwest,2024,,x\n";

    fn ask(rest: &str) -> Result<Answer, Failure> {
        let query: Query = serde_json::from_str(&format!(r#"{{"path":"t.csv"{rest}}}"#)).unwrap();
        run(&csv(SALES), &query)
    }

    fn rows(rest: &str) -> Vec<String> {
        let answer = ask(rest).unwrap();
        answer
            .rows
            .iter()
            .map(|row| row.iter().map(ToString::to_string).collect::<Vec<_>>().join("|"))
            .collect()
    }

    #[test]
    fn rows_are_filtered() {
        let count = |rest: &str| rows(rest).len();
        assert_eq!(count(r#","where":[{"column":"amount","op":">","value":4}]"#), 2);
        assert_eq!(
            count(
                r#","where":[{"column":"region","op":"=","value":"north"},{"column":"year","op":"<=","value":2023}]"#
            ),
            1
        );
        assert_eq!(
            count(
                r#","match":"any","where":[{"column":"region","op":"=","value":"west"},{"column":"year","op":"<","value":2024}]"#
            ),
            3
        );
        assert_eq!(
            count(r#","where":[{"column":"note","op":"contains","value":"late"}]"#),
            2
        );
        assert_eq!(
            count(r#","where":[{"column":"note","op":"starts_with","value":"late"}]"#),
            2
        );
        assert_eq!(
            count(r#","where":[{"column":"region","op":"in","value":["west","south"]}]"#),
            2
        );
        assert_eq!(count(r#","where":[{"column":"amount","op":"is_null"}]"#), 1);
        assert_eq!(count(r#","where":[{"column":"amount","op":"not_null"}]"#), 3);
        assert_eq!(count(r#","where":[{"column":"amount","op":"!=","value":10}]"#), 2);
        assert_eq!(count(r#","where":[{"column":"year","op":"=","value":"2023"}]"#), 0);
    }

    #[test]
    fn groups_are_aggregated_and_sorted() {
        let answer = rows(
            r#","group_by":["region"],"aggregate":[{"function":"sum","column":"amount"},{"function":"count"}],"order_by":[{"column":"sum_amount","descending":true}]"#,
        );
        assert_eq!(answer, ["north|12.5|2", "south|5|1", "west|0|1"]);
        let all = rows(
            r#","aggregate":[{"function":"mean","column":"amount","as":"m"},{"function":"median","column":"amount"},{"function":"min","column":"amount"},{"function":"max","column":"region"},{"function":"distinct","column":"region"},{"function":"first","column":"note"},{"function":"last","column":"note"},{"function":"count","column":"amount"}]"#,
        );
        assert_eq!(all, ["5.833333333333333|5|2.5|west|3|late|x|3"]);
    }

    #[test]
    fn an_aggregate_of_no_rows_is_one_row() {
        let none = r#","where":[{"column":"year","op":">","value":3000}],"aggregate":[{"function":"count"},{"function":"mean","column":"amount"}]"#;
        assert_eq!(rows(none), ["0|"]);
    }

    #[test]
    fn rows_are_sorted_with_missing_ones_last_and_paged() {
        let by = |descending| {
            format!(r#","select":["amount"],"order_by":[{{"column":"amount","descending":{descending}}}]"#)
        };
        assert_eq!(rows(&by(false)), ["2.5", "5", "10", ""]);
        assert_eq!(rows(&by(true)), ["10", "5", "2.5", ""]);
        assert_eq!(rows(r#","select":["Region"],"offset":1,"limit":2"#), ["south", "north"]);
        let text = ask(r#","limit":1"#).unwrap().into_output().unwrap().text();
        assert!(
            text.starts_with("region,year,amount,note\nnorth,2023,10,\n[rows 1 to 1 of 4"),
            "{text}"
        );
    }

    #[test]
    fn mistakes_are_explained() {
        for (wrong, word) in [
            (r#","select":["size"]"#, "region, year"),
            (r#","where":[{"column":"year","op":"="}]"#, "is_null"),
            (r#","where":[{"column":"year","op":"in","value":1}]"#, "array"),
            (r#","aggregate":[{"function":"sum"}]"#, "needs a `column`"),
            (r#","aggregate":[{"function":"count"},{"function":"count"}]"#, "`as`"),
        ] {
            let failure = ask(wrong).unwrap_err();
            assert!(
                matches!(&failure, Failure::InvalidArguments(message) if message.contains(word)),
                "{failure}"
            );
        }
    }

    #[test]
    fn programs_get_rows_of_json() {
        let output =
            ask(r#","select":["region","amount"],"where":[{"column":"region","op":"=","value":"west"}]"#).unwrap();
        let structured = output.into_output().unwrap().structured.unwrap();
        assert_eq!(
            structured,
            r#"{"columns":["region","amount"],"rows":[["west",null]],"total":1}"#
        );
    }
}
