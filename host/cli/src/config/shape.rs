//! What a configuration may hold, learned from the code that reads it: every section, its keys in order, and what each takes in the
//! words in which a wrong value is refused. Nothing is read here; serde is asked place by place.

use super::Config;
use serde::{
    Deserialize as _,
    de::{
        DeserializeSeed, Deserializer, Error as _, Expected, MapAccess, SeqAccess, Visitor,
        value::{Error, StrDeserializer},
    },
    forward_to_deserialize_any,
};
use std::cell::RefCell;

/// How a name that the operator chooses is written in a path.
pub(crate) const NAME: &str = "NAME";
/// How a table that may stand several times is written in a path.
pub(crate) const EACH: &str = "[]";

/// A key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its sections and itself: `agent`, `NAME`, `model`.
    pub(crate) path: Vec<&'static str>,
    /// What it takes, in words.
    pub(crate) takes: String,
}

impl Key {
    /// Its path, with points between.
    pub(crate) fn dotted(&self) -> String {
        self.path.join(".")
    }

    /// The key itself.
    pub(crate) fn name(&self) -> &'static str {
        self.path.last().copied().unwrap_or_default()
    }

    /// The heading of its section, as the file has it; `None` at the top.
    pub(crate) fn section(&self) -> Option<String> {
        let [sections @ .., _] = self.path.as_slice() else {
            return None;
        };
        let names: Vec<&str> = sections.iter().copied().filter(|step| *step != EACH).collect();
        let name = names.join(".");
        match sections.last() {
            None => None,
            Some(&EACH) => Some(format!("[[{name}]]")),
            Some(_) => Some(format!("[{name}]")),
        }
    }
}

/// What stands at a place.
#[derive(Debug)]
enum Shape {
    /// These keys.
    Section(&'static [&'static str]),
    /// Names that the operator chooses.
    Named,
    List,
    /// A value, in words.
    Value(String),
}

/// Every key, in the order of the code.
pub(crate) fn keys() -> Vec<Key> {
    let mut keys = Vec::new();
    below(&mut Vec::new(), &mut keys);
    keys
}

fn below(path: &mut Vec<&'static str>, keys: &mut Vec<Key>) {
    let mut at = |step, path: &mut Vec<&'static str>| {
        path.push(step);
        below(path, keys);
        path.pop();
    };
    match shape(path) {
        Some(Shape::Section(fields)) => fields.iter().for_each(|field| at(field, path)),
        Some(Shape::Named) => at(NAME, path),
        Some(Shape::List) => {
            let mut entry = path.clone();
            entry.push(EACH);
            match shape(&entry) {
                Some(Shape::Value(takes)) => keys.push(Key {
                    path: path.clone(),
                    takes: format!("a list, each {takes}"),
                }),
                _ => at(EACH, path),
            }
        }
        Some(Shape::Value(takes)) => keys.push(Key {
            path: path.clone(),
            takes,
        }),
        None => {}
    }
}

fn shape(path: &[&'static str]) -> Option<Shape> {
    let found = RefCell::new(None);
    // It never succeeds: at the end of the way it has seen what it looked for.
    let _ = Config::deserialize(Probe {
        way: path,
        found: &found,
    });
    found.into_inner()
}

/// Goes the way through what is read, and writes down what is read at its end.
struct Probe<'a> {
    way: &'a [&'static str],
    found: &'a RefCell<Option<Shape>>,
}

impl<'a> Probe<'a> {
    /// The step that is next, and the rest of the way; or the end.
    fn step(self, here: Shape) -> Result<(&'static str, Self), Error> {
        match self.way {
            [] => {
                *self.found.borrow_mut() = Some(here);
                Err(Error::custom("found"))
            }
            [step, way @ ..] => Ok((step, Self { way, ..self })),
        }
    }

    fn table<'de, V: Visitor<'de>>(self, here: Shape, visitor: V) -> Result<V::Value, Error> {
        let (step, rest) = self.step(here)?;
        visitor.visit_map(One {
            key: Some(step),
            rest: Some(rest),
        })
    }

    fn value<T>(self, takes: String) -> Result<T, Error> {
        self.step(Shape::Value(takes))
            .and_then(|_| Err(Error::custom("there is nothing below a value")))
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let expected: &dyn Expected = &visitor;
        self.value(expected.to_string())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.table(Shape::Section(fields), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.table(Shape::Named, visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (_, rest) = self.step(Shape::List)?;
        visitor.visit_seq(One {
            key: None,
            rest: Some(rest),
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        let variants: Vec<_> = variants.iter().map(|variant| format!("`\"{variant}\"`")).collect();
        self.value(variants.join(", "))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

/// A table or list of one entry.
struct One<'a> {
    key: Option<&'static str>,
    rest: Option<Probe<'a>>,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(key) = self.key.take() else { return Ok(None) };
        // Names are in lower case.
        let key = if key == NAME { "name" } else { key };
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let rest = self.rest.take().ok_or_else(|| Error::custom("there is one entry"))?;
        seed.deserialize(rest)
    }
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.rest.take().map(|rest| seed.deserialize(rest)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(path: &str) -> Option<String> {
        let key = keys().into_iter().find(|key| key.dotted() == path)?;
        Some(key.takes)
    }

    #[test]
    fn every_kind_of_key_is_found_with_what_it_takes() {
        for (path, words) in [
            ("listen", "socket address"),
            ("model.NAME.provider", "`\"openai\"`, `\"anthropic\"`"),
            ("model.NAME.price.input", "f64"),
            ("network.private_networks", "a list, each"),
            ("agent.NAME.network.allow", "a list, each a network rule"),
            ("agent.NAME.approval.[].decide", "`\"allow\"`"),
            ("limits.ceiling.memory", "a size such as"),
            ("tool.NAME.grant.credential.[].secret", "string"),
        ] {
            let takes = takes(path).unwrap_or_else(|| panic!("{path} is not found"));
            assert!(takes.contains(words), "{path}: {takes}");
        }
        assert_eq!(takes("agent.NAME.network"), None, "a section is no key");
    }
}
