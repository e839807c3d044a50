//! How many of an org's calls or streams there are at once, and how many may wait for that.

use super::reached::Crowd;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// For each call that runs, so many may wait, and in any case as many as a few turns ask for at once.
const WAITING_PER_PLACE: usize = 4;
const WAITING: usize = 64;

/// An org's places.
#[derive(Debug)]
pub(super) struct Places {
    all: u32,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    may_wait: usize,
}

/// Holds a place among those of the org until dropped.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

/// One that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// Of an org that may have any number.
    pub(super) fn unbounded() -> Self {
        Self { _permit: None }
    }
}

impl Places {
    /// Those that have to wait for their place.
    pub(super) fn waited_for(places: u32) -> Self {
        Self::new(places, (places as usize).saturating_mul(WAITING_PER_PLACE).max(WAITING))
    }

    /// Those that are free or not.
    pub(super) fn at_once(places: u32) -> Self {
        Self::new(places, 0)
    }

    fn new(places: u32, may_wait: usize) -> Self {
        let all = places.max(1);
        Self {
            all,
            free: Arc::new(Semaphore::new((all as usize).min(Semaphore::MAX_PERMITS))),
            waiting: AtomicUsize::new(0),
            may_wait,
        }
    }

    /// How many there are.
    pub(super) const fn all(&self) -> u32 {
        self.all
    }

    /// Takes a place, or waits for one, first come first served: no longer than it is told, or for as long as it is polled.
    /// Cancel-safe.
    pub(super) async fn take(&self, longest: Option<Duration>) -> Result<Place, Crowd> {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(Place { _permit: Some(permit) });
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // THREAT[T-org-flood]: what waits holds memory, so only so many wait.
        if before >= self.may_wait {
            return Err(Crowd::NoneMayWait(self.may_wait));
        }
        let free = Arc::clone(&self.free).acquire_owned();
        let place = match longest {
            None => free.await.ok(),
            Some(longest) => tokio::time::timeout(longest, free).await.ok().and_then(Result::ok),
        };
        let permit = place.ok_or(Crowd::Waited(longest.unwrap_or_default()))?;
        Ok(Place { _permit: Some(permit) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;

    #[tokio::test]
    async fn calls_beyond_the_number_at_once_wait_for_a_place() {
        let places = Places::waited_for(1);
        let first = places.take(None).await.unwrap();
        let mut second = Box::pin(places.take(None));
        assert!(poll!(&mut second).is_pending());
        drop(first);
        assert!(poll!(&mut second).is_ready());
    }

    #[tokio::test]
    async fn only_so_many_wait_and_those_that_give_up_make_room() {
        let places = Places::waited_for(1);
        let _first = places.take(None).await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(places.take(None))).collect();
        for call in &mut waiting {
            assert!(poll!(call).is_pending());
        }
        assert_eq!(places.take(None).await.unwrap_err(), Crowd::NoneMayWait(WAITING));
        waiting.pop();
        assert!(poll!(Box::pin(places.take(None))).is_pending());
    }

    #[tokio::test]
    async fn who_waits_no_longer_than_told_is_refused_then() {
        let places = Places::waited_for(1);
        let _first = places.take(None).await.unwrap();
        let moment = Duration::from_millis(1);
        assert_eq!(places.take(Some(moment)).await.unwrap_err(), Crowd::Waited(moment));
    }

    #[tokio::test]
    async fn places_to_be_had_at_once_are_not_waited_for() {
        let places = Places::at_once(1);
        let _first = places.take(None).await.unwrap();
        assert_eq!(places.take(None).await.unwrap_err(), Crowd::NoneMayWait(0));
    }
}
