//! Components that were fetched before, by their digest, so that the same installation can be made again without a network.
//!
//! Nothing here is trusted: what is read is of the digest that was asked for, or as if it were not there. Files may be deleted at any time.
//! [`Cache::trim`] keeps it within a size.

use super::Endorsement;
use anyhow::Context as _;
use fumehood_core::digest::Digest;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// What the files of components end with, and what those that are being written begin with.
const CODE: &str = ".wasm";
const UNFINISHED: &str = ".unfinished-";
/// Longer than anybody writes to one.
const LONGEST_WRITE: Duration = Duration::from_secs(24 * 3600);

fn named(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

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
        let file = self.file(digest);
        let code = fs::read(&file).ok().filter(|bytes| Digest::of(bytes) == *digest)?;
        // When it was used last. In a folder that may not be written to nothing is trimmed either.
        let _ = File::open(&file).and_then(|file| file.set_modified(SystemTime::now()));
        Some(code)
    }

    /// Deletes what was not used for longest, until what is left has this size at most, in bytes, and what broken-off writes left. `needed`
    /// stays in any case, whatever its size. Others may do the same at the same time.
    pub(crate) fn trim(&self, most: u64, needed: &BTreeSet<Digest>) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // One that somebody else has deleted meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified()?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if name.starts_with(UNFINISHED) {
                if modified.elapsed().is_ok_and(|age| age > LONGEST_WRITE) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if let Some(digest) = name.strip_suffix(CODE).and_then(named) {
                let beside = fs::metadata(self.beside(&digest)).map_or(0, |beside| beside.len());
                kept.push((modified, digest, metadata.len() + beside));
            }
        }
        let mut size: u64 = kept.iter().map(|(_, _, size)| size).sum();
        kept.sort();
        for (_, digest, own) in kept.into_iter().filter(|(_, digest, _)| !needed.contains(digest)) {
            if size <= most {
                break;
            }
            for file in [self.file(&digest), self.beside(&digest)] {
                match fs::remove_file(file) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            size -= own;
        }
        Ok(())
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
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(to).map_err(|error| error.error)?;
        Ok(())
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}{CODE}", digest.to_hex()))
    }

    fn beside(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.signature.json", digest.to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_is_needed_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path());
        let codes = [b"one".as_slice(), b"two", b"six", b"ten"];
        let digests = codes.map(Digest::of);
        for (age, code) in (1..).zip(codes) {
            cache.put(code, None).unwrap();
            let file = File::open(cache.file(&Digest::of(code))).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(1000 - age))
                .unwrap();
        }
        let there = |digest: &Digest| cache.file(digest).exists();
        fs::write(cache.beside(&digests[1]), b"{}").unwrap();
        fs::write(dir.path().join("README"), b"somebody's own").unwrap();
        let left = dir.path().join(".unfinished-x");
        File::create(&left)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        // Used now: the oldest is the newest.
        assert!(cache.code(&digests[0]).is_some());
        cache.trim(1000, &BTreeSet::new()).unwrap();
        assert!(digests.iter().all(there) && !left.exists());
        cache.trim(6, &BTreeSet::from([digests[2]])).unwrap();
        assert_eq!(digests.map(|digest| there(&digest)), [true, false, true, false]);
        assert!(!cache.beside(&digests[1]).exists());
        cache.trim(0, &BTreeSet::from([digests[2]])).unwrap();
        assert_eq!(digests.map(|digest| there(&digest)), [false, false, true, false]);
        assert!(dir.path().join("README").exists());
    }

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
