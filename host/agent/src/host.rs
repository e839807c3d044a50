//! The host: everything above the stores and below HTTP. Sessions, turns, tools, files and secrets of orgs, as operations.
//!
//! Every operation names the org it acts for; what another org has reads as not there.

mod approvals;
mod beginning;
mod callbacks;
mod compaction;
mod deletion;
mod draining;
mod endings;
mod error;
mod housekeeping;
mod instructions;
mod jobs;
mod leases;
mod plan;
mod recovery;
mod results;
mod schedules;
mod spending;
mod waiting;
mod webhooks;
mod work;

pub(crate) use approvals::cleaned;
pub use approvals::{Decide, Decision, LONGEST_FEEDBACK};
pub use callbacks::{Brought, BroughtResult, CallbackRefused, Took, WhySettled};
pub use compaction::Compacted;
pub use error::HostError;
pub use fumehood_store::record::CancelAt;
pub use housekeeping::{Housekept, RetentionRules};
pub use results::{GivenResult, LONGEST_RESULT, ResultsRefused};
pub use schedules::{PlaceRequest, ScheduleChange, ScheduleLimits, ScheduleRequest};
pub use webhooks::{BeTold, WebhookChange, WebhookRequest};
pub use work::Patience;

use crate::{
    budgets::Budgets,
    caller::Caller,
    catalog::Catalog,
    chains::Chains,
    hooks::{Hooks, Journal},
    hub::Hub,
    jobs::JobLimits,
    limits::{Counted, Place},
    models::Models,
    recorder, redact,
    reins::Control,
    skills::Skill,
    transcript::Transcript,
    view::TurnView,
};
use fumehood_core::{
    awaited::ClientTool,
    content::Content,
    digest::Digest,
    event::{Event, EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    message::Message,
    name::{AgentName, OrgName, SkillName},
    now,
    rewind::PassedOver,
    turn::{Budget, TurnStatus},
};
use fumehood_egress::LeakGuard;
use fumehood_policy::{
    agent::{AgentSpec, Lineage},
    authority::SessionNarrowing,
    spending::OrgBudget,
};
use fumehood_store::{
    SessionLock, SessionLocks, Store, StoreError, Workspaces,
    lease::HostId,
    record::{self, Session, SessionChange},
    workspace::Starter,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};
use tokio::sync::{Notify, Semaphore, broadcast};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

/// To how much it is known when a session was used last by something that its journal does not tell.
const USE_COUNTED: Duration = Duration::from_secs(60);

/// A session to be made.
#[derive(Debug, Clone, Default)]
pub struct NewSession {
    /// The agent; the host's default one when absent.
    pub agent: Option<AgentName>,
    /// A title for people.
    pub title: Option<String>,
    /// The client's own data: a JSON object.
    pub metadata: Option<Value>,
    /// How the session narrows what tools may do.
    pub narrowing: SessionNarrowing,
    /// The files it begins with.
    pub starter: Vec<Starter>,
}

/// What becomes of an input while the session has a turn that hasn't ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It is refused.
    #[default]
    Reject,
    /// It is a turn that waits for its turn.
    Queue,
    /// It is added to the input of the turn that is worked, at its next boundary.
    Steer,
}

/// A turn to be worked.
#[derive(Debug, Clone, Default)]
pub struct TurnRequest {
    /// What the client sends.
    pub input: Vec<Content>,
    /// Instructions for this turn only.
    pub system: Option<String>,
    /// What the client allows it to use.
    pub budget: Budget,
    /// What the answer must follow: a JSON Schema.
    pub output_schema: Option<Value>,
    /// The tools that the client brings and runs itself.
    pub tools: Vec<ClientTool>,
    /// Whether it is to be recorded, so that it can be replayed, also where its agent does not ask for that.
    pub record: bool,
    /// The client's `Idempotency-Key` and the digest of the request it came with.
    pub idempotency: Option<(String, Digest)>,
    /// The turn in whose place it comes: that one and all after it are undone.
    pub replaces: Option<TurnId>,
    /// What becomes of it while the session is busy.
    pub mode: Mode,
}

/// An accepted input.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The turn that works it.
    pub turn: record::Turn,
    /// Whether an earlier request made it.
    pub repeated: bool,
    /// Where the org's limit of turns stands, where there is one and this turn counted.
    pub counted: Option<Counted>,
}

/// What a host is made of.
pub struct HostParts {
    /// What is kept.
    pub store: Arc<dyn Store>,
    /// The sessions' files.
    pub workspaces: Workspaces,
    /// Which tools there are.
    pub catalog: Catalog,
    /// What runs them.
    pub caller: Caller,
    /// The configured models.
    pub models: Models,
    /// The configured skills.
    pub skills: BTreeMap<SkillName, Arc<Skill>>,
    /// What the orgs may spend; those that are not named have no such budget.
    pub budgets: BTreeMap<OrgName, OrgBudget>,
    /// The agent of sessions that name none.
    pub default_agent: AgentName,
    /// What schedules may be.
    pub schedules: ScheduleLimits,
    /// How it bears with a store that takes nothing for a moment.
    pub patience: Patience,
    /// How long things are kept.
    pub retention: RetentionRules,
    /// What calls may be that run in the background.
    pub jobs: JobLimits,
}

/// The host. Cheap to clone; ends with [`Host::shut_down`].
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    /// What it holds turns as.
    id: HostId,
    store: Arc<dyn Store>,
    workspaces: Workspaces,
    catalog: Arc<Catalog>,
    caller: Arc<Caller>,
    models: Models,
    skills: Arc<BTreeMap<SkillName, Arc<Skill>>>,
    budgets: Arc<Budgets>,
    default_agent: AgentName,
    patience: Patience,
    chains: Chains,
    hub: Arc<Hub>,
    hooks: Arc<Hooks>,
    running: Mutex<HashMap<TurnId, Control>>,
    /// Had by the turn that is worked without others that may end their hosts.
    alone: Arc<Semaphore>,
    /// A turn began to wait for somebody.
    expiry: Notify,
    schedules: schedules::Schedules,
    retention: RetentionRules,
    webhooks: webhooks::Webhooks,
    jobs: jobs::RunningJobs,
    /// A session's turns begin, and are undone, one after the other.
    order: SessionLocks,
    summed_up: compaction::BeingSummedUp,
    /// Set when it goes on with what nobody asks for just now.
    recovers: OnceLock<()>,
    /// The session in which it ends what waits too long, where it does not in all.
    tended: OnceLock<SessionId>,
    tasks: TaskTracker,
    /// What is under way of turns and of summing up.
    working: TaskTracker,
    /// Ends with `closing`, at the latest.
    draining: CancellationToken,
    closing: CancellationToken,
}

impl Host {
    /// Makes a host that does what it is asked for. What an earlier process left unfinished it leaves alone, until
    /// [`Host::recover`].
    #[must_use]
    pub fn start(parts: HostParts) -> Self {
        let HostParts {
            store,
            workspaces,
            catalog,
            caller,
            models,
            skills,
            budgets,
            default_agent,
            schedules,
            patience,
            retention,
            jobs,
        } = parts;
        let (catalog, caller, hub) = (Arc::new(catalog), Arc::new(caller), Arc::<Hub>::default());
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let journal = Journal {
            store: Arc::clone(&store),
            hub: Arc::clone(&hub),
        };
        let hooks = Hooks::new(Arc::clone(&caller), Arc::clone(&catalog), journal, (&tasks, &closing));
        let host = Self {
            inner: Arc::new(Inner {
                id: HostId::new(),
                hooks,
                budgets: Arc::new(Budgets::new(budgets, Arc::clone(&store))),
                store,
                workspaces,
                catalog,
                caller,
                models,
                skills: Arc::new(skills),
                default_agent,
                patience,
                chains: Chains::default(),
                hub,
                running: Mutex::default(),
                alone: Arc::new(Semaphore::new(1)),
                expiry: Notify::new(),
                schedules: schedules::Schedules::new(schedules),
                retention,
                webhooks: webhooks::Webhooks::default(),
                jobs: jobs::RunningJobs::new(jobs),
                order: SessionLocks::default(),
                summed_up: compaction::BeingSummedUp::default(),
                recovers: OnceLock::new(),
                tended: OnceLock::new(),
                tasks,
                working: TaskTracker::new(),
                draining: closing.child_token(),
                closing,
            }),
        };
        Inner::keep_turns(&host.inner);
        host
    }

    /// Stops taking turns and stops those that run where they are; the next start goes on with them. Returns when nothing of
    /// the host runs any more.
    pub async fn shut_down(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.let_go_of_all().await;
    }

    /// The store, for what needs no more than it: keys, secrets, key-values, the ledger.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The sessions' files.
    #[must_use]
    pub fn workspaces(&self) -> &Workspaces {
        &self.inner.workspaces
    }

    /// The catalogue of tools.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// Knows the value of every secret in effect in a session, or in the org where there is no session: for what leaves by another
    /// way than a call or the journal. Cheap where no secret changed.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn guard(&self, org: &OrgName, session: Option<SessionId>) -> Result<LeakGuard, HostError> {
        Ok(self.inner.caller.secrets().of(org, session).await?.guard().clone())
    }

    /// A place among the org's clients that listen to events or wait for a turn; hold it for as long.
    ///
    /// # Errors
    /// [`HostError::Limited`] when there are as many as may.
    pub async fn listening(&self, org: &OrgName) -> Result<Place, HostError> {
        Ok(self.caller().limits().stream(org).await?)
    }

    /// Whether all of it is ending.
    pub(crate) fn is_closing(&self) -> bool {
        self.inner.closing.is_cancelled()
    }

    /// What runs for the host, and ends before it does.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.inner.tasks
    }

    /// Does what must not be left half done: a task of the host's, which ends before it does, also when whoever asked has gone.
    ///
    /// # Errors
    /// Those of the work; [`HostError::ShuttingDown`], and nothing was begun; [`HostError::Fault`] if it broke.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, HostError>> + Send + 'static,
    ) -> Result<T, HostError> {
        if self.is_closing() {
            return Err(HostError::ShuttingDown);
        }
        let done = self.inner.tasks.spawn(work.in_current_span()).await;
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "work broke that should have been done to its end");
            Err(HostError::Fault)
        })
    }

    pub(crate) fn hooks(&self) -> &Arc<Hooks> {
        &self.inner.hooks
    }

    pub(crate) fn caller(&self) -> &Arc<Caller> {
        &self.inner.caller
    }

    /// Listens to a session from now on.
    #[must_use]
    pub fn subscribe(&self, session: SessionId) -> broadcast::Receiver<Arc<Event>> {
        self.inner.hub.subscribe(session)
    }

    /// Makes a session: with all the files it begins with, or not at all.
    ///
    /// # Errors
    /// [`HostError::Invalid`] when the agent is unknown, [`HostError::Files`] when a file can't be placed.
    pub async fn create_session(&self, org: &OrgName, new: NewSession) -> Result<Session, HostError> {
        let agent = new.agent.unwrap_or_else(|| self.inner.default_agent.clone());
        self.chain(org, &agent).await?;
        let time = now();
        // THREAT[T-sec-exfiltration]: of the session's own secrets none is set yet.
        let guard = self.guard(org, None).await?;
        let title = new.title.map(|title| guard.redact_str(&title).into_owned());
        let mut metadata = new.metadata.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        redact::json(&guard, &mut metadata);
        let session = Session {
            id: SessionId::new(),
            org: org.clone(),
            agent: agent.clone(),
            title: title.clone(),
            metadata,
            narrowing: new.narrowing,
            created: time,
            updated: time,
            archived: None,
        };
        let created = by_client(EventBody::SessionCreated {
            agent,
            title,
            forked_from: None,
        });
        let host = self.clone();
        self.to_the_end(async move { host.begin_session(session, new.starter, created).await })
            .await
    }

    /// One session.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn session(&self, org: &OrgName, id: SessionId) -> Result<Session, HostError> {
        self.inner
            .store
            .session(org, id)
            .await?
            .ok_or(HostError::NotFound("session"))
    }

    /// One session whose files may be changed.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; the store's `Archived`.
    pub async fn session_in_use(&self, org: &OrgName, id: SessionId) -> Result<Session, HostError> {
        let session = self.session(org, id).await?;
        match session.archived {
            None => Ok(session),
            Some(_) => Err(StoreError::Archived.into()),
        }
    }

    /// One session in which something is done that its journal does not tell: it counts as used from now on, to a minute.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; the store's `Archived`.
    pub async fn use_session(&self, org: &OrgName, id: SessionId) -> Result<Session, HostError> {
        let session = self.session_in_use(org, id).await?;
        // What was used a moment ago is not too old for a long time: it costs no write.
        if session.updated < now() - USE_COUNTED && !self.inner.store.touch_session(org, id).await? {
            return Err(HostError::NotFound("session"));
        }
        Ok(session)
    }

    /// Changes a session: how it narrows its calls from the next call on, the agent from the next turn on.
    ///
    /// # Errors
    /// [`HostError::NotFound`], or [`HostError::Invalid`] when the agent is unknown; [`HostError::Busy`] or [`HostError::BusyWithJob`] when
    /// it is to be archived and has a turn or a job that hasn't ended, [`HostError::Compacting`] when its conversation is being summed up.
    pub async fn update_session(
        &self,
        org: &OrgName,
        id: SessionId,
        mut change: SessionChange,
    ) -> Result<Session, HostError> {
        // THREAT[T-sec-exfiltration]
        let guard = self.guard(org, Some(id)).await?;
        if let Some(Some(title)) = &mut change.title {
            *title = guard.redact_str(title).into_owned();
        }
        if let Some(metadata) = &mut change.metadata {
            redact::json(&guard, metadata);
        }
        if let Some(agent) = &change.agent {
            self.chain(org, agent).await?;
        }
        let before = self.session(org, id).await?;
        let (before, is_archived) = (before.narrowing, before.archived.is_some());
        let changed = [
            ("agent", change.agent.is_some()),
            ("title", change.title.is_some()),
            ("metadata", change.metadata.is_some()),
            (
                "network",
                change
                    .network
                    .as_ref()
                    .is_some_and(|network| *network != before.network),
            ),
            ("files", change.files.is_some_and(|files| files != before.files)),
            (
                "background",
                change
                    .background
                    .as_ref()
                    .is_some_and(|background| *background != before.background),
            ),
            (
                "archived",
                change.archived.is_some_and(|archived| archived != is_archived),
            ),
        ];
        let changed = changed
            .into_iter()
            .filter(|(_, is)| *is)
            .map(|(name, _)| name.to_owned())
            .collect();
        let event = by_client(EventBody::SessionUpdated { changed });
        // No turn is about to begin, and nothing is being summed up, in a session that is archived.
        let mut _in_order = None;
        if change.archived == Some(true) {
            _in_order = Some(self.in_order(id).await);
            self.refuse_while_summed_up(id)?;
        }
        let updated = match self.inner.store.update_session(org, id, &change, &[event]).await {
            Err(StoreError::Busy(turn)) => return Err(HostError::Busy(turn)),
            Err(StoreError::BusyWithJob(job)) => return Err(HostError::BusyWithJob(job)),
            updated => updated?,
        };
        self.inner.caller.narrowings().forget(org, id);
        let (session, events) = updated.ok_or(HostError::NotFound("session"))?;
        self.publish(events);
        Ok(session)
    }

    /// What a model is shown of the session, without what the host tells it besides.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn messages(&self, org: &OrgName, id: SessionId) -> Result<Vec<Message>, HostError> {
        self.session(org, id).await?;
        let mut transcript = Transcript::default();
        recorder::for_each_page(&*self.inner.store, org, id, |events| transcript.apply_all(events)).await?;
        let messages = transcript.messages();
        let shown = messages
            .iter()
            .filter(|message| !matches!(message, Message::Note { .. }));
        Ok(shown.cloned().collect())
    }

    /// A turn and what came of it so far.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn turn(&self, org: &OrgName, id: TurnId) -> Result<TurnView, HostError> {
        let turn = self
            .inner
            .store
            .turn(org, id)
            .await?
            .ok_or(HostError::NotFound("turn"))?;
        let events = match self.inner.store.turn_events(org, id).await {
            Err(StoreError::Corrupt { .. }) if turn.status == TurnStatus::Failed => {
                return Ok(TurnView {
                    error: Some(work::unreadable()),
                    ..TurnView::new(&turn, &[])
                });
            }
            events => events?,
        };
        let rewinds = self.inner.store.rewinds(org, turn.session).await?;
        Ok(TurnView {
            undone: PassedOver::by(rewinds).covers(turn.first_seq),
            ..TurnView::new(&turn, &events)
        })
    }

    /// Waits until a turn has ended or waits for somebody itself, and returns it.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; [`HostError::ShuttingDown`] if the host closes first.
    pub async fn wait_for_turn(&self, org: &OrgName, id: TurnId) -> Result<TurnView, HostError> {
        let there = |status| !matches!(status, TurnStatus::Queued | TurnStatus::Running);
        self.wait_until(org, id, there).await
    }

    async fn wait_until(
        &self,
        org: &OrgName,
        id: TurnId,
        there: fn(TurnStatus) -> bool,
    ) -> Result<TurnView, HostError> {
        let turn = self
            .inner
            .store
            .turn(org, id)
            .await?
            .ok_or(HostError::NotFound("turn"))?;
        let mut listener = self.subscribe(turn.session);
        loop {
            // Not by its events: one whose journal can't be read is ended by who works it.
            let turn = self.inner.store.turn(org, id).await?;
            if there(turn.ok_or(HostError::NotFound("turn"))?.status) {
                return self.turn(org, id).await;
            }
            loop {
                let heard = tokio::select! {
                    heard = listener.recv() => heard,
                    () = self.inner.closing.cancelled() => return Err(HostError::ShuttingDown),
                };
                match heard {
                    Ok(event) if event.turn != Some(id) || !(event.body.is_terminal() || is_pause(&event.body)) => {}
                    // The end, a pause, or a gap in what was heard: the journal knows.
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }

    /// The agent's chain, root to leaf. An org's own agents come before those of the default org, which all share.
    pub(crate) async fn chain(&self, org: &OrgName, agent: &AgentName) -> Result<Arc<[AgentSpec]>, HostError> {
        let mut configured = self.inner.store.agents(&OrgName::default_org()).await?;
        configured.extend(self.inner.store.agents(org).await?);
        let Some(lineage) = Lineage::of(agent, &configured)? else {
            let known: Vec<_> = configured.keys().map(AgentName::as_str).collect();
            return Err(HostError::Invalid(format!(
                "there is no agent `{agent}`; there are: {}",
                known.join(", ")
            )));
        };
        let chain = self.inner.chains.get(org, agent, lineage).await?;
        chain.ok_or(HostError::Fault)
    }

    /// Hold it while a turn of the session begins or is undone: the next one that does waits. The only process that works on these
    /// sessions is this one.
    pub(crate) async fn in_order(&self, session: SessionId) -> SessionLock {
        self.inner.order.lock(session).await
    }

    pub(crate) fn publish(&self, events: Vec<Event>) {
        for event in events {
            self.inner.hub.publish(Arc::new(event));
        }
    }
}

/// An error of what was to be made by a request that its client may repeat.
fn made_before(error: StoreError) -> HostError {
    match error {
        StoreError::KeyReused => HostError::KeyReused,
        error => error.into(),
    }
}

const fn is_pause(body: &EventBody) -> bool {
    matches!(body, EventBody::TurnPaused { .. })
}

fn by_client(body: EventBody) -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Client,
        body,
    }
}
