//! Keeps a store of limits that is slow or gone from slowing everything down: each check has a bounded time, and after a failure
//! the store is left alone for a pause, but for one check that tries whether it is back.
//!
//! An outage is logged when it begins and when it ends, with how many checks were missed. What a missed check means is for the org's
//! `fail` setting.

use super::rate::StoreDown;
use fumehood_core::metric;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The longest that one check waits. A healthy store answers in a millisecond.
const CHECK_LIMIT: Duration = Duration::from_millis(50);
/// How long a store that failed is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether the store answers.
#[derive(Debug, Clone, Copy)]
enum Health {
    Up,
    Down {
        since: Instant,
        next_try: Instant,
        missed: u64,
    },
}

/// The breaker in front of a store.
#[derive(Debug)]
pub(super) struct Guard {
    health: Mutex<Health>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            health: Mutex::new(Health::Up),
        }
    }
}

impl Guard {
    /// Makes one check, unless the store is to be left alone. Cancel-safe: a dropped check says nothing about the store.
    pub(super) async fn ask<T>(&self, check: impl Future<Output = Result<T, StoreDown>>) -> Result<T, StoreDown> {
        self.may_ask()?;
        let answer = tokio::time::timeout(CHECK_LIMIT, check)
            .await
            .unwrap_or_else(|_| Err(StoreDown(format!("no answer within {} ms", CHECK_LIMIT.as_millis()))));
        match &answer {
            Ok(_) => self.answered(),
            Err(error) => self.failed(error),
        }
        answer
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_ask(&self) -> Result<(), StoreDown> {
        let mut health = self.health();
        if let Health::Down { next_try, missed, .. } = &mut *health {
            let now = Instant::now();
            if now < *next_try {
                *missed += 1;
                metrics::counter!(metric::LIMITS_STORE_FAILURES.name).increment(1);
                return Err(StoreDown("it failed a moment ago".into()));
            }
            // This one tries; others wait for what it finds.
            *next_try = now + PAUSE;
        }
        Ok(())
    }

    fn answered(&self) {
        let mut health = self.health();
        if let Health::Down { since, missed, .. } = *health {
            *health = Health::Up;
            drop(health);
            metrics::gauge!(metric::LIMITS_STORE_UP.name).set(1.0);
            tracing::info!(
                seconds = since.elapsed().as_secs(),
                missed,
                "the limits' store answers again: rates are kept again"
            );
        }
    }

    fn failed(&self, error: &StoreDown) {
        metrics::counter!(metric::LIMITS_STORE_FAILURES.name).increment(1);
        let now = Instant::now();
        let mut health = self.health();
        match &mut *health {
            Health::Down { next_try, missed, .. } => {
                *missed += 1;
                *next_try = now + PAUSE;
            }
            Health::Up => {
                *health = Health::Down {
                    since: now,
                    next_try: now + PAUSE,
                    missed: 1,
                };
                drop(health);
                metrics::gauge!(metric::LIMITS_STORE_UP.name).set(0.0);
                tracing::warn!(
                    %error,
                    "the limits' store does not answer: until it does, orgs with `fail = \"open\"` are not limited by rates, and \
                     those with `fail = \"closed\"` are refused; check [limits_store] and its server"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn fails(asked: &AtomicU32) -> Result<(), StoreDown> {
        asked.fetch_add(1, Ordering::Relaxed);
        Err(StoreDown("gone".into()))
    }

    #[tokio::test]
    async fn a_store_that_failed_is_left_alone() {
        let guard = Guard::default();
        let asked = AtomicU32::new(0);
        for _ in 0..100 {
            assert!(guard.ask(fails(&asked)).await.is_err());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_store_that_hangs_costs_one_check_its_limit_and_the_others_nothing() {
        let guard = Guard::default();
        let hang = || std::future::pending::<Result<(), StoreDown>>();
        let error = guard.ask(hang()).await.unwrap_err();
        assert!(error.to_string().contains("50 ms"), "{error}");
        // Would never end if it were asked and had no limit; it is not asked at all.
        assert!(futures::poll!(Box::pin(guard.ask(hang()))).is_ready());
    }

    #[tokio::test]
    async fn after_the_pause_one_check_finds_out() {
        let guard = Guard::default();
        let asked = AtomicU32::new(0);
        assert!(guard.ask(fails(&asked)).await.is_err());
        if let Health::Down { next_try, .. } = &mut *guard.health() {
            *next_try = Instant::now();
        }
        let trying = Box::pin(guard.ask(std::future::pending::<Result<(), StoreDown>>()));
        let mut trying = trying;
        assert!(futures::poll!(&mut trying).is_pending());
        assert!(guard.ask(fails(&asked)).await.is_err());
        assert_eq!(
            asked.load(Ordering::Relaxed),
            1,
            "another check was made beside the one that tries"
        );
    }

    #[tokio::test]
    async fn an_answer_ends_the_outage() {
        let guard = Guard::default();
        assert!(guard.ask(fails(&AtomicU32::new(0))).await.is_err());
        if let Health::Down { next_try, .. } = &mut *guard.health() {
            *next_try = Instant::now();
        }
        assert!(guard.ask(async { Ok(()) }).await.is_ok());
        assert!(matches!(*guard.health(), Health::Up));
    }
}
