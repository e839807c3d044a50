//! Changing the master key: every secret's own key is wrapped under a new one, then the old one is retired.
//!
//! The change is made in small transactions, and can be broken off at any point: until its end both keys open, so a host can
//! serve in between (what is set then is sealed with the old key, and changed with the rest), and running it again goes on where
//! it stopped. The values themselves are not sealed anew.
//!
//! Whoever may have the old key together with a copy of the database has the values of that time: after a theft of both, change
//! the values, not only the key. Backups from before open only with the old key.

use crate::{
    api::StoreError,
    data_dir::{DataDir, StoreUrl},
    error::OpenError,
    master::{KeySource, MasterKey, MasterKeys, VARIABLE, VARIABLE_BEFORE},
    sqlite::SqliteStore,
};
use std::path::{Path, PathBuf};

/// What is to be done.
#[derive(Debug, Clone)]
pub enum Rotation {
    /// Say what would be done, and change nothing.
    DryRun,
    /// Make a new key, or go on with the change that was broken off.
    NewKey,
    /// Change to this key.
    To(MasterKey),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The name of the key that the secrets are under now; for a dry run, would be. Absent where it isn't made yet.
    pub to: Option<String>,
    /// The names of the keys they were under, and how many each.
    pub from: Vec<(String, u64)>,
    /// How many secrets were put under the key; for a dry run, would be.
    pub rewrapped: u64,
    /// How many were under it already.
    pub unchanged: u64,
    /// Where the old key is now.
    pub retired: Retired,
}

/// Where the key is that was the first before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retired {
    /// There is none: nothing was changed.
    None,
    /// In this file, for backups.
    InFile(PathBuf),
    /// In the environment, where the operator can remove it.
    InEnvironment,
}

/// Why the key was not changed, or not completely.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The store or a key can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed in between. Running it again goes on.
    #[error("{0}; what was changed so far stays: run the same again")]
    Store(#[from] StoreError),
    /// The keys are in the environment, and there is only one.
    #[error(
        "the master key comes from {VARIABLE}, so the new one has to come from there: set {VARIABLE} to a new key \
         (`openssl rand -base64 32`) and {VARIABLE_BEFORE} to the present one, for this command and for the host, and run this again; \
         when it has succeeded, remove {VARIABLE_BEFORE}"
    )]
    NoNewKey,
    /// The key that was given is the one there is.
    #[error(
        "the key given is the present master key {key}, so nothing would change: give another one, or none to have one made"
    )]
    PresentKey {
        /// Its name.
        key: String,
    },
    /// A key was given, and another change is under way.
    #[error(
        "a change to the master key {next} was broken off: run this again without a key of your own to complete it first"
    )]
    Unfinished {
        /// The name of the key it leads to.
        next: String,
    },
    /// Some secrets open with no key there is.
    #[error(
        "{} of the secrets do not open with any key there is, so the old key was not retired; set or delete them and run this again: {}",
        reasons.len(), reasons.join("; ")
    )]
    Damaged {
        /// Which, and why.
        reasons: Vec<String>,
    },
}

/// Changes the master key. Needs the data directory for itself: no host may serve from it.
///
/// # Errors
/// See [`RotateError`]. Whatever it is, every secret that opened before opens after.
pub async fn rotate(data_dir: &Path, url: &StoreUrl, rotation: Rotation) -> Result<Rotated, RotateError> {
    let lock = DataDir::open(data_dir).await?;
    let keys = MasterKeys::from_env_or_file(lock.path())?;
    rotate_with(&lock, url, keys, rotation).await
}

async fn rotate_with(
    lock: &DataDir,
    url: &StoreUrl,
    keys: MasterKeys,
    rotation: Rotation,
) -> Result<Rotated, RotateError> {
    if matches!(rotation, Rotation::DryRun) {
        return dry_run(lock, url, &keys).await;
    }
    let old = keys.first().clone();
    let source = keys.source();
    let ring = match source {
        KeySource::Environment if keys.others().is_empty() => return Err(RotateError::NoNewKey),
        KeySource::Environment => keys,
        KeySource::Files => {
            let next = begin(lock.path(), &old, rotation)?;
            keys.led_by(next)
        }
    };
    let store = SqliteStore::open_with(lock, url, &ring).await?;
    let rotated = rewrap_all(&store, &ring).await;
    store.close().await;
    let mut rotated = rotated?;
    rotated.retired = match source {
        KeySource::Files => Retired::InFile(MasterKeys::take_next(lock.path(), &old)?),
        KeySource::Environment => Retired::InEnvironment,
    };
    Ok(rotated)
}

async fn dry_run(lock: &DataDir, url: &StoreUrl, keys: &MasterKeys) -> Result<Rotated, RotateError> {
    let to = match keys.source() {
        KeySource::Environment => Some(keys.first().fingerprint()),
        KeySource::Files => MasterKeys::next(lock.path())?.map(|key| key.fingerprint()),
    };
    let store = SqliteStore::open_with(lock, url, keys).await?;
    let from = store.secret_keys().await;
    store.close().await;
    let from = from?;
    let count = |under: bool| {
        let some = from.iter().filter(|(name, _)| (Some(name) == to.as_ref()) == under);
        some.map(|(_, count)| count).sum()
    };
    Ok(Rotated {
        rewrapped: count(false),
        unchanged: count(true),
        to,
        from,
        retired: Retired::None,
    })
}

/// The key to change to, which is another than the present one, kept before anything is sealed with it.
fn begin(data_dir: &Path, present: &MasterKey, rotation: Rotation) -> Result<MasterKey, RotateError> {
    let given = match rotation {
        Rotation::To(key) => Some(key),
        Rotation::NewKey | Rotation::DryRun => None,
    };
    let present = present.fingerprint();
    if given.as_ref().is_some_and(|given| given.fingerprint() == present) {
        return Err(RotateError::PresentKey { key: present });
    }
    let mut begun = MasterKeys::next(data_dir)?;
    if begun.as_ref().is_some_and(|next| next.fingerprint() == present) {
        // It leads nowhere, and would stand in the way of every change to come.
        MasterKeys::forget_next(data_dir)?;
        begun = None;
    }
    match (begun, given) {
        (Some(next), Some(given)) if next.fingerprint() != given.fingerprint() => Err(RotateError::Unfinished {
            next: next.fingerprint(),
        }),
        (Some(next), _) => Ok(next),
        (None, given) => {
            let random = || {
                MasterKey::random().ok_or_else(|| OpenError::Unavailable {
                    path: data_dir.into(),
                    reason: "the system gives no random bytes".into(),
                })
            };
            let next = given.map_or_else(random, Ok)?;
            MasterKeys::keep_next(data_dir, &next)?;
            Ok(next)
        }
    }
}

async fn rewrap_all(store: &SqliteStore, ring: &MasterKeys) -> Result<Rotated, RotateError> {
    let mut rotated = Rotated {
        to: Some(ring.first().fingerprint()),
        from: store.secret_keys().await?,
        rewrapped: 0,
        unchanged: 0,
        retired: Retired::None,
    };
    let (mut after, mut reasons) = (0, Vec::new());
    loop {
        let batch = store.rewrap_secrets(after).await?;
        rotated.rewrapped += batch.rewrapped;
        rotated.unchanged += batch.unchanged;
        reasons.extend(batch.failed);
        match batch.next {
            Some(next) => after = next,
            None => break,
        }
    }
    if !reasons.is_empty() {
        return Err(RotateError::Damaged { reasons });
    }
    store.note_key().await?;
    Ok(rotated)
}

#[cfg(test)]
mod tests;
