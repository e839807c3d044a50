//! The session's key-values: small values that outlive the call.
//!
//! Needs `[kv] access` in the manifest and in the grant.

use crate::{Failure, bindings::wasi::keyvalue::store as host};

/// The session's bucket.
#[derive(Debug)]
pub struct Bucket(host::Bucket);

/// Why a key-value operation did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// There is no such bucket.
    NoSuchBucket,
    /// The grant does not allow the operation.
    Denied,
    /// Anything else, such as a value that is too large.
    Other(String),
}

/// Opens the session's bucket.
///
/// # Errors
/// [`Error::Denied`] without a grant.
pub fn open() -> Result<Bucket, Error> {
    open_named("default")
}

/// Opens a bucket by name. A session has one, which is named `default`.
///
/// # Errors
/// [`Error::Denied`] without a grant, [`Error::NoSuchBucket`] for another name.
pub fn open_named(name: &str) -> Result<Bucket, Error> {
    if cfg!(not(target_family = "wasm")) {
        return Err(Error::Denied);
    }
    host::open(name).map(Bucket).map_err(Error::from_wit)
}

impl Bucket {
    /// The value of a key, if it has one.
    ///
    /// # Errors
    /// When the grant or the store refuses.
    pub fn get(&self, key: impl AsRef<str>) -> Result<Option<Vec<u8>>, Error> {
        self.0.get(key.as_ref()).map_err(Error::from_wit)
    }

    /// Sets the value of a key.
    ///
    /// # Errors
    /// When the grant or the store refuses.
    pub fn set(&self, key: impl AsRef<str>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.0.set(key.as_ref(), value.as_ref()).map_err(Error::from_wit)
    }

    /// Deletes a key; nothing happens if there is none.
    ///
    /// # Errors
    /// When the grant or the store refuses.
    pub fn delete(&self, key: impl AsRef<str>) -> Result<(), Error> {
        self.0.delete(key.as_ref()).map_err(Error::from_wit)
    }

    /// Whether a key has a value.
    ///
    /// # Errors
    /// When the grant or the store refuses.
    pub fn exists(&self, key: impl AsRef<str>) -> Result<bool, Error> {
        self.0.exists(key.as_ref()).map_err(Error::from_wit)
    }

    /// A page of keys, and the cursor of the next page if there is one.
    ///
    /// # Errors
    /// When the grant or the store refuses.
    pub fn keys(&self, cursor: Option<u64>) -> Result<(Vec<String>, Option<u64>), Error> {
        self.0
            .list_keys(cursor)
            .map(|page| (page.keys, page.cursor))
            .map_err(Error::from_wit)
    }
}

impl Error {
    fn from_wit(error: host::Error) -> Self {
        match error {
            host::Error::NoSuchStore => Self::NoSuchBucket,
            host::Error::AccessDenied => Self::Denied,
            host::Error::Other(message) => Self::Other(message),
        }
    }

    pub(crate) fn to_failure(&self) -> Failure {
        match self {
            Self::NoSuchBucket => Failure::not_found(self.to_string()),
            Self::Denied => Failure::denied(self.to_string()),
            Self::Other(_) => Failure::failed(self.to_string()),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoSuchBucket => {
                f.write_str("there is no such bucket of key-values: a session has one, named `default`")
            }
            Self::Denied => {
                f.write_str("the session's key-values are not granted to this tool: its grant needs `[kv] access`")
            }
            Self::Other(message) => write!(f, "the session's key-values cannot be used: {message}"),
        }
    }
}

impl std::error::Error for Error {}
