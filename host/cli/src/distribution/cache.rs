//! Components that were fetched before, by their digest, so that the same installation can be made again without a network.
//!
//! Nothing here is trusted: what is read is of the digest that was asked for, or as if it were not there. Files may be deleted at any time.

use super::Endorsement;
use anyhow::Context as _;
use fumehood_core::digest::Digest;
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// A component that was kept.
pub(crate) struct Kept {
    pub(crate) wasm: Vec<u8>,
    pub(crate) endorsement: Option<Endorsement>,
}

/// A folder of components.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// That in this folder, which need not be there yet.
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// A component, and who vouches for it as far as that was kept.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Kept> {
        let wasm = self.code(digest)?;
        let endorsement = fs::read(self.beside(digest)).ok();
        // Whoever relies on it checks it.
        let endorsement = endorsement.and_then(|text| serde_json::from_slice(&text).ok());
        Some(Kept { wasm, endorsement })
    }

    /// A component alone.
    // THREAT[T-supply-digest]: whoever can write to the folder can take components away, and put none in their place.
    pub(crate) fn code(&self, digest: &Digest) -> Option<Vec<u8>> {
        fs::read(self.file(digest))
            .ok()
            .filter(|bytes| Digest::of(bytes) == *digest)
    }

    /// Keeps a component, and who vouches for it.
    pub(crate) fn put(&self, bytes: &[u8], endorsement: Option<&Endorsement>) -> anyhow::Result<()> {
        let digest = Digest::of(bytes);
        let kept = || {
            fs::create_dir_all(&self.dir)?;
            if let Some(endorsement) = endorsement {
                self.write(&self.beside(&digest), &serde_json::to_vec(endorsement)?)?;
            }
            if self.code(&digest).is_none() {
                self.write(&self.file(&digest), bytes)?;
            }
            io::Result::Ok(())
        };
        kept().with_context(|| format!("cannot keep the component in {}", self.dir.display()))
    }

    /// Whoever reads it meanwhile has what was there before or the whole.
    fn write(&self, to: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(to).map_err(|error| error.error)?;
        Ok(())
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.wasm", digest.to_hex()))
    }

    fn beside(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.signature.json", digest.to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_in_the_cache_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(&dir.path().join("components"));
        let digest = Digest::of(b"one");
        assert_eq!(cache.code(&digest), None);
        cache.put(b"one", None).unwrap();
        assert_eq!(cache.code(&digest).as_deref(), Some(&b"one"[..]));
        fs::write(cache.file(&digest), b"two").unwrap();
        assert_eq!(cache.code(&digest), None);
        cache.put(b"one", None).unwrap();
        assert_eq!(cache.code(&digest).as_deref(), Some(&b"one"[..]));
        assert_eq!(fs::read_dir(&cache.dir).unwrap().count(), 1);
    }
}
