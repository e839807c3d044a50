//! What an org may use per time and at once, kept in this process: generic cell rate algorithm per kind of use, and a
//! number of calls at the same time.

use fumehood_core::{
    call::{CallError, CallErrorCode},
    digest::Digest,
    name::OrgName,
};
use fumehood_policy::quantity::Rate;
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What an org may use; what is absent is not limited.
#[derive(Debug, Clone, Default)]
pub struct OrgLimits {
    /// Tool calls.
    pub tool_calls: Option<Rate>,
    /// Requests through the door, refused ones included.
    pub egress_requests: Option<Rate>,
    /// Turns.
    pub turns: Option<Rate>,
    /// Calls at the same time; more wait.
    pub concurrent_calls: Option<u32>,
}

/// Not now: the limit, and when to come back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the org's limit of {what} is reached; try again in {} ms", retry_after.as_millis())]
pub struct Limited {
    /// Which limit.
    pub what: &'static str,
    /// When one more fits.
    pub retry_after: Duration,
}

impl From<Limited> for CallError {
    fn from(limited: Limited) -> Self {
        let retry_after_ms = u64::try_from(limited.retry_after.as_millis()).ok();
        Self {
            retry_after_ms,
            ..Self::new(CallErrorCode::RateLimited, limited.to_string())
        }
    }
}

/// The limits of every org.
#[derive(Default)]
pub struct Limits {
    orgs: BTreeMap<OrgName, Org>,
    /// Per component, as its manifest and grant say. A changed rate is another limiter.
    components: Mutex<HashMap<(OrgName, Digest, Rate), Arc<DefaultDirectRateLimiter>>>,
}

struct Org {
    tool_calls: Option<DefaultDirectRateLimiter>,
    egress_requests: Option<DefaultDirectRateLimiter>,
    turns: Option<DefaultDirectRateLimiter>,
    concurrent_calls: Option<Arc<Semaphore>>,
}

/// Holds a call's place among the org's calls until dropped.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Limits {
    /// The configured limits.
    #[must_use]
    pub fn new(orgs: BTreeMap<OrgName, OrgLimits>) -> Self {
        let org = |limits: OrgLimits| Org {
            tool_calls: limits.tool_calls.and_then(limiter),
            egress_requests: limits.egress_requests.and_then(limiter),
            turns: limits.turns.and_then(limiter),
            concurrent_calls: limits
                .concurrent_calls
                .map(|calls| Arc::new(Semaphore::new(calls as usize))),
        };
        Self {
            orgs: orgs.into_iter().map(|(name, limits)| (name, org(limits))).collect(),
            components: Mutex::default(),
        }
    }

    // THREAT[T-api-busy]: what exceeds an org's share is refused and told when to come back.
    /// Counts a turn.
    ///
    /// # Errors
    /// When the org has begun as many as it may.
    pub fn turn(&self, org: &OrgName) -> Result<(), Limited> {
        check(self.orgs.get(org).and_then(|org| org.turns.as_ref()), "turns")
    }

    /// Counts a request through the door.
    ///
    /// # Errors
    /// When the org has made as many as it may.
    pub fn egress_request(&self, org: &OrgName) -> Result<(), Limited> {
        check(
            self.orgs.get(org).and_then(|org| org.egress_requests.as_ref()),
            "egress requests",
        )
    }

    /// Counts a call of a component.
    ///
    /// # Errors
    /// When the org, or this component in it, has made as many as it may.
    pub fn call(&self, org: &OrgName, component: Digest, rate: Option<Rate>) -> Result<(), Limited> {
        let limiter = self.orgs.get(org).and_then(|org| org.tool_calls.as_ref());
        check(limiter, "tool calls")?;
        match rate {
            Some(rate) => check(
                self.component(org, component, rate).as_deref(),
                "calls of this component",
            ),
            None => Ok(()),
        }
    }

    /// Waits for a call's place among the org's calls. Cancel-safe. Calls that tools make don't ask: they run in the place of
    /// the call that makes them, which would else wait for itself.
    pub async fn place(&self, org: &OrgName) -> Place {
        let places = self.orgs.get(org).and_then(|org| org.concurrent_calls.clone());
        // The semaphore is never closed, so there is always a place to wait for.
        let permit = match places {
            Some(places) => places.acquire_owned().await.ok(),
            None => None,
        };
        Place { _permit: permit }
    }

    fn component(&self, org: &OrgName, component: Digest, rate: Rate) -> Option<Arc<DefaultDirectRateLimiter>> {
        let mut components = self.components.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (org.clone(), component, rate);
        if let Some(known) = components.get(&key) {
            return Some(Arc::clone(known));
        }
        let made = Arc::new(limiter(rate)?);
        components.insert(key, Arc::clone(&made));
        Some(made)
    }
}

/// A limiter that lets a whole period's worth through at once, then one by one.
fn limiter(rate: Rate) -> Option<DefaultDirectRateLimiter> {
    let count = NonZeroU32::new(rate.count())?;
    let period = rate.per().as_duration() / rate.count();
    Some(RateLimiter::direct(Quota::with_period(period)?.allow_burst(count)))
}

fn check(limiter: Option<&DefaultDirectRateLimiter>, what: &'static str) -> Result<(), Limited> {
    let Some(limiter) = limiter else { return Ok(()) };
    limiter.check().map_err(|not_until| Limited {
        what,
        retry_after: not_until.wait_time_from(DefaultClock::default().now()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(limits: OrgLimits) -> Limits {
        Limits::new([(OrgName::default_org(), limits)].into())
    }

    #[test]
    fn what_goes_beyond_the_rate_is_told_when_to_come_back() {
        let limits = limits(OrgLimits {
            turns: Some("2/hour".parse().unwrap()),
            ..OrgLimits::default()
        });
        let org = OrgName::default_org();
        assert!(limits.turn(&org).is_ok() && limits.turn(&org).is_ok());
        let limited = limits.turn(&org).unwrap_err();
        assert!(limited.retry_after > Duration::from_secs(1700) && limited.retry_after <= Duration::from_secs(1800));
        let error = CallError::from(limited);
        assert_eq!(error.code, CallErrorCode::RateLimited);
        assert!(error.retry_after_ms.is_some());
    }

    #[test]
    fn orgs_do_not_share_a_limit() {
        let limits = limits(OrgLimits {
            turns: Some("1/hour".parse().unwrap()),
            ..OrgLimits::default()
        });
        let other = OrgName::new("acme").unwrap();
        assert!(limits.turn(&OrgName::default_org()).is_ok());
        assert!(limits.turn(&OrgName::default_org()).is_err());
        assert!(limits.turn(&other).is_ok());
    }

    #[test]
    fn a_component_keeps_to_its_own_rate() {
        let limits = Limits::default();
        let org = OrgName::default_org();
        let rate = Some("1/hour".parse().unwrap());
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        assert!(limits.call(&org, one, rate).is_ok());
        assert!(limits.call(&org, one, rate).is_err());
        assert!(limits.call(&org, other, rate).is_ok());
    }

    #[tokio::test]
    async fn calls_beyond_the_number_at_once_wait_for_a_place() {
        let limits = limits(OrgLimits {
            concurrent_calls: Some(1),
            ..OrgLimits::default()
        });
        let org = OrgName::default_org();
        let first = limits.place(&org).await;
        let mut second = Box::pin(limits.place(&org));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert!(futures::poll!(&mut second).is_ready());
    }
}
