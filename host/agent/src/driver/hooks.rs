//! Where hooks come into a turn: before and after it, before and after the model, before a call.
//!
//! What guards have decided is recorded before anything comes of it. After a crash they are asked again about what had not begun, and
//! about what had begun and is to run again.

use super::{
    Driver, Stop,
    admission::{AdmittedCall, arguments},
};
use crate::{
    callable::Tool,
    hooks::{self, Edits, Hooks, JudgedCall, Occasion, Whose, occasion, shown},
    machine::{Exhausted, OpenCall, Verdict},
    reins::{Addition, NotAdded},
};
use fumehood_core::{
    call::{Arguments, CallError},
    event::EventBody,
    hook::HookPoint,
    id::CallId,
    name::{HookName, ModelName},
    turn::{StopReason, TurnError, TurnErrorCode, TurnStatus},
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

/// What the guards of a turn are asked about.
struct About {
    point: HookPoint,
    apart: Option<String>,
}

impl About {
    /// The point of a turn or step that has it once.
    const fn a(point: HookPoint) -> Self {
        Self { point, apart: None }
    }
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
            .ask_guards(About::a(HookPoint::BeforeTurn), Then::Tell, |driver| {
                shown::beginning(&input, &driver.plan.given)
            })
            .await?;
        denied.map_or(Ok(()), |words| Err(hook_denied(words)))
    }

    /// Before what a client adds to the input is recorded. Gives it back if it may be; else its client is told.
    pub(super) async fn guard_addition(&mut self, addition: Addition) -> Result<Option<Addition>, Stop> {
        let about = About {
            point: HookPoint::BeforeTurn,
            apart: Some(addition.name()),
        };
        let denied = self
            .ask_guards(about, Then::Tell, |_| shown::addition(&addition.input))
            .await?;
        let Some(words) = denied else {
            return Ok(Some(addition));
        };
        // Whoever sent it may have gone.
        let _ = addition.recorded.send(Err(NotAdded::Denied(words)));
        Ok(None)
    }

    /// Before a model is asked for a step.
    pub(super) async fn guard_question(&mut self, step: u64, model: &ModelName) -> Result<(), Stop> {
        let denied = self
            .ask_guards(About::a(HookPoint::BeforeModelCall), Then::Tell, |driver| {
                let tools: Vec<_> = driver.shown.iter().map(|tool| &tool.name).collect();
                shown::question(step, model, &driver.recorder.messages(), &tools)
            })
            .await?;
        denied.map_or(Ok(()), |words| Err(hook_denied(words)))
    }

    /// After the model has answered, before that is recorded.
    pub(super) async fn guard_answer(&mut self, step: u64, answer: &fumehood_model::Step) -> Result<(), Stop> {
        let denied = self
            .ask_guards(About::a(HookPoint::AfterModelCall), Then::Tell, |_| {
                shown::answer(step, &answer.parts, answer.stop, answer.usage)
            })
            .await?;
        denied.map_or(Ok(()), |words| Err(hook_denied(words)))
    }

    /// Whether guards decide what is kept of an answer.
    pub(super) fn answers_are_judged(&self) -> bool {
        hooks::any_guard(&self.plan.scope.chain, HookPoint::AfterModelCall, None)
    }

    /// Ends the turn with its answer, unless a guard denies that.
    pub(super) async fn complete(&mut self, reason: StopReason) -> Result<(), Stop> {
        self.guard_completion().await?;
        let events = self.recorder.machine.completion(reason);
        Ok(self.recorder.record(events).await?)
    }

    /// Ends the turn with the answer that it has, because a budget is used up. That it is holds whatever the guards say.
    pub(super) async fn exhaust(&mut self, exhausted: Exhausted) -> Result<(), Stop> {
        if let Err(stop) = self.guard_completion().await {
            self.cut_off.push(self.recorder.machine.used_up(exhausted));
            return Err(stop);
        }
        let events = self.recorder.machine.exhaustion(exhausted);
        Ok(self.recorder.record(events).await?)
    }

    /// Before the turn is complete, for whatever reason.
    // THREAT[T-hook-bypass]: who lets a turn run out of its budget gets no answer that was not judged.
    async fn guard_completion(&mut self) -> Result<(), Stop> {
        let denied = self
            .ask_guards(About::a(HookPoint::AfterTurn), Then::Wait, |driver| {
                shown::end(TurnStatus::Completed, driver.recorder.machine.last_text())
            })
            .await?;
        denied.map_or(Ok(()), |words| Err(hook_denied(words)))
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
        hooks.tell_end(&whose, machine).await;
    }

    /// Asks the guards of a point. Why one denies it, or nothing.
    async fn ask_guards(
        &mut self,
        About { point, apart }: About,
        then: Then,
        about: impl FnOnce(&Self) -> Value,
    ) -> Result<Option<String>, Stop> {
        let Some((hooks, whose)) = self.hooks_at(point) else {
            return Ok(None);
        };
        self.recorder.settle().await?;
        let occasion = Occasion {
            point,
            call: None,
            apart,
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
    pub(super) async fn guard_calls(&mut self, calls: Vec<&OpenCall>) -> Result<Guarded, Stop> {
        let asked = calls.into_iter().filter_map(|open| self.question(open)).collect();
        self.judge_calls(asked).await
    }

    /// Asks the guards about calls, which are recorded and told once they are judged.
    pub(super) async fn judge_calls(&mut self, asked: Vec<AskedCall>) -> Result<Guarded, Stop> {
        let Some((hooks, whose)) = asked
            .first()
            .map(|asked| (Arc::clone(&asked.hooks), asked.whose.clone()))
        else {
            return Ok(Guarded::default());
        };
        self.recorder.settle().await?;
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
                allowed.push((occasion(id, tool.as_callable(), arguments), tool));
            }
            let allowed = outcome.map(|arguments| Final { arguments, changed_by });
            guarded.0.insert(id, allowed);
        }
        self.record_told(all_told).await?;
        for (occasion, tool) in &allowed {
            hooks.tell(&whose, occasion, &guard, Some(tool.as_callable().named()));
        }
        Ok(guarded)
    }

    /// What the guards are asked about a call, if they are.
    fn question(&self, open: &OpenCall) -> Option<AskedCall> {
        let found = self.plan.tools.tool(&open.call.tool).ok()?;
        let tool = found.as_callable();
        let (hooks, whose) = self.plan.scope.hooks_at(HookPoint::BeforeToolCall, Some(tool))?;
        let (mut arguments, edits) = match &open.verdict {
            Verdict::Unasked => (arguments(&open.call).ok()?.clone(), Edits::Taken),
            // THREAT[T-hook-bypass]: what was approved may have waited for long, and for other guards than those there are now.
            Verdict::Approved { asked, edited, .. } => {
                let arguments = edited.as_ref().unwrap_or(asked);
                (arguments.clone(), Edits::Refused)
            }
            Verdict::Refused { .. } | Verdict::Unfinished { .. } => return None,
        };
        tool.check(&mut arguments).ok()?;
        Some(AskedCall {
            hooks: Arc::clone(hooks),
            whose,
            id: open.call.id,
            tool: found,
            arguments,
            edits,
        })
    }

    /// The same for a call that is to run again, with exactly what it had begun with.
    pub(super) fn question_again(&self, again: &AdmittedCall) -> Option<AskedCall> {
        let call = again.call();
        let found = self.plan.tools.tool(&call.tool).ok()?;
        let (hooks, whose) = self
            .plan
            .scope
            .hooks_at(HookPoint::BeforeToolCall, Some(found.as_callable()))?;
        Some(AskedCall {
            hooks: Arc::clone(hooks),
            whose,
            id: call.id,
            tool: found,
            arguments: again.arguments().clone(),
            edits: Edits::Refused,
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
pub(super) struct AskedCall {
    hooks: Arc<Hooks>,
    whose: Whose,
    id: CallId,
    tool: Tool,
    arguments: Arguments,
    edits: Edits,
}

impl AskedCall {
    async fn judge(self, guard: &LeakGuard) -> (CallId, Tool, JudgedCall) {
        let Self {
            hooks,
            whose,
            id,
            tool,
            arguments,
            edits,
        } = self;
        let judged = hooks
            .judge_call(&whose, id, tool.as_callable(), arguments, (guard, edits))
            .await;
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
