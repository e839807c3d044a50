//! Putting the secrets under another master key, a batch at a time.

use super::{SqliteStore, decode, failed};
use crate::{
    api::{Result, StoreError},
    envelope::{Place, Vault},
    faults::Point,
};
use fumehood_core::{
    id::SessionId,
    name::{OrgName, SecretName},
};
use sqlx::sqlite::SqliteConnection;
use std::sync::Arc;

/// Rows of one transaction.
const BATCH: i64 = 100;

/// What became of one batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Put under the first key.
    pub(crate) rewrapped: u64,
    /// Under it already.
    pub(crate) unchanged: u64,
    /// Those that no key opens, in words.
    pub(crate) failed: Vec<String>,
    /// Where the next one begins; absent after the last.
    pub(crate) next: Option<i64>,
}

type Row = (i64, String, Option<Vec<u8>>, String, i64, String);

impl SqliteStore {
    /// Under which master keys the secrets are, by the keys' names, and how many each.
    pub(crate) async fn secret_keys(&self) -> Result<Vec<(String, u64)>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        secret_keys(&mut connection).await
    }

    /// Puts the secrets after `after` under the first key: at most a batch, whole or not at all.
    pub(crate) async fn rewrap_secrets(&self, after: i64) -> Result<Batch> {
        let inner = Arc::clone(&self.inner);
        self.write(Point::SecretsRewrap, move |connection| {
            Box::pin(async move { batch(connection, &inner.vault, after).await })
        })
        .await
    }

    /// Notes the first key as the one that the secrets are under.
    pub(crate) async fn note_key(&self) -> Result<()> {
        let name = self.inner.vault.fingerprint().to_owned();
        self.write(Point::MasterKeyNote, move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "INSERT INTO meta (key, value) VALUES ('master_key', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
                )
                .bind(name)
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }
}

/// Under which master keys the secrets are, by the keys' names, and how many each.
pub(crate) async fn secret_keys(connection: &mut SqliteConnection) -> Result<Vec<(String, u64)>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT CASE WHEN json_valid(envelope) THEN ifnull(json_extract(envelope, '$.key'), 'none') ELSE 'unreadable' END AS under, \
         count(*) FROM secrets GROUP BY under ORDER BY under",
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    Ok(rows
        .into_iter()
        .map(|(name, count)| (name, u64::try_from(count).unwrap_or(0)))
        .collect())
}

async fn batch(connection: &mut SqliteConnection, vault: &Vault, after: i64) -> Result<Batch> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT rowid, org, session, name, version, envelope FROM secrets WHERE rowid > ?1 ORDER BY rowid LIMIT ?2",
    )
    .bind(after)
    .bind(BATCH)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let mut done = Batch {
        next: rows.last().map(|row| row.0),
        ..Batch::default()
    };
    for row in rows {
        let id = row.0;
        match rewrapped(vault, row) {
            Ok(None) => done.unchanged += 1,
            Ok(Some(envelope)) => {
                sqlx::query("UPDATE secrets SET envelope = ?2 WHERE rowid = ?1")
                    .bind(id)
                    .bind(envelope)
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                done.rewrapped += 1;
            }
            Err(StoreError::Corrupt { reason }) => done.failed.push(reason),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn rewrapped(vault: &Vault, (_, org, session, name, version, envelope): Row) -> Result<Option<String>> {
    let org: OrgName = decode::name(org, "a secret's org")?;
    let name: SecretName = decode::name(name, "a secret's name")?;
    let session = session
        .map(|id| decode::uuid(&id, "a secret's session").map(SessionId::from_uuid))
        .transpose()?;
    let place = Place {
        org: &org,
        session,
        name: &name,
        version,
    };
    vault.rewrap(&place, &envelope)
}
