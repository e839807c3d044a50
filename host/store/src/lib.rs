//! What is kept: orgs, keys, agents, components, grants, sessions, turns, the journal, spending, key-values, secrets
//! and the ledger behind the [`Store`] traits; workspace files and component code as files beside it.
//!
//! Every operation is scoped by org: an id that exists in another org reads as absent.
//! Every write is durable when its future resolves, or has not happened. Dropping a future before it
//! resolves leaves either the whole write or none of it.
#![forbid(unsafe_code)]

pub mod api;
pub mod backup;
pub mod blobs;
pub mod callbacks;
#[cfg(feature = "conformance")]
pub mod conformance;
mod data_dir;
pub mod deletion;
mod disk;
mod envelope;
mod error;
pub mod examine;
pub mod faults;
pub mod housekeeping;
pub mod jobs;
pub mod lease;
mod lock;
mod master;
mod quotas;
pub mod record;
pub mod rotation;
pub mod schedules;
mod session_locks;
pub mod spending;
pub mod sqlite;
mod telemetry;
pub mod webhooks;
pub mod workspace;

pub use api::{
    Agents, Callbacks, Components, EVENTS_BYTES, Jobs, Journal, KeyValues, Keys, Leases, Ledger, Orgs, Recordings,
    Schedules, Secrets, SecretsStamp, Sessions, Settlement, Spending, Store, StoreError, Turns, Webhooks,
};
pub use blobs::{BlobError, Blobs};
pub use data_dir::{DataDir, StoreUrl};
pub use error::{OpenError, Place};
pub use housekeeping::Housekeeping;
pub use master::{MASTER_KEY_VARIABLES, MasterKey, MasterKeys};
pub use quotas::{KvQuota, Quotas};
pub use session_locks::{SessionLock, SessionLocks};
pub use sqlite::{SqliteStore, check::Problem, empty::EmptyDatabase, open::Schema};
pub use workspace::{WorkspaceError, WorkspacePath, Workspaces};

use deletion::Left;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Everything that is kept, opened for this process alone.
pub struct Opened {
    /// The database.
    pub store: Arc<dyn Store>,
    /// The sessions' files.
    pub workspaces: Workspaces,
    /// The components' code.
    pub blobs: Blobs,
    /// The key that protects what is secret in all of it.
    pub master: MasterKey,
    /// The exclusive use of the data directory. It ends when this, the store and every clone of them are gone.
    pub lock: DataDir,
    sqlite: SqliteStore,
    /// The database's file.
    database: PathBuf,
}

impl Opened {
    /// Finishes the writes under way, closes the database and waits for it. Later uses of `store` are refused.
    /// Dropping everything does the same without waiting.
    pub async fn close(self) {
        self.sqlite.close().await;
    }

    /// Looks for damage; see [`SqliteStore::check`]. Reads everything: minutes on a large database.
    ///
    /// # Errors
    /// When the database cannot even be read.
    pub async fn check(&self) -> api::Result<Vec<Problem>> {
        self.sqlite.check().await
    }
}

/// Opens, or makes at first use, the data directory and the database.
///
/// # Errors
/// When another process uses the directory or the database, the disk is read-only or refuses, the database is damaged, not ours or
/// of a newer version, the files in the directory are those of another database, or the master key is unusable or not the one its
/// secrets were made with. Nothing was changed then, except that a missing directory, database or master key may have been made.
pub async fn open(data_dir: &Path, url: &StoreUrl) -> Result<Opened, OpenError> {
    open_with(data_dir, url, Quotas::default()).await
}

/// The same, with what each session may keep.
///
/// # Errors
/// As [`open`].
pub async fn open_with(data_dir: &Path, url: &StoreUrl, quotas: Quotas) -> Result<Opened, OpenError> {
    let lock = DataDir::open(data_dir).await?;
    let keys = MasterKeys::from_env_or_file(lock.path())?;
    let sqlite = SqliteStore::open_within(&lock, url, &keys, quotas.key_values).await?;
    let master = keys.first().clone();
    let (workspaces, blobs) = match files_of(&lock, &sqlite, quotas).await {
        Ok((workspaces, blobs, Left::Nothing)) => (workspaces, blobs),
        Ok((workspaces, blobs, Left::Erase)) => {
            // While nobody has it open.
            sqlite.close().await;
            drop((workspaces, blobs, sqlite, lock));
            return Box::pin(open_with(data_dir, url, quotas)).await;
        }
        Err(error) => {
            // The directory is free when this is told.
            sqlite.close().await;
            return Err(error);
        }
    };
    Ok(Opened {
        store: Arc::new(sqlite.clone()),
        workspaces,
        blobs,
        master,
        database: url.file(lock.path()),
        lock,
        sqlite,
    })
}

/// Opens everything in a directory that is empty and goes with its host: nothing waits for the disk, nothing of another process is looked
/// for, and the master key is in memory alone. `empty` saves making the database.
///
/// # Errors
/// When the system refuses.
pub async fn open_temporary(dir: &Path, quotas: Quotas, empty: Option<&EmptyDatabase>) -> Result<Opened, OpenError> {
    let lock = DataDir::open(dir).await?;
    let master = MasterKey::random().ok_or_else(|| OpenError::Unavailable {
        path: dir.into(),
        reason: "the system gives no random bytes".into(),
    })?;
    let url = StoreUrl::Temporary;
    let database = url.file(lock.path());
    if let Some(empty) = empty {
        empty.copy_to(&database)?;
    }
    let sqlite = SqliteStore::open_within(&lock, &url, &master.clone().into(), quotas.key_values).await?;
    let workspaces = Workspaces::open_with(&lock, quotas.files, quotas.snapshots)?;
    workspaces.finish_what_is_left(&sqlite).await?;
    Ok(Opened {
        store: Arc::new(sqlite.clone()),
        workspaces,
        blobs: Blobs::open(&lock)?,
        master,
        database,
        lock,
        sqlite,
    })
}

/// What lies beside the database.
async fn files_of(
    lock: &DataDir,
    sqlite: &SqliteStore,
    quotas: Quotas,
) -> Result<(Workspaces, Blobs, Left), OpenError> {
    workspace::restore_of_sessions(lock, sqlite).await?;
    let workspaces = Workspaces::open_with(lock, quotas.files, quotas.snapshots)?;
    workspaces.finish_what_is_left(sqlite).await?;
    let blobs = Blobs::open(lock)?;
    let ended = deletion::finish(sqlite, &workspaces, &blobs).await;
    let left = ended.map_err(|error| OpenError::Unavailable {
        path: lock.path().into(),
        reason: format!("what is being deleted was not deleted to the end: {error}"),
    })?;
    Ok((workspaces, blobs, left))
}
