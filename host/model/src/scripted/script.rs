//! The script file: read strictly, checked whole before it is used.

use super::{expect::Expectation, place::Place};
use crate::error::{ModelError, ModelErrorKind, Wait};
use fumehood_core::{
    call::Arguments,
    turn::{StepStop, Usage},
};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

const MAX_FILE: u64 = 1 << 20;
const LONGEST_WAIT_MS: u64 = 600_000;

/// Why a file is not a script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The file can't be read.
    #[error("the model script `{path}` cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is too large.
    #[error("the model script `{path}` is larger than 1 MiB")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// It is not YAML, or not of the script's shape.
    #[error("the model script is not right: {0}")]
    Shape(#[from] serde_yaml_ng::Error),
    /// It contradicts itself.
    #[error("the model script is not right: turn {turn}, step {step}: {problem}")]
    Step {
        /// From 1; one more than the last is `otherwise`.
        turn: usize,
        /// From 1.
        step: usize,
        /// What to change.
        problem: &'static str,
    },
    /// A `match` is not a regular expression.
    #[error("the model script is not right: turn {turn}: `match` is not a regular expression: {source}")]
    Match {
        /// From 1.
        turn: usize,
        /// Why.
        source: Box<regex::Error>,
    },
    /// There is nothing in it.
    #[error("the model script is not right: it has neither `turns` nor `otherwise`")]
    Empty,
}

/// A script that was checked.
#[derive(Debug)]
pub(super) struct Script {
    turns: Vec<Turn>,
    otherwise: Option<Steps>,
}

#[derive(Debug)]
struct Turn {
    pattern: Option<Regex>,
    steps: Steps,
}

#[derive(Debug)]
struct Steps {
    answers: Vec<(Vec<Fault>, Answer)>,
    after_last: AfterLast,
}

/// What happens after the last answer.
#[derive(Debug)]
enum AfterLast {
    /// Nothing: to ask for more is a fault of the script.
    End,
    /// The last answer again.
    Repeat,
    /// These, always.
    Faults(Vec<Fault>),
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) reasoning: Option<String>,
    pub(super) text: Option<String>,
    pub(super) tool_calls: Vec<Call>,
    pub(super) expect: Vec<Expectation>,
    pub(super) usage: Option<Usage>,
    pub(super) stop: Option<StepStop>,
    pub(super) delay: Duration,
    pub(super) pace: Duration,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) tool: String,
    pub(super) arguments: CallArguments,
}

#[derive(Debug)]
pub(super) enum CallArguments {
    Object(Arguments),
    Malformed(String),
}

/// A scripted fault.
#[derive(Debug)]
pub(super) struct Fault {
    code: FaultCode,
    retry_after: Option<Duration>,
    pub(super) after_text: Option<String>,
    pub(super) times: u32,
    pub(super) delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FaultCode {
    RateLimited,
    Overloaded,
    Unavailable,
    Timeout,
    Incomplete,
    Auth,
    OutOfCredit,
    InvalidRequest,
    RequestTooLarge,
    ContextTooLong,
    UnknownModel,
    ContentFiltered,
    Protocol,
}

impl Fault {
    pub(super) fn error(&self) -> ModelError {
        let retry_after = self.retry_after;
        match self.code {
            FaultCode::RateLimited => ModelErrorKind::RateLimited { retry_after },
            FaultCode::Overloaded => ModelErrorKind::Overloaded { retry_after },
            FaultCode::Unavailable => ModelErrorKind::Unavailable { retry_after },
            FaultCode::Timeout => ModelErrorKind::Timeout {
                waiting_for: Wait::NextEvent,
            },
            FaultCode::Incomplete => ModelErrorKind::Incomplete,
            FaultCode::Auth => ModelErrorKind::Auth,
            FaultCode::OutOfCredit => ModelErrorKind::OutOfCredit,
            FaultCode::InvalidRequest => ModelErrorKind::InvalidRequest,
            FaultCode::RequestTooLarge => ModelErrorKind::RequestTooLarge,
            FaultCode::ContextTooLong => ModelErrorKind::ContextTooLong,
            FaultCode::UnknownModel => ModelErrorKind::UnknownModel,
            FaultCode::ContentFiltered => ModelErrorKind::ContentFiltered,
            FaultCode::Protocol => ModelErrorKind::Protocol("the script says so"),
        }
        .into()
    }
}

/// What a script says to a place.
#[derive(Clone, Copy)]
pub(super) enum Next<'a> {
    /// This, after the faults.
    Answer(&'a Answer),
    /// Nothing but the faults.
    FaultsForEver,
}

impl Script {
    pub(super) fn from_file(path: &Path) -> Result<Self, ScriptError> {
        let shown = || path.display().to_string();
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
            .map_err(|source| ScriptError::Read { path: shown(), source })?;
        if text.len() as u64 > MAX_FILE {
            return Err(ScriptError::TooLarge { path: shown() });
        }
        Self::from_yaml(&text)
    }

    pub(super) fn from_yaml(text: &str) -> Result<Self, ScriptError> {
        let file: FileForm = serde_yaml_ng::from_str(text)?;
        if file.turns.is_empty() && file.otherwise.is_none() {
            return Err(ScriptError::Empty);
        }
        let after_last = file.turns.len() + 1;
        let turns = file
            .turns
            .into_iter()
            .enumerate()
            .map(|(at, turn)| turn.check(at + 1))
            .collect::<Result<_, _>>()?;
        let otherwise = file
            .otherwise
            .map(|form| check_steps(form.steps, form.repeat_last, after_last))
            .transpose()?;
        Ok(Self { turns, otherwise })
    }

    /// The script that is there without a file.
    pub(super) fn built_in() -> Self {
        // A test reads it, so the fallback is never used; it keeps this function free of a panic.
        Self::from_yaml(include_str!("built_in.yaml")).unwrap_or(Self {
            turns: Vec::new(),
            otherwise: None,
        })
    }

    /// What comes next at a place.
    pub(super) fn next(&self, place: &Place<'_>) -> Result<(&[Fault], Next<'_>), String> {
        let steps = self.steps_for(&place.inputs)?;
        let at = place.steps().len();
        match (steps.answers.get(at), &steps.after_last, steps.answers.last()) {
            (Some((faults, answer)), ..) => Ok((faults, Next::Answer(answer))),
            (None, AfterLast::Repeat, Some((_, answer))) => Ok((&[], Next::Answer(answer))),
            (None, AfterLast::Faults(faults), _) => Ok((faults, Next::FaultsForEver)),
            (None, AfterLast::End | AfterLast::Repeat, _) => Err(format!(
                "its turn for this input has {} steps, and step {} is asked for; add one that ends the turn without tool calls, \
                 or `repeat_last: true`",
                steps.answers.len(),
                at + 1
            )),
        }
    }

    fn steps_for(&self, inputs: &[String]) -> Result<&Steps, String> {
        let mut used = vec![false; self.turns.len()];
        let mut current = None;
        for input in inputs {
            current = self
                .turns
                .iter()
                .enumerate()
                .position(|(at, turn)| match &turn.pattern {
                    Some(pattern) => pattern.is_match(input),
                    None => !std::mem::replace(&mut used[at], true),
                });
        }
        match current {
            Some(at) => Ok(&self.turns[at].steps),
            None => self.otherwise.as_ref().ok_or_else(|| {
                "no turn of it is for this input; add a turn without `match`, or `otherwise`".to_owned()
            }),
        }
    }
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    #[serde(default)]
    turns: Vec<TurnForm>,
    otherwise: Option<StepsForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TurnForm {
    #[serde(rename = "match")]
    pattern: Option<String>,
    #[serde(default)]
    repeat_last: bool,
    steps: Vec<StepForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepsForm {
    #[serde(default)]
    repeat_last: bool,
    steps: Vec<StepForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepForm {
    reasoning: Option<String>,
    text: Option<String>,
    #[serde(default)]
    tool_calls: Vec<CallForm>,
    #[serde(default)]
    expect: Vec<Expectation>,
    usage: Option<UsageForm>,
    stop: Option<StepStop>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    pace_ms: u64,
    error: Option<FaultForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallForm {
    tool: String,
    arguments: Option<Arguments>,
    malformed_arguments: Option<String>,
}

/// As in the core, but strict.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageForm {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cached_input_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultForm {
    code: FaultCode,
    retry_after_ms: Option<u64>,
    after_text: Option<String>,
    times: Option<u32>,
}

impl TurnForm {
    fn check(self, turn: usize) -> Result<Turn, ScriptError> {
        let pattern = self.pattern.map(|text| pattern(&text)).transpose();
        let pattern = pattern.map_err(|source| ScriptError::Match {
            turn,
            source: Box::new(source),
        })?;
        Ok(Turn {
            pattern,
            steps: check_steps(self.steps, self.repeat_last, turn)?,
        })
    }
}

fn pattern(text: &str) -> Result<Regex, regex::Error> {
    match text.strip_prefix('/').and_then(|text| text.strip_suffix('/')) {
        Some(expression) => Regex::new(expression),
        None => RegexBuilder::new(&regex::escape(text)).case_insensitive(true).build(),
    }
}

fn check_steps(forms: Vec<StepForm>, repeat_last: bool, turn: usize) -> Result<Steps, ScriptError> {
    let wrong = |step, problem| ScriptError::Step { turn, step, problem };
    if forms.is_empty() {
        return Err(wrong(1, "a turn needs at least one step"));
    }
    let steps = forms.len();
    let (mut answers, mut faults) = (Vec::new(), Vec::new());
    for (at, mut form) in forms.into_iter().enumerate() {
        let step = at + 1;
        if form.delay_ms > LONGEST_WAIT_MS || form.pace_ms > LONGEST_WAIT_MS {
            return Err(wrong(step, "`delay_ms` and `pace_ms` are at most 600000, ten minutes"));
        }
        match form.error.take() {
            Some(error) => {
                let fault = check_fault(error, &form).map_err(|problem| wrong(step, problem))?;
                faults.push(fault);
            }
            None => {
                let answer = check_answer(form).map_err(|problem| wrong(step, problem))?;
                answers.push((std::mem::take(&mut faults), answer));
            }
        }
    }
    let after_last = match (repeat_last, faults.is_empty()) {
        (false, true) => AfterLast::End,
        (false, false) => AfterLast::Faults(faults),
        (true, true) => AfterLast::Repeat,
        (true, false) => return Err(wrong(steps, "after an `error` at the end there is nothing to repeat")),
    };
    Ok(Steps { answers, after_last })
}

fn check_fault(error: FaultForm, form: &StepForm) -> Result<Fault, &'static str> {
    let alone = form.reasoning.is_none()
        && form.text.is_none()
        && form.tool_calls.is_empty()
        && form.expect.is_empty()
        && form.usage.is_none()
        && form.stop.is_none();
    if !alone {
        return Err("`error` stands alone in its step, but for `delay_ms`; for text before it use its `after_text`");
    }
    let takes_hint = matches!(
        error.code,
        FaultCode::RateLimited | FaultCode::Overloaded | FaultCode::Unavailable
    );
    if error.retry_after_ms.is_some() && !takes_hint {
        return Err("`retry_after_ms` goes with `rate_limited`, `overloaded` and `unavailable`");
    }
    if error.times == Some(0) {
        return Err("`times` is at least 1");
    }
    Ok(Fault {
        code: error.code,
        retry_after: error.retry_after_ms.map(Duration::from_millis),
        after_text: error.after_text,
        times: error.times.unwrap_or(1),
        delay: Duration::from_millis(form.delay_ms),
    })
}

fn check_answer(form: StepForm) -> Result<Answer, &'static str> {
    if form.reasoning.is_none() && form.text.is_none() && form.tool_calls.is_empty() {
        return Err("a step needs one of `text`, `reasoning`, `tool_calls` and `error`");
    }
    if let Some(problem) = form.expect.iter().find_map(Expectation::problem) {
        return Err(problem);
    }
    let tool_calls = form
        .tool_calls
        .into_iter()
        .map(|call| {
            let arguments = match (call.arguments, call.malformed_arguments) {
                (Some(_), Some(_)) => return Err("a call has `arguments` or `malformed_arguments`, not both"),
                (object, None) => CallArguments::Object(object.unwrap_or_default()),
                (None, Some(text)) => CallArguments::Malformed(text),
            };
            Ok(Call {
                tool: call.tool,
                arguments,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(Answer {
        reasoning: form.reasoning,
        text: form.text,
        tool_calls,
        expect: form.expect,
        usage: form.usage.map(|usage| Usage {
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            reasoning_tokens: usage.reasoning_tokens,
        }),
        stop: form.stop,
        delay: Duration::from_millis(form.delay_ms),
        pace: Duration::from_millis(form.pace_ms),
    })
}
