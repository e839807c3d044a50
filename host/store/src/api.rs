//! The traits a backend implements. `conformance` holds what they promise, as tests.

use crate::callbacks::{Callback, Giving, Report, Reported};
use crate::housekeeping::Housekeeping;
use crate::jobs::Job;
use crate::lease::{Fence, HostId, Lease, Taken};
use crate::record::{
    Accepted, Added, Addition, CancelAt, Component, Key, NewRewind, NewTurn, Org, Owner, Page, PageRequest, Put,
    Rewound, Seen, Session, SessionChange, Turn, WhichSessions,
};
use crate::schedules::{Aimed, Fired, Firing, NewSchedule, PlannedAt, Schedule, ScheduleRun};
use crate::spending::{Cap, Days, Holder, Notice, Reservation, Reserved, Standing, UsageOfDay};
use crate::webhooks::{Attempt, Delivery, NewWebhook, ToTell, Webhook, Which};
use async_trait::async_trait;
use fumehood_core::{
    Time,
    call::CallResult,
    digest::Digest,
    event::{Event, NewEvent},
    id::{CallId, CallbackId, DeliveryId, JobId, KeyId, LedgerId, ScheduleId, SessionId, TurnId, WebhookId},
    ledger::{EgressOutcome, LedgerEntry, ShapeSeen},
    name::{AgentName, ComponentName, OrgName, SecretName},
    rewind::Rewind,
    turn::TurnStatus,
};
use fumehood_policy::{agent::AgentConfig, grant::Grant};
use secrecy::SecretString;
use std::{collections::BTreeMap, net::IpAddr};

/// The most that is read of a journal at a time, in bytes as it is kept, but for a single event that is larger: so much is in memory for each
/// who reads a session that holds large contents.
pub const EVENTS_BYTES: u32 = 4 << 20;

/// Why the store could not do what it was asked. "Not there" is not an error: it is `None` or `false`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name or id is taken.
    #[error("{what} already exists")]
    Exists {
        /// What is there already.
        what: String,
    },
    /// What it was to belong to is not there (any more): nothing was changed.
    #[error("there is no such {what}")]
    Gone {
        /// `org`, `session` or `turn`.
        what: &'static str,
    },
    /// The idempotency key came with another request before: nothing was changed.
    #[error("the idempotency key came with another request before")]
    KeyReused,
    /// The store does not take this: nothing was changed.
    #[error("the store does not take this: {reason}")]
    Invalid {
        /// Which rule it breaks.
        reason: String,
    },
    /// The session is archived: nothing was changed.
    #[error("the session is archived: it takes no turns, and its files and key-values stay as they are")]
    Archived,
    /// The session has a turn that hasn't ended: nothing was changed.
    #[error("the session has the turn {0}, which hasn't ended")]
    Busy(TurnId),
    /// The session has a job that hasn't ended: nothing was changed.
    #[error("the session has the background job {0}, which hasn't ended")]
    BusyWithJob(JobId),
    /// Somebody else has taken the turn since: nothing was changed.
    #[error("the turn was taken over by another host: what this one did for it counts no more")]
    Lost,
    /// The session's key-values would take more than they may: nothing was changed.
    #[error("the session's key-values would pass their limit of {limit} {of}: delete some, or store less")]
    Full {
        /// What the limit counts: `bytes` or `keys`.
        of: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// The org has as many of them as it may: nothing was changed.
    #[error("there are {limit} {what}, which is as many as there may be: delete one")]
    TooMany {
        /// What the limit counts.
        what: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// A page cursor that this store did not make.
    #[error("the page cursor is not valid here: start again without it")]
    BadCursor,
    /// The disk or database refused: nothing was changed.
    #[error("the store is not available: {reason}")]
    Unavailable {
        /// In words for the operator, without secrets.
        reason: String,
    },
    /// What was read does not make sense: written by a newer version, or damaged.
    #[error("the store holds something unreadable: {reason}")]
    Corrupt {
        /// In words for the operator.
        reason: String,
    },
}

/// A result of the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Everything a host keeps in its database.
pub trait Store:
    Orgs
    + Keys
    + Agents
    + Components
    + Sessions
    + Turns
    + Leases
    + Journal
    + Callbacks
    + Jobs
    + Spending
    + KeyValues
    + Secrets
    + Ledger
    + Schedules
    + Webhooks
    + Housekeeping
    + Recordings
    + Send
    + Sync
    + 'static
{
}

/// Tenants.
#[async_trait]
pub trait Orgs {
    /// Makes an org. [`StoreError::Exists`] if the name is taken.
    async fn create_org(&self, name: &OrgName) -> Result<Org>;
    /// One org.
    async fn org(&self, name: &OrgName) -> Result<Option<Org>>;
    /// Every org, by name.
    async fn orgs(&self) -> Result<Vec<Org>>;
}

/// API keys. A token is never kept: only its digest.
#[async_trait]
pub trait Keys {
    /// Keeps a new key. [`StoreError::Exists`] if the id or token is taken, [`StoreError::Gone`] if there is no such org.
    async fn create_key(&self, key: &Key, token: &Digest) -> Result<()>;
    /// The live key whose token has this digest.
    async fn key_by_token(&self, token: &Digest) -> Result<Option<Key>>;
    /// The org's live keys, oldest first.
    async fn keys(&self, org: &OrgName) -> Result<Vec<Key>>;
    /// Ends a key. `false` if the org has no such live key.
    async fn revoke_key(&self, org: &OrgName, id: KeyId) -> Result<bool>;
}

/// Agents, as configured.
#[async_trait]
pub trait Agents {
    /// Makes `agents` the org's agents, all at once; others of the org are gone.
    async fn replace_agents(&self, org: &OrgName, agents: &BTreeMap<AgentName, AgentConfig>) -> Result<()>;
    /// The org's agents.
    async fn agents(&self, org: &OrgName) -> Result<BTreeMap<AgentName, AgentConfig>>;
}

/// Components and their grants. The code itself is kept by [`crate::blobs::Blobs`].
#[async_trait]
pub trait Components {
    /// Adds a component or replaces the org's component of that name, and decides about its grant in the same transaction.
    ///
    /// `component.grant` is what somebody decided just now. Without it, what was decided about this digest before holds, as
    /// long as the manifest asks for no more than the one that was decided about; one that does has no grant. A digest
    /// that nothing was decided about takes over the grant of the component whose place it takes, if it asks for no more.
    async fn put_component(&self, component: &Component) -> Result<Put>;
    /// One component.
    async fn component(&self, org: &OrgName, name: &ComponentName) -> Result<Option<Component>>;
    /// The org's components, by name.
    async fn components(&self, org: &OrgName) -> Result<Vec<Component>>;
    /// Removes a component. `false` if there was none.
    async fn remove_component(&self, org: &OrgName, name: &ComponentName) -> Result<bool>;
    /// Decides what a component may do. `false` if the org has no component of that name and digest.
    async fn set_grant(&self, org: &OrgName, name: &ComponentName, digest: &Digest, grant: &Grant) -> Result<bool>;
}

/// Sessions.
#[async_trait]
pub trait Sessions {
    /// Keeps a new session, with its first events in the same transaction, however many the org has. Otherwise as
    /// [`Sessions::create_session_within`].
    async fn create_session(&self, session: &Session, events: &[NewEvent]) -> Result<Vec<Event>> {
        self.create_session_within(session, u64::MAX, events).await
    }
    /// Keeps a new session, with its first events in the same transaction. [`StoreError::TooMany`] if the org has as many as `most`,
    /// [`StoreError::Exists`] if the id is taken, [`StoreError::Gone`] if there is no such org.
    async fn create_session_within(&self, session: &Session, most: u64, events: &[NewEvent]) -> Result<Vec<Event>>;
    /// One session.
    async fn session(&self, org: &OrgName, id: SessionId) -> Result<Option<Session>>;
    /// The org's sessions, newest first.
    async fn sessions(&self, org: &OrgName, which: WhichSessions, page: &PageRequest) -> Result<Page<Session>>;
    /// Changes a session and journals it. `None` if there is none; [`StoreError::Busy`] or [`StoreError::BusyWithJob`] if it is to be
    /// archived and has a turn or a job that hasn't ended. One that is archived already stays archived since then.
    ///
    /// What is archived takes no turn, no schedule, no key-values, and doesn't go back: [`StoreError::Archived`].
    async fn update_session(
        &self,
        org: &OrgName,
        id: SessionId,
        change: &SessionChange,
        events: &[NewEvent],
    ) -> Result<Option<(Session, Vec<Event>)>>;
    /// Notes that a session is used by something that its journal does not tell, so that it is not too old. `false` if there is none.
    async fn touch_session(&self, org: &OrgName, id: SessionId) -> Result<bool>;
    /// Deletes a session with its turns, journal, key-values, secrets and ledger. `false` if there is none.
    ///
    /// Once this is decided the session reads as not there: whatever is asked of it, of its turns, or of what else is of it is answered as
    /// for one that never was, and nothing of it is listed, planned or told. Rows go in small transactions then; those that can't be deleted now, for
    /// want of a disk that works, go when the store is opened next.
    async fn delete_session(&self, org: &OrgName, id: SessionId) -> Result<bool>;
}

/// Turns.
#[async_trait]
pub trait Turns {
    /// Accepts a turn: its row, its idempotency key and its `turn.queued` in one transaction, with what it undoes and with the end of the
    /// turn that ends for it. `None` if there is no such session. The key is remembered while its turn has not ended, and for 24 hours
    /// after.
    async fn accept_turn(&self, org: &OrgName, session: SessionId, turn: &NewTurn) -> Result<Option<Accepted>>;
    /// What a request with this idempotency key led to before: [`Accepted::Repeated`] or [`Accepted::KeyReused`]. `None` if nothing
    /// is known of the key; [`Turns::accept_turn`] decides, should the same request arrive meanwhile.
    async fn repeated_turn(
        &self,
        org: &OrgName,
        session: SessionId,
        key: &str,
        request: &Digest,
    ) -> Result<Option<Accepted>>;
    /// Appends the `turn.steered` of what a client adds to a turn's input, and remembers its idempotency key, in one transaction.
    ///
    /// # Errors
    /// As [`Journal::append_held`].
    async fn add_to_turn(&self, org: &OrgName, session: SessionId, addition: &Addition) -> Result<Added>;
    /// The session's oldest turn that hasn't ended: the one to be worked.
    async fn next_turn(&self, org: &OrgName, session: SessionId) -> Result<Option<Turn>>;
    /// One turn.
    async fn turn(&self, org: &OrgName, id: TurnId) -> Result<Option<Turn>>;
    /// The session's turns, oldest first.
    async fn turns(&self, org: &OrgName, session: SessionId) -> Result<Vec<Turn>>;
    /// Every turn of every org that has one of these states, oldest first; for recovery at start.
    async fn turns_in(&self, states: &[TurnStatus]) -> Result<Vec<Turn>>;
    /// Goes back to before a turn, if no turn is open and the turns to be undone are still those. `None` if there is no such session.
    async fn rewind(&self, org: &OrgName, session: SessionId, rewind: &NewRewind) -> Result<Option<Rewound>>;
    /// Keeps that a turn is to be cancelled, until it ends: whoever takes it is told. At once stays at once. `false` if it has ended, or
    /// the org has no such turn.
    async fn keep_cancel(&self, org: &OrgName, id: TurnId, at: CancelAt) -> Result<bool>;
    /// Turns of every org that are to be cancelled and have not ended: at most `limit`, the oldest first, from the one on that comes after
    /// `after`.
    async fn turns_to_cancel(&self, after: Option<TurnId>, limit: u32) -> Result<Vec<(Turn, CancelAt)>>;
    /// Turns of every org that wait for a decision or for results, and until when, at most `limit`: those first that wait least long, from the one on
    /// that comes after `after`.
    async fn turns_waiting(&self, after: Option<(Time, TurnId)>, limit: u32) -> Result<Vec<(Turn, Time)>>;
}

/// Who works which turn. A host takes a turn before it works it, holds it for as long, and writes under the [`Fence`] it was given; a
/// turn that ends, or waits for somebody outside, is let go of in the transaction of the event that says so.
#[async_trait]
pub trait Leases {
    /// Takes a turn that hasn't ended, unless another host holds it. Whoever held it before, also the same host, has lost it.
    /// `None` if the org has no such turn.
    async fn take_turn(&self, org: &OrgName, turn: TurnId, lease: Lease) -> Result<Option<Taken>>;
    /// Holds those of the turns for longer that are the host's; of others nothing is said, their fences do that.
    async fn renew(&self, turns: &[TurnId], lease: Lease) -> Result<()>;
    /// Lets go of a turn as it is, for whoever comes next: taking it is no recovery. Not of one that was taken since.
    async fn let_go(&self, fence: Fence) -> Result<()>;
    /// The same for all that a host holds.
    async fn let_go_of_all(&self, host: HostId) -> Result<()>;
    /// Turns of every org that are to be worked, are the next of their sessions, and are held by nobody at that time: at most `limit`,
    /// the oldest first, from the one on that comes after `after`.
    async fn turns_to_take(&self, at: Time, after: Option<TurnId>, limit: u32) -> Result<Vec<Turn>>;
}

/// The journal: what happened in a session, in order.
#[async_trait]
pub trait Journal {
    /// Appends events in order, in one transaction with their projections: a turn's status and the session's `updated`
    /// follow from the events. Gives each its id, time and `seq`.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if the org has no such session. [`StoreError::Invalid`] for a live event, for an event of a
    /// turn that is not the session's, for a start or an end of a turn that has ended: a turn ends exactly once; and for a start while
    /// another turn of the session has begun and not ended.
    async fn append(&self, org: &OrgName, session: SessionId, events: &[NewEvent]) -> Result<Vec<Event>>;
    /// Appends as [`Journal::append`] does, if nobody has taken the turn since it was taken by who holds this fence.
    ///
    /// # Errors
    /// As [`Journal::append`]; [`StoreError::Lost`] if somebody has.
    async fn append_held(
        &self,
        org: &OrgName,
        session: SessionId,
        fence: Fence,
        events: &[NewEvent],
    ) -> Result<Vec<Event>>;
    /// Appends as [`Journal::append`] does, unless something happened in a turn since it was seen: then `None`, and nothing is
    /// appended. Of several who act on the same sight of a turn, one does.
    ///
    /// # Errors
    /// As [`Journal::append`].
    async fn append_after(
        &self,
        org: &OrgName,
        session: SessionId,
        seen: Seen,
        events: &[NewEvent],
    ) -> Result<Option<Vec<Event>>>;
    /// Recorded events with `seq > after`, in order: at most `limit`, and no more than fit into [`EVENTS_BYTES`], but always the first. So
    /// fewer than `limit` may be followed by others; after the last comes nothing.
    async fn events(&self, org: &OrgName, session: SessionId, after: u64, limit: u32) -> Result<Vec<Event>>;
    /// The `seq` of the session's last event; `None` if the org has no such session.
    async fn last_seq(&self, org: &OrgName, session: SessionId) -> Result<Option<u64>>;
    /// Where the session went back, in order; found without reading the journal.
    async fn rewinds(&self, org: &OrgName, session: SessionId) -> Result<Vec<Rewind>>;
    /// Every recorded event of one turn, in order.
    async fn turn_events(&self, org: &OrgName, turn: TurnId) -> Result<Vec<Event>>;
}

/// Calls that tools handed on to somebody outside. That a call is one, until when it waits, and that it has its end, follows from the
/// events that [`Journal::append`] gets; what somebody outside brings is kept here until it is in the journal.
///
/// Whoever asks by an id alone has to show the token: no operation that takes one says anything of an org to anybody else.
#[async_trait]
pub trait Callbacks {
    /// The call of that id, whichever org's it is.
    async fn callback(&self, id: CallbackId) -> Result<Option<Callback>>;
    /// Keeps the result of a call that has neither a result nor an end, and whose time is not over. `false`: it has, or it is, and
    /// nothing was kept. Of several who bring one, one does. It counts once the journal has it, by an end whose source is the
    /// callback: a call that ends in another way before has not been given any.
    async fn give(&self, giving: &Giving) -> Result<bool>;
    /// Appends what is told of a call that waits for its result, if there may be more of that.
    async fn report(&self, report: &Report) -> Result<Reported>;
    /// The results of a turn's calls that were given and are not in the journal yet.
    async fn given(&self, org: &OrgName, turn: TurnId) -> Result<Vec<(CallId, CallbackId, CallResult)>>;
    /// Turns of every org that wait for results and have been given some, by their ids from the one on that comes after `after`, at most
    /// `limit`.
    async fn turns_given(&self, after: Option<TurnId>, limit: u32) -> Result<Vec<Turn>>;
}

/// Calls that run on in the background. Which there are, and which have ended, follows from [`Journal::append`]; what happens in one
/// is told by events of its session that belong to no turn. The store keeps beside it who has taken one: a job that an earlier opening
/// of the store had taken runs nowhere any more.
#[async_trait]
pub trait Jobs {
    /// Appends the events of a turn by which a job is made, under the turn's lease, unless the org has `most` jobs or more that have no
    /// end: then `None`, and nothing was changed. Of many at once no more are made.
    async fn queue_job(
        &self,
        org: &OrgName,
        session: SessionId,
        fence: Fence,
        most: u64,
        events: &[NewEvent],
    ) -> Result<Option<Vec<Event>>>;
    /// Takes the oldest job that waits for a place, or that runs once more after a stop of the host, of an org of which fewer than
    /// `per_org` run here. It is nobody else's until the store is opened anew.
    async fn take_job(&self, per_org: u32) -> Result<Option<Job>>;
    /// Appends events of a job that was taken for this attempt. [`StoreError::Lost`] if it has its end or was taken since.
    async fn append_to_job(&self, job: JobId, attempt: u32, events: &[NewEvent]) -> Result<Vec<Event>>;
    /// Jobs that nobody runs and that are to end, oldest first: those that are to be stopped and have not begun, and those that an
    /// earlier opening left and that may not run again.
    async fn jobs_to_end(&self, limit: u32) -> Result<Vec<Job>>;
    /// Ends a job that nobody runs. `None`: somebody does, or it has its end, and nothing was changed.
    async fn end_job(&self, job: JobId, end: &NewEvent) -> Result<Option<Vec<Event>>>;
    /// Keeps that a job is to be stopped, unless it has its end, and gives the job as it is then. `None` if the org has none of that id.
    async fn stop_job(&self, org: &OrgName, job: JobId) -> Result<Option<Job>>;
    /// One job.
    async fn job(&self, org: &OrgName, id: JobId) -> Result<Option<Job>>;
    /// What a job wrote beside its result: the first of it.
    async fn job_log(&self, org: &OrgName, id: JobId) -> Result<Option<String>>;
    /// Jobs of a session, newest first.
    async fn jobs(&self, org: &OrgName, session: SessionId, page: &PageRequest) -> Result<Page<Job>>;
    /// Jobs of a session that have ended, and whose end no note of a step has told, in the order in which they ended. What was told
    /// where the session went back from is told again, but not of a job that was asked for there.
    async fn jobs_untold(&self, org: &OrgName, session: SessionId, limit: u32) -> Result<Vec<Job>>;
}

/// What model calls took, and what is held for those that run. What they took is charged by [`Journal::append`], in the transaction of
/// the events that tell it, which also lets go of what was held for them: nothing is counted twice or not at all.
#[async_trait]
pub trait Spending {
    /// Holds something for the holder's next model call, if what is spent and what others hold leaves something of every cap. Decided
    /// for one after the other, so that of two who want the last of a cap one gets it. What was held for it before is not
    /// held any more. [`StoreError::Gone`] if the org has no such turn or session.
    async fn reserve(&self, org: &OrgName, caps: &[Cap], wish: Reservation) -> Result<Reserved>;
    /// Lets go of what is held for it.
    async fn release(&self, holder: Holder) -> Result<()>;
    /// Where caps stand for who wishes this, in their order: what [`Self::reserve`] would decide by. Writes nothing.
    async fn standings_for(&self, org: &OrgName, caps: &[Cap], wish: Reservation) -> Result<Vec<Standing>>;
    /// Where caps stand, in their order.
    async fn standings(&self, org: &OrgName, session: SessionId, caps: &[Cap]) -> Result<Vec<Standing>>;
    /// Whether this has not been told yet of this cap: at this limit, in this window, at this or a higher percentage. It counts as
    /// told then.
    async fn tell_once(&self, org: &OrgName, notice: Notice) -> Result<bool>;
    /// What model calls took, by day, agent and model, the newest day first.
    async fn usage(&self, org: &OrgName, days: Days, page: &PageRequest) -> Result<Page<UsageOfDay>>;
}

/// Key-values. Keys are 1 to 255 bytes, values at most 1 MiB; others are [`StoreError::Invalid`].
/// Writing for an owner that does not exist is [`StoreError::Gone`]. What those of a session take, keys and values, has a quota;
/// what would pass it is [`StoreError::Full`], and what does not grow is always taken.
#[async_trait]
pub trait KeyValues {
    /// A value.
    async fn kv_get(&self, owner: &Owner, key: &str) -> Result<Option<Vec<u8>>>;
    /// Sets a value.
    async fn kv_set(&self, owner: &Owner, key: &str, value: &[u8]) -> Result<()>;
    /// Deletes a value. `false` if there was none.
    async fn kv_delete(&self, owner: &Owner, key: &str) -> Result<bool>;
    /// Keys in order, beginning with `prefix`.
    async fn kv_keys(&self, owner: &Owner, prefix: &str, page: &PageRequest) -> Result<Page<String>>;
}

/// Secrets, encrypted at rest and bound to their owner and name. No list ever returns a value.
/// Writing for an owner that does not exist is [`StoreError::Gone`]; a value is at most 64 KiB, else [`StoreError::Invalid`].
#[async_trait]
pub trait Secrets {
    /// Sets a secret.
    async fn secret_set(&self, owner: &Owner, name: &SecretName, value: &SecretString) -> Result<()>;
    /// Deletes a secret. `false` if there was none.
    async fn secret_delete(&self, owner: &Owner, name: &SecretName) -> Result<bool>;
    /// Names, in order.
    async fn secret_names(&self, owner: &Owner, page: &PageRequest) -> Result<Page<SecretName>>;
    /// The values in effect for a session (or for the whole org): a session's own shadow the org's. For injection in the
    /// host only: no API returns them.
    async fn secrets_in_effect(
        &self,
        org: &OrgName,
        session: Option<SessionId>,
    ) -> Result<Vec<(SecretName, SecretString)>>;
    /// The org's values and then the session's own, those included that are shadowed: the last of a name is in effect. A value
    /// that does not open is an error of its own, so that one damaged row does not take the others with it.
    async fn secrets_each(
        &self,
        org: &OrgName,
        session: Option<SessionId>,
    ) -> Result<Vec<(SecretName, Result<SecretString>)>> {
        let secrets = self.secrets_in_effect(org, session).await?;
        Ok(secrets.into_iter().map(|(name, value)| (name, Ok(value))).collect())
    }
    /// What tells whether [`Secrets::secrets_in_effect`] would still give the same, without a look into the database.
    /// `None`: this store can't tell without one, so nothing of it may be kept. A write that has returned is always seen.
    async fn secrets_stamp(&self, _org: &OrgName, _session: Option<SessionId>) -> Result<Option<SecretsStamp>> {
        Ok(None)
    }
}

/// The state of the secrets in effect somewhere. Equal stamps of the same org and session: nothing was changed between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretsStamp {
    /// Changes with each change of the org's own secrets.
    pub org: u64,
    /// Changes with each change of the session's own secrets, and perhaps with those of other sessions.
    pub session: u64,
    /// Whether any session of the org may have secrets of its own; without, every session has the org's in effect.
    pub sessions_have_own: bool,
}

/// Schedules, and what came of their times.
///
/// A schedule that fires is a fact like any other: its run, its next time, the session that it makes and the turn's `turn.queued` are
/// one transaction, and of several who fire it for the same time one does.
#[async_trait]
pub trait Schedules {
    /// Keeps a new schedule, or gives the one that the same idempotency key and request made within a day. [`StoreError::KeyReused`] if
    /// the request was another, [`StoreError::TooMany`] if the org has as many as `most`, [`StoreError::Gone`] if its org or session does
    /// not exist.
    async fn create_schedule(&self, schedule: &NewSchedule, most: u64) -> Result<Schedule>;
    /// What the same idempotency key and request made within a day; `None` if nothing is known of the key.
    /// [`Schedules::create_schedule`] decides, should the same request arrive meanwhile.
    async fn repeated_schedule(&self, org: &OrgName, key: &str, request: &Digest) -> Result<Option<Schedule>>;
    /// One schedule.
    async fn schedule(&self, org: &OrgName, id: ScheduleId) -> Result<Option<Schedule>>;
    /// The org's schedules, newest first.
    async fn schedules(&self, org: &OrgName, page: &PageRequest) -> Result<Page<Schedule>>;
    /// Puts a schedule in the place of itself, if it is as it was seen: of its revision. `None` if it is not, or is gone.
    async fn change_schedule(&self, schedule: &Schedule) -> Result<Option<Schedule>>;
    /// Deletes a schedule with its runs; what its turns did stays. `false` if the org has none.
    async fn delete_schedule(&self, org: &OrgName, id: ScheduleId) -> Result<bool>;
    /// What came of a schedule's times, the latest first. [`StoreError::Gone`] if the org has no such schedule.
    async fn schedule_runs(&self, org: &OrgName, id: ScheduleId, page: &PageRequest) -> Result<Page<ScheduleRun>>;
    /// Active schedules of every org in the order of their next times, from the one on that comes after `after`, at most `limit`.
    async fn schedules_planned(&self, after: Option<(Time, ScheduleId)>, limit: u32) -> Result<Vec<PlannedAt>>;
    /// Fires a schedule that is as it was seen, or passes over its time.
    async fn fire_schedule(&self, firing: &Firing) -> Result<Fired>;
    /// Plans a schedule that is as it was seen for an earlier time, unless that time was decided about already.
    async fn aim_schedule(&self, schedule: &Schedule, next: Time) -> Result<Aimed>;
}

/// Webhooks, and what each is to be told.
///
/// What is to be told is kept in the transaction of the event that tells it, for each webhook of the org that is told such events at
/// that moment. It goes with the webhook and with the session.
#[async_trait]
pub trait Webhooks {
    /// Keeps a new webhook, or gives the one that the same idempotency key and request made within a day. [`StoreError::KeyReused`] if the
    /// request was another, [`StoreError::TooMany`] if the org has as many as `most`, [`StoreError::Gone`] if there is no such org.
    async fn create_webhook(&self, webhook: &NewWebhook, most: u64) -> Result<Webhook>;
    /// What the same idempotency key and request made within a day; `None` if nothing is known of the key.
    /// [`Webhooks::create_webhook`] decides, should the same request arrive meanwhile.
    async fn repeated_webhook(&self, org: &OrgName, key: &str, request: &Digest) -> Result<Option<Webhook>>;
    /// One webhook.
    async fn webhook(&self, org: &OrgName, id: WebhookId) -> Result<Option<Webhook>>;
    /// The org's webhooks, newest first.
    async fn webhooks(&self, org: &OrgName, page: &PageRequest) -> Result<Page<Webhook>>;
    /// Puts a webhook in the place of itself, if it is as it was seen: of its revision. `None` if it is not, or is gone.
    async fn change_webhook(&self, webhook: &Webhook) -> Result<Option<Webhook>>;
    /// Deletes a webhook with its deliveries. `false` if the org has none.
    async fn delete_webhook(&self, org: &OrgName, id: WebhookId) -> Result<bool>;
    /// Active webhooks of every org for which something waits, those first that may be told soonest.
    async fn webhooks_to_tell(&self) -> Result<Vec<ToTell>>;
    /// The delivery of a webhook that is due for longest.
    async fn next_delivery(&self, id: WebhookId, until: Time) -> Result<Option<Delivery>>;
    /// Records what came of an attempt. `false` if the delivery is gone, or was settled or replayed meanwhile. Where the server of an
    /// address is gone that the webhook has no more, the delivery is due at once.
    async fn settle_delivery(&self, attempt: &Attempt) -> Result<bool>;
    /// What a webhook is told, the latest first. [`StoreError::Gone`] if the org has no such webhook.
    async fn deliveries(
        &self,
        org: &OrgName,
        id: WebhookId,
        which: Which,
        page: &PageRequest,
    ) -> Result<Page<Delivery>>;
    /// Lets one delivery be sent again, or all that are dead, and says how many. [`StoreError::Gone`] if there is no such.
    async fn replay_deliveries(&self, org: &OrgName, id: WebhookId, only: Option<DeliveryId>) -> Result<u64>;
}

/// What calls were answered from outside, so that they can be replayed; opaque here. A recording goes with its turn.
#[async_trait]
pub trait Recordings {
    /// Keeps the recording of a call of this turn of this session, in the place of an earlier one of the same call, and names it by its digest.
    /// [`StoreError::Gone`] if the org's session has no such turn.
    async fn keep_recording(
        &self,
        org: &OrgName,
        of: (SessionId, TurnId),
        call: CallId,
        content: Vec<u8>,
    ) -> Result<Digest>;
    /// The recording of a call.
    async fn recording(&self, org: &OrgName, turn: TurnId, call: CallId) -> Result<Option<Vec<u8>>>;
}

/// The ledger of the door.
#[async_trait]
pub trait Ledger {
    /// Keeps a decision. [`StoreError::Gone`] if its org or session does not exist.
    async fn ledger_open(&self, entry: &LedgerEntry) -> Result<()>;
    /// Records what came of it, once: an entry that is settled already, or gone with its session, stays as it is.
    async fn ledger_settle(&self, id: LedgerId, settlement: &Settlement) -> Result<()>;
    /// A session's decisions, oldest first.
    async fn ledger(&self, org: &OrgName, session: SessionId, page: &PageRequest) -> Result<Page<LedgerEntry>>;
}

/// What came of an egress decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// How it ended.
    pub outcome: EgressOutcome,
    /// The address connected to.
    pub address: Option<IpAddr>,
    /// Body bytes sent.
    pub bytes_sent: u64,
    /// Body bytes received.
    pub bytes_received: u64,
    /// From decision to outcome, in milliseconds.
    pub duration_ms: u64,
    /// What looked like a key, in the whole exchange.
    pub shapes: Vec<ShapeSeen>,
}
