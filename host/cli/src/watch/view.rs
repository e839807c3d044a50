//! From events to what is drawn. No clock, no terminal: the same events give the same view.

use super::{Draw, Line, Mark, Running};
use crate::{
    events::{self, PREVIEW, duration, preview, word},
    out::{count, number, one_line, printable},
};
use fumehood_core::{
    Time,
    approval::{ApprovalOutcome, ResolvedApproval},
    call::{CallError, CallStatus, Metering, Output},
    event::{Event, EventBody},
    id::CallId,
    money::Money,
    turn::{Budget, Note, NoteKind, StepStop, StopReason, Usage, WaitingFor},
};
use std::collections::HashMap;

/// What is known of a turn from the events so far.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The calls that were asked for and have not ended: tool and arguments.
    calls: HashMap<CallId, (String, String)>,
    /// What was shown of a text that is not whole yet.
    streamed: Option<String>,
    started: Option<Time>,
    budget: Budget,
    steps: u64,
    calls_ended: u64,
}

impl View {
    /// What changes with an event. The types without an arm of their own are named, so that a new one is thought of.
    pub(crate) fn see(&mut self, event: &Event) -> Vec<Draw> {
        use EventBody as E;
        match &event.body {
            E::TurnQueued { .. } => vec![begins_to_wait("waiting for its turn")],
            E::TurnStarted { budget, .. } => {
                (self.started, self.budget) = (Some(event.time), *budget);
                vec![]
            }
            E::StepStarted { notes, .. } => self.step(notes),
            E::TextDelta { index, delta, .. } => self.delta(*index, delta),
            E::TextCompleted { text, .. } => self.text(text),
            E::ReasoningDelta { .. } => vec![Draw::Says(Running::Model, "thinking".to_owned())],
            E::StepRestarted { .. } => vec![
                Draw::Ends(Running::Model),
                quiet("the host was stopped; the model is asked anew"),
                begins_to_wait("waiting for the model"),
            ],
            E::RetryScheduled { .. } => retry(&event.body),
            E::StepCompleted {
                stop_reason,
                dropped_calls,
                ..
            } => step_ended(*stop_reason, dropped_calls),
            E::ToolRequested { call, .. } => {
                let label = (preview(&call.tool), events::given(&call.arguments));
                self.calls.insert(call.id, label);
                vec![]
            }
            E::ToolStarted { call, tool, .. } => {
                let (tool, arguments) = self.label(*call, tool.as_str());
                let line = Line::call(Mark::Quiet, &tool, &arguments, "");
                vec![Draw::Begins(Running::Call(*call), line)]
            }
            E::ToolProgress {
                call,
                message,
                fraction,
            } => {
                let said = preview(message) + &events::percent(*fraction);
                vec![Draw::Says(Running::Call(*call), said)]
            }
            E::ToolCompleted {
                call,
                tool,
                status,
                output,
                error,
                metering,
            } => self.call_ended(*call, tool, *status, (output.as_ref(), error.as_ref()), *metering),
            E::ToolDetached { call, note, .. } => {
                let said = note
                    .as_ref()
                    .map(|note| format!(": {}", preview(note)))
                    .unwrap_or_default();
                vec![Draw::Says(
                    Running::Call(*call),
                    format!("handed on to somebody outside{said}"),
                )]
            }
            E::HookChanged { hook, call, arguments } => {
                let (tool, _) = self.label(*call, "a call");
                let said = format!("the hook {hook} gives {tool} other arguments");
                self.calls.insert(*call, (tool, events::arguments(arguments)));
                vec![quiet(said)]
            }
            E::ApprovalRequested { .. } | E::ResultsRequested { .. } => vec![Draw::AllEnd],
            E::ApprovalResolved { decisions } => decisions.iter().map(|one| self.decided(one)).collect(),
            E::TurnPaused {
                waiting_for: WaitingFor::Results,
                ..
            } => vec![begins_to_wait("waiting for results from outside")],
            E::CompactionStarted { .. } => {
                let line = Line::words(Mark::Quiet, "summing up the conversation");
                vec![Draw::Begins(Running::Compaction, line)]
            }
            E::CompactionCompleted {
                tokens_before,
                tokens_after,
                ..
            } => {
                let smaller = events::smaller(*tokens_before, *tokens_after);
                vec![
                    Draw::Ends(Running::Compaction),
                    quiet(format!("the conversation is summed up: {smaller}")),
                ]
            }
            E::CompactionFailed { message, .. } => vec![
                Draw::Ends(Running::Compaction),
                quiet(format!("the conversation is not summed up: {}", preview(message))),
            ],
            E::TurnCompleted {
                stop_reason,
                usage,
                cost,
                ..
            } => self.ended(event.time, stopped(*stop_reason), *usage, *cost),
            E::TurnFailed { error, usage, cost, .. } => {
                let line = Line::words(Mark::Bad, format!("failed: {}", one_line(&error.message, 4 * PREVIEW)));
                self.ended(event.time, Some(line), *usage, *cost)
            }
            E::TurnCancelled { usage, cost, .. } => {
                let line = Line::words(Mark::Bad, "cancelled");
                self.ended(event.time, Some(line), *usage, *cost)
            }
            E::TurnSteered { .. }
            | E::OutputRejected { .. }
            | E::EgressDenied { .. }
            | E::LimitReached { .. }
            | E::ToolsChanged { .. }
            | E::BudgetWarning { .. }
            | E::BudgetExhausted { .. }
            | E::HookDenied { call: None, .. }
            | E::HookFailed { .. } => aside(&event.body).into_iter().map(quiet).collect(),
            // What says nothing that the person who asked has to know, or what another event tells as well.
            E::SessionCreated { .. }
            | E::SessionCopied { .. }
            | E::SessionRewound { .. }
            | E::SessionUpdated { .. }
            | E::TurnPaused {
                waiting_for: WaitingFor::Approval,
                ..
            }
            | E::TurnResumed { .. }
            | E::StepFailed { .. }
            | E::ReasoningCompleted { .. }
            | E::OutputValidated { .. }
            | E::ToolCommitted { .. }
            | E::ToolCalled { .. }
            | E::ToolRecorded { .. }
            | E::ToolProvisional { .. }
            | E::JobQueued { .. }
            | E::JobStarted { .. }
            | E::JobCompleted { .. }
            | E::ToolOutput { .. }
            | E::HookDenied { call: Some(_), .. }
            | E::EgressAllowed { .. }
            | E::SecretUsed { .. }
            | E::StreamTruncated { .. } => vec![],
        }
    }

    fn label(&self, call: CallId, tool: &str) -> (String, String) {
        let known = self.calls.get(&call).cloned();
        known.unwrap_or_else(|| (preview(tool), String::new()))
    }

    fn step(&mut self, notes: &[Note]) -> Vec<Draw> {
        self.steps += 1;
        let told = notes.iter().filter_map(|note| told(note.kind)).map(quiet);
        told.chain([begins_to_wait("waiting for the model")]).collect()
    }

    fn delta(&mut self, index: u64, delta: &str) -> Vec<Draw> {
        let mut draws = vec![Draw::Answer(printable(delta))];
        match &mut self.streamed {
            // The text begins anew.
            Some(streamed) if index == 0 => {
                delta.clone_into(streamed);
                draws.insert(0, Draw::AnswerEnds);
            }
            Some(streamed) => streamed.push_str(delta),
            None => {
                self.streamed = Some(delta.to_owned());
                draws.insert(0, Draw::Ends(Running::Model));
            }
        }
        draws
    }

    /// The whole text of a step: what is missing of it is shown. Deltas are live only, and some may not have come.
    fn text(&mut self, text: &str) -> Vec<Draw> {
        let streamed = self.streamed.take();
        let mut draws = match streamed
            .as_deref()
            .map(|streamed| (streamed, text.strip_prefix(streamed)))
        {
            Some((_, Some(""))) => vec![],
            Some((_, Some(rest))) => vec![Draw::Answer(printable(rest))],
            Some((_, None)) => vec![Draw::AnswerEnds, Draw::Answer(printable(text))],
            None => vec![Draw::Ends(Running::Model), Draw::Answer(printable(text))],
        };
        draws.push(Draw::AnswerEnds);
        draws
    }

    fn call_ended(
        &mut self,
        call: CallId,
        tool: &str,
        status: CallStatus,
        (output, error): (Option<&Output>, Option<&CallError>),
        metering: Metering,
    ) -> Vec<Draw> {
        let (tool, arguments) = self.label(call, tool);
        self.calls.remove(&call);
        self.calls_ended += 1;
        let time = duration(metering.duration_ms);
        let mut draws = vec![Draw::Ends(Running::Call(call))];
        if status == CallStatus::Ok {
            draws.push(Draw::Settled(Line::call(Mark::Good, &tool, &arguments, time)));
            return draws;
        }
        if status == CallStatus::Cancelled {
            // Whoever cancelled the turn knows why.
            draws.push(Draw::Settled(Line::call(Mark::Bad, &tool, &arguments, word(&status))));
            return draws;
        }
        let after = format!("{}, {time}", word(&status));
        draws.push(Draw::Settled(Line::call(Mark::Bad, &tool, &arguments, after)));
        let why = events::outcome(output, error);
        if !why.is_empty() {
            draws.push(Draw::Settled(Line::words(Mark::Under, why)));
        }
        draws
    }

    fn decided(&self, one: &ResolvedApproval) -> Draw {
        let (tool, arguments) = self.label(one.call_id, "");
        let arguments = one.arguments.as_ref().map_or(arguments, events::arguments);
        let (mark, said) = match one.decision {
            ApprovalOutcome::Approved => (Mark::Good, "approved"),
            ApprovalOutcome::Rejected => (Mark::Bad, "rejected"),
            ApprovalOutcome::Expired => (Mark::Bad, "nobody decided in time"),
            ApprovalOutcome::Abandoned => (Mark::Bad, "abandoned: a new input came instead"),
        };
        let said = match &one.feedback {
            Some(feedback) => format!("{said}: {}", preview(feedback)),
            None => said.to_owned(),
        };
        Draw::Settled(Line::call(mark, &tool, &arguments, said))
    }

    fn ended(&mut self, time: Time, why: Option<Line>, usage: Option<Usage>, cost: Option<Money>) -> Vec<Draw> {
        let mut draws = vec![Draw::AllEnd];
        if self.streamed.take().is_some() {
            draws.push(Draw::AnswerEnds);
        }
        draws.extend(why.map(Draw::Settled));
        draws.push(quiet(self.used(time, usage, cost)));
        draws
    }

    /// What the turn has used, and of how much, where that is bounded.
    fn used(&self, time: Time, usage: Option<Usage>, cost: Option<Money>) -> String {
        let of = |limit: Option<String>| limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
        let mut parts = vec![
            match self.budget.steps {
                Some(limit) => format!("{} of {}", self.steps, count(limit, "step")),
                None => count(self.steps, "step"),
            },
            match self.budget.tool_calls {
                Some(limit) => format!("{} of {}", number(self.calls_ended), count(limit, "call")),
                None => count(self.calls_ended, "call"),
            },
        ];
        parts.extend(usage.and_then(|usage| tokens(usage, self.budget.tokens)));
        parts.extend(cost.map(|cost| format!("cost {cost}{}", of(self.budget.cost.map(|limit| limit.to_string())))));
        if let Some(ms) = self
            .started
            .and_then(|started| u64::try_from((time - started).num_milliseconds()).ok())
        {
            parts.push(format!("{}{}", duration(ms), of(self.budget.time_ms.map(duration))));
        }
        parts.join(", ")
    }
}

fn quiet(words: impl Into<String>) -> Draw {
    Draw::Settled(Line::words(Mark::Quiet, words))
}

fn begins_to_wait(words: &str) -> Draw {
    Draw::Begins(Running::Model, Line::words(Mark::Quiet, words))
}

/// What happens beside the answer and the calls, in words.
fn aside(body: &EventBody) -> Option<String> {
    use EventBody as E;
    Some(match body {
        E::TurnSteered { input } => {
            let said = fumehood_core::content::plain_text(input);
            format!("added meanwhile: {}", preview(&said))
        }
        E::OutputRejected { faults, .. } => {
            format!("the answer breaks the output schema: {}", preview(&faults.join("; ")))
        }
        E::EgressDenied {
            method,
            host,
            path,
            reason,
            ..
        } => {
            let target = preview(&format!("{method} {host}{path}"));
            format!("denied: {target}: {}", preview(reason))
        }
        E::LimitReached { limit, message, .. } => format!("limit {}: {}", preview(limit), preview(message)),
        E::ToolsChanged {
            added,
            updated,
            removed,
            components: _,
        } => {
            let changes = [("added", &**added), ("updated", updated), ("removed", removed)];
            format!("the tools have changed: {}", events::tools_changed(&changes))
        }
        E::BudgetWarning {
            scope,
            budget,
            percent,
            used,
            limit,
        } => events::budget_warning(*scope, budget, *percent, *used, *limit),
        E::HookDenied { hook, reason, .. } => format!("the hook {hook} denied it: {}", preview(reason)),
        E::HookFailed { hook, message, .. } => format!("the hook {hook} gave no answer: {}", preview(message)),
        E::BudgetExhausted {
            scope,
            budget,
            used,
            limit,
        } => events::budget_exhausted(*scope, budget, *used, *limit),
        _ => return None,
    })
}

fn retry(body: &EventBody) -> Vec<Draw> {
    let EventBody::RetryScheduled {
        attempt,
        max_attempts,
        delay_ms,
        error,
        model,
        ..
    } = body
    else {
        return vec![];
    };
    let wait = match delay_ms {
        0 => String::new(),
        ms => format!(" in {}", duration(*ms)),
    };
    let again = match model {
        Some(model) => format!("asking {model} instead{wait}"),
        None => format!("retry {attempt} of {max_attempts}{wait}"),
    };
    vec![
        Draw::Ends(Running::Model),
        quiet(format!("{}; {again}", preview(events::fault(error)))),
        begins_to_wait("waiting for the model"),
    ]
}

fn step_ended(stop: StepStop, dropped: &[String]) -> Vec<Draw> {
    let mut draws = vec![Draw::Ends(Running::Model)];
    if !dropped.is_empty() {
        draws.push(quiet(format!(
            "the answer was{}",
            events::dropped(stop, dropped).trim_start_matches(',')
        )));
    }
    draws
}

/// What a person is told of a note to the model that no other event tells.
const fn told(note: NoteKind) -> Option<&'static str> {
    match note {
        NoteKind::Repetition => Some("the model repeats itself, and was told so"),
        NoteKind::MalformedArguments => Some("the model's arguments are no JSON again and again, and it was told so"),
        NoteKind::JobEnded => Some("a job of the session has ended, and the model was told how"),
        NoteKind::Truncated | NoteKind::OutputRejected | NoteKind::ToolsChanged => None,
    }
}

/// Why a turn ended, if it is not that the model was done.
fn stopped(reason: StopReason) -> Option<Line> {
    let why = match reason {
        StopReason::EndTurn => return None,
        StopReason::OutputLimit => "the answer is as long as the model's answers may be",
        StopReason::ContentFilter => "the provider withheld the answer",
        StopReason::StepLimit => "the turn's budget of steps is used up",
        StopReason::ToolCallLimit => "the turn's budget of tool calls is used up",
        StopReason::TokenLimit => "the turn's budget of tokens is used up",
        StopReason::CostLimit => "the turn's budget of money is used up",
        StopReason::SessionTokenLimit => "the session's budget of tokens is used up",
        StopReason::SessionCostLimit => "the session's budget of money is used up",
        StopReason::SessionToolCallLimit => "the session's budget of tool calls is used up",
        StopReason::SessionStepLimit => "the session's budget of steps is used up",
        StopReason::OrgTokenLimit => "the org's budget of tokens is used up",
        StopReason::OrgCostLimit => "the org's budget of money is used up",
        StopReason::OrgToolCallLimit => "the org's budget of tool calls is used up",
        StopReason::OrgStepLimit => "the org's budget of steps is used up",
        StopReason::Repetition => "the model went on repeating itself",
    };
    Some(Line::words(Mark::Bad, format!("stopped: {why}")))
}

/// Tokens, as far as they were counted.
fn tokens(usage: Usage, limit: Option<u64>) -> Option<String> {
    let parts: Vec<_> = [
        usage.input_tokens.map(|count| format!("{} in", number(count))),
        usage
            .cached_input_tokens
            .map(|count| format!("{} of them cached", number(count))),
        usage
            .cache_write_tokens
            .map(|count| format!("{} written to the cache", number(count))),
        usage.output_tokens.map(|count| format!("{} out", number(count))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        return None;
    }
    let total = match limit {
        Some(limit) => format!("{} of {}", number(usage.total()), count(limit, "token")),
        None => count(usage.total(), "token"),
    };
    Some(format!("{total} ({})", parts.join(", ")))
}

#[cfg(test)]
mod tests;
