//! The calls of one step: admitted, run side by side, recorded as they end.

use super::{Driver, Interruption, Stop, handing_over::HandedCall, hooks::Final};
use crate::{
    callable::{Callable, Tool},
    caller::{Clearance, refused_by},
    catalog::InstalledTool,
    excerpt,
    machine::{Client, HandedOn, OpenCall, Verdict},
    ports::{self, Observe, Observed},
    redact, telemetry,
};
use fumehood_core::{
    approval::{ApprovalOutcome, AskedApproval},
    call::{Arguments, CallError, CallErrorCode, CallResult, ComponentRef, Metering},
    content::Content,
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    message::{GivenArguments, RequestedCall},
    name::ToolName,
    now,
    tool::Effect,
    turn::{TurnError, TurnErrorCode, WaitingFor},
};
use fumehood_policy::{
    agent::APPROVAL_TIMEOUT,
    approval::{Judgement, has_rules},
    authority::Authority,
};
use std::sync::Arc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

/// Calls of one step that run at the same time.
const PARALLEL_CALLS: usize = 8;
/// Bytes of changed arguments that the model is told.
const TOLD_ARGUMENTS: usize = 4096;

impl Driver {
    /// Runs the calls side by side, a bounded number at a time, and records each as it ends. Those that wait for a decision are
    /// asked about together, when the others have ended.
    pub(super) async fn run_calls(&mut self, calls: Vec<OpenCall>) -> Result<(), Stop> {
        let (mut waiting, calls) = self.take_up(calls).await?;
        let within_budget = self.recorder.machine.calls_within_budget();
        let mut guarded = self.guard_calls(self.within(&calls, within_budget)).await?;
        let (mut settled, mut held, mut handed) = (Vec::new(), Vec::new(), Vec::new());
        for open in calls {
            let place = self.recorder.machine.place_of(open.call.id).unwrap_or(usize::MAX);
            let call = open.call.clone();
            if place < within_budget && self.plan.tools.control.has(&call.tool) {
                let control = &self.plan.tools.control;
                let result = arguments(&call).and_then(|arguments| control.run(&call.tool, arguments));
                settled.push(self.completed(&call, result, Metering::default()));
                continue;
            }
            let judged = guarded.take(call.id);
            match self.admit(open, place < within_budget, judged) {
                Ok(Admission::Runs(admitted)) => waiting.push_back(admitted),
                Ok(Admission::Asks(asked)) => held.push(asked),
                Ok(Admission::HandsOver(call)) => handed.push(call),
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
        self.recorder.hold_back(settled).await?;

        let (observe, mut observed) = ports::observe();
        // Dropping the set, on any way out, stops every guest in it.
        let mut running = JoinSet::new();
        let at_once = waiting.len().min(PARALLEL_CALLS);
        let mut starting: Vec<_> = waiting.drain(..at_once).collect();
        loop {
            self.start(&mut starting, &mut running, &observe).await?;
            if running.is_empty() {
                match waiting.pop_front() {
                    // All those went to the background.
                    Some(next) => starting.push(next),
                    None => return self.park(held, handed).await,
                }
                continue;
            }
            let (mut events, ended) = match self.next_happening(&mut running, &mut observed).await {
                Ok(happened) => happened,
                Err(stop) => {
                    running.shutdown().await;
                    self.cut_off.extend(observed.decisions());
                    return Err(stop);
                }
            };
            if let Some(ended) = ended {
                let Ended {
                    call,
                    result,
                    metering,
                    recorded,
                } = ended;
                events.extend(recorded.map(|body| self.recorder.machine.event(body)));
                events.push(self.came_back(&call, result, metering));
                starting.extend(waiting.pop_front());
            }
            if let Some(differs) = self.makes_another_call(&mut events) {
                running.shutdown().await;
                self.cut_off.extend(events);
                self.cut_off.extend(observed.decisions());
                return Err(differs);
            }
            if running.is_empty() && starting.is_empty() && observed.nobody_waits() {
                self.recorder.hold_back(events).await?;
                continue;
            }
            self.recorder.record(events).await?;
            observed.recorded();
        }
    }

    /// What can be refused before a sandbox is made, or waits for a person.
    fn admit(
        &self,
        open: OpenCall,
        within_budget: bool,
        judged: Option<Result<Final, CallError>>,
    ) -> Result<Admission, CallError> {
        let refuse = |code, message: String| Err(CallError::new(code, message));
        if !within_budget {
            return refuse(
                CallErrorCode::Denied,
                "the turn's budget of tool calls is used up: answer with what you have".into(),
            );
        }
        let OpenCall { call, verdict } = open;
        if let Verdict::Refused { outcome, feedback } = verdict {
            return refuse(CallErrorCode::Denied, refusal(outcome, feedback));
        }
        let given = arguments(&call)?;
        let found = self.plan.tools.tool(&call.tool)?;
        let tool = found.as_callable();
        let judged = judged.transpose()?;
        let cleared = match verdict {
            Verdict::Approved {
                fingerprint,
                asked,
                edited,
                feedback,
            } => {
                // THREAT[T-appr-substitution]: an update of the component in between is another thing than what was approved.
                if tool.fingerprint(&asked) != fingerprint {
                    return refuse(CallErrorCode::Denied, changed_meanwhile(&tool.definition().name));
                }
                let note = notes(given, &asked, edited.as_ref(), feedback);
                Cleared::approved(tool, edited.unwrap_or(asked), note)
            }
            _ => {
                let mut cleared = Cleared::unasked(given, judged);
                match self.judge(tool, &mut cleared.arguments)? {
                    Judgement::Allow => cleared,
                    Judgement::Deny(rule) => {
                        return refuse(CallErrorCode::Denied, refused_by(&tool.definition().name, &rule));
                    }
                    Judgement::Ask(rule) => {
                        return Ok(Admission::Asks(HeldCall {
                            fingerprint: tool.fingerprint(&cleared.arguments),
                            arguments: cleared.arguments,
                            call,
                            rule,
                        }));
                    }
                }
            }
        };
        match found {
            Tool::Brought(tool) => {
                HandedCall::new(tool, &call, cleared.arguments, cleared.note).map(Admission::HandsOver)
            }
            Tool::Installed(tool) => Ok(Admission::Runs(AdmittedCall::new(&tool, call, cleared, 1))),
        }
    }

    /// Those of them that the budget has room for.
    fn within<'c>(&self, calls: &'c [OpenCall], budget: usize) -> &'c [OpenCall] {
        let fits = |open: &OpenCall| {
            self.recorder
                .machine
                .place_of(open.call.id)
                .is_some_and(|place| place < budget)
        };
        let room = calls.iter().take_while(|open| fits(open)).count();
        &calls[..room]
    }

    /// What the agents' rules say. Nobody is asked about a call that could not run.
    fn judge(&self, tool: &dyn Callable, arguments: &mut Arguments) -> Result<Judgement, CallError> {
        let scope = &self.plan.scope;
        if !has_rules(&scope.chain, tool.component_name(), tool.definition()) {
            return Ok(Judgement::Allow);
        }
        tool.check(arguments)?;
        Ok(scope.judge(tool, arguments))
    }

    /// Parks the turn, where a call waits for somebody. A person decides first: what is approved runs, and the rest is handed over
    /// together.
    async fn park(&mut self, held: Vec<HeldCall>, handed: Vec<HandedCall>) -> Result<(), Stop> {
        match (held.is_empty(), handed.is_empty()) {
            (false, _) => self.ask(held).await,
            (true, false) => self.hand_over(handed).await,
            (true, true) => Ok(()),
        }
    }

    /// Asks for a decision about all of them, and parks the turn.
    async fn ask(&mut self, held: Vec<HeldCall>) -> Result<(), Stop> {
        // Nobody is asked about a turn that is to stop here.
        if self.reins.client() == Client::Stops {
            return Err(Interruption::Cancelled.into());
        }
        // Asked about together, so that they expire together.
        let timeout = self
            .plan
            .scope
            .chain
            .last()
            .map_or(APPROVAL_TIMEOUT, |agent| agent.approval_timeout);
        let expires = now() + timeout.as_duration();
        let asked = held.into_iter().map(|held| AskedApproval {
            call_id: held.call.id,
            tool: held.call.tool,
            arguments: held.arguments,
            rule: held.rule,
            fingerprint: held.fingerprint,
            expires,
        });
        let calls = asked.collect();
        let machine = &self.recorder.machine;
        let events = vec![
            machine.event(EventBody::ApprovalRequested { calls }),
            machine.event(EventBody::TurnPaused {
                waiting_for: WaitingFor::Approval,
            }),
        ];
        Ok(self.recorder.record(events).await?)
    }

    async fn start(
        &mut self,
        starting: &mut Vec<AdmittedCall>,
        running: &mut JoinSet<Ended>,
        observe: &Observe,
    ) -> Result<(), Stop> {
        let (mut events, mut beginning) = (Vec::new(), Vec::new());
        for mut admitted in starting.drain(..) {
            if admitted.changed().is_some() {
                // What is claimed is what the journal keeps; should they be no arguments without the values, the call says so.
                let guard = self.recorder.guard().await?;
                let _ = redact::arguments(&guard, &mut admitted.cleared.arguments);
            }
            let authority = match self.plan.tools.offered.get(&admitted.tool) {
                Ok(tool) => self.caller.authority(&self.plan.scope, tool).await.map(Arc::new),
                Err(error) => Err(error),
            };
            if let Ok(authority) = &authority
                && self.runs_in_background(&admitted, authority)
            {
                self.send_to_background(admitted).await?;
                continue;
            }
            events.push(self.started(&admitted, authority.as_deref().ok()));
            beginning.push((admitted, authority));
        }
        self.recorder.record(events).await?;
        let shared = beginning.len() > 1 || !running.is_empty();
        for (admitted, authority) in beginning {
            let caller = Arc::clone(&self.caller);
            let AdmittedCall {
                call, tool, cleared, ..
            } = admitted;
            let scope = self.plan.scope.for_call(observe.clone(), authority, cleared.clearance);
            let tape = if self.plan.record {
                self.caller.tape(shared)
            } else {
                None
            };
            let scope = scope.within(self.deadline.clone()).repeatable(call.id, admitted.effect);
            let scope = match admitted.attempt {
                0 | 1 => scope,
                _ => scope.once_more(),
            };
            let scope = scope.recorded_on(tape.clone());
            let tools = Arc::clone(&self.plan.tools.offered);
            let (session, most) = (self.plan.session, self.plan.tool_output);
            let work = async move {
                let (result, metering) = Arc::clone(&caller)
                    .call(&scope, &tools, call.id, &tool, cleared.arguments)
                    .await;
                let result = excerpt::fitting(caller.workspaces(), session, call.id, result, most).await;
                let recorded = tape.and_then(|tape| tape.event(call.id));
                Ended {
                    result: noted(result, cleared.note),
                    call,
                    metering,
                    recorded,
                }
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
        let tool = self.plan.tools.offered.get(&admitted.tool).ok();
        self.recorder.machine.event(EventBody::ToolStarted {
            call: admitted.call.id,
            tool: admitted.tool.clone(),
            component: admitted.component.clone(),
            authority: authority.and_then(|authority| serde_json::to_value(authority).ok()),
            effect: admitted.effect,
            fingerprint: tool.map(|tool| tool.fingerprint(&admitted.cleared.arguments)),
            attempt: admitted.attempt,
            arguments: admitted.changed().cloned(),
        })
    }

    /// A call that was handed on and came back well goes on outside: it has no end yet.
    fn came_back(&self, call: &RequestedCall, result: CallResult, metering: Metering) -> NewEvent {
        match (self.recorder.machine.detached(call.id), result) {
            (Some(handed), Ok(output)) if !output.is_error => NewEvent {
                source: Source::Tool {
                    tool: call.tool.clone(),
                    call: call.id,
                },
                ..self.recorder.machine.event(EventBody::ToolProvisional {
                    call: call.id,
                    tool: handed.detached.tool,
                    output,
                    metering,
                })
            },
            (_, result) => self.completed(call, result, metering),
        }
    }

    pub(super) fn completed(&self, call: &RequestedCall, result: CallResult, metering: Metering) -> NewEvent {
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

/// A call that ran to its end.
struct Ended {
    call: RequestedCall,
    result: CallResult,
    metering: Metering,
    /// What is told of its recording, where it was to be recorded.
    recorded: Option<EventBody>,
}

/// A call that may enter the sandbox.
pub(super) struct AdmittedCall {
    call: RequestedCall,
    tool: ToolName,
    component: ComponentRef,
    effect: Effect,
    /// Which attempt it is, from 1.
    attempt: u32,
    cleared: Cleared,
}

impl AdmittedCall {
    pub(super) fn new(tool: &InstalledTool, call: RequestedCall, cleared: Cleared, attempt: u32) -> Self {
        Self {
            tool: tool.definition.name.clone(),
            component: tool.component_ref(),
            effect: tool.definition.effect,
            call,
            attempt,
            cleared,
        }
    }

    /// The tool.
    pub(super) const fn tool(&self) -> &ToolName {
        &self.tool
    }

    /// Whether it has not begun before.
    pub(super) const fn is_first(&self) -> bool {
        self.attempt <= 1
    }

    /// Whether a person approved it.
    pub(super) const fn is_approved(&self) -> bool {
        matches!(self.cleared.clearance, Clearance::Approved(_))
    }

    /// What the model is told before the result.
    pub(super) fn note(&self) -> Option<String> {
        self.cleared.note.clone()
    }

    /// As the model asked for it.
    pub(super) const fn call(&self) -> &RequestedCall {
        &self.call
    }

    /// What it is called with.
    pub(super) const fn arguments(&self) -> &Arguments {
        &self.cleared.arguments
    }

    /// What it is called with, where that is not what the model gave.
    fn changed(&self) -> Option<&Arguments> {
        let given = arguments(&self.call).ok();
        Some(&self.cleared.arguments).filter(|arguments| given != Some(*arguments))
    }
}

/// What a call is made with, and by whose leave.
pub(super) struct Cleared {
    arguments: Arguments,
    clearance: Clearance,
    /// What the model is told before the result.
    note: Option<String>,
}

impl Cleared {
    pub(super) fn approved(tool: &dyn Callable, arguments: Arguments, note: Option<String>) -> Self {
        Self {
            clearance: Clearance::Approved(tool.fingerprint(&arguments)),
            arguments,
            note,
        }
    }

    /// What it was called with before, and nobody was asked about.
    pub(super) fn as_before(given: &Arguments, arguments: Arguments) -> Self {
        Self {
            note: (arguments != *given).then(|| changed_by_hook(&arguments)),
            arguments,
            clearance: Clearance::Nobody,
        }
    }

    /// What the model gave, or what hooks made of it.
    fn unasked(given: &Arguments, judged: Option<Final>) -> Self {
        let (arguments, note) = match judged {
            None => (given.clone(), None),
            Some(Final { arguments, changed_by }) => {
                let note = (!changed_by.is_empty()).then(|| changed_by_hook(&arguments));
                (arguments, note)
            }
        };
        Self {
            arguments,
            clearance: Clearance::Nobody,
            note,
        }
    }
}

/// What becomes of a call before it enters a sandbox.
enum Admission {
    Runs(AdmittedCall),
    /// A person decides.
    Asks(HeldCall),
    /// The client runs it.
    HandsOver(HandedCall),
}

/// A call that a person is to be asked about.
struct HeldCall {
    call: RequestedCall,
    arguments: Arguments,
    fingerprint: Digest,
    rule: String,
}

fn changed_meanwhile(tool: &ToolName) -> String {
    format!(
        "the component of {tool} was changed after the call was asked about, so what was approved is not what would run; call it \
         again, and it is asked about again"
    )
}

/// The arguments that the model gave.
// THREAT[T-loop-malformed-args]: only a JSON object ever reaches a tool.
pub(super) fn arguments(call: &RequestedCall) -> Result<&Arguments, CallError> {
    match &call.arguments {
        GivenArguments::Arguments(arguments) => Ok(arguments),
        GivenArguments::MalformedArguments(_) => Err(CallError::new(
            CallErrorCode::InvalidArguments,
            "the arguments are not a JSON object: send the call again with valid JSON",
        )),
    }
}

pub(crate) fn refusal(outcome: ApprovalOutcome, feedback: Option<String>) -> String {
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

/// What the model is told of a call that somebody approved: what a hook made of it, and what they did.
pub(super) fn notes(
    given: &Arguments,
    asked: &Arguments,
    edited: Option<&Arguments>,
    feedback: Option<String>,
) -> Option<String> {
    let by_hook = (asked != given).then(|| changed_by_hook(asked));
    both(by_hook, note(edited, feedback))
}

/// What the model is told of a call that was handed on.
pub(crate) fn note_on(handed: &HandedOn) -> Option<String> {
    let given = arguments(&handed.call).ok()?;
    match &handed.before {
        Verdict::Approved {
            asked,
            edited,
            feedback,
            ..
        } => notes(given, asked, edited.as_ref(), feedback.clone()),
        _ => {
            let changed = handed.attempt.arguments.as_ref();
            changed.filter(|arguments| *arguments != given).map(changed_by_hook)
        }
    }
}

/// What a call that was handed on was made with.
pub(crate) fn arguments_of(handed: &HandedOn) -> Arguments {
    let given = || arguments(&handed.call).cloned().unwrap_or_default();
    handed.attempt.arguments.clone().unwrap_or_else(given)
}

fn note(edited: Option<&Arguments>, feedback: Option<String>) -> Option<String> {
    let edited = edited.map(|edited| format!("[The user changed the arguments of this call to {}]", told(edited)));
    let feedback = feedback.map(|feedback| format!("[The user approved this call, and says: {feedback}]"));
    both(edited, feedback)
}

fn both(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}\n{second}")),
        (first, second) => first.or(second),
    }
}

fn changed_by_hook(arguments: &Arguments) -> String {
    format!("[The host changed the arguments of this call to {}]", told(arguments))
}

/// Arguments, as much of them as a note has room for: a model knows them by their beginning.
fn told(arguments: &Arguments) -> String {
    let mut text = serde_json::to_string(arguments).unwrap_or_default();
    let end = text.floor_char_boundary(TOLD_ARGUMENTS);
    if end < text.len() {
        let left_out = text.len() - end;
        text.truncate(end);
        text += &format!(" … and {left_out} bytes more");
    }
    text
}

pub(crate) fn noted(result: CallResult, note: Option<String>) -> CallResult {
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
