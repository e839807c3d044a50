//! Grouping and aggregating.

use crate::{
    table::{Row, position},
    value::Value,
};
use fumehood::Failure;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// The most groups of one query.
const MOST_GROUPS: usize = 100_000;

/// What is computed for each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Function {
    /// How many rows; with a column, how many rows that have a value in it.
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Median,
    /// How many different values.
    Distinct,
    /// The value of the first row that has one.
    First,
    /// The value of the last row that has one.
    Last,
}

impl Function {
    const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Median => "median",
            Self::Distinct => "distinct",
            Self::First => "first",
            Self::Last => "last",
        }
    }
}

/// One computed column.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Aggregate {
    pub(crate) function: Function,
    /// Of which column; only `count` needs none.
    pub(crate) column: Option<String>,
    /// What to call the result; `sum_amount` for the sum of `amount`, `count` for the count of rows, if not given.
    #[serde(rename = "as")]
    pub(crate) name: Option<String>,
}

impl Aggregate {
    fn name(&self) -> String {
        match (&self.name, &self.column) {
            (Some(name), _) => name.clone(),
            (None, Some(column)) => format!("{}_{column}", self.function.name()),
            (None, None) => self.function.name().to_owned(),
        }
    }
}

/// Collects rows into groups.
pub(crate) struct Groups {
    keys: Vec<usize>,
    columns: Vec<(Function, Option<usize>)>,
    names: Vec<String>,
    index: HashMap<String, usize>,
    groups: Vec<(Vec<Value>, Vec<State>)>,
}

impl Groups {
    pub(crate) fn new(columns: &[String], group_by: &[String], aggregates: &[Aggregate]) -> Result<Self, Failure> {
        let keys = group_by
            .iter()
            .map(|name| position(columns, name))
            .collect::<Result<Vec<_>, _>>()?;
        let mut names: Vec<String> = keys.iter().map(|at| columns[*at].clone()).collect();
        let mut computed = Vec::new();
        for aggregate in aggregates {
            let at = aggregate
                .column
                .as_deref()
                .map(|name| position(columns, name))
                .transpose()?;
            if at.is_none() && aggregate.function != Function::Count {
                let function = aggregate.function.name();
                return Err(Failure::invalid_arguments(format!(
                    "`{function}` needs a `column` to be computed of"
                )));
            }
            computed.push((aggregate.function, at));
            names.push(aggregate.name());
        }
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(Failure::invalid_arguments(format!(
                "two columns would be called `{}`: give one of them another name with `as`",
                twice.1
            )));
        }
        let mut groups = Self {
            keys,
            columns: computed,
            names,
            index: HashMap::new(),
            groups: Vec::new(),
        };
        if group_by.is_empty() {
            // Without keys all rows are one group, which is there even if there are no rows.
            groups.group(&[])?;
        }
        Ok(groups)
    }

    pub(crate) fn add(&mut self, row: &Row) -> Result<(), Failure> {
        let key: Vec<Value> = self.keys.iter().map(|at| row[*at].clone()).collect();
        let group = self.group(&key)?;
        let columns = &self.columns;
        for (state, (_, at)) in self.groups[group].1.iter_mut().zip(columns) {
            state.add(at.map(|at| &row[at]));
        }
        Ok(())
    }

    fn group(&mut self, key: &[Value]) -> Result<usize, Failure> {
        let text = key
            .iter()
            .map(Value::key)
            .fold(String::new(), |all, one| format!("{all}{}:{one}", one.len()));
        if let Some(at) = self.index.get(&text) {
            return Ok(*at);
        }
        if self.groups.len() == MOST_GROUPS {
            return Err(Failure::failed(format!(
                "there are more than {MOST_GROUPS} groups: filter first, or group by less"
            )));
        }
        let states = self.columns.iter().map(|(function, _)| State::new(*function)).collect();
        self.groups.push((key.to_vec(), states));
        self.index.insert(text, self.groups.len() - 1);
        Ok(self.groups.len() - 1)
    }

    /// The names of the columns, and a row for each group in the order in which they were met.
    pub(crate) fn finish(self) -> (Vec<String>, Vec<Row>) {
        let rows = self.groups.into_iter().map(|(mut row, states)| {
            row.extend(states.into_iter().map(State::finish));
            row
        });
        (self.names, rows.collect())
    }
}

/// What an aggregate has seen so far.
enum State {
    Count(u64),
    Sum { sum: f64, count: u64, mean: bool },
    Extreme { found: Value, largest: bool },
    Median(Vec<f64>),
    Distinct(HashSet<String>),
    First(Value),
    Last(Value),
}

impl State {
    fn new(function: Function) -> Self {
        match function {
            Function::Count => Self::Count(0),
            Function::Sum => Self::Sum {
                sum: 0.0,
                count: 0,
                mean: false,
            },
            Function::Mean => Self::Sum {
                sum: 0.0,
                count: 0,
                mean: true,
            },
            Function::Min => Self::Extreme {
                found: Value::Missing,
                largest: false,
            },
            Function::Max => Self::Extreme {
                found: Value::Missing,
                largest: true,
            },
            Function::Median => Self::Median(Vec::new()),
            Function::Distinct => Self::Distinct(HashSet::new()),
            Function::First => Self::First(Value::Missing),
            Function::Last => Self::Last(Value::Missing),
        }
    }

    fn add(&mut self, value: Option<&Value>) {
        let Some(value) = value else {
            if let Self::Count(count) = self {
                *count += 1;
            }
            return;
        };
        if value.is_missing() {
            return;
        }
        match self {
            Self::Count(count) => *count += 1,
            Self::Sum { sum, count, .. } => {
                if let Some(number) = value.as_number() {
                    *sum += number;
                    *count += 1;
                }
            }
            Self::Extreme { found, largest } => {
                let wanted = if *largest {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Less
                };
                if found.is_missing() || value.compare(found) == Some(wanted) {
                    *found = value.clone();
                }
            }
            Self::Median(numbers) => numbers.extend(value.as_number()),
            Self::Distinct(keys) => {
                keys.insert(value.key());
            }
            Self::First(first) => {
                if first.is_missing() {
                    *first = value.clone();
                }
            }
            Self::Last(last) => *last = value.clone(),
        }
    }

    fn finish(self) -> Value {
        // Counts of rows of a file of bounded size are exact as doubles.
        #[allow(clippy::cast_precision_loss)]
        let number = |count: u64| count as f64;
        match self {
            Self::Count(count) => Value::Number(number(count)),
            Self::Sum {
                count: 0, mean: true, ..
            } => Value::Missing,
            Self::Sum { sum, count, mean } => Value::Number(if mean { sum / number(count) } else { sum }),
            Self::Extreme { found, .. } | Self::First(found) | Self::Last(found) => found,
            Self::Median(mut numbers) => {
                crate::stats::quantile(&mut numbers, 0.5).map_or(Value::Missing, Value::Number)
            }
            Self::Distinct(keys) => Value::Number(number(keys.len() as u64)),
        }
    }
}
