//! Key-values.

use super::{SqliteStore, cursor, cursor::List, decode, failed, insert_failed};
use crate::{
    api::{KeyValues, Result, StoreError},
    faults::Point,
    quotas::KvQuota,
    record::{Owner, Page, PageRequest},
};
use async_trait::async_trait;
use fumehood_core::{id::SessionId, now};
use sqlx::sqlite::SqliteConnection;

const LONGEST_KEY: usize = 255;
const LARGEST_VALUE: usize = 1024 * 1024;

/// The session column: nothing for what belongs to the whole org.
pub(super) fn session_of(owner: &Owner) -> Option<SessionId> {
    match owner {
        Owner::Org(_) => None,
        Owner::Session(_, session) => Some(*session),
    }
}

/// The session as indexes have it: empty for the whole org.
pub(super) fn session_bytes(owner: &Owner) -> Vec<u8> {
    session_of(owner)
        .map(|id| id.uuid().as_bytes().to_vec())
        .unwrap_or_default()
}

/// What is missing when an owner's row can't be written.
pub(super) const fn owner_word(owner: &Owner) -> &'static str {
    match owner {
        Owner::Org(_) => "org",
        Owner::Session(..) => "session",
    }
}

fn check(key: &str, value: &[u8]) -> Result<()> {
    let reason = if key.is_empty() || key.len() > LONGEST_KEY {
        format!("a key has 1 to {LONGEST_KEY} bytes, this one {}", key.len())
    } else if value.len() > LARGEST_VALUE {
        format!("a value has at most {LARGEST_VALUE} bytes, this one {}", value.len())
    } else {
        return Ok(());
    };
    Err(StoreError::Invalid { reason })
}

/// The first text after all that begin with `prefix`; `None` if there is none.
fn end_of(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // The successor in code points, which is the order of UTF-8 bytes; it skips the surrogates.
        if let Some(next) = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32) {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

/// What a key holds, by its length.
async fn length_of(connection: &mut SqliteConnection, owner: &Owner, key: &str) -> Result<Option<i64>> {
    sqlx::query_scalar(
        "SELECT length(value) FROM key_values WHERE org = ?1 AND ifnull(session, x'') = ?2 AND key = ?3 \
         AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = ?2 AND deleting IS NOT NULL)",
    )
    .bind(owner.org().as_str())
    .bind(session_bytes(owner))
    .bind(key)
    .fetch_optional(connection)
    .await
    .map_err(failed)
}

/// What a change makes of what a session's key-values take.
#[derive(Debug, Clone, Copy)]
struct Growth {
    entries: i64,
    bytes: i64,
}

impl Growth {
    /// `key` has a value of the second length instead of the first.
    fn new(key: &str, before: Option<i64>, after: Option<i64>) -> Self {
        let of_key = i64::try_from(key.len()).unwrap_or(i64::MAX);
        let taken = |len: Option<i64>| len.map_or(0, |len| len.saturating_add(of_key));
        Self {
            entries: i64::from(after.is_some()) - i64::from(before.is_some()),
            bytes: taken(after) - taken(before),
        }
    }
}

/// Keeps the account of a session, in the transaction of the change.
// THREAT[T-box-kv-quota]
async fn account(connection: &mut SqliteConnection, owner: &Owner, growth: Growth, quota: KvQuota) -> Result<()> {
    let Owner::Session(org, session) = owner else {
        return Ok(());
    };
    let used: Option<(i64, i64, bool)> = sqlx::query_as(
        "UPDATE sessions SET kv_entries = kv_entries + ?3, kv_bytes = kv_bytes + ?4, updated = max(updated, ?5) \
         WHERE org = ?1 AND id = ?2 AND deleting IS NULL RETURNING kv_entries, kv_bytes, archived IS NOT NULL",
    )
    .bind(org.as_str())
    .bind(&session.uuid().as_bytes()[..])
    .bind(growth.entries)
    .bind(growth.bytes)
    .bind(decode::to_nanos(now())?)
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    let (entries, bytes, archived) = used.ok_or(StoreError::Gone { what: "session" })?;
    if archived {
        return Err(StoreError::Archived);
    }
    let parts = [
        ("keys", growth.entries, entries, quota.entries),
        ("bytes", growth.bytes, bytes, quota.bytes),
    ];
    for (of, growth, used, limit) in parts {
        if growth > 0 && u64::try_from(used).is_ok_and(|used| used > limit) {
            // The change is undone with the error.
            return Err(StoreError::Full { of, limit });
        }
    }
    Ok(())
}

#[async_trait]
impl KeyValues for SqliteStore {
    async fn kv_get(&self, owner: &Owner, key: &str) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar(
            "SELECT value FROM key_values WHERE org = ?1 AND ifnull(session, x'') = ?2 AND key = ?3 \
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = ?2 AND deleting IS NOT NULL)",
        )
        .bind(owner.org().as_str())
        .bind(session_bytes(owner))
        .bind(key)
        .fetch_optional(self.readers())
        .await
        .map_err(failed)
    }

    async fn kv_set(&self, owner: &Owner, key: &str, value: &[u8]) -> Result<()> {
        check(key, value)?;
        let (owner, key, value) = (owner.clone(), key.to_owned(), value.to_vec());
        let quota = self.inner.key_values;
        self.write(Point::KeyValueSet, move |connection| {
            Box::pin(async move {
                let before = length_of(connection, &owner, &key).await?;
                let after = i64::try_from(value.len()).ok();
                account(connection, &owner, Growth::new(&key, before, after), quota).await?;
                sqlx::query(
                    "INSERT INTO key_values (org, session, key, value) VALUES (?1, nullif(?2, x''), ?3, ?4) \
                     ON CONFLICT (org, ifnull(session, x''), key) DO UPDATE SET value = ?4",
                )
                .bind(owner.org().as_str())
                .bind(session_bytes(&owner))
                .bind(key)
                .bind(value)
                .execute(connection)
                .await
                .map_err(|error| insert_failed(error, owner_word(&owner), || "the key".into()))?;
                Ok(())
            })
        })
        .await
    }

    async fn kv_delete(&self, owner: &Owner, key: &str) -> Result<bool> {
        let (owner, key) = (owner.clone(), key.to_owned());
        let quota = self.inner.key_values;
        self.write(Point::KeyValueDelete, move |connection| {
            Box::pin(async move {
                let Some(before) = length_of(connection, &owner, &key).await? else {
                    return Ok(false);
                };
                account(connection, &owner, Growth::new(&key, Some(before), None), quota).await?;
                let result =
                    sqlx::query("DELETE FROM key_values WHERE org = ?1 AND ifnull(session, x'') = ?2 AND key = ?3")
                        .bind(owner.org().as_str())
                        .bind(session_bytes(&owner))
                        .bind(key)
                        .execute(connection)
                        .await
                        .map_err(failed)?;
                Ok(result.rows_affected() > 0)
            })
        })
        .await
    }

    async fn kv_keys(&self, owner: &Owner, prefix: &str, page: &PageRequest) -> Result<Page<String>> {
        let limit = cursor::limit(page);
        let after: Option<String> = cursor::place(page, List::KeyValues)?;
        let keys: Vec<String> = sqlx::query_scalar(
            "SELECT key FROM key_values WHERE org = ?1 AND ifnull(session, x'') = ?2 \
             AND key >= ?3 AND (?4 IS NULL OR key < ?4) AND (?5 IS NULL OR key > ?5) \
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = ?2 AND deleting IS NOT NULL) ORDER BY key LIMIT ?6",
        )
        .bind(owner.org().as_str())
        .bind(session_bytes(owner))
        .bind(prefix)
        .bind(end_of(prefix))
        .bind(after)
        .bind(i64::from(limit) + 1)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        cursor::page(keys, limit, List::KeyValues, String::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(end_of("a"), Some("b".into()));
        assert_eq!(end_of("az"), Some("a{".into()));
        assert_eq!(end_of("a\u{d7ff}"), Some("a\u{e000}".into()));
        assert_eq!(end_of("a\u{10ffff}"), Some("b".into()));
        assert_eq!(end_of(""), None);
        assert_eq!(end_of("\u{10ffff}"), None);
    }
}
