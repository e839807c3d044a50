//! The hooks of a call, whoever makes it: a model, a tool, or a client.

use super::{CallScope, scope::Guarded};
use crate::{
    callable::Callable,
    hooks::{self, Hooks, JudgedCall, Occasion, Whose, shown},
    ports::Telling,
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult},
    event::{EventBody, NewEvent, Source},
    hook::HookPoint,
    id::CallId,
    name::ToolName,
};
use fumehood_egress::LeakGuard;
use std::sync::Arc;

/// What came of judging a result.
pub(super) enum Judged {
    /// It may be seen.
    Allowed(CallResult),
    /// It may not, nor what the tool said beside it; this is seen in its place.
    Withheld(CallError),
}

/// A call whose result is judged or told.
pub(super) struct Watched {
    id: CallId,
    tool: Arc<dyn Callable>,
    arguments: Arguments,
}

impl CallScope {
    /// The hooks, and whose they are, if there are any at a point; about a tool where it is about one.
    pub(crate) fn hooks_at(&self, point: HookPoint, tool: Option<&dyn Callable>) -> Option<(&Arc<Hooks>, Whose)> {
        let named = tool.map(Callable::named);
        if !hooks::any(&self.chain, point, named) {
            return None;
        }
        let whose = Whose {
            org: self.org.clone(),
            session: self.session?,
            turn: self.turn,
            chain: Arc::clone(&self.chain),
            nested: self.depth > 0,
        };
        Some((self.hooks.as_ref()?, whose))
    }

    /// Asks the guards about a call that no driver has asked them about.
    // THREAT[T-hook-bypass]: a call that a tool or a client makes is judged like one that a model asks for.
    pub(super) async fn judge_by_hooks(
        &self,
        id: CallId,
        tool: &dyn Callable,
        arguments: &mut Arguments,
    ) -> Result<(), CallError> {
        let Some((hooks, whose)) = self.hooks_at(HookPoint::BeforeToolCall, Some(tool)) else {
            return Ok(());
        };
        let guard = hooks.guard(&whose).await.map_err(|error| {
            tracing::error!(%error, "the secrets in use can't be read");
            let message = "the host can't read the secrets that it has to keep from hooks; try again later";
            CallError::new(CallErrorCode::Unavailable, message)
        })?;
        let given = std::mem::take(arguments);
        let judging = hooks.judge_call(&whose, id, tool, given, (&guard, self.edits()));
        let JudgedCall { told, outcome, .. } = self.in_time(Box::pin(judging)).await?;
        self.report(hooks, &whose, &guard, told).await;
        *arguments = outcome?;
        hooks.tell(
            &whose,
            &hooks::occasion(id, tool, arguments),
            &guard,
            Some(tool.named()),
        );
        Ok(())
    }

    /// Whether the guards are still to be asked about a call.
    pub(super) fn is_to_be_judged(&self, tool: &dyn Callable) -> bool {
        self.guarded == Guarded::Not && self.has_guard(HookPoint::BeforeToolCall, tool)
    }

    /// When what the tool says beside its result may be told.
    pub(super) fn telling(&self, tool: &dyn Callable) -> Telling {
        if self.has_guard(HookPoint::AfterToolCall, tool) {
            Telling::WhenAllowed
        } else {
            Telling::AtOnce
        }
    }

    fn has_guard(&self, point: HookPoint, tool: &dyn Callable) -> bool {
        hooks::any_guard(&self.chain, point, Some(tool.named())) && self.hooks_at(point, Some(tool)).is_some()
    }

    /// What there is to keep of a call, if its result is judged or told.
    pub(super) fn watched(&self, id: CallId, tool: Arc<dyn Callable>, arguments: &Arguments) -> Option<Watched> {
        self.hooks_at(HookPoint::AfterToolCall, Some(&*tool))?;
        Some(Watched {
            id,
            tool,
            arguments: arguments.clone(),
        })
    }

    /// What the guards leave of a result.
    pub(super) async fn judge_result(&self, watched: Watched, result: CallResult) -> Judged {
        let Watched { id, tool, arguments } = watched;
        let (point, tool) = (HookPoint::AfterToolCall, &*tool);
        let Some((hooks, whose)) = self.hooks_at(point, Some(tool)) else {
            return Judged::Allowed(result);
        };
        let name = &tool.definition().name;
        let guard = match hooks.guard(&whose).await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!(%error, "the secrets in use can't be read");
                if !self.has_guard(point, tool) {
                    return Judged::Allowed(result);
                }
                let why = "the host can't read the secrets that it has to keep from hooks";
                return Judged::Withheld(unjudged(name, CallError::new(CallErrorCode::Denied, why)));
            }
        };
        let occasion = Occasion {
            point,
            call: Some(id),
            apart: None,
            about: shown::result(id, tool, &arguments, &result),
        };
        let judging = hooks.judge(&whose, occasion.clone(), &guard, Some(tool));
        let (told, outcome) = match self.in_time(Box::pin(judging)).await {
            Ok(judged) => judged,
            Err(late) => return Judged::Withheld(unjudged(name, late)),
        };
        self.report(hooks, &whose, &guard, told).await;
        if let Err(refused) = outcome {
            let message = refused.words(&ran(name));
            return Judged::Withheld(CallError::new(CallErrorCode::Denied, message));
        }
        hooks.tell(&whose, &occasion, &guard, Some(tool.named()));
        Judged::Allowed(result)
    }

    /// What the guards leave of a result that somebody outside gives to a call.
    pub(crate) async fn judge_given(
        &self,
        id: CallId,
        tool: Arc<dyn Callable>,
        arguments: &Arguments,
        result: CallResult,
    ) -> CallResult {
        match self.watched(id, tool, arguments) {
            None => result,
            Some(watched) => match self.judge_result(watched, result).await {
                Judged::Allowed(result) => result,
                Judged::Withheld(error) => Err(error),
            },
        }
    }

    /// Waits for hooks, for no longer than the call may take.
    // THREAT[T-hook-stall]: who waits for a call waits for its guards as well.
    async fn in_time<T>(&self, judging: impl Future<Output = T>) -> Result<T, CallError> {
        let Some(deadline) = self.deadline() else {
            return Ok(judging.await);
        };
        let judged = tokio::time::timeout_at(deadline.at().into(), judging).await;
        judged.map_err(|_| deadline.error())
    }

    /// Says what was decided to who observes the call, or else to the session's journal.
    async fn report(&self, hooks: &Hooks, whose: &Whose, guard: &LeakGuard, told: Vec<EventBody>) {
        let Some(observe) = &self.observe else {
            return hooks.record(whose, guard, told).await;
        };
        for body in told {
            let event = NewEvent {
                turn: self.turn,
                source: Source::Host,
                body,
            };
            observe.decided(event).await;
        }
    }
}

fn ran(tool: &ToolName) -> String {
    format!("{tool} ran, and what it returned was")
}

/// The end of a call whose result no guard has judged. It has run, whatever keeps its result back: nobody is to repeat it for that.
fn unjudged(tool: &ToolName, mut why: CallError) -> CallError {
    why.message = format!("{} withheld, because no hook has judged it: {}", ran(tool), why.message);
    why
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_could_not_be_judged_is_withheld_with_words_that_say_that_the_tool_ran() {
        let why = CallError::new(CallErrorCode::Timeout, "the call ran out of time");
        let error = unjudged(&"send_mail".parse().unwrap(), why);
        assert_eq!(error.code, CallErrorCode::Timeout);
        assert_eq!(
            error.message,
            "send_mail ran, and what it returned was withheld, because no hook has judged it: the call ran out of time"
        );
    }
}
