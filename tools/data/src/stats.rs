//! Statistics of columns.

use crate::{
    table::Table,
    value::{Value, number_to_json},
};
use fumehood::Failure;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::HashMap;

/// The most different values that are counted in a column.
const MOST_DISTINCT: usize = 100_000;
/// How many of the most frequent values are shown.
const TOP: usize = 5;
/// How much of a text value is shown, in characters.
const SHOWN: usize = 80;

/// Statistics of a table.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Stats {
    /// How many rows there are.
    pub(crate) rows: u64,
    pub(crate) columns: Vec<ColumnStats>,
}

/// Statistics of a column.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ColumnStats {
    pub(crate) name: String,
    /// How many rows have a value.
    pub(crate) count: u64,
    /// How many rows have none.
    pub(crate) missing: u64,
    /// How many different values there are; the least there may be if `distinct_is_lower_bound`.
    pub(crate) distinct: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) distinct_is_lower_bound: bool,
    /// Of the values that are numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) numbers: Option<Numbers>,
    /// The most frequent values.
    pub(crate) top: Vec<Frequent>,
}

/// Statistics of numbers.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Numbers {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    /// The standard deviation of the sample; absent for a single number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stddev: Option<f64>,
    pub(crate) sum: f64,
    pub(crate) min: f64,
    /// A quarter of the numbers is not larger; between two numbers, interpolated.
    pub(crate) q25: f64,
    pub(crate) median: f64,
    pub(crate) q75: f64,
    pub(crate) max: f64,
}

/// A value and how often it is there.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Frequent {
    pub(crate) value: Json,
    pub(crate) count: u64,
}

#[derive(Default)]
struct Seen {
    count: u64,
    missing: u64,
    numbers: Vec<f64>,
    values: HashMap<String, (Value, u64)>,
    overflow: bool,
}

pub(crate) fn stats(table: &Table, columns: Option<&[String]>) -> Result<Stats, Failure> {
    let places: Vec<usize> = match columns {
        Some(names) => names.iter().map(|name| table.column(name)).collect::<Result<_, _>>()?,
        None => (0..table.columns.len()).collect(),
    };
    let mut seen: Vec<Seen> = places.iter().map(|_| Seen::default()).collect();
    let mut rows = 0;
    table.for_each(|row| {
        rows += 1;
        for (seen, at) in seen.iter_mut().zip(&places) {
            seen.add(&row[*at]);
        }
        Ok(())
    })?;
    let columns = places
        .iter()
        .zip(seen)
        .map(|(at, seen)| seen.finish(&table.columns[*at]));
    Ok(Stats {
        rows,
        columns: columns.collect(),
    })
}

impl Seen {
    fn add(&mut self, value: &Value) {
        if value.is_missing() {
            self.missing += 1;
            return;
        }
        self.count += 1;
        self.numbers.extend(value.as_number());
        let key = value.key();
        if let Some((_, count)) = self.values.get_mut(&key) {
            *count += 1;
        } else if self.values.len() < MOST_DISTINCT {
            self.values.insert(key, (value.clone(), 1));
        } else {
            self.overflow = true;
        }
    }

    fn finish(mut self, name: &str) -> ColumnStats {
        let distinct = self.values.len() as u64;
        let mut top: Vec<(Value, u64)> = self.values.into_values().collect();
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.order(&b.0)));
        let top = top.into_iter().take(TOP).map(|(value, count)| Frequent {
            value: shown(&value),
            count,
        });
        ColumnStats {
            name: name.to_owned(),
            count: self.count,
            missing: self.missing,
            distinct,
            distinct_is_lower_bound: self.overflow,
            numbers: numbers(&mut self.numbers),
            top: top.collect(),
        }
    }
}

fn shown(value: &Value) -> Json {
    match value {
        Value::Text(text) => Json::String(text.chars().take(SHOWN).collect()),
        Value::Number(number) => number_to_json(*number),
        other => other.to_json(),
    }
}

fn numbers(numbers: &mut [f64]) -> Option<Numbers> {
    if numbers.is_empty() {
        return None;
    }
    // Counts of rows of a file of bounded size are exact as doubles.
    #[allow(clippy::cast_precision_loss)]
    let count = numbers.len() as f64;
    let sum: f64 = numbers.iter().sum();
    let mean = sum / count;
    let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
    let (q25, median, q75) = (
        quantile(numbers, 0.25)?,
        quantile(numbers, 0.5)?,
        quantile(numbers, 0.75)?,
    );
    Some(Numbers {
        count: numbers.len() as u64,
        mean,
        stddev: (numbers.len() > 1).then(|| (squares / (count - 1.0)).sqrt()),
        sum,
        // Sorted by now.
        min: *numbers.first()?,
        q25,
        median,
        q75,
        max: *numbers.last()?,
    })
}

/// The number below which a part of the numbers lies, interpolated between two. Sorts them.
pub(crate) fn quantile(numbers: &mut [f64], part: f64) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss)]
    let at = part * (numbers.len().checked_sub(1)?) as f64;
    // Between 0 and the length of a slice.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    let (low, high) = (*numbers.get(below)?, *numbers.get(above)?);
    Some(low + (high - low) * at.fract())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::csv;

    #[test]
    fn numbers_are_summarised() {
        let it = stats(&csv("a\n4\n1\n3\n2\n\n"), None).unwrap();
        let numbers = it.columns[0].numbers.as_ref().unwrap();
        assert_eq!(
            (numbers.mean, numbers.min, numbers.max, numbers.sum),
            (2.5, 1.0, 4.0, 10.0)
        );
        assert_eq!((numbers.q25, numbers.median, numbers.q75), (1.75, 2.5, 3.25));
        assert!((numbers.stddev.unwrap() - 1.290_994).abs() < 1e-6);
    }

    #[test]
    fn texts_have_frequent_values() {
        let it = stats(&csv("a,b\nx,1\ny,\nx,3\n"), Some(&["a".into()])).unwrap();
        assert_eq!((it.rows, it.columns.len(), it.columns[0].distinct), (3, 1, 2));
        assert_eq!(
            it.columns[0].top[0],
            Frequent {
                value: "x".into(),
                count: 2
            }
        );
        assert!(it.columns[0].numbers.is_none());
        let b = stats(&csv("a,b\nx,1\ny,\nx,3\n"), None).unwrap();
        assert_eq!((b.columns[1].count, b.columns[1].missing), (2, 1));
    }

    #[test]
    fn a_single_number_has_no_deviation_and_none_has_no_quantile() {
        assert!(numbers(&mut [5.0]).unwrap().stddev.is_none());
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
