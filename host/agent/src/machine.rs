//! The turn machine: what has happened in a turn, and what must happen next. Pure: no I/O, no clock, no randomness.
//!
//! [`TurnMachine::apply`] folds recorded events; [`TurnMachine::decide`] says what to do now, given the few things that are not in
//! the journal ([`Seen`]). The driver does it, records what happened, applies that, and asks again. Folding the journal of a turn
//! that was cut off anywhere gives a state from which `decide` leads to the end, so a restarted host needs nothing but the journal.
//!
//! The first row that fits decides:
//!
//! | phase | when | `decide` |
//! |---|---|---|
//! | `Queued` | always | `Begin` |
//! | `Parked` | the client asked to stop at the next boundary | `Cancel` |
//! | `Parked` | otherwise | `Wait` |
//! | `Asking` | always | `AskModel` |
//! | `Answered` | a call can run | `RunCalls` |
//! | `Answered` | calls wait for a decision, and the client asked to stop | `Cancel` |
//! | `Answered` | calls wait for a decision | `Park` |
//! | `Answered` | calls wait for results, and the client asked to stop | `Cancel` |
//! | `Answered` | calls wait for results | `Park` |
//! | `Answered` | 80 % or 100 % of a budget is used | `Warn` |
//! | `Answered` | the client asked to stop at the next boundary | `Cancel` |
//! | `Answered` | a client has added to its input, and another step may follow | `Steer` |
//! | `Answered` | no call, and the answer must follow a schema | `ValidateOutput` |
//! | `Answered` | no call, nothing lost | `Complete` |
//! | `Validated` | always | `Complete` |
//! | `Ready` | 80 % or 100 % of a budget is used | `Warn` |
//! | `Ready` | the client asked to stop at the next boundary | `Cancel` |
//! | `Ready` | a client has added to its input, and another step may follow | `Steer` |
//! | `Ready` | the answer was rejected too often | `Fail` |
//! | `Ready` | the model repeats itself, and was told | `Complete` |
//! | `Ready` | a budget is used up | `Exhaust` |
//! | `Ready` | the conversation nears what the model takes, and summing it up did not just fail | `Compact` |
//! | `Ready` | otherwise | `BeginStep` |
//! | `Ended` | always | `Nothing` |
//!
//! A turn whose step has all its results, or whose answer was cut off or rejected, is `Ready` again.

mod budget;
mod calls;
mod endings;
mod habits;
mod told;
mod waiting;

pub use budget::{Exhausted, Warning};
pub use calls::{Attempt, HandedOn, OpenCall, Verdict};

use budget::Spending;
use calls::Calls;
use fumehood_core::{
    awaited::DetachedCall,
    event::{Event, EventBody},
    id::TurnId,
    name::{AgentName, ModelName},
    turn::{
        Budget, BudgetScope, Note, NoteKind, StepStop, StopReason, TurnError, TurnErrorCode, TurnStatus, WaitingFor,
    },
};
use habits::Habits;
use std::time::Duration;
use told::ToldTools;

/// Answers to one turn that may be rejected before the turn fails.
pub const OUTPUT_ATTEMPTS: u32 = 3;
/// Steps after which it is tried again to sum up a conversation that could not be.
const STEPS_TO_COMPACTION: u64 = 3;

/// What must happen next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Record `turn.started`.
    Begin,
    /// Record that so much of a budget is used.
    Warn(Warning),
    /// Record what the client added to its input.
    Steer,
    /// Sum up the older part of the conversation, or record that it can't be done.
    Compact,
    /// Record `step.started` with this number and these notes.
    BeginStep {
        /// From 1.
        step: u64,
        /// What the model is told before it.
        notes: Vec<Note>,
    },
    /// Ask the model for this step, and record its whole answer at once.
    AskModel {
        /// From 1.
        step: u64,
        /// Whether it may ask for tools.
        tools: ToolUse,
    },
    /// Run these calls, side by side, and record each end; or record that they wait for a decision. One that began under a host that
    /// stopped runs again if it may, and ends as interrupted if not.
    RunCalls(Vec<OpenCall>),
    /// Record that the turn waits.
    Park(WaitingFor),
    /// Leave the turn: whoever brings what it waits for takes it up again.
    Wait,
    /// Check the answer against the turn's schema, and record whether it follows it.
    ValidateOutput {
        /// From 1.
        attempt: u32,
    },
    /// Record that a budget is used up and the turn's end.
    Exhaust(Exhausted),
    /// Record that the turn is complete.
    Complete(StopReason),
    /// Record that the turn failed.
    Fail(TurnError),
    /// Record that the turn is cancelled.
    Cancel,
    /// The turn has ended.
    Nothing,
}

impl Next {
    /// Whether it comes between two steps, or before the first: whoever leaves the turn there leaves nothing under way.
    #[must_use]
    pub const fn begins_step(&self) -> bool {
        matches!(self, Self::Begin | Self::Compact | Self::BeginStep { .. })
    }
}

/// Whether the model may ask for tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolUse {
    /// As it sees fit.
    Allowed,
    /// It is to answer.
    Withheld,
}

/// What is not in the journal and decides what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// How long the turn has been worked.
    pub elapsed: Duration,
    /// Whether the conversation nears what the model takes.
    pub context: Context,
    /// What the client asked for meanwhile.
    pub client: Client,
}

/// How full the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Context {
    /// There is room for another step.
    #[default]
    Room,
    /// It nears what the model takes.
    NearlyFull,
}

/// What the client asked for while the turn ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Client {
    /// Nothing.
    #[default]
    Waits,
    /// It has added to its input.
    Steers,
    /// To stop at the next boundary.
    Stops,
}

/// The state of one turn.
#[derive(Debug, Clone)]
pub struct TurnMachine {
    turn: TurnId,
    phase: Phase,
    began: Option<(AgentName, ModelName)>,
    step: u64,
    calls: Calls,
    spending: Spending,
    habits: Habits,
    output: Output,
    /// The conversation was summed up, or could not be, since the model answered last.
    compacted: bool,
    /// After which step it could not be summed up last, unless it was since.
    not_compacted: Option<u64>,
    /// How often the model refused this step's conversation as too long.
    overflows: u32,
    tools: ToldTools,
    dropped_calls: Vec<String>,
    step_text: String,
    last_text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Queued,
    Ready,
    Asking,
    Answered(StepStop),
    Validated,
    Parked(WaitingFor),
    Ended(TurnStatus),
}

/// What the answer must be, and what came of the last attempt.
#[derive(Debug, Clone, Default)]
enum Output {
    /// Any text.
    #[default]
    Free,
    /// A value that follows the turn's schema.
    Schema {
        rejected: u32,
        faults: Vec<String>,
        value: Option<serde_json::Value>,
    },
}

impl TurnMachine {
    /// A turn of which nothing is known yet but its id.
    #[must_use]
    pub fn new(turn: TurnId) -> Self {
        Self {
            turn,
            phase: Phase::Queued,
            began: None,
            step: 0,
            calls: Calls::default(),
            spending: Spending::default(),
            habits: Habits::default(),
            output: Output::Free,
            compacted: false,
            not_compacted: None,
            overflows: 0,
            tools: ToldTools::default(),
            dropped_calls: Vec::new(),
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

    /// Says that somebody goes on with the turn who has begun none of its calls: those that began until now, and have no end, end with
    /// the turn as interrupted, unless they run again.
    pub fn taken_up(&mut self) {
        self.calls.taken_up();
    }

    /// Folds one event of this turn. After a terminal event everything is passed over.
    pub fn apply(&mut self, body: &EventBody) {
        if self.has_ended() {
            return;
        }
        match body {
            EventBody::TurnQueued {
                output_schema: Some(_), ..
            } => {
                self.output = Output::Schema {
                    rejected: 0,
                    faults: Vec::new(),
                    value: None,
                };
            }
            EventBody::TurnStarted {
                agent,
                model,
                tools,
                components,
                budget,
                ..
            } => {
                self.tools = ToldTools::at_start(tools, components);
                self.began = Some((agent.clone(), model.clone()));
                self.spending.begin(*budget);
                self.phase = Phase::Ready;
            }
            EventBody::ToolsChanged {
                added,
                removed,
                components,
                ..
            } => self.tools.change(added, removed, components),
            EventBody::TurnSteered { .. } => self.phase = Phase::Ready,
            EventBody::TurnPaused { waiting_for, .. } => self.phase = Phase::Parked(*waiting_for),
            EventBody::TurnResumed { .. } => {
                self.phase = Phase::Answered(StepStop::ToolCalls);
                self.be_ready();
            }
            EventBody::BudgetWarning {
                scope: BudgetScope::Turn,
                budget,
                percent,
                ..
            } => self.spending.warned(budget, *percent),
            EventBody::CompactionStarted { .. }
            | EventBody::CompactionCompleted { .. }
            | EventBody::CompactionFailed { .. } => self.apply_compaction(body),
            EventBody::OutputValidated { value: valid, .. } => {
                if let Output::Schema { value, .. } = &mut self.output {
                    *value = Some(valid.clone());
                }
                self.phase = Phase::Validated;
            }
            EventBody::OutputRejected { faults: why, .. } => {
                if let Output::Schema { rejected, faults, .. } = &mut self.output {
                    *rejected += 1;
                    faults.clone_from(why);
                }
                self.phase = Phase::Ready;
            }
            EventBody::TurnCompleted { .. } => self.phase = Phase::Ended(TurnStatus::Completed),
            EventBody::TurnFailed { .. } => self.phase = Phase::Ended(TurnStatus::Failed),
            EventBody::TurnCancelled { .. } => self.phase = Phase::Ended(TurnStatus::Cancelled),
            _ => self.apply_step(body),
        }
    }

    fn apply_step(&mut self, body: &EventBody) {
        match body {
            EventBody::StepStarted { step, notes, .. } => {
                self.habits.step_begins(&self.calls, notes);
                self.step = *step;
                self.spending.steps += 1;
                self.calls.clear();
                self.dropped_calls.clear();
                self.step_text.clear();
                self.overflows = 0;
                if let Output::Schema { faults, .. } = &mut self.output {
                    faults.clear();
                }
                self.phase = Phase::Asking;
            }
            EventBody::RetryScheduled { usage, cost, .. } | EventBody::StepFailed { usage, cost, .. } => {
                self.spending.spend(*usage, *cost);
            }
            EventBody::TextCompleted { text, .. } => self.step_text.push_str(text),
            EventBody::ToolRequested { call, .. } => self.calls.request(call.clone()),
            EventBody::StepCompleted {
                stop_reason,
                usage,
                cost,
                dropped_calls,
                ..
            } => {
                self.spending.spend(*usage, *cost);
                self.spending.tool_calls += self.calls.len();
                if !self.step_text.is_empty() {
                    self.last_text = std::mem::take(&mut self.step_text);
                }
                self.compacted = false;
                // What the provider withheld is the end: the model is not told what it lost.
                if *stop_reason == StepStop::Length {
                    self.dropped_calls.clone_from(dropped_calls);
                }
                self.phase = Phase::Answered(*stop_reason);
                self.be_ready();
            }
            EventBody::ApprovalRequested { calls } => self.calls.hold(calls),
            EventBody::ApprovalResolved { decisions } => self.calls.resolve(decisions),
            EventBody::ResultsRequested { calls } => self.calls.hand_over(calls),
            EventBody::ToolStarted {
                call,
                effect,
                fingerprint,
                attempt,
                arguments,
                ..
            } => {
                let attempt = Attempt {
                    effect: *effect,
                    fingerprint: *fingerprint,
                    number: *attempt,
                    arguments: arguments.clone(),
                };
                self.calls.start(*call, attempt);
            }
            EventBody::ToolCommitted { call, .. } => self.calls.commit(*call),
            EventBody::ToolCalled { call, .. } => self.calls.call_inner(*call, body),
            EventBody::ToolDetached {
                call,
                tool,
                callback,
                expires,
                note,
                ..
            } => self.calls.detach(DetachedCall {
                call_id: *call,
                tool: tool.clone(),
                callback: *callback,
                expires: *expires,
                note: note.clone(),
            }),
            EventBody::ToolCompleted {
                call, output, error, ..
            } => {
                self.calls.settle(*call, output.as_ref(), error.as_ref());
                self.be_ready();
            }
            _ => {}
        }
    }

    fn apply_compaction(&mut self, body: &EventBody) {
        match body {
            EventBody::CompactionStarted { .. } if self.phase == Phase::Asking => self.overflows += 1,
            EventBody::CompactionCompleted { usage, cost, .. } | EventBody::CompactionFailed { usage, cost, .. } => {
                self.spending.spend(*usage, *cost);
                self.compacted = true;
                self.not_compacted = matches!(body, EventBody::CompactionFailed { .. }).then_some(self.step);
            }
            _ => {}
        }
    }

    /// A step that asked for calls, or lost some, is followed by another once everything is settled.
    fn be_ready(&mut self) {
        let goes_on = !self.calls.is_empty() || !self.dropped_calls.is_empty();
        if matches!(self.phase, Phase::Answered(_)) && goes_on && self.calls.all_settled() {
            self.phase = Phase::Ready;
        }
    }

    /// What must happen now, given that nothing of this turn is under way.
    #[must_use]
    pub fn decide(&self, seen: &Seen) -> Next {
        match self.phase {
            Phase::Queued => Next::Begin,
            Phase::Parked(_) if seen.client == Client::Stops => Next::Cancel,
            Phase::Parked(_) => Next::Wait,
            Phase::Asking => Next::AskModel {
                step: self.step,
                tools: self.tool_use(),
            },
            Phase::Answered(_) if self.calls.can_go_on() => Next::RunCalls(self.calls.open()),
            Phase::Answered(_) if self.calls.any_held() && seen.client == Client::Stops => Next::Cancel,
            Phase::Answered(_) if self.calls.any_held() => Next::Park(WaitingFor::Approval),
            Phase::Answered(_) if self.calls.any_awaited() && seen.client == Client::Stops => Next::Cancel,
            Phase::Answered(_) if self.calls.any_awaited() => Next::Park(WaitingFor::Results),
            Phase::Answered(stop) => self.at_boundary(seen).unwrap_or_else(|| self.answer(stop)),
            Phase::Validated => Next::Complete(StopReason::EndTurn),
            Phase::Ready => self.at_boundary(seen).unwrap_or_else(|| self.next_step(seen)),
            Phase::Ended(_) => Next::Nothing,
        }
    }

    /// What comes between steps, and before the end.
    fn at_boundary(&self, seen: &Seen) -> Option<Next> {
        if let Some(warning) = self.spending.warning(seen.elapsed) {
            return Some(Next::Warn(warning));
        }
        match seen.client {
            Client::Stops => Some(Next::Cancel),
            // What no step would read does not become part of the turn.
            Client::Steers if self.end_of_steps().is_none() => Some(Next::Steer),
            Client::Steers | Client::Waits => None,
        }
    }

    fn answer(&self, stop: StepStop) -> Next {
        match (&self.output, stop) {
            (Output::Schema { rejected, .. }, StepStop::Stop | StepStop::ToolCalls | StepStop::Length) => {
                Next::ValidateOutput { attempt: rejected + 1 }
            }
            (_, StepStop::Stop | StepStop::ToolCalls) => Next::Complete(StopReason::EndTurn),
            (_, StepStop::Length) => Next::Complete(StopReason::OutputLimit),
            (_, StepStop::ContentFilter) => Next::Complete(StopReason::ContentFilter),
        }
    }

    /// Why no other step may follow.
    fn end_of_steps(&self) -> Option<Next> {
        if let Output::Schema { rejected, faults, .. } = &self.output
            && *rejected >= OUTPUT_ATTEMPTS
        {
            return Some(Next::Fail(output_invalid(faults)));
        }
        if self.habits.goes_on_repeating(&self.calls) {
            return Some(Next::Complete(StopReason::Repetition));
        }
        // THREAT[T-loop-runaway]: no step begins once any budget is used up.
        self.spending.exhausted().map(Next::Exhaust)
    }

    fn next_step(&self, seen: &Seen) -> Next {
        if let Some(end) = self.end_of_steps() {
            return end;
        }
        if seen.context == Context::NearlyFull && !self.compacted && self.may_compact() {
            return Next::Compact;
        }
        Next::BeginStep {
            step: self.step + 1,
            notes: self.notes(),
        }
    }

    /// What failed just now would most likely fail again.
    fn may_compact(&self) -> bool {
        self.not_compacted
            .is_none_or(|step| self.step >= step.saturating_add(STEPS_TO_COMPACTION))
    }

    fn notes(&self) -> Vec<Note> {
        let mut notes = self.habits.notes(&self.calls);
        if !self.dropped_calls.is_empty() {
            notes.push(Note {
                kind: NoteKind::Truncated,
                text: format!(
                    "Your answer reached the output limit and was cut off. These calls were not run, because their arguments may be \
                     incomplete: {}. Ask again with less in each call; split what is large.",
                    self.dropped_calls.join(", ")
                ),
                job: None,
            });
        }
        if let Output::Schema { faults, .. } = &self.output
            && !faults.is_empty()
        {
            notes.push(Note {
                kind: NoteKind::OutputRejected,
                text: format!(
                    "Your answer does not follow the JSON Schema it must follow: {}. Answer again with the corrected JSON only, \
                     without any other text.",
                    faults.join("; ")
                ),
                job: None,
            });
        }
        notes
    }

    /// The tools the turn was last told of.
    pub(crate) const fn told_tools(&self) -> &ToldTools {
        &self.tools
    }

    /// While an answer is repaired there is nothing to look up.
    const fn tool_use(&self) -> ToolUse {
        match &self.output {
            Output::Schema { rejected, .. } if *rejected > 0 => ToolUse::Withheld,
            _ => ToolUse::Allowed,
        }
    }

    /// The step that was begun last, from 1; 0 before the first.
    #[must_use]
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// The step whose answer is asked for and not there.
    #[must_use]
    pub const fn asks(&self) -> Option<u64> {
        match self.phase {
            Phase::Asking => Some(self.step),
            _ => None,
        }
    }

    /// Whether the answer that is to be judged reached the model's output limit.
    #[must_use]
    pub const fn answer_is_cut(&self) -> bool {
        matches!(self.phase, Phase::Answered(StepStop::Length))
    }

    /// What of the turn's budgets must be told now and was not.
    pub(crate) fn untold(&self, elapsed: Duration) -> Option<Warning> {
        self.spending.warning(elapsed)
    }

    /// The text of the last answer that had any.
    #[must_use]
    pub fn last_text(&self) -> &str {
        &self.last_text
    }

    /// How often the model has refused this step's conversation as too long.
    #[must_use]
    pub const fn overflows(&self) -> u32 {
        self.overflows
    }

    /// The turn's budget, as `turn.started` recorded it.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        self.spending.budget()
    }

    /// The agent that works the turn, once one does.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentName> {
        self.began.as_ref().map(|(agent, _)| agent)
    }

    /// The turn's own model, as `turn.started` recorded it.
    #[must_use]
    pub fn model(&self) -> Option<&ModelName> {
        self.began.as_ref().map(|(_, model)| model)
    }

    /// Whether a terminal event was applied.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    /// The status that a client sees.
    #[must_use]
    pub const fn status(&self) -> TurnStatus {
        match self.phase {
            Phase::Queued => TurnStatus::Queued,
            Phase::Ready | Phase::Asking | Phase::Answered(_) | Phase::Validated => TurnStatus::Running,
            Phase::Parked(WaitingFor::Approval) => TurnStatus::AwaitingApproval,
            Phase::Parked(WaitingFor::Results) => TurnStatus::AwaitingResults,
            Phase::Ended(status) => status,
        }
    }
}

fn output_invalid(faults: &[String]) -> TurnError {
    TurnError {
        code: TurnErrorCode::OutputInvalid,
        message: format!(
            "the answer does not follow the output schema after {OUTPUT_ATTEMPTS} attempts: {}",
            faults.join("; ")
        ),
    }
}
