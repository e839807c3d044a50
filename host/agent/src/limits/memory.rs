//! Rates kept in this process.

use super::{
    gcra::Bucket,
    rate::{RateStore, StoreDown, Taken, Want},
};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Drained limits are looked for when there are twice as many as were left the last time, and at least this many.
const SWEEP_AT: usize = 1024;

/// Keeps rates in memory: a restart forgets them, and another process does not know them.
#[derive(Debug)]
pub struct MemoryRates {
    started: Instant,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    buckets: HashMap<Box<str>, Bucket>,
    sweep_at: usize,
}

impl Default for MemoryRates {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            kept: Mutex::new(Kept {
                buckets: HashMap::new(),
                sweep_at: SWEEP_AT,
            }),
        }
    }
}

impl MemoryRates {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Every change leaves it consistent.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn backlog_ns(&self, key: &str, now_ns: u64) -> u64 {
        self.buckets.get(key).map_or(0, |bucket| bucket.backlog_ns(now_ns))
    }

    fn set(&mut self, key: &str, backlog_ns: u64, now_ns: u64) {
        let bucket = Bucket::new(backlog_ns, now_ns);
        if let Some(known) = self.buckets.get_mut(key) {
            *known = bucket;
            return;
        }
        if self.buckets.len() >= self.sweep_at {
            self.buckets.retain(|_, bucket| bucket.backlog_ns(now_ns) > 0);
            self.sweep_at = SWEEP_AT.max(self.buckets.len() * 2);
        }
        self.buckets.insert(key.into(), bucket);
    }
}

#[async_trait]
impl RateStore for MemoryRates {
    async fn take(&self, wants: &[Want<'_>]) -> Result<Taken, StoreDown> {
        let now = self.now_ns();
        let mut kept = self.kept();
        let mut refused: Option<(Duration, usize, u64)> = None;
        for (index, want) in wants.iter().enumerate() {
            let backlog = kept.backlog_ns(want.key, now);
            let wait = want.quota.wait(backlog, want.quota.take_ns(want.units));
            if wait > refused.map_or(Duration::ZERO, |(longest, ..)| longest) {
                refused = Some((wait, index, backlog));
            }
        }
        if let Some((retry_after, index, backlog)) = refused
            && let Some(want) = wants.get(index)
        {
            return Ok(Taken::Nothing {
                index,
                standing: want.quota.standing(backlog),
                retry_after,
            });
        }
        for want in wants {
            let backlog = kept.backlog_ns(want.key, now);
            kept.set(want.key, backlog.saturating_add(want.quota.take_ns(want.units)), now);
        }
        let first = wants.first().ok_or_else(|| StoreDown("nothing was wanted".into()))?;
        Ok(Taken::All {
            standing: first.quota.standing(kept.backlog_ns(first.key, now)),
        })
    }

    async fn charge(&self, want: Want<'_>) -> Result<(), StoreDown> {
        let now = self.now_ns();
        let mut kept = self.kept();
        let backlog = kept.backlog_ns(want.key, now);
        kept.set(want.key, backlog.saturating_add(want.quota.cost_ns(want.units)), now);
        Ok(())
    }

    async fn give_back(&self, want: Want<'_>) -> Result<(), StoreDown> {
        let now = self.now_ns();
        let mut kept = self.kept();
        let backlog = kept.backlog_ns(want.key, now);
        kept.set(want.key, backlog.saturating_sub(want.quota.cost_ns(want.units)), now);
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreDown> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::gcra::Quota;
    use fumehood_policy::quantity::{Rate, Span};

    #[tokio::test]
    async fn what_has_drained_is_forgotten() {
        let rates = MemoryRates::default();
        let quota = Quota::from(Rate::new(1_000_000, Span::from_millis(1)).unwrap());
        for number in 0..SWEEP_AT * 4 {
            let key = format!("k{number}");
            let want = Want {
                key: &key,
                quota,
                units: 1,
            };
            rates.take(&[want]).await.unwrap();
        }
        assert!(rates.kept().buckets.len() <= SWEEP_AT * 2);
    }
}
