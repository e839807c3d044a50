//! What checking a value costs, counted without checking it.
//!
//! A schema is a graph: a subschema leads to others, some for the same value (`allOf`, `$ref`), some for what is in it
//! (`properties`, `items`). A validator follows every way through it, and ways can multiply: two references to the next level, on
//! thirty levels, are a thousand million. [`Cost::of`] counts the ways without following each: what a subschema costs on one
//! part of the value is counted once, however many ways lead there.
//!
//! The count is an upper bound, in steps of which a validator does many millions a second.

use super::SchemaError;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use std::{collections::HashMap, ptr};

/// What one check may cost.
pub(super) const BUDGET: u64 = 1 << 22;
/// Subschemas that one schema may have.
const NODES: usize = 4096;
/// How deep subschemas may be nested, references included, before one is met again.
const NESTING: usize = 256;
/// How deep a check may go, in subschemas: a validator goes there on the stack.
const DEPTH: usize = 512;
/// The largest a pattern may become in memory to count as a light one, in bytes.
const LIGHT_PATTERN: usize = 1 << 15;

/// The check would cost more than it may.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooCostly;

/// The graph of a schema.
#[derive(Debug)]
pub(super) struct Cost {
    nodes: Vec<Node>,
    root: usize,
    /// Two ways may lead to the same subschema.
    shared: bool,
}

/// One subschema.
#[derive(Debug, Default)]
struct Node {
    /// What its own keywords cost on any value.
    own: u64,
    /// What they cost for each byte of a string, in hundredths.
    each_byte: u64,
    /// What they cost for each byte of a member's name, in hundredths.
    each_name_byte: u64,
    unique_items: bool,
    /// How often the subschemas for the same value are asked.
    asked: u64,
    same_value: Vec<usize>,
    properties: HashMap<String, usize>,
    each_member: Vec<usize>,
    names: Option<usize>,
    prefix: Vec<usize>,
    each_item: Vec<usize>,
}

impl Cost {
    /// Reads the graph of a schema.
    pub(super) fn count(schema: &Value) -> Result<Self, SchemaError> {
        if has_inner_id(schema, 0) {
            return Err(SchemaError::Keyword("$id"));
        }
        let mut reader = Reader {
            schema,
            nodes: Vec::new(),
            known: HashMap::new(),
            references: HashMap::new(),
            met_again: false,
        };
        let root = reader.node(schema, 0)?;
        reader.refuse_circles()?;
        Ok(Self {
            nodes: reader.nodes,
            root,
            shared: reader.met_again,
        })
    }

    /// What checking a value costs, in steps.
    pub(super) fn of(&self, value: &Value) -> Result<u64, TooCostly> {
        let mut counting = Counting {
            cost: self,
            counted: HashMap::new(),
            left: BUDGET,
        };
        counting.node(self.root, value, 0)
    }
}

struct Counting<'a> {
    cost: &'a Cost,
    /// By subschema and part of the value. Only where ways can meet.
    counted: HashMap<(usize, *const Value), u64>,
    /// What counting itself may still cost.
    left: u64,
}

impl Counting<'_> {
    fn node(&mut self, id: usize, value: &Value, depth: usize) -> Result<u64, TooCostly> {
        if depth > DEPTH {
            return Err(TooCostly);
        }
        self.spend(1)?;
        let key = (id, ptr::from_ref(value));
        if self.cost.shared
            && let Some(counted) = self.counted.get(&key)
        {
            return Ok(*counted);
        }
        let node = &self.cost.nodes[id];
        let mut steps = node.own;
        for child in &node.same_value {
            let child = self.node(*child, value, depth + 1)?;
            steps = steps.saturating_add(child.saturating_mul(node.asked));
        }
        let inner = match value {
            Value::String(text) => bytes(text, node.each_byte),
            Value::Object(members) => self.members(node, members, depth)?,
            Value::Array(items) => self.items(node, value, items, depth)?,
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        };
        steps = steps.saturating_add(inner);
        if steps > BUDGET {
            return Err(TooCostly);
        }
        if self.cost.shared {
            self.counted.insert(key, steps);
        }
        Ok(steps)
    }

    fn members(&mut self, node: &Node, members: &Map<String, Value>, depth: usize) -> Result<u64, TooCostly> {
        let mut steps: u64 = 0;
        for (name, member) in members {
            self.spend(1)?;
            steps = steps.saturating_add(bytes(name, node.each_name_byte));
            if let Some(names) = node.names {
                steps = steps.saturating_add(self.name(names, name, depth + 1)?);
            }
            for child in node.properties.get(name).into_iter().chain(&node.each_member) {
                steps = steps.saturating_add(self.node(*child, member, depth + 1)?);
            }
        }
        Ok(steps)
    }

    /// A name is checked as a value of its own: it lives only here, so that nothing may be remembered of it.
    fn name(&mut self, id: usize, name: &str, depth: usize) -> Result<u64, TooCostly> {
        let mut counting = Counting {
            cost: self.cost,
            counted: HashMap::new(),
            left: self.left,
        };
        let steps = counting.node(id, &Value::String(name.to_owned()), depth);
        self.left = counting.left;
        steps
    }

    fn items(&mut self, node: &Node, array: &Value, items: &[Value], depth: usize) -> Result<u64, TooCostly> {
        let mut steps: u64 = 0;
        if node.unique_items {
            // Few are compared each with each, many by their hashes.
            const COMPARED: u64 = 8;
            let size = size(array);
            self.spend(size)?;
            steps = size.saturating_mul(COMPARED);
        }
        for (place, item) in items.iter().enumerate() {
            self.spend(1)?;
            for child in node.prefix.get(place).into_iter().chain(&node.each_item) {
                steps = steps.saturating_add(self.node(*child, item, depth + 1)?);
            }
        }
        Ok(steps)
    }

    fn spend(&mut self, steps: u64) -> Result<(), TooCostly> {
        self.left = self.left.checked_sub(steps).ok_or(TooCostly)?;
        Ok(())
    }
}

/// What hundredths for each byte come to.
fn bytes(text: &str, hundredths: u64) -> u64 {
    (text.len() as u64).saturating_mul(hundredths) / 100
}

/// Whether there is an `$id` inside: it would give references another root.
fn has_inner_id(value: &Value, depth: usize) -> bool {
    match value {
        Value::Object(members) => {
            (depth > 0 && members.get("$id").is_some_and(Value::is_string))
                || members.values().any(|member| has_inner_id(member, depth + 1))
        }
        Value::Array(items) => items.iter().any(|item| has_inner_id(item, depth + 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// How many values there are in a value, itself included.
fn size(value: &Value) -> u64 {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(members) => members.values().map(size).sum::<u64>(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// Reads a schema into nodes, each place of it once.
struct Reader<'a> {
    schema: &'a Value,
    nodes: Vec<Node>,
    known: HashMap<*const Value, usize>,
    references: HashMap<usize, &'a str>,
    met_again: bool,
}

impl<'a> Reader<'a> {
    fn node(&mut self, place: &'a Value, nesting: usize) -> Result<usize, SchemaError> {
        if let Some(known) = self.known.get(&ptr::from_ref(place)) {
            self.met_again = true;
            return Ok(*known);
        }
        if nesting > NESTING {
            return Err(SchemaError::Deep(NESTING));
        }
        if self.nodes.len() >= NODES {
            return Err(SchemaError::Large(NODES));
        }
        let id = self.nodes.len();
        self.nodes.push(Node::default());
        self.known.insert(ptr::from_ref(place), id);
        let mut node = Node {
            own: 1,
            asked: 1,
            ..Node::default()
        };
        if let Value::Object(keywords) = place {
            let reference = keywords.get("$ref").and_then(Value::as_str);
            self.references.extend(reference.map(|reference| (id, reference)));
            for (keyword, value) in keywords {
                self.keyword(&mut node, keyword, value, nesting + 1)?;
            }
        }
        if let Some(node_of) = self.nodes.get_mut(id) {
            *node_of = node;
        }
        Ok(id)
    }

    fn keyword(&mut self, node: &mut Node, keyword: &str, value: &'a Value, nesting: usize) -> Result<(), SchemaError> {
        match (keyword, value) {
            ("$dynamicRef", _) => return Err(SchemaError::Keyword("$dynamicRef")),
            ("$recursiveRef", _) => return Err(SchemaError::Keyword("$recursiveRef")),
            ("$ref", Value::String(reference)) => {
                let target = self.target(reference)?;
                node.same_value.push(self.node(target, nesting)?);
            }
            ("allOf" | "anyOf" | "oneOf", Value::Array(all)) => {
                for one in all {
                    node.same_value.push(self.node(one, nesting)?);
                }
            }
            ("not" | "if" | "then" | "else", one) => node.same_value.push(self.node(one, nesting)?),
            ("dependentSchemas" | "dependencies", Value::Object(all)) => {
                for one in all.values().filter(|one| !one.is_array()) {
                    node.same_value.push(self.node(one, nesting)?);
                }
            }
            ("properties", Value::Object(all)) => {
                node.own += all.len() as u64;
                for (name, one) in all {
                    let one = self.node(one, nesting)?;
                    node.properties.insert(name.clone(), one);
                }
            }
            ("patternProperties", Value::Object(all)) => {
                for (pattern, one) in all {
                    node.each_name_byte += cost_of_pattern(pattern);
                    node.each_member.push(self.node(one, nesting)?);
                }
            }
            ("propertyNames", one) => node.names = Some(self.node(one, nesting)?),
            ("prefixItems" | "items", Value::Array(all)) => {
                for one in all {
                    node.prefix.push(self.node(one, nesting)?);
                }
            }
            ("items" | "additionalItems", one) => node.each_item.push(self.node(one, nesting)?),
            ("additionalProperties", one) => node.each_member.push(self.node(one, nesting)?),
            _ => return self.repeated(node, keyword, value, nesting),
        }
        Ok(())
    }

    /// Keywords that ask a subschema again, and those without subschemas.
    fn repeated(
        &mut self,
        node: &mut Node,
        keyword: &str,
        value: &'a Value,
        nesting: usize,
    ) -> Result<(), SchemaError> {
        /// Whoever asks what is not evaluated yet evaluates again.
        const AGAIN: usize = 4;
        match (keyword, value) {
            ("contains", one) => {
                let one = self.node(one, nesting)?;
                node.each_item.extend(std::iter::repeat_n(one, AGAIN));
            }
            ("unevaluatedProperties", one) => {
                node.asked = AGAIN as u64;
                node.each_member.push(self.node(one, nesting)?);
            }
            ("unevaluatedItems", one) => {
                node.asked = AGAIN as u64;
                node.each_item.push(self.node(one, nesting)?);
            }
            ("uniqueItems", Value::Bool(true)) => node.unique_items = true,
            ("pattern", Value::String(pattern)) => node.each_byte += cost_of_pattern(pattern),
            ("minLength" | "maxLength" | "format" | "const", value) => {
                node.own += size(value);
                node.each_byte += 2;
            }
            // A list of values, names or names of each.
            ("enum" | "required" | "dependentRequired" | "dependencies", value) => node.own += size(value),
            _ => node.own += 1,
        }
        Ok(())
    }

    fn target(&self, reference: &str) -> Result<&'a Value, SchemaError> {
        let outside = || SchemaError::Outside(reference.chars().take(super::FAULT).collect());
        let pointer = reference.strip_prefix('#').ok_or_else(outside)?;
        let pointer = percent_decode_str(pointer).decode_utf8().map_err(|_| outside())?;
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err(outside());
        }
        self.schema
            .pointer(&pointer)
            .ok_or_else(|| SchemaError::Invalid(format!("`$ref` to `{reference}`: there is no such place in it")))
    }

    /// A way that comes back to where it was, and is still at the same value, has no end.
    fn refuse_circles(&self) -> Result<(), SchemaError> {
        let mut state = vec![Visit::New; self.nodes.len()];
        (0..self.nodes.len()).try_for_each(|id| self.follow(id, &mut state))
    }

    fn follow(&self, id: usize, state: &mut [Visit]) -> Result<(), SchemaError> {
        if let Visit::Left = state[id] {
            return Ok(());
        }
        state[id] = Visit::Entered;
        for child in &self.nodes[id].same_value {
            if let Visit::Entered = state[*child] {
                // Only a reference leads back.
                let reference = self.references.get(&id).copied().unwrap_or("#");
                return Err(SchemaError::Circular(reference.chars().take(super::FAULT).collect()));
            }
            self.follow(*child, state)?;
        }
        state[id] = Visit::Left;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Visit {
    New,
    Entered,
    Left,
}

/// What searching for a pattern costs for each byte, in hundredths of a step. A search takes as long as the text times, at worst, the
/// size of the pattern.
fn cost_of_pattern(pattern: &str) -> u64 {
    const LIGHT: u64 = 10;
    const HEAVY: u64 = 1000;
    let light = regex::RegexBuilder::new(pattern).size_limit(LIGHT_PATTERN).build();
    if light.is_ok() { LIGHT } else { HEAVY }
}
