//! Says a text again, as somebody would write it who has the bindings and nothing else of the SDK: what `echo` is measured against.

use fumehood::bindings::{
    exports::fumehood::tool::tools::Guest,
    fumehood::tool::types::{Content, Definition, Effect, Failure, Output, ToolCall},
};

#[derive(serde::Deserialize)]
struct Arguments {
    text: String,
}

/// The component.
pub struct Component;

impl Guest for Component {
    fn definitions() -> Vec<Definition> {
        vec![Definition {
            name: "echo".to_owned(),
            title: None,
            description: "Returns the text.".to_owned(),
            input_schema: r#"{"type":"object","properties":{"text":{"type":"string","description":"What to return."}},"required":["text"]}"#
                .to_owned(),
            output_schema: None,
            effect: Effect::Pure,
            read_only: true,
            destructive: false,
            open_world: false,
        }]
    }

    fn call(request: ToolCall) -> Result<Output, Failure> {
        if request.tool != "echo" {
            return Err(Failure::NotFound(format!("there is no tool `{}`", request.tool)));
        }
        let arguments: Arguments =
            serde_json::from_str(&request.arguments).map_err(|error| Failure::InvalidArguments(error.to_string()))?;
        Ok(Output {
            content: vec![Content::Text(arguments.text)],
            structured: None,
            is_error: false,
        })
    }
}

#[cfg(target_family = "wasm")]
fumehood::bindings::export_tools!(Component with_types_in fumehood::bindings);
