//! What an org makes by requests that its client may repeat: found by their keys for a day, and for no longer than it is there.

use super::{decode, failed};
use crate::api::{Result, StoreError};
use fumehood_core::{digest::Digest, name::OrgName, now};
use sqlx::{AssertSqlSafe, sqlite::SqliteConnection};

/// How long a key is remembered.
const REMEMBERED: i64 = 24 * 60 * 60 * 1_000_000_000;

/// What is made so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    Schedule,
    Webhook,
}

impl Made {
    const fn table(self) -> &'static str {
        match self {
            Self::Schedule => "schedules",
            Self::Webhook => "webhooks",
        }
    }
}

/// The id of what the same key and request made. [`StoreError::KeyReused`] if the request was another.
pub(super) async fn earlier(
    connection: &mut SqliteConnection,
    made: Made,
    org: &OrgName,
    (key, request): (&str, &Digest),
) -> Result<Option<Vec<u8>>> {
    let table = made.table();
    let known = format!("SELECT id, request FROM {table} WHERE org = ?1 AND idempotency_key = ?2 AND created > ?3");
    let row: Option<(Vec<u8>, Option<Vec<u8>>)> = sqlx::query_as(AssertSqlSafe(known))
        .bind(org.as_str())
        .bind(key)
        .bind(decode::to_nanos(now())? - REMEMBERED)
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    match row {
        None => Ok(None),
        Some((id, Some(earlier))) if earlier == request.as_bytes() => Ok(Some(id)),
        Some(_) => Err(StoreError::KeyReused),
    }
}

/// Remembers what made it. Of what was made with the same key before, that is forgotten.
pub(super) async fn remember(
    connection: &mut SqliteConnection,
    made: Made,
    (org, id): (&OrgName, &[u8]),
    (key, request): (&str, &Digest),
) -> Result<()> {
    let table = made.table();
    let forget =
        format!("UPDATE {table} SET idempotency_key = NULL, request = NULL WHERE org = ?1 AND idempotency_key = ?2");
    sqlx::query(AssertSqlSafe(forget))
        .bind(org.as_str())
        .bind(key)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let remember = format!("UPDATE {table} SET idempotency_key = ?3, request = ?4 WHERE org = ?1 AND id = ?2");
    sqlx::query(AssertSqlSafe(remember))
        .bind(org.as_str())
        .bind(id)
        .bind(key)
        .bind(&request.as_bytes()[..])
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}
