//! How many calls of an org run at once, and how many may wait for that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For each call that runs, so many may wait.
const WAITING_PER_PLACE: usize = 4;
/// The longest that a call waits for its place.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// An org's places.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    may_wait: usize,
}

/// Holds a call's place among the org's calls until dropped.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

/// No place came free: too many wait already, or it took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

/// One that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Of an org whose calls are not counted.
    pub(super) fn unbounded() -> Self {
        Self { _permit: None }
    }
}

impl Places {
    pub(super) fn new(calls: u32) -> Self {
        let calls = (calls as usize).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(calls)),
            waiting: AtomicUsize::new(0),
            may_wait: calls.saturating_mul(WAITING_PER_PLACE),
        }
    }

    /// Takes a place, or waits for one, first come first served. Cancel-safe.
    pub(super) async fn take(&self) -> Result<Place, Crowded> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(Place { _permit: Some(permit) });
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // THREAT[T-org-flood]: what waits holds memory, so only so many wait, and not for ever.
        if before >= self.may_wait {
            return Err(Crowded);
        }
        let waited = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.free).acquire_owned()).await;
        match waited {
            Ok(Ok(permit)) => Ok(Place { _permit: Some(permit) }),
            _ => Err(Crowded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;

    #[tokio::test]
    async fn calls_beyond_the_number_at_once_wait_for_a_place() {
        let places = Places::new(1);
        let first = places.take().await.unwrap();
        let mut second = Box::pin(places.take());
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn only_so_many_wait_and_those_that_give_up_make_room() {
        let places = Places::new(1);
        let _first = places.take().await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_PER_PLACE).map(|_| Box::pin(places.take())).collect();
        for call in &mut waiting {
            assert!(poll!(call).is_pending());
        }
        assert_eq!(places.take().await.unwrap_err(), Crowded);
        waiting.pop();
        assert!(poll!(Box::pin(places.take())).is_pending());
    }
}
