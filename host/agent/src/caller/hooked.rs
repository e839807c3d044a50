//! The hooks of a call, whoever makes it: a model, a tool, or a client.

use super::CallScope;
use crate::{
    catalog::InstalledTool,
    hooks::{self, Edits, Hooks, JudgedCall, Occasion, Whose, shown},
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult},
    event::{EventBody, NewEvent, Source},
    hook::HookPoint,
    id::CallId,
};
use fumehood_egress::LeakGuard;
use std::sync::Arc;

/// A call whose result is judged or told.
pub(super) struct Watched {
    id: CallId,
    tool: Arc<InstalledTool>,
    arguments: Arguments,
}

impl CallScope {
    /// The hooks, and whose they are, if there are any at a point; about a tool where it is about one.
    pub(crate) fn hooks_at(&self, point: HookPoint, tool: Option<&InstalledTool>) -> Option<(&Arc<Hooks>, Whose)> {
        let named = tool.map(|tool| (&tool.component.record.name, &tool.definition.name));
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
        tool: &InstalledTool,
        arguments: &mut Arguments,
    ) -> Result<(), CallError> {
        let Some((hooks, whose)) = self.hooks_at(HookPoint::BeforeToolCall, Some(tool)) else {
            return Ok(());
        };
        let guard = guard(hooks, &whose).await?;
        let given = std::mem::take(arguments);
        let judging = hooks.judge_call(&whose, id, tool, given, (&guard, Edits::Taken));
        let JudgedCall { told, outcome, .. } = Box::pin(judging).await;
        self.report(hooks, &whose, &guard, told).await;
        *arguments = outcome?;
        let named = Some((&tool.component.record.name, &tool.definition.name));
        hooks.tell(&whose, &hooks::occasion(id, tool, arguments), &guard, named);
        Ok(())
    }

    /// What there is to keep of a call, if its result is judged or told.
    pub(super) fn watched(&self, id: CallId, tool: &Arc<InstalledTool>, arguments: &Arguments) -> Option<Watched> {
        self.hooks_at(HookPoint::AfterToolCall, Some(tool))?;
        Some(Watched {
            id,
            tool: Arc::clone(tool),
            arguments: arguments.clone(),
        })
    }

    /// What the guards leave of a result.
    pub(super) async fn judge_result(&self, watched: Watched, result: CallResult) -> CallResult {
        let Watched { id, tool, arguments } = watched;
        let Some((hooks, whose)) = self.hooks_at(HookPoint::AfterToolCall, Some(&tool)) else {
            return result;
        };
        let guard = guard(hooks, &whose).await?;
        let occasion = Occasion {
            point: HookPoint::AfterToolCall,
            call: Some(id),
            apart: None,
            about: shown::result(id, &tool, &arguments, &result),
        };
        let judging = hooks.judge(&whose, occasion.clone(), &guard, Some(&tool));
        let (told, outcome) = Box::pin(judging).await;
        self.report(hooks, &whose, &guard, told).await;
        let name = &tool.definition.name;
        if let Err(refused) = outcome {
            let message = refused.words(&format!("{name} ran, and what it returned was"));
            return Err(CallError::new(CallErrorCode::Denied, message));
        }
        hooks.tell(&whose, &occasion, &guard, Some((&tool.component.record.name, name)));
        result
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

async fn guard(hooks: &Hooks, whose: &Whose) -> Result<LeakGuard, CallError> {
    hooks.guard(whose).await.map_err(|error| {
        tracing::error!(%error, "the secrets in use can't be read");
        let message = "the host can't read the secrets that it has to keep from hooks; try again later";
        CallError::new(CallErrorCode::Unavailable, message)
    })
}
