//! One step's answer: asked for, streamed, tried again, asked of another model, and recorded.

use super::{Driver, Interruption, Stop, live::LiveText, spending::LastStep};
use crate::{
    compaction::is_too_long,
    machine::ToolUse,
    models::Candidate,
    retry::{Applied, Attempts, Failure, Jitter, Next, Reason, Retry, Shown},
    telemetry::ModelCall,
};
use fumehood_core::{
    event::{EventBody, NewEvent},
    message::AssistantPart,
    name::ModelName,
    turn::{StepStop, TurnError, TurnErrorCode, Usage},
};
use fumehood_egress::LeakGuard;
use fumehood_model::{Assembler, ModelError, ModelErrorKind, ModelEvent, ModelRequest, Step, ToolChoice};
use futures::StreamExt as _;
use std::{sync::Arc, time::Duration};
use tracing::Instrument as _;

/// An attempt that gave no whole answer.
struct Broken {
    error: ModelError,
    shown: Shown,
}

impl Driver {
    /// Asks until there is a whole answer, and records it.
    pub(super) async fn ask_model(&mut self, step: u64, tools: ToolUse) -> Result<(), Stop> {
        let request = self.request(tools);
        let guard = self.recorder.guard().await?;
        let mut attempts = Attempts::new(self.candidates().map(|candidate| candidate.max_retries));
        let mut judged = None;
        let mut of_own = None;
        loop {
            let asked = self.candidate(attempts.model());
            // THREAT[T-hook-bypass]: a guard that allows one model has not allowed those that are asked in its place.
            if judged.as_ref() != Some(&asked.name) {
                self.guard_question(step, &asked.name).await?;
                judged = Some(asked.name.clone());
            }
            self.hold().await?;
            let mut answer = Assembler::default();
            let outcome = self.attempt(step, &asked, &request, &guard, &mut answer).await;
            let broken = match outcome {
                Ok(Ok(whole)) => {
                    // Nobody else has the conversation when it grows: it would be copied whole.
                    drop(request);
                    return self.take_answer(step, &asked, tools, whole).await;
                }
                Ok(Err(broken)) => broken,
                Err(interruption) => {
                    self.cut_off = self.partial_answer(step, &asked, answer, None);
                    return Err(interruption.into());
                }
            };
            // What is too long for a model that is asked in its place is not summed up: the turn's own model may be there again.
            let is_own = attempts.model() == 0;
            if is_own && broken.shown == Shown::Nothing && is_too_long(&broken.error) {
                drop(request);
                self.let_go();
                return self.make_room(&broken.error).await;
            }
            let failure = Failure {
                error: &broken.error,
                shown: broken.shown,
                time_left: self.time_left(),
            };
            match attempts.failed(failure, Jitter::random()) {
                Next::GiveUp(reason) => {
                    let error = self.failure(&asked, &broken.error, reason);
                    let error = of_own.filter(|_| is_too_long(&broken.error)).unwrap_or(error);
                    self.cut_off = self.partial_answer(step, &asked, answer, Some(&error));
                    return Err(Stop::Failed(error));
                }
                Next::Retry(retry) => {
                    if is_own {
                        of_own = Some(self.failure(&asked, &broken.error, Reason::Failure));
                    }
                    let next = self.candidate(retry.model);
                    let attempt = Attempted {
                        asked: &asked,
                        failed_model: self.named(&asked),
                        next: &next,
                        error: &broken.error,
                        usage: answer.usage(),
                    };
                    let event = self.recorder.machine.event(scheduled(step, &retry, attempt));
                    self.recorder.record(vec![event]).await?;
                    self.let_go();
                    self.interruptible(tokio::time::sleep(retry.wait.selected)).await?;
                }
            }
        }
    }

    fn request(&mut self, tools: ToolUse) -> ModelRequest {
        ModelRequest {
            system: self.plan.system.clone(),
            messages: self.shown_messages(),
            tools: Arc::clone(&self.shown),
            tool_choice: match tools {
                ToolUse::Allowed => ToolChoice::Auto,
                ToolUse::Withheld => ToolChoice::None,
            },
            cache_key: Some(self.plan.session.to_string()),
            ..ModelRequest::default()
        }
    }

    /// The models that the step may ask, in this order; not those that take less than the conversation has.
    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        let tokens = self.gauge.request(self.recorder.reported());
        let fallbacks = self.plan.fallbacks.iter();
        std::iter::once(&self.plan.model).chain(fallbacks.filter(move |fallback| fallback.has_room_for(tokens)))
    }

    fn candidate(&self, number: usize) -> Candidate {
        let mut candidates = self.candidates();
        candidates.nth(number).unwrap_or(&self.plan.model).clone()
    }

    /// Asks one model once.
    async fn attempt(
        &self,
        step: u64,
        candidate: &Candidate,
        request: &ModelRequest,
        guard: &LeakGuard,
        answer: &mut Assembler,
    ) -> Result<Result<Step, Broken>, Interruption> {
        let mut call = ModelCall::begin(self.plan.session, &candidate.name, &candidate.provider.describe());
        let span = call.span.clone();
        let mut shown = Shown::Nothing;
        let streaming = async {
            let mut live = LiveText::new(&self.recorder, step, guard);
            let mut stream = candidate.provider.stream(request).await?;
            loop {
                let event = tokio::select! {
                    biased;
                    event = stream.next() => event,
                    () = live.due() => {
                        live.flush();
                        continue;
                    }
                };
                let event = event.ok_or(ModelErrorKind::Incomplete)??;
                call.came(&event);
                match &event {
                    ModelEvent::TextDelta(delta) => {
                        if !delta.trim().is_empty() {
                            shown = Shown::Text;
                        }
                        live.text(delta);
                    }
                    ModelEvent::ReasoningDelta(delta) => live.reasoning(delta),
                    _ => {}
                }
                if let Some(whole) = answer.push(event) {
                    live.end();
                    return Ok::<_, ModelError>(whole);
                }
            }
        };
        let outcome = self.interruptible(streaming).instrument(span).await?;
        Ok(match outcome {
            Ok(whole) if is_empty(&whole) => {
                call.failed(&ModelErrorKind::Empty);
                // What it counted is spent, though there is nothing to show for it.
                answer.count(whole.usage);
                Err(Broken {
                    error: ModelErrorKind::Empty.into(),
                    shown,
                })
            }
            Ok(whole) => {
                call.answered(whole.stop, whole.usage);
                Ok(whole)
            }
            Err(error) => {
                call.failed(error.kind());
                Err(Broken { error, shown })
            }
        })
    }

    /// Records an answer, unless a hook denies it: then nothing of it is kept but what it took.
    async fn take_answer(&mut self, step: u64, asked: &Candidate, tools: ToolUse, answer: Step) -> Result<(), Stop> {
        match self.guard_answer(step, &answer).await {
            Ok(()) => self.record_answer(step, asked, tools, answer).await,
            Err(stop @ Stop::Store(_)) => Err(stop),
            Err(stop) => {
                let error = match &stop {
                    Stop::Failed(error) => Some(error.clone()),
                    _ => None,
                };
                let mut counted = Assembler::default();
                counted.count(answer.usage);
                self.cut_off = self.partial_answer(step, asked, counted, error.as_ref());
                Err(stop)
            }
        }
    }

    /// The whole answer in one: a step is in the journal entirely or not at all.
    async fn record_answer(&mut self, step: u64, asked: &Candidate, tools: ToolUse, answer: Step) -> Result<(), Stop> {
        let mut bodies = answer_events(step, answer.parts);
        let mut dropped_calls = Vec::new();
        // Calls of a cut answer may be cut themselves, those of one that was withheld are part of what was, and some models ask for tools
        // whatever they were told: such calls are not run.
        let is_cut = matches!(answer.stop, StepStop::Length | StepStop::ContentFilter);
        if is_cut || tools == ToolUse::Withheld {
            bodies.retain(|body| match body {
                EventBody::ToolRequested { call, .. } => {
                    dropped_calls.push(call.tool.clone());
                    false
                }
                _ => true,
            });
        }
        let is_call = |body: &&EventBody| matches!(body, EventBody::ToolRequested { .. });
        let requested = bodies.iter().filter(is_call).count() as u64;
        let says_nothing = dropped_calls.is_empty()
            && !bodies
                .iter()
                .any(|body| matches!(body, EventBody::TextCompleted { .. }));
        let is_lost = answer.stop == StepStop::Length && says_nothing;
        bodies.push(EventBody::StepCompleted {
            step,
            stop_reason: answer.stop,
            usage: answer.usage,
            model: self.named(asked),
            cost: asked.cost(answer.usage),
            unmeasured: !answer.usage.is_some_and(Usage::is_whole),
            dropped_calls,
            worked_ms: None,
        });
        let events: Vec<_> = bodies.into_iter().map(|body| self.by_model(body)).collect();
        match self.plan.purse.has_limits() {
            // Others may wait for what this one took less than it held.
            true => self.recorder.record(events).await?,
            false => self.recorder.hold_back(events).await?,
        }
        self.last_step = LastStep {
            usage: answer.usage,
            tool_calls: requested,
            took: self.held_for(),
        };
        self.let_go();
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

    /// The text of an answer that won't come to its end, and what it took: to be recorded with the end of the turn, because a step that
    /// is asked again says everything again. Where guards judge answers no text of one is kept that they have not.
    fn partial_answer(
        &self,
        step: u64,
        asked: &Candidate,
        answer: Assembler,
        error: Option<&TurnError>,
    ) -> Vec<NewEvent> {
        let usage = answer.usage();
        let mut events: Vec<_> = answer_events(step, answer.into_parts())
            .into_iter()
            // THREAT[T-hook-bypass]: the next turn would show it to the model.
            .filter(|body| matches!(body, EventBody::TextCompleted { .. }) && !self.answers_are_judged())
            .map(|body| self.by_model(body))
            .collect();
        if let Some(counted) = usage {
            events.push(self.recorder.machine.event(EventBody::StepFailed {
                step,
                error: error.cloned(),
                usage,
                model: self.named(asked),
                cost: asked.cost(usage),
                unmeasured: !counted.is_whole(),
                worked_ms: None,
            }));
        }
        events
    }

    /// The model's name, where it is not the one that the turn began with.
    fn named(&self, asked: &Candidate) -> Option<ModelName> {
        (Some(&asked.name) != self.recorder.machine.model()).then(|| asked.name.clone())
    }

    /// What the turn fails with when no attempt is left.
    fn failure(&self, asked: &Candidate, error: &ModelError, reason: Reason) -> TurnError {
        let mut failure = error.to_turn_error();
        failure.message.push_str(&reason.to_string());
        let own = &self.plan.model.name;
        if asked.name != *own {
            let of = format!(
                " (the last of the models that were asked: `{}`, in place of `{own}`)",
                asked.name
            );
            failure.message.push_str(&of);
        }
        failure
    }
}

/// An attempt that is followed by another.
struct Attempted<'a> {
    asked: &'a Candidate,
    failed_model: Option<ModelName>,
    next: &'a Candidate,
    error: &'a ModelError,
    usage: Option<Usage>,
}

fn scheduled(step: u64, retry: &Retry, attempted: Attempted<'_>) -> EventBody {
    let Attempted {
        asked,
        failed_model,
        next,
        error,
        usage,
    } = attempted;
    let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let wait = &retry.wait;
    EventBody::RetryScheduled {
        step,
        attempt: retry.attempt,
        max_attempts: retry.max_attempts,
        delay_ms: millis(wait.selected),
        computed_delay_ms: millis(wait.computed),
        retry_after_hint_ms: wait.hint.map(millis),
        rate_limit_floor_applied: wait.floor == Applied::Yes,
        budget_capped: wait.budget_cap == Applied::Yes,
        error: error.to_attempt_error(),
        model: (next.name != asked.name).then(|| next.name.clone()),
        failed_model,
        usage,
        cost: asked.cost(usage),
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
    matches!(step.stop, StepStop::Stop | StepStop::ToolCalls)
        && !step.parts.iter().any(|part| match part {
            AssistantPart::Text { text } => !text.trim().is_empty(),
            AssistantPart::ToolCall(_) => true,
            AssistantPart::Reasoning { .. } => false,
        })
}
