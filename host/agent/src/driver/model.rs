//! One model call: asked, streamed, tried again, and recorded.

use super::{Driver, Stop, live::LiveText};
use crate::{machine::ToolUse, retry, telemetry::ModelCall};
use fumehood_core::{
    event::EventBody,
    message::AssistantPart,
    turn::{StepStop, TurnError, TurnErrorCode},
};
use fumehood_egress::LeakGuard;
use fumehood_model::{Assembler, ModelError, ModelErrorKind, ModelEvent, ModelRequest, Step, ToolChoice};
use futures::StreamExt as _;
use std::sync::Arc;
use tracing::Instrument as _;

impl Driver {
    /// Asks until there is a whole answer, and records it.
    pub(super) async fn ask_model(&mut self, step: u64, tools: ToolUse) -> Result<(), Stop> {
        let request = ModelRequest {
            system: self.plan.system.clone(),
            messages: self.recorder.messages(),
            tools: Arc::clone(&self.plan.definitions),
            tool_choice: match tools {
                ToolUse::Allowed => ToolChoice::Auto,
                ToolUse::Withheld => ToolChoice::None,
            },
            cache_key: Some(self.plan.session.to_string()),
            ..ModelRequest::default()
        };
        let guard = self.recorder.guard().await?;
        let mut attempt = 0;
        loop {
            let mut answer = Assembler::default();
            let mut asked = ModelCall::begin(self.plan.session, &self.plan.model, &self.plan.provider.describe());
            let span = asked.span.clone();
            let outcome = self
                .interruptible(self.stream_answer(step, &request, &guard, &mut answer, &mut asked))
                .instrument(span)
                .await?;
            let (error, shown) = match outcome {
                Ok(whole) => {
                    asked.answered(whole.stop, whole.usage);
                    return self.record_answer(step, whole).await;
                }
                Err(failed) => failed,
            };
            asked.failed(error.kind());
            attempt += 1;
            let Some(delay) = retry::delay(&error, attempt, shown) else {
                self.keep_partial_text(step, answer).await?;
                return Err(Stop::Failed(error.to_turn_error()));
            };
            let event = self.recorder.machine.event(EventBody::RetryScheduled {
                step,
                attempt,
                max_attempts: retry::MAX_RETRIES,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                error: error.to_turn_error(),
                model: None,
            });
            self.recorder.record(vec![event]).await?;
            self.interruptible(tokio::time::sleep(delay)).await?;
        }
    }

    /// Streams one answer. On an error it also says whether anything of the answer was visible already.
    async fn stream_answer(
        &self,
        step: u64,
        request: &ModelRequest,
        guard: &LeakGuard,
        answer: &mut Assembler,
        asked: &mut ModelCall,
    ) -> Result<Step, (ModelError, bool)> {
        let mut shown = false;
        let mut live = LiveText::new(step, guard);
        let mut stream = self
            .plan
            .provider
            .stream(request)
            .await
            .map_err(|error| (error, shown))?;
        while let Some(event) = stream.next().await {
            let event = event.map_err(|error| (error, shown))?;
            asked.came(&event);
            match &event {
                ModelEvent::TextDelta(delta) => {
                    shown = true;
                    live.text(&self.recorder, delta);
                }
                ModelEvent::ReasoningDelta(delta) => live.reasoning(&self.recorder, delta),
                _ => {}
            }
            if let Some(whole) = answer.push(event) {
                live.end(&self.recorder);
                return if is_empty(&whole) {
                    Err((ModelErrorKind::Incomplete.into(), shown))
                } else {
                    Ok(whole)
                };
            }
        }
        Err((ModelErrorKind::Incomplete.into(), shown))
    }

    /// The whole answer in one append: a step is in the journal entirely or not at all.
    async fn record_answer(&mut self, step: u64, answer: Step) -> Result<(), Stop> {
        let mut bodies = answer_events(step, answer.parts);
        let mut dropped_calls = Vec::new();
        // Calls of a cut answer may be cut themselves: they are not run.
        if answer.stop == StepStop::Length {
            bodies.retain(|body| match body {
                EventBody::ToolRequested { call, .. } => {
                    dropped_calls.push(call.tool.clone());
                    false
                }
                _ => true,
            });
        }
        let says_nothing = dropped_calls.is_empty()
            && !bodies
                .iter()
                .any(|body| matches!(body, EventBody::TextCompleted { .. }));
        let is_lost = answer.stop == StepStop::Length && says_nothing;
        bodies.push(EventBody::StepCompleted {
            step,
            stop_reason: answer.stop,
            usage: answer.usage,
            model: None,
            cost: None,
            dropped_calls,
        });
        let events: Vec<_> = bodies.into_iter().map(|body| self.by_model(body)).collect();
        self.recorder.record(events).await?;
        if is_lost {
            return Err(Stop::Failed(TurnError {
                code: TurnErrorCode::EmptyAnswer,
                message: "the model used its whole output limit without an answer, for reasoning most likely: raise \
                          `max_output_tokens` of the model, or lower its `reasoning_effort`"
                    .into(),
            }));
        }
        Ok(())
    }

    async fn keep_partial_text(&mut self, step: u64, answer: Assembler) -> Result<(), Stop> {
        let events: Vec<_> = answer_events(step, answer.into_parts())
            .into_iter()
            .filter(|body| matches!(body, EventBody::TextCompleted { .. }))
            .map(|body| self.by_model(body))
            .collect();
        Ok(self.recorder.record(events).await?)
    }
}

fn answer_events(step: u64, parts: Vec<AssistantPart>) -> Vec<EventBody> {
    parts
        .into_iter()
        .map(|part| match part {
            AssistantPart::Text { text } => EventBody::TextCompleted { step, text },
            AssistantPart::Reasoning { text, provider_state } => EventBody::ReasoningCompleted {
                step,
                text,
                provider_state,
            },
            AssistantPart::ToolCall(call) => EventBody::ToolRequested { step, call },
        })
        .collect()
}

/// An answer with neither text nor calls, though the model claims to be done.
fn is_empty(step: &Step) -> bool {
    step.stop == StepStop::Stop
        && !step.parts.iter().any(|part| match part {
            AssistantPart::Text { text } => !text.trim().is_empty(),
            AssistantPart::ToolCall(_) => true,
            AssistantPart::Reasoning { .. } => false,
        })
}
