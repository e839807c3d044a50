//! The calls of one step: admitted, run side by side, recorded as they end.

use super::{Driver, Stop};
use crate::{
    catalog::OfferedTools,
    excerpt,
    machine::{OpenCall, Verdict},
    ports::{self, Observe, Observed},
    telemetry,
};
use fumehood_core::{
    approval::ApprovalOutcome,
    call::{Arguments, CallError, CallErrorCode, CallResult, ComponentRef, Metering},
    content::Content,
    event::{EventBody, NewEvent, Source},
    message::{GivenArguments, RequestedCall},
    name::ToolName,
    turn::{TurnError, TurnErrorCode},
};
use fumehood_policy::authority::Authority;
use std::{collections::VecDeque, sync::Arc};
use tokio::task::JoinSet;
use tracing::Instrument as _;

/// Calls of one step that run at the same time.
const PARALLEL_CALLS: usize = 8;

impl Driver {
    /// Runs the calls side by side, a bounded number at a time, and records each as it ends.
    pub(super) async fn run_calls(&mut self, calls: Vec<OpenCall>) -> Result<(), Stop> {
        let within_budget = self.recorder.machine.calls_within_budget();
        let mut waiting = VecDeque::with_capacity(calls.len());
        let mut settled = Vec::new();
        for open in calls {
            let place = self.recorder.machine.place_of(open.call.id).unwrap_or(usize::MAX);
            let call = open.call.clone();
            if place < within_budget && self.plan.tools.control.has(&call.tool) {
                let control = &self.plan.tools.control;
                let result = arguments(&call).and_then(|arguments| control.run(&call.tool, arguments));
                settled.push(self.completed(&call, result, Metering::default()));
                continue;
            }
            match admit(open, place < within_budget, &self.plan.tools.offered) {
                Ok(admitted) => waiting.push_back(admitted),
                Err(error) => {
                    telemetry::refused_before_a_call(
                        &self.plan.scope.org,
                        &self.plan.tools.offered,
                        &call.tool,
                        &error,
                    );
                    settled.push(self.completed(&call, Err(error), Metering::default()));
                }
            }
        }
        self.recorder.record(settled).await?;

        let (observe, mut observed) = ports::observe();
        // Dropping the set, on any way out, stops every guest in it.
        let mut running = JoinSet::new();
        let at_once = waiting.len().min(PARALLEL_CALLS);
        let mut starting: Vec<_> = waiting.drain(..at_once).collect();
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
            let authority = match self.plan.tools.offered.get(&admitted.tool) {
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
            let tools = Arc::clone(&self.plan.tools.offered);
            let (session, most) = (self.plan.session, self.plan.tool_output);
            let work = async move {
                let (result, metering) = Arc::clone(&caller)
                    .call(&scope, &tools, admitted.call.id, &admitted.tool, admitted.arguments)
                    .await;
                let result = excerpt::fitting(caller.workspaces(), session, admitted.call.id, result, most).await;
                (admitted.call, noted(result, admitted.note), metering)
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
}

type Ended = (RequestedCall, CallResult, Metering);

/// A call that may enter the sandbox.
struct AdmittedCall {
    call: RequestedCall,
    tool: ToolName,
    component: ComponentRef,
    arguments: Arguments,
    /// What the model is told before the result.
    note: Option<String>,
}

/// What can be settled before a sandbox is made.
fn admit(open: OpenCall, within_budget: bool, tools: &OfferedTools) -> Result<AdmittedCall, CallError> {
    let refuse = |code, message: String| Err(CallError::new(code, message));
    if !within_budget {
        return refuse(
            CallErrorCode::Denied,
            "the turn's budget of tool calls is used up: answer with what you have".into(),
        );
    }
    let (edited, feedback) = match open.verdict {
        Verdict::Unasked => (None, None),
        Verdict::Approved { edited, feedback } => (edited, feedback),
        Verdict::Refused { outcome, feedback } => return refuse(CallErrorCode::Denied, refusal(outcome, feedback)),
    };
    let note = note(edited.as_ref(), feedback);
    let arguments = match edited {
        Some(edited) => edited,
        None => arguments(&open.call)?.clone(),
    };
    let (tool, component) = tools.find(&open.call.tool)?;
    Ok(AdmittedCall {
        call: open.call,
        tool,
        component,
        arguments,
        note,
    })
}

/// The arguments that the model gave.
// THREAT[T-loop-malformed-args]: only a JSON object ever reaches a tool.
fn arguments(call: &RequestedCall) -> Result<&Arguments, CallError> {
    match &call.arguments {
        GivenArguments::Arguments(arguments) => Ok(arguments),
        GivenArguments::MalformedArguments(_) => Err(CallError::new(
            CallErrorCode::InvalidArguments,
            "the arguments are not a JSON object: send the call again with valid JSON",
        )),
    }
}

fn refusal(outcome: ApprovalOutcome, feedback: Option<String>) -> String {
    let how = match outcome {
        ApprovalOutcome::Rejected | ApprovalOutcome::Approved => "the user rejected this call",
        ApprovalOutcome::Expired => "nobody approved this call in time",
        ApprovalOutcome::Abandoned => "the user sent a new message instead of approving this call",
    };
    match feedback {
        Some(feedback) => format!("{how}, and says: {feedback}"),
        None => format!("{how}; do not try it again unless the user asks for it"),
    }
}

fn note(edited: Option<&Arguments>, feedback: Option<String>) -> Option<String> {
    let edited = edited.map(|edited| {
        let arguments = serde_json::to_string(edited).unwrap_or_default();
        format!("[The user changed the arguments of this call to {arguments}]")
    });
    let feedback = feedback.map(|feedback| format!("[The user approved this call, and says: {feedback}]"));
    match (edited, feedback) {
        (Some(edited), Some(feedback)) => Some(format!("{edited}\n{feedback}")),
        (edited, feedback) => edited.or(feedback),
    }
}

fn noted(result: CallResult, note: Option<String>) -> CallResult {
    match (result, note) {
        (Ok(mut output), Some(note)) => {
            output.content.insert(0, Content::text(note));
            Ok(output)
        }
        (Err(mut error), Some(note)) => {
            error.message = format!("{note} {}", error.message);
            Err(error)
        }
        (result, None) => result,
    }
}
