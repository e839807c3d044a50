//! Which refusals and failures a journal has been told of, so that what goes on and on fills no journal.

use fumehood_core::{id::SessionId, name::HookName};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// What a journal is told of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// This limit refused something.
    Limit(&'static str),
    /// This hook could not be told something.
    Hook(HookName),
}

/// What of one org is remembered; one more than that is not told of.
const MOST: usize = 1024;

/// What an org's sessions were told of, each until when they are not told of it again.
#[derive(Debug, Default)]
pub(super) struct Told {
    until: Mutex<HashMap<(SessionId, Subject), Instant>>,
}

impl Told {
    /// Whether it is to be told. It counts as told then.
    pub(super) fn is_news(&self, session: SessionId, subject: Subject, until: Instant) -> bool {
        let now = Instant::now();
        let mut told = self.lock();
        let key = (session, subject);
        if told.get(&key).is_some_and(|until| *until > now) {
            return false;
        }
        if told.len() >= MOST {
            told.retain(|_, until| *until > now);
        }
        let has_room = told.len() < MOST;
        if has_room {
            told.insert(key, until);
        }
        has_room
    }

    /// Takes it back: it could not be told.
    pub(super) fn forget(&self, session: SessionId, subject: Subject) {
        self.lock().remove(&(session, subject));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(SessionId, Subject), Instant>> {
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
        let turns = || Subject::Limit("turns");
        assert!(told.is_news(one, turns(), later()));
        assert!(!told.is_news(one, turns(), later()));
        assert!(told.is_news(one, Subject::Limit("tool_calls"), later()));
        assert!(told.is_news(other, turns(), Instant::now()));
        assert!(told.is_news(other, turns(), later()), "its wait is over");
        assert!(
            told.is_news(one, Subject::Hook("turns".parse().unwrap()), later()),
            "a hook is no limit"
        );
        told.forget(one, turns());
        assert!(told.is_news(one, turns(), later()), "it could not be told");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_over_makes_room() {
        let told = Told::default();
        for _ in 0..MOST {
            assert!(told.is_news(SessionId::new(), Subject::Limit("turns"), Instant::now()));
        }
        for _ in 0..MOST {
            assert!(told.is_news(SessionId::new(), Subject::Limit("turns"), later()));
        }
        assert!(!told.is_news(SessionId::new(), Subject::Limit("turns"), later()));
        assert!(told.lock().len() <= MOST);
    }
}
