//! Decisions about calls that wait for a person: taken by clients, by the clock, and by a new input that comes instead.
//!
//! A decision is about a turn as it was seen, and the store takes it only while that is still so: of two who decide, or of one who
//! decides while the time is up, one does. There is no other way to decide: no port of a tool and no answer of a model leads here.

use super::{Host, HostError};
use crate::{callable::Tool, client_tools::ClientTools, driver::refusal, machine::TurnMachine, redact, telemetry};
use fumehood_core::{
    approval::{ApprovalOutcome, AskedApproval, ResolvedApproval},
    call::{Arguments, CallError, CallErrorCode, Metering},
    event::{Event, EventBody, NewEvent, Source},
    id::{CallId, TurnId},
    name::OrgName,
    now,
    turn::{TurnStatus, WaitingFor},
};
use fumehood_policy::approval::{JudgedCall, Judgement, judge};
use fumehood_store::{
    StoreError,
    record::{Ending, Seen, Turn},
};
use std::{collections::HashSet, sync::Arc, time::Instant};

/// Characters of feedback; what is longer is cut.
pub const LONGEST_FEEDBACK: usize = 2000;
/// How often a turn is looked at again that changed while it was decided about.
const LOOKS: usize = 4;

/// What a client decides about one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The call.
    pub call: CallId,
    /// What.
    pub decide: Decide,
    /// What the model is to know.
    pub feedback: Option<String>,
}

/// Whether a call runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Decide {
    /// It runs, with other arguments if there are some.
    Approve(Option<Arguments>),
    /// It does not run.
    Reject,
}

/// A turn that waits for a decision, as it was seen.
struct Waiting {
    turn: Turn,
    machine: TurnMachine,
    asked: Vec<AskedApproval>,
    /// The tools that its client brought.
    brought: ClientTools,
    seen: Seen,
}

/// What came of acting on a turn that was seen waiting.
enum Acted {
    Done,
    /// Somebody else was first.
    TooLate,
}

impl Host {
    /// Decides about the calls that a turn waits for, all at once, and goes on with it. A call without a decision counts as
    /// rejected.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; [`HostError::NotAwaitingApproval`] for a turn that waits for no decision, also because somebody else
    /// was first; [`HostError::ApprovalExpired`]; [`HostError::Decision`] for one that makes no sense. Nothing was decided then.
    pub async fn decide(&self, org: &OrgName, turn: TurnId, decisions: Vec<Decision>) -> Result<(), HostError> {
        let (host, org) = (self.clone(), org.clone());
        // What was decided is gone on with.
        self.to_the_end(async move { host.decide_once(&org, turn, decisions).await })
            .await
    }

    async fn decide_once(&self, org: &OrgName, id: TurnId, decisions: Vec<Decision>) -> Result<(), HostError> {
        for _ in 0..LOOKS {
            let waiting = self.waiting(org, id).await?.map_err(HostError::NotAwaitingApproval)?;
            // THREAT[T-appr-late]: by the clock, whether or not the request was ended already.
            if let Some(expires) = waiting.expires().filter(|expires| *expires <= now()) {
                self.expire(waiting).await?;
                return Err(HostError::ApprovalExpired(expires));
            }
            let resolved = self.resolved(org, &waiting, &decisions).await?;
            if matches!(self.resume(waiting, resolved, Source::Client).await?, Acted::Done) {
                return Ok(());
            }
        }
        Err(HostError::NotAwaitingApproval("changing"))
    }

    /// The turn, if it waits for a decision; else what it does.
    async fn waiting(&self, org: &OrgName, id: TurnId) -> Result<Result<Waiting, &'static str>, HostError> {
        let turn = self.store().turn(org, id).await?.ok_or(HostError::NotFound("turn"))?;
        if turn.status != TurnStatus::AwaitingApproval {
            return Ok(Err(doing(turn.status)));
        }
        let events = self.store().turn_events(org, id).await?;
        let mut machine = TurnMachine::new(id);
        machine.apply_all(&events);
        if machine.status() != TurnStatus::AwaitingApproval {
            return Ok(Err(doing(machine.status())));
        }
        let asked = events.iter().rev().find_map(|event| match &event.body {
            EventBody::ApprovalRequested { calls } => Some(calls.clone()),
            _ => None,
        });
        let seq = events.last().and_then(|event| event.seq);
        match (asked, seq) {
            (Some(asked), Some(seq)) => Ok(Ok(Waiting {
                brought: ClientTools::brought_by(&events)?,
                turn,
                machine,
                asked,
                seen: Seen { turn: id, seq },
            })),
            _ => Err(StoreError::Corrupt {
                reason: format!("{id} waits for a decision that nobody was asked for"),
            }
            .into()),
        }
    }

    /// A decision about every call, or why the request makes no sense.
    async fn resolved(
        &self,
        org: &OrgName,
        waiting: &Waiting,
        decisions: &[Decision],
    ) -> Result<Vec<ResolvedApproval>, HostError> {
        if decisions.is_empty() {
            return Err(refused("decisions".into(), "decide about at least one call"));
        }
        let mut seen = HashSet::new();
        for (index, decision) in decisions.iter().enumerate() {
            let field = || format!("decisions[{index}].call_id");
            if !waiting.asked.iter().any(|asked| asked.call_id == decision.call) {
                return Err(refused(field(), "no call of that id waits for a decision in this turn"));
            }
            if !seen.insert(decision.call) {
                return Err(refused(field(), "this call is decided about twice"));
            }
        }
        let guard = self.guard(org, Some(waiting.turn.session)).await?;
        let mut resolved = Vec::with_capacity(waiting.asked.len());
        for asked in &waiting.asked {
            let decision = decisions.iter().enumerate().find(|(_, one)| one.call == asked.call_id);
            let (outcome, arguments, feedback) = match decision {
                // Who says nothing about a call does not approve it.
                None => (ApprovalOutcome::Rejected, None, None),
                Some((_, decision)) if decision.decide == Decide::Reject => {
                    (ApprovalOutcome::Rejected, None, decision.feedback.as_deref())
                }
                Some((index, decision)) => {
                    let arguments = match &decision.decide {
                        Decide::Approve(Some(edited)) => {
                            let mut edited = edited.clone();
                            let field = format!("decisions[{index}].arguments");
                            redact::arguments(&guard, &mut edited)
                                .map_err(|error| refused(field.clone(), error.message))?;
                            self.check_edited(waiting, asked, &mut edited, field).await?;
                            Some(edited)
                        }
                        Decide::Approve(None) | Decide::Reject => None,
                    };
                    (ApprovalOutcome::Approved, arguments, decision.feedback.as_deref())
                }
            };
            let feedback = feedback.map(cleaned).filter(|said| !said.is_empty());
            resolved.push(ResolvedApproval {
                call_id: asked.call_id,
                decision: outcome,
                arguments,
                feedback: feedback.map(|said| guard.redact_str(&said).into_owned()),
            });
        }
        Ok(resolved)
    }

    /// What somebody wrote in the place of the model's arguments passes everything that those passed.
    async fn check_edited(
        &self,
        waiting: &Waiting,
        asked: &AskedApproval,
        edited: &mut Arguments,
        field: String,
    ) -> Result<(), HostError> {
        let org = &waiting.turn.org;
        let agent = waiting.machine.agent().ok_or(HostError::NotFound("agent"))?;
        let chain = self.chain(org, agent).await?;
        let found = match waiting.brought.find(&asked.tool) {
            Some(tool) => Tool::Brought(Arc::clone(tool)),
            None => {
                let offered = self.catalog().tools(org).await?.offered_by(&chain);
                let tool = offered.get(&asked.tool);
                Tool::Installed(Arc::clone(tool.map_err(|error| refused(field.clone(), error.message))?))
            }
        };
        let tool = found.as_callable();
        tool.check(edited)
            .map_err(|error| refused(field.clone(), error.message))?;
        let call = JudgedCall {
            component: tool.component_name(),
            tool: tool.definition(),
            arguments: edited,
        };
        match judge(&chain, &call) {
            Judgement::Deny(rule) => Err(refused(field, format!("with these, the call would be denied: {rule}"))),
            Judgement::Allow | Judgement::Ask(_) => Ok(()),
        }
    }

    /// Ends a request whose time is up.
    pub(super) async fn end_due_decision(&self, turn: &Turn) -> Result<(), HostError> {
        match self.waiting(&turn.org, turn.id).await? {
            Ok(waiting) if waiting.expires().is_some_and(|expires| expires <= now()) => self.expire(waiting).await,
            // Somebody else was first, and it may wait for another decision by now.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn expire(&self, waiting: Waiting) -> Result<(), HostError> {
        let resolved = waiting.all(ApprovalOutcome::Expired);
        // Should somebody else be first, it has an end all the same.
        self.resume(waiting, resolved, Source::Host).await.map(drop)
    }

    /// Records what was decided, and goes on with the turn.
    async fn resume(
        &self,
        waiting: Waiting,
        decisions: Vec<ResolvedApproval>,
        source: Source,
    ) -> Result<Acted, HostError> {
        let Waiting { turn, seen, .. } = waiting;
        let waited_for = WaitingFor::Approval;
        let mut events = [
            of_turn(turn.id, source, EventBody::ApprovalResolved { decisions }),
            of_turn(turn.id, Source::Host, EventBody::TurnResumed { waited_for }),
        ];
        let guard = self.guard(&turn.org, Some(turn.session)).await?;
        for event in &mut events {
            redact::event(&guard, &mut event.body);
        }
        // THREAT[T-appr-replay]: of those who saw the turn waiting, one acts.
        let appended = self
            .store()
            .append_after(&turn.org, turn.session, seen, &events)
            .await?;
        let Some(appended) = appended else {
            return Ok(Acted::TooLate);
        };
        self.publish(appended);
        self.drive(&turn);
        Ok(Acted::Done)
    }

    /// What ends a turn that waits for a decision when a new input comes instead; `None` for one that does not wait.
    pub(super) async fn decision_abandoned(&self, org: &OrgName, turn: TurnId) -> Result<Option<Ending>, HostError> {
        let waiting = match self.waiting(org, turn).await {
            Ok(Ok(waiting)) => waiting,
            Ok(Err(_)) | Err(HostError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let decisions = waiting.all(ApprovalOutcome::Abandoned);
        let Waiting { mut machine, seen, .. } = waiting;
        let mut events = vec![of_turn(turn, Source::Client, EventBody::ApprovalResolved { decisions })];
        let error = CallError::new(CallErrorCode::Cancelled, refusal(ApprovalOutcome::Abandoned, None));
        for call in machine.calls_held() {
            let ended = EventBody::tool_completed(call.id, call.tool, Err(error.clone()), Metering::default());
            events.push(of_turn(turn, Source::Host, ended));
        }
        for event in &events {
            machine.apply(&event.body);
        }
        events.extend(machine.cancellation());
        Ok(Some(Ending { seen, events }))
    }

    /// Shows what was appended for a turn that was accepted, and counts and tells of the turn that it ended.
    pub(crate) async fn publish_accepted(&self, org: &OrgName, events: Vec<Event>) {
        let mut ended = None;
        for event in &events {
            telemetry::turn_recorded(org, &event.body, Instant::now());
            if event.body.is_terminal() {
                ended = event.turn.map(|turn| (event.session, turn));
            }
        }
        self.publish(events);
        if let Some((session, turn)) = ended {
            self.tell_end(org, session, turn).await;
        }
    }
}

impl Waiting {
    fn expires(&self) -> Option<fumehood_core::Time> {
        self.asked.iter().map(|asked| asked.expires).min()
    }

    fn all(&self, decision: ApprovalOutcome) -> Vec<ResolvedApproval> {
        let asked = self.asked.iter();
        asked
            .map(|asked| ResolvedApproval {
                call_id: asked.call_id,
                decision,
                arguments: None,
                feedback: None,
            })
            .collect()
    }
}

fn of_turn(turn: TurnId, source: Source, body: EventBody) -> NewEvent {
    NewEvent {
        turn: Some(turn),
        source,
        body,
    }
}

fn refused(field: String, reason: impl Into<String>) -> HostError {
    HostError::Decision {
        field,
        reason: reason.into(),
    }
}

/// What somebody outside wrote, for a model: without control characters but line breaks and tabs, and no longer than it may be.
pub(crate) fn cleaned(said: &str) -> String {
    let kept = said.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t'));
    kept.take(LONGEST_FEEDBACK).collect::<String>().trim().to_owned()
}

pub(super) const fn doing(status: TurnStatus) -> &'static str {
    match status {
        TurnStatus::Queued => "queued",
        TurnStatus::Running => "running",
        TurnStatus::AwaitingApproval => "awaiting approval",
        TurnStatus::AwaitingResults => "awaiting results",
        TurnStatus::Completed => "completed",
        TurnStatus::Failed => "failed",
        TurnStatus::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feedback_keeps_its_lines_and_loses_what_moves_a_cursor() {
        assert_eq!(cleaned(" not\tthat\none\u{1b}[2J\u{7}\r\u{0} "), "not\tthat\none[2J");
        assert_eq!(cleaned(&"é".repeat(3000)).chars().count(), LONGEST_FEEDBACK);
        assert_eq!(cleaned("\u{0}\u{1}"), "");
    }
}
