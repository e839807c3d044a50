//! How each session narrows its calls, as it is now: read once from the store, and again after a change.

use fumehood_core::{id::SessionId, name::OrgName};
use fumehood_policy::authority::SessionNarrowing;
use fumehood_store::{Store, StoreError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many sessions are kept; past that all are read anew.
const MOST: usize = 4096;

/// The narrowings in use.
pub(crate) struct Narrowings {
    store: Arc<dyn Store>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    changes: u64,
    sessions: HashMap<(OrgName, SessionId), Arc<SessionNarrowing>>,
}

impl Narrowings {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            kept: Mutex::default(),
        }
    }

    /// How the session narrows its calls; `None` if it is gone.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) async fn of(&self, org: &OrgName, id: SessionId) -> Result<Option<Arc<SessionNarrowing>>, StoreError> {
        let key = (org.clone(), id);
        let changes = {
            let kept = self.lock();
            if let Some(narrowing) = kept.sessions.get(&key) {
                return Ok(Some(Arc::clone(narrowing)));
            }
            kept.changes
        };
        let Some(session) = self.store.session(org, id).await? else {
            return Ok(None);
        };
        let narrowing = Arc::new(session.narrowing);
        let mut kept = self.lock();
        // THREAT[T-supply-revoked]: what was read before a change is not kept past it.
        if kept.changes == changes {
            if kept.sessions.len() >= MOST {
                kept.sessions.clear();
            }
            kept.sessions.insert(key, Arc::clone(&narrowing));
        }
        Ok(Some(narrowing))
    }

    /// Forgets a session that was changed or deleted.
    pub(crate) fn forget(&self, org: &OrgName, id: SessionId) {
        let mut kept = self.lock();
        kept.changes += 1;
        kept.sessions.remove(&(org.clone(), id));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
