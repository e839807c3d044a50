//! From events to the assistant message they make.

use crate::event::ModelEvent;
use fumehood_core::{
    id::CallId,
    message::{AssistantPart, GivenArguments, RequestedCall},
    turn::{StepStop, Usage},
};

/// Collects the events of one answer into the parts of one assistant message, in the order they came.
///
/// At any point [`Assembler::into_parts`] gives what is there, so that the text of a cancelled or broken answer can be
/// kept; calls whose arguments were not whole are left out of it.
#[derive(Debug, Default)]
pub struct Assembler {
    parts: Vec<Open>,
    /// Position in `parts` of each call, by its index.
    calls: Vec<usize>,
    usage: Option<Usage>,
}

#[derive(Debug)]
enum Open {
    Whole(AssistantPart),
    Reasoning(String),
    Call {
        id: CallId,
        tool: String,
        arguments: String,
    },
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The assistant message.
    pub parts: Vec<AssistantPart>,
    /// Why the model stopped.
    pub stop: StepStop,
    /// What the provider counted; absent if it counted nothing.
    pub usage: Option<Usage>,
}

impl Assembler {
    /// Takes the next event. Returns the whole answer on [`ModelEvent::Done`], after which the assembler is empty again.
    pub fn push(&mut self, event: ModelEvent) -> Option<Step> {
        match event {
            ModelEvent::TextDelta(delta) => match self.parts.last_mut() {
                Some(Open::Whole(AssistantPart::Text { text })) => text.push_str(&delta),
                _ => self.parts.push(Open::Whole(AssistantPart::Text { text: delta })),
            },
            ModelEvent::ReasoningDelta(delta) => match self.parts.last_mut() {
                Some(Open::Reasoning(text)) => text.push_str(&delta),
                _ => self.parts.push(Open::Reasoning(delta)),
            },
            ModelEvent::ReasoningDone { provider_state } => {
                let text = match self.parts.pop() {
                    Some(Open::Reasoning(text)) => text,
                    other => {
                        self.parts.extend(other);
                        String::new()
                    }
                };
                self.parts
                    .push(Open::Whole(AssistantPart::Reasoning { text, provider_state }));
            }
            ModelEvent::ToolCallStart { name, .. } => {
                self.calls.push(self.parts.len());
                self.parts.push(Open::Call {
                    id: CallId::new(),
                    tool: name,
                    arguments: String::new(),
                });
            }
            ModelEvent::ToolCallArguments { index, delta } => {
                if let Some(Open::Call { arguments, .. }) = self.call(index) {
                    arguments.push_str(&delta);
                }
            }
            ModelEvent::ToolCallEnd { index } => {
                if let Some(open) = self.call(index)
                    && let Open::Call { id, tool, arguments } = open
                {
                    let call = RequestedCall {
                        id: *id,
                        tool: std::mem::take(tool),
                        arguments: GivenArguments::parse(arguments),
                    };
                    *open = Open::Whole(AssistantPart::ToolCall(call));
                }
            }
            ModelEvent::Usage(usage) => self.usage = Some(usage),
            ModelEvent::Done { stop } => {
                let usage = self.usage;
                return Some(Step {
                    parts: std::mem::take(self).into_parts(),
                    stop,
                    usage,
                });
            }
        }
        None
    }

    /// The id that a call will have, once it has started; for events that name it before it is whole.
    #[must_use]
    pub fn call_id(&self, index: usize) -> Option<CallId> {
        match self.parts.get(*self.calls.get(index)?)? {
            Open::Call { id, .. } => Some(*id),
            Open::Whole(AssistantPart::ToolCall(call)) => Some(call.id),
            _ => None,
        }
    }

    /// What the provider counted so far.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Takes over what was counted for an answer that is of no use.
    pub fn count(&mut self, usage: Option<Usage>) {
        self.usage = usage.or(self.usage);
    }

    /// The parts so far, without calls that are not whole.
    #[must_use]
    pub fn into_parts(self) -> Vec<AssistantPart> {
        self.parts
            .into_iter()
            .filter_map(|open| match open {
                Open::Whole(part) => Some(part),
                Open::Reasoning(text) => Some(AssistantPart::Reasoning {
                    text,
                    provider_state: None,
                }),
                Open::Call { .. } => None,
            })
            .collect()
    }

    fn call(&mut self, index: usize) -> Option<&mut Open> {
        let position = *self.calls.get(index)?;
        self.parts.get_mut(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn feed(events: impl IntoIterator<Item = ModelEvent>) -> (Assembler, Option<Step>) {
        let mut assembler = Assembler::default();
        let mut step = None;
        for event in events {
            step = assembler.push(event);
        }
        (assembler, step)
    }

    fn arguments(index: usize, delta: &str) -> ModelEvent {
        ModelEvent::ToolCallArguments {
            index,
            delta: delta.into(),
        }
    }

    #[test]
    fn interleaved_calls_keep_their_order_and_their_own_arguments() {
        let (_, step) = feed([
            ModelEvent::ReasoningDelta("th".into()),
            ModelEvent::ReasoningDelta("ink".into()),
            ModelEvent::ReasoningDone {
                provider_state: Some(json!(1)),
            },
            ModelEvent::TextDelta("a".into()),
            ModelEvent::TextDelta("b".into()),
            ModelEvent::ToolCallStart {
                index: 0,
                name: "x".into(),
            },
            ModelEvent::ToolCallStart {
                index: 1,
                name: "y".into(),
            },
            arguments(1, "{\"n\":"),
            arguments(0, "{"),
            arguments(1, "2}"),
            ModelEvent::ToolCallEnd { index: 1 },
            ModelEvent::ToolCallEnd { index: 0 },
            ModelEvent::ReasoningDone {
                provider_state: Some(json!(2)),
            },
            ModelEvent::Done {
                stop: StepStop::ToolCalls,
            },
        ]);
        let parts = step.unwrap().parts;
        assert_eq!(
            parts[0],
            AssistantPart::Reasoning {
                text: "think".into(),
                provider_state: Some(json!(1))
            }
        );
        assert_eq!(parts[1], AssistantPart::Text { text: "ab".into() });
        let AssistantPart::ToolCall(x) = &parts[2] else {
            panic!("{parts:?}")
        };
        let AssistantPart::ToolCall(y) = &parts[3] else {
            panic!("{parts:?}")
        };
        assert_eq!(
            (x.tool.as_str(), &x.arguments),
            ("x", &GivenArguments::MalformedArguments("{".into()))
        );
        assert_eq!(
            (y.tool.as_str(), &y.arguments),
            ("y", &GivenArguments::parse("{\"n\":2}"))
        );
        assert_eq!(
            parts[4],
            AssistantPart::Reasoning {
                text: String::new(),
                provider_state: Some(json!(2))
            }
        );
    }

    #[test]
    fn a_broken_answer_keeps_its_text_and_drops_unfinished_calls() {
        let (assembler, step) = feed([
            ModelEvent::TextDelta("half".into()),
            ModelEvent::ToolCallStart {
                index: 0,
                name: "x".into(),
            },
            arguments(0, "{"),
        ]);
        assert_eq!(step, None);
        assert!(assembler.call_id(0).is_some());
        assert_eq!(assembler.into_parts(), [AssistantPart::Text { text: "half".into() }]);
    }
}
