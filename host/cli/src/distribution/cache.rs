//! Components that were fetched before, by their digest, so that the same installation can be made again without a network.
//!
//! Nothing here is trusted: what is read is of the digest that was asked for, or as if it were not there. Files may be deleted at any time.

use anyhow::Context as _;
use fumehood_core::digest::Digest;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

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

    /// A component.
    // THREAT[T-supply-digest]: whoever can write to the folder can take components away, and put none in their place.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        fs::read(self.file(digest))
            .ok()
            .filter(|bytes| Digest::of(bytes) == *digest)
    }

    /// Keeps a component.
    pub(crate) fn put(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let digest = Digest::of(bytes);
        if self.get(&digest).is_some() {
            return Ok(());
        }
        let kept = || {
            fs::create_dir_all(&self.dir)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(self.file(&digest)).map_err(|error| error.error)?;
            std::io::Result::Ok(())
        };
        kept().with_context(|| format!("cannot keep the component in {}", self.dir.display()))
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.wasm", digest.to_hex()))
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
        assert_eq!(cache.get(&digest), None);
        cache.put(b"one").unwrap();
        assert_eq!(cache.get(&digest).as_deref(), Some(&b"one"[..]));
        fs::write(cache.file(&digest), b"two").unwrap();
        assert_eq!(cache.get(&digest), None);
        cache.put(b"one").unwrap();
        assert_eq!(cache.get(&digest).as_deref(), Some(&b"one"[..]));
        assert_eq!(fs::read_dir(&cache.dir).unwrap().count(), 1);
    }
}
