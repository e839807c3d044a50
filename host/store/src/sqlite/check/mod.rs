//! Looking for damage in the database: its structure, and whether all that follows from something else still does.
//!
//! Reads everything in one transaction, so that what others write meanwhile is either in all of it or in nothing. Changes nothing; what
//! it finds says what would mend it, where that is safe: what the journals tell is made anew from them, what nobody waits for goes.

mod fold;
mod mend;

pub(crate) use mend::Mend;

use super::{SqliteStore, decode, failed, secrets::open_sealed};
use crate::{
    api::{Result, StoreError},
    envelope::Vault,
};
use fumehood_core::{
    digest::Digest,
    id::{CallId, SessionId, TurnId},
    name::OrgName,
    now,
};
use sqlx::{Connection as _, sqlite::SqliteConnection};
use std::collections::{BTreeMap, BTreeSet};

/// Something wrong with what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The database file does not hang together.
    Database(String),
    /// A session's journal has gaps, or events that can't be read.
    Journal {
        /// The session.
        session: SessionId,
        /// What is wrong.
        detail: String,
    },
    /// What is kept of a turn does not follow from its events.
    Turn {
        /// The turn.
        turn: TurnId,
        /// What is wrong.
        detail: String,
    },
    /// What is kept of a session does not follow from what is in it.
    Session {
        /// The session.
        session: SessionId,
        /// What is wrong.
        detail: String,
    },
    /// Part of a budget is held for nobody.
    Reservation {
        /// The session.
        session: SessionId,
        /// What is wrong.
        detail: String,
    },
    /// A secret does not open.
    Secret {
        /// Its org.
        org: OrgName,
        /// Why.
        detail: String,
    },
    /// The master key that the secrets are under is not there.
    MasterKey(String),
    /// A component's code is not as it should be.
    Code {
        /// The code.
        digest: Digest,
        /// What is wrong.
        detail: String,
    },
    /// Files of sessions are not as they should be.
    Files(String),
    /// What was begun is not at its end.
    Unfinished(String),
}

impl Problem {
    /// What it is about, in a word.
    #[must_use]
    pub const fn about(&self) -> &'static str {
        match self {
            Self::Database(_) => "database",
            Self::Journal { .. } => "journal",
            Self::Turn { .. } => "turn",
            Self::Session { .. } => "session",
            Self::Reservation { .. } => "reservation",
            Self::Secret { .. } => "secret",
            Self::MasterKey(_) => "master_key",
            Self::Code { .. } => "code",
            Self::Files(_) => "files",
            Self::Unfinished(_) => "unfinished",
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database(detail) => write!(f, "database: {detail}"),
            Self::Journal { session, detail } => write!(f, "journal of {session}: {detail}"),
            Self::Turn { turn, detail } => write!(f, "turn {turn}: {detail}"),
            Self::Session { session, detail } => write!(f, "session {session}: {detail}"),
            Self::Reservation { session, detail } => write!(f, "budget of {session}: {detail}"),
            Self::Secret { org, detail } => write!(f, "secret of org {org}: {detail}"),
            Self::MasterKey(detail) => write!(f, "master key: {detail}"),
            Self::Code { digest, detail } => write!(f, "code {digest}: {detail}"),
            Self::Files(detail) => write!(f, "files: {detail}"),
            Self::Unfinished(detail) => write!(f, "unfinished: {detail}"),
        }
    }
}

/// A problem, and what would mend it safely.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) problem: Problem,
    pub(crate) mend: Option<Mend>,
}

impl Found {
    const fn beyond_repair(problem: Problem) -> Self {
        Self { problem, mend: None }
    }
}

/// What the database says of the files beside it.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Every session.
    pub(crate) sessions: BTreeSet<SessionId>,
    /// The code of the components, with who has it.
    pub(crate) code: BTreeMap<Digest, String>,
}

impl SqliteStore {
    /// Looks for damage; what is only left over is none. Changes nothing. Reads everything: minutes on a large database.
    ///
    /// # Errors
    /// When the database cannot be read at all.
    pub async fn check(&self) -> Result<Vec<Problem>> {
        let damage = |found: &Found| {
            !matches!(found.mend, Some(Mend::Reservation { .. })) && !matches!(found.problem, Problem::Unfinished(_))
        };
        let found = self.look().await?.into_iter().filter(damage);
        Ok(found.map(|found| found.problem).collect())
    }

    pub(crate) async fn look(&self) -> Result<Vec<Found>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        look(&mut connection, Some(&self.inner.vault)).await
    }

    /// What the database says of the files beside it.
    pub(crate) async fn named(&self) -> Result<Named> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        named(&mut connection).await
    }
}

/// Looks for damage. Without a vault the secrets are not opened.
pub(crate) async fn look(connection: &mut SqliteConnection, vault: Option<&Vault>) -> Result<Vec<Found>> {
    let mut snapshot = connection.begin().await.map_err(failed)?;
    let mut found = structure(&mut snapshot).await?;
    let hangs_together = found.is_empty();
    for looked in [
        fold::journals(&mut snapshot).await,
        archived(&mut snapshot).await,
        unfinished(&mut snapshot).await,
        key_values(&mut snapshot).await,
        reservations(&mut snapshot).await,
        sealed(&mut snapshot, vault).await,
        recordings(&mut snapshot).await,
    ] {
        match looked {
            Ok(more) => found.extend(more),
            Err(error @ StoreError::Corrupt { .. }) if !hangs_together => {
                found.push(Found::beyond_repair(Problem::Database(error.to_string())));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The same for a database whose schema is an earlier one: only what every one has.
pub(crate) async fn look_at_structure(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    let mut snapshot = connection.begin().await.map_err(failed)?;
    structure(&mut snapshot).await
}

/// What the database says of the files beside it.
pub(crate) async fn named(connection: &mut SqliteConnection) -> Result<Named> {
    let sessions: Vec<Vec<u8>> = sqlx::query_scalar("SELECT id FROM sessions")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let code: Vec<(Vec<u8>, String)> =
        sqlx::query_as("SELECT digest, group_concat(name || ' of org ' || org, ', ') FROM components GROUP BY digest")
            .fetch_all(connection)
            .await
            .map_err(failed)?;
    Ok(Named {
        sessions: sessions
            .iter()
            .map(|id| decode::uuid(id, "a session's id").map(SessionId::from_uuid))
            .collect::<Result<_>>()?,
        code: code
            .into_iter()
            .map(|(digest, who)| Ok((decode::digest(&digest, "a component's digest")?, who)))
            .collect::<Result<_>>()?,
    })
}

async fn structure(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    let lines: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(20)")
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    let dangling: Vec<(String, i64)> =
        sqlx::query_as("SELECT \"table\", count(*) FROM pragma_foreign_key_check() GROUP BY \"table\"")
            .fetch_all(connection)
            .await
            .map_err(failed)?;
    let broken = lines.into_iter().filter(|line| line != "ok");
    let dangling = dangling
        .into_iter()
        .map(|(table, count)| format!("{count} rows of {table} refer to something that is not there"));
    let problems = broken.chain(dangling).map(Problem::Database);
    Ok(problems.map(Found::beyond_repair).collect())
}

/// Archived sessions with a turn that hasn't ended, which nobody would work.
async fn archived(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    let sessions: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT id FROM sessions WHERE archived IS NOT NULL AND deleting IS NULL \
         AND EXISTS (SELECT 1 FROM turns WHERE turns.session = sessions.id AND turns.ended IS NULL)",
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    sessions
        .iter()
        .map(|session| {
            let session = SessionId::from_uuid(decode::uuid(session, "a session's id")?);
            Ok(Found {
                problem: Problem::Session {
                    session,
                    detail: "it is archived and has a turn that hasn't ended".into(),
                },
                mend: Some(Mend::Unarchive { session }),
            })
        })
        .collect()
}

/// Deletions that are not at their end.
async fn unfinished(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    let details: Vec<String> = sqlx::query_scalar(
        "SELECT 'the org ' || name || ' is being deleted' FROM orgs WHERE deleting IS NOT NULL \
         UNION ALL SELECT count(*) || ' sessions are being deleted' FROM sessions WHERE deleting IS NOT NULL HAVING count(*) > 0 \
         UNION ALL SELECT 'what was deleted is still in unused pages of the database file' FROM meta WHERE key = ?1",
    )
    .bind(super::deletion::ERASE)
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let problems = details.into_iter().map(Problem::Unfinished);
    Ok(problems.map(Found::beyond_repair).collect())
}

/// Whether what the key-values of each session take is what is counted of it.
async fn key_values(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    let rows: Vec<(Vec<u8>, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT s.id, s.kv_entries, s.kv_bytes, count(kv.key), \
             ifnull(sum(length(CAST(kv.key AS BLOB)) + length(kv.value)), 0) AS bytes \
         FROM sessions s LEFT JOIN key_values kv ON kv.org = s.org AND kv.session = s.id WHERE s.deleting IS NULL GROUP BY s.id \
         HAVING count(kv.key) <> s.kv_entries OR bytes <> s.kv_bytes",
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    rows.into_iter()
        .map(|(session, entries, bytes, true_entries, true_bytes)| {
            let session = SessionId::from_uuid(decode::uuid(&session, "a session's id")?);
            Ok(Found {
                problem: Problem::Session {
                    session,
                    detail: format!(
                        "its key-values are counted as {entries} of {bytes} bytes; there are {true_entries} of {true_bytes} bytes"
                    ),
                },
                mend: Some(Mend::KeyValues {
                    session,
                    entries: true_entries,
                    bytes: true_bytes,
                }),
            })
        })
        .collect()
}

/// What is held of budgets for a turn that has ended, for nobody, or for longer than it may be.
async fn reservations(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    let rows: Vec<(Vec<u8>, Vec<u8>, String)> = sqlx::query_as(
        "SELECT r.holder, r.session, CASE \
             WHEN t.ended IS NOT NULL THEN 'held for a turn that has ended' \
             WHEN t.id IS NULL AND r.holder <> r.session THEN 'held for a turn that there is not' \
             ELSE 'held for longer than a model call may take' END \
         FROM reservations r LEFT JOIN turns t ON t.id = r.holder \
         WHERE t.ended IS NOT NULL OR (t.id IS NULL AND r.holder <> r.session) OR r.until <= ?1",
    )
    .bind(decode::to_nanos(now())?)
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    rows.into_iter()
        .map(|(holder, session, detail)| {
            let session = SessionId::from_uuid(decode::uuid(&session, "a session's id")?);
            Ok(Found {
                problem: Problem::Reservation {
                    session,
                    detail: format!("part of it is {detail}"),
                },
                mend: Some(Mend::Reservation { holder }),
            })
        })
        .collect()
}

/// Whether what is kept of calls is what was recorded of them.
async fn recordings(connection: &mut SqliteConnection) -> Result<Vec<Found>> {
    type Row = (i64, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>);
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        // One at a time: each may be large.
        let row: Option<Row> = sqlx::query_as(
            "SELECT rowid, turn, call, digest, content FROM recordings WHERE rowid > ?1 ORDER BY rowid LIMIT 1",
        )
        .bind(after)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
        let Some((rowid, turn, call, digest, content)) = row else {
            return Ok(found);
        };
        after = rowid;
        if Digest::of(&content).as_bytes()[..] != digest[..] {
            let call = CallId::from_uuid(decode::uuid(&call, "a call's id")?);
            found.push(Found::beyond_repair(Problem::Turn {
                turn: TurnId::from_uuid(decode::uuid(&turn, "a turn's id")?),
                detail: format!("the recording of {call} is damaged: the call can't be replayed"),
            }));
        }
    }
}

async fn sealed(connection: &mut SqliteConnection, vault: Option<&Vault>) -> Result<Vec<Found>> {
    type Row = (String, Option<Vec<u8>>, String, i64, String);
    let Some(vault) = vault else { return Ok(Vec::new()) };
    let rows: Vec<Row> = sqlx::query_as("SELECT org, session, name, version, envelope FROM secrets ORDER BY org, name")
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    let mut found = Vec::new();
    for (org, session, name, version, envelope) in rows {
        let org: OrgName = decode::name(org, "a secret's org")?;
        let opened = decode::name(name, "a secret's name")
            .and_then(|name| open_sealed(vault, &org, &name, (session, version, &envelope)));
        if let Err(error) = opened {
            found.push(Found::beyond_repair(Problem::Secret {
                org,
                detail: error.to_string(),
            }));
        }
    }
    Ok(found)
}
