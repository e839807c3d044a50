//! Components that know nothing of Fumehood: every plain function they export is offered as a tool.
//!
//! The tool's name is the function's with underscores (`add-two` → `add_two`), after its interface's
//! if it has one (`calc.add-two` → `calc_add_two`). Its arguments are an object with one property per
//! parameter, under the parameter's WIT name (`max-items`) and no other. Its result is `{"result": …}`; a
//! function that returns a WIT `result` fails its call by returning the error. Its description is the
//! function's doc comment where the component carries that, else its signature.
//!
//! How values look in JSON: see [`schema`].
//!
//! A function whose types have no JSON form, or whose name no tool may have or one has already, is left out, and the
//! others are offered. A component with none that can be offered is refused.

mod docs;
mod schema;
mod values;
mod work;

pub(crate) use docs::{Docs, SECTION as DOCS_SECTION};
pub(crate) use work::{Stopped, Work};

use crate::{
    definitions::{MAX_TEXT, MAX_TOOLS},
    error::{self, LoadError},
    world,
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, Output},
    content::Content,
    name::ToolName,
    tool::{Effect, ToolDefinition},
};
use fumehood_policy::limits::Limits;
use schema::{Room, Unfit};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::HashSet;
use wasmtime::{
    Engine,
    component::{
        Component, ComponentExportIndex, Type, Val,
        types::{ComponentFunc, ComponentItem},
    },
};

/// One exported function.
pub(crate) struct Function {
    pub(crate) index: ComponentExportIndex,
    params: Vec<(String, Type)>,
    result: Option<Type>,
    /// Flags are among its types.
    flags: bool,
}

/// A function that is no tool, though the component exports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Under its full name.
    pub function: String,
    /// Why, and what to do: a sentence without its full stop.
    pub why: String,
}

/// What a component's functions became.
pub(crate) struct Offered {
    pub(crate) functions: Vec<Function>,
    /// In the same order.
    pub(crate) tools: Vec<ToolDefinition>,
    /// The first ones, as many as there may be tools.
    pub(crate) left_out: Vec<LeftOut>,
}

/// Characters of a left out function's name: nobody reads more.
const LONGEST_NAME: usize = 200;

/// More parameters than any function has; the canonical ABI passes sixteen in registers.
const MAX_PARAMS: usize = 256;

/// What begins the description of a tool of which nothing but its signature is known.
pub const SIGNATURE_ONLY: &str = "Calls the component's function ";

/// Where the descriptions of tools come from that are plain functions. One that is not there has its signature for it.
#[derive(Clone, Copy)]
pub(crate) enum Descriptions<'a> {
    /// From the doc comments that the component carries.
    Comments(&'a Docs),
    /// From what was kept with compiled code, which has no comments any more.
    Kept(&'a [ToolDefinition]),
}

impl Descriptions<'_> {
    fn of(self, interface: Option<&str>, function: &str, tool: &ToolName) -> Option<String> {
        match self {
            Self::Comments(docs) => docs.of(interface, function),
            Self::Kept(tools) => {
                let kept = tools.iter().find(|kept| kept.name == *tool);
                kept.map(|kept| kept.description.clone())
            }
        }
    }
}

/// The functions of a component and the tools they become. Computes.
pub(crate) fn functions(
    engine: &Engine,
    component: &Component,
    descriptions: Descriptions<'_>,
) -> Result<Offered, LoadError> {
    let mut found = Found {
        component,
        descriptions,
        functions: Vec::new(),
        tools: Vec::new(),
        left_out: Vec::new(),
        refused: None,
        names: HashSet::new(),
        room: Room::new(MAX_TEXT),
    };
    for (name, export) in component.component_type().exports(engine) {
        if world::is_for_others(name) {
            continue;
        }
        match export.ty {
            ComponentItem::ComponentFunc(function) => found.add(None, name, &function)?,
            ComponentItem::ComponentInstance(instance) => {
                let Some(index) = component.get_export_index(None, name) else {
                    continue;
                };
                for (function_name, export) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(function) = export.ty
                        && !is_of_componentize_py(name, function_name, &function)
                    {
                        found.add(Some((name, &index)), function_name, &function)?;
                    }
                }
            }
            _ => {}
        }
    }
    if found.tools.is_empty() {
        return Err(found.refused.unwrap_or(LoadError::NoTools));
    }
    Ok(Offered {
        functions: found.functions,
        tools: found.tools,
        left_out: found.left_out,
    })
}

/// Whether it is what `componentize-py` calls to load the program, and leaves in the component when that is done.
fn is_of_componentize_py(interface: &str, name: &str, function: &ComponentFunc) -> bool {
    interface == "exports"
        && name == "init"
        && function
            .params()
            .map(|(name, _)| name)
            .eq(["app-name", "symbols", "stub-wasi"])
}

struct Found<'a> {
    component: &'a Component,
    descriptions: Descriptions<'a>,
    functions: Vec<Function>,
    tools: Vec<ToolDefinition>,
    left_out: Vec<LeftOut>,
    /// Why the first of those can't be offered.
    refused: Option<LoadError>,
    names: HashSet<ToolName>,
    /// For the schemas and descriptions of all tools.
    room: Room,
}

impl Found<'_> {
    /// Offers it, or leaves it out.
    fn add(
        &mut self,
        interface: Option<(&str, &ComponentExportIndex)>,
        name: &str,
        function: &ComponentFunc,
    ) -> Result<(), LoadError> {
        let refused = match self.offer(interface, name, function) {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        // They may have been among the types that were looked at.
        self.room.met_flags();
        let (function, why) = match &refused {
            LoadError::FunctionName { function, why } => (function, why.clone()),
            LoadError::UnsupportedType { function, what } => {
                (function, format!("it uses {}", error::unsupported(what)))
            }
            _ => return Err(refused),
        };
        if self.left_out.len() < MAX_TOOLS {
            self.left_out.push(LeftOut {
                function: function.chars().take(LONGEST_NAME).collect(),
                why,
            });
        }
        self.refused.get_or_insert(refused);
        Ok(())
    }

    fn offer(
        &mut self,
        interface: Option<(&str, &ComponentExportIndex)>,
        name: &str,
        function: &ComponentFunc,
    ) -> Result<(), LoadError> {
        let full_name = match interface {
            Some((interface, _)) => format!("{interface}.{name}"),
            None => name.to_owned(),
        };
        let unfit = |unfit| match unfit {
            Unfit::Unsupported(what) => LoadError::UnsupportedType {
                function: full_name.clone(),
                what,
            },
            Unfit::TooLarge => LoadError::TypesTooLarge {
                function: full_name.clone(),
                limit: MAX_TEXT,
            },
        };
        if self.tools.len() == MAX_TOOLS {
            return Err(LoadError::TooManyTools { limit: MAX_TOOLS });
        }
        if function.async_() {
            return Err(unfit(Unfit::Unsupported("an asynchronous signature")));
        }
        // `[constructor]thing`, `[method]thing.do`, `[static]thing.make`
        if name.starts_with('[') {
            return Err(unfit(Unfit::Unsupported("a resource")));
        }
        if function.params().len() > MAX_PARAMS {
            return Err(unfit(Unfit::Unsupported("a list of more than 256 parameters")));
        }
        let params: Vec<(String, Type)> = function.params().map(|(name, ty)| (name.to_owned(), ty)).collect();
        let result = function.results().next();
        let input_schema = schema::params(&params, &mut self.room).map_err(unfit)?;
        let output_schema = match &result {
            Some(result) => schema::result(result, &mut self.room).map_err(unfit)?,
            None => None,
        };
        let tool_name = tool_name(interface.map(|(interface, _)| interface), name, &full_name)?;
        if !self.names.insert(tool_name.clone()) {
            return Err(LoadError::FunctionName {
                function: full_name,
                why: format!("another function is already the tool {tool_name}; rename one"),
            });
        }
        let Some(index) = self.component.get_export_index(interface.map(|(_, index)| index), name) else {
            return Err(LoadError::Internal);
        };
        let interface = interface.map(|(interface, _)| interface);
        let description = match self.descriptions.of(interface, name, &tool_name) {
            Some(description) => description,
            None => {
                let signature = schema::signature(&full_name, &params, result.as_ref());
                format!("{SIGNATURE_ONLY}{signature}.")
            }
        };
        self.room.take(description.len()).map_err(unfit)?;
        self.tools.push(ToolDefinition {
            name: tool_name,
            title: None,
            description,
            input_schema,
            output_schema,
            effect: Effect::AtMostOnce,
            read_only: false,
            destructive: false,
            open_world: false,
        });
        self.functions.push(Function {
            index,
            params,
            result,
            flags: self.room.met_flags(),
        });
        Ok(())
    }
}

/// `namespace:package/interface@1.0.0` → `interface`
fn short_name(interface: &str) -> &str {
    let unversioned = interface.split_once('@').map_or(interface, |(name, _)| name);
    unversioned.rsplit_once('/').map_or(unversioned, |(_, name)| name)
}

fn tool_name(interface: Option<&str>, name: &str, full_name: &str) -> Result<ToolName, LoadError> {
    let joined = match interface.map(short_name) {
        Some(interface) => format!("{interface}_{name}"),
        None => name.to_owned(),
    };
    ToolName::new(joined.replace('-', "_").to_ascii_lowercase()).map_err(|error| LoadError::FunctionName {
        function: full_name.to_owned(),
        why: error.to_string(),
    })
}

impl Function {
    /// The arguments as the function takes them.
    pub(crate) fn arguments(&self, mut arguments: Arguments, work: &mut Work<'_>) -> Result<Vec<Val>, Stopped> {
        let mut values = Vec::with_capacity(self.params.len());
        for (name, ty) in &self.params {
            let value = match arguments.remove(name) {
                Some(value) => values::from_json(ty, value, work),
                None => values::absent(ty),
            };
            values.push(value.map_err(|error| error.of(name))?);
        }
        match arguments.keys().next() {
            None => Ok(values),
            Some(unknown) => Err(invalid(format!("there is no parameter `{unknown}`")).into()),
        }
    }

    /// Room for the results.
    pub(crate) fn results(&self) -> Vec<Val> {
        vec![Val::Bool(false); usize::from(self.result.is_some())]
    }

    /// How many bytes of values may be copied out of the guest at once, so that a result within `output` fits and what
    /// does not fit takes little.
    ///
    /// A byte of JSON is a value of up to forty bytes before it is JSON. A set of flags is copied as a list of their
    /// names, of which the engine counts nothing but the letters: half a hundred times as much as it counts.
    // THREAT[T-box-plain-values]
    pub(crate) fn copied(&self, limits: &Limits) -> usize {
        let output = limits.output.as_usize();
        if self.flags {
            output.clamp(64 << 10, 1 << 20)
        } else {
            output.saturating_mul(size_of::<Val>()).clamp(1 << 20, 32 << 20)
        }
    }

    /// The results as a tool's output.
    pub(crate) fn output(&self, mut results: Vec<Val>, work: &mut Work<'_>) -> Result<Output, Stopped> {
        let (Some(value), Some(ty)) = (results.pop(), &self.result) else {
            return Ok(Output::default());
        };
        Ok(match (ty, value) {
            (Type::Result(_), Val::Result(Ok(None))) => Output::default(),
            (Type::Result(result), Val::Result(Ok(value))) => succeeded(values::side(result.ok(), value, work)?),
            (Type::Result(_), Val::Result(Err(None))) => {
                erred("the function returned an error without a description".into())
            }
            (Type::Result(result), Val::Result(Err(value))) => erred(values::side(result.err(), value, work)?),
            (ty, value) => succeeded(values::to_json(ty, value, work)?),
        })
    }
}

fn erred(why: Value) -> Output {
    Output {
        content: vec![content(why)],
        structured: None,
        is_error: true,
    }
}

fn succeeded(value: Value) -> Output {
    Output {
        content: vec![content(value.clone())],
        structured: Some(Value::Object(Map::from_iter([("result".to_owned(), value)]))),
        is_error: false,
    }
}

fn content(value: Value) -> Content {
    match value {
        Value::String(text) => Content::Text { text },
        json => Content::Json { json },
    }
}

fn invalid(why: impl Into<String>) -> CallError {
    CallError::new(CallErrorCode::InvalidArguments, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_interfaces_and_the_functions_in_snake_case() {
        let name = |interface, name| tool_name(interface, name, name).unwrap().to_string();
        assert_eq!(name(None, "add-two"), "add_two");
        assert_eq!(name(Some("docs:adder/calc-more@1.2.3"), "add-two"), "calc_more_add_two");
        assert_eq!(name(Some("calc"), "HTTP-get"), "calc_http_get");
    }

    #[test]
    fn a_name_that_no_tool_may_have_is_refused() {
        assert!(tool_name(None, &"x".repeat(65), "x").is_err());
    }
}
