//! The calls of one step: requested together, run or held or refused, settled one by one.

use super::habits::{Signature, signature};
use crate::inner_calls::InnerCalls;
use fumehood_core::{
    approval::{ApprovalOutcome, AskedApproval, ResolvedApproval},
    awaited::{AwaitedCall, DetachedCall},
    call::{Arguments, CallError, Output},
    digest::Digest,
    event::EventBody,
    id::CallId,
    message::RequestedCall,
    name::ToolName,
    tool::Effect,
};

/// A call without an end, and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenCall {
    /// As the model asked for it.
    pub call: RequestedCall,
    /// What was decided, or how it began.
    pub verdict: Verdict,
}

/// What was decided about a call, or how it began.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Nobody was asked.
    Unasked,
    /// It may run, if it is still what was asked about.
    Approved {
        /// Of what was asked about.
        fingerprint: Digest,
        /// What it was to be called with: what a hook gave, or else the model.
        asked: Arguments,
        /// With these arguments instead of the model's.
        edited: Option<Arguments>,
        /// What the model is to know.
        feedback: Option<String>,
    },
    /// It began under a host that stopped, and may have been decided about before.
    Unfinished {
        /// How it began.
        attempt: Attempt,
        /// What had been decided.
        before: Box<Verdict>,
    },
    /// It must not run.
    Refused {
        /// How that came.
        outcome: ApprovalOutcome,
        /// What the model is to know.
        feedback: Option<String>,
    },
}

/// How a call began that has no end.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// What running it again would do.
    pub effect: Effect,
    /// Of what began; absent where nothing is known of it.
    pub fingerprint: Option<Digest>,
    /// Which attempt it was, from 1.
    pub number: u32,
    /// What it was called with, where that is not what the model gave.
    pub arguments: Option<Arguments>,
}

impl Attempt {
    /// Whether the call may run once more.
    #[must_use]
    pub const fn may_be_repeated(&self) -> bool {
        matches!(self.effect, Effect::Pure | Effect::Idempotent) && self.fingerprint.is_some()
    }
}

/// A call that its tool handed on to somebody outside, without an end.
#[derive(Debug, Clone, PartialEq)]
pub struct HandedOn {
    /// As the model asked for it.
    pub call: RequestedCall,
    /// To be ended by what, until when.
    pub detached: DetachedCall,
    /// How it began.
    pub attempt: Attempt,
    /// What had been decided.
    pub before: Verdict,
}

#[derive(Debug, Clone)]
enum Progress {
    Open(Verdict),
    Held(Digest, Arguments),
    Awaited(AwaitedCall),
    Started(Attempt, Verdict),
    Detached(DetachedCall, Attempt, Verdict),
    Settled(Signature),
}

#[derive(Debug, Clone)]
struct CallState {
    call: RequestedCall,
    progress: Progress,
    /// Whether it began under who worked the turn before.
    left: bool,
    /// The calls that it has made of other tools, however often it began.
    made: InnerCalls,
}

/// How a call stands that has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsettled {
    /// It did not begin, or who works the turn runs it.
    AtHand,
    /// It began under who worked the turn before: it may have taken effect.
    Left,
    /// Its tool handed it on: the work may go on outside.
    HandedOn,
}

/// The calls of one step, in the order of the requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls(Vec<CallState>);

impl Calls {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn request(&mut self, call: RequestedCall) {
        self.0.push(CallState {
            call,
            progress: Progress::Open(Verdict::Unasked),
            left: false,
            made: InnerCalls::default(),
        });
    }

    pub(super) fn hold(&mut self, asked: &[AskedApproval]) {
        for asked in asked {
            self.advance(asked.call_id, |progress| match progress {
                Progress::Open(Verdict::Unasked) => Some(Progress::Held(asked.fingerprint, asked.arguments.clone())),
                _ => None,
            });
        }
    }

    /// A decision is used once: one about a call that waits for none is passed over.
    pub(super) fn resolve(&mut self, decisions: &[ResolvedApproval]) {
        for decided in decisions {
            let feedback = decided.feedback.clone();
            self.advance(decided.call_id, |progress| {
                let Progress::Held(fingerprint, asked) = progress else {
                    return None;
                };
                Some(Progress::Open(match decided.decision {
                    ApprovalOutcome::Approved => Verdict::Approved {
                        fingerprint: *fingerprint,
                        asked: asked.clone(),
                        edited: decided.arguments.clone(),
                        feedback,
                    },
                    outcome => Verdict::Refused { outcome, feedback },
                }))
            });
        }
    }

    pub(super) fn hand_over(&mut self, calls: &[AwaitedCall]) {
        for call in calls {
            self.advance(call.call_id, |progress| match progress {
                Progress::Open(_) => Some(Progress::Awaited(call.clone())),
                _ => None,
            });
        }
    }

    /// What began until now is left by who worked the turn before.
    pub(super) fn taken_up(&mut self) {
        for state in &mut self.0 {
            state.left = matches!(state.progress, Progress::Started(..));
        }
    }

    pub(super) fn start(&mut self, call: CallId, attempt: Attempt) {
        if let Some(state) = self.0.iter_mut().find(|state| state.call.id == call) {
            state.left = false;
        }
        self.advance(call, |progress| match progress {
            Progress::Open(verdict) | Progress::Started(_, verdict) => {
                Some(Progress::Started(attempt, verdict.clone()))
            }
            Progress::Held(..) | Progress::Awaited(_) => Some(Progress::Started(attempt, Verdict::Unasked)),
            Progress::Detached(..) | Progress::Settled(_) => None,
        });
    }

    /// It goes on outside: it does not run again.
    pub(super) fn detach(&mut self, detached: DetachedCall) {
        self.advance(detached.call_id, |progress| match progress {
            Progress::Started(attempt, verdict) => Some(Progress::Detached(detached, attempt.clone(), verdict.clone())),
            _ => None,
        });
    }

    /// It has done what may be done once.
    pub(super) fn commit(&mut self, call: CallId) {
        self.advance(call, |progress| match progress {
            Progress::Started(attempt, verdict) => {
                let effect = Effect::AtMostOnce;
                Some(Progress::Started(
                    Attempt {
                        effect,
                        ..attempt.clone()
                    },
                    verdict.clone(),
                ))
            }
            _ => None,
        });
    }

    /// It has made a call of another tool.
    pub(super) fn call_inner(&mut self, call: CallId, body: &EventBody) {
        if let Some(state) = self.0.iter_mut().find(|state| state.call.id == call) {
            state.made.apply(body);
        }
    }

    /// The call that makes another call than before, if the event says so, and the tool of that.
    pub(super) fn contradicted_by<'e>(&self, body: &'e EventBody) -> Option<(&RequestedCall, &'e ToolName)> {
        let EventBody::ToolCalled { call, .. } = body else {
            return None;
        };
        let state = self.0.iter().find(|state| state.call.id == *call)?;
        state.made.contradicted_by(body).map(|tool| (&state.call, tool))
    }

    pub(super) fn settle(&mut self, call: CallId, output: Option<&Output>, error: Option<&CallError>) {
        if let Some(state) = self.0.iter_mut().find(|state| state.call.id == call) {
            state.progress = Progress::Settled(signature(&state.call, output, error));
        }
    }

    fn advance(&mut self, call: CallId, to: impl FnOnce(&Progress) -> Option<Progress>) {
        if let Some(state) = self.0.iter_mut().find(|state| state.call.id == call)
            && let Some(progress) = to(&state.progress)
        {
            state.progress = progress;
        }
    }

    pub(super) fn all_settled(&self) -> bool {
        self.0
            .iter()
            .all(|state| matches!(state.progress, Progress::Settled(_)))
    }

    /// Whether a call waits to run, or began and has no end.
    pub(super) fn can_go_on(&self) -> bool {
        self.0
            .iter()
            .any(|state| matches!(state.progress, Progress::Open(_) | Progress::Started(..)))
    }

    pub(super) fn any_held(&self) -> bool {
        self.0.iter().any(|state| matches!(state.progress, Progress::Held(..)))
    }

    /// Whether a call waits for its result from outside.
    pub(super) fn any_awaited(&self) -> bool {
        self.0
            .iter()
            .any(|state| matches!(state.progress, Progress::Awaited(_) | Progress::Detached(..)))
    }

    pub(super) fn detached(&self) -> impl Iterator<Item = HandedOn> {
        self.0.iter().filter_map(|state| match &state.progress {
            Progress::Detached(detached, attempt, before) => Some(HandedOn {
                call: state.call.clone(),
                detached: detached.clone(),
                attempt: attempt.clone(),
                before: before.clone(),
            }),
            _ => None,
        })
    }

    pub(super) fn awaited(&self) -> impl Iterator<Item = &AwaitedCall> {
        self.0.iter().filter_map(|state| match &state.progress {
            Progress::Awaited(call) => Some(call),
            _ => None,
        })
    }

    /// Those that have not begun, and those that began and have no end.
    pub(super) fn open(&self) -> Vec<OpenCall> {
        self.0
            .iter()
            .filter_map(|state| match &state.progress {
                Progress::Open(verdict) => Some(OpenCall {
                    call: state.call.clone(),
                    verdict: verdict.clone(),
                }),
                Progress::Started(attempt, before) => Some(OpenCall {
                    call: state.call.clone(),
                    verdict: Verdict::Unfinished {
                        attempt: attempt.clone(),
                        before: Box::new(before.clone()),
                    },
                }),
                _ => None,
            })
            .collect()
    }

    /// Those that began, have no end, and may not run again.
    pub(super) fn lost(&self) -> impl Iterator<Item = &RequestedCall> {
        self.select(|progress| matches!(progress, Progress::Started(attempt, _) if !attempt.may_be_repeated()))
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &RequestedCall> {
        self.select(|progress| matches!(progress, Progress::Held(..)))
    }

    pub(super) fn unsettled(&self) -> impl Iterator<Item = (&RequestedCall, Unsettled)> {
        let unsettled = |state: &&CallState| !matches!(state.progress, Progress::Settled(_));
        self.0.iter().filter(unsettled).map(|state| {
            let how = match (&state.progress, state.left) {
                (Progress::Detached(..), _) => Unsettled::HandedOn,
                (_, true) => Unsettled::Left,
                (_, false) => Unsettled::AtHand,
            };
            (&state.call, how)
        })
    }

    pub(super) fn signatures(&self) -> impl Iterator<Item = &Signature> {
        self.0.iter().filter_map(|state| match &state.progress {
            Progress::Settled(signature) => Some(signature),
            _ => None,
        })
    }

    pub(super) fn place_of(&self, call: CallId) -> Option<usize> {
        self.0.iter().position(|state| state.call.id == call)
    }

    fn select(&self, which: fn(&Progress) -> bool) -> impl Iterator<Item = &RequestedCall> {
        self.0
            .iter()
            .filter(move |state| which(&state.progress))
            .map(|state| &state.call)
    }
}
