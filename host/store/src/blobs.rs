//! Component code: one read-only file per digest.
//!
//! What is read is always the bytes of its digest: a file that was changed is refused, never returned. Code is kept before the row that
//! refers to it is written: [`Blobs::retain`] spares what was put a short while ago, by a clock that can't be set.

use crate::{
    data_dir::DataDir,
    disk,
    error::OpenError,
    faults::{self, Point},
};
use fumehood_core::{digest::Digest, id::EventId};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Where in a data directory.
const DIR: &str = "components";

/// Why code could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The file is not what its digest says.
    #[error(
        "the code kept as {digest} was changed on disk: remove the component and add it again from a source you trust"
    )]
    Changed {
        /// What it should be.
        digest: Digest,
    },
    /// The disk refused: nothing was changed.
    #[error("the component code is not available: {reason}")]
    Unavailable {
        /// In words, without paths.
        reason: String,
    },
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        Self::Unavailable {
            reason: disk::reason(&error),
        }
    }
}

/// A result of the blobs.
pub type Result<T> = std::result::Result<T, BlobError>;

/// The kept component code. Clones share it.
#[derive(Debug, Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// When code was put last, by this process: nobody else is adding any. Held while a file is made or removed.
    put: Mutex<BTreeMap<Digest, Instant>>,
    _data_dir: DataDir,
}

impl Blobs {
    /// Opens, or makes, `components/` in the data directory and sweeps what an interrupted write left there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(data_dir: &DataDir) -> std::result::Result<Self, OpenError> {
        let dir = data_dir.path().join(DIR);
        let swept = disk::private_dir(&dir).and_then(|()| sweep(&dir));
        swept.map_err(|error| OpenError::io(&dir, &error))?;
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                put: Mutex::default(),
                _data_dir: data_dir.clone(),
            }),
        })
    }

    /// Keeps code; it is durable when this resolves. Keeping the same code again counts as putting it (see [`Self::retain`]), and
    /// repairs a changed file.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    pub async fn put(&self, code: Vec<u8>) -> Result<Digest> {
        self.blocking(move |inner| {
            let digest = Digest::of(&code);
            let path = inner.path(&digest);
            // THREAT[T-keep-code]: nobody removes it between the look and the end of this.
            let mut put = inner.put();
            put.insert(digest, Instant::now());
            if !fs::read(&path).is_ok_and(|kept| kept == code) {
                let temporary = inner.dir.join(format!("{}.new", EventId::new().uuid().simple()));
                faults::around(Point::BlobPut, || disk::place(&temporary, &path, 0o400, &code))?;
            }
            Ok(digest)
        })
        .await
    }

    /// The code of a digest, if it is kept.
    ///
    /// # Errors
    /// [`BlobError::Changed`] if the file has other bytes, [`BlobError::Unavailable`].
    pub async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>> {
        let digest = *digest;
        self.blocking(move |inner| {
            let code = match fs::read(inner.path(&digest)) {
                Ok(code) => code,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            // THREAT[T-supply-digest]
            if Digest::of(&code) == digest {
                Ok(Some(code))
            } else {
                Err(BlobError::Changed { digest })
            }
        })
        .await
    }

    /// The code of a digest, if it is kept unchanged in a data directory that need not be opened: another process may have it.
    #[must_use]
    pub fn look(data_dir: &Path, digest: &Digest) -> Option<Vec<u8>> {
        let code = fs::read(file_in(&data_dir.join(DIR), digest)).ok()?;
        // THREAT[T-supply-digest]
        (Digest::of(&code) == *digest).then_some(code)
    }

    /// The digests kept, in order.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    pub async fn list(&self) -> Result<Vec<Digest>> {
        self.blocking(|inner| inner.list()).await
    }

    /// Removes code. `false` if it was not kept.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`].
    pub async fn remove(&self, digest: &Digest) -> Result<bool> {
        let digest = *digest;
        self.blocking(move |inner| {
            let mut put = inner.put();
            put.remove(&digest);
            inner.remove(&digest)
        })
        .await
    }

    /// Removes all code that isn't in `referenced` and was not put within `grace`; gives what it removed. `referenced` was read
    /// after everything whose grace is over was written: the grace spares code whose component is being added just now, since its
    /// code is put before its row. A grace of zero spares nothing.
    ///
    /// # Errors
    /// [`BlobError::Unavailable`]; some may be removed then.
    // THREAT[T-keep-code]
    pub async fn retain(&self, referenced: BTreeSet<Digest>, grace: Duration) -> Result<Vec<Digest>> {
        self.blocking(move |inner| {
            let mut removed = Vec::new();
            for digest in inner.list()?.into_iter().filter(|digest| !referenced.contains(digest)) {
                // One by one, so that whoever puts code waits for no more than one removal.
                let mut put = inner.put();
                put.retain(|_, at| at.elapsed() < grace);
                if !put.contains_key(&digest) && inner.remove(&digest)? {
                    removed.push(digest);
                }
            }
            Ok(removed)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|_| {
                Err(BlobError::Unavailable {
                    reason: "the host is shutting down".into(),
                })
            })
    }
}

fn file_in(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(digest.to_hex()).with_extension("wasm")
}

impl Inner {
    fn put(&self) -> MutexGuard<'_, BTreeMap<Digest, Instant>> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        file_in(&self.dir, digest)
    }

    fn list(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = PathBuf::from(entry?.file_name());
            if name.extension() == Some(OsStr::new("wasm")) {
                let stem = name.file_stem().unwrap_or_default().to_string_lossy();
                digests.extend(format!("sha256:{stem}").parse::<Digest>());
            }
        }
        digests.sort_unstable();
        Ok(digests)
    }

    fn remove(&self, digest: &Digest) -> Result<bool> {
        let path = self.path(digest);
        let removed = faults::around(Point::BlobRemove, || {
            fs::remove_file(path).and_then(|()| disk::sync_dir(&self.dir))
        });
        match removed {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn sweep(dir: &PathBuf) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("new")) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    async fn blobs() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).await.unwrap();
        let blobs = Blobs::open(&data).unwrap();
        (dir, blobs)
    }

    #[tokio::test]
    async fn code_is_kept_by_digest_and_read_only() {
        let (_dir, blobs) = blobs().await;
        let digest = blobs.put(b"code".to_vec()).await.unwrap();
        assert_eq!(digest, Digest::of(b"code"));
        assert_eq!(blobs.put(b"code".to_vec()).await.unwrap(), digest);
        assert_eq!(blobs.get(&digest).await.unwrap().as_deref(), Some(&b"code"[..]));
        assert_eq!(blobs.list().await.unwrap(), [digest]);
        let mode = fs::metadata(blobs.inner.path(&digest)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        assert!(blobs.remove(&digest).await.unwrap());
        assert!(!blobs.remove(&digest).await.unwrap());
        assert_eq!(blobs.get(&digest).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_changed_file_is_refused_until_the_code_is_put_again() {
        let (_dir, blobs) = blobs().await;
        let digest = blobs.put(b"code".to_vec()).await.unwrap();
        let path = blobs.inner.path(&digest);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"evil").unwrap();
        let error = blobs.get(&digest).await.unwrap_err();
        assert!(matches!(error, BlobError::Changed { .. }));
        assert!(!error.to_string().contains(path.to_str().unwrap()));
        blobs.put(b"code".to_vec()).await.unwrap();
        assert!(blobs.get(&digest).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn only_old_code_that_nothing_refers_to_is_swept() {
        let (_dir, blobs) = blobs().await;
        let kept = blobs.put(b"kept".to_vec()).await.unwrap();
        let loose = blobs.put(b"loose".to_vec()).await.unwrap();
        let referenced = BTreeSet::from([kept]);
        let none = blobs
            .retain(referenced.clone(), Duration::from_secs(3600))
            .await
            .unwrap();
        assert_eq!(none, []);
        assert_eq!(blobs.retain(referenced, Duration::ZERO).await.unwrap(), [loose]);
        assert_eq!(blobs.list().await.unwrap(), [kept]);
    }

    #[tokio::test]
    async fn code_that_nobody_refers_to_is_removed_once_nobody_has_put_it_for_its_grace() {
        let (_dir, blobs) = blobs().await;
        let grace = Duration::from_millis(50);
        let before = Instant::now();
        let loose = blobs.put(b"loose".to_vec()).await.unwrap();
        let gone = async {
            loop {
                let removed = blobs.retain(BTreeSet::new(), grace).await.unwrap();
                if removed == [loose] {
                    return Instant::now();
                }
                assert_eq!(removed, []);
                tokio::task::yield_now().await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
        assert!(gone - before >= grace, "before its grace");
        assert_eq!(blobs.get(&loose).await.unwrap(), None);
    }

    #[tokio::test]
    async fn code_that_is_put_again_while_it_is_swept_is_there_afterwards() {
        let (_dir, blobs) = blobs().await;
        for round in 0..50_u32 {
            let code = format!("code {round}").into_bytes();
            blobs.put(code.clone()).await.unwrap();
            // As if it had been put long ago.
            blobs.inner.put().clear();
            let (sweeping, adding) = tokio::join!(
                blobs.retain(BTreeSet::new(), Duration::from_secs(3600)),
                blobs.put(code.clone())
            );
            let (_, digest) = (sweeping.unwrap(), adding.unwrap());
            assert_eq!(blobs.get(&digest).await.unwrap(), Some(code), "{round}");
            blobs.remove(&digest).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_an_interrupted_write_left_is_swept_at_start() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).await.unwrap();
        let left = dir.path().join("components/x.new");
        fs::create_dir_all(left.parent().unwrap()).unwrap();
        fs::write(&left, b"half").unwrap();
        let blobs = Blobs::open(&data).unwrap();
        assert!(!left.exists());
        assert_eq!(blobs.list().await.unwrap(), []);
    }
}
