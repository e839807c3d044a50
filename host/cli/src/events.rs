//! Events as a person reads them: one line for each that is recorded, and none for those that are only live.
//!
//! What the events of a newer host say beyond this binary's knowledge is shown as it came.

use crate::out::{Out, Style, count, number, one_line, plain, text};
use fumehood_core::{
    call::{Arguments, CallError, CallStatus, Metering, Output},
    content::plain_text,
    event::{Event, EventBody, OutputChannel},
    id::CallId,
    message::{GivenArguments, RequestedCall},
    money::Money,
    name::ToolName,
    rewind::{FilesRewound, ForkedFrom},
    turn::{BudgetScope, Note, StepStop, TurnError, Usage},
};
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

/// The longest preview of arguments and results, in characters.
pub(crate) const PREVIEW: usize = 160;

/// One event as a line; nothing for one that is only live.
pub(crate) fn line(out: Out, event: &Value) -> Option<String> {
    let said = match Event::deserialize(event) {
        Ok(event) => said(out, &event.body)?,
        Err(_) => preview(&event.get("data").map(Value::to_string).unwrap_or_default()),
    };
    let seq = event
        .get("seq")
        .and_then(Value::as_u64)
        .map_or_else(|| "   ".to_owned(), |seq| format!("{seq:>3}"));
    let kind = one_line(text(event, "type"), PREVIEW);
    Some(format!(
        "{} {} {said}",
        out.style(Style::Dim, seq),
        out.style(Style::Dim, format_args!("{kind:<20}"))
    ))
}

/// What an event says. No arm for all others: a new type is to be thought of here.
#[expect(clippy::too_many_lines, reason = "a table with a row for each type of event")]
fn said(out: Out, body: &EventBody) -> Option<String> {
    use EventBody as E;
    Some(match body {
        E::SessionCreated {
            agent,
            title,
            forked_from,
        } => created(agent.as_str(), title.as_deref(), *forked_from),
        E::SessionCopied { messages } => format!("begins with {}", count(messages.len() as u64, "copied message")),
        E::SessionRewound {
            after,
            turns,
            files,
            outside,
            outside_more,
        } => rewound(*after, turns.len(), *files, outside.len() as u64 + outside_more),
        E::SessionUpdated { changed } => format!("changed: {}", preview(&changed.join(", "))),
        E::TurnQueued { input, .. } => format!("you: {}", preview(&plain_text(input))),
        E::TurnStarted {
            agent, model, tools, ..
        } => format!("agent {agent} on model {model}, {}", count(tools.len() as u64, "tool")),
        E::TurnCompleted {
            stop_reason,
            usage,
            cost,
            ..
        } => format!(
            "{} ({}){}",
            out.style(Style::Good, "completed"),
            word(stop_reason),
            used(*usage, *cost)
        ),
        E::TurnFailed { error, usage, cost, .. } => format!(
            "{}: {}{}",
            out.style(Style::Bad, "failed"),
            preview(&error.message),
            used(*usage, *cost)
        ),
        E::TurnCancelled { usage, cost, .. } => {
            format!("{}{}", out.style(Style::Bad, "cancelled"), used(*usage, *cost))
        }
        E::TurnPaused { waiting_for, .. } => format!("waits for {}", word(waiting_for)),
        E::TurnResumed { waited_for } => format!("goes on after {}", word(waited_for)),
        E::TurnSteered { input } => format!("you, meanwhile: {}", preview(&plain_text(input))),
        E::StepStarted { step, notes, .. } => format!("step {step}{}", told(notes)),
        E::StepCompleted {
            step,
            stop_reason,
            usage,
            model,
            cost,
            dropped_calls,
            ..
        } => {
            let by = model.as_ref().map(|model| format!(" by {model}")).unwrap_or_default();
            format!(
                "step {step} ({}){by}{}{}",
                word(stop_reason),
                used(*usage, *cost),
                dropped(*stop_reason, dropped_calls)
            )
        }
        E::RetryScheduled {
            attempt,
            max_attempts,
            delay_ms,
            error,
            model,
            ..
        } => {
            let of = model.as_ref().map(|model| format!(" of {model}")).unwrap_or_default();
            format!(
                "{}; retry {attempt} of {max_attempts}{of} in {delay_ms} ms",
                preview(fault(error))
            )
        }
        E::StepFailed {
            step,
            error,
            usage,
            cost,
            ..
        } => {
            let why = error.as_ref().map_or("the turn ends", |error| &error.message);
            format!("step {step} given up: {}{}", preview(why), used(*usage, *cost))
        }
        E::TextCompleted { text, .. } => format!("model: {}", preview(text)),
        E::ReasoningCompleted { text, .. } if text.is_empty() => "thought without showing it".to_owned(),
        E::ReasoningCompleted { text, .. } => format!("thinks: {}", preview(text)),
        E::OutputValidated { attempt, value } => format!("attempt {attempt}: {}", preview(&value.to_string())),
        E::OutputRejected { attempt, faults } => format!("attempt {attempt}: {}", preview(&faults.join("; "))),
        E::ToolRequested { call, .. } => requested(out, call),
        E::StepRestarted { step } => format!("step {step} is begun anew: the host was stopped"),
        E::ToolCommitted { call, tool } => format!(
            "{} calls {}, which may run once",
            short(call),
            out.style(Style::Name, tool.as_str())
        ),
        E::ToolCalled { call, made, tool, .. } => format!(
            "{} calls {}, as {}",
            short(call),
            out.style(Style::Name, tool.as_str()),
            short(made)
        ),
        E::ToolRecorded {
            call,
            missing: Some(why),
            ..
        } => format!("{} is not recorded: {}", short(call), preview(why)),
        E::ToolRecorded { call, bytes, .. } => format!("{} is recorded: {bytes} bytes", short(call)),
        E::ToolStarted {
            call, tool, attempt, ..
        } if *attempt > 1 => format!(
            "{} runs {} in the sandbox again: the host was stopped",
            short(call),
            out.style(Style::Name, tool.as_str())
        ),
        E::ToolStarted { call, tool, .. } => format!(
            "{} runs {} in the sandbox",
            short(call),
            out.style(Style::Name, tool.as_str())
        ),
        E::ToolDetached {
            call,
            tool,
            callback,
            expires,
            note,
            ..
        } => {
            let note = note
                .as_ref()
                .map(|note| format!(": {}", preview(note)))
                .unwrap_or_default();
            format!(
                "{} of {} is handed on as {callback}, until {}{note}",
                short(call),
                out.style(Style::Name, tool.as_str()),
                expires.format("%Y-%m-%d %H:%M:%S")
            )
        }
        E::ToolProvisional { call, output, .. } => {
            format!("{} goes on outside: {}", short(call), outcome(Some(output), None))
        }
        E::JobQueued { job, call, tool, .. } => format!(
            "{} runs {} in the background, as {job}",
            short(call),
            out.style(Style::Name, tool.as_str())
        ),
        E::JobStarted { job, attempt, .. } if *attempt > 1 => format!("{job} begins again: the host was stopped"),
        E::JobStarted { job, .. } => format!("{job} begins"),
        E::JobCompleted {
            job,
            status,
            output,
            error,
            ..
        } => format!("{job} {}: {}", word(status), outcome(output.as_ref(), error.as_ref())),
        E::ToolProgress {
            call,
            message,
            fraction,
        } => format!("{} {}{}", short(call), preview(message), percent(*fraction)),
        E::ToolOutput {
            call,
            channel,
            chunk,
            truncated,
        } => {
            let cut = if *truncated { " (cut)" } else { "" };
            format!("{} writes{}: {}{cut}", short(call), to(channel), preview(chunk))
        }
        E::ToolCompleted {
            call,
            status,
            output,
            error,
            metering,
            ..
        } => format!(
            "{} {}",
            short(call),
            ended(out, *status, output.as_ref(), error.as_ref(), *metering)
        ),
        E::ApprovalRequested { calls } => {
            let calls: Vec<_> = calls
                .iter()
                .map(|call| asked(out, &call.call_id.to_string(), &call.tool, &arguments(&call.arguments)))
                .collect();
            format!("waits for a decision: {}", calls.join("; "))
        }
        E::ApprovalResolved { decisions } => {
            let decided: Vec<_> = decisions
                .iter()
                .map(|one| decided(out, &short(&one.call_id), &word(&one.decision), one.feedback.as_deref()))
                .collect();
            decided.join("; ")
        }
        E::ResultsRequested { calls } => {
            let calls: Vec<_> = calls
                .iter()
                .map(|call| asked(out, &call.call_id.to_string(), &call.tool, &arguments(&call.arguments)))
                .collect();
            format!("waits for results of the client: {}", calls.join("; "))
        }
        E::EgressAllowed {
            method,
            host,
            path,
            rule,
            shapes,
            ..
        } => {
            let keys = if shapes.is_empty() {
                ""
            } else {
                ", with what looks like a key"
            };
            let target = preview(&format!("{method} {host}{path}"));
            format!(
                "{} {target} by {}{keys}",
                out.style(Style::Good, "allowed"),
                preview(rule)
            )
        }
        E::EgressDenied {
            method,
            host,
            path,
            reason,
            ..
        } => {
            let target = preview(&format!("{method} {host}{path}"));
            format!("{} {target}: {}", out.style(Style::Bad, "denied"), preview(reason))
        }
        E::SecretUsed { secret, used_for, .. } => format!("secret {secret} used for {}", preview(used_for)),
        E::LimitReached { limit, message, .. } => format!("limit {}: {}", preview(limit), preview(message)),
        E::ToolsChanged {
            added,
            updated,
            removed,
            components: _,
        } => tools_changed(&[("added", added), ("updated", updated), ("removed", removed)]),
        E::HookChanged { hook, call, arguments } => {
            format!(
                "{hook} gives {} other arguments: {}",
                short(call),
                self::arguments(arguments)
            )
        }
        E::HookDenied {
            hook,
            point,
            call,
            reason,
        } => format!("{hook} {}{}: {}", word(point), about(*call), preview(reason)),
        E::HookFailed {
            hook,
            point,
            mode,
            call,
            failure,
            message,
        } => format!(
            "{hook} ({}) {}{} ({}): {}",
            word(mode),
            word(point),
            about(*call),
            word(failure),
            preview(message)
        ),
        E::CompactionStarted { reason } => format!("summing up the conversation ({})", word(reason)),
        E::CompactionCompleted {
            kept,
            tokens_before,
            tokens_after,
            usage,
            cost,
            ..
        } => format!(
            "{}, the last {} kept{}",
            smaller(*tokens_before, *tokens_after),
            count(*kept, "message"),
            used(*usage, *cost)
        ),
        E::CompactionFailed { message, usage, cost } => format!(
            "the conversation stays as it is: {}{}",
            preview(message),
            used(*usage, *cost)
        ),
        E::BudgetWarning {
            scope,
            budget,
            percent,
            used,
            limit,
        } => budget_warning(*scope, budget, *percent, *used, *limit),
        E::BudgetExhausted {
            scope,
            budget,
            used,
            limit,
        } => budget_exhausted(*scope, budget, *used, *limit),
        E::TextDelta { .. } | E::ReasoningDelta { .. } | E::StreamTruncated { .. } => return None,
    })
}

fn created(agent: &str, title: Option<&str>, from: Option<ForkedFrom>) -> String {
    let title = title.map(|title| format!(", {}", preview(title))).unwrap_or_default();
    let from = from
        .map(|from| format!(", a fork of {} at {}", from.session, from.seq))
        .unwrap_or_default();
    format!("session with agent {agent}{title}{from}")
}

fn rewound(after: u64, turns: usize, files: FilesRewound, outside: u64) -> String {
    let outside = match outside {
        0 => String::new(),
        some => format!(", {} outside not undone", count(some, "effect")),
    };
    let turns = count(turns as u64, "turn");
    format!("back to {after}: {turns} undone, files {}{outside}", word(&files))
}

fn told(notes: &[Note]) -> String {
    let told: Vec<_> = notes.iter().map(|note| preview(&note.text)).collect();
    if told.is_empty() {
        return String::new();
    }
    format!(", the model is told: {}", told.join("; "))
}

fn requested(out: Out, call: &RequestedCall) -> String {
    asked(out, &short(&call.id), &call.tool, &given(&call.arguments))
}

/// The arguments of a call on one line.
pub(crate) fn given(arguments_given: &GivenArguments) -> String {
    match arguments_given {
        GivenArguments::Arguments(object) => arguments(object),
        GivenArguments::MalformedArguments(text) => format!("malformed: {}", preview(text)),
    }
}

/// Arguments on one line.
pub(crate) fn arguments(object: &Arguments) -> String {
    preview(&Value::Object(object.clone()).to_string())
}

/// A call that waits for a decision, as the API tells it, with all its arguments: who decides by it sees what would run.
// THREAT[T-appr-deception]
pub(crate) fn waiting(out: Out, call: &Value) -> String {
    let arguments = call.get("arguments").map(Value::to_string).unwrap_or_default();
    let id = plain(text(call, "call_id"));
    format!(
        "{id} {}({})",
        out.style(Style::Name, plain(text(call, "tool"))),
        plain(&arguments)
    )
}

fn asked(out: Out, id: &str, tool: &str, arguments: &str) -> String {
    format!("{id} {}({arguments})", out.style(Style::Name, preview(tool)))
}

/// What was decided about a call.
pub(crate) fn decided(out: Out, call: &str, word: &str, feedback: Option<&str>) -> String {
    let style = if word == "approved" { Style::Good } else { Style::Bad };
    let said = feedback.map(|said| format!(" ({})", preview(said))).unwrap_or_default();
    format!("{call} {}{said}", out.style(style, word))
}

fn ended(
    out: Out,
    status: CallStatus,
    output: Option<&Output>,
    error: Option<&CallError>,
    metering: Metering,
) -> String {
    let mark = if status == CallStatus::Ok {
        out.style(Style::Good, "✓ ok")
    } else {
        out.style(Style::Bad, format_args!("✗ {}", word(&status)))
    };
    let ms = out.style(Style::Dim, format_args!("{} ms", metering.duration_ms));
    format!("{mark} {ms}: {}", outcome(output, error))
}

/// What a call returned, or why there is nothing, on one line.
pub(crate) fn outcome(output: Option<&Output>, error: Option<&CallError>) -> String {
    match (output, error) {
        (Some(output), _) => preview(&plain_text(&output.content)),
        (None, Some(error)) => preview(&error.message),
        (None, None) => String::new(),
    }
}

fn to(channel: &OutputChannel) -> String {
    match channel {
        OutputChannel::Stdout => String::new(),
        OutputChannel::Stderr => " to stderr".to_owned(),
        OutputChannel::Named(name) => format!(" to {}", preview(name)),
    }
}

/// How far something is, where that is known.
pub(crate) fn percent(fraction: Option<f32>) -> String {
    fraction
        .map(|fraction| format!(" ({:.0} %)", fraction.clamp(0.0, 1.0) * 100.0))
        .unwrap_or_default()
}

/// What was lost of an answer that was cut off.
pub(crate) fn dropped(stop: StepStop, calls: &[String]) -> String {
    match (stop, calls) {
        (StepStop::Length, [_, ..]) => format!(", cut off, calls dropped: {}", preview(&calls.join(", "))),
        (StepStop::Length, []) => ", cut off".to_owned(),
        (StepStop::Stop | StepStop::ToolCalls | StepStop::ContentFilter, _) => String::new(),
    }
}

/// The call that something is about, where there is one.
/// What went wrong, of an attempt that is followed by another: what could be done about it stands behind a semicolon, and is done.
pub(crate) fn fault(error: &TurnError) -> &str {
    error.message.split(';').next().unwrap_or_default()
}

fn about(call: Option<CallId>) -> String {
    call.map(|call| format!(" {}", short(&call))).unwrap_or_default()
}

/// Which tools have come, changed and gone.
pub(crate) fn tools_changed(changes: &[(&str, &[ToolName])]) -> String {
    let changes: Vec<_> = changes
        .iter()
        .filter(|(_, tools)| !tools.is_empty())
        .map(|(what, tools)| {
            let tools: Vec<_> = tools.iter().map(ToolName::as_str).collect();
            format!("{what}: {}", preview(&tools.join(", ")))
        })
        .collect();
    changes.join("; ")
}

/// What summing up has brought.
pub(crate) fn smaller(before: u64, after: u64) -> String {
    format!("about {} tokens before, {} now", number(before), number(after))
}

/// Most of a budget is used.
pub(crate) fn budget_warning(scope: BudgetScope, budget: &str, percent: u8, used: u64, limit: u64) -> String {
    let of = of_budget(budget, used, limit);
    format!("{percent} % of {} used: {of}", name_of_budget(scope, budget))
}

/// A budget is used up.
pub(crate) fn budget_exhausted(scope: BudgetScope, budget: &str, used: u64, limit: u64) -> String {
    let of = of_budget(budget, used, limit);
    format!("{} used up: {of}", name_of_budget(scope, budget))
}

fn name_of_budget(scope: BudgetScope, budget: &str) -> String {
    format!(
        "the {}'s budget of {}",
        word(&scope),
        preview(&budget.replace('_', " "))
    )
}

fn of_budget(budget: &str, used: u64, limit: u64) -> String {
    match budget {
        "time" => format!("{} of {}", duration(used), duration(limit)),
        "cost" => format!("{} of {}", Money::from_millionths(used), Money::from_millionths(limit)),
        _ => format!("{} of {}", number(used), number(limit)),
    }
}

/// A time as a person says it.
pub(crate) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => match (ms / 60_000, ms / 1_000 % 60) {
            (minutes, 0) => format!("{minutes} min"),
            (minutes, seconds) => format!("{minutes} min {seconds} s"),
        },
    }
}

fn used(usage: Option<Usage>, cost: Option<Money>) -> String {
    let tokens = usage
        .filter(|usage| usage.input_tokens.is_some() || usage.output_tokens.is_some())
        .map(|usage| format!(", {}", count(usage.total(), "token")));
    let cost = cost.map(|cost| format!(", cost {cost}"));
    tokens.unwrap_or_default() + &cost.unwrap_or_default()
}

/// The word that the wire has for a value.
pub(crate) fn word(value: &impl Serialize) -> String {
    let wire = serde_json::to_value(value).unwrap_or_default();
    wire.as_str().unwrap_or_default().replace('_', " ")
}

/// The plain text of a list of content.
pub(crate) fn content(pieces: &[Value]) -> String {
    let texts = pieces.iter().map(|piece| match text(piece, "type") {
        "text" => text(piece, "text").to_owned(),
        "json" => piece.get("json").map(Value::to_string).unwrap_or_default(),
        "file" => format!("[file {}]", text(piece, "path")),
        _ => format!("[{}]", text(piece, "media_type")),
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// The end of an id, enough to tell the calls of a turn apart.
pub(crate) fn short(id: &impl ToString) -> String {
    let id = id.to_string();
    id.char_indices()
        .nth_back(5)
        .map_or(&*id, |(at, _)| &id[at..])
        .to_owned()
}

/// The beginning of a text on one line.
pub(crate) fn preview(text: &str) -> String {
    one_line(text, PREVIEW)
}

#[cfg(test)]
mod tests;
