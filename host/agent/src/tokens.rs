//! How many tokens something is for a model, roughly: estimated from the length, rather too many than too few.
//!
//! What is said here decides when a conversation is summed up, never what is paid: that is what the provider says. An estimate takes
//! no time worth mentioning, however large a stranger's text is.

use fumehood_core::{
    call::CallResult,
    content::Content,
    message::{AssistantPart, GivenArguments, Message},
    tool::ToolDefinition,
};

/// What a picture takes, roughly, whatever its size: providers scale it.
const MEDIUM: u64 = 1_600;
/// What stands around every message.
const AROUND: u64 = 4;

/// The tokens of a text: one for four bytes, times 1.2.
pub(crate) const fn of_text(text: &str) -> u64 {
    of_bytes(text.len())
}

const fn of_bytes(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(3).div_ceil(10)
}

/// The tokens of a message.
pub(crate) fn of_message(message: &Message) -> u64 {
    let inside = match message {
        Message::User { content } => of_content(content),
        Message::Note { text } | Message::Summary { text } => of_text(text),
        Message::Assistant { parts } => parts.iter().map(of_part).sum(),
        Message::Tool { result, .. } => of_result(result),
    };
    AROUND + inside
}

/// The tokens of what a model is told of the tools on offer.
pub(crate) fn of_tools(tools: &[ToolDefinition]) -> u64 {
    tools
        .iter()
        .map(|tool| {
            let schema = of_text(&tool.input_schema.to_string());
            2 * AROUND + of_text(tool.name.as_str()) + of_text(&tool.description) + schema
        })
        .sum()
}

fn of_content(content: &[Content]) -> u64 {
    content
        .iter()
        .map(|piece| match piece {
            Content::Text { text } => of_text(text),
            Content::Json { json } => of_text(&json.to_string()),
            Content::Image { .. } | Content::Audio { .. } => MEDIUM,
            Content::File { path } => of_text(path) + AROUND,
        })
        .sum()
}

fn of_part(part: &AssistantPart) -> u64 {
    match part {
        AssistantPart::Text { text } => of_text(text),
        AssistantPart::Reasoning { text, provider_state } => {
            let state = provider_state.as_ref().map_or(0, |state| state.to_string().len());
            of_text(text).max(of_bytes(state))
        }
        AssistantPart::ToolCall(call) => {
            let arguments = match &call.arguments {
                GivenArguments::Arguments(arguments) => of_text(&serde_json::to_string(arguments).unwrap_or_default()),
                GivenArguments::MalformedArguments(text) => of_text(text),
            };
            2 * AROUND + of_text(&call.tool) + arguments
        }
    }
}

fn of_result(result: &CallResult) -> u64 {
    match result {
        Ok(output) if output.content.is_empty() => {
            let structured = output.structured.as_ref();
            structured.map_or(0, |value| of_text(&value.to_string()))
        }
        Ok(output) => of_content(&output.content),
        Err(error) => 4 * AROUND + of_text(&error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::call::Output;

    #[test]
    fn a_text_has_a_token_for_four_bytes_and_a_fifth_more() {
        assert_eq!(of_text(""), 0);
        assert_eq!(of_text(&"x".repeat(400)), 120);
        assert_eq!(of_text("x"), 1);
    }

    #[test]
    fn media_count_as_such_and_not_by_their_bytes() {
        let image = Content::Image {
            media_type: "image/png".into(),
            data: vec![0; 1_000_000],
        };
        let message = Message::Tool {
            call: fumehood_core::id::CallId::new(),
            tool: "shot".into(),
            result: Ok(Output {
                content: vec![image],
                ..Output::default()
            }),
        };
        assert_eq!(of_message(&message), AROUND + MEDIUM);
    }
}
