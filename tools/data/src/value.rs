//! One value of a table: what a field means, and how values compare.

use serde_json::Value as Json;
use std::{cmp::Ordering, fmt};

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Missing,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
}

impl Value {
    /// What a field of a CSV file means.
    pub(crate) fn of_field(field: &str) -> Self {
        let trimmed = field.trim();
        match trimmed {
            "" => return Self::Missing,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            _ => {}
        }
        if is_number(trimmed)
            && let Ok(number) = trimmed.parse::<f64>()
            && number.is_finite()
        {
            return Self::Number(number);
        }
        Self::Text(field.into())
    }

    /// What a JSON value means: nested ones are text.
    pub(crate) fn of_json(json: &Json) -> Self {
        match json {
            Json::Null => Self::Missing,
            Json::Bool(it) => Self::Bool(*it),
            Json::Number(number) => number.as_f64().map_or(Self::Missing, Self::Number),
            Json::String(text) => Self::Text(text.as_str().into()),
            nested => Self::Text(nested.to_string().into()),
        }
    }

    /// As JSON; a whole number is written without a fraction.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::Missing => Json::Null,
            Self::Bool(it) => Json::Bool(*it),
            Self::Number(number) => number_to_json(*number),
            Self::Text(text) => Json::String(text.to_string()),
        }
    }

    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }

    pub(crate) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// How two values of one type compare; none for different types and for missing ones.
    pub(crate) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(b),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// An order of all values for sorting: booleans, numbers, texts; missing last.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        let rank = |value: &Self| match value {
            Self::Bool(_) => 0,
            Self::Number(_) => 1,
            Self::Text(_) => 2,
            Self::Missing => 3,
        };
        self.compare(other).unwrap_or_else(|| rank(self).cmp(&rank(other)))
    }

    /// The same for equal values, different for others: for grouping and counting.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Missing => "m".to_owned(),
            Self::Bool(it) => format!("b{it}"),
            // Both zeros are one number.
            Self::Number(number) => format!("n{}", number + 0.0),
            Self::Text(text) => format!("t{text}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => Ok(()),
            Self::Bool(it) => write!(f, "{it}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A number as JSON; a whole one without a fraction.
pub(crate) fn number_to_json(number: f64) -> Json {
    // Whole numbers up to 2^53 are exact as doubles.
    #[allow(clippy::cast_possible_truncation)]
    if number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0 {
        return Json::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Json::Null, Json::Number)
}

/// Whether a text is written like a number: no leading zeros, no thousands separators, no words.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut bytes = digits.bytes();
    match bytes.next() {
        Some(b'0') => !bytes.next().is_some_and(|second| second.is_ascii_digit()) && plain(digits),
        Some(b'1'..=b'9' | b'.') => plain(digits),
        _ => false,
    }
}

fn plain(digits: &str) -> bool {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_what_it_is_written_like() {
        for number in ["0", "-1", "2.5", ".5", "1e3", " 7 ", "0.10"] {
            assert!(matches!(Value::of_field(number), Value::Number(_)), "{number}");
        }
        for text in [
            "007",
            "1,000",
            "12-05-2024",
            "inf",
            "nan",
            "1.2.3",
            "0x10",
            "-",
            "a",
            "1e999",
        ] {
            assert!(matches!(Value::of_field(text), Value::Text(_)), "{text}");
        }
        assert_eq!(Value::of_field(" "), Value::Missing);
        assert_eq!(Value::of_field("TRUE"), Value::Bool(true));
    }

    #[test]
    fn values_of_different_types_do_not_compare_but_have_an_order() {
        let (one, text) = (Value::Number(1.0), Value::Text("1".into()));
        assert_eq!(one.compare(&text), None);
        assert_eq!(Value::Missing.compare(&Value::Missing), None);
        assert_eq!(one.order(&text), Ordering::Less);
        assert_eq!(Value::Missing.order(&text), Ordering::Greater);
        assert_eq!(Value::Number(-0.0).key(), Value::Number(0.0).key());
    }

    #[test]
    fn whole_numbers_are_written_without_a_fraction() {
        assert_eq!(number_to_json(3.0).to_string(), "3");
        assert_eq!(number_to_json(2.5).to_string(), "2.5");
        assert_eq!(number_to_json(f64::NAN), Json::Null);
        assert_eq!(
            Value::of_json(&serde_json::json!({"a": [1]})).to_string(),
            r#"{"a":[1]}"#
        );
    }
}
