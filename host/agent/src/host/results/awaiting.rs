//! A turn that waits for results, as it was seen: which calls wait, what was brought for them, and the events that end them.

use super::{GivenResult, LONGEST_RESULT, ResultsRefused};
use crate::{
    client_tools::ClientTools,
    driver::noted,
    machine::{HandedOn, TurnMachine},
};
use fumehood_core::{
    Time,
    awaited::AwaitedCall,
    call::{CallError, CallErrorCode, CallResult, Metering},
    event::{Event, EventBody, NewEvent, Source},
    id::{CallId, CallbackId},
    now,
};
use fumehood_store::{
    StoreError,
    record::{Seen, Turn},
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A turn that waits for results, as it was seen.
pub(in crate::host) struct Awaiting {
    pub(in crate::host) turn: Turn,
    pub(in crate::host) machine: TurnMachine,
    /// Of the client's tools, without a result yet.
    pub(in crate::host) calls: Vec<AwaitedCall>,
    /// Of tools that handed them on, without an end.
    pub(in crate::host) detached: Vec<HandedOn>,
    /// What was brought for those, ready for the journal.
    brought: BTreeMap<CallId, (CallbackId, CallResult)>,
    /// Of the client's tools, with a result.
    given: HashSet<CallId>,
    since: Time,
    /// When those were handed on.
    handed_on: HashMap<CallId, Time>,
    pub(in crate::host) tools: ClientTools,
    pub(in crate::host) seen: Seen,
}

impl Awaiting {
    /// The turn of these events, which waits.
    ///
    /// # Errors
    /// When the tools that it brought can't be used.
    pub(in crate::host) fn new(
        (turn, seen): (Turn, Seen),
        machine: TurnMachine,
        events: &[Event],
        brought: Vec<(CallId, CallbackId, CallResult)>,
    ) -> Result<Self, StoreError> {
        let asked = events.iter().rev().find_map(|event| match &event.body {
            EventBody::ResultsRequested { calls } => Some(calls.as_slice()),
            _ => None,
        });
        let paused = |event: &&Event| matches!(event.body, EventBody::TurnPaused { .. });
        let since = events.iter().rev().find(paused).map_or_else(now, |event| event.time);
        let handed_on = events.iter().filter_map(|event| match event.body {
            EventBody::ToolDetached { call, .. } => Some((call, event.time)),
            _ => None,
        });
        let calls = machine.calls_awaited();
        let waits = |id: CallId| calls.iter().any(|call| call.call_id == id);
        let asked = asked.unwrap_or_default().iter().map(|call| call.call_id);
        let brought = brought
            .into_iter()
            .map(|(call, callback, result)| (call, (callback, result)));
        Ok(Self {
            given: asked.filter(|id| !waits(*id)).collect(),
            tools: ClientTools::brought_by(events)?,
            detached: machine.calls_detached(),
            handed_on: handed_on.collect(),
            brought: brought.collect(),
            turn,
            seen,
            machine,
            calls,
            since,
        })
    }

    /// When a client's results come too late.
    pub(super) fn client_expires(&self) -> Option<Time> {
        self.calls.iter().map(|call| call.expires).min()
    }

    /// When the first of its calls ends without a result.
    pub(super) fn expires(&self) -> Option<Time> {
        let detached = self.detached.iter().map(|handed| handed.detached.expires);
        detached.chain(self.calls.iter().map(|call| call.expires)).min()
    }

    /// Whether something was brought that is not in the journal yet.
    pub(in crate::host) fn has_been_brought_some(&self) -> bool {
        let brought = |handed: &HandedOn| self.brought.contains_key(&handed.call.id);
        self.detached.iter().any(brought)
    }

    /// What becomes of those without an end when the user goes on with something else.
    pub(super) fn abandoned(&self) -> BTreeMap<CallId, CallResult> {
        let cancelled = |message| Err(CallError::new(CallErrorCode::Cancelled, message));
        let of_client = self.calls.iter().map(|call| {
            let words = "the user sent a new message instead of the result of this call; it may have run all the same";
            (call.call_id, cancelled(words))
        });
        let handed_on = self.detached.iter().map(|handed| {
            let words = "the user sent a new message instead of waiting for this call, which its tool had handed on; the work may go \
                         on outside all the same";
            (handed.call.id, cancelled(words))
        });
        of_client.chain(handed_on).collect()
    }

    /// Whether the results are such that the turn waits for.
    // THREAT[T-client-results]: a result is of a call that was handed over, and of no other.
    pub(super) fn check(&self, results: &[GivenResult]) -> Result<(), ResultsRefused> {
        let senseless = |field: String, reason: &str| ResultsRefused::Senseless {
            field,
            reason: reason.to_owned(),
        };
        if results.is_empty() {
            return Err(senseless("results".into(), "give the result of at least one call"));
        }
        let mut seen = HashSet::new();
        for (index, result) in results.iter().enumerate() {
            let call = || format!("results[{index}].call_id");
            if self.given.contains(&result.call) {
                return Err(ResultsRefused::Given(result.call));
            }
            if !self.calls.iter().any(|waits| waits.call_id == result.call) {
                return Err(senseless(call(), "no call of that id waits for a result in this turn"));
            }
            if !seen.insert(result.call) {
                return Err(senseless(call(), "this call has two results here"));
            }
            if result.content.is_empty() && result.structured.is_none() {
                let reason =
                    "a result has `content`, `structured`, or both; a tool with nothing to say gives an empty text";
                return Err(senseless(format!("results[{index}]"), reason));
            }
            if length(result) > LONGEST_RESULT {
                let reason = "the result of a call takes at most 262144 bytes of JSON; put what is longer into a file of the session";
                return Err(senseless(format!("results[{index}]"), reason));
            }
        }
        Ok(())
    }

    /// The ends of those calls that have a result: of these, and of what was brought, which nothing else takes the place of.
    pub(in crate::host) fn ends(&self, results: &BTreeMap<CallId, CallResult>, source: &Source) -> Vec<NewEvent> {
        let of_client = self.calls.iter().filter_map(|call| {
            let result = results.get(&call.call_id)?.clone();
            let result = noted(result, call.note.clone());
            Some(self.end(source, (call.call_id, call.tool.to_string()), result, self.since))
        });
        let detached = self.detached.iter().filter_map(|handed| {
            let id = handed.call.id;
            let (source, result) = match self.brought.get(&id) {
                Some((callback, result)) => {
                    let callback = *callback;
                    (Source::Callback { callback }, result.clone())
                }
                None => (source.clone(), results.get(&id)?.clone()),
            };
            let since = self.handed_on.get(&id).copied().unwrap_or(self.since);
            Some(self.end(&source, (id, handed.call.tool.clone()), result, since))
        });
        of_client.chain(detached).collect()
    }

    fn end(&self, source: &Source, (call, tool): (CallId, String), result: CallResult, since: Time) -> NewEvent {
        let waited = (now() - since).num_milliseconds();
        let metering = Metering {
            duration_ms: u64::try_from(waited).unwrap_or_default(),
            ..Metering::default()
        };
        NewEvent {
            turn: Some(self.turn.id),
            source: source.clone(),
            body: EventBody::tool_completed(call, tool, result, metering),
        }
    }
}

fn length(result: &GivenResult) -> usize {
    let content = serde_json::to_vec(&result.content).map_or(usize::MAX, |text| text.len());
    let structured = result.structured.as_ref().map_or(0, |value| value.to_string().len());
    content.saturating_add(structured)
}
