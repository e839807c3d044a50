//! Where hooks come into a turn: before and after it, before and after the model, before a call.
//!
//! What guards have decided is recorded before anything comes of it. After a crash they are asked again about what had not begun.

use super::{Driver, Stop, calls::arguments};
use crate::{
    catalog::InstalledTool,
    hooks::{Edits, Hooks, JudgedCall, Occasion, Whose, occasion, shown},
    machine::{OpenCall, Verdict},
    reins::{Addition, NotAdded},
};
use fumehood_core::{
    call::{Arguments, CallError},
    content::Content,
    event::EventBody,
    hook::HookPoint,
    id::CallId,
    name::HookName,
    turn::{StopReason, TurnError, TurnErrorCode},
};
use fumehood_egress::LeakGuard;
use futures::{StreamExt as _, stream};
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Calls of a step that guards are asked about at the same time.
const JUDGED_AT_ONCE: usize = 8;

/// What becomes of an occasion that no guard denies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The observers are told.
    Tell,
    /// They are told later.
    Wait,
}

/// What the guards have said about the calls of a step, those that they were asked about.
#[derive(Default)]
pub(super) struct Guarded(HashMap<CallId, Result<Final, CallError>>);

/// What a call is made with that the guards allow.
pub(super) struct Final {
    pub(super) arguments: Arguments,
    pub(super) changed_by: Vec<HookName>,
}

impl Guarded {
    pub(super) fn take(&mut self, call: CallId) -> Option<Result<Final, CallError>> {
        self.0.remove(&call)
    }
}

impl Driver {
    /// Before the input is worked.
    pub(super) async fn guard_turn(&mut self) -> Result<(), Stop> {
        let Some(input) = self.recorder.waiting_input() else {
            return Ok(());
        };
        let denied = self
            .ask_guards(HookPoint::BeforeTurn, Then::Tell, |_| {
                shown::input(&input, shown::Input::Begins)
            })
            .await?;
        denied.map_or(Ok(()), |words| Err(hook_denied(words)))
    }

    /// Before what a client adds to the input is recorded. Gives it back if it may be; else its client is told.
    pub(super) async fn guard_addition(&mut self, addition: Addition) -> Result<Option<Addition>, Stop> {
        let about = |input: &[Content]| shown::input(input, shown::Input::Steers);
        let denied = self
            .ask_guards(HookPoint::BeforeTurn, Then::Tell, |_| about(&addition.input))
            .await?;
        let Some(words) = denied else {
            return Ok(Some(addition));
        };
        // Whoever sent it may have gone.
        let _ = addition.recorded.send(Err(NotAdded::Denied(words)));
        Ok(None)
    }

    /// Before the model is asked for a step.
    pub(super) async fn guard_question(&mut self, step: u64) -> Result<(), Stop> {
        let denied = self
            .ask_guards(HookPoint::BeforeModelCall, Then::Tell, |driver| {
                let tools: Vec<_> = driver.shown.iter().map(|tool| &tool.name).collect();
                shown::question(step, &driver.plan.model.name, &driver.recorder.messages(), &tools)
            })
            .await?;
        denied.map_or(Ok(()), |words| Err(hook_denied(words)))
    }

    /// After the model has answered, before that is recorded.
    pub(super) async fn guard_answer(&mut self, step: u64, answer: &fumehood_model::Step) -> Result<(), Stop> {
        let denied = self
            .ask_guards(HookPoint::AfterModelCall, Then::Tell, |_| {
                shown::answer(step, &answer.parts, answer.stop, answer.usage)
            })
            .await?;
        denied.map_or(Ok(()), |words| Err(hook_denied(words)))
    }

    /// Before the turn is complete.
    pub(super) async fn complete(&mut self, reason: StopReason) -> Result<(), Stop> {
        let denied = self
            .ask_guards(HookPoint::AfterTurn, Then::Wait, |driver| {
                let machine = &driver.recorder.machine;
                shown::end(fumehood_core::turn::TurnStatus::Completed, machine.last_text())
            })
            .await?;
        if let Some(words) = denied {
            return Err(hook_denied(words));
        }
        let events = self.recorder.machine.completion(reason);
        Ok(self.recorder.record(events).await?)
    }

    /// Tells the observers how the turn ended.
    pub(super) async fn tell_end(&self) {
        let machine = &self.recorder.machine;
        if !machine.has_ended() {
            return;
        }
        let Some((hooks, whose)) = self.plan.scope.hooks_at(HookPoint::AfterTurn, None) else {
            return;
        };
        match hooks.guard(&whose).await {
            Ok(guard) => {
                let occasion = Occasion {
                    point: HookPoint::AfterTurn,
                    call: None,
                    about: shown::end(machine.status(), machine.last_text()),
                };
                hooks.tell(&whose, &occasion, &guard, None);
            }
            Err(error) => tracing::error!(%error, "observers are not told of a turn's end: the secrets can't be read"),
        }
    }

    /// Asks the guards of a point. Why one denies it, or nothing.
    async fn ask_guards(
        &mut self,
        point: HookPoint,
        then: Then,
        about: impl FnOnce(&Self) -> Value,
    ) -> Result<Option<String>, Stop> {
        let Some((hooks, whose)) = self.hooks_at(point) else {
            return Ok(None);
        };
        let occasion = Occasion {
            point,
            call: None,
            about: about(self),
        };
        let guard = self.recorder.guard().await?;
        let judging = hooks.judge(&whose, occasion.clone(), &guard, None);
        let (told, outcome) = self.interruptible(Box::pin(judging)).await?;
        self.record_told(told).await?;
        match outcome {
            Ok(()) if then == Then::Tell => hooks.tell(&whose, &occasion, &guard, None),
            Ok(()) => {}
            Err(refused) => return Ok(Some(refused.words(refused_at(point)))),
        }
        Ok(None)
    }

    /// Asks the guards about the calls that have not begun, side by side, a bounded number at a time. Those that can't run are for
    /// others to refuse.
    pub(super) async fn guard_calls(&mut self, calls: &[OpenCall]) -> Result<Guarded, Stop> {
        let asked: Vec<_> = calls.iter().filter_map(|open| self.question(open)).collect();
        let Some((hooks, whose)) = asked
            .first()
            .map(|asked| (Arc::clone(&asked.hooks), asked.whose.clone()))
        else {
            return Ok(Guarded::default());
        };
        let guard = self.recorder.guard().await?;
        let judging = stream::iter(asked.into_iter().map(|asked| asked.judge(&guard)))
            .buffered(JUDGED_AT_ONCE)
            .collect::<Vec<_>>();
        let judged = self.interruptible(Box::pin(judging)).await?;
        let mut guarded = Guarded::default();
        let mut all_told = Vec::new();
        let mut allowed = Vec::new();
        for (id, tool, judged) in judged {
            let JudgedCall {
                told,
                outcome,
                changed_by,
            } = judged;
            all_told.extend(told);
            if let Ok(arguments) = &outcome {
                allowed.push((occasion(id, &tool, arguments), tool));
            }
            let allowed = outcome.map(|arguments| Final { arguments, changed_by });
            guarded.0.insert(id, allowed);
        }
        self.record_told(all_told).await?;
        for (occasion, tool) in &allowed {
            let named = (&tool.component.record.name, &tool.definition.name);
            hooks.tell(&whose, occasion, &guard, Some(named));
        }
        Ok(guarded)
    }

    /// What the guards are asked about a call, if they are.
    fn question(&self, open: &OpenCall) -> Option<AskedCall> {
        let tool = self.plan.tools.offered.get(&open.call.tool).ok()?;
        let (hooks, whose) = self.plan.scope.hooks_at(HookPoint::BeforeToolCall, Some(tool))?;
        let (mut arguments, edits) = match &open.verdict {
            Verdict::Unasked => (arguments(&open.call).ok()?.clone(), Edits::Taken),
            // Exactly what the guards have judged was approved, unless a person wrote something else.
            Verdict::Approved {
                edited: Some(edited), ..
            } => (edited.clone(), Edits::Refused),
            Verdict::Approved { edited: None, .. } | Verdict::Refused { .. } => return None,
        };
        tool.check(&mut arguments).ok()?;
        Some(AskedCall {
            hooks: Arc::clone(hooks),
            whose,
            id: open.call.id,
            tool: Arc::clone(tool),
            arguments,
            edits,
        })
    }

    fn hooks_at(&self, point: HookPoint) -> Option<(Arc<Hooks>, Whose)> {
        let (hooks, whose) = self.plan.scope.hooks_at(point, None)?;
        Some((Arc::clone(hooks), whose))
    }

    async fn record_told(&mut self, told: Vec<EventBody>) -> Result<(), Stop> {
        let machine = &self.recorder.machine;
        let events = told.into_iter().map(|body| machine.event(body)).collect();
        Ok(self.recorder.record(events).await?)
    }
}

/// A call that the guards are asked about.
struct AskedCall {
    hooks: Arc<Hooks>,
    whose: Whose,
    id: CallId,
    tool: Arc<InstalledTool>,
    arguments: Arguments,
    edits: Edits,
}

impl AskedCall {
    async fn judge(self, guard: &LeakGuard) -> (CallId, Arc<InstalledTool>, JudgedCall) {
        let Self {
            hooks,
            whose,
            id,
            tool,
            arguments,
            edits,
        } = self;
        let judged = hooks.judge_call(&whose, id, &tool, arguments, (guard, edits)).await;
        (id, tool, judged)
    }
}

const fn refused_at(point: HookPoint) -> &'static str {
    match point {
        HookPoint::BeforeTurn => "the input was",
        HookPoint::AfterTurn => "the turn's answer was",
        HookPoint::BeforeModelCall => "asking the model was",
        HookPoint::AfterModelCall => "the model's answer was",
        HookPoint::BeforeToolCall | HookPoint::AfterToolCall => "the call was",
    }
}

fn hook_denied(message: String) -> Stop {
    Stop::Failed(TurnError {
        code: TurnErrorCode::HookDenied,
        message,
    })
}
