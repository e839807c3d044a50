//! The spans of the loop: `turn`, in it `step`, in it `chat` and `call`. Their fields are what every log line inside
//! has, and what a trace is made of; none holds content: no input, argument, output or message.

use super::{code_word, status_word, trap_word};
use crate::{caller::CallScope, driver::TurnPlan, machine::Next};
use fumehood_core::{
    call::{CallResult, CallStatus, DeadlineOwner, Metering, status_of},
    event::EventBody,
    id::{CallId, SessionId},
    name::{ModelName, ToolName},
    turn::Usage,
};
use fumehood_model::ModelInfo;
use fumehood_store::record;
use std::time::Duration;
use tracing::{Span, field::Empty, field::display};

/// A turn at work; in the span of the request that asked for it, if one did.
pub(crate) fn turn(turn: &record::Turn) -> Span {
    tracing::info_span!(
        "turn",
        org = %turn.org,
        session = %turn.session,
        turn = %turn.id,
        agent = Empty,
        model = Empty,
        provider = Empty,
        status = Empty,
        error = Empty,
    )
}

/// Says in the turn's span what it is worked with.
pub(crate) fn turn_planned(plan: &TurnPlan) {
    let info = plan.model.provider.describe();
    Span::current()
        .record("agent", display(&plan.agent))
        .record("model", info.model)
        .record("provider", info.provider.as_str());
    tracing::info!("the turn begins");
}

/// Says in the log and in the turn's span how it ended.
pub(super) fn turn_ended(body: &EventBody, status: &'static str, took: Duration) {
    let span = Span::current();
    span.record("status", status);
    let code = match body {
        EventBody::TurnFailed { error, .. } => serde_json::to_value(error.code).ok(),
        _ => None,
    };
    let error = code.as_ref().and_then(|code| code.as_str());
    if let Some(error) = error {
        span.record("error", error);
    }
    tracing::info!(status, error, duration_ms = millis(took), "the turn ended");
}

/// A step at work; nothing for what is between steps.
pub(crate) fn step(next: &Next, step: u64) -> Span {
    match next {
        Next::AskModel { .. } | Next::RunCalls(_) => tracing::info_span!("step", step),
        _ => Span::current(),
    }
}

/// One attempt at a model call.
pub(super) fn chat(session: SessionId, model: &ModelName, info: &ModelInfo) -> Span {
    tracing::info_span!(
        "chat",
        %session,
        configured = %model,
        model = info.model,
        provider = info.provider.as_str(),
        stop = Empty,
        input_tokens = Empty,
        output_tokens = Empty,
        cached_input_tokens = Empty,
        cache_write_tokens = Empty,
        error = Empty,
    )
}

/// What the provider counted, and why it stopped.
pub(super) fn answered(span: &Span, stop: &'static str, usage: Usage) {
    span.record("stop", stop)
        .record("input_tokens", usage.input_tokens)
        .record("output_tokens", usage.output_tokens)
        .record("cached_input_tokens", usage.cached_input_tokens)
        .record("cache_write_tokens", usage.cache_write_tokens);
}

/// A call. In a turn, whose it is stands in the turn's span.
pub(super) fn call(scope: &CallScope, id: CallId, tool: &ToolName) -> Span {
    let alone = scope.turn.is_none();
    tracing::info_span!(
        "call",
        org = alone.then(|| display(&scope.org)),
        session = scope.session.map(display),
        call = %id,
        tool = %tool,
        status = Empty,
        error = Empty,
        deadline = Empty,
    )
}

/// Says how a call ended: quietly if it went well.
pub(super) fn call_ended(span: &Span, result: &CallResult, metering: &Metering) {
    let status = status_of(result);
    let word = status_word(status);
    span.record("status", word);
    let Metering {
        duration_ms,
        cpu_ms,
        memory_peak,
        ..
    } = metering;
    if status == CallStatus::Ok {
        tracing::debug!(parent: span, duration_ms, cpu_ms, memory_peak, "the call ended");
        return;
    }
    let (code, trap, deadline) = match result {
        Err(error) => {
            let owner = error.deadline.map(DeadlineOwner::as_str);
            (code_word(error.code), error.trap.map(trap_word), owner)
        }
        Ok(_) => ("tool_error", None, None),
    };
    span.record("error", code);
    if let Some(deadline) = deadline {
        span.record("deadline", deadline);
    }
    tracing::info!(parent: span, status = word, code, trap, deadline, duration_ms, cpu_ms, memory_peak, "the call ended");
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
