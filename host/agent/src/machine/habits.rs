//! Bad habits of models: the same calls with the same results again and again, and arguments that are never JSON.
//!
//! Only the tail of the turn counts. A model is told once; one that goes on repeating after that ends the turn.

use super::calls::Calls;
use fumehood_core::{
    call::{CallError, CallErrorCode, Output},
    message::{GivenArguments, RequestedCall},
    turn::{Note, NoteKind},
};
use serde_json::Value;
use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Calls that are looked back on.
const TAIL: usize = 30;
/// The same call so often in a row is a repetition.
const IN_A_ROW: usize = 3;
/// A cycle of this many calls, twice in a row, is one too.
const CYCLES: std::ops::RangeInclusive<usize> = 2..=5;
/// Malformed arguments for the same tool so often in a row.
const MALFORMED_IN_A_ROW: usize = 2;

/// What was called and what came of it, to tell whether it is the same again. Polling whose result changes is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    tool: String,
    arguments_and_result: u64,
    malformed: bool,
}

/// The calls of the earlier steps, and what the model was told before the last one.
#[derive(Debug, Clone, Default)]
pub(super) struct Habits {
    earlier: VecDeque<Signature>,
    told_of_repetition: bool,
    told_of_malformed: bool,
}

impl Habits {
    pub(super) fn step_begins(&mut self, calls: &Calls, notes: &[Note]) {
        for signature in calls.signatures() {
            if self.earlier.len() == TAIL {
                self.earlier.pop_front();
            }
            self.earlier.push_back(signature.clone());
        }
        let told = |kind| notes.iter().any(|note| note.kind == kind);
        // A step without calls says nothing about what it was told.
        self.told_of_repetition = told(NoteKind::Repetition) || (self.told_of_repetition && calls.is_empty());
        // It stays told for as long as the streak goes on.
        self.told_of_malformed = told(NoteKind::MalformedArguments)
            || (self.told_of_malformed && malformed_streak(&self.tail(&Calls::default())).is_some());
    }

    /// Whether the model was told that it repeats itself, and still does.
    pub(super) fn goes_on_repeating(&self, calls: &Calls) -> bool {
        self.told_of_repetition && !calls.is_empty() && repetition(&self.tail(calls)).is_some()
    }

    pub(super) fn notes(&self, calls: &Calls) -> Vec<Note> {
        let tail = self.tail(calls);
        let mut notes = Vec::new();
        let is_told = self.told_of_repetition && calls.is_empty();
        if let Some(tools) = repetition(&tail).filter(|_| !is_told) {
            notes.push(Note {
                kind: NoteKind::Repetition,
                text: format!(
                    "You have made the same calls with the same results several times in a row ({tools}). Do not repeat them: use \
                     another tool, change the arguments substantially, or tell the user what keeps you from going on."
                ),
                job: None,
            });
        }
        if let Some(tool) = malformed_streak(&tail).filter(|_| !self.told_of_malformed) {
            notes.push(Note {
                kind: NoteKind::MalformedArguments,
                text: format!(
                    "The arguments of your last calls of {tool} were not valid JSON objects. Do not send that form again: send a \
                     smaller, complete JSON object, and split large content over several calls."
                ),
                job: None,
            });
        }
        notes
    }

    fn tail<'a>(&'a self, calls: &'a Calls) -> Vec<&'a Signature> {
        let mut tail: Vec<_> = self.earlier.iter().chain(calls.signatures()).collect();
        tail.drain(..tail.len().saturating_sub(TAIL));
        tail
    }
}

/// The tools that are called again and again at the end.
fn repetition(tail: &[&Signature]) -> Option<String> {
    let names = |pattern: &[&Signature]| {
        let names: Vec<_> = pattern.iter().map(|signature| signature.tool.as_str()).collect();
        Some(names.join(", "))
    };
    let last = tail.last()?;
    if tail.len() >= IN_A_ROW && tail[tail.len() - IN_A_ROW..].iter().all(|signature| signature == last) {
        return names(&[last]);
    }
    CYCLES.filter(|length| tail.len() >= 2 * length).find_map(|length| {
        let (before, pattern) = tail.split_at(tail.len() - length);
        (before.ends_with(pattern) && pattern.iter().any(|signature| *signature != pattern[0]))
            .then(|| names(pattern))
            .flatten()
    })
}

/// The tool that was called with malformed arguments, and nothing else, at the end.
fn malformed_streak<'a>(tail: &[&'a Signature]) -> Option<&'a str> {
    let last = tail.last()?;
    let streak = tail
        .iter()
        .rev()
        .take_while(|signature| signature.malformed && signature.tool == last.tool)
        .count();
    (streak >= MALFORMED_IN_A_ROW).then_some(last.tool.as_str())
}

pub(super) fn signature(call: &RequestedCall, output: Option<&Output>, error: Option<&CallError>) -> Signature {
    let mut hasher = DefaultHasher::new();
    match &call.arguments {
        GivenArguments::Arguments(arguments) => {
            hash_members(arguments, &mut hasher);
        }
        GivenArguments::MalformedArguments(text) => text.hash(&mut hasher),
    }
    if let Some(output) = output {
        output.is_error.hash(&mut hasher);
        for piece in &output.content {
            piece.as_plain_text().hash(&mut hasher);
        }
        if let Some(structured) = &output.structured {
            hash_value(structured, &mut hasher);
        }
    }
    if let Some(error) = error {
        error.code.hash(&mut hasher);
        // It says how long to wait, which changes all the time.
        if error.code != CallErrorCode::RateLimited {
            error.message.hash(&mut hasher);
        }
    }
    Signature {
        tool: call.tool.clone(),
        arguments_and_result: hasher.finish(),
        malformed: matches!(call.arguments, GivenArguments::MalformedArguments(_)),
    }
}

/// The same for the same value, in whatever order its members were written.
fn hash_value(value: &Value, hasher: &mut DefaultHasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Null => {}
        Value::Bool(truth) => truth.hash(hasher),
        Value::Number(number) => number.to_string().hash(hasher),
        Value::String(text) => text.hash(hasher),
        Value::Array(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| hash_value(item, hasher));
        }
        Value::Object(members) => hash_members(members, hasher),
    }
}

fn hash_members(members: &serde_json::Map<String, Value>, hasher: &mut DefaultHasher) {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| *name);
    sorted.len().hash(hasher);
    for (name, member) in sorted {
        name.hash(hasher);
        hash_value(member, hasher);
    }
}
