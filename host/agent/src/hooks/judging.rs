//! Guards: asked one after the other, until one denies.
//!
//! What a guard gives in the place of a call's arguments is judged by those after it, and afterwards by those before it, who have seen
//! others: so every guard has judged the arguments that are final. In that second round nobody changes anything any more.

use super::{Answer, Failure, Hooks, Occasion, Whose, shown};
use crate::{callable::Callable, redact};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode},
    event::EventBody,
    hook::{HookFailureKind, HookMode, HookPoint},
    id::CallId,
    name::HookName,
};
use fumehood_egress::LeakGuard;
use fumehood_policy::hook::{HookSpec, hooks_at};

/// Whether a guard may give other arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edits {
    /// It may.
    Taken,
    /// These are final: a person has approved exactly these, or the call had begun with them.
    Refused,
}

/// A guard's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    hook: HookName,
    how: How,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// In its own words.
    Denied(String),
    /// It gave no answer.
    Failed(Failure),
}

impl Refused {
    /// What is refused, and why: `the turn was`, `calling fetch was`.
    pub(crate) fn words(&self, what: &str) -> String {
        let hook = &self.hook;
        match &self.how {
            How::Denied(reason) => format!("{what} denied by the hook `{hook}`: {reason}"),
            How::Failed(failure) => format!(
                "{what} denied, because the hook `{hook}` gave no answer ({}): {}",
                failure.kind.as_str(),
                failure.message
            ),
        }
    }

    fn event(&self, occasion: &Occasion) -> EventBody {
        let (hook, point, call) = (self.hook.clone(), occasion.point, occasion.call);
        match &self.how {
            How::Denied(reason) => EventBody::HookDenied {
                hook,
                point,
                call,
                reason: reason.clone(),
            },
            How::Failed(failure) => EventBody::HookFailed {
                hook,
                point,
                mode: HookMode::Guard,
                call,
                failure: failure.kind,
                message: failure.message.clone(),
            },
        }
    }
}

/// What the guards have said about a call.
pub(crate) struct JudgedCall {
    /// To be written down, before anything comes of it.
    pub(crate) told: Vec<EventBody>,
    /// What it is called with, if it may be called.
    pub(crate) outcome: Result<Arguments, CallError>,
    /// Who has changed the arguments.
    pub(crate) changed_by: Vec<HookName>,
}

impl Hooks {
    /// Asks the guards of a point that is not about a call's arguments. What comes with the answer is to be written down.
    pub(crate) async fn judge(
        &self,
        whose: &Whose,
        mut occasion: Occasion,
        guard: &LeakGuard,
        tool: Option<&dyn Callable>,
    ) -> (Vec<EventBody>, Result<(), Refused>) {
        redact::json(guard, &mut occasion.about);
        let named = tool.map(Callable::named);
        for hook in hooks_at(&whose.chain, HookMode::Guard, occasion.point, named) {
            if let Err(refused) = self.ask(whose, hook, &occasion).await.and_then(|answer| match answer {
                Answer::Change(_) => Err(unasked_for(hook)),
                _ => Ok(()),
            }) {
                return (vec![refused.event(&occasion)], Err(refused));
            }
        }
        (Vec::new(), Ok(()))
    }

    /// Asks the guards about a call that has not begun, whose arguments fit the tool's schema.
    pub(crate) async fn judge_call(
        &self,
        whose: &Whose,
        id: CallId,
        tool: &dyn Callable,
        arguments: Arguments,
        (guard, edits): (&LeakGuard, Edits),
    ) -> JudgedCall {
        let mut judging = Judging {
            hooks: self,
            whose,
            id,
            tool,
            guard,
            judged: JudgedCall {
                told: Vec::new(),
                outcome: Ok(arguments),
                changed_by: Vec::new(),
            },
        };
        let named = Some(tool.named());
        let guards = hooks_at(&whose.chain, HookMode::Guard, HookPoint::BeforeToolCall, named);
        judging.all(&guards, edits).await;
        judging.judged
    }

    async fn ask(&self, whose: &Whose, hook: &HookSpec, occasion: &Occasion) -> Result<Answer, Refused> {
        let refused = |how| Refused {
            hook: hook.name.clone(),
            how,
        };
        // THREAT[T-hook-fail-open]: every way but an answer that allows is a no.
        match self.asker.ask(whose, hook, occasion).await {
            Ok(Answer::Deny(reason)) => Err(refused(How::Denied(reason))),
            Ok(answer) => Ok(answer),
            Err(failure) => Err(refused(How::Failed(failure))),
        }
    }
}

fn unasked_for(hook: &HookSpec) -> Refused {
    no_answer(hook, "it gave arguments where no call is about to begin".to_owned())
}

fn no_answer(hook: &HookSpec, message: String) -> Refused {
    Refused {
        hook: hook.name.clone(),
        how: How::Failed(Failure::new(HookFailureKind::InvalidAnswer, message)),
    }
}

/// A call under judgement.
struct Judging<'a> {
    hooks: &'a Hooks,
    whose: &'a Whose,
    id: CallId,
    tool: &'a dyn Callable,
    guard: &'a LeakGuard,
    judged: JudgedCall,
}

impl Judging<'_> {
    async fn all(&mut self, guards: &[&HookSpec], edits: Edits) {
        let mut seen_others = 0;
        for (place, hook) in guards.iter().enumerate() {
            match self.one(hook, edits).await {
                Ok(Changed::Yes) => seen_others = place,
                Ok(Changed::No) => {}
                Err(refused) => return self.refuse(&refused),
            }
        }
        // THREAT[T-hook-widening]: who allowed other arguments has not allowed these.
        for hook in &guards[..seen_others] {
            if let Err(refused) = self.one(hook, Edits::Refused).await {
                return self.refuse(&refused);
            }
        }
    }

    async fn one(&mut self, hook: &HookSpec, edits: Edits) -> Result<Changed, Refused> {
        let Ok(arguments) = &mut self.judged.outcome else {
            return Ok(Changed::No);
        };
        let occasion = occasion(self.id, self.tool, arguments);
        let mut given = match self.hooks.ask(self.whose, hook, &occasion).await? {
            Answer::Change(given) if given != *arguments => given,
            _ => return Ok(Changed::No),
        };
        if edits == Edits::Refused {
            let why = "it gave other arguments than those that are final: a person approved them, a hook after it gave them, or the call \
                       had begun with them";
            return Err(no_answer(hook, why.to_owned()));
        }
        let fits = redact::arguments(self.guard, &mut given).and_then(|()| self.tool.check(&mut given));
        fits.map_err(|error| no_answer(hook, error.message))?;
        arguments.clone_from(&given);
        self.judged.told.push(EventBody::HookChanged {
            hook: hook.name.clone(),
            call: self.id,
            arguments: given,
        });
        self.judged.changed_by.push(hook.name.clone());
        Ok(Changed::Yes)
    }

    fn refuse(&mut self, refused: &Refused) {
        let nothing = Arguments::new();
        self.judged
            .told
            .push(refused.event(&occasion(self.id, self.tool, &nothing)));
        let what = format!("calling {} was", self.tool.definition().name);
        self.judged.outcome = Err(CallError::new(CallErrorCode::Denied, refused.words(&what)));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    Yes,
    No,
}

/// A call that is about to begin.
pub(crate) fn occasion(id: CallId, tool: &dyn Callable, arguments: &Arguments) -> Occasion {
    Occasion {
        point: HookPoint::BeforeToolCall,
        call: Some(id),
        apart: None,
        about: shown::call(id, tool, arguments),
    }
}
