//! What the [`Store`] traits promise, as a suite that any backend runs.
//!
//! [`run`] tries every promise and returns those that were broken; an empty answer is a pass. Each promise makes its own orgs, so
//! the suite may run on data that is there already.

mod archive;
mod callbacks;
mod deletion;
mod housekeeping;
mod jobs;
mod leases;
mod orders;
mod pages;
mod queue;
mod races;
mod recordings;
mod restart;
mod rewinds;
mod schedules;
mod spending;
mod tenancy;
mod values;
mod waiting;
mod webhooks;
mod work;

use crate::{
    api::{Store, StoreError},
    lease::{Fence, HostId, Lease, Taken},
    quotas::KvQuota,
    record::{Accepted, IfBusy, NewTurn, Session, Turn},
};
use async_trait::async_trait;
use fumehood_core::{
    content::Content,
    event::{EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    name::{AgentName, OrgName},
    now,
    turn::{Budget, StopReason},
};
use fumehood_policy::authority::SessionNarrowing;
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

/// How long a turn is taken for: longer than a suite takes.
const WHILE: Duration = Duration::from_secs(3600);

/// What the key-values of a session may take in a store that is tried: few, so that the end is soon reached.
pub const KV_QUOTA: KvQuota = KvQuota {
    entries: 50,
    bytes: 10_000,
};

/// Opens a backend, with [`KV_QUOTA`].
#[async_trait]
pub trait Factory: Send + Sync {
    /// Opens the same data again. Stores given before are not used any more.
    async fn open(&self) -> Arc<dyn Store>;
    /// Decides, in the store that was opened last, that a session is deleted, and does no more of it: as if the process had died then.
    async fn decide_deletion(&self, session: SessionId);
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which promise, as a sentence.
    pub promise: &'static str,
    /// What was seen instead.
    pub detail: String,
}

/// Tries every promise.
pub async fn run(factory: &dyn Factory) -> Vec<Failure> {
    let mut failures = Vec::new();
    let chapters = [
        tenancy::PROMISES,
        work::PROMISES,
        pages::PROMISES,
        queue::PROMISES,
        waiting::PROMISES,
        callbacks::PROMISES,
        jobs::PROMISES,
        leases::PROMISES,
        rewinds::PROMISES,
        values::PROMISES,
        races::PROMISES,
        orders::PROMISES,
        spending::PROMISES,
        schedules::PROMISES,
        webhooks::PROMISES,
        archive::PROMISES,
        housekeeping::PROMISES,
        recordings::PROMISES,
    ];
    let world = World {
        store: factory.open().await,
    };
    for promise in chapters.into_iter().flatten() {
        note(&mut failures, promise.text, (promise.holds)(&world).await);
    }
    let decided = deletion::reads_as_not_there(&world, factory).await;
    note(&mut failures, deletion::READS_AS_NOT_THERE, decided);
    let brought = callbacks::of_a_deleted(&world, factory).await;
    note(&mut failures, callbacks::OF_A_DELETED, brought);
    let of_jobs = jobs::of_a_deleted(&world, factory).await;
    note(&mut failures, jobs::OF_A_DELETED, of_jobs);
    note(
        &mut failures,
        deletion::IS_ENDED,
        deletion::is_ended(&world, factory).await,
    );
    note(&mut failures, restart::TEXT, restart::everything_is_kept(factory).await);
    note(&mut failures, jobs::REOPENED, jobs::reopened(factory).await);
    failures
}

fn note(failures: &mut Vec<Failure>, promise: &'static str, outcome: Outcome) {
    if let Err(Broken(detail)) = outcome {
        failures.push(Failure { promise, detail });
    }
}

struct Promise {
    text: &'static str,
    holds: for<'w> fn(&'w World) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'w>>,
}

type Outcome = Result<(), Broken>;

struct Broken(String);

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self(format!("unexpected error: {error}"))
    }
}

/// Names a function as a promise.
macro_rules! promises {
    ($($text:literal => $function:path,)*) => {
        pub(super) const PROMISES: &[super::Promise] = &[$(super::Promise {
            text: $text,
            holds: |world| Box::pin($function(world)),
        }),*];
    };
}

/// Breaks the promise unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(super::Broken(format!($($message)+)));
        }
    };
}

/// Breaks the promise unless the two are equal.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $what:literal) => {
        let (left, right) = (&$left, &$right);
        if left != right {
            return Err(super::Broken(format!(
                concat!($what, ": {:?}, expected {:?}"),
                left, right
            )));
        }
    };
}

use {ensure, ensure_eq, promises};

/// The store under test and the usual things to put into it.
struct World {
    store: Arc<dyn Store>,
}

impl World {
    async fn org(&self) -> Result<OrgName, Broken> {
        let name = format!("o{}", uuid::Uuid::now_v7().simple());
        let name = OrgName::new(name).map_err(|error| Broken(error.to_string()))?;
        self.store.create_org(&name).await?;
        Ok(name)
    }

    async fn session(&self, org: &OrgName) -> Result<Session, Broken> {
        let session = new_session(org)?;
        self.store.create_session(&session, &[created(&session)]).await?;
        Ok(session)
    }

    async fn turn(&self, org: &OrgName, session: SessionId) -> Result<Turn, Broken> {
        match self.store.accept_turn(org, session, &new_turn()).await? {
            Some(Accepted::New(turn, _)) => Ok(turn),
            other => Err(Broken(format!("a turn was not accepted: {other:?}"))),
        }
    }
}

/// Takes a turn for a host, for a while from now.
async fn taken(world: &World, org: &OrgName, turn: TurnId) -> Result<Fence, Broken> {
    let (host, at) = (HostId::new(), now());
    let until = at + WHILE;
    match world.store.take_turn(org, turn, Lease { host, at, until }).await? {
        Some(Taken::Mine { fence, .. }) => Ok(fence),
        other => Err(Broken(format!("the turn was not to be had: {other:?}"))),
    }
}

fn agent(name: &str) -> Result<AgentName, Broken> {
    AgentName::new(name).map_err(|error| Broken(error.to_string()))
}

fn new_session(org: &OrgName) -> Result<Session, Broken> {
    let time = now();
    Ok(Session {
        id: SessionId::new(),
        org: org.clone(),
        agent: agent("assistant")?,
        title: Some("A title, ü".into()),
        metadata: serde_json::json!({"z": 1, "a": {"deep": [1, 2.5, null, "x"]}}),
        narrowing: SessionNarrowing::default(),
        created: time,
        updated: time,
        archived: None,
    })
}

fn created(session: &Session) -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Client,
        body: EventBody::SessionCreated {
            agent: session.agent.clone(),
            title: session.title.clone(),
            forked_from: None,
        },
    }
}

fn new_turn() -> NewTurn {
    NewTurn {
        id: TurnId::new(),
        input: vec![Content::text("hello")],
        system: Some("be brief".into()),
        budget: Budget {
            steps: Some(3),
            ..Budget::default()
        },
        output_schema: Some(serde_json::json!({"type": "object"})),
        tools: Vec::new(),
        record: true,
        idempotency: None,
        replaces: None,
        ends: None,
        if_busy: IfBusy::Refuse,
    }
}

/// An event that belongs to no turn and changes nothing.
fn remark(text: impl Into<String>) -> NewEvent {
    NewEvent {
        turn: None,
        source: Source::Host,
        body: EventBody::TextCompleted {
            step: 1,
            text: text.into(),
        },
    }
}

fn of_turn(turn: TurnId, body: EventBody) -> NewEvent {
    NewEvent {
        turn: Some(turn),
        source: Source::Host,
        body,
    }
}

fn completed(turn: TurnId) -> NewEvent {
    of_turn(
        turn,
        EventBody::TurnCompleted {
            stop_reason: StopReason::EndTurn,
            output: vec![Content::text("done")],
            usage: None,
            cost: None,
            worked_ms: None,
        },
    )
}
