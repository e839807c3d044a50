//! What an org may use per time and at once.
//!
//! Rates are generic cell rates (`gcra`) kept behind [`RateStore`]: in this process, or in a server that several hosts share. What is
//! refused consumes nothing. How many calls run at once is kept in this process, since it is this process they would crowd.

#[cfg(test)]
mod conformance;
mod gcra;
mod guarded;
mod memory;
mod places;
mod rate;
mod reached;
mod told;
mod valkey;

pub use gcra::{Quota, Standing};
pub use memory::MemoryRates;
pub use places::Place;
pub use rate::{RateStore, StoreDown, Taken, Want};
pub use reached::{Crowd, Limited};
pub use valkey::{UrlError, ValkeyRates};

use fumehood_core::{
    digest::Digest,
    id::SessionId,
    metric,
    name::{HookName, OrgName},
};
use fumehood_policy::quantity::{ByteRate, Rate};
use guarded::Guard;
use places::Places;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};
use told::{Subject, Told};

/// What an org may use; what is absent is not limited. `Default` is what an org has for which nothing is configured.
#[derive(Debug, Clone)]
pub struct OrgLimits {
    /// Tool calls.
    pub tool_calls: Option<Rate>,
    /// Requests through the door, refused ones included.
    pub egress_requests: Option<Rate>,
    /// Bytes of the bodies of requests and answers through the door.
    pub egress_bytes: Option<ByteRate>,
    /// Turns.
    pub turns: Option<Rate>,
    /// Calls at the same time; more wait.
    pub concurrent_calls: Option<u32>,
    /// Clients that listen to events or wait for a turn at the same time.
    pub concurrent_streams: Option<u32>,
    /// Sessions that are kept.
    pub sessions: Option<u64>,
    /// What happens while the store of the rates does not answer.
    pub fail: FailMode,
}

/// What a limit does when it can't be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailMode {
    /// Lets pass.
    #[default]
    Open,
    /// Refuses.
    Closed,
}

/// What one org's calls at the same time may be unless the operator says otherwise: fewer than the sandbox runs at once, so that
/// there is always an instance for another org.
const DEFAULT_CONCURRENT_CALLS: u32 = 1000;

/// And what its clients that listen or wait may be: few enough that the host's connections are there for other orgs.
const DEFAULT_CONCURRENT_STREAMS: u32 = 1000;

/// The longest that a call waits for its place which nothing else ends.
pub const LONGEST_WAIT: Duration = Duration::from_secs(10);

impl Default for OrgLimits {
    /// Rates are the operator's to set: which are right depends on what the machine and the model's account bear.
    fn default() -> Self {
        Self {
            concurrent_calls: Some(DEFAULT_CONCURRENT_CALLS),
            concurrent_streams: Some(DEFAULT_CONCURRENT_STREAMS),
            ..Self::none()
        }
    }
}

impl OrgLimits {
    /// No limit at all.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            tool_calls: None,
            egress_requests: None,
            egress_bytes: None,
            turns: None,
            concurrent_calls: None,
            concurrent_streams: None,
            sessions: None,
            fail: FailMode::Open,
        }
    }
}

/// The limits of every org.
pub struct Limits {
    configured: BTreeMap<OrgName, OrgLimits>,
    /// Made when an org first does something. There are as many as there are orgs.
    orgs: RwLock<HashMap<OrgName, Arc<Org>>>,
    store: Arc<dyn RateStore>,
    /// Absent where the store can't fail.
    guard: Option<Guard>,
}

/// Something that was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The limit, by its key in the configuration or the manifest.
    pub limit: &'static str,
    /// Where it stands now.
    pub standing: Standing,
}

struct Org {
    tool_calls: Option<Limit>,
    egress_requests: Option<Limit>,
    egress_bytes: Option<Limit>,
    turns: Option<Limit>,
    places: Option<Places>,
    streams: Option<Places>,
    fail: FailMode,
    told: Told,
}

/// One limit of one org.
struct Limit {
    name: &'static str,
    key: Arc<str>,
    quota: Quota,
    /// As it is configured.
    text: String,
}

impl Limit {
    /// The rate is part of the key: a changed rate begins anew. The braces keep an org's keys together in a cluster.
    fn new(org: &OrgName, name: &'static str, rate: impl Into<Quota> + ToString) -> Self {
        let text = rate.to_string();
        Self {
            name,
            key: format!("{{{org}}}:{name}:{text}").into(),
            quota: rate.into(),
            text,
        }
    }

    fn of_component(org: &OrgName, component: Digest, rate: Rate) -> Self {
        Self {
            name: "rate.calls",
            key: format!("{{{org}}}:{component}:{rate}").into(),
            quota: rate.into(),
            text: rate.to_string(),
        }
    }

    fn units(&self, units: u64) -> Units {
        Units {
            key: Arc::clone(&self.key),
            quota: self.quota,
            units,
        }
    }
}

/// Some units of a limit, for a check that may outlast who asks.
struct Units {
    key: Arc<str>,
    quota: Quota,
    units: u64,
}

impl Units {
    fn want(&self) -> Want<'_> {
        Want {
            key: &self.key,
            quota: self.quota,
            units: self.units,
        }
    }
}

impl Default for Limits {
    /// The default limits for every org, kept in this process.
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

impl Limits {
    /// Limits that are kept in this process.
    #[must_use]
    pub fn new(orgs: BTreeMap<OrgName, OrgLimits>) -> Self {
        Self {
            configured: orgs,
            orgs: RwLock::default(),
            store: Arc::new(MemoryRates::default()),
            guard: None,
        }
    }

    /// Limits that are kept elsewhere, where a check may fail. Call it within a Tokio runtime.
    #[must_use]
    pub fn shared(orgs: BTreeMap<OrgName, OrgLimits>, store: Arc<dyn RateStore>) -> Self {
        Self {
            guard: Some(Guard::new(Arc::clone(&store))),
            store,
            ..Self::new(orgs)
        }
    }

    // THREAT[T-api-busy]: what exceeds an org's share is refused and told when to come back.
    /// Counts a turn. Says where the limit stands, if there is one and it can be known.
    ///
    /// # Errors
    /// When the org has begun as many as it may. Then nothing is counted.
    pub async fn turn(&self, org: &OrgName) -> Result<Option<Counted>, Limited> {
        let org = self.org(org);
        self.take(&org, [org.turns.as_ref().map(|limit| (limit, 1)), None])
            .await
    }

    /// Gives a turn back that was counted and then not begun.
    pub async fn give_back_turn(&self, org: &OrgName) {
        if let Some(limit) = &self.org(org).turns {
            let (store, turn) = (Arc::clone(&self.store), limit.units(1));
            // A store that is down counted nothing.
            let _ = self.ask(async move { store.give_back(turn.want()).await }).await;
        }
    }

    /// Whether the session is to be told of a refusal: once for as long as it said to wait. It counts as told then.
    pub(crate) fn is_news(&self, org: &OrgName, session: SessionId, limited: &Limited) -> bool {
        let until = Instant::now() + limited.retry_after();
        self.org(org)
            .told
            .is_news(session, Subject::Limit(limited.limit()), until)
    }

    /// Whether the session is to be told that a hook can't be told something. It counts as told until then.
    pub(crate) fn is_news_of_hook(&self, org: &OrgName, session: SessionId, hook: &HookName, until: Instant) -> bool {
        self.org(org).told.is_news(session, Subject::Hook(hook.clone()), until)
    }

    /// Takes it back that the session was told.
    pub(crate) fn not_told(&self, org: &OrgName, session: SessionId, limited: &Limited) {
        self.org(org).told.forget(session, Subject::Limit(limited.limit()));
    }

    /// Counts a request through the door.
    ///
    /// # Errors
    /// When the org has made as many as it may, or moved as many bytes. Then nothing is counted.
    pub async fn egress_request(&self, org: &OrgName) -> Result<(), Limited> {
        let org = self.org(org);
        let requests = org.egress_requests.as_ref().map(|limit| (limit, 1));
        // THREAT[T-org-limit-bypass]: how many bytes will pass is not known yet; who is in debt waits.
        let bytes = org.egress_bytes.as_ref().map(|limit| (limit, 1));
        self.take(&org, [requests, bytes]).await.map(|_| ())
    }

    /// Counts bytes that passed the door. They have passed, so they may put the org into debt.
    pub async fn egress_bytes(&self, org: &OrgName, bytes: u64) {
        if bytes > 0
            && let Some(limit) = &self.org(org).egress_bytes
        {
            let (store, moved) = (Arc::clone(&self.store), limit.units(bytes));
            // A store that is down is counted as such by the guard.
            let _ = self.ask(async move { store.charge(moved.want()).await }).await;
        }
    }

    /// Counts a call of a component.
    ///
    /// # Errors
    /// When the org, or this component in it, has made as many as it may. Then nothing is counted, of neither.
    pub async fn call(&self, org: &OrgName, component: Digest, rate: Option<Rate>) -> Result<Option<Counted>, Limited> {
        let own = rate.map(|rate| Limit::of_component(org, component, rate));
        let org = self.org(org);
        let calls = org.tool_calls.as_ref().map(|limit| (limit, 1));
        self.take(&org, [calls, own.as_ref().map(|limit| (limit, 1))]).await
    }

    /// Counts a question to a hook's component: against its own rate, and not as a call of the org's.
    ///
    /// # Errors
    /// When the component was asked as often as it may. Then nothing is counted.
    pub async fn hook(&self, org: &OrgName, component: Digest, rate: Option<Rate>) -> Result<(), Limited> {
        let Some(rate) = rate else { return Ok(()) };
        let own = Limit::of_component(org, component, rate);
        let org = self.org(org);
        self.take(&org, [Some((&own, 1)), None]).await.map(drop)
    }

    /// Waits for a call's place among the org's calls: at most as long as it is told, or, where something else ends the wait, for as
    /// long as that takes. Cancel-safe. Calls that tools make don't ask: they run in the place of the call that makes them, which
    /// would else wait for itself.
    ///
    /// # Errors
    /// When too many wait already, or none came free in time.
    pub async fn place(&self, org: &OrgName, longest: Option<Duration>) -> Result<Place, Limited> {
        one_of(self.org(org).places.as_ref(), "concurrent_calls", longest).await
    }

    // THREAT[T-org-connections]: who listens holds a connection of the host's for as long as it likes.
    /// A place among the org's clients that listen to events or wait for a turn.
    ///
    /// # Errors
    /// When there are as many as may.
    pub async fn stream(&self, org: &OrgName) -> Result<Place, Limited> {
        one_of(self.org(org).streams.as_ref(), "concurrent_streams", None).await
    }

    /// How many sessions the org may have. They are counted where they are kept, in the transaction that makes one.
    #[must_use]
    pub fn sessions(&self, org: &OrgName) -> u64 {
        let limits = self.configured.get(org);
        limits.and_then(|limits| limits.sessions).unwrap_or(u64::MAX)
    }

    fn org(&self, name: &OrgName) -> Arc<Org> {
        let known = self
            .orgs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned();
        known.unwrap_or_else(|| {
            let mut orgs = self.orgs.write().unwrap_or_else(PoisonError::into_inner);
            let made = || Arc::new(Org::new(name, &self.configured.get(name).cloned().unwrap_or_default()));
            Arc::clone(orgs.entry(name.clone()).or_insert_with(made))
        })
    }

    /// Takes from one or two limits, both or neither.
    async fn take(&self, org: &Org, limits: [Option<(&Limit, u64)>; 2]) -> Result<Option<Counted>, Limited> {
        let [first, second] = match limits {
            [None, second] => [second, None],
            both => both,
        };
        let Some((first, units)) = first else { return Ok(None) };
        let store = Arc::clone(&self.store);
        let units = first.units(units);
        let more = second.map(|(second, more)| second.units(more));
        let check = async move {
            match &more {
                None => store.take(&[units.want()]).await,
                Some(more) => store.take(&[units.want(), more.want()]).await,
            }
        };
        let taken = self.ask(check).await;
        match taken {
            Ok(Taken::All { standing }) => Ok(Some(Counted {
                limit: first.name,
                standing,
            })),
            Ok(Taken::Nothing {
                index,
                standing,
                retry_after,
            }) => {
                let limit = second.filter(|_| index == 1).map_or(first, |(second, _)| second);
                metrics::counter!(metric::LIMITS_REACHED.name, "limit" => limit.name).increment(1);
                Err(Limited::Rate {
                    limit: limit.name,
                    text: limit.text.clone(),
                    standing,
                    retry_after,
                })
            }
            // THREAT[T-org-limit-bypass]: the guard has counted it, and said so in the log once.
            Err(_) => match org.fail {
                FailMode::Open => Ok(None),
                FailMode::Closed => Err(Limited::Unknown { limit: first.name }),
            },
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        check: impl Future<Output = Result<T, StoreDown>> + Send + 'static,
    ) -> Result<T, StoreDown> {
        match &self.guard {
            Some(guard) => guard.ask(check).await,
            None => check.await,
        }
    }
}

impl Org {
    fn new(name: &OrgName, limits: &OrgLimits) -> Self {
        let rate = |limit, rate: Option<Rate>| rate.map(|rate| Limit::new(name, limit, rate));
        Self {
            tool_calls: rate("tool_calls", limits.tool_calls),
            egress_requests: rate("egress_requests", limits.egress_requests),
            egress_bytes: limits.egress_bytes.map(|rate| Limit::new(name, "egress_bytes", rate)),
            turns: rate("turns", limits.turns),
            places: limits.concurrent_calls.map(Places::waited_for),
            streams: limits.concurrent_streams.map(Places::at_once),
            fail: limits.fail,
            told: Told::default(),
        }
    }
}

async fn one_of(places: Option<&Places>, limit: &'static str, longest: Option<Duration>) -> Result<Place, Limited> {
    let Some(places) = places else {
        return Ok(Place::unbounded());
    };
    places.take(longest).await.map_err(|crowd| {
        metrics::counter!(metric::LIMITS_REACHED.name, "limit" => limit).increment(1);
        Limited::Crowded {
            limit,
            places: places.all(),
            crowd,
        }
    })
}

#[cfg(test)]
mod tests;
