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
mod valkey;

pub use gcra::{Quota, Standing};
pub use memory::MemoryRates;
pub use places::Place;
pub use rate::{RateStore, StoreDown, Taken, Want};
pub use reached::Limited;
pub use valkey::{UrlError, ValkeyRates};

use fumehood_core::{digest::Digest, metric, name::OrgName};
use fumehood_policy::quantity::{ByteRate, Rate};
use guarded::Guard;
use places::{Crowded, Places};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Instant,
};

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

impl Default for OrgLimits {
    /// Rates are the operator's to set: which are right depends on what the machine and the model's account bear.
    fn default() -> Self {
        Self {
            concurrent_calls: Some(DEFAULT_CONCURRENT_CALLS),
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
    /// Until when an org has been told that its turns are limited.
    told: Mutex<HashMap<OrgName, Instant>>,
}

struct Org {
    tool_calls: Option<Limit>,
    egress_requests: Option<Limit>,
    egress_bytes: Option<Limit>,
    turns: Option<Limit>,
    places: Option<Places>,
    fail: FailMode,
}

/// One limit of one org.
struct Limit {
    name: &'static str,
    key: String,
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
            key: format!("{{{org}}}:{name}:{text}"),
            quota: rate.into(),
            text,
        }
    }

    fn of_component(org: &OrgName, component: Digest, rate: Rate) -> Self {
        Self {
            name: "rate.calls",
            key: format!("{{{org}}}:{component}:{rate}"),
            quota: rate.into(),
            text: rate.to_string(),
        }
    }

    fn want(&self, units: u64) -> Want<'_> {
        Want {
            key: &self.key,
            quota: self.quota,
            units,
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
            told: Mutex::default(),
        }
    }

    /// Limits that are kept elsewhere, where a check may fail.
    #[must_use]
    pub fn shared(orgs: BTreeMap<OrgName, OrgLimits>, store: Arc<dyn RateStore>) -> Self {
        Self {
            store,
            guard: Some(Guard::default()),
            ..Self::new(orgs)
        }
    }

    // THREAT[T-api-busy]: what exceeds an org's share is refused and told when to come back.
    /// Counts a turn. Says where the limit stands, if there is one and it can be known.
    ///
    /// # Errors
    /// When the org has begun as many as it may. Then nothing is counted.
    pub async fn turn(&self, org: &OrgName) -> Result<Option<Standing>, Limited> {
        let org = self.org(org);
        self.take(&org, [org.turns.as_ref().map(|limit| (limit, 1)), None])
            .await
    }

    /// Gives a turn back that was counted and then not begun.
    pub async fn give_back_turn(&self, org: &OrgName) {
        if let Some(limit) = &self.org(org).turns {
            // A store that is down counted nothing.
            let _ = self.ask(self.store.give_back(limit.want(1))).await;
        }
    }

    /// Whether the org has not been told within the wait that it was told the last time.
    pub(crate) fn is_news(&self, org: &OrgName, limited: &Limited) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(org).is_some_and(|until| *until > now) {
            return false;
        }
        told.insert(org.clone(), now + limited.retry_after());
        true
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
            // A store that is down is counted as such by the guard.
            let _ = self.ask(self.store.charge(limit.want(bytes))).await;
        }
    }

    /// Counts a call of a component.
    ///
    /// # Errors
    /// When the org, or this component in it, has made as many as it may. Then nothing is counted, of neither.
    pub async fn call(
        &self,
        org: &OrgName,
        component: Digest,
        rate: Option<Rate>,
    ) -> Result<Option<Standing>, Limited> {
        let own = rate.map(|rate| Limit::of_component(org, component, rate));
        let org = self.org(org);
        let calls = org.tool_calls.as_ref().map(|limit| (limit, 1));
        self.take(&org, [calls, own.as_ref().map(|limit| (limit, 1))]).await
    }

    /// Waits for a call's place among the org's calls. Cancel-safe. Calls that tools make don't ask: they run in the place of
    /// the call that makes them, which would else wait for itself.
    ///
    /// # Errors
    /// When too many wait already, or none came free in time.
    pub async fn place(&self, org: &OrgName) -> Result<Place, Limited> {
        let org = self.org(org);
        match &org.places {
            None => Ok(Place::unbounded()),
            Some(places) => places.take().await.map_err(|Crowded| {
                metrics::counter!(metric::LIMITS_REACHED.name, "limit" => "concurrent_calls").increment(1);
                Limited::Crowded
            }),
        }
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
    async fn take(&self, org: &Org, limits: [Option<(&Limit, u64)>; 2]) -> Result<Option<Standing>, Limited> {
        let [first, second] = match limits {
            [None, second] => [second, None],
            both => both,
        };
        let Some((first, units)) = first else { return Ok(None) };
        let taken = match second {
            None => self.ask(self.store.take(&[first.want(units)])).await,
            Some((second, more)) => self.ask(self.store.take(&[first.want(units), second.want(more)])).await,
        };
        match taken {
            Ok(Taken::All { standing }) => Ok(Some(standing)),
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

    async fn ask<T>(&self, check: impl Future<Output = Result<T, StoreDown>>) -> Result<T, StoreDown> {
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
            places: limits.concurrent_calls.map(Places::new),
            fail: limits.fail,
        }
    }
}

#[cfg(test)]
mod tests;
