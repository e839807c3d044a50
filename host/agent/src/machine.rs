//! The turn machine: what has happened in a turn, and what must happen next. Pure: no I/O, no clock, no randomness.
//!
//! [`TurnMachine::apply`] folds recorded events; [`TurnMachine::decide`] says what to do now. The driver does it, records
//! what happened, applies that, and asks again. Folding the journal of a turn that was cut off anywhere gives a state from
//! which `decide` leads to the end, so a restarted host needs nothing but the journal.
//!
//! | phase | meaning | `decide` |
//! |---|---|---|
//! | `Queued` | accepted | [`Next::Begin`] |
//! | `Ready` | begun, or a step's results are all there | [`Next::BeginStep`], or [`Next::Exhaust`] when a budget is used up |
//! | `Asking` | a step has begun, the model has not answered | [`Next::AskModel`] |
//! | `Answered` | the model answered | [`Next::RunCalls`] while calls wait to run, then back to `Ready`; without calls [`Next::Complete`] |
//! | `Ended` | a terminal event is recorded | [`Next::Nothing`] |

use fumehood_core::{
    call::{CallError, CallErrorCode, Metering},
    content::Content,
    event::{Event, EventBody, NewEvent, Source},
    id::{CallId, TurnId},
    message::RequestedCall,
    turn::{Budget, StepStop, StopReason, TurnError, TurnStatus, Usage},
};

/// What must happen next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Record `turn.started`.
    Begin,
    /// Record `step.started` with this number.
    BeginStep(u64),
    /// Ask the model for this step, and record its whole answer at once.
    AskModel(u64),
    /// Run these calls, side by side, and record each end.
    RunCalls(Vec<RequestedCall>),
    /// Record that a budget is used up and the turn's end.
    Exhaust(Exhausted),
    /// Record that the turn is complete.
    Complete(StopReason),
    /// The turn has ended.
    Nothing,
}

/// A budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// `steps`, `tool_calls` or `tokens`.
    pub budget: &'static str,
    /// How much was used.
    pub used: u64,
    /// How much there was.
    pub limit: u64,
    /// The stop reason it gives the turn.
    pub stop_reason: StopReason,
}

/// The state of one turn.
#[derive(Debug, Clone)]
pub struct TurnMachine {
    turn: TurnId,
    phase: Phase,
    budget: Budget,
    step: u64,
    calls: Vec<CallState>,
    calls_used: u64,
    usage: Option<Usage>,
    step_text: String,
    last_text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Queued,
    Ready,
    Asking,
    Answered(StepStop),
    Ended(TurnStatus),
}

#[derive(Debug, Clone)]
struct CallState {
    call: RequestedCall,
    progress: CallProgress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallProgress {
    Requested,
    Started,
    Settled,
}

impl TurnMachine {
    /// A turn of which nothing is known yet but its id.
    #[must_use]
    pub fn new(turn: TurnId) -> Self {
        Self {
            turn,
            phase: Phase::Queued,
            budget: Budget::default(),
            step: 0,
            calls: Vec::new(),
            calls_used: 0,
            usage: None,
            step_text: String::new(),
            last_text: String::new(),
        }
    }

    /// Folds events that were recorded for this turn; those of other turns are passed over.
    pub fn apply_all<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) {
        for event in events {
            if event.turn == Some(self.turn) {
                self.apply(&event.body);
            }
        }
    }

    /// Folds one event of this turn. After a terminal event everything is passed over.
    pub fn apply(&mut self, body: &EventBody) {
        if self.has_ended() {
            return;
        }
        match body {
            EventBody::TurnStarted { budget, .. } => {
                self.budget = *budget;
                self.phase = Phase::Ready;
            }
            EventBody::StepStarted { step } => {
                self.step = *step;
                self.calls.clear();
                self.step_text.clear();
                self.phase = Phase::Asking;
            }
            EventBody::TextCompleted { text, .. } => self.step_text.push_str(text),
            EventBody::ToolRequested { call, .. } => {
                self.calls.push(CallState {
                    call: call.clone(),
                    progress: CallProgress::Requested,
                });
            }
            EventBody::StepCompleted { stop_reason, usage, .. } => {
                if let Some(usage) = usage {
                    self.usage = Some(self.usage.unwrap_or_default().plus(*usage));
                }
                if !self.step_text.is_empty() {
                    self.last_text = std::mem::take(&mut self.step_text);
                }
                self.calls_used += self.calls.len() as u64;
                self.phase = Phase::Answered(*stop_reason);
            }
            EventBody::ToolStarted { call, .. } => self.advance(*call, CallProgress::Started),
            EventBody::ToolCompleted { call, .. } => self.advance(*call, CallProgress::Settled),
            EventBody::TurnCompleted { .. } => self.phase = Phase::Ended(TurnStatus::Completed),
            EventBody::TurnFailed { .. } => self.phase = Phase::Ended(TurnStatus::Failed),
            EventBody::TurnCancelled { .. } => self.phase = Phase::Ended(TurnStatus::Cancelled),
            _ => {}
        }
    }

    /// The step that was begun last, from 1; 0 before the first.
    #[must_use]
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// What must happen now, given that nothing of this turn is under way.
    #[must_use]
    pub fn decide(&self) -> Next {
        match self.phase {
            Phase::Queued => Next::Begin,
            Phase::Ready => self.next_step(),
            Phase::Asking => Next::AskModel(self.step),
            Phase::Answered(_) if self.calls.iter().any(|call| call.progress != CallProgress::Settled) => {
                Next::RunCalls(
                    self.calls
                        .iter()
                        .filter(|c| c.progress == CallProgress::Requested)
                        .map(|c| c.call.clone())
                        .collect(),
                )
            }
            Phase::Answered(_) if !self.calls.is_empty() => self.next_step(),
            Phase::Answered(stop) => Next::Complete(match stop {
                StepStop::Stop | StepStop::ToolCalls => StopReason::EndTurn,
                StepStop::Length => StopReason::OutputLimit,
                StepStop::ContentFilter => StopReason::ContentFilter,
            }),
            Phase::Ended(_) => Next::Nothing,
        }
    }

    fn next_step(&self) -> Next {
        // THREAT[T-loop-runaway]: no step begins once any budget is used up.
        let tokens = self.usage.map_or(0, Usage::total);
        let checks = [
            ("tokens", tokens, self.budget.tokens, StopReason::TokenLimit),
            (
                "tool_calls",
                self.calls_used,
                self.budget.tool_calls,
                StopReason::ToolCallLimit,
            ),
            ("steps", self.step, self.budget.steps, StopReason::StepLimit),
        ];
        for (budget, used, limit, stop_reason) in checks {
            if let Some(limit) = limit.filter(|limit| used >= *limit) {
                return Next::Exhaust(Exhausted {
                    budget,
                    used,
                    limit,
                    stop_reason,
                });
            }
        }
        Next::BeginStep(self.step + 1)
    }

    fn advance(&mut self, call: CallId, progress: CallProgress) {
        if let Some(state) = self.calls.iter_mut().find(|state| state.call.id == call) {
            state.progress = progress;
        }
    }

    /// How many of the step's calls fit into the budget of tool calls. The rest is refused, not run.
    #[must_use]
    pub fn calls_within_budget(&self) -> usize {
        let before = self.calls_used - self.calls.len() as u64;
        let left = self
            .budget
            .tool_calls
            .map_or(u64::MAX, |limit| limit.saturating_sub(before));
        usize::try_from(left).unwrap_or(usize::MAX).min(self.calls.len())
    }

    /// Where in the step's calls this one stands, from 0.
    #[must_use]
    pub fn place_of(&self, call: CallId) -> Option<usize> {
        self.calls.iter().position(|state| state.call.id == call)
    }

    /// The calls that entered a sandbox and have no recorded end: what a host that stopped left behind.
    #[must_use]
    pub fn calls_in_flight(&self) -> Vec<RequestedCall> {
        self.calls
            .iter()
            .filter(|c| c.progress == CallProgress::Started)
            .map(|c| c.call.clone())
            .collect()
    }

    /// The events that complete the turn.
    #[must_use]
    pub fn completion(&self, stop_reason: StopReason) -> Vec<NewEvent> {
        let output = if self.last_text.is_empty() {
            Vec::new()
        } else {
            vec![Content::text(&self.last_text)]
        };
        vec![self.event(EventBody::TurnCompleted {
            stop_reason,
            output,
            usage: self.usage,
        })]
    }

    /// The events that end a turn whose budget is used up: it keeps the last text it has.
    #[must_use]
    pub fn exhaustion(&self, exhausted: Exhausted) -> Vec<NewEvent> {
        let Exhausted {
            budget,
            used,
            limit,
            stop_reason,
        } = exhausted;
        let mut events = vec![self.event(EventBody::BudgetExhausted {
            budget: budget.into(),
            used,
            limit,
        })];
        events.extend(self.completion(stop_reason));
        events
    }

    /// The events that cancel the turn. Every call without an end gets one, so that the history stays whole.
    #[must_use]
    pub fn cancellation(&self) -> Vec<NewEvent> {
        let why = CallError::new(CallErrorCode::Cancelled, "the turn was cancelled before the call ended");
        let mut events = self.settle_open_calls(&why);
        events.push(self.event(EventBody::TurnCancelled { usage: self.usage }));
        events
    }

    /// The events that fail the turn. Every call without an end gets one.
    #[must_use]
    pub fn failure(&self, error: TurnError) -> Vec<NewEvent> {
        let why = CallError::new(CallErrorCode::Cancelled, "the turn failed before the call ended");
        let mut events = self.settle_open_calls(&why);
        events.push(self.event(EventBody::TurnFailed {
            error,
            usage: self.usage,
        }));
        events
    }

    /// An event of this turn, by the host.
    #[must_use]
    pub fn event(&self, body: EventBody) -> NewEvent {
        NewEvent {
            turn: Some(self.turn),
            source: Source::Host,
            body,
        }
    }

    /// Whether a terminal event was applied.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// The turn's budget, as `turn.started` recorded it.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    /// The status that a client sees.
    #[must_use]
    pub const fn status(&self) -> TurnStatus {
        match self.phase {
            Phase::Queued => TurnStatus::Queued,
            Phase::Ready | Phase::Asking | Phase::Answered(_) => TurnStatus::Running,
            Phase::Ended(status) => status,
        }
    }

    fn settle_open_calls(&self, why: &CallError) -> Vec<NewEvent> {
        self.calls
            .iter()
            .filter(|state| state.progress != CallProgress::Settled)
            .map(|state| {
                let call = &state.call;
                let body = EventBody::tool_completed(call.id, call.tool.clone(), Err(why.clone()), Metering::default());
                self.event(body)
            })
            .collect()
    }
}
