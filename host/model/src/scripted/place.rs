//! Where in the script a transcript stands.

use fumehood_core::{call::CallResult, content::plain_text, message::Message};

/// The turns that a transcript has had, the last one being the current.
pub(super) struct Place<'a> {
    /// The user messages that began a turn each.
    pub(super) inputs: Vec<String>,
    /// Of the current turn, the results of each step so far.
    steps: Vec<Vec<&'a CallResult>>,
}

impl<'a> Place<'a> {
    pub(super) fn of(messages: &'a [Message]) -> Self {
        let mut place = Self {
            inputs: Vec::new(),
            steps: Vec::new(),
        };
        let mut after_user = false;
        for message in messages {
            match message {
                Message::User { content } => {
                    let text = plain_text(content);
                    match place.inputs.last_mut() {
                        Some(input) if after_user => {
                            input.push('\n');
                            input.push_str(&text);
                        }
                        _ => place.inputs.push(text),
                    }
                    place.steps.clear();
                }
                Message::Note { .. } | Message::Summary { .. } => {}
                Message::Assistant { .. } => place.steps.push(Vec::new()),
                Message::Tool { result, .. } => {
                    if let Some(results) = place.steps.last_mut() {
                        results.push(result);
                    }
                }
            }
            after_user = matches!(message, Message::User { .. });
        }
        place
    }

    /// The current user message.
    pub(super) fn input(&self) -> &str {
        self.inputs.last().map_or("", String::as_str)
    }

    /// Of the current turn, the results of each step so far.
    pub(super) fn steps(&self) -> &[Vec<&'a CallResult>] {
        &self.steps
    }
}
