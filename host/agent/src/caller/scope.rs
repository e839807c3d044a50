//! For whom a call is made: what of it is known before it is looked at.

use crate::{
    callable::Callable,
    catalog::InstalledTool,
    hooks::{Edits, Hooks},
    limits::{LONGEST_WAIT, Limited},
    ports::{CallEvents, HiddenToken, Observe, Waits},
    recording::{HttpTape, Tape},
};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode},
    digest::Digest,
    event::{EventBody, NewEvent, Source},
    id::{CallId, SessionId, TurnId},
    name::{Locale, OrgName, ToolName},
    tool::Effect,
};
use fumehood_files::Tree;
use fumehood_policy::{
    agent::AgentSpec,
    approval::{JudgedCall, Judgement, judge},
    authority::Authority,
    deadline::Deadline,
};
use fumehood_sandbox::ports::Ambient;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// For whom a call is made, and how they narrow it.
#[derive(Clone)]
pub struct CallScope {
    pub(crate) org: OrgName,
    pub(crate) session: Option<SessionId>,
    pub(crate) turn: Option<TurnId>,
    pub(crate) chain: Arc<[AgentSpec]>,
    pub(super) locale: Option<Locale>,
    clearance: Clearance,
    /// Who is asked and told.
    pub(super) hooks: Option<Arc<Hooks>>,
    pub(super) guarded: Guarded,
    pub(super) recorded: Option<Result<Arc<Authority>, CallError>>,
    pub(super) observe: Option<Observe>,
    /// What ends the turn's call, if its tool hands that on; the calls that it makes may be given it.
    pub(super) token: HiddenToken,
    /// The turn's call that would run again after a stop of the host, from which it is made.
    repeatable: Option<Arc<Repeatable>>,
    /// Whether it began before, under a host that stopped.
    run: Run,
    /// Whether it runs in the background: as long as its deadline lets it, whatever the component's own limit is.
    pub(super) in_background: bool,
    pub(super) files: Option<Arc<Tree>>,
    /// What takes down the answers to its call.
    pub(super) tape: Option<Arc<Tape>>,
    /// What takes down its HTTP exchanges, for who tries the component out.
    pub(super) exchanges: Option<HttpTape>,
    /// The time and the chance of who tries it out.
    pub(super) ambient: Option<Arc<dyn Ambient>>,
    /// Whether what its call asks of the host is taken down, for who explains it.
    pub(super) explained: Explained,
    /// The soonest that any of those sets who stand above the call.
    pub(super) deadline: Option<Deadline>,
    pub(super) depth: u8,
}

impl CallScope {
    pub(crate) fn new(org: OrgName, session: Option<SessionId>, turn: Option<TurnId>, chain: Arc<[AgentSpec]>) -> Self {
        Self {
            org,
            session,
            turn,
            locale: chain.last().and_then(|leaf| leaf.locale.clone()),
            chain,
            clearance: Clearance::Nobody,
            hooks: None,
            guarded: Guarded::Not,
            recorded: None,
            observe: None,
            token: HiddenToken::default(),
            repeatable: None,
            run: Run::First,
            in_background: false,
            files: None,
            tape: None,
            exchanges: None,
            ambient: None,
            explained: Explained::No,
            deadline: None,
            depth: 0,
        }
    }

    /// The same, with hooks.
    pub(crate) fn with_hooks(self, hooks: Arc<Hooks>) -> Self {
        Self {
            hooks: Some(hooks),
            ..self
        }
    }

    /// The same for one call that the guards have judged, with the authority that was recorded for it and what a person approved,
    /// reporting what happens in it.
    pub(crate) fn for_call(
        &self,
        observe: Observe,
        recorded: Result<Arc<Authority>, CallError>,
        clearance: Clearance,
    ) -> Self {
        Self {
            clearance,
            guarded: Guarded::Already,
            recorded: Some(recorded),
            observe: Some(observe),
            token: HiddenToken::default(),
            ..self.clone()
        }
    }

    /// The same for a call that runs in the background, by then at the latest; `approved` is what a person approved.
    pub(crate) fn in_background(self, deadline: Deadline, approved: Option<Digest>) -> Self {
        Self {
            in_background: true,
            deadline: Some(deadline),
            clearance: approved.map_or(Clearance::Nobody, Clearance::Approved),
            ..self
        }
    }

    /// The same, of which the guards have been asked already.
    pub(crate) fn judged_already(self) -> Self {
        Self {
            guarded: Guarded::Already,
            ..self
        }
    }

    /// The same, with the authority that was recorded for it, reporting what happens in it.
    pub(crate) fn recorded_as(self, observe: Observe, recorded: Result<Arc<Authority>, CallError>) -> Self {
        Self {
            recorded: Some(recorded),
            observe: Some(observe),
            ..self
        }
    }

    /// The same for a call that runs again after a stop of the host, if its effect is one that may be had again.
    pub(crate) fn repeatable(self, call: CallId, effect: Effect) -> Self {
        let repeatable = (effect != Effect::AtMostOnce).then(|| {
            Arc::new(Repeatable {
                call,
                committed: OnceCell::new(),
            })
        });
        Self { repeatable, ..self }
    }

    /// The same for a call that began before, under a host that stopped.
    pub(crate) fn once_more(self) -> Self {
        Self {
            run: Run::Again,
            ..self
        }
    }

    /// Why a call does not run, once that is decided. One that began before may have taken effect, whatever keeps it from running now.
    pub(super) fn refusal(&self, error: CallError) -> CallError {
        match self.run {
            Run::First => error,
            Run::Again => not_run_again(&error.message),
        }
    }

    /// Whether guards may give other arguments. A call that began before runs with those that it had begun with, or not.
    // THREAT[T-turn-replay]: under the same idempotency key the outside must not be asked for something else.
    pub(super) const fn edits(&self) -> Edits {
        match self.run {
            Run::First => Edits::Taken,
            Run::Again => Edits::Refused,
        }
    }

    /// The same, with a directory in the place of the session's workspace.
    pub(crate) fn on_files(self, tree: Arc<Tree>) -> Self {
        Self {
            files: Some(tree),
            ..self
        }
    }

    /// The same for a call that is recorded. The calls that it makes are not: what they return is part of its recording.
    pub(crate) fn recorded_on(self, tape: Option<Arc<Tape>>) -> Self {
        Self { tape, ..self }
    }

    /// The same, as who tries the component out has set it up.
    pub(crate) fn staged(self, exchanges: Option<HttpTape>, ambient: Option<Arc<dyn Ambient>>) -> Self {
        Self {
            exchanges,
            ambient,
            ..self
        }
    }

    /// The same for a call that somebody explains. The calls that it makes are not: they are answers to it.
    pub(crate) fn explained(self) -> Self {
        Self {
            explained: Explained::Yes,
            ..self
        }
    }

    /// The same, to be done by then at the latest.
    pub(crate) fn within(self, deadline: Option<Deadline>) -> Self {
        let deadline = match self.deadline {
            Some(own) => Some(own.or_sooner(deadline)),
            None => deadline,
        };
        Self { deadline, ..self }
    }

    /// How much of a wait its deadline leaves.
    pub(super) fn time_left(&self, wait: Duration) -> Duration {
        let left = |deadline: &Deadline| deadline.at().saturating_duration_since(Instant::now());
        self.deadline.as_ref().map_or(wait, |deadline| left(deadline).min(wait))
    }

    /// How long it may wait for a place among the org's calls; `None`: for as long as it is polled.
    pub(super) fn longest_wait(&self) -> Option<Duration> {
        match (self.turn, self.in_background) {
            // A turn's calls are its own to wait for: its time and its cancellation end that.
            (Some(_), _) => None,
            (None, true) => Some(self.time_left(Duration::MAX)),
            (None, false) => Some(self.time_left(LONGEST_WAIT)),
        }
    }

    /// The end of a call that runs in the background, once its time is over.
    pub(super) fn overdue(&self) -> Option<CallError> {
        let deadline = self.deadline.as_ref().filter(|_| self.in_background)?;
        (deadline.at() <= Instant::now()).then(|| deadline.error())
    }

    /// When its calls must be done, whatever their own limits are.
    pub(crate) const fn deadline(&self) -> Option<&Deadline> {
        self.deadline.as_ref()
    }

    /// The same, reporting what happens in it.
    pub(crate) fn observed_by(self, observe: Observe) -> Self {
        Self {
            observe: Some(observe),
            ..self
        }
    }

    /// The same, called by a client itself.
    pub(crate) fn by_client(self) -> Self {
        Self {
            clearance: Clearance::Client,
            ..self
        }
    }

    /// What the agents' rules say about a call.
    pub(crate) fn judge(&self, tool: &dyn Callable, arguments: &Arguments) -> Judgement {
        let call = JudgedCall {
            component: tool.component_name(),
            tool: tool.definition(),
            arguments,
        };
        judge(&self.chain, &call)
    }

    /// Refuses what the agents' rules do not let run, whoever asks for it.
    pub(super) fn clear(&self, tool: &InstalledTool, arguments: &Arguments) -> Result<(), CallError> {
        let name = &tool.definition.name;
        let denied = |message| Err(CallError::new(CallErrorCode::Denied, message));
        let rule = match self.judge(tool, arguments) {
            Judgement::Allow => return Ok(()),
            Judgement::Deny(rule) => return denied(refused_by(name, &rule)),
            Judgement::Ask(rule) => rule,
        };
        match self.clearance {
            Clearance::Client => Ok(()),
            // THREAT[T-appr-substitution]: what was approved is compared with what is about to run.
            Clearance::Approved(fingerprint) if tool.fingerprint(arguments) == fingerprint => Ok(()),
            Clearance::Approved(_) => denied(format!(
                "what was approved is not what {name} would be called with now; call it again, and it is asked about again"
            )),
            // THREAT[T-appr-self]: a tool has nobody to ask.
            Clearance::Nobody => denied(format!(
                "calling {name} needs a person's approval, which a tool can't get: {rule}; let the model call {name} itself"
            )),
        }
    }

    /// Before a tool is called that may run once: the call that it is made from does not run again from here on.
    // THREAT[T-turn-replay]: recorded before the tool is called, or it is not called.
    pub(crate) async fn commit(&self, tool: &ToolName) -> Result<(), CallError> {
        let (Some(repeatable), Some(observe)) = (&self.repeatable, &self.observe) else {
            return Ok(());
        };
        let claim = || {
            observe.claim(NewEvent {
                turn: self.turn,
                source: Source::Host,
                body: EventBody::ToolCommitted {
                    call: repeatable.call,
                    tool: tool.clone(),
                },
            })
        };
        let committed = repeatable.committed.get_or_try_init(claim).await;
        committed.map(drop).map_err(|_| not_recorded(tool))
    }

    /// Claims a call that a tool makes, with the code and the arguments that it is about to run with: should the call that it is made
    /// from run again, it is the same then. From where that one runs once only, there is nothing to compare.
    // THREAT[T-turn-replay]: claimed before it runs, or it does not run.
    pub(super) async fn claim(
        &self,
        made: CallId,
        tool: &InstalledTool,
        arguments: &Arguments,
    ) -> Result<(), CallError> {
        let (Some(repeatable), Some(observe)) = (&self.repeatable, &self.observe) else {
            return Ok(());
        };
        if self.depth == 0 || repeatable.committed.initialized() {
            return Ok(());
        }
        let claimed = observe.claim(NewEvent {
            turn: self.turn,
            source: Source::Host,
            body: EventBody::ToolCalled {
                call: repeatable.call,
                made,
                tool: tool.definition.name.clone(),
                component: tool.component_ref(),
                fingerprint: tool.fingerprint(arguments),
            },
        });
        claimed.await.map_err(|_| not_recorded(&tool.definition.name))
    }

    /// Who would wait for a call that is handed on.
    pub(super) fn waits(&self, events: Option<&Arc<CallEvents>>) -> Waits {
        match (self.depth, self.turn, &self.observe, events) {
            (0, Some(turn), Some(observe), Some(events)) => Waits::Turn(turn, observe.clone(), Arc::clone(events)),
            (0, ..) if self.in_background => Waits::Nobody,
            (0, ..) => Waits::Client,
            _ => Waits::Tool,
        }
    }

    /// Says to who observes the call that a limit kept it from running.
    pub(super) async fn report_limit(&self, call: CallId, limited: &Limited) {
        let Some(observe) = &self.observe else { return };
        let reached = NewEvent {
            turn: self.turn,
            source: Source::Host,
            body: EventBody::LimitReached {
                call: Some(call),
                limit: limited.limit().to_owned(),
                message: limited.to_string(),
            },
        };
        observe.decided(reached).await;
    }

    /// The same, for the calls that a call of `tool` makes which must be done by `deadline`.
    pub(super) fn deeper(&self, tool: &ToolName, deadline: &Deadline) -> Self {
        Self {
            deadline: Some(deadline.for_calls_of(tool, self.deadline.clone())),
            clearance: Clearance::Nobody,
            guarded: Guarded::Not,
            recorded: None,
            run: Run::First,
            in_background: false,
            tape: None,
            explained: Explained::No,
            depth: self.depth + 1,
            ..self.clone()
        }
    }
}

fn not_recorded(tool: &ToolName) -> CallError {
    let message = format!("the host could not record that {tool} is called, so it was not called; try again later");
    CallError::new(CallErrorCode::Unavailable, message)
}

/// The words for a call that a rule denies.
pub(crate) fn refused_by(tool: &ToolName, rule: &str) -> String {
    format!("calling {tool} was denied: {rule}; do not try it again with the same arguments")
}

/// What becomes of a call that began under a host that stopped, and that does not run again.
pub(crate) const LOST: &str =
    "the host stopped while the call ran; it was not run again, because it may have taken effect";

/// The same, with what keeps it from running that could.
pub(crate) fn not_run_again(why: &str) -> CallError {
    CallError::new(CallErrorCode::Interrupted, format!("{LOST}: {why}"))
}

/// Whether somebody explains a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Explained {
    No,
    Yes,
}

/// Whether a call is made for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    First,
    /// It began under a host that stopped.
    Again,
}

/// A call that runs again after a stop of the host, until it has called a tool that may run once.
struct Repeatable {
    call: CallId,
    committed: OnceCell<()>,
}

/// Whether the guards have judged what a call is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guarded {
    /// They have.
    Already,
    /// A tool or a client makes the call.
    Not,
}

/// Who has agreed to a call, should a rule ask for a person.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clearance {
    /// Nobody.
    Nobody,
    /// Somebody approved what has this fingerprint.
    Approved(Digest),
    /// It is a client's own call, and a client may approve.
    Client,
}
