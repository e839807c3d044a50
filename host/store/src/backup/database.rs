//! The database of a backup: everything of one moment, read in one transaction while others write.

use super::BackupError;
use crate::{OpenError, sqlite::open};
use fumehood_core::{digest::Digest, id::SessionId};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _,
    sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous},
};
use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};
use uuid::Uuid;

/// The database in a backup.
pub(super) const NAME: &str = "fumehood.db";

/// A database that is read at one moment, and a new one beside it.
pub(super) struct Pinned {
    connection: SqliteConnection,
    source: PathBuf,
    copy: PathBuf,
}

/// What a backup tells of the database in it.
pub(super) struct Facts {
    pub(super) database: Option<Uuid>,
    pub(super) master_key: Option<String>,
    pub(super) code: BTreeSet<Digest>,
}

impl Pinned {
    pub(super) async fn open(source: &Path, copy: &Path) -> Result<Self, BackupError> {
        let fail = |error| BackupError::Open(open::refused(source, error));
        // For this user alone.
        crate::disk::private_file(copy).map_err(super::failed_at(copy))?;
        let options = SqliteConnectOptions::new()
            .filename(copy)
            .create_if_missing(true)
            // What is read is as it was written, also where a reference leads nowhere.
            .foreign_keys(false)
            // A crash leaves none of it: it has its place only when it is whole and on the disk.
            .journal_mode(SqliteJournalMode::Off)
            .synchronous(SqliteSynchronous::Off)
            .pragma("trusted_schema", "OFF")
            // THREAT[T-sec-log]
            .disable_statement_logging();
        let mut connection = options.connect().await.map_err(fail)?;
        sqlx::query("ATTACH ?1 AS source")
            .bind(read_only(source))
            .execute(&mut connection)
            .await
            .map_err(fail)?;
        Ok(Self {
            connection,
            source: source.into(),
            copy: copy.into(),
        })
    }

    /// Reads from now on what is there at this moment. Gives its sessions.
    pub(super) async fn pin(&mut self) -> Result<BTreeSet<SessionId>, BackupError> {
        self.run("BEGIN").await?;
        let ids: Vec<Vec<u8>> = sqlx::query_scalar("SELECT id FROM source.sessions")
            .fetch_all(&mut self.connection)
            .await
            .map_err(|error| self.failed(error))?;
        ids.iter()
            .map(|id| Uuid::from_slice(id).map(SessionId::from_uuid))
            .collect::<Result<_, _>>()
            .map_err(|_| self.damaged("a session's id is none"))
    }

    /// Lets go of that moment.
    pub(super) async fn unpin(&mut self) -> Result<(), BackupError> {
        self.run("ROLLBACK").await
    }

    pub(super) async fn facts(&mut self) -> Result<Facts, BackupError> {
        let meta: Vec<(String, String)> = sqlx::query_as("SELECT key, value FROM source.meta")
            .fetch_all(&mut self.connection)
            .await
            .map_err(|error| self.failed(error))?;
        let code: Vec<Vec<u8>> = sqlx::query_scalar("SELECT DISTINCT digest FROM source.components")
            .fetch_all(&mut self.connection)
            .await
            .map_err(|error| self.failed(error))?;
        let of = |key: &str| {
            meta.iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.clone())
        };
        Ok(Facts {
            database: of("database").and_then(|id| Uuid::parse_str(&id).ok()),
            master_key: of("master_key"),
            code: code
                .iter()
                .map(|digest| format!("sha256:{}", hex::encode(digest)).parse())
                .collect::<Result<_, _>>()
                .map_err(|_| self.damaged("a component's digest is none"))?,
        })
    }

    /// Copies all of that moment, looks whether the copy hangs together, and makes it durable.
    pub(super) async fn copy(&mut self) -> Result<(), BackupError> {
        let schema: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT type, name, sql FROM source.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
             ORDER BY type = 'table' DESC, rowid",
        )
        .fetch_all(&mut self.connection)
        .await
        .map_err(|error| self.failed(error))?;
        let (tables, others): (Vec<_>, Vec<_>) = schema.into_iter().partition(|(kind, ..)| kind == "table");
        for (_, name, sql) in tables {
            self.run(sql).await?;
            let name = name.replace('"', "\"\"");
            self.run(format!("INSERT INTO main.\"{name}\" SELECT * FROM source.\"{name}\""))
                .await?;
        }
        for (.., sql) in others {
            self.run(sql).await?;
        }
        self.run("COMMIT").await?;
        self.run("DETACH source").await?;
        self.run("PRAGMA main.application_id = 0x46554d45").await?;
        let whole: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(1)")
            .fetch_all(&mut self.connection)
            .await
            .map_err(|error| self.failed(error))?;
        if whole != ["ok"] {
            return Err(self.damaged(&whole.join("; ")));
        }
        let file = self.copy.clone();
        let synced = tokio::task::spawn_blocking(move || File::open(file)?.sync_all()).await;
        let synced = synced.unwrap_or_else(|error| Err(std::io::Error::other(error.to_string())));
        synced.map_err(super::failed_at(&self.copy))
    }

    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "what a backup was read from did not close cleanly");
        }
    }

    /// What runs is ours or the schema of the database, which is ours.
    async fn run(&mut self, statement: impl Into<String>) -> Result<(), BackupError> {
        let ran = sqlx::raw_sql(AssertSqlSafe(statement.into()))
            .execute(&mut self.connection)
            .await;
        ran.map(drop).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: sqlx::Error) -> BackupError {
        BackupError::Open(open::refused(&self.source, error))
    }

    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::Open(OpenError::Damaged {
            path: self.source.clone(),
            reason: reason.into(),
        })
    }
}

/// The file as one that is never written to.
fn read_only(file: &Path) -> String {
    use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _};
    let mut url = "file:".to_owned();
    for byte in file.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => url.push(char::from(*byte)),
            // Writing to a text never fails.
            byte => drop(write!(url, "%{byte:02X}")),
        }
    }
    url + "?mode=ro"
}
