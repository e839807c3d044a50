//! The secrets in use: their values and the leak guard made of them, kept for as long as calls and turns need them.
//!
//! One entry per org, and one per session that has secrets of its own. An entry is made at the first use, used without a look
//! into the database while the store says that nothing changed, and dropped when it was not used for a while: no value of an
//! org without activity stays in memory. Values are wiped on drop. What one org keeps, and what all do, is bounded by
//! [`Bounds`]; whoever needs an entry that is being made waits for it.
//!
//! A call or turn that began before a change of a secret goes on with what it began with.

use fumehood_core::{
    call::{CallError, CallErrorCode},
    id::SessionId,
    name::{OrgName, SecretName},
};
use fumehood_egress::LeakGuard;
use fumehood_store::{SecretsStamp, Store, StoreError};
use secrecy::{ExposeSecret as _, SecretString};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};
use tokio::sync::Mutex as AsyncMutex;

/// The secrets of an org, or of the org and one of its sessions.
#[derive(Default)]
pub(crate) struct SecretsInUse {
    /// The last of a name is in effect. `None`: its stored form doesn't open.
    values: Vec<(SecretName, Option<SecretString>)>,
    guard: LeakGuard,
}

impl SecretsInUse {
    /// Knows every value, also of the org's secrets that the session's own shadow.
    pub(crate) const fn guard(&self) -> &LeakGuard {
        &self.guard
    }

    /// The value in effect, if it is set.
    ///
    /// # Errors
    /// When it is set and its stored form doesn't open.
    pub(crate) fn value(&self, name: &SecretName) -> Result<Option<&SecretString>, CallError> {
        match self.values.iter().rfind(|(known, _)| known == name) {
            None => Ok(None),
            Some((_, Some(value))) => Ok(Some(value)),
            Some((_, None)) => {
                let message =
                    format!("the host can't read the secret {name}, which this tool uses; it has to be set again");
                Err(CallError::new(CallErrorCode::Unavailable, message))
            }
        }
    }

    async fn read(store: &dyn Store, org: &OrgName, session: Option<SessionId>) -> Result<Self, StoreError> {
        let each = store.secrets_each(org, session).await?.into_iter();
        let values: Vec<_> = each
            .map(|(name, value)| {
                let value = value.inspect_err(|error| {
                    tracing::error!(%org, secret = %name, %error, "a secret can't be read; calls that use it are refused");
                });
                (name, value.ok())
            })
            .collect();
        // THREAT[T-org-scan]: not on a thread that serves others; large values take their time.
        let making = tokio::task::spawn_blocking(move || {
            let known = values
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), value.as_ref()?)));
            let guard = LeakGuard::new(known);
            Self { values, guard }
        });
        making.await.map_err(|error| StoreError::Unavailable {
            reason: format!("the guard of the secrets could not be made: {error}"),
        })
    }

    fn size(&self) -> usize {
        let values = self.values.iter().filter_map(|(_, value)| value.as_ref());
        values.map(|value| value.expose_secret().len()).sum::<usize>() + self.guard.size() + size_of::<Self>()
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Entries of one org: its own, and its sessions'.
    pub(crate) per_org: usize,
    /// Bytes of one org's entries. More than the largest takes that there can be.
    pub(crate) org_bytes: usize,
    /// Bytes of all entries.
    pub(crate) bytes: usize,
    /// How long an entry that isn't used is kept.
    pub(crate) idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            per_org: 64,
            org_bytes: 64 << 20,
            bytes: 256 << 20,
            idle: Duration::from_secs(300),
        }
    }
}

/// Gives the secrets in use. Cheap where nothing changed.
pub(crate) struct SecretCache {
    store: Arc<dyn Store>,
    kept: Arc<Mutex<Kept>>,
}

struct Kept {
    bounds: Bounds,
    orgs: HashMap<OrgName, HashMap<Option<SessionId>, Entry>>,
    bytes: usize,
    /// Held by whoever makes an entry; the others wait and find it made.
    making: HashMap<(OrgName, Option<SessionId>), Weak<AsyncMutex<()>>>,
}

struct Entry {
    stamp: SecretsStamp,
    secrets: Arc<SecretsInUse>,
    size: usize,
    used: Instant,
}

impl SecretCache {
    /// An empty cache. Starts a small task that forgets what isn't used, and ends with the cache; call it within a Tokio
    /// runtime.
    pub(crate) fn new(store: Arc<dyn Store>, bounds: Bounds) -> Self {
        let kept = Arc::new(Mutex::new(Kept {
            bounds,
            orgs: HashMap::new(),
            bytes: 0,
            making: HashMap::new(),
        }));
        tokio::spawn(forget_unused(Arc::downgrade(&kept), bounds.idle));
        Self { store, kept }
    }

    /// The secrets in effect for a session, or for the org where there is no session.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) async fn of(&self, org: &OrgName, session: Option<SessionId>) -> Result<Arc<SecretsInUse>, StoreError> {
        let mut making = None;
        loop {
            // Taken before the values are read: a change in between shows at the next use.
            let Some(stamp) = self.store.secrets_stamp(org, session).await? else {
                return Ok(Arc::new(SecretsInUse::read(&*self.store, org, session).await?));
            };
            let (of, stamp) = if stamp.sessions_have_own {
                (session, stamp)
            } else {
                (None, SecretsStamp { session: 0, ..stamp })
            };
            if let Some(secrets) = lock(&self.kept).get(org, of, stamp) {
                return Ok(secrets);
            }
            if making.as_ref().is_some_and(|(made, _)| *made == of) {
                let secrets = Arc::new(SecretsInUse::read(&*self.store, org, of).await?);
                lock(&self.kept).put(org, of, stamp, &secrets);
                return Ok(secrets);
            }
            // THREAT[T-org-scan]: one at a time, and then looked for again.
            drop(making.take());
            let turn = lock(&self.kept).making(org, of);
            making = Some((of, turn.lock_owned().await));
        }
    }
}

impl Kept {
    fn get(&mut self, org: &OrgName, session: Option<SessionId>, stamp: SecretsStamp) -> Option<Arc<SecretsInUse>> {
        let entry = self.orgs.get_mut(org)?.get_mut(&session)?;
        // Whether other sessions have secrets changes nothing for this entry.
        if (entry.stamp.org, entry.stamp.session) != (stamp.org, stamp.session) {
            return None;
        }
        entry.used = Instant::now();
        Some(Arc::clone(&entry.secrets))
    }

    fn making(&mut self, org: &OrgName, session: Option<SessionId>) -> Arc<AsyncMutex<()>> {
        self.making.retain(|_, turn| turn.strong_count() > 0);
        let turn = self.making.entry((org.clone(), session)).or_default();
        turn.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *turn = Arc::downgrade(&new);
            new
        })
    }

    fn put(&mut self, org: &OrgName, session: Option<SessionId>, stamp: SecretsStamp, secrets: &Arc<SecretsInUse>) {
        let size = secrets.size();
        self.remove(org, session);
        let Bounds {
            per_org,
            org_bytes,
            bytes,
            ..
        } = self.bounds;
        if size > bytes.min(org_bytes) {
            return;
        }
        // An org's own entries go first, so that one with many large ones takes no room from others.
        let is_full = |entries: &HashMap<_, Entry>| {
            entries.len() >= per_org || entries.values().map(|entry| entry.size).sum::<usize>() + size > org_bytes
        };
        while self.orgs.get(org).is_some_and(is_full) {
            self.remove_oldest(Some(org));
        }
        while self.bytes + size > bytes {
            self.remove_oldest(None);
        }
        self.bytes += size;
        let entry = Entry {
            stamp,
            secrets: Arc::clone(secrets),
            size,
            used: Instant::now(),
        };
        self.orgs.entry(org.clone()).or_default().insert(session, entry);
    }

    fn remove(&mut self, org: &OrgName, session: Option<SessionId>) {
        let Some(entries) = self.orgs.get_mut(org) else { return };
        if let Some(entry) = entries.remove(&session) {
            self.bytes -= entry.size;
        }
        if entries.is_empty() {
            self.orgs.remove(org);
        }
    }

    /// Removes what was not used for longest, of one org or of all.
    fn remove_oldest(&mut self, of: Option<&OrgName>) {
        let candidates = self.orgs.iter().filter(|(org, _)| of.is_none_or(|of| of == *org));
        let oldest = candidates
            .flat_map(|(org, entries)| entries.iter().map(move |(session, entry)| (entry.used, org, *session)))
            .min_by_key(|(used, ..)| *used)
            .map(|(_, org, session)| (org.clone(), session));
        if let Some((org, session)) = oldest {
            self.remove(&org, session);
        }
    }

    fn remove_unused(&mut self) {
        let Self {
            bounds, orgs, bytes, ..
        } = self;
        orgs.retain(|_, entries| {
            entries.retain(|_, entry| {
                let keep = entry.used.elapsed() < bounds.idle;
                if !keep {
                    *bytes -= entry.size;
                }
                keep
            });
            !entries.is_empty()
        });
    }
}

async fn forget_unused(kept: Weak<Mutex<Kept>>, idle: Duration) {
    loop {
        tokio::time::sleep((idle / 4).max(Duration::from_millis(10))).await;
        let Some(kept) = kept.upgrade() else { return };
        lock(&kept).remove_unused();
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    // What it guards can be made anew at any time.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
