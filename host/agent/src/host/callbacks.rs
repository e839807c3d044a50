//! What somebody outside brings for a call that a tool handed on: its result, or how far it is.
//!
//! Whoever shows the token may end the call, and learns nothing besides. A result is kept beside the journal first, which of several
//! one does; from there it comes into the journal once its turn waits, whether that is now, when the step's other calls have ended, or
//! after a start of the host.

use super::{Host, HostError, approvals::cleaned};
use crate::{
    callable::Callable,
    callbacks::is_token,
    caller::CallScope,
    driver::{arguments_of, note_on, noted},
    excerpt::{self, Fitted},
    hooks,
    machine::{HandedOn, TurnMachine},
    redact,
    schema::Schema,
};
use fumehood_core::{
    call::{CallError, CallErrorCode, Output},
    content::Content,
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    hook::HookPoint,
    id::CallbackId,
    now,
    turn::TurnStatus,
};
use fumehood_store::{
    callbacks::{Callback, CallbackState, Giving, Report, Reported},
    record::Turn,
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The least time between two reports of one call.
const BETWEEN_REPORTS: Duration = Duration::from_secs(1);
/// Reports of one call.
const MOST_REPORTS: u32 = 1000;

/// What is brought.
#[derive(Debug, Clone, PartialEq)]
pub enum Brought {
    /// How the call ended.
    Result(BroughtResult),
    /// How far it is.
    Progress {
        /// One line for people.
        message: String,
        /// From 0 to 1.
        fraction: Option<f32>,
    },
}

/// How a call ended that was handed on.
#[derive(Debug, Clone, PartialEq)]
pub struct BroughtResult {
    /// For the model and for people, in order.
    pub content: Vec<Content>,
    /// For programs; follows the tool's output schema if it has one.
    pub structured: Option<Value>,
    /// Whether what the call was to do did not work.
    pub is_error: bool,
}

/// What became of what was brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// The call waits for its result still: it was told how far it is.
    Waits,
    /// The result is kept, and counts once the turn has come as far; it may end before.
    Accepted,
    /// The call has ended with it.
    Ended,
}

/// Why a call takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WhySettled {
    /// Another result came first.
    #[error("the call was given another result already")]
    Given,
    /// Nobody ended it in time.
    #[error("the time to end the call is over; stop the work, because nobody waits for it")]
    Expired,
    /// Its turn waits for it no more: it was cancelled, or gave way to a new input, or failed.
    #[error("the turn was cancelled or ended otherwise before the call; stop the work, because nobody waits for it")]
    Cancelled,
    /// The tool itself failed after it had handed the call on.
    #[error("the tool that handed the call on failed after that; stop the work, because nobody waits for it")]
    Failed,
}

impl WhySettled {
    /// The word, as on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// Why it is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackRefused {
    /// It has its end, or another result.
    #[error("{0}; nothing was changed")]
    Settled(WhySettled),
    /// It makes no sense.
    #[error("{field}: {reason}")]
    Senseless {
        /// Where in the request.
        field: &'static str,
        /// Why, and what would.
        reason: String,
    },
    /// There were too many reports.
    #[error("progress of a call is told at most once a second, and at most {MOST_REPORTS} times; leave this one out")]
    TooManyReports,
}

impl Host {
    /// The call that somebody may end who shows this token.
    ///
    /// # Errors
    /// [`HostError::NotFound`], for an id that is none, that of no call, and a wrong token alike.
    // THREAT[T-callback-guess]: the token first, and the same answer after the same work whatever is wrong.
    pub async fn callback(&self, id: &str, token: Option<&[u8]>) -> Result<Callback, HostError> {
        let parsed = id.parse::<CallbackId>();
        let found = self.store().callback(parsed.clone().unwrap_or_default()).await?;
        let nobodys = Digest::of(b"");
        let expected = found.as_ref().map_or(nobodys, |callback| callback.token);
        let is_right = is_token(token.unwrap_or_default(), &expected);
        match found {
            Some(callback) if is_right && token.is_some() && parsed.is_ok() => Ok(callback),
            _ => Err(HostError::NotFound("callback")),
        }
    }

    /// Takes what is brought for a call. The same request again is answered as the first was. `request` is its digest.
    ///
    /// # Errors
    /// [`HostError::Callback`], and nothing was changed.
    pub async fn bring(&self, callback: Callback, request: Digest, brought: Brought) -> Result<Took, HostError> {
        let host = self.clone();
        // What was taken is gone on with.
        self.to_the_end(async move {
            match brought {
                Brought::Progress { message, fraction } => host.report(&callback, &message, fraction).await,
                Brought::Result(result) => host.take_brought(&callback, request, result).await,
            }
        })
        .await
    }

    async fn report(&self, callback: &Callback, message: &str, fraction: Option<f32>) -> Result<Took, HostError> {
        if fraction.is_some_and(|fraction| !(0.0..=1.0).contains(&fraction)) {
            return Err(senseless("progress.fraction", "a fraction is a number from 0 to 1"));
        }
        let guard = self.guard(&callback.org, Some(callback.session)).await?;
        let message = guard.redact_str(&cleaned(message)).into_owned();
        let report = Report {
            callback: callback.id,
            at: now(),
            after: BETWEEN_REPORTS,
            most: MOST_REPORTS,
            event: NewEvent {
                turn: Some(callback.turn),
                source: Source::Callback { callback: callback.id },
                body: EventBody::ToolProgress {
                    call: callback.call,
                    message,
                    fraction,
                },
            },
        };
        match self.store().report(&report).await? {
            Reported::Recorded(event) => {
                self.publish(vec![event]);
                Ok(Took::Waits)
            }
            Reported::TooMany => Err(CallbackRefused::TooManyReports.into()),
            Reported::Late => Err(self.settled(callback).await?),
        }
    }

    async fn take_brought(
        &self,
        callback: &Callback,
        request: Digest,
        brought: BroughtResult,
    ) -> Result<Took, HostError> {
        if callback.state == CallbackState::Open && callback.expires > now() {
            let fitted = self.judged_as_brought(callback, brought).await?;
            let giving = Giving {
                callback: callback.id,
                request,
                result: fitted.result,
                at: now(),
            };
            // Should somebody else be first, the state says with what.
            let counts = self.store().give(&giving).await?;
            if let Some(file) = fitted.whole.filter(|_| !counts) {
                excerpt::discard(self.workspaces(), callback.session, &file).await;
            }
        }
        let turn = self.store().turn(&callback.org, callback.turn).await?;
        let turn = turn.ok_or(HostError::NotFound("callback"))?;
        if turn.status == TurnStatus::AwaitingResults {
            self.take_in(&turn).await?;
        }
        let state = self.store().callback(callback.id).await?.map(|callback| callback.state);
        match state.ok_or(HostError::NotFound("callback"))? {
            CallbackState::Given { request: first } if first == request => Ok(Took::Accepted),
            CallbackState::Settled { request: Some(first) } if first == request => Ok(Took::Ended),
            _ => Err(self.settled(callback).await?),
        }
    }

    /// Why a call takes nothing more: whoever does the work is told whether to stop.
    async fn settled(&self, callback: &Callback) -> Result<HostError, HostError> {
        let now_is = self.store().callback(callback.id).await?;
        let why = match now_is.ok_or(HostError::NotFound("callback"))?.state {
            CallbackState::Given { .. } | CallbackState::Settled { request: Some(_) } => WhySettled::Given,
            CallbackState::Open => WhySettled::Expired,
            CallbackState::Settled { request: None } => {
                let events = self.store().turn_events(&callback.org, callback.turn).await?;
                let ended = events.iter().find_map(|event| match &event.body {
                    EventBody::ToolCompleted { call, error, .. } if *call == callback.call => {
                        Some((&event.source, error.as_ref().map(|error| error.code)))
                    }
                    _ => None,
                });
                match ended {
                    Some((Source::Tool { .. }, _)) => WhySettled::Failed,
                    Some((_, Some(CallErrorCode::Timeout))) => WhySettled::Expired,
                    _ => WhySettled::Cancelled,
                }
            }
        };
        Ok(CallbackRefused::Settled(why).into())
    }

    /// Brings what was given to the calls of a turn that waits into its journal.
    pub(super) async fn take_in(&self, turn: &Turn) -> Result<(), HostError> {
        // Somebody else may be first with some of the calls, or with all.
        while let Ok(awaiting) = self.awaiting(&turn.org, turn.id).await?
            && awaiting.has_been_brought_some()
        {
            let ended = awaiting.ends(&BTreeMap::new(), &Source::Host);
            if self.end_calls(awaiting, ended).await? {
                break;
            }
        }
        Ok(())
    }

    /// The result as the journal is to have it: without secrets, judged by the guards, and not longer than it may be.
    async fn judged_as_brought(&self, callback: &Callback, brought: BroughtResult) -> Result<Fitted, HostError> {
        let Callback { org, session, turn, .. } = callback;
        if brought.content.is_empty() && brought.structured.is_none() {
            return Err(senseless(
                "content",
                "a result has `content`, `structured`, or both; with nothing to say it is an empty text",
            ));
        }
        let events = self.store().turn_events(org, *turn).await?;
        let mut machine = TurnMachine::new(*turn);
        machine.apply_all(&events);
        let Some(handed) = machine.detached(callback.call) else {
            return Err(self.settled(callback).await?);
        };
        let agent = machine.agent().ok_or(HostError::NotFound("agent"))?;
        let chain = self.chain(org, agent).await?;
        let most = chain.last().map_or(usize::MAX, |leaf| leaf.tool_output.as_usize());
        let offered = self.catalog().tools(org).await?.offered_by(&chain);
        let tool = offered.get(&handed.detached.tool);
        if let Ok(tool) = &tool {
            follows(tool.definition.output_schema.as_ref(), &brought)?;
        }
        let scope = CallScope::new(org.clone(), Some(*session), Some(*turn), Arc::clone(&chain))
            .with_hooks(Arc::clone(self.hooks()));
        let guard = self.guard(org, Some(*session)).await?;
        let output = Output {
            content: brought.content,
            structured: brought.structured,
            is_error: brought.is_error,
        };
        // THREAT[T-sec-exfiltration]: what comes back is searched before a hook, a model or the journal has it.
        let result = redact::result(&guard, Ok(output));
        let result = match tool {
            Ok(tool) => {
                let tool = Arc::clone(tool) as Arc<dyn Callable>;
                scope
                    .judge_given(handed.call.id, tool, &arguments_of(&handed), result)
                    .await
            }
            // THREAT[T-hook-bypass]: what no guard can be asked about, none has allowed.
            Err(_) if hooks::any_guard(&chain, HookPoint::AfterToolCall, None) => Err(unjudged(&handed)),
            Err(_) => result,
        };
        let fitted = excerpt::fitting_brought(self.workspaces(), *session, handed.call.id, result, most).await;
        Ok(Fitted {
            result: noted(fitted.result, note_on(&handed)),
            whole: fitted.whole,
        })
    }
}

/// Refuses what does not follow the tool's output schema. What says that something did not work need not.
fn follows(schema: Option<&Value>, brought: &BroughtResult) -> Result<(), HostError> {
    let Some(schema) = schema.filter(|_| !brought.is_error) else {
        return Ok(());
    };
    let Some(structured) = &brought.structured else {
        return Err(senseless(
            "structured",
            "the tool has an output schema, which its `structured` follows",
        ));
    };
    let schema = Schema::compile(schema).map_err(|error| {
        tracing::error!(%error, "the output schema of a tool can't be used");
        HostError::Fault
    })?;
    schema.check(structured).map_err(|why| {
        senseless(
            "structured",
            format!("it does not follow the tool's output schema: {why}"),
        )
    })
}

fn unjudged(handed: &HandedOn) -> CallError {
    let tool = &handed.detached.tool;
    let message = format!(
        "{tool} ran, and what it returned was withheld, because no hook could judge it: the tool is not offered any more"
    );
    CallError::new(CallErrorCode::Denied, message)
}

fn senseless(field: &'static str, reason: impl Into<String>) -> HostError {
    let reason = reason.into();
    CallbackRefused::Senseless { field, reason }.into()
}
