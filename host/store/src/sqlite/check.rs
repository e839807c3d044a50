//! Looking for damage.

use super::{SqliteStore, decode, failed};
use crate::api::Result;
use fumehood_core::{id::SessionId, name::OrgName};

/// Something that is wrong with what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The database file does not hang together.
    Database(String),
    /// A session's journal has gaps or disagrees with its count.
    Journal {
        /// The session.
        session: SessionId,
        /// What is wrong.
        detail: String,
    },
    /// A turn's status does not follow from its events.
    Turn(String),
    /// A secret does not open.
    Secret {
        /// Its org.
        org: OrgName,
        /// Why.
        detail: String,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database(detail) => write!(f, "database: {detail}"),
            Self::Journal { session, detail } => write!(f, "journal of {session}: {detail}"),
            Self::Turn(detail) => write!(f, "turn {detail}"),
            Self::Secret { org, detail } => write!(f, "secret of org {org}: {detail}"),
        }
    }
}

impl SqliteStore {
    /// Looks for damage: the file's structure, references to nothing, gaps in journals, turns whose status does not follow from
    /// their events, secrets that do not open. Changes nothing. Reads everything.
    ///
    /// # Errors
    /// When the database cannot be read at all.
    pub async fn check(&self) -> Result<Vec<Problem>> {
        let mut problems = self.structure().await?;
        problems.extend(self.journals().await?);
        problems.extend(self.projections().await?);
        problems.extend(self.sealed().await?);
        Ok(problems)
    }

    async fn structure(&self) -> Result<Vec<Problem>> {
        let lines: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(20)")
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        let dangling: Vec<(String, i64)> =
            sqlx::query_as("SELECT \"table\", count(*) FROM pragma_foreign_key_check() GROUP BY \"table\"")
                .fetch_all(self.readers())
                .await
                .map_err(failed)?;
        let broken = lines.into_iter().filter(|line| line != "ok");
        let dangling = dangling
            .into_iter()
            .map(|(table, count)| format!("{count} rows of {table} refer to something that is not there"));
        Ok(broken.chain(dangling).map(Problem::Database).collect())
    }

    async fn journals(&self) -> Result<Vec<Problem>> {
        let rows: Vec<(Vec<u8>, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT s.id, s.last_seq, count(e.seq), ifnull(min(e.seq), 1), ifnull(max(e.seq), 0) \
             FROM sessions s LEFT JOIN events e ON e.session = s.id GROUP BY s.id \
             HAVING count(e.seq) <> s.last_seq OR ifnull(min(e.seq), 1) <> 1 OR ifnull(max(e.seq), 0) <> s.last_seq",
        )
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(session, last, count, min, max)| {
                Ok(Problem::Journal {
                    session: SessionId::from_uuid(decode::uuid(&session, "a session's id")?),
                    detail: format!("it should have the events 1 to {last}; there are {count}, from {min} to {max}"),
                })
            })
            .collect()
    }

    async fn projections(&self) -> Result<Vec<Problem>> {
        let rows: Vec<(Vec<u8>, String, String)> = sqlx::query_as(
            "SELECT t.id, t.status, e.type FROM turns t JOIN ( \
                 SELECT session, turn, json_extract(body, '$.type') AS type, \
                     json_extract(body, '$.data.waiting_for') AS waiting_for, max(seq) FROM events \
                 WHERE turn IS NOT NULL AND json_extract(body, '$.type') IN ('turn.queued', 'turn.started', \
                     'turn.paused', 'turn.resumed', 'turn.completed', 'turn.failed', 'turn.cancelled') \
                 GROUP BY session, turn) e ON e.session = t.session AND e.turn = t.id \
             WHERE t.status <> CASE e.type WHEN 'turn.started' THEN 'running' WHEN 'turn.resumed' THEN 'running' \
                 WHEN 'turn.paused' THEN 'awaiting_' || e.waiting_for ELSE substr(e.type, 6) END",
        )
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(turn, status, event)| {
                let id = fumehood_core::id::TurnId::from_uuid(decode::uuid(&turn, "a turn's id")?);
                Ok(Problem::Turn(format!(
                    "{id} is {status}, but its last event of that kind is {event}"
                )))
            })
            .collect()
    }

    async fn sealed(&self) -> Result<Vec<Problem>> {
        type Row = (String, Option<Vec<u8>>, String, i64, String);
        let rows: Vec<Row> =
            sqlx::query_as("SELECT org, session, name, version, envelope FROM secrets ORDER BY org, name")
                .fetch_all(self.readers())
                .await
                .map_err(failed)?;
        let mut problems = Vec::new();
        for (org, session, name, version, envelope) in rows {
            let org: OrgName = decode::name(org, "a secret's org")?;
            let opened = decode::name(name, "a secret's name")
                .and_then(|name| self.open_secret(&org, &name, (session, version, &envelope)));
            if let Err(error) = opened {
                problems.push(Problem::Secret {
                    org,
                    detail: error.to_string(),
                });
            }
        }
        Ok(problems)
    }
}
