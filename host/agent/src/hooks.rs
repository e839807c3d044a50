//! Hooks: who is asked or told what happens in a turn.
//!
//! Guards are asked one after the other, and what one denies does not happen; one that gives no answer counts as a no. Observers are
//! told by lines that nobody waits for. Both are shown the same: ids, the point, and what it is about, without the values of
//! secrets and not longer than it may be. What a guard has decided is an event before anything comes of it.

mod answer;
mod component;
mod judging;
mod observers;
pub(crate) mod shown;
mod webhook;

pub(crate) use judging::{Edits, JudgedCall, occasion};

use crate::{caller::Caller, catalog::Catalog, machine::TurnMachine, redact, telemetry};
use answer::Answer;
use fumehood_core::{
    digest::Digest,
    event::{Event, EventBody, NewEvent, Source},
    hook::{HookFailureKind, HookMode, HookPoint},
    id::{CallId, SessionId, TurnId},
    name::{ComponentName, OrgName, ToolName},
};
use fumehood_egress::LeakGuard;
use fumehood_policy::{
    agent::AgentSpec,
    hook::{HookRuntime, HookSpec, hooks_at},
};
use fumehood_store::{Store, StoreError};
use futures::future::BoxFuture;
use observers::{Observers, Told};
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The most that a guard is shown, in bytes of JSON: it judges all or nothing.
const MOST_SHOWN: usize = 1 << 20;
/// The most that an observer is shown; of more it gets the beginning.
const MOST_TOLD: usize = 64 << 10;

/// The hooks of a host.
pub(crate) struct Hooks {
    asker: Arc<Asker>,
    journal: Journal,
    observers: Arc<Observers>,
}

/// Whose turn or call it is.
#[derive(Debug, Clone)]
pub(crate) struct Whose {
    pub(crate) org: OrgName,
    pub(crate) session: SessionId,
    /// Absent: a client calls a tool itself.
    pub(crate) turn: Option<TurnId>,
    pub(crate) chain: Arc<[AgentSpec]>,
    /// A call waits for it that runs itself.
    pub(crate) nested: bool,
}

/// What happens.
#[derive(Debug, Clone)]
pub(crate) struct Occasion {
    pub(crate) point: HookPoint,
    pub(crate) call: Option<CallId>,
    /// What tells it from others that look the same.
    pub(crate) apart: Option<String>,
    /// A JSON object.
    pub(crate) about: Value,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: HookFailureKind,
    pub(crate) message: String,
}

impl Failure {
    fn new(kind: HookFailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Whether any hook of the chain is asked or told at a point.
pub(crate) fn any(chain: &[AgentSpec], point: HookPoint, tool: Option<(&ComponentName, &ToolName)>) -> bool {
    chain
        .iter()
        .flat_map(|agent| &agent.hooks)
        .any(|hook| hook.is_at(point, tool))
}

/// Whether any guard of the chain stands at a point.
pub(crate) fn any_guard(chain: &[AgentSpec], point: HookPoint, tool: Option<(&ComponentName, &ToolName)>) -> bool {
    !hooks_at(chain, HookMode::Guard, point, tool).is_empty()
}

impl Hooks {
    /// Those of a host, whose tasks tell the observers until it closes.
    pub(crate) fn new(
        caller: Arc<Caller>,
        catalog: Arc<Catalog>,
        journal: Journal,
        work: (&TaskTracker, &CancellationToken),
    ) -> Arc<Self> {
        let asker = Arc::new(Asker { caller, catalog });
        let observers = Observers::new(Arc::clone(&asker), journal.clone(), work);
        Arc::new(Self {
            asker,
            journal,
            observers,
        })
    }

    /// Tells the observers of a point. Waits for nobody: who is too slow misses it.
    pub(crate) fn tell(
        &self,
        whose: &Whose,
        occasion: &Occasion,
        guard: &LeakGuard,
        tool: Option<(&ComponentName, &ToolName)>,
    ) {
        let observers = hooks_at(&whose.chain, HookMode::Observe, occasion.point, tool);
        if observers.is_empty() {
            return;
        }
        let mut occasion = occasion.clone();
        redact::json(guard, &mut occasion.about);
        shown::cut(&mut occasion.about, MOST_TOLD);
        let occasion = Arc::new(occasion);
        for hook in observers {
            self.observers.tell(Told {
                whose: whose.clone(),
                hook: hook.clone(),
                occasion: Arc::clone(&occasion),
            });
        }
    }

    /// Tells the observers how a turn ended.
    pub(crate) async fn tell_end(&self, whose: &Whose, turn: &TurnMachine) {
        let guard = match self.guard(whose).await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!(%error, "observers are not told of a turn's end: the secrets can't be read");
                return;
            }
        };
        let occasion = Occasion {
            point: HookPoint::AfterTurn,
            call: None,
            apart: None,
            about: shown::end(turn.status(), turn.last_text()),
        };
        self.tell(whose, &occasion, &guard, None);
    }

    /// Knows the secrets that no hook may be shown.
    pub(crate) async fn guard(&self, whose: &Whose) -> Result<LeakGuard, StoreError> {
        let secrets = self.asker.caller.secrets();
        Ok(secrets.of(&whose.org, Some(whose.session)).await?.guard().clone())
    }

    /// Writes down what was decided about a call that has no turn.
    pub(crate) async fn record(&self, whose: &Whose, guard: &LeakGuard, told: Vec<EventBody>) {
        self.journal.record(whose, guard, told).await;
    }
}

/// What asks one hook.
pub(crate) struct Asker {
    caller: Arc<Caller>,
    catalog: Arc<Catalog>,
}

impl Asker {
    /// Asks one hook, for no longer than it may take.
    async fn ask(&self, whose: &Whose, hook: &HookSpec, occasion: &Occasion) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let deadline = begun + hook.timeout.as_duration();
        // THREAT[T-hook-stall]: dropping the work stops the guest and closes the connection.
        let answered = tokio::time::timeout_at(deadline.into(), self.asking(whose, hook, occasion)).await;
        let answered = answered.unwrap_or_else(|_| Err(too_late(hook)));
        telemetry::hook_answered(&hook.name, word(hook.mode, &answered), Some(begun.elapsed()));
        answered
    }
}

impl Asker {
    /// In a type of its own: what the work is made of is of no interest to who waits for it.
    fn asking<'a>(
        &'a self,
        whose: &'a Whose,
        hook: &'a HookSpec,
        occasion: &'a Occasion,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            let question = Question::new(whose, hook, occasion)?;
            match &hook.runtime {
                HookRuntime::Component { component } => self.ask_component(&question, component).await,
                HookRuntime::Webhook { url, key, place } => self.ask_webhook(&question, url, key, place).await,
            }
        })
    }
}

fn too_late(hook: &HookSpec) -> Failure {
    let message = format!("it did not answer within its timeout of {}", hook.timeout);
    Failure::new(HookFailureKind::Timeout, message)
}

fn word(mode: HookMode, answered: &Result<Answer, Failure>) -> &'static str {
    match (mode, answered) {
        (_, Err(failure)) => failure.kind.as_str(),
        (HookMode::Observe, Ok(_)) => "observed",
        (HookMode::Guard, Ok(Answer::Allow)) => "allowed",
        (HookMode::Guard, Ok(Answer::Change(_))) => "changed",
        (HookMode::Guard, Ok(Answer::Deny(_))) => "denied",
    }
}

/// One hook, asked about one thing.
struct Question<'a> {
    whose: &'a Whose,
    hook: &'a HookSpec,
    occasion: &'a Occasion,
    /// `about`, written out.
    about: String,
    /// The same for every attempt at the same.
    id: String,
}

impl<'a> Question<'a> {
    fn new(whose: &'a Whose, hook: &'a HookSpec, occasion: &'a Occasion) -> Result<Self, Failure> {
        let about = occasion.about.to_string();
        // THREAT[T-hook-padding]: nothing is hidden from a guard behind what it is not shown.
        if about.len() > MOST_SHOWN {
            let message = format!(
                "it would have to be shown {} bytes, more than the {MOST_SHOWN} that a hook is shown",
                about.len()
            );
            return Err(Failure::new(HookFailureKind::TooLarge, message));
        }
        let turn = whose.turn.map(|turn| turn.to_string()).unwrap_or_default();
        let call = occasion.call.map(|call| call.to_string()).unwrap_or_default();
        let all = json!([
            whose.session,
            turn,
            call,
            occasion.point,
            occasion.apart,
            hook.name,
            about
        ]);
        let digest = Digest::of(all.to_string().as_bytes()).to_string();
        let digest = digest.strip_prefix("sha256:").unwrap_or(&digest);
        Ok(Self {
            id: format!("hook_{}", &digest[..digest.len().min(32)]),
            whose,
            hook,
            occasion,
            about,
        })
    }

    fn agent(&self) -> &str {
        self.whose.chain.last().map_or("", |agent| agent.name.as_str())
    }
}

/// Where what hooks decided outside of a turn's driver is written down.
#[derive(Clone)]
pub(crate) struct Journal {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) hub: Arc<crate::hub::Hub>,
}

impl Journal {
    /// Of no turn: it may have ended.
    async fn record(&self, whose: &Whose, guard: &LeakGuard, told: Vec<EventBody>) {
        if told.is_empty() {
            return;
        }
        let new = |mut body| {
            redact::event(guard, &mut body);
            NewEvent {
                turn: None,
                source: Source::Host,
                body,
            }
        };
        let events: Vec<_> = told.into_iter().map(new).collect();
        let recorded: Result<Vec<Event>, _> = self.store.append(&whose.org, whose.session, &events).await;
        match recorded {
            Ok(events) => events.into_iter().for_each(|event| self.hub.publish(Arc::new(event))),
            // Deleted meanwhile.
            Err(StoreError::Gone { .. }) => {}
            // What was decided holds.
            Err(error) => {
                tracing::error!(session = %whose.session, %error, "what a hook decided could not be written down");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody() -> Whose {
        Whose {
            org: OrgName::default_org(),
            session: SessionId::new(),
            turn: Some(TurnId::new()),
            chain: Arc::from([]),
            nested: false,
        }
    }

    fn asked(whose: &Whose, about: Value) -> Result<String, Failure> {
        asked_apart(whose, about, None)
    }

    fn asked_apart(whose: &Whose, about: Value, apart: Option<&str>) -> Result<String, Failure> {
        let agent = "assistant".parse().unwrap();
        let written = json!({"name": "guard", "points": ["before_turn"], "mode": "guard", "component": "x"});
        let written = serde_json::from_value(written).unwrap();
        let hook = HookSpec::compile(&agent, &written).unwrap();
        let occasion = Occasion {
            point: HookPoint::BeforeTurn,
            call: None,
            apart: apart.map(str::to_owned),
            about,
        };
        Question::new(whose, &hook, &occasion).map(|question| question.id)
    }

    #[test]
    fn what_is_longer_than_a_guard_is_shown_is_denied() {
        let whose = somebody();
        assert!(asked(&whose, json!({"input": "a".repeat(MOST_SHOWN - 100)})).is_ok());
        let failure = asked(&whose, json!({"input": "a".repeat(MOST_SHOWN)})).unwrap_err();
        assert_eq!(failure.kind, HookFailureKind::TooLarge);
    }

    #[test]
    fn the_same_question_has_the_same_id_and_another_has_another() {
        let whose = somebody();
        let id = |input: &str| asked(&whose, json!({"input": input}));
        assert_eq!(id("a"), id("a"));
        assert_ne!(id("a"), id("b"));
        assert_ne!(id("a"), asked(&somebody(), json!({"input": "a"})));
        let looks_the_same = |apart| asked_apart(&whose, json!({"input": "a"}), Some(apart));
        assert_eq!(looks_the_same("first"), looks_the_same("first"));
        assert_ne!(looks_the_same("first"), looks_the_same("second"));
    }
}
