//! The store in one SQLite file: write-ahead log, full synchronisation, one writer, a few readers.
//!
//! Writes of many tasks share transactions (see `writer`); reads see every write whose future has resolved.

mod agents;
mod batch;
mod callbacks;
pub mod check;
pub(crate) mod components;
mod cursor;
mod decode;
mod deletion;
pub(crate) mod empty;
mod housekeeping;
mod idempotency;
mod identity;
mod jobs;
mod journal;
mod key_values;
mod keys;
mod leases;
mod ledger;
mod log;
pub(crate) mod open;
mod orgs;
mod recordings;
pub(crate) mod rewrap;
mod schedules;
mod secrets;
mod session_deletion;
mod sessions;
mod spending;
mod stamps;
mod turns;
mod webhooks;
mod writer;

use crate::{
    api::{Result, Store, StoreError},
    data_dir::{DataDir, StoreUrl},
    envelope::Vault,
    error::OpenError,
    faults::Passage,
    master::{MasterKey, MasterKeys},
    quotas::KvQuota,
};
use batch::Batch;
use sqlx::{SqlitePool, sqlite::SqliteConnection};
use stamps::Stamps;
use std::{fmt, sync::Arc};
use uuid::Uuid;
use writer::{BoxFuture, Held, Writer};

/// The store in one SQLite file. Clones share it.
///
/// When the last clone is dropped, writes that were already taken are finished in the background; [`SqliteStore::close`] waits for
/// them.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    readers: SqlitePool,
    writer: Writer,
    vault: Vault,
    stamps: Stamps,
    key_values: KvQuota,
    /// Tells this opening of the database from every other.
    opening: Uuid,
}

impl SqliteStore {
    /// Opens, or makes, the database. Keeps a clone of `data_dir` until the last write is done.
    ///
    /// # Errors
    /// See [`crate::open`].
    pub async fn open(data_dir: &DataDir, url: &StoreUrl, master: &MasterKey) -> std::result::Result<Self, OpenError> {
        Self::open_with(data_dir, url, &master.clone().into()).await
    }

    /// The same with several master keys.
    ///
    /// # Errors
    /// See [`crate::open`].
    pub async fn open_with(
        data_dir: &DataDir,
        url: &StoreUrl,
        keys: &MasterKeys,
    ) -> std::result::Result<Self, OpenError> {
        Self::open_within(data_dir, url, keys, KvQuota::default()).await
    }

    /// The same with what the key-values of each session may take.
    ///
    /// # Errors
    /// See [`crate::open`].
    pub async fn open_within(
        data_dir: &DataDir,
        url: &StoreUrl,
        keys: &MasterKeys,
        key_values: KvQuota,
    ) -> std::result::Result<Self, OpenError> {
        let opened = open::open(data_dir, url, keys).await?;
        Ok(Self {
            inner: Arc::new(Inner {
                readers: opened.readers,
                writer: Writer::start(opened.writer, Held::new(data_dir, opened.lock)),
                vault: opened.vault,
                stamps: Stamps::new(opened.exclusive),
                key_values,
                opening: Uuid::now_v7(),
            }),
        })
    }

    /// Finishes the writes already taken, closes the database and waits for it. Writes and reads after it are
    /// [`StoreError::Unavailable`].
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }

    /// Does a write in a transaction that it may share with others. It is durable when this resolves; an error, or
    /// dropping the future, leaves nothing or (only when dropped) all of it.
    async fn write<T, F>(&self, passage: impl Into<Passage>, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.write_batch(passage, after_batch(job)).await
    }

    /// The same for a job that runs the batch it gets, with its own statements behind.
    async fn write_batch<T, F>(&self, passage: impl Into<Passage>, job: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(Batch, &'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.inner.writer.write(Some(passage.into()), job).await
    }

    /// Looks at something after everything that others write before.
    async fn in_turn<T, F>(&self, look: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        self.inner.writer.write(None, after_batch(look)).await
    }

    fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }
}

/// A job that runs the batch it gets by itself first.
fn after_batch<T, F>(job: F) -> impl for<'c> FnOnce(Batch, &'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>
where
    T: Send + 'static,
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
{
    move |batch, connection| {
        Box::pin(async move {
            batch.run(connection).await?;
            job(connection).await
        })
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl Store for SqliteStore {}

/// What an error of the driver means.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn failed(error: sqlx::Error) -> StoreError {
    use sqlx::Error;
    match &error {
        Error::Database(database) => from_database(database.as_ref()),
        Error::PoolClosed | Error::WorkerCrashed => unavailable("it was closed"),
        Error::PoolTimedOut => unavailable("too many reads at once: try again"),
        Error::Io(io) => unavailable(&crate::disk::reason(io)),
        Error::RowNotFound | Error::ColumnDecode { .. } | Error::Decode(_) => StoreError::Corrupt {
            reason: error.to_string(),
        },
        _ => unavailable(&error.to_string()),
    }
}

fn from_database(error: &dyn sqlx::error::DatabaseError) -> StoreError {
    // SQLite's primary result code is the low byte of the extended one.
    let code = error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0) & 0xff;
    match code {
        5 | 6 => unavailable("the database is busy: another program has it open"),
        8 => unavailable("the database is read-only: make its disk and file writable"),
        10 => unavailable("the disk fails to read or write"),
        13 => unavailable("the disk is full: free some space"),
        11 | 26 => StoreError::Corrupt {
            reason: "the database file is damaged: run the doctor, restore a backup".into(),
        },
        _ => unavailable(error.message()),
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable { reason: reason.into() }
}

/// The error of an insert: a reference to nothing is [`StoreError::Gone`], a taken key [`StoreError::Exists`].
fn insert_failed(error: sqlx::Error, gone: &'static str, exists: impl FnOnce() -> String) -> StoreError {
    match error.as_database_error() {
        Some(database) if database.is_foreign_key_violation() => StoreError::Gone { what: gone },
        Some(database) if database.is_unique_violation() => StoreError::Exists { what: exists() },
        _ => failed(error),
    }
}
