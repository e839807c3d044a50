//! Deleting a session: decided in one transaction, after which it reads as not there, and then row by row, so that a long journal keeps
//! no other writer waiting. No journal is read for it.

use super::{BoxFuture, SqliteStore, decode, failed};
use crate::{api::Result, faults::Point};
use fumehood_core::{id::SessionId, name::OrgName, now};

/// What a session may have much of, in the order in which it goes, and how many rows go in one transaction: few of those that may be
/// large. All else goes with the session's row.
const MUCH: [(&str, i64); 7] = [
    // First: they hold places of the org.
    (
        "DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs WHERE session = ?1 LIMIT ?2)",
        10,
    ),
    (
        "DELETE FROM events WHERE session = ?1 AND seq IN \
         (SELECT seq FROM events WHERE session = ?1 ORDER BY seq DESC LIMIT ?2)",
        100,
    ),
    (
        "DELETE FROM recordings WHERE rowid IN (SELECT rowid FROM recordings WHERE session = ?1 LIMIT ?2)",
        10,
    ),
    (
        "DELETE FROM turns WHERE rowid IN (SELECT rowid FROM turns WHERE session = ?1 LIMIT ?2)",
        100,
    ),
    (
        "DELETE FROM ledger WHERE rowid IN (SELECT l.rowid FROM sessions s JOIN ledger l ON l.org = s.org AND l.session = s.id \
         WHERE s.id = ?1 LIMIT ?2)",
        500,
    ),
    (
        "DELETE FROM deliveries WHERE rowid IN (SELECT rowid FROM deliveries WHERE session = ?1 LIMIT ?2)",
        100,
    ),
    (
        "DELETE FROM key_values WHERE rowid IN (SELECT kv.rowid FROM sessions s JOIN key_values kv ON kv.org = s.org \
         AND kv.session = s.id WHERE s.id = ?1 LIMIT ?2)",
        100,
    ),
];

impl SqliteStore {
    /// Decides it. False if there is no such session.
    pub(super) async fn begin_to_delete_session(&self, org: &OrgName, id: SessionId) -> Result<bool> {
        let org = org.clone();
        let nanos = decode::to_nanos(now())?;
        self.write(Point::SessionDelete, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move {
                let decided =
                    sqlx::query("UPDATE sessions SET deleting = ?3 WHERE org = ?1 AND id = ?2 AND deleting IS NULL")
                        .bind(org.as_str())
                        .bind(&id.uuid().as_bytes()[..])
                        .bind(nanos)
                        .execute(connection)
                        .await
                        .map_err(failed)?;
                Ok(decided.rows_affected() > 0)
            })
        })
        .await
    }

    /// Deletes a session that nobody uses any more.
    pub(crate) async fn end_session(&self, id: SessionId) -> Result<()> {
        for (statement, rows) in MUCH {
            while self.shrink(id, statement, rows).await? {}
        }
        self.write(Point::SessionEnd, move |connection| -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                let ended = sqlx::query("DELETE FROM sessions WHERE id = ?1").bind(&id.uuid().as_bytes()[..]);
                ended.execute(connection).await.map(drop).map_err(failed)
            })
        })
        .await
    }

    /// The same for one whose deletion is decided: what can't be done now is done later.
    pub(super) async fn end_decided(&self, id: SessionId) {
        if let Err(error) = self.end_session(id).await {
            tracing::warn!(session = %id, %error, "a session is deleted, but not all of its rows are gone yet; that is done later");
        }
    }

    /// Sessions whose deletion is decided.
    pub(crate) async fn sessions_to_delete(&self) -> Result<Vec<SessionId>> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar("SELECT id FROM sessions WHERE deleting IS NOT NULL ORDER BY id")
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        ids.iter()
            .map(|id| decode::uuid(id, "a session's id").map(SessionId::from_uuid))
            .collect()
    }

    /// True if there may be more.
    async fn shrink(&self, id: SessionId, statement: &'static str, rows: i64) -> Result<bool> {
        self.write(Point::SessionShrink, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move {
                let deleted = sqlx::query(statement)
                    .bind(&id.uuid().as_bytes()[..])
                    .bind(rows)
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(deleted.rows_affected() > 0)
            })
        })
        .await
    }
}
