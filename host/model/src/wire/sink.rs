//! Where parsers put what they read: keeps the crate's promises on order and size, whatever a provider sends.

use crate::{
    error::{ModelError, ModelErrorKind},
    event::ModelEvent,
};
use fumehood_core::turn::{StepStop, Usage};
use serde_json::Value;
use std::collections::VecDeque;

/// The most bytes of one answer: text, reasoning, arguments and state together.
const MAX_ANSWER: usize = 16 << 20;
/// The most calls of one answer.
const MAX_CALLS: usize = 128;

/// The events of one answer, in order.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    queue: VecDeque<ModelEvent>,
    /// Per call, whether it is still open.
    calls: Vec<bool>,
    bytes: usize,
    done: bool,
}

impl Sink {
    pub(crate) fn pop(&mut self) -> Option<ModelEvent> {
        self.queue.pop_front()
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    pub(crate) fn text(&mut self, delta: &str) -> Result<(), ModelError> {
        self.count(delta.len())?;
        if !delta.is_empty() {
            self.queue.push_back(ModelEvent::TextDelta(delta.to_owned()));
        }
        Ok(())
    }

    pub(crate) fn reasoning(&mut self, delta: &str) -> Result<(), ModelError> {
        self.count(delta.len())?;
        if !delta.is_empty() {
            self.queue.push_back(ModelEvent::ReasoningDelta(delta.to_owned()));
        }
        Ok(())
    }

    pub(crate) fn reasoning_done(&mut self, provider_state: Option<Value>) {
        self.queue.push_back(ModelEvent::ReasoningDone { provider_state });
    }

    /// Opens the next call and gives its index.
    pub(crate) fn start_call(&mut self, name: &str) -> Result<usize, ModelError> {
        self.count(name.len())?;
        let index = self.calls.len();
        if index == MAX_CALLS {
            return Err(ModelErrorKind::AnswerTooLarge.into());
        }
        self.calls.push(true);
        self.queue.push_back(ModelEvent::ToolCallStart {
            index,
            name: name.to_owned(),
        });
        Ok(index)
    }

    pub(crate) fn arguments(&mut self, index: usize, delta: &str) -> Result<(), ModelError> {
        self.count(delta.len())?;
        if self.calls.get(index) != Some(&true) {
            return Err(ModelError::protocol("arguments of a call that is not open"));
        }
        if !delta.is_empty() {
            self.queue.push_back(ModelEvent::ToolCallArguments {
                index,
                delta: delta.to_owned(),
            });
        }
        Ok(())
    }

    /// Closes a call; closing it again does nothing.
    pub(crate) fn end_call(&mut self, index: usize) {
        if let Some(open) = self.calls.get_mut(index)
            && std::mem::take(open)
        {
            self.queue.push_back(ModelEvent::ToolCallEnd { index });
        }
    }

    pub(crate) fn end_calls(&mut self) {
        for index in 0..self.calls.len() {
            self.end_call(index);
        }
    }

    pub(crate) fn usage(&mut self, usage: Usage) {
        if usage != Usage::default() {
            self.queue.push_back(ModelEvent::Usage(usage));
        }
    }

    /// Ends the answer. Providers disagree on what to call the end of an answer with calls; the calls decide.
    pub(crate) fn done(&mut self, stop: StepStop) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        self.end_calls();
        let stop = match (stop, self.calls.is_empty()) {
            (StepStop::Stop, false) => StepStop::ToolCalls,
            (StepStop::ToolCalls, true) => StepStop::Stop,
            (stop, _) => stop,
        };
        self.queue.push_back(ModelEvent::Done { stop });
    }

    /// Counts bytes that a parser keeps towards the answer's limit.
    pub(crate) fn count(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.bytes = self.bytes.saturating_add(bytes);
        // THREAT[T-loop-runaway]: an endless answer ends here.
        if self.bytes > MAX_ANSWER {
            return Err(ModelErrorKind::AnswerTooLarge.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(sink: &mut Sink) -> Vec<ModelEvent> {
        std::iter::from_fn(|| sink.pop()).collect()
    }

    #[test]
    fn the_calls_decide_whether_an_answer_ends_with_calls() {
        let mut sink = Sink::default();
        sink.start_call("a").unwrap();
        sink.done(StepStop::Stop);
        assert_eq!(
            events(&mut sink)[1..],
            [
                ModelEvent::ToolCallEnd { index: 0 },
                ModelEvent::Done {
                    stop: StepStop::ToolCalls
                }
            ]
        );
        let mut sink = Sink::default();
        sink.done(StepStop::ToolCalls);
        assert_eq!(events(&mut sink), [ModelEvent::Done { stop: StepStop::Stop }]);
    }

    #[test]
    fn a_cut_answer_with_calls_still_ends_as_cut() {
        let mut sink = Sink::default();
        sink.start_call("a").unwrap();
        sink.done(StepStop::Length);
        assert_eq!(
            events(&mut sink).last(),
            Some(&ModelEvent::Done { stop: StepStop::Length })
        );
    }

    #[test]
    fn done_comes_once() {
        let mut sink = Sink::default();
        sink.done(StepStop::Stop);
        sink.done(StepStop::Length);
        assert_eq!(events(&mut sink).len(), 1);
    }

    #[test]
    fn an_answer_over_the_limit_is_an_error() {
        let mut sink = Sink::default();
        let mib = "x".repeat(1 << 20);
        for _ in 0..16 {
            sink.text(&mib).unwrap();
        }
        assert_eq!(sink.text("x").unwrap_err().kind(), &ModelErrorKind::AnswerTooLarge);
    }

    #[test]
    fn too_many_calls_are_an_error() {
        let mut sink = Sink::default();
        for _ in 0..MAX_CALLS {
            sink.start_call("a").unwrap();
        }
        assert_eq!(
            sink.start_call("a").unwrap_err().kind(),
            &ModelErrorKind::AnswerTooLarge
        );
    }
}
