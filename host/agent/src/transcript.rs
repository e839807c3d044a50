//! The transcript: a session's journal folded into the messages a model is shown.
//!
//! Every call that an assistant message asks for is followed by exactly one result, in the order of the calls, however
//! the turn ended: providers refuse a history in which one is missing.
//!
//! Whoever folds leaves out what is passed over because the session went back.
//!
//! A turn's input is shown from when the turn begins: those that wait for their turn are not.
//!
//! A finished message is never copied again: what a model call is given shares the list, however long it is.

use crate::{context::Reported, control::loaded_by};
use fumehood_core::{
    call::{CallError, CallErrorCode, CallResult, Output},
    content::Content,
    event::{Event, EventBody},
    id::{CallId, TurnId},
    message::{AssistantPart, Message, RequestedCall},
    name::ToolName,
    turn::Usage,
};
use std::{collections::HashMap, sync::Arc};

/// What stands before a summary, so that nobody takes it for what a user says now.
const MARK: &str = "[Context compacted] The older part of this conversation was summed up to save room. What follows is that summary: a \
                    record of what was said and done, not a new request.\n\n";

/// A summary as the model is shown it.
pub(crate) fn marked(summary: &str) -> String {
    format!("{MARK}{summary}")
}

/// The summary without what stands before it.
pub(crate) fn unmarked(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// Of the messages before this place, those that no summary stands for: the first input, and the last one if none comes later.
pub(crate) fn staying(messages: &[Message], from: usize) -> Vec<usize> {
    let is_input = |at: &usize| matches!(messages.get(*at), Some(Message::User { .. }));
    let first = (0..from).find(is_input);
    let last = if (from..messages.len()).any(|at| is_input(&at)) {
        None
    } else {
        (0..from).rev().find(is_input)
    };
    let last = last.filter(|last| Some(*last) != first);
    first.into_iter().chain(last).collect()
}

/// The messages so far, and the step that is still open.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    messages: Arc<Vec<Message>>,
    open: OpenStep,
    /// Tools that the model has loaded, in the order of loading.
    loaded: Vec<ToolName>,
    /// The inputs of turns that have not begun.
    waiting: HashMap<Option<TurnId>, Vec<Content>>,
    reported: Option<Reported>,
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
            self.apply(event.turn, &event.body);
        }
    }

    /// Folds one recorded event of a turn, or of none.
    pub fn apply(&mut self, turn: Option<TurnId>, body: &EventBody) {
        match body {
            EventBody::TurnQueued { input, .. } => {
                self.waiting.insert(turn, input.clone());
            }
            EventBody::TurnStarted { .. } => {
                self.close_step();
                if let Some(content) = self.waiting.remove(&turn) {
                    self.push(Message::User { content });
                }
            }
            EventBody::TurnSteered { input } => {
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
                for message in messages {
                    if let Message::Tool { tool, result, .. } = message {
                        self.load(tool, result.as_ref().ok());
                    }
                    self.push(message.clone());
                }
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
            EventBody::StepCompleted { usage, .. } => {
                self.note_reported(*usage);
                self.open.answered = true;
                self.close_if_whole();
            }
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
                self.close_if_whole();
            }
            EventBody::TurnCompleted { .. } | EventBody::TurnFailed { .. } | EventBody::TurnCancelled { .. } => {
                // One that never began: the step that is open is another turn's.
                if self.waiting.remove(&turn).is_some() {
                    return;
                }
                self.keep_what_was_said();
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

    /// The input of a turn that has not begun.
    pub(crate) fn waiting_input(&self, turn: TurnId) -> Option<&[Content]> {
        self.waiting.get(&Some(turn)).map(Vec::as_slice)
    }

    /// Whether no step is open.
    pub(crate) const fn is_whole(&self) -> bool {
        !self.open.answered
    }

    /// The tokens that the provider counted for the last request, if it did and the conversation is still that one.
    pub(crate) const fn reported(&self) -> Option<Reported> {
        self.reported
    }

    fn note_reported(&mut self, usage: Option<Usage>) {
        let tokens = usage.and_then(|usage| usage.input_tokens);
        self.reported = tokens.map(|tokens| Reported {
            tokens,
            messages: self.messages.len(),
        });
    }

    /// The first input stays, the summary stands for what followed, the input that is worked on stays, and the last messages are
    /// kept as they are.
    fn sum_up(&mut self, summary: &str, kept: u64) {
        self.close_step();
        self.reported = None;
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        let from = self.messages.len().saturating_sub(kept);
        let summary = Message::Summary { text: marked(summary) };
        let mut stays = staying(&self.messages, from).into_iter().map(|at| &self.messages[at]);
        let first = stays.next();
        let later = stays.chain(&self.messages[from..]);
        self.messages = Arc::new(first.into_iter().chain([&summary]).chain(later).cloned().collect());
    }

    /// Of an answer that was cut off with its turn, a user has seen the text: the next turn may be about it.
    fn keep_what_was_said(&mut self) {
        if !self.open.answered {
            self.open
                .parts
                .retain(|part| matches!(part, AssistantPart::Text { .. }));
            self.open.calls.clear();
            self.open.answered = true;
        }
    }

    /// A step in which nothing is open any more takes its place at once.
    fn close_if_whole(&mut self) {
        let open = &self.open;
        if open.answered && open.calls.iter().all(|call| open.results.contains_key(&call.id)) {
            self.close_step();
        }
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
