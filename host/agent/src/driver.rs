//! The driver of one turn: does what the machine decides, records what happened, and asks again.
//!
//! It owns everything that runs for the turn. Cancelling and the time budget interrupt waiting (for the model, for
//! tools, for a retry), never a write to the journal.

use crate::{
    caller::{CallScope, Caller},
    catalog::OfferedTools,
    machine::Next,
    ports::{self, Observe, Observed},
    recorder::Recorder,
    retry,
    telemetry::{self, ModelCall},
};
use bytes::Bytes;
use fumehood_core::{
    call::{CallError, CallErrorCode, CallResult, ComponentRef, Metering},
    event::{EventBody, NewEvent, Source},
    id::SessionId,
    message::{AssistantPart, GivenArguments, RequestedCall},
    name::{AgentName, ModelName, ToolName},
    tool::ToolDefinition,
    turn::{Budget, StepStop, TurnError, TurnErrorCode},
};
use fumehood_egress::{LeakGuard, Redactor};
use fumehood_model::{Assembler, ModelError, ModelErrorKind, ModelEvent, ModelRequest, Provider, Step};
use fumehood_policy::authority::Authority;
use fumehood_store::StoreError;
use futures::StreamExt as _;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

/// Calls of one step that run at the same time.
const PARALLEL_CALLS: usize = 8;

/// What a turn is worked with, fixed when it begins.
pub(crate) struct TurnPlan {
    pub(crate) agent: AgentName,
    pub(crate) model: ModelName,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) session: SessionId,
    pub(crate) system: String,
    pub(crate) budget: Budget,
    pub(crate) tools: Arc<OfferedTools>,
    /// What the model is told of them: the same in every step, so that providers can cache it.
    pub(crate) definitions: Arc<[ToolDefinition]>,
    pub(crate) scope: CallScope,
}

/// One turn at work.
pub(crate) struct Driver {
    plan: TurnPlan,
    caller: Arc<Caller>,
    recorder: Recorder,
    cancel: CancellationToken,
    deadline: Option<Instant>,
    /// The turn's span, in which it is made.
    span: Span,
}

/// Why waiting ended early.
enum Interruption {
    Cancelled,
    TimeLimit,
}

/// Why the turn can't go on.
enum Stop {
    Interrupted(Interruption),
    Failed(TurnError),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Interruption> for Stop {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption)
    }
}

impl Driver {
    pub(crate) fn new(plan: TurnPlan, caller: Arc<Caller>, recorder: Recorder, cancel: CancellationToken) -> Self {
        Self {
            plan,
            caller,
            recorder,
            cancel,
            deadline: None,
            span: Span::current(),
        }
    }

    /// Works the turn to its end. An error means that the journal could not be written: the turn stays as it is recorded,
    /// for the next start of the host.
    pub(crate) async fn run(mut self) -> Result<(), StoreError> {
        self.settle_calls_left_in_flight().await?;
        self.arm_deadline();
        loop {
            let next = self.recorder.machine.decide();
            if next == Next::Nothing {
                return Ok(());
            }
            let span = telemetry::step_span(&next, self.recorder.machine.step());
            match self.perform(next).instrument(span).await {
                Ok(()) => {}
                Err(Stop::Store(error)) => return Err(error),
                Err(Stop::Interrupted(Interruption::Cancelled)) => {
                    let events = self.recorder.machine.cancellation();
                    self.recorder.record(events).await?;
                }
                Err(Stop::Interrupted(Interruption::TimeLimit)) => self.fail_for_time().await?,
                Err(Stop::Failed(error)) => {
                    let events = self.recorder.machine.failure(error);
                    self.recorder.record(events).await?;
                }
            }
        }
    }

    async fn perform(&mut self, next: Next) -> Result<(), Stop> {
        if self.cancel.is_cancelled() {
            return Err(Interruption::Cancelled.into());
        }
        match next {
            Next::Begin => self.begin().await?,
            Next::BeginStep(step) => {
                let event = self.recorder.machine.event(EventBody::StepStarted { step });
                self.recorder.record(vec![event]).await?;
            }
            Next::AskModel(step) => self.ask_model(step).await?,
            Next::RunCalls(calls) => self.run_calls(calls).await?,
            Next::Exhaust(exhausted) => {
                let events = self.recorder.machine.exhaustion(exhausted);
                self.recorder.record(events).await?;
            }
            Next::Complete(reason) => {
                let events = self.recorder.machine.completion(reason);
                self.recorder.record(events).await?;
            }
            Next::Nothing => {}
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Stop> {
        let event = self.recorder.machine.event(EventBody::TurnStarted {
            agent: self.plan.agent.clone(),
            model: self.plan.model.clone(),
            tools: self.plan.tools.names(),
            budget: self.plan.budget,
        });
        self.recorder.record(vec![event]).await?;
        self.arm_deadline();
        Ok(())
    }

    /// The time budget counts from where this host began to work the turn.
    fn arm_deadline(&mut self) {
        self.deadline = self
            .recorder
            .machine
            .budget()
            .time_ms
            .map(|ms| Instant::now() + Duration::from_millis(ms));
    }

    async fn fail_for_time(&mut self) -> Result<(), StoreError> {
        let limit = self.recorder.machine.budget().time_ms.unwrap_or_default();
        let exhausted = EventBody::BudgetExhausted {
            budget: "time".into(),
            used: limit,
            limit,
        };
        let error = TurnError {
            code: TurnErrorCode::TimeLimit,
            message: format!("the turn used up its time budget of {limit} ms; a larger `budget.time` allows more"),
        };
        let mut events = vec![self.recorder.machine.event(exhausted)];
        events.extend(self.recorder.machine.failure(error));
        self.recorder.record(events).await
    }

    /// A host that stopped can't know what its running calls did outside: they are reported, not run again.
    async fn settle_calls_left_in_flight(&mut self) -> Result<(), StoreError> {
        let machine = &self.recorder.machine;
        let message = "the host stopped while the call ran; it was not run again, because it may have taken effect";
        let events: Vec<_> = machine
            .calls_in_flight()
            .into_iter()
            .map(|call| {
                let error = CallError::new(CallErrorCode::Interrupted, message);
                machine.event(EventBody::tool_completed(
                    call.id,
                    call.tool,
                    Err(error),
                    Metering::default(),
                ))
            })
            .collect();
        self.recorder.record(events).await
    }

    async fn ask_model(&mut self, step: u64) -> Result<(), Stop> {
        let request = ModelRequest {
            system: self.plan.system.clone(),
            messages: self.recorder.messages(),
            tools: Arc::clone(&self.plan.definitions),
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
        // Calls of a cut answer may be cut themselves: they are not run.
        if answer.stop == StepStop::Length {
            bodies.retain(|body| !matches!(body, EventBody::ToolRequested { .. }));
        }
        bodies.push(EventBody::StepCompleted {
            step,
            stop_reason: answer.stop,
            usage: answer.usage,
        });
        let events: Vec<_> = bodies.into_iter().map(|body| self.by_model(body)).collect();
        Ok(self.recorder.record(events).await?)
    }

    async fn keep_partial_text(&mut self, step: u64, answer: Assembler) -> Result<(), Stop> {
        let events: Vec<_> = answer_events(step, answer.into_parts())
            .into_iter()
            .filter(|body| matches!(body, EventBody::TextCompleted { .. }))
            .map(|body| self.by_model(body))
            .collect();
        Ok(self.recorder.record(events).await?)
    }

    fn by_model(&self, body: EventBody) -> NewEvent {
        NewEvent {
            source: Source::Model,
            ..self.recorder.machine.event(body)
        }
    }

    /// Runs the calls side by side, a bounded number at a time, and records each as it ends.
    async fn run_calls(&mut self, calls: Vec<RequestedCall>) -> Result<(), Stop> {
        let within_budget = self.recorder.machine.calls_within_budget();
        let mut waiting = VecDeque::with_capacity(calls.len());
        let mut refused = Vec::new();
        for call in calls {
            let place = self.recorder.machine.place_of(call.id).unwrap_or(usize::MAX);
            match admit(&call, place < within_budget, &self.plan.tools) {
                Ok(admitted) => waiting.push_back(admitted),
                Err(error) => {
                    telemetry::refused_before_a_call(&self.plan.scope.org, &self.plan.tools, &call.tool, &error);
                    refused.push(self.completed(&call, Err(error), Metering::default()));
                }
            }
        }
        self.recorder.record(refused).await?;

        let (observe, mut observed) = ports::observe();
        // Dropping the set, on any way out, stops every guest in it.
        let mut running = JoinSet::new();
        let mut starting = Vec::new();
        while running.len() < PARALLEL_CALLS
            && let Some(call) = waiting.pop_front()
        {
            starting.push(call);
        }
        loop {
            self.start(&mut starting, &mut running, &observe).await?;
            if running.is_empty() {
                return Ok(());
            }
            let (mut events, ended) = self.next_happening(&mut running, &mut observed).await?;
            if let Some((call, result, metering)) = ended {
                events.push(self.completed(&call, result, metering));
                starting.extend(waiting.pop_front());
            }
            self.recorder.record(events).await?;
        }
    }

    async fn start(
        &mut self,
        starting: &mut Vec<AdmittedCall>,
        running: &mut JoinSet<Ended>,
        observe: &Observe,
    ) -> Result<(), Stop> {
        let (mut events, mut authorities) = (Vec::new(), Vec::new());
        for admitted in &*starting {
            let authority = match self.plan.tools.get(&admitted.tool) {
                Ok(tool) => self.caller.authority(&self.plan.scope, tool).await.map(Arc::new),
                Err(error) => Err(error),
            };
            events.push(self.started(admitted, authority.as_deref().ok()));
            authorities.push(authority);
        }
        self.recorder.record(events).await?;
        for (admitted, authority) in starting.drain(..).zip(authorities) {
            let caller = Arc::clone(&self.caller);
            let scope = self.plan.scope.for_call(observe.clone(), authority);
            let tools = Arc::clone(&self.plan.tools);
            let work = async move {
                let arguments = admitted.call.arguments.as_object();
                let (result, metering) = caller
                    .call(&scope, &tools, admitted.call.id, &admitted.tool, arguments)
                    .await;
                (admitted.call, result, metering)
            };
            // On a task of its own: in the step's span, and on top of the turn's, or a trace would lose the way.
            running.spawn(work.in_current_span().instrument(self.span.clone()));
        }
        Ok(())
    }

    /// Waits for a call to end or to report something. What a call reported comes before its end.
    async fn next_happening(
        &self,
        running: &mut JoinSet<Ended>,
        observed: &mut Observed,
    ) -> Result<(Vec<NewEvent>, Option<Ended>), Stop> {
        let mut events = Vec::new();
        let waiting = async {
            tokio::select! {
                Some(ended) = running.join_next() => Some(ended),
                Some(event) = observed.next() => {
                    events.push(event);
                    None
                }
            }
        };
        let ended = match self.interruptible(waiting).await? {
            None => None,
            Some(Ok(ended)) => Some(ended),
            Some(Err(error)) => {
                tracing::error!(%error, "a call's task broke");
                let message = "a fault in the host ended the call; the host's log has more".into();
                return Err(Stop::Failed(TurnError {
                    code: TurnErrorCode::Internal,
                    message,
                }));
            }
        };
        while let Some(event) = observed.ready() {
            events.push(event);
        }
        Ok((events, ended))
    }

    fn started(&self, admitted: &AdmittedCall, authority: Option<&Authority>) -> NewEvent {
        self.recorder.machine.event(EventBody::ToolStarted {
            call: admitted.call.id,
            tool: admitted.tool.clone(),
            component: admitted.component.clone(),
            authority: authority.and_then(|authority| serde_json::to_value(authority).ok()),
        })
    }

    fn completed(&self, call: &RequestedCall, result: CallResult, metering: Metering) -> NewEvent {
        let source = Source::Tool {
            tool: call.tool.clone(),
            call: call.id,
        };
        let body = EventBody::tool_completed(call.id, call.tool.clone(), result, metering);
        NewEvent {
            source,
            ..self.recorder.machine.event(body)
        }
    }

    /// Waits for `work`, unless the turn is cancelled or its time is up first.
    async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T, Interruption> {
        let time_is_up = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Interruption::Cancelled),
            () = time_is_up => Err(Interruption::TimeLimit),
            done = work => Ok(done),
        }
    }
}

/// What a model says, shown while it says it. A value that lies over several pieces is found as well, so a piece that could be
/// its beginning waits for the next one.
struct LiveText {
    step: u64,
    text: Redactor,
    reasoning: Redactor,
}

impl LiveText {
    fn new(step: u64, guard: &LeakGuard) -> Self {
        Self {
            step,
            text: guard.redactor(),
            reasoning: guard.redactor(),
        }
    }

    fn text(&mut self, recorder: &Recorder, delta: &str) {
        let passed = self.text.push(Bytes::copy_from_slice(delta.as_bytes()));
        self.show_text(recorder, &passed);
    }

    fn reasoning(&mut self, recorder: &Recorder, delta: &str) {
        let passed = self.reasoning.push(Bytes::copy_from_slice(delta.as_bytes()));
        self.show_reasoning(recorder, &passed);
    }

    fn end(mut self, recorder: &Recorder) {
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

type Ended = (RequestedCall, CallResult, Metering);

/// A call that may enter the sandbox.
struct AdmittedCall {
    call: RequestedCall,
    tool: ToolName,
    component: ComponentRef,
}

/// What can be refused before a sandbox is made.
fn admit(call: &RequestedCall, within_budget: bool, tools: &OfferedTools) -> Result<AdmittedCall, CallError> {
    let refuse = |code, message: String| Err(CallError::new(code, message));
    if !within_budget {
        return refuse(
            CallErrorCode::Denied,
            "the turn's budget of tool calls is used up: answer with what you have".into(),
        );
    }
    // THREAT[T-loop-malformed-args]: only a JSON object ever reaches a tool.
    if let GivenArguments::MalformedArguments(_) = &call.arguments {
        let message = "the arguments are not a JSON object: send the call again with valid JSON".into();
        return refuse(CallErrorCode::InvalidArguments, message);
    }
    let (tool, component) = tools.find(&call.tool)?;
    Ok(AdmittedCall {
        call: call.clone(),
        tool,
        component,
    })
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
