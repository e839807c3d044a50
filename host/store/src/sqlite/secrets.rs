//! Secrets: sealed before the writer sees them, opened only for [`Secrets::secrets_in_effect`].

use super::{
    SqliteStore, cursor,
    cursor::List,
    decode, failed, insert_failed,
    key_values::{owner_word, session_bytes, session_of},
    sessions,
    writer::BoxFuture,
};
use crate::{
    api::{Result, Secrets, SecretsStamp, StoreError},
    envelope::{Place, Vault},
    faults::Point,
    record::{Owner, Page, PageRequest},
};
use async_trait::async_trait;
use fumehood_core::{
    id::SessionId,
    name::{OrgName, SecretName},
};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::sqlite::SqliteConnection;
use std::collections::BTreeMap;

const LARGEST: usize = 64 * 1024;
/// What one owner may have: the guard holds every value in effect, in all its forms, in memory.
const MOST: i64 = 1000;
/// The same in bytes of their values. The guard takes a few hundred times as much in the worst case.
const MOST_BYTES: i64 = 96 << 10;
/// Another task set the same secret between our look and our write: look again. Each round somebody has made progress.
const ROUNDS: u32 = 16;

type Row = (Option<Vec<u8>>, String, i64, String);

/// About how many bytes the values have that are stored in so many envelopes and in a new one. An envelope is base64 of the
/// value, and something that is the same in each.
fn bytes_of_values(count: i64, stored: i64, envelope: &str, value_bytes: usize) -> i64 {
    let length = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX / 4);
    let frame = length(envelope.len()) - length(value_bytes) * 4 / 3;
    (stored - count * frame).max(0) * 3 / 4 + length(value_bytes)
}

/// Notes that a session is used, if it is a session's. `false`: there is none (any more).
async fn use_owner(connection: &mut SqliteConnection, owner: &Owner) -> Result<bool> {
    match owner {
        Owner::Org(_) => Ok(true),
        Owner::Session(org, session) => sessions::touch(connection, org, *session).await,
    }
}

/// The value of a row: its session, its version and what it seals.
pub(super) fn open_sealed(
    vault: &Vault,
    org: &OrgName,
    name: &SecretName,
    (session, version, envelope): (Option<Vec<u8>>, i64, &str),
) -> Result<SecretString> {
    let session = session
        .map(|id| decode::uuid(&id, "a secret's session").map(SessionId::from_uuid))
        .transpose()?;
    let place = Place {
        org,
        session,
        name,
        version,
    };
    let plain = vault.open(&place, envelope)?;
    let text = std::str::from_utf8(&plain).map_err(|_| decode::corrupt("a secret's value"))?;
    Ok(SecretString::from(text))
}

impl SqliteStore {
    async fn secret_version(&self, owner: &Owner, name: &SecretName) -> Result<i64> {
        let version: Option<i64> = sqlx::query_scalar(
            "SELECT version FROM secrets WHERE org = ?1 AND ifnull(session, x'') = ?2 AND name = ?3",
        )
        .bind(owner.org().as_str())
        .bind(session_bytes(owner))
        .bind(name.as_str())
        .fetch_optional(self.readers())
        .await
        .map_err(failed)?;
        Ok(version.unwrap_or(0))
    }

    /// Writes an envelope if the secret still has the version before it. `false`: it has not.
    // THREAT[T-org-scan]
    async fn replace_secret(
        &self,
        owner: &Owner,
        name: &SecretName,
        version: i64,
        (envelope, value_bytes): (String, usize),
    ) -> Result<bool> {
        let (of, name) = (owner.clone(), name.clone());
        self.change_secret((owner, Point::SecretSet), move |connection| {
            let owner = of;
            Box::pin(async move {
                if !use_owner(connection, &owner).await? {
                    return Err(StoreError::Gone { what: "session" });
                }
                let (others, bytes): (i64, i64) = sqlx::query_as(
                    "SELECT count(*), ifnull(sum(length(envelope)), 0) FROM secrets \
                     WHERE org = ?1 AND ifnull(session, x'') = ?2 AND name <> ?3",
                )
                .bind(owner.org().as_str())
                .bind(session_bytes(&owner))
                .bind(name.as_str())
                .fetch_one(&mut *connection)
                .await
                .map_err(failed)?;
                if others >= MOST || bytes_of_values(others, bytes, &envelope, value_bytes) > MOST_BYTES {
                    return Err(StoreError::Invalid {
                        reason: format!(
                            "an org or session has at most {MOST} secrets, of about {} KiB together: delete some first",
                            MOST_BYTES >> 10
                        ),
                    });
                }
                let result = sqlx::query(
                    "INSERT INTO secrets (org, session, name, version, envelope) VALUES (?1, nullif(?2, x''), ?3, ?4, ?5) \
                     ON CONFLICT (org, ifnull(session, x''), name) DO UPDATE SET version = ?4, envelope = ?5 \
                     WHERE version = ?4 - 1",
                )
                .bind(owner.org().as_str())
                .bind(session_bytes(&owner))
                .bind(name.as_str())
                .bind(version)
                .bind(envelope)
                .execute(connection)
                .await
                .map_err(|error| insert_failed(error, owner_word(&owner), || "the secret".into()))?;
                Ok(result.rows_affected() > 0)
            })
        })
        .await
    }

    /// A write, and the note that it happened: both or neither, also when the caller goes away in between.
    async fn change_secret<T, F>(&self, (owner, point): (&Owner, Point), job: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let (store, owner) = (self.clone(), owner.clone());
        let changing = tokio::spawn(async move {
            let done = store.write(point, job).await;
            store.inner.stamps.changed(&owner);
            done
        });
        changing
            .await
            .unwrap_or_else(|_| Err(super::unavailable("the write was broken off: look whether it happened")))
    }

    /// The org's rows, then the session's.
    async fn rows_of(&self, org: &OrgName, session: Option<SessionId>) -> Result<Vec<Row>> {
        sqlx::query_as(
            "SELECT session, name, version, envelope FROM secrets \
             WHERE org = ?1 AND ifnull(session, x'') IN (x'', ?2) \
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = session AND deleting IS NOT NULL) \
             ORDER BY session IS NOT NULL, name",
        )
        .bind(org.as_str())
        .bind(session.map(|id| id.uuid().as_bytes().to_vec()).unwrap_or_default())
        .fetch_all(self.readers())
        .await
        .map_err(failed)
    }

    /// Opens one row. Anything wrong with it is an error: a secret is never silently absent.
    pub(super) fn open_secret(
        &self,
        org: &OrgName,
        name: &SecretName,
        row: (Option<Vec<u8>>, i64, &str),
    ) -> Result<SecretString> {
        open_sealed(&self.inner.vault, org, name, row)
    }

    /// Whether any session of the org has secrets of its own.
    async fn sessions_have_secrets(&self, org: &OrgName) -> Result<bool> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM secrets WHERE org = ?1 AND session IS NOT NULL)")
            .bind(org.as_str())
            .fetch_one(self.readers())
            .await
            .map_err(failed)
    }
}

#[async_trait]
impl Secrets for SqliteStore {
    async fn secret_set(&self, owner: &Owner, name: &SecretName, value: &SecretString) -> Result<()> {
        if value.expose_secret().len() > LARGEST {
            return Err(StoreError::Invalid {
                reason: format!("a secret has at most {LARGEST} bytes"),
            });
        }
        for _ in 0..ROUNDS {
            let version = self.secret_version(owner, name).await? + 1;
            let place = Place {
                org: owner.org(),
                session: session_of(owner),
                name,
                version,
            };
            // THREAT[T-sec-at-rest]
            let envelope = self.inner.vault.seal(&place, value.expose_secret())?;
            let sealed = (envelope, value.expose_secret().len());
            if self.replace_secret(owner, name, version, sealed).await? {
                return Ok(());
            }
        }
        Err(super::unavailable("too many tasks set this secret at once: try again"))
    }

    async fn secret_delete(&self, owner: &Owner, name: &SecretName) -> Result<bool> {
        let (of, name) = (owner.clone(), name.clone());
        self.change_secret((owner, Point::SecretDelete), move |connection| {
            Box::pin(async move {
                if !use_owner(connection, &of).await? {
                    return Ok(false);
                }
                let result =
                    sqlx::query("DELETE FROM secrets WHERE org = ?1 AND ifnull(session, x'') = ?2 AND name = ?3")
                        .bind(of.org().as_str())
                        .bind(session_bytes(&of))
                        .bind(name.as_str())
                        .execute(connection)
                        .await
                        .map_err(failed)?;
                Ok(result.rows_affected() > 0)
            })
        })
        .await
    }

    async fn secret_names(&self, owner: &Owner, page: &PageRequest) -> Result<Page<SecretName>> {
        let limit = cursor::limit(page);
        let after: Option<String> = cursor::place(page, List::Secrets)?;
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT name FROM secrets WHERE org = ?1 AND ifnull(session, x'') = ?2 AND name > ?3 \
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = ?2 AND deleting IS NOT NULL) ORDER BY name LIMIT ?4",
        )
        .bind(owner.org().as_str())
        .bind(session_bytes(owner))
        .bind(after.unwrap_or_default())
        .bind(i64::from(limit) + 1)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        let names = names.into_iter().map(|name| decode::name(name, "a secret's name"));
        let names = names.collect::<Result<_>>()?;
        cursor::page(names, limit, List::Secrets, |last: &SecretName| {
            last.as_str().to_owned()
        })
    }

    async fn secrets_in_effect(
        &self,
        org: &OrgName,
        session: Option<SessionId>,
    ) -> Result<Vec<(SecretName, SecretString)>> {
        let each = self.secrets_each(org, session).await?.into_iter();
        let effective: BTreeMap<_, _> = each.map(|(name, value)| Ok((name, value?))).collect::<Result<_>>()?;
        Ok(effective.into_iter().collect())
    }

    async fn secrets_each(
        &self,
        org: &OrgName,
        session: Option<SessionId>,
    ) -> Result<Vec<(SecretName, Result<SecretString>)>> {
        let rows = self.rows_of(org, session).await?.into_iter();
        rows.map(|(owner, name, version, envelope)| {
            let name: SecretName = decode::name(name, "a secret's name")?;
            let value = self.open_secret(org, &name, (owner, version, &envelope));
            Ok((name, value))
        })
        .collect()
    }

    async fn secrets_stamp(&self, org: &OrgName, session: Option<SessionId>) -> Result<Option<SecretsStamp>> {
        if !self.inner.stamps.tells() {
            return Ok(None);
        }
        if let Some(stamp) = self.inner.stamps.of(org, session) {
            return Ok(Some(stamp));
        }
        self.inner.stamps.learn(org, self.sessions_have_secrets(org).await?);
        Ok(self.inner.stamps.of(org, session))
    }
}
