//! `wasi:keyvalue/store` over the call's [`KeyValues`](crate::ports::KeyValues).
//!
//! A session has one bucket. Whether it may be read or written is decided here, by the call's
//! authority, before the port is asked.

use crate::{
    bindings::wasi::keyvalue::store::{Error, Host, HostBucket, KeyResponse},
    call::Denial,
    ports::KeyValueError,
    state::CallState,
};
use fumehood_policy::files::KvAccess;
use wasmtime::component::Resource;

/// An open bucket: there is but one, so it holds nothing.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Bucket;

type Answer<T> = wasmtime::Result<Result<T, Error>>;

impl From<KeyValueError> for Error {
    fn from(error: KeyValueError) -> Self {
        match error {
            KeyValueError::Denied => Self::AccessDenied,
            KeyValueError::Other(message) => Self::Other(message),
        }
    }
}

impl CallState {
    /// Whether the bucket may be accessed that far. `wasi:keyvalue` has no words for a refusal, so they go into the report.
    fn allows(&self, bucket: &Resource<Bucket>, wanted: KvAccess) -> wasmtime::Result<bool> {
        self.table.get(bucket)?;
        Ok(self.may(wanted))
    }

    fn may(&self, wanted: KvAccess) -> bool {
        self.authority
            .may_use_key_values(wanted)
            .map_err(|refusal| self.log.deny(Denial::new(refusal.message)))
            .is_ok()
    }
}

impl Host for CallState {
    fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        if !self.may(KvAccess::Read) {
            return Ok(Err(Error::AccessDenied));
        }
        match identifier.as_str() {
            "" | "default" => Ok(Ok(self.table.push(Bucket)?)),
            _ => Ok(Err(Error::NoSuchStore)),
        }
    }
}

impl HostBucket for CallState {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        if !self.allows(&bucket, KvAccess::Read)? {
            return Ok(Err(Error::AccessDenied));
        }
        Ok(self.ports.key_values.get(&key).await.map_err(Into::into))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        if !self.allows(&bucket, KvAccess::ReadWrite)? {
            return Ok(Err(Error::AccessDenied));
        }
        Ok(self.ports.key_values.set(&key, value).await.map_err(Into::into))
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        if !self.allows(&bucket, KvAccess::ReadWrite)? {
            return Ok(Err(Error::AccessDenied));
        }
        Ok(self.ports.key_values.delete(&key).await.map_err(Into::into))
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        if !self.allows(&bucket, KvAccess::Read)? {
            return Ok(Err(Error::AccessDenied));
        }
        Ok(self.ports.key_values.exists(&key).await.map_err(Into::into))
    }

    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<KeyResponse> {
        if !self.allows(&bucket, KvAccess::Read)? {
            return Ok(Err(Error::AccessDenied));
        }
        Ok(match self.ports.key_values.list(cursor).await {
            Ok(page) => Ok(KeyResponse {
                keys: page.keys,
                cursor: page.cursor,
            }),
            Err(error) => Err(error.into()),
        })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}
