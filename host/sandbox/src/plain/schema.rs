//! JSON Schemas of WIT types.
//!
//! | WIT | JSON |
//! |---|---|
//! | `bool`, `string`, numbers | the same; integers in their range; floats that are no number as `"NaN"`, `"inf"`, `"-inf"` |
//! | `char` | a string of one character |
//! | `list<u8>` | a string, base64 |
//! | `list<T>`, `list<T, n>` | an array |
//! | `tuple` | an array |
//! | `record` | an object under the fields' names; `option` fields may be absent |
//! | `option<T>` | the value or `null`; `option<option<T>>` as `{"some": …}` or `null` |
//! | `enum` | a string |
//! | `flags` | an array of strings |
//! | `variant` | `{"tag": …}` with `"value"` if the case has one |
//! | `result<T, E>` inside another type | `{"ok": …}` or `{"error": …}` |
//!
//! Resources, streams, futures, error contexts and maps have no JSON form and are refused.

use serde_json::{Map, Value, json};
use wasmtime::component::Type;

/// More names than anybody chooses from: of an `enum`, a `variant`, a `flags`.
const MAX_NAMES: usize = 1000;

/// About what a type takes in a schema, beside its names.
const TYPE: usize = 64;

/// Why a type has no schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It has no JSON form: what it is called.
    Unsupported(&'static str),
    /// It unfolds to more than is left.
    TooLarge,
}

/// What is left for schemas, in bytes. A type may be made of one that is made of one, each of them twice: what takes a few
/// lines in a component unfolds to any size.
// THREAT[T-box-plain-types]
#[derive(Debug)]
pub(super) struct Room {
    left: usize,
    flags: bool,
}

impl Room {
    pub(super) const fn new(bytes: usize) -> Self {
        Self {
            left: bytes,
            flags: false,
        }
    }

    /// Whether flags were among the types since this was asked last.
    pub(super) const fn met_flags(&mut self) -> bool {
        std::mem::replace(&mut self.flags, false)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Unfit> {
        self.left = self.left.checked_sub(bytes).ok_or(Unfit::TooLarge)?;
        Ok(())
    }

    fn names<'a>(&mut self, names: impl ExactSizeIterator<Item = &'a str>) -> Result<Vec<&'a str>, Unfit> {
        few(names.len())?;
        names
            .map(|name| {
                self.take(name.len())?;
                Ok(name)
            })
            .collect()
    }
}

fn few(names: usize) -> Result<(), Unfit> {
    if names > MAX_NAMES {
        return Err(Unfit::Unsupported("a type of more than 1000 names"));
    }
    Ok(())
}

/// The schema of a function's arguments.
pub(super) fn params(params: &[(String, Type)], room: &mut Room) -> Result<Value, Unfit> {
    object(params.iter().map(|(name, ty)| (name.as_str(), ty.clone())), room)
}

/// The schema of a function's structured result, if it has one.
pub(super) fn result(ty: &Type, room: &mut Room) -> Result<Option<Value>, Unfit> {
    let value = match ty {
        Type::Result(result) => {
            if let Some(error) = result.err() {
                of(&error, room)?;
            }
            match result.ok() {
                Some(ok) => of(&ok, room)?,
                None => return Ok(None),
            }
        }
        ty => of(ty, room)?,
    };
    Ok(Some(json!({
        "type": "object",
        "properties": { "result": value },
        "required": ["result"],
    })))
}

/// `name(a: u32, b: string) -> u32`, for the description. Of types that have a schema.
pub(super) fn signature(name: &str, params: &[(String, Type)], result: Option<&Type>) -> String {
    let params: Vec<String> = params
        .iter()
        .map(|(name, ty)| format!("{name}: {}", word(ty)))
        .collect();
    let result = result.map(|ty| format!(" -> {}", word(ty))).unwrap_or_default();
    format!("{name}({}){result}", params.join(", "))
}

/// Whether JSON's `null` is a value of the type.
pub(super) fn takes_null(ty: &Type) -> bool {
    matches!(ty, Type::Option(_))
}

pub(super) fn is_bytes(element: &Type) -> bool {
    matches!(element, Type::U8)
}

fn of(ty: &Type, room: &mut Room) -> Result<Value, Unfit> {
    room.take(TYPE)?;
    Ok(match ty {
        Type::Bool => json!({ "type": "boolean" }),
        Type::S8 => integer(i8::MIN, i8::MAX),
        Type::U8 => integer(u8::MIN, u8::MAX),
        Type::S16 => integer(i16::MIN, i16::MAX),
        Type::U16 => integer(u16::MIN, u16::MAX),
        Type::S32 => integer(i32::MIN, i32::MAX),
        Type::U32 => integer(u32::MIN, u32::MAX),
        Type::S64 => integer(i64::MIN, i64::MAX),
        Type::U64 => integer(u64::MIN, u64::MAX),
        Type::Float32 | Type::Float64 => json!({
            "anyOf": [{ "type": "number" }, { "enum": ["NaN", "inf", "-inf"] }]
        }),
        Type::Char => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
        Type::String => json!({ "type": "string" }),
        Type::List(list) if is_bytes(&list.ty()) => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::List(list) => json!({ "type": "array", "items": of(&list.ty(), room)? }),
        Type::FixedLengthList(list) => json!({
            "type": "array", "items": of(&list.ty(), room)?, "minItems": list.len(), "maxItems": list.len()
        }),
        Type::Record(record) => object(record.fields().map(|field| (field.name, field.ty)), room)?,
        Type::Tuple(tuple) => {
            let items = tuple.types().map(|ty| of(&ty, room)).collect::<Result<Vec<_>, _>>()?;
            json!({ "type": "array", "minItems": items.len(), "maxItems": items.len(), "prefixItems": items })
        }
        Type::Variant(variant) => {
            few(variant.cases().len())?;
            let cases = variant
                .cases()
                .map(|case| tagged(case.name, case.ty, room))
                .collect::<Result<Vec<_>, _>>()?;
            json!({ "oneOf": cases })
        }
        Type::Enum(names) => json!({ "type": "string", "enum": room.names(names.names())? }),
        Type::Option(option) if takes_null(&option.ty()) => json!({
            "anyOf": [{ "type": "null" }, one("some", Some(option.ty()), room)?]
        }),
        Type::Option(option) => json!({ "anyOf": [of(&option.ty(), room)?, { "type": "null" }] }),
        Type::Result(result) => json!({
            "oneOf": [one("ok", result.ok(), room)?, one("error", result.err(), room)?]
        }),
        Type::Flags(flags) => {
            room.flags = true;
            json!({
                "type": "array", "uniqueItems": true,
                "items": { "type": "string", "enum": room.names(flags.names())? }
            })
        }
        Type::Own(_) | Type::Borrow(_) => return Err(Unfit::Unsupported("a resource")),
        Type::Future(_) => return Err(Unfit::Unsupported("a future")),
        Type::Stream(_) => return Err(Unfit::Unsupported("a stream")),
        Type::ErrorContext => return Err(Unfit::Unsupported("an error context")),
        Type::Map(_) => return Err(Unfit::Unsupported("a map")),
    })
}

fn integer<T: serde::Serialize>(minimum: T, maximum: T) -> Value {
    json!({ "type": "integer", "minimum": minimum, "maximum": maximum })
}

fn object<'a>(fields: impl Iterator<Item = (&'a str, Type)>, room: &mut Room) -> Result<Value, Unfit> {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, ty) in fields {
        room.take(name.len())?;
        properties.insert(name.to_owned(), of(&ty, room)?);
        if !takes_null(&ty) {
            required.push(name.to_owned());
        }
    }
    Ok(json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false
    }))
}

fn tagged(tag: &str, ty: Option<Type>, room: &mut Room) -> Result<Value, Unfit> {
    room.take(TYPE + tag.len())?;
    let mut properties = Map::new();
    properties.insert("tag".to_owned(), json!({ "const": tag }));
    let mut required = vec!["tag"];
    if let Some(ty) = ty {
        properties.insert("value".to_owned(), of(&ty, room)?);
        required.push("value");
    }
    Ok(json!({
        "type": "object", "properties": properties, "required": required, "additionalProperties": false
    }))
}

/// `{"name": value}`, with `null` for no value.
fn one(name: &str, ty: Option<Type>, room: &mut Room) -> Result<Value, Unfit> {
    room.take(TYPE)?;
    let value = match ty {
        Some(ty) => of(&ty, room)?,
        None => json!({ "type": "null" }),
    };
    Ok(json!({
        "type": "object", "properties": { name: value }, "required": [name], "additionalProperties": false
    }))
}

fn word(ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".into(),
        Type::S8 => "s8".into(),
        Type::U8 => "u8".into(),
        Type::S16 => "s16".into(),
        Type::U16 => "u16".into(),
        Type::S32 => "s32".into(),
        Type::U32 => "u32".into(),
        Type::S64 => "s64".into(),
        Type::U64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::List(list) => format!("list<{}>", word(&list.ty())),
        Type::FixedLengthList(list) => format!("list<{}, {}>", word(&list.ty()), list.len()),
        Type::Tuple(tuple) => {
            let types: Vec<String> = tuple.types().map(|ty| word(&ty)).collect();
            format!("tuple<{}>", types.join(", "))
        }
        Type::Option(option) => format!("option<{}>", word(&option.ty())),
        Type::Result(result) => {
            let side = |ty: Option<Type>| ty.map_or_else(|| "_".to_owned(), |ty| word(&ty));
            format!("result<{}, {}>", side(result.ok()), side(result.err()))
        }
        Type::Record(_) => "record".into(),
        Type::Variant(_) => "variant".into(),
        Type::Enum(_) => "enum".into(),
        Type::Flags(_) => "flags".into(),
        Type::Own(_) | Type::Borrow(_) => "resource".into(),
        Type::Future(_) => "future".into(),
        Type::Stream(_) => "stream".into(),
        Type::ErrorContext => "error-context".into(),
        Type::Map(_) => "map".into(),
    }
}
