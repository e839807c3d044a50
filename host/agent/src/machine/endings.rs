//! The events that end a turn. Every call without an end gets one first, so that the history stays whole.

use super::{Exhausted, Output, TurnMachine, Warning, calls::Unsettled};
use fumehood_core::{
    call::{CallError, CallErrorCode, Metering},
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::CallId,
    message::RequestedCall,
    name::ToolName,
    turn::{StopReason, TurnError},
};

const LEFT: &str =
    "the host stopped while the call ran, and the turn ended before it could run again; it may have taken effect";

/// What is added to why a call ended that a tool had handed on.
const GOES_ON: &str = "; its tool had handed it on, and the work may go on outside all the same";

impl TurnMachine {
    /// An event of this turn, by the host.
    #[must_use]
    pub fn event(&self, body: EventBody) -> NewEvent {
        NewEvent {
            turn: Some(self.turn),
            source: Source::Host,
            body,
        }
    }

    /// The events that complete the turn.
    #[must_use]
    pub fn completion(&self, stop_reason: StopReason) -> Vec<NewEvent> {
        let output = match &self.output {
            Output::Schema { value: Some(value), .. } => vec![Content::Json { json: value.clone() }],
            _ if self.last_text.is_empty() => Vec::new(),
            _ => vec![Content::text(&self.last_text)],
        };
        let why = CallError::new(CallErrorCode::Cancelled, "the turn ended before the call did");
        let mut events = self.settle_open_calls(&why);
        events.push(self.event(EventBody::TurnCompleted {
            stop_reason,
            output,
            usage: self.spending.usage(),
            cost: self.spending.cost(),
            worked_ms: None,
        }));
        events
    }

    /// The events that end a turn whose budget is used up: it keeps the last text it has.
    #[must_use]
    pub fn exhaustion(&self, exhausted: Exhausted) -> Vec<NewEvent> {
        let mut events = vec![self.used_up(exhausted)];
        events.extend(self.completion(exhausted.stop_reason));
        events
    }

    /// The event that tells that a budget is used up.
    #[must_use]
    pub fn used_up(&self, exhausted: Exhausted) -> NewEvent {
        let Exhausted {
            scope,
            budget,
            used,
            limit,
            ..
        } = exhausted;
        self.event(EventBody::BudgetExhausted {
            scope,
            budget: budget.into(),
            used,
            limit,
        })
    }

    /// The event that tells how much of a budget is used.
    #[must_use]
    pub fn warning(&self, warning: Warning) -> NewEvent {
        self.event(warning.into())
    }

    /// The events that cancel the turn.
    #[must_use]
    pub fn cancellation(&self) -> Vec<NewEvent> {
        let why = CallError::new(CallErrorCode::Cancelled, "the turn was cancelled before the call ended");
        let mut events = self.settle_open_calls(&why);
        events.push(self.event(EventBody::TurnCancelled {
            usage: self.spending.usage(),
            cost: self.spending.cost(),
            worked_ms: None,
        }));
        events
    }

    /// The events that fail the turn.
    #[must_use]
    pub fn failure(&self, error: TurnError) -> Vec<NewEvent> {
        let why = CallError::new(CallErrorCode::Cancelled, "the turn failed before the call ended");
        self.failure_of_calls(error, &why)
    }

    /// The same, with what became of the calls that had not ended.
    #[must_use]
    pub fn failure_of_calls(&self, error: TurnError, why: &CallError) -> Vec<NewEvent> {
        let mut events = self.settle_open_calls(why);
        events.push(self.event(EventBody::TurnFailed {
            error,
            usage: self.spending.usage(),
            cost: self.spending.cost(),
            worked_ms: None,
        }));
        events
    }

    /// How many of the step's calls fit into the budget of tool calls. The rest is refused, not run.
    #[must_use]
    pub fn calls_within_budget(&self) -> usize {
        let open = self.calls.len();
        usize::try_from(self.spending.calls_left(open).min(open)).unwrap_or(usize::MAX)
    }

    /// The calls that the step asked for.
    #[must_use]
    pub fn calls_in_step(&self) -> usize {
        usize::try_from(self.calls.len()).unwrap_or(usize::MAX)
    }

    /// Where in the step's calls this one stands, from 0.
    #[must_use]
    pub fn place_of(&self, call: CallId) -> Option<usize> {
        self.calls.place_of(call)
    }

    /// The calls that began, have no recorded end, and may not run again: what is lost of those that a host that stopped left behind.
    #[must_use]
    pub fn calls_lost(&self) -> Vec<RequestedCall> {
        self.calls.lost().cloned().collect()
    }

    /// The call that runs again and would make another call than before under the key of that, and the tool it would call: what an
    /// event says that is not folded yet.
    #[must_use]
    pub fn contradicted_by<'e>(&self, body: &'e EventBody) -> Option<(&RequestedCall, &'e ToolName)> {
        self.calls.contradicted_by(body)
    }

    /// The calls that wait for a decision.
    #[must_use]
    pub fn calls_held(&self) -> Vec<RequestedCall> {
        self.calls.held().cloned().collect()
    }

    fn settle_open_calls(&self, why: &CallError) -> Vec<NewEvent> {
        self.calls
            .unsettled()
            .map(|(call, how)| {
                let error = match how {
                    Unsettled::Left if why.code != CallErrorCode::Interrupted => {
                        CallError::new(CallErrorCode::Interrupted, LEFT)
                    }
                    Unsettled::HandedOn => CallError {
                        message: format!("{}{GOES_ON}", why.message),
                        ..why.clone()
                    },
                    _ => why.clone(),
                };
                let body = EventBody::tool_completed(call.id, call.tool.clone(), Err(error), Metering::default());
                self.event(body)
            })
            .collect()
    }
}
