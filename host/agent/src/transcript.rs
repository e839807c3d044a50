//! The transcript: a session's journal folded into the messages a model is shown.
//!
//! Every call that an assistant message asks for is followed by exactly one result, in the order of the calls, however
//! the turn ended: providers refuse a history in which one is missing.
//!
//! Whoever folds leaves out what is passed over because the session went back.
//!
//! A finished message is never copied again: what a model call is given shares the list, however long it is.

use crate::control::loaded_by;
use fumehood_core::{
    call::{CallError, CallErrorCode, CallResult, Output},
    event::{Event, EventBody},
    id::CallId,
    message::{AssistantPart, Message, RequestedCall},
    name::ToolName,
};
use std::{collections::HashMap, sync::Arc};

/// The messages so far, and the step that is still open.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    messages: Arc<Vec<Message>>,
    open: OpenStep,
    /// Tools that the model has loaded, in the order of loading.
    loaded: Vec<ToolName>,
}

#[derive(Debug, Clone, Default)]
struct OpenStep {
    parts: Vec<AssistantPart>,
    calls: Vec<RequestedCall>,
    results: HashMap<CallId, CallResult>,
    answered: bool,
}

impl Transcript {
    /// Folds recorded events, in order.
    pub fn apply_all<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) {
        for event in events {
            self.apply(&event.body);
        }
    }

    /// Folds one recorded event.
    pub fn apply(&mut self, body: &EventBody) {
        match body {
            EventBody::TurnQueued { input, .. } | EventBody::TurnSteered { input } => {
                self.close_step();
                self.push(Message::User { content: input.clone() });
            }
            EventBody::StepStarted { notes, .. } => {
                self.close_step();
                for note in notes {
                    let text = note.text.clone();
                    self.push(Message::Note { text });
                }
            }
            EventBody::SessionCopied { messages } => {
                self.close_step();
                Arc::make_mut(&mut self.messages).extend(messages.iter().cloned());
            }
            EventBody::CompactionCompleted { summary, kept, .. } => self.sum_up(summary, *kept),
            EventBody::ReasoningCompleted {
                text, provider_state, ..
            } => {
                let part = AssistantPart::Reasoning {
                    text: text.clone(),
                    provider_state: provider_state.clone(),
                };
                self.open.parts.push(part);
            }
            EventBody::TextCompleted { text, .. } => self.open.parts.push(AssistantPart::Text { text: text.clone() }),
            EventBody::ToolRequested { call, .. } => {
                self.open.parts.push(AssistantPart::ToolCall(call.clone()));
                self.open.calls.push(call.clone());
            }
            EventBody::StepCompleted { .. } => self.open.answered = true,
            EventBody::ToolCompleted {
                call,
                tool,
                output,
                error,
                ..
            } => {
                self.load(tool, output.as_ref());
                let result = match (output, error) {
                    (Some(output), _) => Ok(output.clone()),
                    (None, Some(error)) => Err(error.clone()),
                    (None, None) => Err(no_result()),
                };
                self.open.results.insert(*call, result);
            }
            EventBody::TurnCompleted { .. } | EventBody::TurnFailed { .. } | EventBody::TurnCancelled { .. } => {
                self.close_step();
            }
            _ => {}
        }
    }

    /// The messages, with the open step closed: what the next model call is shown. Shared, not copied, where no step is open.
    #[must_use]
    pub fn messages(&self) -> Arc<Vec<Message>> {
        if !self.open.answered {
            return Arc::clone(&self.messages);
        }
        let mut whole = self.clone();
        whole.close_step();
        whole.messages
    }

    /// The first input stays, the summary stands for what followed, and the last messages are kept as they are.
    fn sum_up(&mut self, summary: &str, kept: u64) {
        self.close_step();
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let from = self.messages.len().saturating_sub(kept);
        let task = self
            .messages
            .iter()
            .take(from)
            .find(|message| matches!(message, Message::User { .. }));
        let summary = Message::Summary {
            text: summary.to_owned(),
        };
        let kept = self.messages.iter().skip(from);
        self.messages = Arc::new(task.into_iter().chain([&summary]).chain(kept).cloned().collect());
    }

    /// The tools that the model has loaded in the session, in the order of loading.
    pub(crate) fn loaded_tools(&self) -> &[ToolName] {
        &self.loaded
    }

    fn load(&mut self, tool: &str, output: Option<&Output>) {
        for name in output.map(|output| loaded_by(tool, output)).unwrap_or_default() {
            if !self.loaded.contains(&name) {
                self.loaded.push(name);
            }
        }
    }

    fn push(&mut self, message: Message) {
        Arc::make_mut(&mut self.messages).push(message);
    }

    fn close_step(&mut self) {
        let open = std::mem::take(&mut self.open);
        // A step the model never finished leaves nothing: it is asked again, and shown once.
        if !open.answered || open.parts.is_empty() {
            return;
        }
        let messages = Arc::make_mut(&mut self.messages);
        messages.push(Message::Assistant { parts: open.parts });
        let mut results = open.results;
        for call in open.calls {
            let result = results.remove(&call.id).unwrap_or_else(|| Err(no_result()));
            messages.push(Message::Tool {
                call: call.id,
                tool: call.tool,
                result,
            });
        }
    }
}

fn no_result() -> CallError {
    CallError::new(
        CallErrorCode::Interrupted,
        "the call has no recorded result: the host stopped before it ended",
    )
}
