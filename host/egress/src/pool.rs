//! Connections that are kept for the next request of the same org to the same host.
//!
//! A kept connection goes to an address that was checked when it was made, under the same host-wide table, and is
//! used again only within its age limit. Orgs never share one. The request itself is decided on every time, whatever
//! carries it, and no policy's request is carried to an address that this policy denies.

use crate::{
    config::EgressConfig,
    connect::{Connector, Link},
    error::EgressError,
};
use fumehood_core::name::OrgName;
use fumehood_policy::network::{Host, NetworkPolicy, Scheme, Target};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval, timeout},
};

/// How long a kept connection has to show that it is ready. It takes one turn of its driver, or never comes.
const READY_LIMIT: Duration = Duration::from_secs(1);
/// How many idle connections one org keeps to one host.
const MAX_IDLE_PER_LANE: usize = 8;

#[derive(PartialEq, Eq, Hash)]
struct Key {
    org: OrgName,
    scheme: Scheme,
    host: Host,
    port: u16,
}

/// The connections of one org to one host and port.
struct Lane {
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    link: Link,
    born: Instant,
    since: Instant,
}

pub(crate) struct Pool {
    connector: Connector,
    lanes: Mutex<HashMap<Key, Arc<Lane>>>,
    limits: Arc<Limits>,
}

struct Limits {
    per_lane: usize,
    idle: usize,
    idle_now: AtomicUsize,
    idle_time: Duration,
    age: Duration,
    wait: Duration,
}

/// A connection in use, and the slot it takes. Dropping it closes the connection.
pub(crate) struct Lease {
    pub(crate) link: Link,
    /// Whether the connection carried another exchange before.
    pub(crate) reused: bool,
    born: Instant,
    lane: Arc<Lane>,
    limits: Arc<Limits>,
    slot: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(connector: Connector, config: &EgressConfig) -> Arc<Self> {
        let pool = Arc::new(Self {
            connector,
            lanes: Mutex::default(),
            limits: Arc::new(Limits {
                per_lane: config.max_connections_per_host.clamp(1, Semaphore::MAX_PERMITS),
                idle: config.max_idle_connections,
                idle_now: AtomicUsize::new(0),
                idle_time: config.max_idle_time,
                age: config.max_connection_age,
                wait: config.connect_timeout,
            }),
        });
        tokio::spawn(keep_house(Arc::downgrade(&pool), config.max_idle_time));
        pool
    }

    pub(crate) const fn connector(&self) -> &Connector {
        &self.connector
    }

    /// A connection to the target for this org, kept or new, to an address that the policy doesn't deny. Waits for a free
    /// slot no longer than a connection may take.
    pub(crate) async fn lease(
        &self,
        org: &OrgName,
        target: &Target,
        policy: &NetworkPolicy,
    ) -> Result<Lease, EgressError> {
        let lane = self.lane(org, target);
        let slot = match timeout(self.limits.wait, lane.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            _ => {
                return Err(EgressError::Busy {
                    host: target.host().to_string(),
                });
            }
        };
        let limits = self.limits.clone();
        let may_go_to = |address| policy.check_resolved(target, address).is_ok();
        while let Some(mut idle) = lane.take_idle(&limits, may_go_to) {
            if matches!(timeout(READY_LIMIT, idle.link.sender.ready()).await, Ok(Ok(()))) {
                return Ok(Lease {
                    link: idle.link,
                    reused: true,
                    born: idle.born,
                    lane,
                    limits,
                    slot,
                });
            }
        }
        let link = self.connector.connect(target, policy).await?;
        Ok(Lease {
            link,
            reused: false,
            born: Instant::now(),
            lane,
            limits,
            slot,
        })
    }

    fn lane(&self, org: &OrgName, target: &Target) -> Arc<Lane> {
        let key = Key {
            org: org.clone(),
            scheme: target.scheme(),
            host: target.host().clone(),
            port: target.port(),
        };
        let make = || {
            Arc::new(Lane {
                slots: Arc::new(Semaphore::new(self.limits.per_lane)),
                idle: Mutex::default(),
            })
        };
        lock(&self.lanes).entry(key).or_insert_with(make).clone()
    }

    /// Drops what is too old, and the lanes nobody uses.
    fn sweep(&self) {
        lock(&self.lanes).retain(|_, lane| {
            let empty = {
                let mut idle = lock(&lane.idle);
                let before = idle.len();
                idle.retain(|idle| idle.is_usable(&self.limits));
                self.limits.idle_now.fetch_sub(before - idle.len(), Ordering::Relaxed);
                idle.is_empty()
            };
            !empty || Arc::strong_count(lane) > 1
        });
    }
}

impl Lane {
    /// The latest connection that is usable and goes to such an address; the others stay.
    // THREAT[T-net-rule-bypass]
    fn take_idle(&self, limits: &Limits, may_go_to: impl Fn(IpAddr) -> bool) -> Option<Idle> {
        let mut idle = lock(&self.idle);
        while let Some(at) = idle.iter().rposition(|idle| may_go_to(idle.link.address)) {
            let candidate = idle.remove(at);
            limits.idle_now.fetch_sub(1, Ordering::Relaxed);
            if candidate.is_usable(limits) {
                return Some(candidate);
            }
        }
        None
    }
}

impl Idle {
    fn is_usable(&self, limits: &Limits) -> bool {
        !self.link.sender.is_closed() && self.since.elapsed() < limits.idle_time && self.born.elapsed() < limits.age
    }
}

impl Lease {
    /// Gives the connection back after a complete exchange: both bodies ended.
    pub(crate) fn keep(self) {
        let Self {
            link,
            born,
            lane,
            limits,
            slot,
            ..
        } = self;
        if link.sender.is_closed() || limits.idle_now.load(Ordering::Relaxed) >= limits.idle {
            return;
        }
        {
            let mut idle = lock(&lane.idle);
            if idle.len() >= MAX_IDLE_PER_LANE {
                return;
            }
            limits.idle_now.fetch_add(1, Ordering::Relaxed);
            idle.push(Idle {
                link,
                born,
                since: Instant::now(),
            });
        }
        // Only now may the next one in line look for a connection.
        drop(slot);
    }
}

/// Closes idle connections in time. Ends with the pool.
async fn keep_house(pool: Weak<Pool>, idle_time: Duration) {
    let mut ticks = interval((idle_time / 2).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        pool.sweep();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while a lock is held, and what the locks guard is only a cache.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
