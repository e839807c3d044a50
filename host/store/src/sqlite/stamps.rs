//! Counts the changes of secrets in memory, so that nobody has to ask the database whether there were any.
//!
//! This holds only while this process is the database's only writer. It is, when the database lies in the data directory that
//! this process has for itself; of another one nothing is told.

use crate::{api::SecretsStamp, record::Owner};
use fumehood_core::{id::SessionId, name::OrgName};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Sessions share this many counters, so that their number does not count: a change in one may look like a change in another.
const STRIPES: usize = 256;

/// Counters per org, which are as many as orgs, and for the sessions of all.
pub(super) struct Stamps {
    exclusive: bool,
    orgs: Mutex<HashMap<OrgName, Counted>>,
    sessions: Box<[AtomicU64; STRIPES]>,
    hasher: RandomState,
}

#[derive(Default)]
struct Counted {
    changes: u64,
    /// Unknown until somebody looked. It never goes back: a session that had secrets counts on.
    sessions_have_own: Option<bool>,
}

impl Stamps {
    pub(super) fn new(exclusive: bool) -> Self {
        Self {
            exclusive,
            orgs: Mutex::default(),
            sessions: Box::new([const { AtomicU64::new(0) }; STRIPES]),
            hasher: RandomState::new(),
        }
    }

    /// Whether changes by others can be ruled out.
    pub(super) const fn tells(&self) -> bool {
        self.exclusive
    }

    /// To be called around each change, before its caller hears of it.
    pub(super) fn changed(&self, owner: &Owner) {
        let mut orgs = self.orgs();
        match owner {
            Owner::Org(org) => orgs.entry(org.clone()).or_default().changes += 1,
            Owner::Session(org, session) => {
                orgs.entry(org.clone()).or_default().sessions_have_own = Some(true);
                self.stripe(*session).fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Keeps what was found in the database, unless more is known already.
    pub(super) fn learn(&self, org: &OrgName, sessions_have_own: bool) {
        let mut orgs = self.orgs();
        let known = &mut orgs.entry(org.clone()).or_default().sessions_have_own;
        *known = Some(known.unwrap_or(false) || sessions_have_own);
    }

    /// The stamp, if all that belongs to it is known.
    pub(super) fn of(&self, org: &OrgName, session: Option<SessionId>) -> Option<SecretsStamp> {
        let orgs = self.orgs();
        let counted = orgs.get(org)?;
        Some(SecretsStamp {
            org: counted.changes,
            session: session.map_or(0, |id| self.stripe(id).load(Ordering::SeqCst)),
            sessions_have_own: counted.sessions_have_own?,
        })
    }

    fn stripe(&self, session: SessionId) -> &AtomicU64 {
        let hash = self.hasher.hash_one(session.uuid());
        &self.sessions[usize::try_from(hash % STRIPES as u64).unwrap_or(0)]
    }

    fn orgs(&self) -> MutexGuard<'_, HashMap<OrgName, Counted>> {
        // Nothing panics while it is held.
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_where_it_counts_and_nowhere_else() {
        let stamps = Stamps::new(true);
        let (org, other) = (OrgName::new("acme").unwrap(), OrgName::new("rival").unwrap());
        let session = SessionId::new();
        assert!(stamps.of(&org, None).is_none(), "nobody looked yet");
        for org in [&org, &other] {
            stamps.learn(org, false);
        }
        let before = |of: &OrgName| (stamps.of(of, None), stamps.of(of, Some(session)));
        let (mine, theirs) = (before(&org), before(&other));
        stamps.changed(&Owner::Org(org.clone()));
        assert_ne!(stamps.of(&org, None), mine.0);
        assert_eq!(before(&other), theirs);
        let mine = before(&org);
        stamps.changed(&Owner::Session(org.clone(), session));
        assert_ne!(stamps.of(&org, Some(session)), mine.1);
        assert!(stamps.of(&org, None).is_some_and(|stamp| stamp.sessions_have_own));
        assert!(stamps.of(&other, None).is_some_and(|stamp| !stamp.sessions_have_own));
    }

    #[test]
    fn what_a_write_told_meanwhile_is_not_forgotten() {
        let stamps = Stamps::new(true);
        let org = OrgName::new("acme").unwrap();
        stamps.changed(&Owner::Session(org.clone(), SessionId::new()));
        stamps.learn(&org, false);
        assert!(stamps.of(&org, None).is_some_and(|stamp| stamp.sessions_have_own));
    }
}
