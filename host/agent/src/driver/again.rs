//! What a host that stopped left half done, taken up again: calls that began, and an answer that had not come.
//!
//! What may have happened once is not done again. A call that may run again is the call that had begun: with the same arguments, as the
//! journal has them, by the same code, under the same idempotency key.

use super::{
    Driver, Stop,
    admission::{AdmittedCall, Cleared, arguments},
    notes::notes,
};
use crate::{
    caller::{LOST, not_run_again},
    catalog::InstalledTool,
    inner_calls,
    machine::{Attempt, OpenCall, Verdict},
};
use fumehood_core::{
    call::{CallError, CallErrorCode, Metering},
    event::{EventBody, NewEvent},
    id::CallId,
    message::RequestedCall,
    turn::{TurnError, TurnErrorCode},
};
use fumehood_store::StoreError;
use std::collections::VecDeque;

impl Driver {
    /// Ends the calls that may not run again, and tells who saw the beginning of an answer that it is asked for anew.
    pub(super) async fn tell_what_a_stop_cut_off(&mut self) -> Result<(), StoreError> {
        let machine = &self.recorder.machine;
        let lost = machine.calls_lost();
        let mut events: Vec<_> = lost.iter().map(|call| self.interrupted(call, lost_call())).collect();
        if let Some(step) = machine.asks() {
            events.push(machine.event(EventBody::StepRestarted { step }));
        }
        self.recorder.record(events).await
    }

    /// Of the calls without an end those that run again, and those that have not begun.
    pub(super) async fn take_up(
        &mut self,
        calls: Vec<OpenCall>,
    ) -> Result<(VecDeque<AdmittedCall>, Vec<OpenCall>), Stop> {
        let (mut again, mut open) = (Vec::new(), Vec::with_capacity(calls.len()));
        let (mut ended, mut diverged) = (Vec::new(), None);
        for one in calls {
            let Verdict::Unfinished { attempt, before } = one.verdict else {
                open.push(one);
                continue;
            };
            match self.again(one.call.clone(), attempt, &before) {
                Ok(admitted) => again.push(admitted),
                Err(Not::ThereAnyMore(error)) => ended.push(self.interrupted(&one.call, error)),
                Err(Not::TheSame(why)) => {
                    ended.push(self.interrupted(&one.call, lost_call()));
                    diverged = Some(why);
                }
            }
        }
        self.recorder.record(ended).await?;
        match diverged {
            Some(message) => Err(Stop::Failed(TurnError {
                code: TurnErrorCode::Diverged,
                message,
            })),
            None => Ok((self.let_guards_judge(again).await?, open)),
        }
    }

    /// Those of the calls that the guards of now let run again, which were asked about them before under another host.
    // THREAT[T-hook-bypass]: what was allowed once may not be any more.
    async fn let_guards_judge(&mut self, again: Vec<AdmittedCall>) -> Result<VecDeque<AdmittedCall>, Stop> {
        let asked = again
            .iter()
            .filter_map(|admitted| self.question_again(admitted))
            .collect();
        let mut judged = self.judge_calls(asked).await?;
        let (mut runs, mut ended) = (VecDeque::with_capacity(again.len()), Vec::new());
        for admitted in again {
            match judged.take(admitted.call().id) {
                Some(Err(error)) => ended.push(self.interrupted(admitted.call(), not_run_again(&error.message))),
                Some(Ok(_)) | None => runs.push_back(admitted),
            }
        }
        self.recorder.record(ended).await?;
        Ok(runs)
    }

    /// Whether a call that runs again would make another call than before under the key of that. It ends, and the turn with it; such a
    /// claim is none of what happened.
    // THREAT[T-turn-replay]: the calls that it makes are the same as well.
    pub(super) fn makes_another_call(&self, events: &mut Vec<NewEvent>) -> Option<Stop> {
        let machine = &self.recorder.machine;
        let (claims, others): (Vec<_>, Vec<_>) = std::mem::take(events)
            .into_iter()
            .partition(|event| machine.contradicted_by(&event.body).is_some());
        *events = others;
        let mut message = None;
        for (call, tool) in claims.iter().filter_map(|claim| machine.contradicted_by(&claim.body)) {
            let why = inner_calls::differs(tool);
            if !events.iter().any(|event| ends(event, call.id)) {
                events.push(self.interrupted(call, CallError::new(CallErrorCode::Interrupted, why.clone())));
            }
            message = Some(why);
        }
        message.map(|message| {
            Stop::Failed(TurnError {
                code: TurnErrorCode::Diverged,
                message,
            })
        })
    }

    /// A call that runs again, with what it was called with.
    // THREAT[T-turn-replay]: what runs again is what the claim is on, and under its rules of now.
    fn again(&self, call: RequestedCall, attempt: Attempt, before: &Verdict) -> Result<AdmittedCall, Not> {
        let gone = |why: &str| Not::ThereAnyMore(not_run_again(why));
        if !attempt.may_be_repeated() {
            return Err(Not::ThereAnyMore(lost_call()));
        }
        let tool = self.plan.tools.offered.get(&call.tool);
        let tool = tool.map_err(|error| gone(&error.message))?;
        let given = arguments(&call).map_err(|error| gone(&error.message))?;
        let arguments = attempt.arguments.unwrap_or_else(|| given.clone());
        if attempt.fingerprint != Some(tool.fingerprint(&arguments)) {
            return Err(Not::TheSame(differs(tool)));
        }
        let cleared = match before {
            Verdict::Approved {
                asked,
                edited,
                feedback,
                ..
            } => {
                let note = notes(given, asked, edited.as_ref(), feedback.clone());
                Cleared::approved(&**tool, arguments, note)
            }
            _ => Cleared::as_before(given, arguments),
        };
        Ok(AdmittedCall::new(tool, call, cleared, attempt.number.saturating_add(1)))
    }

    fn interrupted(&self, call: &RequestedCall, error: CallError) -> NewEvent {
        let body = EventBody::tool_completed(call.id, call.tool.clone(), Err(error), Metering::default());
        self.recorder.machine.event(body)
    }
}

/// Why a call that could run again does not.
enum Not {
    /// It can't be run.
    ThereAnyMore(CallError),
    /// It would be another call.
    TheSame(String),
}

fn ends(event: &NewEvent, of: CallId) -> bool {
    matches!(&event.body, EventBody::ToolCompleted { call, .. } if *call == of)
}

fn lost_call() -> CallError {
    CallError::new(CallErrorCode::Interrupted, LOST)
}

fn differs(tool: &InstalledTool) -> String {
    format!(
        "the host stopped while {} ran, and to run it again would be another call than the one that had begun: its component was \
         changed meanwhile. Nothing was run again; look at what the call did, and send the input again",
        tool.definition.name
    )
}
