//! Results from outside: of calls that a client runs, and of calls that tools handed on. Given, missed when the time is up, and
//! abandoned for a new input.
//!
//! A result is about a turn as it was seen, and the store takes it only while that is still so: a call has one end, whoever comes at
//! the same time. The turn goes on with the last of them.

mod awaiting;

pub(super) use awaiting::Awaiting;

use super::{Host, HostError, approvals::doing};
use crate::{
    callable::Callable,
    caller::CallScope,
    excerpt,
    machine::{HandedOn, TurnMachine},
    redact,
};
use fumehood_core::{
    Time,
    call::{CallError, CallErrorCode, CallResult, DeadlineOwner, Output},
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::{CallId, SessionId, TurnId},
    name::OrgName,
    now,
    turn::{TurnStatus, WaitingFor},
};
use fumehood_store::{
    StoreError,
    record::{Ending, Seen, Turn},
    workspace::WorkspacePath,
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// The longest result of one call, in bytes of JSON.
pub const LONGEST_RESULT: usize = 256 << 10;

/// What a client's tool returned.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenResult {
    /// The call.
    pub call: CallId,
    /// For the model and for people, in order.
    pub content: Vec<Content>,
    /// For programs.
    pub structured: Option<Value>,
    /// Whether the tool says that what it was asked to do did not work.
    pub is_error: bool,
}

/// Why results are not taken. None of them was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultsRefused {
    /// The turn waits for none.
    #[error("the turn waits for no results, it is {0}; `GET /v1/turns/{{turn}}` shows what it waits for")]
    NotAwaiting(&'static str),
    /// It has one already.
    #[error("the call {0} has its result already; leave it out")]
    Given(CallId),
    /// The time was over.
    #[error("the time for the results was over at {}; the calls ended without them", .0.format("%Y-%m-%dT%H:%M:%SZ"))]
    Expired(Time),
    /// One makes no sense.
    #[error("{field}: {reason}")]
    Senseless {
        /// Where in the request.
        field: String,
        /// Why, and what would.
        reason: String,
    },
}

/// Results as the model is to have them, if they count.
struct Judged {
    results: BTreeMap<CallId, CallResult>,
    session: SessionId,
    /// Those that have the whole of what was too long.
    files: Vec<WorkspacePath>,
}

impl Host {
    /// Takes results of calls that a turn waits for, all of these or none, and goes on with the turn when it has them all.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; [`HostError::Results`], and none was taken.
    pub async fn give_results(&self, org: &OrgName, turn: TurnId, results: Vec<GivenResult>) -> Result<(), HostError> {
        let (host, org) = (self.clone(), org.clone());
        // What was taken is gone on with.
        self.to_the_end(async move { host.take_results(&org, turn, results).await })
            .await
    }

    async fn take_results(&self, org: &OrgName, id: TurnId, results: Vec<GivenResult>) -> Result<(), HostError> {
        let mut ready = None;
        let taken = self.end_with(org, id, &results, &mut ready).await;
        // What the store could not say is taken, perhaps.
        if let (Err(HostError::Results(_)), Some(Judged { session, files, .. })) = (&taken, ready) {
            for file in files {
                excerpt::discard(self.workspaces(), session, &file).await;
            }
        }
        taken
    }

    /// Ends the calls with these results; they are judged once, and kept in `ready`.
    async fn end_with(
        &self,
        org: &OrgName,
        id: TurnId,
        results: &[GivenResult],
        ready: &mut Option<Judged>,
    ) -> Result<(), HostError> {
        loop {
            let awaiting = self.awaiting(org, id).await?.map_err(ResultsRefused::NotAwaiting)?;
            awaiting.check(results)?;
            // By the clock, whether or not the wait was ended already.
            if let Some(expires) = awaiting.client_expires().filter(|expires| *expires <= now()) {
                if self.miss_results(awaiting).await? {
                    return Err(ResultsRefused::Expired(expires).into());
                }
                continue;
            }
            // The guards are asked once, however often others come first.
            let judged = match ready {
                Some(judged) => judged,
                None => ready.insert(self.judged(&awaiting, results).await?),
            };
            let ended = awaiting.ends(&judged.results, &Source::Client);
            // Whoever came first ended a call or the turn: this ends too.
            if self.end_calls(awaiting, ended).await? {
                return Ok(());
            }
        }
    }

    /// The turn, if it waits for results; else what it does.
    pub(super) async fn awaiting(
        &self,
        org: &OrgName,
        id: TurnId,
    ) -> Result<Result<Awaiting, &'static str>, HostError> {
        let turn = self.store().turn(org, id).await?.ok_or(HostError::NotFound("turn"))?;
        if turn.status != TurnStatus::AwaitingResults {
            return Ok(Err(doing(turn.status)));
        }
        let events = self.store().turn_events(org, id).await?;
        let mut machine = TurnMachine::new(id);
        machine.apply_all(&events);
        if machine.status() != TurnStatus::AwaitingResults {
            return Ok(Err(doing(machine.status())));
        }
        let Some(seq) = events.last().and_then(|event| event.seq) else {
            let reason = format!("{id} waits for results and has no events");
            return Err(StoreError::Corrupt { reason }.into());
        };
        let brought = self.store().given(org, id).await?;
        let seen = Seen { turn: id, seq };
        Ok(Ok(Awaiting::new((turn, seen), machine, &events, brought)?))
    }

    /// The results as the model is to have them: without secrets, judged by the guards, and not longer than they may be.
    async fn judged(&self, awaiting: &Awaiting, results: &[GivenResult]) -> Result<Judged, HostError> {
        let turn = &awaiting.turn;
        let agent = awaiting.machine.agent().ok_or(HostError::NotFound("agent"))?;
        let chain = self.chain(&turn.org, agent).await?;
        let most = chain.last().map_or(usize::MAX, |leaf| leaf.tool_output.as_usize());
        let scope = CallScope::new(turn.org.clone(), Some(turn.session), Some(turn.id), chain)
            .with_hooks(Arc::clone(self.hooks()));
        let guard = self.guard(&turn.org, Some(turn.session)).await?;
        let (mut judged, mut files) = (BTreeMap::new(), Vec::new());
        for given in results {
            let Some(call) = awaiting.calls.iter().find(|call| call.call_id == given.call) else {
                continue;
            };
            let output = Output {
                content: given.content.clone(),
                structured: given.structured.clone(),
                is_error: given.is_error,
            };
            // THREAT[T-sec-exfiltration]: what a client says is searched before a hook, a model or the journal has it.
            let mut result = redact::result(&guard, Ok(output));
            if let Some(tool) = awaiting.tools.find(&call.tool) {
                let tool = Arc::clone(tool) as Arc<dyn Callable>;
                result = scope.judge_given(call.call_id, tool, &call.arguments, result).await;
            }
            let fitted = excerpt::fitting_brought(self.workspaces(), turn.session, call.call_id, result, most).await;
            judged.insert(call.call_id, fitted.result);
            files.extend(fitted.whole);
        }
        Ok(Judged {
            results: judged,
            session: turn.session,
            files,
        })
    }

    /// Ends the calls whose time is up, and goes on with the turn if no other waits. False if something else happened in the turn
    /// first: some may wait still.
    async fn miss_results(&self, awaiting: Awaiting) -> Result<bool, HostError> {
        let time = now();
        let late = |owner, words| {
            Err(CallError {
                deadline: Some(owner),
                ..CallError::new(CallErrorCode::Timeout, words)
            })
        };
        let of_client = awaiting.calls.iter().filter(|call| call.expires <= time).map(|call| {
            let words =
                "the client, which runs this tool, did not send its result in time; it may have run all the same";
            (call.call_id, late(DeadlineOwner::Client, words))
        });
        let due = |handed: &&HandedOn| handed.detached.expires <= time;
        let handed_on = awaiting.detached.iter().filter(due).map(|handed| {
            let words = "the tool handed this call on, and whoever has it did not end it in time; the work may go on all the same";
            (handed.call.id, late(DeadlineOwner::Callback, words))
        });
        let ended = awaiting.ends(&of_client.chain(handed_on).collect(), &Source::Host);
        self.end_calls(awaiting, ended).await
    }

    /// Records the ends of calls. With the last of them the turn goes on. False if something else happened in the turn first.
    pub(super) async fn end_calls(&self, awaiting: Awaiting, mut events: Vec<NewEvent>) -> Result<bool, HostError> {
        if events.is_empty() {
            return Ok(true);
        }
        let goes_on = events.len() == awaiting.calls.len() + awaiting.detached.len();
        let Awaiting { turn, seen, .. } = awaiting;
        // THREAT[T-sec-exfiltration]: what was brought before may be the value of a secret by now.
        let guard = self.guard(&turn.org, Some(turn.session)).await?;
        for event in &mut events {
            redact::event(&guard, &mut event.body);
        }
        if goes_on {
            let waited_for = WaitingFor::Results;
            events.push(NewEvent {
                turn: Some(turn.id),
                source: Source::Host,
                body: EventBody::TurnResumed { waited_for },
            });
        }
        // THREAT[T-client-results]: of those who saw the calls waiting, one ends them.
        let appended = self
            .store()
            .append_after(&turn.org, turn.session, seen, &events)
            .await?;
        let Some(appended) = appended else {
            return Ok(false);
        };
        self.publish(appended);
        if goes_on {
            self.drive(&turn);
        } else {
            // It waits for others, and perhaps for longer.
            self.inner.expiry.notify_one();
        }
        Ok(true)
    }

    /// Ends what a turn waits for whose time is up.
    pub(super) async fn end_due_results(&self, turn: &Turn) -> Result<(), HostError> {
        // Somebody else may be first with some of the calls, or with all; then it may wait for others, which are not due.
        while let Ok(awaiting) = self.awaiting(&turn.org, turn.id).await?
            && awaiting.expires().is_some_and(|expires| expires <= now())
            && !self.miss_results(awaiting).await?
        {}
        Ok(())
    }

    /// What ends a turn that waits for results when a new input comes instead; `None` for one that does not wait.
    pub(super) async fn results_abandoned(&self, org: &OrgName, turn: TurnId) -> Result<Option<Ending>, HostError> {
        let awaiting = match self.awaiting(org, turn).await {
            Ok(Ok(awaiting)) => awaiting,
            Ok(Err(_)) | Err(HostError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut events = awaiting.ends(&awaiting.abandoned(), &Source::Host);
        let Awaiting { mut machine, seen, .. } = awaiting;
        for event in &events {
            machine.apply(&event.body);
        }
        events.extend(machine.cancellation());
        Ok(Some(Ending { seen, events }))
    }
}
