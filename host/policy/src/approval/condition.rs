//! Conditions of approval rules, in the Common Expression Language (<https://cel.dev>), bounded in what they say and in what they cost.
//!
//! The operator writes a condition, and a model chooses the arguments it is held against. So a condition is short, and can only look:
//! it makes no lists, and looks at each element of a list at most once. Its regular expressions are made ready with it, and are small.
//! What a look costs is counted from the size of the arguments before it is taken; one that would cost too much is not taken.

use super::JudgedCall;
use crate::agent::AgentSpec;
use cel::{
    Context, Env, ExecutionError, Program, Value as Cel,
    common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue},
    extractors::This,
};
use fumehood_core::tool::Effect;
use regex::{Regex, RegexBuilder};
use serde_json::Value;
use std::{
    cell::OnceCell,
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

/// The most characters of a condition.
pub const MOST_CHARACTERS: usize = 1000;
/// Brackets within brackets.
const MOST_BRACKETS: usize = 16;
/// How deep the parts of a condition may nest.
const DEEPEST: usize = 32;
/// Bytes of arguments, times the values in them where a condition goes through a list.
const MOST_WORK: usize = 1 << 24;
/// Bytes that a regular expression may take, as its size is counted: what is the smallest of these that is enough for it.
const PATTERN_SIZES: [usize; 7] = [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16];
/// A byte of arguments costs as much again for each so many bytes of the regular expressions that it is held against.
const PATTERN_UNIT: usize = 1 << 10;
/// Characters of a parser's words.
const WORDS: usize = 160;

const VARIABLES: [&str; 7] = [
    "arguments",
    "tool",
    "component",
    "effect",
    "read_only",
    "destructive",
    "open_world",
];
const TYPES: [&str; 9] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
];
const OPERATORS: [&str; 19] = [
    "_?_:_",
    "_&&_",
    "_||_",
    "!_",
    "_-_",
    "_+_",
    "_*_",
    "_/_",
    "_%_",
    "_==_",
    "_!=_",
    "_>=_",
    "_<=_",
    "_>_",
    "_<_",
    "-_",
    "_[_]",
    "@in",
    "@not_strictly_false",
];
const FUNCTIONS: [&str; 10] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "type",
];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// Why a condition can't be used, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`when` can't be used, at line {line}, column {column}: {reason}")]
pub struct ConditionError {
    /// Counts from 1.
    pub line: usize,
    /// Counts from 1, in characters.
    pub column: usize,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

/// A condition that compiles, and costs no more than it may.
#[derive(Clone)]
pub(super) struct Condition {
    text: Arc<str>,
    program: Arc<Program>,
    patterns: Patterns,
    cost: Cost,
}

/// Regular expressions, ready, by how they are written.
type Patterns = HashMap<String, Regex>;

/// What a condition costs.
#[derive(Debug, Clone, Copy)]
struct Cost {
    looks: Looks,
    /// Bytes of its regular expressions.
    patterns: usize,
}

/// How often a condition looks at the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// Once.
    Once,
    /// Once for each element of a list.
    EachElement,
}

impl Cost {
    fn for_arguments(self, size: Size) -> usize {
        let looks = match self.looks {
            Looks::Once => 1,
            Looks::EachElement => size.values,
        };
        // A search may go through a whole expression at each byte.
        let at_a_byte = 1 + self.patterns.div_ceil(PATTERN_UNIT);
        size.bytes.saturating_mul(looks).saturating_mul(at_a_byte)
    }
}

impl Condition {
    pub(super) fn compile(text: &str) -> Result<Self, ConditionError> {
        // THREAT[T-appr-expression-cost]: a parser is recursive, so what it is given is bounded first.
        bounded(text)?;
        let program = ENV.compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let (line, column) = first.map_or((1, 1), |error| error.pos);
            ConditionError {
                line: usize::try_from(line).unwrap_or(1).max(1),
                column: usize::try_from(column).unwrap_or(1).max(1),
                reason: first.map_or_else(|| "it is not CEL".into(), |error| shortened(&error.msg)),
            }
        })?;
        let mut check = Check {
            scope: Vec::new(),
            patterns: Patterns::new(),
            cost: Cost {
                looks: Looks::Once,
                patterns: 0,
            },
        };
        let checked = check.expression(program.expression(), 0);
        let Check { patterns, cost, .. } = check;
        if let Err(fault) = checked {
            let offset = program.source_info().offset_for(fault.id).map_or(0, |(start, _)| start);
            return Err(at(text, usize::try_from(offset).unwrap_or(0), fault.reason));
        }
        Ok(Self {
            text: text.into(),
            program: Arc::new(program),
            patterns,
            cost,
        })
    }

    /// Whether it holds; or why that can't be said, in words without values of the arguments.
    pub(super) fn holds(&self, seen: &Seen<'_>) -> Result<bool, String> {
        // THREAT[T-appr-expression-cost]: nothing is evaluated before it is known what that costs.
        if self.cost.for_arguments(seen.size()) > MOST_WORK {
            return Err("the arguments are too large to hold the condition against them".into());
        }
        match self.program.execute(seen.context()) {
            Ok(Cel::Bool(holds)) => Ok(holds),
            Ok(_) => Err("the condition is neither true nor false".into()),
            Err(error) => Err(self.words(&error)),
        }
    }

    /// What went wrong, without the values it went wrong with: they are the model's.
    // THREAT[T-appr-deception]
    fn words(&self, error: &ExecutionError) -> String {
        match error {
            ExecutionError::NoSuchKey(key) if self.text.contains(key.as_str()) => {
                format!("there is no `{}`", shortened(key))
            }
            // An argument chose the name.
            ExecutionError::NoSuchKey(_) => "there is nothing of a name that the condition looks up".into(),
            ExecutionError::IndexOutOfBounds(_) => "a list is shorter than the condition needs".into(),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => "it divides by zero".into(),
            ExecutionError::Overflow(..) => "a number is too large".into(),
            ExecutionError::NoSuchOverload(error) => {
                format!("`{}` does not take values of these types", error.function())
            }
            _ => "a value is not of the type that the condition needs".into(),
        }
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.text).finish()
    }
}

/// What is wrong with a part of a condition.
struct Fault {
    id: u64,
    reason: String,
}

/// Goes through a parsed condition and refuses what it may not say.
struct Check<'e> {
    /// Names that the macros around bring in.
    scope: Vec<&'e str>,
    patterns: Patterns,
    cost: Cost,
}

impl<'e> Check<'e> {
    fn expression(&mut self, part: &'e IdedExpr, depth: usize) -> Result<(), Fault> {
        let refuse = |reason: String| Err(Fault { id: part.id, reason });
        if depth > DEEPEST {
            return refuse(format!(
                "it nests more than {DEEPEST} deep; split it over several rules"
            ));
        }
        let deeper = depth + 1;
        match &part.expr {
            Expr::Unspecified => refuse("something is missing here".into()),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if self.knows(name) => Ok(()),
            Expr::Ident(name) => refuse(format!("there is no `{name}`; there are: {}", VARIABLES.join(", "))),
            Expr::Select(select) => self.expression(&select.operand, deeper),
            Expr::List(list) => self.each(&list.elements, deeper),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    self.expression(&entry.key, deeper)?;
                    self.expression(&entry.value, deeper)
                }
                EntryExpr::StructField(field) => self.expression(&field.value, deeper),
            }),
            Expr::Struct(_) => refuse("a condition makes no objects".into()),
            Expr::Call(call) => {
                self.call(part.id, call)?;
                if let Some(target) = &call.target {
                    self.expression(target, deeper)?;
                }
                self.each(&call.args, deeper)
            }
            Expr::Comprehension(each) => self.comprehension(part.id, each, deeper),
        }
    }

    fn each(&mut self, parts: &'e [IdedExpr], depth: usize) -> Result<(), Fault> {
        parts.iter().try_for_each(|part| self.expression(part, depth))
    }

    fn knows(&self, name: &str) -> bool {
        VARIABLES.contains(&name) || TYPES.contains(&name) || self.scope.contains(&name)
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Result<(), Fault> {
        let name = call.func_name.as_str();
        let refuse = |reason: String| Err(Fault { id, reason });
        if !OPERATORS.contains(&name) && !FUNCTIONS.contains(&name) {
            return refuse(format!(
                "there is no function `{name}`; there are: has, all, exists, exists_one, {}",
                FUNCTIONS.join(", ")
            ));
        }
        if name != "matches" {
            return Ok(());
        }
        let Some(Expr::Literal(LiteralValue::String(pattern))) = call.args.last().map(|pattern| &pattern.expr) else {
            return refuse("`matches` takes its regular expression as a text in quotes, not from the call".into());
        };
        match ready(pattern.inner()) {
            Ok((regex, size)) => {
                self.cost.patterns += size;
                self.patterns.insert(pattern.inner().to_owned(), regex);
                Ok(())
            }
            Err(why) => refuse(format!("the regular expression can't be used: {why}")),
        }
    }

    fn comprehension(&mut self, id: u64, each: &'e ComprehensionExpr, depth: usize) -> Result<(), Fault> {
        let refuse = |reason: &str| {
            Err(Fault {
                id,
                reason: reason.into(),
            })
        };
        if !matches!(each.accu_init.expr, Expr::Literal(_)) {
            return refuse("`map` and `filter` can't be used in a condition; use `all`, `exists` or `exists_one`");
        }
        if !self.scope.is_empty() {
            return refuse("`all`, `exists` and `exists_one` can't be used within each other");
        }
        self.cost.looks = Looks::EachElement;
        self.scope = [Some(&each.iter_var), each.iter_var2.as_ref(), Some(&each.accu_var)]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let parts = [&each.iter_range, &each.loop_cond, &each.loop_step, &each.result];
        let checked = parts.into_iter().try_for_each(|part| self.expression(part, depth));
        self.scope.clear();
        checked
    }
}

/// A regular expression, ready, and the bytes that it takes; or why there is none.
// THREAT[T-appr-expression-cost]: it is compiled once, with the condition, and its size is bounded and counted.
fn ready(pattern: &str) -> Result<(Regex, usize), String> {
    for size in PATTERN_SIZES {
        match RegexBuilder::new(pattern).size_limit(size).build() {
            Ok(regex) => return Ok((regex, size)),
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(error) => {
                let said = error.to_string();
                return Err(shortened(said.lines().last().unwrap_or_default()));
            }
        }
    }
    Err(
        "it is too large: repeat less often, and write `[0-9]` and `[A-Za-z0-9_]` rather than `\\d` and `\\w`, which are those of \
         all languages"
            .into(),
    )
}

/// Refuses what is too long or nests too deep to be parsed.
fn bounded(text: &str) -> Result<(), ConditionError> {
    let mut open: usize = 0;
    for (place, character) in text.chars().enumerate() {
        if place == MOST_CHARACTERS {
            let reason = format!("it is longer than {MOST_CHARACTERS} characters; split it over several rules");
            return Err(at(text, place, reason));
        }
        match character {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MOST_BRACKETS {
            let reason = format!("more than {MOST_BRACKETS} brackets within each other; split it over several rules");
            return Err(at(text, place, reason));
        }
    }
    Ok(())
}

/// A fault at a character, counted from 0.
fn at(text: &str, place: usize, reason: String) -> ConditionError {
    let before: String = text.chars().take(place).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
    ConditionError { line, column, reason }
}

fn shortened(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut words: String = clean.clone().take(WORDS).collect();
    if clean.count() > WORDS {
        words.push('…');
    }
    words
}

/// What a call shows to conditions: made ready when the first asks for it.
pub(super) struct Seen<'a> {
    call: &'a JudgedCall<'a>,
    /// Whose conditions look.
    chain: &'a [AgentSpec],
    size: OnceCell<Size>,
    context: OnceCell<Context<'static, 'static>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    values: usize,
    bytes: usize,
}

impl<'a> Seen<'a> {
    pub(super) const fn new(call: &'a JudgedCall<'a>, chain: &'a [AgentSpec]) -> Self {
        Self {
            call,
            chain,
            size: OnceCell::new(),
            context: OnceCell::new(),
        }
    }

    fn size(&self) -> Size {
        *self.size.get_or_init(|| {
            let mut size = Size::default();
            for (key, value) in self.call.arguments {
                size.add_key(key);
                size.add(value);
            }
            size
        })
    }

    fn context(&self) -> &Context<'static, 'static> {
        self.context.get_or_init(|| {
            let JudgedCall {
                component,
                tool,
                arguments,
            } = self.call;
            let effect = match tool.effect {
                Effect::Pure => "pure",
                Effect::Idempotent => "idempotent",
                Effect::AtMostOnce => "at-most-once",
            };
            let mut context = Context::with_env(Arc::clone(&ENV));
            context.add_variable_from_value("arguments", object(arguments));
            context.add_variable_from_value("tool", tool.name.as_str().to_owned());
            context.add_variable_from_value("component", component.as_str().to_owned());
            context.add_variable_from_value("effect", effect.to_owned());
            context.add_variable_from_value("read_only", tool.read_only);
            context.add_variable_from_value("destructive", tool.destructive);
            context.add_variable_from_value("open_world", tool.open_world);
            let conditions = self.chain.iter().flat_map(|agent| agent.approval.conditions());
            let patterns: Patterns = conditions.flat_map(|condition| condition.patterns.clone()).collect();
            // The environment has none of its own, which would compile the expression at each call.
            let declared =
                context.add_function("matches", move |This(text): This<Arc<String>>, pattern: Arc<String>| {
                    let regex = patterns.get(pattern.as_str());
                    regex
                        .map(|regex| regex.is_match(&text))
                        .ok_or_else(|| ExecutionError::function_error("matches", "not of this condition"))
                });
            debug_assert_eq!(declared, Ok(()));
            context
        })
    }
}

impl Size {
    fn add_key(&mut self, key: &str) {
        self.bytes += key.len();
    }

    fn add(&mut self, value: &Value) {
        self.values += 1;
        self.bytes += 8;
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
            Value::String(text) => self.bytes += text.len(),
            Value::Array(list) => list.iter().for_each(|value| self.add(value)),
            Value::Object(map) => map.iter().for_each(|(key, value)| {
                self.add_key(key);
                self.add(value);
            }),
        }
    }
}

fn object(map: &serde_json::Map<String, Value>) -> Cel {
    let entries = map.iter().map(|(key, value)| (key.clone(), cel_value(value)));
    Cel::from(entries.collect::<HashMap<String, Cel>>())
}

/// Whole numbers are `int`, so that arithmetic with the numbers of a condition works.
fn cel_value(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(is) => Cel::Bool(*is),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => Cel::Int(whole),
            (None, Some(large), _) => Cel::UInt(large),
            (None, None, float) => Cel::Float(float.unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::from(text.clone()),
        Value::Array(list) => Cel::List(Arc::new(list.iter().map(cel_value).collect())),
        Value::Object(map) => object(map),
    }
}
