//! What the macros implement and call.

use crate::{
    Call, Definition, Effect, Failure, Output,
    bindings::fumehood::tool::types::{Failure as WitFailure, Output as WitOutput, ToolCall},
};
use serde::de::DeserializeOwned;

/// A function that is a tool. [`tool`](macro@crate::tool) implements it on a type that has the
/// function's name.
pub trait Tool {
    /// The tool's name.
    const NAME: &'static str;

    /// What the tool says of itself.
    fn definition() -> Definition;

    /// Runs one call: `arguments` is JSON text of an object.
    ///
    /// # Errors
    /// [`Failure::InvalidArguments`] when the arguments are not those of the function; what the
    /// function fails with.
    fn call(call: &Call, arguments: &str) -> Result<Output, Failure>;
}

/// The parts of a definition.
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct About {
    pub name: &'static str,
    pub title: Option<&'static str>,
    pub description: &'static str,
    pub effect: Effect,
    pub read_only: bool,
    pub destructive: bool,
    pub open_world: bool,
    pub input_schema: String,
    pub output_schema: Option<String>,
}

/// Makes a definition of its parts.
#[must_use]
pub fn define(about: About) -> Definition {
    Definition {
        name: about.name.to_owned(),
        title: about.title.map(str::to_owned),
        description: about.description.to_owned(),
        input_schema: about.input_schema,
        output_schema: about.output_schema,
        effect: about.effect,
        read_only: about.read_only,
        destructive: about.destructive,
        open_world: about.open_world,
    }
}

/// Reads a tool's arguments.
///
/// # Errors
/// [`Failure::InvalidArguments`].
pub fn read_arguments<T: DeserializeOwned>(arguments: &str) -> Result<T, Failure> {
    serde_json::from_str(arguments).map_err(|error| {
        // The model wrote an object, not a document: where in its text the mistake is helps nobody.
        let message = error.to_string();
        let end = message.rfind(" at line ").unwrap_or(message.len());
        Failure::InvalidArguments(message[..end].to_owned())
    })
}

/// A tool's name and the function that runs a call of it.
pub(crate) type Entry = (&'static str, fn(&Call, &str) -> Result<Output, Failure>);

/// Runs the tool that the request names.
///
/// # Errors
/// [`Failure::NotFound`] for an unknown tool; what the tool fails with.
pub fn dispatch(request: ToolCall, tools: &[Entry]) -> Result<WitOutput, WitFailure> {
    let (call, tool, arguments) = Call::split(request);
    match tools.iter().find(|(name, _)| *name == tool) {
        Some((_, run)) => run(&call, &arguments).map(WitOutput::from).map_err(WitFailure::from),
        None => {
            let names: Vec<&str> = tools.iter().map(|(name, _)| *name).collect();
            Err(WitFailure::NotFound(format!(
                "this component has no tool `{tool}`; it has {}",
                names.join(", ")
            )))
        }
    }
}

/// Stops the build when two tools have the same name.
///
/// # Panics
/// At compile time, if they do.
pub const fn assert_names_differ(names: &[&str]) {
    let mut i = 0;
    while i < names.len() {
        let mut j = i + 1;
        while j < names.len() {
            assert!(
                !equal(names[i].as_bytes(), names[j].as_bytes()),
                "two tools of this component have the same name"
            );
            j += 1;
        }
        i += 1;
    }
}

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}
