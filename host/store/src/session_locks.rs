//! A lock for each session: who holds a session's keeps nobody of another session waiting, however long it takes.
//!
//! Those who wait for the same session get it in the order in which they came. There is a lock for as long as somebody holds it or
//! waits for it.

use fumehood_core::id::SessionId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OwnedMutexGuard;

/// The locks of the sessions. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct SessionLocks {
    used: Arc<Mutex<HashMap<SessionId, Used>>>,
}

/// A session's lock, held; dropping it lets the next one have it.
#[derive(Debug)]
#[must_use = "it is held as long as this is"]
pub struct SessionLock {
    // Given back before its place is.
    _held: OwnedMutexGuard<()>,
    _place: Place,
}

#[derive(Debug, Default)]
struct Used {
    lock: Arc<tokio::sync::Mutex<()>>,
    places: usize,
}

/// One who holds a lock or waits for it.
#[derive(Debug)]
struct Place {
    locks: SessionLocks,
    session: SessionId,
}

impl SessionLocks {
    /// Waits until nobody else holds the session's.
    // THREAT[T-org-starve]: each session has its own.
    pub async fn lock(&self, session: SessionId) -> SessionLock {
        let (lock, place) = self.queue(session);
        SessionLock {
            _held: lock.lock_owned().await,
            _place: place,
        }
    }

    /// The same on a thread that may block; it panics on one that runs tasks.
    pub(crate) fn lock_blocking(&self, session: SessionId) -> SessionLock {
        let (lock, place) = self.queue(session);
        SessionLock {
            _held: lock.blocking_lock_owned(),
            _place: place,
        }
    }

    fn queue(&self, session: SessionId) -> (Arc<tokio::sync::Mutex<()>>, Place) {
        let mut used = self.used();
        let queued = used.entry(session).or_default();
        queued.places += 1;
        let place = Place {
            locks: self.clone(),
            session,
        };
        (Arc::clone(&queued.lock), place)
    }

    fn used(&self) -> MutexGuard<'_, HashMap<SessionId, Used>> {
        // Every change leaves it consistent.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.locks.used();
        if let Some(used) = all.get_mut(&self.session) {
            used.places -= 1;
            if used.places == 0 {
                all.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    fn look<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_session_that_is_held_keeps_no_other_waiting() {
        let locks = SessionLocks::default();
        let mut held = Vec::new();
        for _ in 0..1000 {
            let Poll::Ready(lock) = look(pin!(locks.lock(SessionId::new()))) else {
                panic!("it waited for another session");
            };
            held.push(lock);
        }
    }

    #[tokio::test]
    async fn those_who_want_the_same_session_get_it_one_after_the_other() {
        let (locks, session) = (SessionLocks::default(), SessionId::new());
        let first = locks.lock(session).await;
        let mut second = Box::pin(locks.lock(session));
        let mut third = Box::pin(locks.lock(session));
        assert!(look(second.as_mut()).is_pending());
        assert!(look(third.as_mut()).is_pending());
        drop(first);
        assert!(look(third.as_mut()).is_pending());
        drop(second.await);
        drop(third.await);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_session_that_nobody_uses() {
        let (locks, session) = (SessionLocks::default(), SessionId::new());
        let held = locks.lock(session).await;
        let mut gives_up = Box::pin(locks.lock(session));
        assert!(look(gives_up.as_mut()).is_pending());
        drop(gives_up);
        assert!(
            look(pin!(locks.lock(session))).is_pending(),
            "who gave up let another in"
        );
        assert_eq!(locks.used().len(), 1);
        drop(held);
        assert!(locks.used().is_empty());
    }
}
