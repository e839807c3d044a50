//! The calls of one step: requested together, run or held or refused, settled one by one.

use super::habits::{Signature, signature};
use fumehood_core::{
    approval::{ApprovalOutcome, AskedApproval, ResolvedApproval},
    awaited::AwaitedCall,
    call::{Arguments, CallError, Output},
    digest::Digest,
    id::CallId,
    message::RequestedCall,
};

/// A call that has not begun, and what was decided about it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenCall {
    /// As the model asked for it.
    pub call: RequestedCall,
    /// What was decided.
    pub verdict: Verdict,
}

/// What was decided about a call.
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
    /// It must not run.
    Refused {
        /// How that came.
        outcome: ApprovalOutcome,
        /// What the model is to know.
        feedback: Option<String>,
    },
}

#[derive(Debug, Clone)]
enum Progress {
    Open(Verdict),
    Held(Digest, Arguments),
    Awaited(AwaitedCall),
    Started,
    Settled(Signature),
}

#[derive(Debug, Clone)]
struct CallState {
    call: RequestedCall,
    progress: Progress,
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

    pub(super) fn start(&mut self, call: CallId) {
        self.advance(call, |_| Some(Progress::Started));
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

    /// Whether a call waits to run or runs.
    pub(super) fn can_go_on(&self) -> bool {
        self.0
            .iter()
            .any(|state| matches!(state.progress, Progress::Open(_) | Progress::Started))
    }

    pub(super) fn any_held(&self) -> bool {
        self.0.iter().any(|state| matches!(state.progress, Progress::Held(..)))
    }

    pub(super) fn any_awaited(&self) -> bool {
        self.awaited().next().is_some()
    }

    pub(super) fn awaited(&self) -> impl Iterator<Item = &AwaitedCall> {
        self.0.iter().filter_map(|state| match &state.progress {
            Progress::Awaited(call) => Some(call),
            _ => None,
        })
    }

    /// Those that have not begun.
    pub(super) fn open(&self) -> Vec<OpenCall> {
        self.0
            .iter()
            .filter_map(|state| match &state.progress {
                Progress::Open(verdict) => Some(OpenCall {
                    call: state.call.clone(),
                    verdict: verdict.clone(),
                }),
                _ => None,
            })
            .collect()
    }

    pub(super) fn in_flight(&self) -> impl Iterator<Item = &RequestedCall> {
        self.select(|progress| matches!(progress, Progress::Started))
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &RequestedCall> {
        self.select(|progress| matches!(progress, Progress::Held(..)))
    }

    pub(super) fn unsettled(&self) -> impl Iterator<Item = &RequestedCall> {
        self.select(|progress| !matches!(progress, Progress::Settled(_)))
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
