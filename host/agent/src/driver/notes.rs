//! What a model is told of a call beside its result: who changed or refused it, and what they said.

use super::admission::arguments;
use crate::machine::{HandedOn, Verdict};
use fumehood_core::{
    approval::ApprovalOutcome,
    call::{Arguments, CallResult},
    content::Content,
};

/// Bytes of changed arguments that the model is told.
const TOLD_ARGUMENTS: usize = 4096;

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

pub(super) fn changed_by_hook(arguments: &Arguments) -> String {
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
