//! Values between JSON and WIT; the forms are those of [`schema`](super::schema).

use super::{
    schema::{is_bytes, takes_null},
    work::{Stopped, Work},
};
use crate::{meter::LimitReached, output::failed};
use base64::{Engine as _, encoded_len, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value, json};
use std::fmt;
use wasmtime::component::{Type, Val, types::Case};

/// Why a JSON value does not become one of the type.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// It is none: where, and what was expected.
    At { path: String, expected: String },
    /// Finding out takes longer than the call has.
    Limit(LimitReached),
}

impl Mismatch {
    fn new(expected: impl Into<String>) -> Self {
        Self::At {
            path: String::new(),
            expected: expected.into(),
        }
    }

    fn within(self, step: impl fmt::Display) -> Self {
        match self {
            Self::At { path, expected } => Self::At {
                path: format!("{step}{path}"),
                expected,
            },
            limit @ Self::Limit(_) => limit,
        }
    }

    /// In words, for the parameter `name`.
    pub(super) fn of(self, name: &str) -> Stopped {
        match self {
            Self::At { path, expected } => super::invalid(format!("`{name}{path}` must be {expected}")).into(),
            Self::Limit(limit) => limit.into(),
        }
    }
}

impl From<LimitReached> for Mismatch {
    fn from(limit: LimitReached) -> Self {
        Self::Limit(limit)
    }
}

type Converted = Result<Val, Mismatch>;

/// What stands for an argument or field that is not there.
pub(super) fn absent(ty: &Type) -> Converted {
    if takes_null(ty) {
        Ok(Val::Option(None))
    } else {
        Err(Mismatch::new("given"))
    }
}

pub(super) fn from_json(ty: &Type, value: Value, work: &mut Work<'_>) -> Converted {
    work.step()?;
    match ty {
        Type::Bool => value
            .as_bool()
            .map(Val::Bool)
            .ok_or_else(|| Mismatch::new("true or false")),
        Type::S8 => integer(&value).map(Val::S8),
        Type::U8 => integer(&value).map(Val::U8),
        Type::S16 => integer(&value).map(Val::S16),
        Type::U16 => integer(&value).map(Val::U16),
        Type::S32 => integer(&value).map(Val::S32),
        Type::U32 => integer(&value).map(Val::U32),
        Type::S64 => integer(&value).map(Val::S64),
        Type::U64 => integer(&value).map(Val::U64),
        #[allow(clippy::cast_possible_truncation, reason = "what f32 means")]
        Type::Float32 => float(&value).map(|number| Val::Float32(number as f32)),
        Type::Float64 => float(&value).map(Val::Float64),
        Type::Char => single_char(&value),
        Type::String => string(value).map(Val::String),
        Type::List(list) if is_bytes(&list.ty()) && value.is_string() => bytes(value),
        Type::List(list) => items(value, &list.ty(), work).map(Val::List),
        Type::FixedLengthList(list) => {
            let items = items(value, &list.ty(), work)?;
            if items.len() == usize::try_from(list.len()).unwrap_or(usize::MAX) {
                Ok(Val::FixedLengthList(items))
            } else {
                Err(Mismatch::new(format!("an array of {} items", list.len())))
            }
        }
        Type::Tuple(tuple) => {
            let types: Vec<Type> = tuple.types().collect();
            let values = match value {
                Value::Array(values) if values.len() == types.len() => values,
                _ => return Err(Mismatch::new(format!("an array of {} items", types.len()))),
            };
            let converted = types.iter().zip(values).enumerate();
            let converted = converted
                .map(|(i, (ty, value))| from_json(ty, value, work).map_err(|error| error.within(format!("[{i}]"))));
            Ok(Val::Tuple(converted.collect::<Result<_, _>>()?))
        }
        Type::Record(record) => {
            let mut fields = object(value)?;
            let mut values = Vec::new();
            for field in record.fields() {
                let value = fields
                    .remove(field.name)
                    .map_or_else(|| absent(&field.ty), |value| from_json(&field.ty, value, work));
                values.push((
                    field.name.to_owned(),
                    value.map_err(|error| error.within(format!(".{}", field.name)))?,
                ));
            }
            none_left(&fields)?;
            Ok(Val::Record(values))
        }
        Type::Variant(variant) => tagged(value, variant.cases(), work),
        Type::Enum(names) => one_of(&value, names.names()).map(Val::Enum),
        Type::Option(option) => match value {
            Value::Null => Ok(Val::Option(None)),
            value if takes_null(&option.ty()) => {
                let mut fields = object(value)?;
                let some = fields
                    .remove("some")
                    .ok_or_else(|| Mismatch::new("null or {\"some\": …}"))?;
                none_left(&fields)?;
                Ok(Val::Option(Some(Box::new(from_json(&option.ty(), some, work)?))))
            }
            value => Ok(Val::Option(Some(Box::new(from_json(&option.ty(), value, work)?)))),
        },
        Type::Result(result) => {
            let expected = || Mismatch::new("{\"ok\": …} or {\"error\": …}");
            let mut fields = object(value)?;
            let converted = if let Some(ok) = fields.remove("ok") {
                Ok(payload(result.ok(), ok, work)?)
            } else if let Some(error) = fields.remove("error") {
                Err(payload(result.err(), error, work)?)
            } else {
                return Err(expected());
            };
            none_left(&fields)?;
            Ok(Val::Result(converted))
        }
        Type::Flags(flags) => {
            let Value::Array(values) = value else {
                return Err(Mismatch::new("an array of strings"));
            };
            let names = values.iter().map(|value| {
                work.step()?;
                one_of(value, flags.names())
            });
            Ok(Val::Flags(names.collect::<Result<_, _>>()?))
        }
        // Refused when the component was loaded.
        Type::Own(_) | Type::Borrow(_) | Type::Future(_) | Type::Stream(_) | Type::ErrorContext | Type::Map(_) => {
            Err(Mismatch::new("of another type"))
        }
    }
}

fn integer<T: TryFrom<i128>>(value: &Value) -> Result<T, Mismatch> {
    let number = match value {
        Value::Number(number) => number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from))
            // `3.0` is an integer in JSON Schema.
            .or_else(|| {
                number
                    .as_f64()
                    .filter(|n| n.fract() == 0.0 && n.abs() < 9e15)
                    .map(whole)
            }),
        _ => None,
    };
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
        let name = std::any::type_name::<T>();
        let (sign, bits) = name.split_at(1);
        let kind = if sign == "u" { "an integer from 0" } else { "an integer" };
        Mismatch::new(format!("{kind} of {bits} bits"))
    })
}

#[allow(clippy::cast_possible_truncation, reason = "checked to be a whole number below 2^53")]
fn whole(number: f64) -> i128 {
    number as i128
}

fn float(value: &Value) -> Result<f64, Mismatch> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        Some(_) => None,
        None => value.as_f64(),
    }
    .ok_or_else(|| Mismatch::new("a number"))
}

fn single_char(value: &Value) -> Converted {
    let mut chars = value.as_str().unwrap_or_default().chars();
    match (chars.next(), chars.next()) {
        (Some(char), None) => Ok(Val::Char(char)),
        _ => Err(Mismatch::new("a string of one character")),
    }
}

fn string(value: Value) -> Result<String, Mismatch> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(Mismatch::new("a string")),
    }
}

fn bytes(value: Value) -> Converted {
    let bytes = STANDARD.decode(string(value)?).map_err(|_| Mismatch::new("base64"))?;
    Ok(Val::List(bytes.into_iter().map(Val::U8).collect()))
}

fn items(value: Value, ty: &Type, work: &mut Work<'_>) -> Result<Vec<Val>, Mismatch> {
    let Value::Array(values) = value else {
        return Err(Mismatch::new("an array"));
    };
    let converted = values.into_iter().enumerate();
    converted
        .map(|(i, value)| from_json(ty, value, work).map_err(|error| error.within(format!("[{i}]"))))
        .collect()
}

fn object(value: Value) -> Result<Map<String, Value>, Mismatch> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Mismatch::new("an object")),
    }
}

fn none_left(fields: &Map<String, Value>) -> Result<(), Mismatch> {
    match fields.keys().next() {
        None => Ok(()),
        Some(unknown) => Err(Mismatch::new(format!("without `{unknown}`"))),
    }
}

fn tagged<'a>(value: Value, cases: impl Iterator<Item = Case<'a>>, work: &mut Work<'_>) -> Converted {
    // A case without a value may be given by its name alone.
    let mut fields = match value {
        Value::String(tag) => Map::from_iter([("tag".to_owned(), Value::String(tag))]),
        value => object(value)?,
    };
    let tag = fields
        .remove("tag")
        .ok_or_else(|| Mismatch::new("an object with a `tag`"))?;
    let cases: Vec<Case<'a>> = cases.collect();
    let name = one_of(&tag, cases.iter().map(|case| case.name)).map_err(|error| error.within(".tag"))?;
    let ty = cases
        .into_iter()
        .find(|case| case.name == name)
        .and_then(|case| case.ty);
    let value = match ty {
        Some(ty) => {
            let value = fields
                .remove("value")
                .map_or_else(|| absent(&ty), |value| from_json(&ty, value, work));
            Some(Box::new(value.map_err(|error| error.within(".value"))?))
        }
        None => None,
    };
    none_left(&fields)?;
    Ok(Val::Variant(name, value))
}

fn payload(ty: Option<Type>, value: Value, work: &mut Work<'_>) -> Result<Option<Box<Val>>, Mismatch> {
    match ty {
        Some(ty) => Ok(Some(Box::new(from_json(&ty, value, work)?))),
        None if value.is_null() => Ok(None),
        None => Err(Mismatch::new("null")),
    }
}

fn one_of<'a>(value: &Value, names: impl Iterator<Item = &'a str>) -> Result<String, Mismatch> {
    let names: Vec<&str> = names.collect();
    let given = value.as_str();
    names
        .iter()
        .find(|name| given == Some(**name))
        .map(|name| (*name).to_owned())
        .ok_or_else(|| Mismatch::new(format!("one of {}", names.join(", "))))
}

/// A returned value of the type.
///
/// # Errors
/// When it is more than the call may return, or takes longer than the call has; and when it holds a handle, but such
/// functions were refused at load.
pub(super) fn to_json(ty: &Type, value: Val, work: &mut Work<'_>) -> Result<Value, Stopped> {
    work.write(written(&value))?;
    Ok(match (ty, value) {
        (_, Val::Bool(value)) => value.into(),
        (_, Val::S8(value)) => value.into(),
        (_, Val::U8(value)) => value.into(),
        (_, Val::S16(value)) => value.into(),
        (_, Val::U16(value)) => value.into(),
        (_, Val::S32(value)) => value.into(),
        (_, Val::U32(value)) => value.into(),
        (_, Val::S64(value)) => value.into(),
        (_, Val::U64(value)) => value.into(),
        (_, Val::Float32(value)) => number(f64::from(value)),
        (_, Val::Float64(value)) => number(value),
        (_, Val::Char(value)) => value.to_string().into(),
        (_, Val::String(value)) => value.into(),
        (Type::List(list), Val::List(values)) if is_bytes(&list.ty()) => {
            work.write(encoded_len(values.len(), true).unwrap_or(usize::MAX))?;
            base64(&values).into()
        }
        (Type::List(list), Val::List(values)) => array(std::iter::repeat(list.ty()), values, work)?,
        (Type::FixedLengthList(list), Val::FixedLengthList(values)) => {
            array(std::iter::repeat(list.ty()), values, work)?
        }
        (Type::Tuple(tuple), Val::Tuple(values)) => array(tuple.types(), values, work)?,
        (Type::Record(record), Val::Record(values)) => {
            let mut fields = Map::new();
            for (field, (name, value)) in record.fields().zip(values) {
                work.write(name.len() + QUOTES)?;
                fields.insert(name, to_json(&field.ty, value, work)?);
            }
            Value::Object(fields)
        }
        (Type::Variant(variant), Val::Variant(tag, value)) => {
            let ty = variant.cases().find(|case| case.name == tag).and_then(|case| case.ty);
            match (ty, value) {
                (Some(ty), Some(value)) => json!({ "tag": tag, "value": to_json(&ty, *value, work)? }),
                _ => json!({ "tag": tag }),
            }
        }
        (_, Val::Enum(name)) => name.into(),
        (_, Val::Option(None)) => Value::Null,
        (Type::Option(option), Val::Option(Some(value))) => {
            let ty = option.ty();
            let value = to_json(&ty, *value, work)?;
            if takes_null(&ty) {
                json!({ "some": value })
            } else {
                value
            }
        }
        (Type::Result(result), Val::Result(Ok(value))) => json!({ "ok": side(result.ok(), value, work)? }),
        (Type::Result(result), Val::Result(Err(value))) => json!({ "error": side(result.err(), value, work)? }),
        (_, Val::Flags(names)) => {
            for name in &names {
                work.write(name.len() + QUOTES)?;
            }
            names.into()
        }
        _ => return Err(failed("the function returned a value that has no JSON form").into()),
    })
}

/// Those of a string in JSON.
const QUOTES: usize = 2;

/// How many bytes of JSON a value has at least, without what is in it.
fn written(value: &Val) -> usize {
    match value {
        // A result that is text alone has no quotes.
        Val::String(text) | Val::Enum(text) => text.len(),
        Val::Variant(tag, _) => tag.len() + r#"{"tag":""}"#.len(),
        Val::Result(_) => r#"{"ok":}"#.len(),
        Val::List(_) | Val::FixedLengthList(_) | Val::Tuple(_) | Val::Option(Some(_)) => 0,
        Val::Record(_) | Val::Flags(_) => "{}".len(),
        _ => 1,
    }
}

/// The value of one side of a `result`.
pub(super) fn side(ty: Option<Type>, value: Option<Box<Val>>, work: &mut Work<'_>) -> Result<Value, Stopped> {
    match (ty, value) {
        (Some(ty), Some(value)) => to_json(&ty, *value, work),
        _ => Ok(Value::Null),
    }
}

fn number(value: f64) -> Value {
    match Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => "NaN".into(),
        None if value > 0.0 => "inf".into(),
        None => "-inf".into(),
    }
}

fn base64(values: &[Val]) -> String {
    let bytes: Vec<u8> = values
        .iter()
        .map(|value| match value {
            Val::U8(byte) => *byte,
            _ => 0,
        })
        .collect();
    STANDARD.encode(bytes)
}

fn array(types: impl Iterator<Item = Type>, values: Vec<Val>, work: &mut Work<'_>) -> Result<Value, Stopped> {
    let values = types.zip(values).map(|(ty, value)| {
        work.write(",".len())?;
        to_json(&ty, value, work)
    });
    Ok(Value::Array(values.collect::<Result<_, Stopped>>()?))
}
