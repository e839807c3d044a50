//! API keys. A revoked key's row stays, so that its token can never be used again.

use super::{SqliteStore, decode, failed, insert_failed};
use crate::{
    api::{Keys, Result},
    faults::Point,
    record::Key,
};
use async_trait::async_trait;
use fumehood_core::{digest::Digest, id::KeyId, name::OrgName, now};

type Row = (Vec<u8>, String, String, i64);

fn key((id, org, label, created): Row) -> Result<Key> {
    Ok(Key {
        id: KeyId::from_uuid(decode::uuid(&id, "a key's id")?),
        org: decode::name(org, "a key's org")?,
        label,
        created: decode::from_nanos(created),
    })
}

#[async_trait]
impl Keys for SqliteStore {
    async fn create_key(&self, key: &Key, token: &Digest) -> Result<()> {
        let created = decode::to_nanos(key.created)?;
        let (key, token) = (key.clone(), *token);
        self.write(Point::KeyCreate, move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO keys (id, org, label, token, created) VALUES (?1, ?2, ?3, ?4, ?5)")
                    .bind(&key.id.uuid().as_bytes()[..])
                    .bind(key.org.as_str())
                    .bind(key.label.as_str())
                    .bind(&token.as_bytes()[..])
                    .bind(created)
                    .execute(connection)
                    .await
                    .map_err(|error| insert_failed(error, "org", || "a key of this id or token".into()))?;
                Ok(())
            })
        })
        .await
    }

    async fn key_by_token(&self, token: &Digest) -> Result<Option<Key>> {
        let row: Option<Row> =
            sqlx::query_as("SELECT id, org, label, created FROM keys WHERE token = ?1 AND revoked IS NULL")
                .bind(&token.as_bytes()[..])
                .fetch_optional(self.readers())
                .await
                .map_err(failed)?;
        row.map(key).transpose()
    }

    async fn keys(&self, org: &OrgName) -> Result<Vec<Key>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, org, label, created FROM keys WHERE org = ?1 AND revoked IS NULL ORDER BY created, id",
        )
        .bind(org.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter().map(key).collect()
    }

    async fn revoke_key(&self, org: &OrgName, id: KeyId) -> Result<bool> {
        let revoked = decode::to_nanos(now())?;
        let org = org.clone();
        self.write(Point::KeyRevoke, move |connection| {
            Box::pin(async move {
                let result = sqlx::query("UPDATE keys SET revoked = ?3 WHERE id = ?1 AND org = ?2 AND revoked IS NULL")
                    .bind(&id.uuid().as_bytes()[..])
                    .bind(org.as_str())
                    .bind(revoked)
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(result.rows_affected() > 0)
            })
        })
        .await
    }
}
