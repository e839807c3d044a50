//! How many tokens something is for a model: estimated from the length, rather too many than too few, or counted by the model's own
//! tokenizer.
//!
//! What is said here decides when a conversation is summed up, never what is paid: that is what the provider says. An estimate takes
//! no time worth mentioning; counting takes milliseconds for a message, and longer for a stranger's.

use fumehood_core::{
    call::CallResult,
    content::Content,
    message::{AssistantPart, GivenArguments, Message},
    tool::ToolDefinition,
};
use tiktoken::CoreBpe;

/// What a picture takes, roughly, whatever its size: providers scale it.
const MEDIUM: u64 = 1_600;
/// What stands around every message.
const AROUND: u64 = 4;
/// A larger text is counted at both ends only, this many bytes of it.
const COUNTED: usize = 16 * 1024;

/// How tokens are told.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    /// A token for four bytes, and a fifth more to be safe.
    Estimate,
    /// As a model's own tokenizer does. Not to be used where others wait.
    Tokenizer(&'static CoreBpe),
}

impl Counter {
    /// The tokenizer of a model, by its name at the provider, if there is one. The first of its kind unpacks a vocabulary, which takes
    /// a while.
    pub(crate) fn of(model: &str) -> Option<Self> {
        let encoding = tiktoken::model_to_encoding(model)?;
        tiktoken::get_encoding(encoding).map(Self::Tokenizer)
    }

    /// The tokens of a text.
    // THREAT[T-loop-context]: a tokenizer's work can grow faster than its text, and the text is a stranger's.
    pub(crate) fn text(self, text: &str) -> u64 {
        match self {
            Self::Estimate => estimate(text.len()),
            Self::Tokenizer(tokenizer) if text.len() <= COUNTED => tokenizer.count(text) as u64,
            Self::Tokenizer(tokenizer) => {
                let head = &text[..text.floor_char_boundary(COUNTED / 2)];
                let tail = &text[text.ceil_char_boundary(text.len() - COUNTED / 2)..];
                let counted = (tokenizer.count(head) + tokenizer.count(tail)) as u128;
                let bytes = (head.len() + tail.len()).max(1) as u128;
                u64::try_from(counted * text.len() as u128 / bytes).unwrap_or(u64::MAX)
            }
        }
    }

    /// The tokens of a message.
    pub(crate) fn message(self, message: &Message) -> u64 {
        let inside = match message {
            Message::User { content } => self.content(content),
            Message::Note { text } | Message::Summary { text } => self.text(text),
            Message::Assistant { parts } => parts.iter().map(|part| self.part(part)).sum(),
            Message::Tool { result, .. } => self.result(result),
        };
        AROUND + inside
    }

    /// The tokens of what a model is told of the tools on offer.
    pub(crate) fn tools(self, tools: &[ToolDefinition]) -> u64 {
        tools
            .iter()
            .map(|tool| {
                let schema = self.text(&tool.input_schema.to_string());
                2 * AROUND + self.text(tool.name.as_str()) + self.text(&tool.description) + schema
            })
            .sum()
    }

    fn content(self, content: &[Content]) -> u64 {
        content
            .iter()
            .map(|piece| match piece {
                Content::Text { text } => self.text(text),
                Content::Json { json } => self.text(&json.to_string()),
                Content::Image { .. } | Content::Audio { .. } => MEDIUM,
                Content::File { path } => self.text(path) + AROUND,
            })
            .sum()
    }

    fn part(self, part: &AssistantPart) -> u64 {
        match part {
            AssistantPart::Text { text } => self.text(text),
            AssistantPart::Reasoning { text, provider_state } => {
                let state = provider_state.as_ref().map_or(0, |state| state.to_string().len());
                self.text(text).max(estimate(state))
            }
            AssistantPart::ToolCall(call) => {
                let arguments = match &call.arguments {
                    GivenArguments::Arguments(arguments) => {
                        self.text(&serde_json::to_string(arguments).unwrap_or_default())
                    }
                    GivenArguments::MalformedArguments(text) => self.text(text),
                };
                2 * AROUND + self.text(&call.tool) + arguments
            }
        }
    }

    fn result(self, result: &CallResult) -> u64 {
        match result {
            Ok(output) if output.content.is_empty() => {
                let structured = output.structured.as_ref();
                structured.map_or(0, |value| self.text(&value.to_string()))
            }
            Ok(output) => self.content(&output.content),
            Err(error) => 4 * AROUND + self.text(&error.message),
        }
    }
}

/// A token for four bytes, times 1.2.
const fn estimate(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(3).div_ceil(10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::call::Output;

    #[test]
    fn a_text_is_counted_as_its_model_counts_or_estimated() {
        let text = "The quick brown fox jumps over the lazy dog.";
        assert_eq!(Counter::of("gpt-5").unwrap().text(text), 10);
        assert!(Counter::of("claude-sonnet-4-5").is_none());
        assert_eq!(Counter::Estimate.text(text), 14);
        assert_eq!(Counter::Estimate.text(""), 0);
    }

    #[test]
    fn of_a_large_text_only_the_ends_are_counted() {
        let counter = Counter::of("gpt-5").unwrap();
        let small = "word ü ".repeat(1_000);
        let large = "word ü ".repeat(100_000);
        let ratio = counter.text(&large) as f64 / counter.text(&small) as f64;
        assert!((99.0..101.0).contains(&ratio), "{ratio}");
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
        assert_eq!(Counter::Estimate.message(&message), AROUND + MEDIUM);
    }
}
