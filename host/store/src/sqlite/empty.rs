//! A database that has everything but content, as bytes: for hosts whose database goes with them, and that would make the same one at each
//! start.
//!
//! Bringing a new file to the schema of today takes every change that the schema ever had, some hundred statements. What comes of that
//! is always the same and names nothing of the host that made it, so it can be kept and copied. A copy is opened like any other
//! database: all that is looked at there, is looked at in it.

use super::open;
use crate::{data_dir::DataDir, disk, error::OpenError};
use fumehood_core::digest::{Digest, Digesting};
use std::{fs, io::Write as _, path::Path, sync::Arc};

/// A database that has everything but content.
#[derive(Clone)]
pub struct EmptyDatabase {
    bytes: Arc<[u8]>,
}

impl EmptyDatabase {
    /// Makes one. `dir` is an empty directory for that, which has nothing to be kept afterwards.
    ///
    /// # Errors
    /// When the system refuses.
    pub async fn make(dir: &Path) -> Result<Self, OpenError> {
        let dir = DataDir::open(dir).await?;
        let file = dir.path().join("empty.db");
        open::make_empty(&file).await?;
        let bytes = fs::read(&file).map_err(|error| OpenError::io(&file, &error))?;
        Ok(Self::from_kept(bytes))
    }

    /// What was [made](Self::make) before under the same [`Self::schema`]. These bytes are trusted as the program is.
    #[must_use]
    pub fn from_kept(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into() }
    }

    /// Of which schema those are that this version makes: another one has another digest.
    #[must_use]
    pub fn schema() -> Digest {
        let mut all = Digesting::default();
        for (version, checksum) in open::migrations() {
            all.update(&version.to_le_bytes());
            all.update(checksum);
        }
        all.finish()
    }

    /// To be kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes `file` a copy.
    pub(crate) fn copy_to(&self, file: &Path) -> Result<(), OpenError> {
        let written = disk::private_file(file).and_then(|mut copy| copy.write_all(&self.bytes));
        written.map_err(|error| OpenError::io(file, &error))
    }
}
