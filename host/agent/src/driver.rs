//! The driver of one turn: does what the machine decides, records what happened, and asks again.
//!
//! It owns everything that runs for the turn. Cancelling and the time budget interrupt waiting (for the model, for
//! tools, for a retry), never a write to the journal.

mod admission;
mod again;
mod background;
mod calls;
mod compaction;
mod handing_over;
mod hooks;
mod live;
mod model;
mod notes;
mod output;
mod spending;
mod time;

pub(crate) use admission::arguments_of;
pub(crate) use background::Background;
pub(crate) use notes::{note_on, noted, refusal};

use crate::{
    budgets::{Purse, TimeLeft},
    caller::{CallScope, Caller},
    context::{Gauge, Window},
    machine::{Next, Seen, TurnMachine},
    models::Candidate,
    recorder::Recorder,
    reins::Reins,
    schema::Schema,
    telemetry,
    tokens::Counter,
    toolset::{Toolbox, Toolset},
};
use compaction::Tokenizer;
use fumehood_core::{
    awaited::ClientTool,
    event::{EventBody, NewEvent, Source},
    id::SessionId,
    name::AgentName,
    tool::ToolDefinition,
    turn::{Budget, Note, TurnError, TurnErrorCode, TurnStatus},
};
use fumehood_policy::deadline::Deadline;
use fumehood_store::StoreError;
use serde_json::Value;
use spending::{Held, LastStep};
use std::sync::Arc;
use tokio::time::Instant;
use tracing::Instrument as _;

/// What a turn is worked with, fixed when it begins.
pub(crate) struct TurnPlan {
    pub(crate) agent: AgentName,
    pub(crate) model: Candidate,
    /// Who is asked when that one doesn't answer, in this order.
    pub(crate) fallbacks: Vec<Candidate>,
    pub(crate) session: SessionId,
    pub(crate) system: String,
    pub(crate) budget: Budget,
    /// The tools for the step that is next or at work.
    pub(crate) tools: Toolset,
    /// Where they come from.
    pub(crate) toolbox: Toolbox,
    /// What came with the turn's input.
    pub(crate) given: Given,
    /// What the answer must follow.
    pub(crate) output: Option<Schema>,
    /// How much text of one result the model gets, in bytes.
    pub(crate) tool_output: usize,
    /// Whether its calls are recorded, as far as the operator lets them be.
    pub(crate) record: bool,
    pub(crate) scope: CallScope,
    /// What it may spend of its org's and its session's budgets.
    pub(crate) purse: Purse,
    /// Who runs calls in the background; absent on a host that does not stay.
    pub(crate) background: Option<Background>,
}

/// What a client sends with a turn's input, and a model is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// Instructions for this turn.
    pub(crate) system: Option<String>,
    /// What the answer must follow.
    pub(crate) output_schema: Option<Value>,
    /// The tools that the client brings and runs itself.
    pub(crate) tools: Vec<ClientTool>,
    /// Whether it is to be recorded.
    pub(crate) record: bool,
}

/// One turn at work.
pub(crate) struct Driver {
    plan: TurnPlan,
    caller: Arc<Caller>,
    recorder: Recorder,
    reins: Reins,
    /// The tools that the model is shown in the step.
    shown: Arc<[ToolDefinition]>,
    /// When it would have begun, had it been worked without a break.
    begun: Instant,
    deadline: Option<Deadline>,
    /// The budget of several turns that the deadline comes from, if it is not the turn's own.
    shared_time: Option<TimeLeft>,
    /// Whether something is held for its next model call.
    held: Held,
    /// What its last step took.
    last_step: LastStep,
    told: Told,
    /// Up to which of the ends of jobs that this host recorded there is none left to tell.
    ends_seen: Option<u64>,
    /// What is recorded with the end of a turn that was cut off.
    cut_off: Vec<NewEvent>,
    gauge: Gauge,
    tokenizer: Tokenizer,
    window: Window,
    /// The turn's span, in which it is made.
    span: tracing::Span,
}

/// Whether the journal tells of the tools as they are.
#[derive(PartialEq, Eq)]
enum Told {
    /// As a turn begins or is taken up again, and when there are others.
    Perhaps,
    All,
}

/// Why waiting ended early.
enum Interruption {
    Cancelled,
    TimeLimit,
}

/// Why a turn was left that has not ended, waits for nobody, and was not at the end of a step.
pub(crate) struct CutOff {
    pub(crate) error: StoreError,
    pub(crate) setback: Setback,
}

/// What keeps a turn from coming any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setback {
    /// Its host stopped, or could not go on with it for a moment.
    Stopped,
    /// The store did not take what had happened, which is done again by who goes on with it.
    Refused,
}

/// Why the turn can't go on.
enum Stop {
    Interrupted(Interruption),
    Failed(TurnError),
    /// Its end is recorded already.
    Ended,
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
    pub(crate) fn new(plan: TurnPlan, caller: Arc<Caller>, recorder: Recorder, reins: Reins) -> Self {
        let shown = plan.tools.shown(recorder.loaded_tools());
        let begun = Instant::now().checked_sub(recorder.worked());
        let begun = begun.unwrap_or_else(Instant::now);
        Self {
            gauge: Gauge::new(fixed(&plan.system, &shown)),
            shown,
            tokenizer: Tokenizer::Perhaps,
            window: Window::of(plan.model.provider.describe().context_window),
            plan,
            caller,
            recorder,
            reins,
            begun,
            deadline: None,
            shared_time: None,
            held: Held::Nothing,
            last_step: LastStep::default(),
            told: Told::Perhaps,
            ends_seen: None,
            cut_off: Vec::new(),
            span: tracing::Span::current(),
        }
    }

    /// Works the turn to its end, until it waits for somebody outside, or to the end of a step when the host takes its leave. An error
    /// means that the journal could not be written: the turn stays as it is recorded, for who goes on with it. Says where it left the
    /// turn.
    pub(crate) async fn run(mut self) -> Result<TurnStatus, CutOff> {
        let mut left = self.work().await;
        // Else what the store takes no more is tried for twice as long.
        if !self.recorder.was_refused() {
            let settled = self.recorder.settle().await;
            left = left.and_then(|status| settled.map(|()| status));
        }
        left.map_err(|error| CutOff {
            error,
            setback: match self.recorder.was_refused() {
                true => Setback::Refused,
                false => Setback::Stopped,
            },
        })
    }

    async fn work(&mut self) -> Result<TurnStatus, StoreError> {
        self.tell_what_a_stop_cut_off().await?;
        self.arm_deadline();
        self.go_on_in_time().await?;
        loop {
            if !self.recorder.machine.has_ended() {
                self.count().await?;
            }
            let seen = self.seen();
            let next = self.recorder.machine.decide(&seen);
            if next.begins_step() && self.reins.leaves() && !self.reins.cancel.is_cancelled() {
                return Ok(self.recorder.machine.status());
            }
            // Who waits is ended by the host: what it waits for may be there in the same moment.
            if next == Next::Nothing || self.recorder.machine.is_parked() {
                self.let_go();
                self.tell_end().await;
                return Ok(self.recorder.machine.status());
            }
            let span = telemetry::step_span(&next, self.recorder.machine.step());
            match self.perform(next).instrument(span).await {
                Ok(()) | Err(Stop::Ended) => {}
                Err(Stop::Store(error)) => return Err(error),
                Err(Stop::Interrupted(Interruption::Cancelled)) => self.end(TurnMachine::cancellation).await?,
                Err(Stop::Interrupted(Interruption::TimeLimit)) => self.end_out_of_time().await?,
                Err(Stop::Failed(error)) => self.end(|machine| machine.failure(error)).await?,
            }
        }
    }

    /// Ends the turn, in one append with what was cut off.
    async fn end(&mut self, with: impl FnOnce(&TurnMachine) -> Vec<NewEvent>) -> Result<(), StoreError> {
        let mut events = std::mem::take(&mut self.cut_off);
        let mut machine = self.recorder.machine.clone();
        for event in &events {
            machine.apply(&event.body);
        }
        events.extend(with(&machine));
        self.recorder.record(events).await?;
        self.let_go();
        Ok(())
    }

    fn seen(&mut self) -> Seen {
        Seen {
            elapsed: self.begun.elapsed(),
            context: self.context(),
            client: self.reins.client(),
        }
    }

    async fn perform(&mut self, next: Next) -> Result<(), Stop> {
        if self.reins.cancel.is_cancelled() {
            return Err(Interruption::Cancelled.into());
        }
        let machine = &self.recorder.machine;
        let events = match next {
            Next::Begin => return self.begin().await,
            Next::AskModel { step, tools } => return self.ask_model(step, tools).await,
            Next::RunCalls(calls) => return self.run_calls(calls).await,
            Next::Compact => return self.compact().await,
            Next::Steer => return self.steer().await,
            Next::Complete(reason) => return self.complete(reason).await,
            Next::Exhaust(exhausted) => return self.exhaust(exhausted).await,
            Next::ValidateOutput { attempt } => {
                let validated = vec![self.validate_output(attempt)];
                return Ok(self.recorder.hold_back(validated).await?);
            }
            Next::Warn(warning) => {
                let warned = vec![machine.warning(warning)];
                return Ok(self.recorder.hold_back(warned).await?);
            }
            Next::BeginStep { step, notes } => {
                self.hold().await?;
                self.begin_step(step, notes).await?
            }
            Next::Park(waiting_for) => vec![machine.event(EventBody::TurnPaused {
                waiting_for,
                worked_ms: None,
            })],
            Next::Fail(error) => machine.failure(error),
            Next::Cancel => machine.cancellation(),
            Next::Wait | Next::Nothing => Vec::new(),
        };
        Ok(self.recorder.record(events).await?)
    }

    /// Records what the client added, in the order in which it came.
    async fn steer(&mut self) -> Result<(), Stop> {
        for addition in self.reins.additions() {
            let Some(addition) = self.guard_addition(addition).await? else {
                continue;
            };
            let added = self.recorder.add(addition.input, addition.idempotency).await?;
            // Whoever sent it may have gone: it is recorded all the same.
            let _ = addition.recorded.send(Ok(added));
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Stop> {
        self.guard_turn().await?;
        let files = self.interruptible(self.caller.keep_files(self.plan.session)).await?;
        let files = files.map_err(|error| {
            Stop::Failed(TurnError {
                code: TurnErrorCode::Internal,
                message: format!("the session's files can't be used: {error}"),
            })
        })?;
        let offered = &self.plan.tools.offered;
        let event = self.recorder.machine.event(EventBody::TurnStarted {
            agent: self.plan.agent.clone(),
            model: self.plan.model.name.clone(),
            tools: offered.names(),
            components: offered.components().map(|(_, of)| (of.name, of.digest)).collect(),
            budget: self.plan.budget,
            files,
        });
        self.recorder.hold_back(vec![event]).await?;
        self.arm_deadline();
        Ok(())
    }

    /// Between two steps the tools become what they are now, and those that the model has loaded are shown.
    async fn begin_step(&mut self, step: u64, mut notes: Vec<Note>) -> Result<Vec<NewEvent>, Stop> {
        let mut events = Vec::new();
        if !self.plan.toolbox.is_at_hand() {
            self.recorder.settle().await?;
        }
        if let Some(tools) = self.plan.toolbox.renewed(&self.plan.tools).await {
            self.plan.tools = tools;
            self.told = Told::Perhaps;
        }
        let machine = &self.recorder.machine;
        if std::mem::replace(&mut self.told, Told::All) == Told::Perhaps
            && let Some(difference) = machine.told_tools().difference(self.plan.tools.offered.components())
        {
            events.push(machine.event(difference.event()));
            // Before its first step the model has not seen any.
            if step > 1 {
                notes.push(difference.note());
            }
        }
        notes.extend(self.ends_of_jobs().await);
        let worked_ms = u64::try_from(self.begun.elapsed().as_millis()).ok();
        let shown = self.plan.tools.shown(self.recorder.loaded_tools());
        if !Arc::ptr_eq(&shown, &self.shown) {
            self.gauge.fix(fixed(&self.plan.system, &shown));
            self.shown = shown;
        }
        events.push(
            self.recorder
                .machine
                .event(EventBody::StepStarted { step, notes, worked_ms }),
        );
        Ok(events)
    }

    fn by_model(&self, body: EventBody) -> NewEvent {
        NewEvent {
            source: Source::Model,
            ..self.recorder.machine.event(body)
        }
    }

    /// Waits for `work`, unless the turn is cancelled or its time is up first. What happened before is durable, or its watchers and who
    /// takes the turn up after a crash would know nothing of it for as long.
    async fn interruptible<T>(&self, work: impl Future<Output = T>) -> Result<T, Interruption> {
        debug_assert!(
            self.recorder.is_settled(),
            "what happened is held back while the turn waits"
        );
        let time_is_up = async {
            match &self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.at().into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.reins.cancel.cancelled() => Err(Interruption::Cancelled),
            () = time_is_up => Err(Interruption::TimeLimit),
            done = work => Ok(done),
        }
    }
}

/// What instructions and tools take, by estimate.
fn fixed(system: &str, tools: &[ToolDefinition]) -> u64 {
    Counter::Estimate.text(system) + Counter::Estimate.tools(tools)
}
