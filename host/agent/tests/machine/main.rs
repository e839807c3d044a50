//! The turn machine and the transcript, without a clock, a network or a store: events in, decisions out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod budgets;
mod habits;
mod journals;
mod rewinds;
mod table;
mod transcripts;
mod turns;

use fumehood_agent::machine::{Attempt, Next, OpenCall, Seen, ToolUse, TurnMachine, Verdict};
use fumehood_core::{
    approval::{ApprovalOutcome, AskedApproval, ResolvedApproval},
    awaited::AwaitedCall,
    call::{CallError, CallErrorCode, ComponentRef, Metering, Output},
    content::Content,
    digest::Digest,
    event::EventBody,
    id::{CallId, CallbackId, TurnId},
    message::{GivenArguments, RequestedCall},
    name::{AgentName, ComponentName, ModelName, ToolName},
    tool::Effect,
    turn::{Budget, Note, StepStop, Usage, WaitingFor},
};
use serde_json::json;

fn after(events: &[EventBody]) -> TurnMachine {
    let mut machine = TurnMachine::new(TurnId::new());
    events.iter().for_each(|event| machine.apply(event));
    machine
}

fn next(events: &[EventBody]) -> Next {
    after(events).decide(&Seen::default())
}

fn queued() -> EventBody {
    queued_as("hi")
}

fn queued_as(input: &str) -> EventBody {
    EventBody::TurnQueued {
        input: vec![Content::text(input)],
        system: None,
        budget: Budget::default(),
        output_schema: None,
        tools: Vec::new(),
        record: false,
    }
}

fn queued_with_schema() -> EventBody {
    EventBody::TurnQueued {
        input: vec![Content::text("hi")],
        system: None,
        budget: Budget::default(),
        output_schema: Some(json!({"type": "object"})),
        tools: Vec::new(),
        record: false,
    }
}

fn started(budget: Budget) -> EventBody {
    EventBody::TurnStarted {
        agent: AgentName::new("assistant").unwrap(),
        model: ModelName::new("main").unwrap(),
        tools: Vec::new(),
        components: std::collections::BTreeMap::new(),
        budget,
        files: None,
    }
}

fn begun() -> Vec<EventBody> {
    vec![queued(), started(Budget::default())]
}

fn step(step: u64) -> EventBody {
    step_with(step, Vec::new())
}

fn step_with(step: u64, notes: Vec<Note>) -> EventBody {
    EventBody::StepStarted {
        step,
        notes,
        worked_ms: None,
    }
}

fn says(text: &str) -> EventBody {
    EventBody::TextCompleted {
        step: 1,
        text: text.into(),
    }
}

fn asks(call: &RequestedCall) -> EventBody {
    EventBody::ToolRequested {
        step: 1,
        call: call.clone(),
    }
}

fn answered(stop_reason: StepStop, usage: Option<Usage>) -> EventBody {
    EventBody::StepCompleted {
        step: 1,
        stop_reason,
        usage,
        model: None,
        cost: None,
        unmeasured: false,
        dropped_calls: Vec::new(),
        worked_ms: None,
    }
}

/// An answer with calls that could not be run.
fn answered_without_its_calls() -> EventBody {
    let mut body = cut_off(&["add"]);
    if let EventBody::StepCompleted { stop_reason, .. } = &mut body {
        *stop_reason = StepStop::ToolCalls;
    }
    body
}

fn cut_off(dropped: &[&str]) -> EventBody {
    EventBody::StepCompleted {
        step: 1,
        stop_reason: StepStop::Length,
        usage: None,
        model: None,
        cost: None,
        unmeasured: false,
        dropped_calls: dropped.iter().map(|name| (*name).to_owned()).collect(),
        worked_ms: None,
    }
}

fn cancelled() -> EventBody {
    EventBody::TurnCancelled {
        usage: None,
        cost: None,
        worked_ms: None,
    }
}

fn call() -> RequestedCall {
    call_with("add", "{}")
}

fn call_with(tool: &str, arguments: &str) -> RequestedCall {
    RequestedCall {
        id: CallId::new(),
        tool: tool.into(),
        arguments: GivenArguments::parse(arguments),
    }
}

fn unasked(call: &RequestedCall) -> OpenCall {
    OpenCall {
        call: call.clone(),
        verdict: Verdict::Unasked,
    }
}

fn runs(call: &RequestedCall) -> EventBody {
    let component = ComponentRef {
        name: ComponentName::new("math").unwrap(),
        digest: Digest::of(b""),
    };
    EventBody::ToolStarted {
        call: call.id,
        tool: ToolName::new("add").unwrap(),
        component,
        authority: None,
        effect: Effect::default(),
        fingerprint: Some(Digest::of(b"")),
        attempt: 1,
        arguments: None,
    }
}

/// The same call, begun for the nth time, with this effect.
fn runs_as(call: &RequestedCall, effect: Effect, attempt: u32) -> EventBody {
    let mut body = runs(call);
    if let EventBody::ToolStarted {
        effect: of,
        attempt: number,
        ..
    } = &mut body
    {
        (*of, *number) = (effect, attempt);
    }
    body
}

fn unfinished(call: &RequestedCall, effect: Effect, number: u32) -> OpenCall {
    OpenCall {
        call: call.clone(),
        verdict: Verdict::Unfinished {
            attempt: Attempt {
                effect,
                fingerprint: Some(Digest::of(b"")),
                number,
                arguments: None,
            },
            before: Box::new(Verdict::Unasked),
        },
    }
}

fn interrupts(call: &RequestedCall) -> EventBody {
    let error = CallError::new(CallErrorCode::Interrupted, "the host stopped");
    EventBody::tool_completed(call.id, call.tool.clone(), Err(error), Metering::default())
}

fn settles(call: &RequestedCall) -> EventBody {
    EventBody::tool_completed(call.id, call.tool.clone(), Ok(Output::default()), Metering::default())
}

fn settles_with(call: &RequestedCall, text: &str) -> EventBody {
    let output = Output {
        content: vec![Content::text(text)],
        ..Output::default()
    };
    EventBody::tool_completed(call.id, call.tool.clone(), Ok(output), Metering::default())
}

fn fails(call: &RequestedCall) -> EventBody {
    fails_with(call, CallErrorCode::InvalidArguments, "not an object")
}

fn fails_with(call: &RequestedCall, code: CallErrorCode, message: &str) -> EventBody {
    let error = CallError::new(code, message);
    EventBody::tool_completed(call.id, call.tool.clone(), Err(error), Metering::default())
}

fn holds(call: &RequestedCall) -> EventBody {
    EventBody::ApprovalRequested {
        calls: vec![AskedApproval {
            call_id: call.id,
            tool: call.tool.clone(),
            arguments: call.arguments.as_object(),
            rule: "add".into(),
            fingerprint: Digest::of(b""),
            expires: fumehood_core::now(),
        }],
    }
}

fn decides(call: &RequestedCall, decision: ApprovalOutcome) -> EventBody {
    EventBody::ApprovalResolved {
        decisions: vec![ResolvedApproval {
            call_id: call.id,
            decision,
            arguments: None,
            feedback: None,
        }],
    }
}

fn hands_over(call: &RequestedCall) -> EventBody {
    EventBody::ResultsRequested {
        calls: vec![AwaitedCall {
            call_id: call.id,
            tool: ToolName::new("add").unwrap(),
            arguments: call.arguments.as_object(),
            expires: fumehood_core::now(),
            note: None,
        }],
    }
}

fn detaches(call: &RequestedCall) -> EventBody {
    EventBody::ToolDetached {
        call: call.id,
        tool: ToolName::new("add").unwrap(),
        callback: CallbackId::new(),
        token: Digest::of(b""),
        expires: fumehood_core::now(),
        note: None,
    }
}

const PAUSED: EventBody = EventBody::TurnPaused {
    waiting_for: WaitingFor::Approval,
    worked_ms: None,
};
const RESUMED: EventBody = EventBody::TurnResumed {
    waited_for: WaitingFor::Approval,
};

fn rejects(attempt: u32) -> EventBody {
    EventBody::OutputRejected {
        attempt,
        faults: vec!["at /a: 1 is not of type \"string\"".into()],
    }
}

fn asking(step: u64) -> Next {
    Next::AskModel {
        step,
        tools: ToolUse::Allowed,
    }
}

fn beginning(step: u64) -> Next {
    Next::BeginStep {
        step,
        notes: Vec::new(),
    }
}
