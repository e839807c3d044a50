//! What a model says, shown while it says it.

use crate::recorder::Recorder;
use bytes::Bytes;
use fumehood_core::event::EventBody;
use fumehood_egress::{LeakGuard, Redactor};

/// What a model says, shown while it says it. A value that lies over several pieces is found as well, so a piece that could be
/// its beginning waits for the next one.
pub(super) struct LiveText {
    step: u64,
    text: Redactor,
    reasoning: Redactor,
}

impl LiveText {
    pub(super) fn new(step: u64, guard: &LeakGuard) -> Self {
        Self {
            step,
            text: guard.redactor(),
            reasoning: guard.redactor(),
        }
    }

    pub(super) fn text(&mut self, recorder: &Recorder, delta: &str) {
        let passed = self.text.push(Bytes::copy_from_slice(delta.as_bytes()));
        self.show_text(recorder, &passed);
    }

    pub(super) fn reasoning(&mut self, recorder: &Recorder, delta: &str) {
        let passed = self.reasoning.push(Bytes::copy_from_slice(delta.as_bytes()));
        self.show_reasoning(recorder, &passed);
    }

    pub(super) fn end(mut self, recorder: &Recorder) {
        let rest = self.reasoning.finish();
        self.show_reasoning(recorder, &rest);
        let rest = self.text.finish();
        self.show_text(recorder, &rest);
    }

    fn show_text(&self, recorder: &Recorder, passed: &[u8]) {
        if !passed.is_empty() {
            let delta = String::from_utf8_lossy(passed).into_owned();
            recorder.show(EventBody::TextDelta { step: self.step, delta });
        }
    }

    fn show_reasoning(&self, recorder: &Recorder, passed: &[u8]) {
        if !passed.is_empty() {
            let delta = String::from_utf8_lossy(passed).into_owned();
            recorder.show(EventBody::ReasoningDelta { step: self.step, delta });
        }
    }
}
