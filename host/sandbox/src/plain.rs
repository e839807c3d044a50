//! Components that know nothing of Fumehood: every plain function they export is offered as a tool.
//!
//! The tool's name is the function's with underscores (`add-two` → `add_two`), after its interface's
//! if it has one (`calc.add-two` → `calc_add_two`). Its arguments are an object with one property per
//! parameter, under the parameter's WIT name; underscores are understood as well. Its result is
//! `{"result": …}`; a function that returns a WIT `result` fails its call by returning the error.
//!
//! How values look in JSON: see [`schema`].

mod schema;
mod values;

use crate::error::LoadError;
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult, Output},
    content::Content,
    name::ToolName,
    tool::{Effect, ToolDefinition},
};
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
}

/// The functions of a component and the tools they become, in the same order.
pub(crate) fn functions(
    engine: &Engine,
    component: &Component,
) -> Result<(Vec<Function>, Vec<ToolDefinition>), LoadError> {
    let mut found = Found {
        component,
        functions: Vec::new(),
        tools: Vec::new(),
        names: HashSet::new(),
    };
    for (name, export) in component.component_type().exports(engine) {
        match export.ty {
            ComponentItem::ComponentFunc(function) => found.add(None, name, &function)?,
            ComponentItem::ComponentInstance(instance) => {
                let Some(index) = component.get_export_index(None, name) else {
                    continue;
                };
                for (function_name, export) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(function) = export.ty {
                        found.add(Some((name, &index)), function_name, &function)?;
                    }
                }
            }
            _ => {}
        }
    }
    if found.tools.is_empty() {
        return Err(LoadError::NoTools);
    }
    if found.tools.len() > crate::definitions::MAX_TOOLS {
        return Err(LoadError::TooManyTools {
            actual: found.tools.len(),
            limit: crate::definitions::MAX_TOOLS,
        });
    }
    Ok((found.functions, found.tools))
}

struct Found<'a> {
    component: &'a Component,
    functions: Vec<Function>,
    tools: Vec<ToolDefinition>,
    names: HashSet<ToolName>,
}

impl Found<'_> {
    fn add(
        &mut self,
        interface: Option<(&str, &ComponentExportIndex)>,
        name: &str,
        function: &ComponentFunc,
    ) -> Result<(), LoadError> {
        let full_name = match interface {
            Some((interface, _)) => format!("{interface}.{name}"),
            None => name.to_owned(),
        };
        let unsupported = |what| LoadError::UnsupportedType {
            function: full_name.clone(),
            what,
        };
        if function.async_() {
            return Err(unsupported("asynchronous signature"));
        }
        let tool_name = tool_name(interface.map(|(interface, _)| interface), name, &full_name)?;
        if !self.names.insert(tool_name.clone()) {
            return Err(LoadError::FunctionName {
                function: full_name,
                why: format!("another function is already the tool {tool_name}; rename one"),
            });
        }
        let params: Vec<(String, Type)> = function.params().map(|(name, ty)| (name.to_owned(), ty)).collect();
        let result = function.results().next();
        let input_schema = schema::params(&params).map_err(unsupported)?;
        let output_schema = result
            .as_ref()
            .map(schema::result)
            .transpose()
            .map_err(unsupported)?
            .flatten();
        let Some(index) = self.component.get_export_index(interface.map(|(_, index)| index), name) else {
            return Err(LoadError::Internal);
        };
        let signature = schema::signature(&full_name, &params, result.as_ref());
        self.tools.push(ToolDefinition {
            name: tool_name,
            title: None,
            description: format!("Calls the component's function {signature}."),
            input_schema,
            output_schema,
            effect: Effect::AtMostOnce,
            read_only: false,
            destructive: false,
            open_world: false,
        });
        self.functions.push(Function { index, params, result });
        Ok(())
    }
}

fn tool_name(interface: Option<&str>, name: &str, full_name: &str) -> Result<ToolName, LoadError> {
    // `namespace:package/interface@1.0.0` → `interface`
    let interface = interface.map(|interface| {
        let unversioned = interface.split_once('@').map_or(interface, |(name, _)| name);
        unversioned.rsplit_once('/').map_or(unversioned, |(_, name)| name)
    });
    let joined = match interface {
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
    pub(crate) fn arguments(&self, mut arguments: Arguments) -> Result<Vec<Val>, CallError> {
        let mut values = Vec::with_capacity(self.params.len());
        for (name, ty) in &self.params {
            let value = arguments
                .remove(name)
                .or_else(|| arguments.remove(&name.replace('-', "_")));
            let value = match value {
                Some(value) => values::from_json(ty, value),
                None => values::absent(ty),
            };
            values.push(value.map_err(|error| invalid(error.at(name)))?);
        }
        match arguments.keys().next() {
            None => Ok(values),
            Some(unknown) => Err(invalid(format!("there is no parameter `{unknown}`"))),
        }
    }

    /// Room for the results.
    pub(crate) fn results(&self) -> Vec<Val> {
        vec![Val::Bool(false); usize::from(self.result.is_some())]
    }

    /// The results as a tool's output.
    pub(crate) fn output(&self, mut results: Vec<Val>) -> CallResult {
        let (Some(value), Some(ty)) = (results.pop(), &self.result) else {
            return Ok(Output::default());
        };
        match (ty, value) {
            (Type::Result(_), Val::Result(Ok(None))) => Ok(Output::default()),
            (Type::Result(result), Val::Result(Ok(value))) => Ok(succeeded(values::side(result.ok(), value)?)),
            (Type::Result(_), Val::Result(Err(None))) => {
                Ok(erred(&"the function returned an error without a description".into()))
            }
            (Type::Result(result), Val::Result(Err(value))) => Ok(erred(&values::side(result.err(), value)?)),
            (ty, value) => Ok(succeeded(values::to_json(ty, value)?)),
        }
    }
}

fn erred(why: &Value) -> Output {
    Output {
        content: vec![content(why)],
        structured: None,
        is_error: true,
    }
}

fn succeeded(value: Value) -> Output {
    Output {
        content: vec![content(&value)],
        structured: Some(Value::Object(Map::from_iter([("result".to_owned(), value)]))),
        is_error: false,
    }
}

fn content(value: &Value) -> Content {
    match value {
        Value::String(text) => Content::text(text),
        value => Content::Json { json: value.clone() },
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
