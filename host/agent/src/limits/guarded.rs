//! Keeps a store of limits that is slow or gone from slowing everything down, and one org's load from switching the limits of the
//! others off.
//!
//! A check waits for a bounded time; one that is late is missed, but says little of the store: the host may be busy. Only a check
//! that failed, or several in a row that nobody answered for a while, begin an *outage*. During it no check is made; a ping, which
//! also runs while all is well, finds out when it is over. What began before an outage or its end says nothing of what came after.
//!
//! An outage is logged when it begins and when it ends, with how many checks were missed. What a missed check means is for the org's
//! `fail` setting.

use super::rate::{RateStore, StoreDown};
use fumehood_core::metric;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// The longest that one check is waited for. A healthy store answers in a millisecond, a busy one still well within this.
const CHECK_LIMIT: Duration = Duration::from_millis(250);
/// After so long nobody listens to the answer of a check any more.
const ABANDONED: Duration = Duration::from_secs(2);
/// Checks under way at a time; more wait, within their limit.
const UNDER_WAY: usize = 1024;
/// So many checks in a row without an answer, for so long, are an outage.
const LATE_IN_A_ROW: u32 = 3;
const LATE_FOR: Duration = Duration::from_secs(1);
/// The longest that a ping is waited for.
const PING_LIMIT: Duration = Duration::from_secs(2);
/// How long the store is left alone after a ping that failed.
const PAUSE: Duration = Duration::from_secs(1);
/// And after one that it answered.
const BETWEEN_PINGS: Duration = Duration::from_secs(4);
/// Late checks are told of once in so long.
const TELL_LATE: Duration = Duration::from_secs(60);

/// The breaker in front of a store. Its ping ends with it.
pub(super) struct Guard {
    watch: Arc<Watch>,
    under_way: Arc<Semaphore>,
    _ping: AbortOnDropHandle<()>,
}

impl Guard {
    /// Begins to watch over the store. Call it within a Tokio runtime.
    pub(super) fn new(store: Arc<dyn RateStore>) -> Self {
        let watch = Arc::<Watch>::default();
        let ping = tokio::spawn(ping(store, Arc::clone(&watch)));
        Self {
            watch,
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            _ping: AbortOnDropHandle::new(ping),
        }
    }

    /// Makes one check, unless the store is to be left alone. Cancel-safe: a check that was begun goes to its end.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        check: impl Future<Output = Result<T, StoreDown>> + Send + 'static,
    ) -> Result<T, StoreDown> {
        let era = self.watch.may_ask()?;
        match tokio::time::timeout(CHECK_LIMIT, self.answer(era, check)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.watch.late(era)),
        }
    }

    // THREAT[T-org-limit-bypass]: on a task of its own, so that whether the store answers in time does not depend on how soon the
    // one who asked gets to run.
    async fn answer<T: Send + 'static>(
        &self,
        era: Era,
        check: impl Future<Output = Result<T, StoreDown>> + Send + 'static,
    ) -> Result<T, StoreDown> {
        // Never closed.
        let place = Arc::clone(&self.under_way).acquire_owned().await.ok();
        let watch = Arc::clone(&self.watch);
        let asked = tokio::spawn(async move {
            let _place = place;
            let begun = Instant::now();
            let answer = tokio::time::timeout(ABANDONED, check).await;
            let answer = answer.unwrap_or_else(|_| Err(no_answer(ABANDONED)));
            match &answer {
                Ok(_) => watch.answered(era),
                // Later than that, it was missed as late already.
                Err(error) if begun.elapsed() < CHECK_LIMIT => watch.failed(era, error),
                Err(_) => {}
            }
            answer
        });
        let broke = |_| Err(StoreDown("a fault in the host broke the check".into()));
        asked.await.unwrap_or_else(broke)
    }
}

/// Asks the store again and again whether it is there: often in an outage, seldom else.
async fn ping(store: Arc<dyn RateStore>, watch: Arc<Watch>) {
    loop {
        let begun = (watch.era(), Instant::now());
        let answer = tokio::time::timeout(PING_LIMIT, store.ping()).await;
        let answer = answer.unwrap_or_else(|_| Err(no_answer(PING_LIMIT)));
        if watch.pinged(begun, answer) {
            let _ = tokio::time::timeout(BETWEEN_PINGS, watch.outage.notified()).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn no_answer(within: Duration) -> StoreDown {
    StoreDown(format!("no answer within {} ms", within.as_millis()))
}

/// The time between the beginning or end of an outage and the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Era(u64);

/// What is known of the store.
#[derive(Debug, Default)]
struct Watch {
    known: Mutex<Known>,
    /// Told when an outage begins.
    outage: Notify,
}

#[derive(Debug, Default)]
struct Known {
    era: Era,
    outage: Option<Outage>,
    last_answer: Option<Instant>,
    /// Checks without an answer since then.
    late: u32,
    late_since: Option<Instant>,
    told_late: Option<Instant>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    missed: u64,
}

impl Watch {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change leaves it consistent.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn era(&self) -> Era {
        self.known().era
    }

    fn may_ask(&self) -> Result<Era, StoreDown> {
        let mut known = self.known();
        match &mut known.outage {
            None => Ok(known.era),
            Some(outage) => {
                outage.missed += 1;
                metrics::counter!(metric::LIMITS_STORE_FAILURES.name).increment(1);
                Err(StoreDown(
                    "it does not answer; a ping finds out when it does again".into(),
                ))
            }
        }
    }

    fn answered(&self, era: Era) {
        let mut known = self.known();
        if known.era == era {
            known.is_there();
        }
    }

    fn failed(&self, era: Era, error: &StoreDown) {
        metrics::counter!(metric::LIMITS_STORE_FAILURES.name).increment(1);
        let mut known = self.known();
        if let Some(outage) = &mut known.outage {
            outage.missed += 1;
        } else if known.era == era {
            self.begin_outage(&mut known, 1, error);
        }
    }

    /// A check had no answer in time.
    fn late(&self, era: Era) -> StoreDown {
        metrics::counter!(metric::LIMITS_STORE_FAILURES.name).increment(1);
        let error = no_answer(CHECK_LIMIT);
        let now = Instant::now();
        let mut known = self.known();
        if let Some(outage) = &mut known.outage {
            outage.missed += 1;
        } else if known.era == era {
            known.late += 1;
            let since = *known.late_since.get_or_insert(now);
            if known.late >= LATE_IN_A_ROW && now - since >= LATE_FOR {
                let missed = known.late.into();
                self.begin_outage(&mut known, missed, &error);
            } else if known.told_late.is_none_or(|told| now - told >= TELL_LATE) {
                known.told_late = Some(now);
                tracing::warn!(
                    "the limits' store answers late: checks that wait longer than {} ms are missed, and their orgs' `fail` decides",
                    CHECK_LIMIT.as_millis()
                );
            }
        }
        error
    }

    /// Takes note of a ping that began then; whether the store is there.
    fn pinged(&self, (era, begun): (Era, Instant), answer: Result<(), StoreDown>) -> bool {
        let mut known = self.known();
        match answer {
            Ok(()) if known.era == era => {
                known.is_there();
                if let Some(outage) = known.outage.take() {
                    known.era.0 += 1;
                    tracing::info!(
                        seconds = outage.since.elapsed().as_secs(),
                        missed = outage.missed,
                        "the limits' store answers again: rates are kept again"
                    );
                }
                metrics::gauge!(metric::LIMITS_STORE_UP.name).set(1.0);
            }
            // An outage began meanwhile.
            Ok(()) => {}
            Err(_) if known.outage.is_some() => {}
            // Checks were answered while the ping waited.
            Err(_) if known.last_answer.is_some_and(|answered| answered > begun) => {}
            Err(error) => self.begin_outage(&mut known, 0, &error),
        }
        known.outage.is_none()
    }

    fn begin_outage(&self, known: &mut Known, missed: u64, error: &StoreDown) {
        known.era.0 += 1;
        known.outage = Some(Outage {
            since: Instant::now(),
            missed,
        });
        self.outage.notify_one();
        metrics::gauge!(metric::LIMITS_STORE_UP.name).set(0.0);
        tracing::warn!(
            %error,
            "the limits' store does not answer: until it does, orgs with `fail = \"open\"` are not limited by rates, and \
             those with `fail = \"closed\"` are refused; check [limits_store] and its server"
        );
    }
}

impl Known {
    fn is_there(&mut self) {
        self.last_answer = Some(Instant::now());
        self.late = 0;
        self.late_since = None;
    }
}

#[cfg(test)]
mod tests;
