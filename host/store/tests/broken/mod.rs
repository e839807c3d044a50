//! A sound store with one fault.

mod fault;

pub(crate) use fault::Fault;

use async_trait::async_trait;
use fumehood_core::{
    Time,
    call::CallResult,
    digest::Digest,
    event::{Event, EventBody, NewEvent, Source},
    id::{CallId, CallbackId, DeliveryId, JobId, KeyId, LedgerId, ScheduleId, SessionId, TurnId, WebhookId},
    ledger::LedgerEntry,
    name::{AgentName, ComponentName, OrgName, SecretName},
    rewind::Rewind,
    turn::TurnStatus,
};
use fumehood_policy::{agent::AgentConfig, grant::Grant};
use fumehood_store::{
    Agents, Callbacks, Components, Jobs, Journal, KeyValues, Keys, Leases, Ledger, Orgs, Recordings, Schedules,
    Secrets, Sessions, Settlement, Spending, SqliteStore, Store, Turns, Webhooks,
    api::Result,
    callbacks::{Callback, Giving, Report, Reported},
    housekeeping::{Forgettable, Housekeeping, Idle},
    jobs::Job,
    lease::{Fence, HostId, Lease, Taken},
    record::{
        Accepted, Added, Addition, CancelAt, Component, IfBusy, Key, NewRewind, NewTurn, Org, Owner, Page, PageRequest,
        Put, Rewound, Seen, Session, SessionChange, Turn, WhichSessions,
    },
    schedules::{Aimed, Fired, Firing, NewSchedule, PlannedAt, Schedule, ScheduleRun},
    spending::{Cap, Days, Holder, Notice, Part, Reservation, Reserved, Standing, UsageOfDay},
    webhooks::{Attempt, Delivery, NewWebhook, ToTell, Webhook, Which},
};
use secrecy::SecretString;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Mutex,
    time::Duration,
};

pub(crate) struct Broken {
    sound: SqliteStore,
    fault: Fault,
    owners: Mutex<HashMap<SessionId, OrgName>>,
    values: Mutex<HashMap<(Owner, String), Vec<u8>>>,
    cancelled: Mutex<BTreeSet<TurnId>>,
    everybody: HostId,
}

impl Broken {
    pub(crate) fn new(sound: SqliteStore, fault: Fault) -> Self {
        Self {
            sound,
            fault,
            owners: Mutex::default(),
            values: Mutex::default(),
            cancelled: Mutex::default(),
            everybody: HostId::new(),
        }
    }
}

/// Passes methods on to the sound store.
macro_rules! pass {
    ($trait:ident { $(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)* }) => {
        #[async_trait]
        impl $trait for Broken {
            $(async fn $name(&self, $($arg: $type),*) -> Result<$result> { self.sound.$name($($arg),*).await })*
        }
    };
}

impl Store for Broken {}

pass!(Orgs {
    fn create_org(name: &OrgName) -> Org;
    fn org(name: &OrgName) -> Option<Org>;
    fn orgs() -> Vec<Org>;
});

pass!(Keys {
    fn create_key(key: &Key, token: &Digest) -> ();
    fn key_by_token(token: &Digest) -> Option<Key>;
    fn keys(org: &OrgName) -> Vec<Key>;
    fn revoke_key(org: &OrgName, id: KeyId) -> bool;
});

pass!(Agents {
    fn replace_agents(org: &OrgName, agents: &BTreeMap<AgentName, AgentConfig>) -> ();
    fn agents(org: &OrgName) -> BTreeMap<AgentName, AgentConfig>;
});

pass!(Components {
    fn put_component(component: &Component) -> Put;
    fn component(org: &OrgName, name: &ComponentName) -> Option<Component>;
    fn components(org: &OrgName) -> Vec<Component>;
    fn remove_component(org: &OrgName, name: &ComponentName) -> bool;
    fn set_grant(org: &OrgName, name: &ComponentName, digest: &Digest, grant: &Grant) -> bool;
});

pass!(Secrets {
    fn secret_set(owner: &Owner, name: &SecretName, value: &SecretString) -> ();
    fn secret_delete(owner: &Owner, name: &SecretName) -> bool;
    fn secret_names(owner: &Owner, page: &PageRequest) -> Page<SecretName>;
    fn secrets_in_effect(org: &OrgName, session: Option<SessionId>) -> Vec<(SecretName, SecretString)>;
});

#[async_trait]
impl Leases for Broken {
    async fn take_turn(&self, org: &OrgName, turn: TurnId, mut lease: Lease) -> Result<Option<Taken>> {
        if self.fault == Fault::TakesWhatIsHeld {
            // What a host holds already, it may take again.
            lease.host = self.everybody;
        }
        self.sound.take_turn(org, turn, lease).await
    }

    async fn renew(&self, turns: &[TurnId], lease: Lease) -> Result<()> {
        self.sound.renew(turns, lease).await
    }

    async fn let_go(&self, fence: Fence) -> Result<()> {
        self.sound.let_go(fence).await
    }

    async fn let_go_of_all(&self, host: HostId) -> Result<()> {
        self.sound.let_go_of_all(host).await
    }

    async fn turns_to_take(&self, at: Time, after: Option<TurnId>, limit: u32) -> Result<Vec<Turn>> {
        self.sound.turns_to_take(at, after, limit).await
    }
}

pass!(Ledger {
    fn ledger_open(entry: &LedgerEntry) -> ();
    fn ledger_settle(id: LedgerId, settlement: &Settlement) -> ();
    fn ledger(org: &OrgName, session: SessionId, page: &PageRequest) -> Page<LedgerEntry>;
});

pass!(Recordings {
    fn keep_recording(org: &OrgName, of: (SessionId, TurnId), call: CallId, content: Vec<u8>) -> Digest;
    fn recording(org: &OrgName, turn: TurnId, call: CallId) -> Option<Vec<u8>>;
});

pass!(Webhooks {
    fn create_webhook(webhook: &NewWebhook, most: u64) -> Webhook;
    fn repeated_webhook(org: &OrgName, key: &str, request: &Digest) -> Option<Webhook>;
    fn webhook(org: &OrgName, id: WebhookId) -> Option<Webhook>;
    fn webhooks(org: &OrgName, page: &PageRequest) -> Page<Webhook>;
    fn change_webhook(webhook: &Webhook) -> Option<Webhook>;
    fn delete_webhook(org: &OrgName, id: WebhookId) -> bool;
    fn webhooks_to_tell() -> Vec<ToTell>;
    fn next_delivery(id: WebhookId, until: Time) -> Option<Delivery>;
    fn settle_delivery(attempt: &Attempt) -> bool;
    fn deliveries(org: &OrgName, id: WebhookId, which: Which, page: &PageRequest) -> Page<Delivery>;
    fn replay_deliveries(org: &OrgName, id: WebhookId, only: Option<DeliveryId>) -> u64;
});

#[async_trait]
impl Callbacks for Broken {
    async fn callback(&self, id: CallbackId) -> Result<Option<Callback>> {
        self.sound.callback(id).await
    }

    async fn give(&self, giving: &Giving) -> Result<bool> {
        let kept = self.sound.give(giving).await?;
        Ok(kept || self.fault == Fault::TakesEveryResult)
    }

    async fn report(&self, report: &Report) -> Result<Reported> {
        self.sound.report(report).await
    }

    async fn given(&self, org: &OrgName, turn: TurnId) -> Result<Vec<(CallId, CallbackId, CallResult)>> {
        self.sound.given(org, turn).await
    }

    async fn turns_given(&self, after: Option<TurnId>, limit: u32) -> Result<Vec<Turn>> {
        self.sound.turns_given(after, limit).await
    }
}

#[async_trait]
impl Jobs for Broken {
    async fn queue_job(
        &self,
        org: &OrgName,
        session: SessionId,
        fence: Fence,
        most: u64,
        events: &[NewEvent],
    ) -> Result<Option<Vec<Event>>> {
        self.sound.queue_job(org, session, fence, most, events).await
    }

    async fn take_job(&self, per_org: u32) -> Result<Option<Job>> {
        self.sound.take_job(per_org).await
    }

    async fn append_to_job(&self, job: JobId, attempt: u32, events: &[NewEvent]) -> Result<Vec<Event>> {
        self.sound.append_to_job(job, attempt, events).await
    }

    async fn jobs_to_end(&self, limit: u32) -> Result<Vec<Job>> {
        self.sound.jobs_to_end(limit).await
    }

    async fn end_job(&self, job: JobId, end: &NewEvent) -> Result<Option<Vec<Event>>> {
        if self.fault == Fault::EndsWhatRuns
            && let Ok(ended) = self.sound.append_to_job(job, 1, std::slice::from_ref(end)).await
        {
            return Ok(Some(ended));
        }
        self.sound.end_job(job, end).await
    }

    async fn stop_job(&self, org: &OrgName, job: JobId) -> Result<Option<Job>> {
        self.sound.stop_job(org, job).await
    }

    async fn job(&self, org: &OrgName, id: JobId) -> Result<Option<Job>> {
        self.sound.job(org, id).await
    }

    async fn job_log(&self, org: &OrgName, id: JobId) -> Result<Option<String>> {
        self.sound.job_log(org, id).await
    }

    async fn jobs(&self, org: &OrgName, session: SessionId, page: &PageRequest) -> Result<Page<Job>> {
        self.sound.jobs(org, session, page).await
    }

    async fn jobs_untold(&self, org: &OrgName, session: SessionId, limit: u32) -> Result<Vec<Job>> {
        self.sound.jobs_untold(org, session, limit).await
    }
}

#[async_trait]
impl Schedules for Broken {
    async fn create_schedule(&self, schedule: &NewSchedule, most: u64) -> Result<Schedule> {
        self.sound.create_schedule(schedule, most).await
    }

    async fn repeated_schedule(&self, org: &OrgName, key: &str, request: &Digest) -> Result<Option<Schedule>> {
        self.sound.repeated_schedule(org, key, request).await
    }

    async fn schedule(&self, org: &OrgName, id: ScheduleId) -> Result<Option<Schedule>> {
        self.sound.schedule(org, id).await
    }

    async fn schedules(&self, org: &OrgName, page: &PageRequest) -> Result<Page<Schedule>> {
        self.sound.schedules(org, page).await
    }

    async fn change_schedule(&self, schedule: &Schedule) -> Result<Option<Schedule>> {
        self.sound.change_schedule(schedule).await
    }

    async fn delete_schedule(&self, org: &OrgName, id: ScheduleId) -> Result<bool> {
        self.sound.delete_schedule(org, id).await
    }

    async fn schedule_runs(&self, org: &OrgName, id: ScheduleId, page: &PageRequest) -> Result<Page<ScheduleRun>> {
        self.sound.schedule_runs(org, id, page).await
    }

    async fn schedules_planned(&self, after: Option<(Time, ScheduleId)>, limit: u32) -> Result<Vec<PlannedAt>> {
        self.sound.schedules_planned(after, limit).await
    }

    async fn fire_schedule(&self, firing: &Firing) -> Result<Fired> {
        if self.fault == Fault::ForgetsThatItFired {
            let fired = self.sound.fire_schedule(firing).await?;
            let kept = self.sound.schedule(&firing.schedule.org, firing.schedule.id).await?;
            if let Some(mut kept) = kept {
                kept.state = firing.schedule.state;
                self.sound.change_schedule(&kept).await?;
            }
            return Ok(fired);
        }
        if self.fault != Fault::FiresForEverybody {
            return self.sound.fire_schedule(firing).await;
        }
        loop {
            let (org, id) = (&firing.schedule.org, firing.schedule.id);
            let mut firing = firing.clone();
            let Some(schedule) = self.sound.schedule(org, id).await? else {
                return Ok(Fired::Stale);
            };
            firing.schedule = schedule;
            if let Some((due, _)) = &mut firing.fire {
                *due += Duration::from_nanos(firing.schedule.revision);
            }
            let fired = self.sound.fire_schedule(&firing).await?;
            if fired != Fired::Stale {
                return Ok(fired);
            }
        }
    }

    async fn aim_schedule(&self, schedule: &Schedule, next: Time) -> Result<Aimed> {
        self.sound.aim_schedule(schedule, next).await
    }
}

#[async_trait]
impl Spending for Broken {
    async fn reserve(&self, org: &OrgName, caps: &[Cap], mut wish: Reservation) -> Result<Reserved> {
        if self.fault == Fault::HoldsNothing {
            // Lapsed before anybody could see it.
            wish.until = Time::UNIX_EPOCH;
        }
        self.sound.reserve(org, caps, wish).await
    }

    async fn release(&self, holder: Holder) -> Result<()> {
        self.sound.release(holder).await
    }

    async fn standings_for(&self, org: &OrgName, caps: &[Cap], wish: Reservation) -> Result<Vec<Standing>> {
        self.sound.standings_for(org, caps, wish).await
    }

    async fn standings(&self, org: &OrgName, session: SessionId, caps: &[Cap]) -> Result<Vec<Standing>> {
        let mut standings = self.sound.standings(org, session, caps).await?;
        if self.fault == Fault::CountsNoWork {
            let of_work = |cap: &Cap| matches!(cap.part, Part::ToolCalls | Part::Steps | Part::Time);
            let work = caps.iter().zip(&mut standings).filter(|(cap, _)| of_work(cap));
            work.for_each(|(_, standing)| standing.used = 0);
        }
        Ok(standings)
    }

    async fn tell_once(&self, org: &OrgName, notice: Notice) -> Result<bool> {
        self.sound.tell_once(org, notice).await
    }

    async fn usage(&self, org: &OrgName, days: Days, page: &PageRequest) -> Result<Page<UsageOfDay>> {
        self.sound.usage(org, days, page).await
    }
}

#[async_trait]
impl Sessions for Broken {
    async fn create_session_within(&self, session: &Session, most: u64, events: &[NewEvent]) -> Result<Vec<Event>> {
        self.owners.lock().unwrap().insert(session.id, session.org.clone());
        let most = match self.fault {
            Fault::CountsNoSessions => u64::MAX,
            _ => most,
        };
        self.sound.create_session_within(session, most, events).await
    }

    async fn session(&self, org: &OrgName, id: SessionId) -> Result<Option<Session>> {
        let owner = self.owners.lock().unwrap().get(&id).cloned();
        match (self.fault, owner) {
            (Fault::LeaksSessions, Some(owner)) => self.sound.session(&owner, id).await,
            _ => self.sound.session(org, id).await,
        }
    }

    async fn sessions(&self, org: &OrgName, which: WhichSessions, page: &PageRequest) -> Result<Page<Session>> {
        self.sound.sessions(org, which, page).await
    }

    async fn update_session(
        &self,
        org: &OrgName,
        id: SessionId,
        change: &SessionChange,
        events: &[NewEvent],
    ) -> Result<Option<(Session, Vec<Event>)>> {
        self.sound.update_session(org, id, change, events).await
    }

    async fn touch_session(&self, org: &OrgName, id: SessionId) -> Result<bool> {
        self.sound.touch_session(org, id).await
    }

    async fn delete_session(&self, org: &OrgName, id: SessionId) -> Result<bool> {
        if self.fault == Fault::ForgetsDeletions {
            return Ok(self.sound.session(org, id).await?.is_some());
        }
        self.sound.delete_session(org, id).await
    }
}

#[async_trait]
impl Turns for Broken {
    async fn accept_turn(&self, org: &OrgName, session: SessionId, turn: &NewTurn) -> Result<Option<Accepted>> {
        let mut turn = turn.clone();
        if self.fault == Fault::IgnoresIdempotency {
            turn.idempotency = None;
        }
        if self.fault == Fault::ForgetsWhoMayWait {
            turn.if_busy = IfBusy::Refuse;
        }
        if self.fault == Fault::EndsBeforeLooking
            && let Some(ending) = turn.ends.take()
        {
            self.sound
                .append_after(org, session, ending.seen, &ending.events)
                .await?;
        }
        self.sound.accept_turn(org, session, &turn).await
    }

    async fn add_to_turn(&self, org: &OrgName, session: SessionId, addition: &Addition) -> Result<Added> {
        self.sound.add_to_turn(org, session, addition).await
    }

    async fn next_turn(&self, org: &OrgName, session: SessionId) -> Result<Option<Turn>> {
        self.sound.next_turn(org, session).await
    }

    async fn repeated_turn(
        &self,
        org: &OrgName,
        session: SessionId,
        key: &str,
        request: &Digest,
    ) -> Result<Option<Accepted>> {
        if self.fault == Fault::IgnoresIdempotency {
            return Ok(None);
        }
        self.sound.repeated_turn(org, session, key, request).await
    }

    async fn turn(&self, org: &OrgName, id: TurnId) -> Result<Option<Turn>> {
        self.sound.turn(org, id).await
    }

    async fn turns(&self, org: &OrgName, session: SessionId) -> Result<Vec<Turn>> {
        self.sound.turns(org, session).await
    }

    async fn keep_cancel(&self, org: &OrgName, id: TurnId, at: CancelAt) -> Result<bool> {
        if self.fault == Fault::ForgetsCancels {
            return Ok(self.sound.turn(org, id).await?.is_some());
        }
        if self.fault == Fault::UsesWhatGoes && self.cancelled.lock().unwrap().contains(&id) {
            return Ok(true);
        }
        self.cancelled.lock().unwrap().insert(id);
        self.sound.keep_cancel(org, id, at).await
    }

    async fn turns_to_cancel(&self, after: Option<TurnId>, limit: u32) -> Result<Vec<(Turn, CancelAt)>> {
        self.sound.turns_to_cancel(after, limit).await
    }

    async fn turns_in(&self, states: &[TurnStatus]) -> Result<Vec<Turn>> {
        self.sound.turns_in(states).await
    }

    async fn rewind(&self, org: &OrgName, session: SessionId, rewind: &NewRewind) -> Result<Option<Rewound>> {
        if self.fault == Fault::RewindsWhatChanged {
            let rewind = rewind.clone();
            let event = NewEvent {
                turn: None,
                source: Source::Client,
                body: EventBody::SessionRewound {
                    after: rewind.after,
                    turns: rewind.turns,
                    files: rewind.files,
                    outside: rewind.outside,
                    outside_more: rewind.outside_more,
                },
            };
            let mut events = self.sound.append(org, session, &[event]).await?;
            return Ok(events.pop().map(Rewound::Done));
        }
        self.sound.rewind(org, session, rewind).await
    }

    async fn turns_waiting(&self, after: Option<(Time, TurnId)>, limit: u32) -> Result<Vec<(Turn, Time)>> {
        self.sound.turns_waiting(after, limit).await
    }
}

#[async_trait]
impl Journal for Broken {
    async fn append(&self, org: &OrgName, session: SessionId, events: &[NewEvent]) -> Result<Vec<Event>> {
        if self.fault == Fault::SplitsAppends {
            let mut all = Vec::new();
            for event in events {
                all.extend(self.sound.append(org, session, std::slice::from_ref(event)).await?);
            }
            return Ok(all);
        }
        match (self.fault, events) {
            (Fault::LosesTheLastEvent, [kept @ .., last]) if !kept.is_empty() => {
                let mut told = self.sound.append(org, session, kept).await?;
                let mut lost = told[0].clone();
                lost.body = last.body.clone();
                lost.seq = told.last().and_then(|event| event.seq).map(|seq| seq + 1);
                told.push(lost);
                return Ok(told);
            }
            (Fault::DoublesAnEvent, [first, _, ..]) => {
                let doubled = [events, std::slice::from_ref(first)].concat();
                let mut told = self.sound.append(org, session, &doubled).await?;
                told.truncate(events.len());
                return Ok(told);
            }
            _ => {}
        }
        let mut events = self.sound.append(org, session, events).await?;
        if self.fault == Fault::ReusesPlaces {
            let first = events.first().and_then(|event| event.seq);
            for event in &mut events {
                event.seq = first;
            }
        }
        Ok(events)
    }

    async fn append_held(
        &self,
        org: &OrgName,
        session: SessionId,
        fence: Fence,
        events: &[NewEvent],
    ) -> Result<Vec<Event>> {
        if self.fault == Fault::ForgetsWhoHolds {
            return self.sound.append(org, session, events).await;
        }
        self.sound.append_held(org, session, fence, events).await
    }

    async fn append_after(
        &self,
        org: &OrgName,
        session: SessionId,
        seen: Seen,
        events: &[NewEvent],
    ) -> Result<Option<Vec<Event>>> {
        if self.fault == Fault::ForgetsWhatWasSeen {
            return self.sound.append(org, session, events).await.map(Some);
        }
        self.sound.append_after(org, session, seen, events).await
    }

    async fn events(&self, org: &OrgName, session: SessionId, after: u64, limit: u32) -> Result<Vec<Event>> {
        let mut events = self.sound.events(org, session, after, limit).await?;
        while self.fault == Fault::ReadsWithoutBound && !events.is_empty() && events.len() < limit as usize {
            let last = events.last().and_then(|event| event.seq).unwrap();
            let left = limit - u32::try_from(events.len()).unwrap();
            let more = self.sound.events(org, session, last, left).await?;
            if more.is_empty() {
                break;
            }
            events.extend(more);
        }
        if self.fault == Fault::ReordersEvents {
            events.reverse();
        }
        Ok(events)
    }

    async fn last_seq(&self, org: &OrgName, session: SessionId) -> Result<Option<u64>> {
        self.sound.last_seq(org, session).await
    }

    async fn rewinds(&self, org: &OrgName, session: SessionId) -> Result<Vec<Rewind>> {
        self.sound.rewinds(org, session).await
    }

    async fn turn_events(&self, org: &OrgName, turn: TurnId) -> Result<Vec<Event>> {
        self.sound.turn_events(org, turn).await
    }
}

#[async_trait]
impl KeyValues for Broken {
    async fn kv_get(&self, owner: &Owner, key: &str) -> Result<Option<Vec<u8>>> {
        if self.fault == Fault::LosesKeyValues {
            return Ok(self
                .values
                .lock()
                .unwrap()
                .get(&(owner.clone(), key.to_owned()))
                .cloned());
        }
        self.sound.kv_get(owner, key).await
    }

    async fn kv_set(&self, owner: &Owner, key: &str, value: &[u8]) -> Result<()> {
        if self.fault == Fault::LosesKeyValues {
            self.values
                .lock()
                .unwrap()
                .insert((owner.clone(), key.to_owned()), value.to_vec());
            return Ok(());
        }
        self.sound.kv_set(owner, key, value).await
    }

    async fn kv_delete(&self, owner: &Owner, key: &str) -> Result<bool> {
        if self.fault == Fault::LosesKeyValues {
            return Ok(self
                .values
                .lock()
                .unwrap()
                .remove(&(owner.clone(), key.to_owned()))
                .is_some());
        }
        self.sound.kv_delete(owner, key).await
    }

    async fn kv_keys(&self, owner: &Owner, prefix: &str, page: &PageRequest) -> Result<Page<String>> {
        self.sound.kv_keys(owner, prefix, page).await
    }
}

#[async_trait]
impl Housekeeping for Broken {
    async fn housekeeping_clock(&self) -> Result<Option<Time>> {
        self.sound.housekeeping_clock().await
    }

    async fn set_housekeeping_clock(&self, time: Time) -> Result<()> {
        self.sound.set_housekeeping_clock(time).await
    }

    async fn idle_sessions(
        &self,
        org: &OrgName,
        idle: Idle,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>> {
        self.sound.idle_sessions(org, idle, after, limit).await
    }

    async fn delete_idle_session(&self, org: &OrgName, id: SessionId, idle: Idle) -> Result<bool> {
        match self.fault {
            Fault::DeletesWhatIsHeld => self.sound.delete_session(org, id).await,
            _ => self.sound.delete_idle_session(org, id, idle).await,
        }
    }

    async fn forget(&self, org: &OrgName, what: Forgettable, before: Time, limit: u32) -> Result<u64> {
        self.sound.forget(org, what, before, limit).await
    }

    async fn end_deletions(&self) -> Result<u64> {
        if self.fault == Fault::EndsNoDeletion {
            return Ok(0);
        }
        self.sound.end_deletions().await
    }

    async fn code_in_use(&self) -> Result<BTreeSet<Digest>> {
        self.sound.code_in_use().await
    }
}
