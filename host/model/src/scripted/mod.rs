//! A model that plays replies from a YAML file: for the demo, for tests, and for trying a host without a key.
//!
//! ```yaml
//! turns:                            # one per user message
//!   - match: "sales report"         # optional. Part of the user message in any case; "/…/" is a regular expression
//!     steps:                        # one answer of the model each
//!       - reasoning: "The files first."
//!         text: "I'll look at the files."
//!         tool_calls:
//!           - { tool: files_list, arguments: { path: "." } }
//!           - { tool: files_read, malformed_arguments: "{\"path\":" }
//!       - expect:                   # optional: what has to be true of the results, else the step fails
//!           - { results: 2 }
//!           - { result: 0, status: ok, contains: "sales.csv" }
//!           - { result: 1, status: error, path: error, equals: invalid_arguments }
//!         tool_calls:
//!           - { tool: data_query, arguments: { file: "{{result.0.structured.files.0}}" } }
//!       - error: { code: rate_limited, retry_after_ms: 50, times: 2 }
//!       - text: "The total is {{result.0.structured.total}}."
//!         usage: { input_tokens: 900, output_tokens: 12 }
//! otherwise:                        # optional: for user messages that no turn is for
//!   steps:
//!     - text: "You said: {{input}}"
//! ```
//!
//! # Which step is next
//!
//! The transcript decides, so a host that restarts goes on rightly. Each user message (or several in a row) begins a
//! turn; its turn in the file is the first, from the top, that has a `match` that fits, or has no `match` and was not used by
//! an earlier user message of the transcript; else `otherwise`. Its step is the number of assistant messages since.
//! Asked for a step or a turn that the file does not have, the model fails with an error that says so. A turn (or `otherwise`)
//! with `repeat_last: true` gives its last step again instead.
//!
//! # A step
//!
//! | key | meaning |
//! |---|---|
//! | `reasoning`, `text` | what is streamed, in small pieces |
//! | `tool_calls` | `tool` and either `arguments` (an object) or `malformed_arguments` (any text) |
//! | `usage` | `input_tokens`, `output_tokens`, `cached_input_tokens`, `cache_write_tokens`, `reasoning_tokens`; without it nothing is counted |
//! | `stop` | `stop`, `tool_calls`, `length` or `content_filter`; else what follows from the calls |
//! | `delay_ms` | wait before the answer begins; at most ten minutes |
//! | `pace_ms` | wait before each piece |
//! | `expect` | assertions, checked before anything is streamed |
//! | `error` | a fault; alone in its step, but for `delay_ms` |
//!
//! **`error`** has a `code` (`rate_limited`, `overloaded`, `unavailable`, `timeout`, `incomplete`, `auth`, `out_of_credit`,
//! `invalid_request`, `request_too_large`, `context_too_long`, `unknown_model`, `content_filtered`, `protocol`), for the
//! first three an optional `retry_after_ms`, an optional `after_text` (streamed before it breaks off), and `times`. It is
//! no answer, so it has no place of its own in the count: it stands before the next step and happens `times` times
//! (default 1) to the same request, then the step goes ahead. After the last step it happens always. How often it has
//! happened is only in memory: after a restart it happens again.
//!
//! **`expect`**: `{results: N}` (how many results the last step had), `{offered: NAME}` and `{not_offered: NAME}` (which
//! tools the request has), or `{result: N, …}` with any of `status` (`ok`, `error`, `denied`, …), `contains`, `lacks` (in
//! what the result says), and `path` with `equals`.
//!
//! **Placeholders** in `text`, `reasoning` and, at any depth, in `arguments`: `{{input}}` is the user message;
//! `{{result.N.…}}` the N-th result of the last step; `{{step.S.result.N.…}}` that of step S of this turn; all from 0. After the
//! number: `text`; `structured` or `json` with keys and positions after it (`json` is the first JSON content, or text that is
//! JSON); `status`; `error` (the code); `message`. An argument that is nothing but a placeholder takes the value with its type. A
//! placeholder that leads nowhere fails the step. Other double braces are left alone, such as `{{secret:NAME}}`.
//!
//! Without a file the model says that none is configured and echoes the input; asked for the time, it calls `clock_now` first.

mod expect;
mod place;
mod script;
mod template;

pub use script::ScriptError;

use crate::{
    config::ProviderKind,
    error::{ModelError, ModelErrorKind},
    event::{ModelEvent, ModelInfo, ModelStream, Provider},
    request::ModelRequest,
};
use async_trait::async_trait;
use fumehood_core::turn::StepStop;
use futures::StreamExt as _;
use place::Place;
use script::{Answer, Call, CallArguments, Fault, Next, Script};
use serde_json::Value;
use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use template::Scope;

/// A model that plays a script. See the module for the file's format.
#[derive(Debug)]
pub struct Scripted {
    script: Script,
    info: ModelInfo,
    faults: Mutex<Attempts>,
}

impl Scripted {
    /// Reads a script.
    ///
    /// # Errors
    /// When the file can't be read, is larger than 1 MiB, or is not a script.
    pub fn from_file(path: &Path) -> Result<Self, ScriptError> {
        Script::from_file(path).map(Self::of)
    }

    /// Takes a script's text.
    ///
    /// # Errors
    /// When it is not a script.
    pub fn from_yaml(text: &str) -> Result<Self, ScriptError> {
        Script::from_yaml(text).map(Self::of)
    }

    /// The model that is there when none is configured.
    #[must_use]
    pub fn built_in() -> Self {
        Self::of(Script::built_in())
    }

    /// The same under a name of the operator's choice.
    #[must_use]
    pub fn named(self, info: ModelInfo) -> Self {
        Self { info, ..self }
    }

    fn of(script: Script) -> Self {
        let provider = ProviderKind::Scripted;
        let model = provider.default_model().to_owned();
        Self {
            script,
            info: ModelInfo {
                provider,
                model,
                context_window: None,
            },
            faults: Mutex::default(),
        }
    }

    /// The fault that is due before the answer, if any is.
    fn fault<'a>(&self, faults: &'a [Fault], request: &ModelRequest) -> Option<&'a Fault> {
        if faults.is_empty() {
            return None;
        }
        let mut attempts = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempt = attempts.next(request);
        faults.iter().find(|fault| {
            let due = attempt < fault.times;
            attempt = attempt.saturating_sub(fault.times);
            due
        })
    }
}

#[async_trait]
impl Provider for Scripted {
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let place = Place::of(&request.messages);
        let scope = Scope {
            input: place.input(),
            steps: place.steps(),
        };
        let (faults, next) = self.script.next(&place).map_err(wrong)?;
        let fault = match next {
            Next::Answer(_) => self.fault(faults, request),
            Next::FaultsForEver => faults.first(),
        };
        let (answer, pace, events) = match (fault, next) {
            (Some(fault), _) => {
                pause(fault.delay).await;
                let Some(text) = &fault.after_text else {
                    return Err(fault.error());
                };
                let mut events = pieces(text).map(ModelEvent::TextDelta).map(Ok).collect::<Vec<_>>();
                events.push(Err(fault.error()));
                return Ok(paced(events, Duration::ZERO));
            }
            (None, Next::Answer(answer)) => (answer, answer.pace, play(answer, &scope)),
            (None, Next::FaultsForEver) => return Err(wrong("it has a turn without steps".to_owned())),
        };
        expect::check(&answer.expect, &scope, &request.tools).map_err(wrong)?;
        let events = events.map_err(wrong)?;
        pause(answer.delay).await;
        Ok(paced(events.into_iter().map(Ok).collect(), pace))
    }

    fn describe(&self) -> ModelInfo {
        self.info.clone()
    }
}

fn wrong(what: String) -> ModelError {
    ModelErrorKind::Script(what).into()
}

/// A sleep of nothing would still wait for the next tick of the clock.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

fn paced(events: Vec<Result<ModelEvent, ModelError>>, pace: Duration) -> ModelStream {
    if pace.is_zero() {
        return futures::stream::iter(events).boxed();
    }
    futures::stream::iter(events)
        .then(move |event| async move {
            tokio::time::sleep(pace).await;
            event
        })
        .boxed()
}

/// The events of an answer.
fn play(answer: &Answer, scope: &Scope<'_>) -> Result<Vec<ModelEvent>, String> {
    let mut events = Vec::new();
    if let Some(reasoning) = &answer.reasoning {
        events.extend(pieces(&template::render(reasoning, scope)?).map(ModelEvent::ReasoningDelta));
        events.push(ModelEvent::ReasoningDone { provider_state: None });
    }
    if let Some(text) = &answer.text {
        events.extend(pieces(&template::render(text, scope)?).map(ModelEvent::TextDelta));
    }
    for (index, Call { tool, arguments }) in answer.tool_calls.iter().enumerate() {
        let arguments = match arguments {
            CallArguments::Object(object) => template::render_value(&Value::Object(object.clone()), scope)?.to_string(),
            CallArguments::Malformed(text) => text.clone(),
        };
        events.push(ModelEvent::ToolCallStart {
            index,
            name: tool.clone(),
        });
        events.extend(pieces(&arguments).map(|delta| ModelEvent::ToolCallArguments { index, delta }));
        events.push(ModelEvent::ToolCallEnd { index });
    }
    events.extend(answer.usage.map(ModelEvent::Usage));
    let natural = if answer.tool_calls.is_empty() {
        StepStop::Stop
    } else {
        StepStop::ToolCalls
    };
    events.push(ModelEvent::Done {
        stop: answer.stop.unwrap_or(natural),
    });
    Ok(events)
}

/// A text in pieces of about a word or two, as models stream it.
fn pieces(text: &str) -> impl Iterator<Item = String> {
    const LENGTH: usize = 24;
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest
            .char_indices()
            .map(|(at, c)| at + c.len_utf8())
            .find(|end| *end >= LENGTH)
            .unwrap_or(rest.len());
        let end = rest[..end].rfind(' ').map_or(end, |space| space + 1);
        let (piece, more) = rest.split_at(end);
        rest = more;
        (!piece.is_empty()).then(|| piece.to_owned())
    })
}

/// How often each request has come, for the newest requests.
#[derive(Debug, Default)]
struct Attempts {
    newest_last: VecDeque<(u64, u32)>,
}

impl Attempts {
    const KEPT: usize = 1024;

    /// How often this request has come before.
    fn next(&mut self, request: &ModelRequest) -> u32 {
        let mut hasher = DefaultHasher::new();
        request.cache_key.hash(&mut hasher);
        // A transcript that can't be written counts as every other such: faults then come less often.
        serde_json::to_vec(&*request.messages)
            .unwrap_or_default()
            .hash(&mut hasher);
        let key = hasher.finish();
        let before = match self.newest_last.iter().position(|(known, _)| *known == key) {
            Some(at) => self.newest_last.remove(at).map_or(0, |(_, count)| count),
            None => 0,
        };
        if self.newest_last.len() == Self::KEPT {
            self.newest_last.pop_front();
        }
        self.newest_last.push_back((key, before.saturating_add(1)));
        before
    }
}

#[cfg(test)]
mod tests;
