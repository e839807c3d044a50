//! `wasi:keyvalue` over the session's key-values.

use async_trait::async_trait;
use fumehood_core::{id::SessionId, name::OrgName};
use fumehood_policy::files::KvAccess;
use fumehood_sandbox::ports::{KeyPage, KeyValueError, KeyValues};
use fumehood_store::{
    Store, StoreError,
    record::{Owner, PageRequest},
};
use std::sync::Arc;

/// Keys of one page.
const PAGE: u32 = 100;

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
    })
}

struct SessionKeyValues {
    store: Arc<dyn Store>,
    owner: Owner,
    access: KvAccess,
}

impl SessionKeyValues {
    fn may_read(&self) -> Result<(), KeyValueError> {
        if self.access.can_read() {
            Ok(())
        } else {
            Err(KeyValueError::Denied)
        }
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

    /// The cursor of `wasi:keyvalue` is a number, the store's a key: the number counts pages from the start.
    async fn list(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        self.may_read()?;
        let wanted = cursor.unwrap_or(0);
        let mut request = PageRequest {
            after: None,
            limit: PAGE,
        };
        for number in 0..=wanted {
            let page = self.store.kv_keys(&self.owner, "", &request).await.map_err(for_guest)?;
            if number == wanted {
                return Ok(KeyPage {
                    keys: page.items,
                    cursor: page.next.is_some().then_some(wanted + 1),
                });
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => break,
            }
        }
        Ok(KeyPage::default())
    }
}

/// What a guest is told; what the operator needs goes to the log.
fn for_guest(error: StoreError) -> KeyValueError {
    match error {
        StoreError::Invalid { reason } => KeyValueError::Other(reason),
        error => {
            tracing::error!(%error, "a key-value operation failed");
            KeyValueError::Other("the host's store is not available; try again later".into())
        }
    }
}
