//! Opening the database: what is checked before anything is written, how it is set up, and bringing its schema up to date.

use super::{deletion::ERASE, log};
use crate::{
    data_dir::{DataDir, StoreUrl},
    disk,
    envelope::Vault,
    error::OpenError,
    faults::{self, Moment, Point},
    lock::Lock,
    master::MasterKeys,
    workspace,
};
use sqlx::{
    ConnectOptions as _, Connection as _, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePoolOptions, SqliteSynchronous},
};
use std::{io, path::Path, time::Duration};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// Marks a SQLite file as ours: `FUME`.
const APPLICATION_ID: i64 = 0x4655_4d45;
/// How many reads go on at once; SQLite's readers share the processor, not the disk.
const READERS: u32 = 4;
const BUSY: Duration = Duration::from_secs(5);
const ACQUIRE: Duration = Duration::from_secs(10);

pub(super) struct Database {
    pub(super) writer: SqliteConnection,
    pub(super) readers: SqlitePool,
    pub(super) vault: Vault,
    /// Whether the file lies in the data directory, which no other process uses.
    pub(super) exclusive: bool,
    /// Its exclusive use, to be kept until the last write is done.
    pub(super) lock: Lock,
}

pub(super) async fn open(data_dir: &DataDir, url: &StoreUrl, keys: &MasterKeys) -> Result<Database, OpenError> {
    let file = url.file(data_dir.path());
    if let Some(parent) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk::private_dir(parent).map_err(|error| OpenError::io(parent, &error))?;
    }
    // Looked at before the lock is taken, which makes a file that is missing.
    let is_empty = file.metadata().is_ok_and(|metadata| metadata.len() == 0);
    // Before anything of it is read: what another host is changing is nothing to go by.
    let lock = Lock::of_database(&file)?;
    if is_empty && workspace::had_a_database(data_dir.path()) {
        // A start would hand out a new key, and forget everything.
        return Err(OpenError::Damaged {
            path: file,
            reason: "it is empty, and was not before".into(),
        });
    }
    let vault = Vault::new(keys).map_err(|error| OpenError::Unavailable {
        path: file.clone(),
        reason: error.to_string(),
    })?;
    certain(url, &file, log::make_certain).await?;
    let synchronous = match url {
        StoreUrl::Temporary => SqliteSynchronous::Off,
        // With the log, NORMAL would lose the last commits in a power failure: "durable" would not be true.
        StoreUrl::InDataDir | StoreUrl::Sqlite(_) => SqliteSynchronous::Full,
    };
    let mut writer = options(&file)
        .synchronous(synchronous)
        .connect()
        .await
        .map_err(|error| refused(&file, error))?;
    if let Err(error) = prepare(&mut writer, (&file, url), &vault).await {
        // The error above counts, whatever closing says.
        let _ = writer.close().await;
        return Err(error);
    }
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .min_connections(1)
        .acquire_timeout(ACQUIRE)
        // A local file: there is no peer that could have gone.
        .test_before_acquire(false)
        .connect_with(options(&file).read_only(true))
        .await
        .map_err(|error| refused(&file, error))?;
    let exclusive = file.canonicalize().is_ok_and(|file| file.starts_with(data_dir.path()));
    Ok(Database {
        writer,
        readers,
        vault,
        exclusive,
        lock,
    })
}

/// Makes a database of today's schema that has nothing in it, and is nobody's yet. Nothing waits for the disk.
pub(super) async fn make_empty(file: &Path) -> Result<(), OpenError> {
    let fail = |error| refused(file, error);
    let mut made = options(file)
        .create_if_missing(true)
        .synchronous(SqliteSynchronous::Off)
        .connect()
        .await
        .map_err(fail)?;
    claim(&mut made, file).await?;
    write_ahead(&mut made, file).await?;
    migrate(&mut made, file).await?;
    // All of it is in the one file then.
    settle_log(&mut made, file).await?;
    made.close().await.map_err(fail)
}

/// Every change that the schema had: its number, and the checksum of what it does.
pub(super) fn migrations() -> impl Iterator<Item = (i64, &'static [u8])> {
    MIGRATIONS
        .iter()
        .map(|migration| (migration.version, &*migration.checksum))
}

/// A database that is only looked at.
pub(crate) struct Looked {
    pub(crate) connection: SqliteConnection,
    pub(crate) schema: Schema,
    /// Its number.
    pub(crate) version: i64,
}

/// How old the schema of a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// It is that of this version.
    Current,
    /// It is an earlier one: the next start brings it up to date.
    Earlier {
        /// That of the database.
        found: i64,
        /// That of this version.
        known: i64,
    },
}

/// Whether somebody else may write to the database meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Its lock is ours.
    KeptOut,
    /// A host may use it.
    MayWrite,
}

/// Opens a database to look at it: nothing is made, brought up to date or written. `None`: there is none yet.
///
/// # Errors
/// When it is damaged, not ours, of a newer version, or can't be read.
pub(crate) async fn look(file: &Path, others: Others) -> Result<Option<Looked>, OpenError> {
    match file.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(file, &error)),
        // Made and not yet filled.
        Ok(metadata) if metadata.len() == 0 => return Ok(None),
        Ok(_) => {}
    }
    let has_log = log::of(file).metadata().is_ok_and(|log| log.len() > 0);
    // Read as it lies there, where nothing is to be added from a log and nobody writes: then not even an index of one is made.
    let unchanging = others == Others::KeptOut && !has_log;
    let mut connection = options(file)
        .read_only(true)
        .immutable(unchanging)
        .connect()
        .await
        .map_err(|error| refused(file, error))?;
    match looked_at(&mut connection, file).await {
        Ok((schema, version)) => Ok(Some(Looked {
            connection,
            schema,
            version,
        })),
        Err(error) => {
            // The error above counts, whatever closing says.
            let _ = connection.close().await;
            Err(error)
        }
    }
}

async fn looked_at(connection: &mut SqliteConnection, file: &Path) -> Result<(Schema, i64), OpenError> {
    let fail = |error| refused(file, error);
    let id: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await
        .map_err(fail)?;
    if id != APPLICATION_ID {
        return Err(OpenError::Foreign { path: file.into() });
    }
    refuse_newer(connection, file).await?;
    let (found, known) = (found(connection, file).await?.unwrap_or(0), known());
    let schema = if found < known {
        Schema::Earlier { found, known }
    } else {
        Schema::Current
    };
    Ok((schema, found))
}

/// By what key the secrets are sealed, as the database has it, and how many there are.
pub(crate) async fn sealed_by(
    connection: &mut SqliteConnection,
    file: &Path,
) -> Result<(Option<String>, i64), OpenError> {
    let fail = |error| refused(file, error);
    let key: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'master_key'")
        .fetch_optional(&mut *connection)
        .await
        .map_err(fail)?;
    let secrets: i64 = sqlx::query_scalar("SELECT count(*) FROM secrets")
        .fetch_one(connection)
        .await
        .map_err(fail)?;
    Ok((key, secrets))
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        .synchronous(SqliteSynchronous::Full)
        // A schema from a tampered file runs no functions.
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        // What is deleted is overwritten where it was, if that costs no writes of its own.
        .pragma("secure_delete", "FAST")
        .pragma("journal_size_limit", "67108864")
        // THREAT[T-sec-log]
        .disable_statement_logging()
}

async fn prepare(
    writer: &mut SqliteConnection,
    (file, url): (&Path, &StoreUrl),
    vault: &Vault,
) -> Result<(), OpenError> {
    claim(writer, file).await?;
    refuse_newer(writer, file).await?;
    write_ahead(writer, file).await?;
    // The look above has made the log, where there was none.
    certain(url, file, log::make_name_certain).await?;
    migrate(writer, file).await?;
    match_key(writer, file, vault).await?;
    settle_log(writer, file).await?;
    if let Err(error) = erase(writer, file).await {
        // What was deleted is out of reach; only its bytes are left, and a host that doesn't start frees no room for it.
        tracing::warn!(%error, "what was deleted is still in unused pages of the database file, which can't be written anew now; the next start tries again: the disk needs as much room as the database takes, and no other program may have it open");
    }
    Ok(())
}

/// Brings the schema up to date: whole, or not at all.
async fn migrate(writer: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    let fail = |error| refused(file, error);
    let mut all = writer.begin().await.map_err(fail)?;
    // `run` gives a future that is not Send for every lifetime; this is what it calls.
    MIGRATIONS
        .run_direct(None, &mut *all, false)
        .await
        .map_err(|error| match error {
            MigrateError::VersionMissing(found) => newer(file, found),
            MigrateError::VersionMismatch(version) => OpenError::Damaged {
                path: file.into(),
                reason: format!("schema {version} was made by a build of another origin"),
            },
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => fail(error),
            other => OpenError::Unavailable {
                path: file.into(),
                reason: other.to_string(),
            },
        })?;
    all.commit().await.map_err(fail)
}

/// Takes everything that the log has into the database file, and begins the log anew.
///
/// A host that ended after a sync of the log had failed may have left there what the system still shows and the disk does not have. A log
/// that goes on behind it would end there after a power failure, with all that was acknowledged since. In the same process the next
/// write takes the place of the one that failed; only who opens anew has to see to it. The log was made certain before ([`log`]).
async fn settle_log(writer: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    let (others, _, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(&mut *writer)
        .await
        .map_err(|error| refused(file, error))?;
    if others == 0 {
        return Ok(());
    }
    Err(OpenError::Unavailable {
        path: file.into(),
        reason: "another program reads it just now: end it, or try again".into(),
    })
}

/// Writes the file anew, if something was deleted of which nothing is to be left in it.
///
/// # Errors
/// When it can't be opened or written; it is tried again each time that it is opened.
pub(crate) async fn erase_what_was_deleted(file: &Path) -> Result<(), OpenError> {
    let _lock = Lock::of_database(file)?;
    let mut writer = options(file).connect().await.map_err(|error| refused(file, error))?;
    let erased = erase(&mut writer, file).await;
    let closed = writer.close().await;
    erased.and(closed.map_err(|error| refused(file, error)))
}

async fn erase(writer: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    let fail = |error| refused(file, error);
    let is_wanted: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM meta WHERE key = ?1)")
        .bind(ERASE)
        .fetch_one(&mut *writer)
        .await
        .map_err(fail)?;
    if !is_wanted {
        return Ok(());
    }
    faults::hit(Point::DatabaseErase, Moment::Before);
    // What is deleted stays in unused pages until others take their place; the log has it as well, until it is emptied.
    sqlx::query("VACUUM").execute(&mut *writer).await.map_err(fail)?;
    settle_log(writer, file).await?;
    sqlx::query("DELETE FROM meta WHERE key = 'erase'")
        .execute(&mut *writer)
        .await
        .map_err(fail)?;
    faults::hit(Point::DatabaseErase, Moment::After);
    Ok(())
}

/// Makes an empty file ours; refuses one that is another program's.
async fn claim(writer: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    let fail = |error| refused(file, error);
    let id: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut *writer)
        .await
        .map_err(fail)?;
    if id == APPLICATION_ID {
        return Ok(());
    }
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *writer)
        .await
        .map_err(fail)?;
    if id != 0 || tables != 0 {
        return Err(OpenError::Foreign { path: file.into() });
    }
    sqlx::query("PRAGMA application_id = 0x46554d45")
        .execute(&mut *writer)
        .await
        .map_err(fail)?;
    Ok(())
}

/// Turns the write-ahead log on, and looks into the database, which makes its log; readers don't wait for the writer then, and a commit is
/// one write and one sync.
async fn write_ahead(writer: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode = WAL")
        .fetch_one(&mut *writer)
        .await
        .map_err(|error| refused(file, error))?;
    if mode == "wal" {
        return found(writer, file).await.map(drop);
    }
    Err(OpenError::Unavailable {
        path: file.into(),
        reason: "its file system can't keep a write-ahead log: use a local disk".into(),
    })
}

/// Sees to it that the disk has what is there of the log, where anybody waits for the disk.
async fn certain(url: &StoreUrl, file: &Path, make: fn(&Path) -> io::Result<()>) -> Result<(), OpenError> {
    if matches!(url, StoreUrl::Temporary) {
        return Ok(());
    }
    let database = file.to_owned();
    let made = tokio::task::spawn_blocking(move || make(&database)).await;
    let made = made.unwrap_or_else(|_| Err(io::Error::other("the process is stopping")));
    made.map_err(|error| OpenError::io(file, &error))
}

/// Looks before migrating, so that nothing of a newer version is touched.
async fn refuse_newer(connection: &mut SqliteConnection, file: &Path) -> Result<(), OpenError> {
    match found(connection, file).await? {
        Some(found) if found > known() => Err(newer(file, found)),
        _ => Ok(()),
    }
}

/// The schema of a database; `None` if it has none.
async fn found(connection: &mut SqliteConnection, file: &Path) -> Result<Option<i64>, OpenError> {
    let fail = |error| refused(file, error);
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
        .fetch_one(&mut *connection)
        .await
        .map_err(fail)?;
    if there == 0 {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(connection)
        .await
        .map_err(fail)
}

fn known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn newer(file: &Path, found: i64) -> OpenError {
    OpenError::Newer {
        path: file.into(),
        found,
        known: known(),
    }
}

/// Notices at once that the secrets were made with another master key, not at the first call that needs one.
async fn match_key(writer: &mut SqliteConnection, file: &Path, vault: &Vault) -> Result<(), OpenError> {
    let fail = |error| refused(file, error);
    let (expected, secrets) = sealed_by(writer, file).await?;
    if expected.as_deref().is_some_and(|expected| vault.has(expected)) {
        return Ok(());
    }
    match expected {
        Some(expected) if secrets > 0 => Err(OpenError::WrongMasterKey {
            expected,
            found: vault.fingerprint().into(),
        }),
        _ => {
            sqlx::query(
                "INSERT INTO meta (key, value) VALUES ('master_key', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
            )
            .bind(vault.fingerprint())
            .execute(&mut *writer)
            .await
            .map_err(fail)?;
            Ok(())
        }
    }
}

/// What an error of the driver means while opening.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub(crate) fn refused(file: &Path, error: sqlx::Error) -> OpenError {
    let path = file.to_owned();
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .and_then(|code| code.parse::<u32>().ok())
        .map(|code| code & 0xff);
    let reason = match &error {
        sqlx::Error::Database(database) => database.message().to_owned(),
        other => other.to_string(),
    };
    match code {
        Some(8 | 14) => OpenError::ReadOnly { path, reason },
        Some(11 | 26) => OpenError::Damaged { path, reason },
        _ => OpenError::Unavailable { path, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::decode;
    use fumehood_core::{
        awaited::AwaitedCall,
        call::{Arguments, Metering, Output},
        event::EventBody,
        id::{CallId, EventId, SessionId, TurnId},
        now,
    };

    /// A database as it was before the migration `version`.
    async fn before(version: i64) -> SqliteConnection {
        let mut database = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let earlier = MIGRATIONS.iter().filter(|migration| migration.version < version);
        let earlier = Migrator {
            migrations: earlier.cloned().collect::<Vec<_>>().into(),
            ..Migrator::DEFAULT
        };
        earlier.run_direct(None, &mut database, false).await.unwrap();
        database
    }

    fn asked(calls: &[CallId]) -> EventBody {
        let calls = calls.iter().map(|call| AwaitedCall {
            call_id: *call,
            tool: "look".parse().unwrap(),
            arguments: Arguments::new(),
            expires: now(),
            note: None,
        });
        let calls = calls.collect();
        EventBody::ResultsRequested { calls }
    }

    fn ended(call: CallId) -> EventBody {
        EventBody::tool_completed(call, "look".into(), Ok(Output::default()), Metering::default())
    }

    /// A turn in a session of its own, as it was kept before calls that wait had rows.
    async fn turn(database: &mut SqliteConnection, status: &str, until: Option<i64>, events: &[EventBody]) -> Vec<u8> {
        let (session, turn) = (SessionId::new().uuid(), TurnId::new().uuid());
        let (session, turn) = (session.as_bytes().to_vec(), turn.as_bytes().to_vec());
        sqlx::query(
            "INSERT INTO sessions (id, org, agent, metadata, narrowing, created, updated) VALUES (?1, 'acme', 'a', '{}', '{}', 0, 0)",
        )
        .bind(&session)
        .execute(&mut *database)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO turns (id, org, session, status, first_seq, created, ended, waits_until) \
             VALUES (?1, 'acme', ?2, ?3, 1, 0, CASE WHEN ?3 = 'completed' THEN 9 END, ?4)",
        )
        .bind(&turn)
        .bind(&session)
        .bind(status)
        .bind(until)
        .execute(&mut *database)
        .await
        .unwrap();
        for (seq, body) in (1_i64..).zip(events) {
            sqlx::query(
                "INSERT INTO events (session, seq, id, time, turn, source, body) VALUES (?1, ?2, ?3, 0, ?4, '{}', ?5)",
            )
            .bind(&session)
            .bind(seq)
            .bind(EventId::new().uuid().as_bytes().to_vec())
            .bind(&turn)
            .bind(decode::to_json(body, "an event").unwrap())
            .execute(&mut *database)
            .await
            .unwrap();
        }
        turn
    }

    #[tokio::test]
    async fn calls_that_clients_run_just_now_wait_on_in_a_database_of_an_earlier_version() {
        let mut database = before(23).await;
        sqlx::raw_sql("INSERT INTO orgs (name, created) VALUES ('acme', 0)")
            .execute(&mut database)
            .await
            .unwrap();
        // One waits for the second of the two calls of its second step.
        let calls: [CallId; 5] = std::array::from_fn(|_| CallId::new());
        let events = [
            asked(&calls[..1]),
            ended(calls[0]),
            asked(&calls[1..3]),
            ended(calls[1]),
        ];
        let waits = turn(&mut database, "awaiting_results", Some(70), &events).await;
        // The others wait for a person, and for nobody.
        turn(
            &mut database,
            "awaiting_approval",
            Some(80),
            &[asked(&calls[3..4]), ended(calls[3])],
        )
        .await;
        turn(&mut database, "completed", None, &[asked(&calls[4..])]).await;
        MIGRATIONS.run_direct(None, &mut database, false).await.unwrap();
        type Row = (Vec<u8>, String, Vec<u8>, i64, String, Option<Vec<u8>>);
        let rows: Vec<Row> = sqlx::query_as("SELECT call, org, turn, expires, state, callback FROM awaited_calls")
            .fetch_all(&mut database)
            .await
            .unwrap();
        let call = calls[2].uuid().as_bytes().to_vec();
        assert_eq!(rows, [(call, "acme".to_owned(), waits, 70, "open".to_owned(), None)]);
    }

    #[tokio::test]
    async fn grants_of_an_earlier_database_are_for_what_the_installed_version_asks() {
        let mut database = before(2).await;
        let rows = "INSERT INTO orgs (name, created) VALUES ('acme', 0);
            INSERT INTO components VALUES ('acme', 'a', x'02', '{\"name\":\"a\"}', '[]', 0);
            INSERT INTO grants VALUES ('acme', 'a', x'01', 'of a version before'), ('acme', 'a', x'02', 'of this one');";
        sqlx::raw_sql(rows).execute(&mut database).await.unwrap();
        MIGRATIONS.run_direct(None, &mut database, false).await.unwrap();
        let grants: Vec<(String, String)> = sqlx::query_as("SELECT what, request FROM grants")
            .fetch_all(&mut database)
            .await
            .unwrap();
        assert_eq!(grants, [("of this one".into(), "{\"name\":\"a\"}".into())]);
    }
}
