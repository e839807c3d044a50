//! `wasi:keyvalue` over the session's key-values.

use async_trait::async_trait;
use fumehood_core::{id::SessionId, name::OrgName};
use fumehood_policy::files::KvAccess;
use fumehood_sandbox::ports::{KeyPage, KeyValueError, KeyValues};
use fumehood_store::{
    Store, StoreError,
    record::{Owner, PageRequest},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Keys of one page.
const PAGE: u32 = 100;
/// How many cursors a call may go on from: those it was handed last.
const CURSORS: usize = 64;

/// The session's key-values, as far as `access` goes.
pub(crate) fn key_values(
    store: &Arc<dyn Store>,
    org: OrgName,
    session: SessionId,
    access: KvAccess,
) -> Arc<dyn KeyValues> {
    Arc::new(SessionKeyValues {
        store: Arc::clone(store),
        owner: Owner::Session(org, session),
        access,
        cursors: Mutex::default(),
    })
}

struct SessionKeyValues {
    store: Arc<dyn Store>,
    owner: Owner,
    access: KvAccess,
    cursors: Mutex<Cursors>,
}

/// The cursor of `wasi:keyvalue` is a number, the store's a text: which number stands for which text, in this call.
#[derive(Default)]
struct Cursors {
    handed_out: u64,
    last: VecDeque<(u64, String)>,
}

impl Cursors {
    fn hand_out(&mut self, text: String) -> u64 {
        self.handed_out += 1;
        if self.last.len() == CURSORS {
            self.last.pop_front();
        }
        self.last.push_back((self.handed_out, text));
        self.handed_out
    }

    fn find(&self, number: u64) -> Option<String> {
        let (_, text) = self.last.iter().find(|(handed_out, _)| *handed_out == number)?;
        Some(text.clone())
    }
}

impl SessionKeyValues {
    fn may_read(&self) -> Result<(), KeyValueError> {
        if self.access.can_read() {
            Ok(())
        } else {
            Err(KeyValueError::Denied)
        }
    }

    fn cursors(&self) -> MutexGuard<'_, Cursors> {
        // Every change leaves it consistent.
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn may_write(&self) -> Result<(), KeyValueError> {
        if self.access.can_write() {
            Ok(())
        } else {
            Err(KeyValueError::Denied)
        }
    }
}

#[async_trait]
impl KeyValues for SessionKeyValues {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        self.may_read()?;
        self.store.kv_get(&self.owner, key).await.map_err(for_guest)
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        self.may_write()?;
        self.store.kv_set(&self.owner, key, &value).await.map_err(for_guest)
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.may_write()?;
        self.store
            .kv_delete(&self.owner, key)
            .await
            .map(|_| ())
            .map_err(for_guest)
    }

    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        Ok(self.get(key).await?.is_some())
    }

    // THREAT[T-box-kv-quota]: a page is one query, wherever it is.
    async fn list(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        self.may_read()?;
        let after = match cursor {
            None => None,
            Some(number) => Some(self.cursors().find(number).ok_or_else(|| {
                KeyValueError::Other(format!(
                    "{number} is none of the last {CURSORS} cursors that this call was given; list again from the start"
                ))
            })?),
        };
        let request = PageRequest { after, limit: PAGE };
        let page = self.store.kv_keys(&self.owner, "", &request).await.map_err(for_guest)?;
        Ok(KeyPage {
            keys: page.items,
            cursor: page.next.map(|next| self.cursors().hand_out(next)),
        })
    }
}

/// What a guest is told; what the operator needs goes to the log.
fn for_guest(error: StoreError) -> KeyValueError {
    match error {
        StoreError::Invalid { reason } => KeyValueError::Other(reason),
        error @ StoreError::Archived => KeyValueError::Other(error.to_string()),
        StoreError::Full { of, limit } => KeyValueError::Other(format!(
            "the session's key-values would pass their limit of {limit} {of}; delete some, store less, or have the operator \
             raise `{}` in `[kv]`",
            if of == "keys" { "entries" } else { "bytes" }
        )),
        error => {
            tracing::error!(%error, "a key-value operation failed");
            KeyValueError::Other("the host's store is not available; try again later".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{event::NewEvent, now};
    use fumehood_policy::authority::SessionNarrowing;
    use fumehood_store::{DataDir, KvQuota, MasterKey, SqliteStore, StoreUrl, record::Session};

    async fn bucket(quota: KvQuota) -> (tempfile::TempDir, Arc<dyn KeyValues>) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).await.unwrap();
        let keys = MasterKey::random().unwrap().into();
        let store = SqliteStore::open_within(&data, &StoreUrl::InDataDir, &keys, quota).await;
        let store: Arc<dyn Store> = Arc::new(store.unwrap());
        let org = OrgName::default_org();
        store.create_org(&org).await.unwrap();
        let session = Session {
            id: SessionId::new(),
            org: org.clone(),
            agent: "assistant".parse().unwrap(),
            title: None,
            metadata: serde_json::json!({}),
            narrowing: SessionNarrowing::default(),
            created: now(),
            updated: now(),
            archived: None,
        };
        store.create_session(&session, &[] as &[NewEvent]).await.unwrap();
        (dir, key_values(&store, org, session.id, KvAccess::ReadWrite))
    }

    #[tokio::test]
    async fn pages_of_keys_go_on_where_the_last_one_ended_whatever_is_set_meanwhile() {
        let (_dir, bucket) = bucket(KvQuota::default()).await;
        for number in 100..350 {
            bucket.set(&number.to_string(), vec![]).await.unwrap();
        }
        let mut page = bucket.list(None).await.unwrap();
        let (mut seen, first) = (Vec::new(), page.cursor);
        loop {
            seen.append(&mut page.keys);
            // Before all that are still to come.
            bucket.set(&format!("0{}", seen.len()), vec![]).await.unwrap();
            match page.cursor {
                Some(cursor) => page = bucket.list(Some(cursor)).await.unwrap(),
                None => break,
            }
        }
        let expected: Vec<String> = (100..350).map(|number: u32| number.to_string()).collect();
        assert_eq!(seen, expected);
        assert_eq!(bucket.list(first).await.unwrap().keys[0], "200", "a cursor again");
    }

    #[tokio::test]
    async fn a_cursor_that_was_not_handed_out_or_long_ago_is_refused() {
        let (_dir, bucket) = bucket(KvQuota::default()).await;
        for number in 0..=PAGE {
            bucket.set(&number.to_string(), vec![]).await.unwrap();
        }
        for cursor in [0, 1, 1 << 63, u64::MAX] {
            assert!(bucket.list(Some(cursor)).await.is_err(), "{cursor}");
        }
        let first = bucket.list(None).await.unwrap().cursor;
        for _ in 0..CURSORS {
            bucket.list(None).await.unwrap();
        }
        assert!(bucket.list(first).await.is_err(), "remembered without end");
    }

    #[tokio::test]
    async fn a_guest_is_told_which_quota_of_key_values_is_used_up() {
        let quota = KvQuota { entries: 2, bytes: 100 };
        let (_dir, bucket) = bucket(quota).await;
        let refusal = |result: Result<(), KeyValueError>| result.unwrap_err().to_string();
        let bytes = refusal(bucket.set("a", vec![0; 100]).await);
        assert!(
            bytes.contains("100 bytes") && bytes.contains("`bytes` in `[kv]`"),
            "{bytes}"
        );
        bucket.set("a", vec![]).await.unwrap();
        bucket.set("b", vec![]).await.unwrap();
        let entries = refusal(bucket.set("c", vec![]).await);
        assert!(
            entries.contains("2 keys") && entries.contains("`entries` in `[kv]`"),
            "{entries}"
        );
    }
}
