//! Which refusals a journal has been told of, so that knocking on a closed door fills no journal.

use fumehood_core::id::SessionId;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Refusals of one org that are remembered; one more than that is not told of.
const MOST: usize = 1024;

/// The refusals that an org's sessions were told of, each until when it said to wait.
#[derive(Debug, Default)]
pub(super) struct Told {
    until: Mutex<HashMap<(SessionId, &'static str), Instant>>,
}

impl Told {
    /// Whether it is to be told. It counts as told then.
    pub(super) fn is_news(&self, session: SessionId, limit: &'static str, until: Instant) -> bool {
        let now = Instant::now();
        let mut told = self.lock();
        if told.get(&(session, limit)).is_some_and(|until| *until > now) {
            return false;
        }
        if told.len() >= MOST {
            told.retain(|_, until| *until > now);
        }
        let has_room = told.len() < MOST;
        if has_room {
            told.insert((session, limit), until);
        }
        has_room
    }

    /// Takes it back: it could not be told.
    pub(super) fn forget(&self, session: SessionId, limit: &'static str) {
        self.lock().remove(&(session, limit));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(SessionId, &'static str), Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    #[test]
    fn each_session_is_told_of_each_limit_once_until_the_wait_is_over() {
        let (told, one, other) = (Told::default(), SessionId::new(), SessionId::new());
        assert!(told.is_news(one, "turns", later()));
        assert!(!told.is_news(one, "turns", later()));
        assert!(told.is_news(one, "tool_calls", later()));
        assert!(told.is_news(other, "turns", Instant::now()));
        assert!(told.is_news(other, "turns", later()), "its wait is over");
        told.forget(one, "turns");
        assert!(told.is_news(one, "turns", later()), "it could not be told");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_over_makes_room() {
        let told = Told::default();
        for _ in 0..MOST {
            assert!(told.is_news(SessionId::new(), "turns", Instant::now()));
        }
        for _ in 0..MOST {
            assert!(told.is_news(SessionId::new(), "turns", later()));
        }
        assert!(!told.is_news(SessionId::new(), "turns", later()));
        assert!(told.lock().len() <= MOST);
    }
}
