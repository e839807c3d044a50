//! `/tmp`: a fresh directory for one call, gone after it, with a quota.
//!
//! The quota is kept by charging every write before it happens: its bytes, and a block for every new
//! entry. Charges only grow, so when they reach the quota the directory is counted anew (files by
//! length, entries by a block each) and the true use takes their place. A guest cannot make the host
//! count all the time: between two counts it must have written a sixteenth of the quota.

use super::open_ambient;
use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use wasmtime_wasi::{FsPerms, filesystem::Dir};

/// What an empty file or directory costs, so that a guest cannot fill the disk with names.
pub(super) const ENTRY: u64 = 4096;

/// Where the calls' directories are made. Belongs to this process alone.
#[derive(Debug)]
pub(crate) struct TmpRoot {
    dir: PathBuf,
    next: AtomicU64,
}

impl TmpRoot {
    /// Uses `dir`, which must be this process's own: what a crash left there is removed.
    pub(crate) fn in_dir(dir: &Path) -> io::Result<Self> {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        private_dir(dir, true)?;
        Ok(Self {
            dir: dir.to_owned(),
            next: AtomicU64::new(0),
        })
    }

    /// Makes a directory of its own among the system's temporary files.
    pub(crate) fn in_system() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
            let since = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos());
            let dir = std::env::temp_dir().join(format!("fumehood-{}-{nonce}-{since:x}", std::process::id()));
            match private_dir(&dir, false) {
                Ok(()) => {
                    return Ok(Self {
                        dir,
                        next: AtomicU64::new(0),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for TmpRoot {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "temporary files of calls are left behind");
        }
    }
}

/// Nobody else on the machine may look into it.
fn private_dir(dir: &Path, parents: bool) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(parents);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// The `/tmp` of one call. Dropping it removes the directory.
pub(crate) struct Tmp {
    quota: Arc<Quota>,
    root: Dir,
    /// The guest's descriptors that lie in `/tmp`, by their number.
    descriptors: HashSet<u32>,
    /// Keeps the parent until the last call is gone.
    _parent: Arc<TmpRoot>,
}

impl Tmp {
    pub(super) fn create(parent: &Arc<TmpRoot>, quota: u64) -> io::Result<Self> {
        let path = parent.dir.join(parent.next.fetch_add(1, Ordering::Relaxed).to_string());
        private_dir(&path, false)?;
        let quota = Arc::new(Quota::new(path, quota));
        let root = open_ambient(&quota.path, FsPerms::ReadWrite)?;
        Ok(Self {
            quota,
            root,
            descriptors: HashSet::new(),
            _parent: Arc::clone(parent),
        })
    }

    pub(super) fn root(&self) -> Dir {
        self.root.clone()
    }

    pub(super) fn add(&mut self, descriptor: u32) {
        self.descriptors.insert(descriptor);
    }

    pub(super) fn remove(&mut self, descriptor: u32) {
        self.descriptors.remove(&descriptor);
    }

    pub(super) fn contains(&self, descriptor: u32) -> bool {
        self.descriptors.contains(&descriptor)
    }

    pub(super) fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }
}

/// How much is written below one directory. Removes the directory when dropped.
#[derive(Debug)]
pub(crate) struct Quota {
    path: PathBuf,
    limit: u64,
    charged: AtomicU64,
    counted: AtomicU64,
}

impl Quota {
    fn new(path: PathBuf, limit: u64) -> Self {
        Self {
            path,
            limit,
            charged: AtomicU64::new(0),
            counted: AtomicU64::new(0),
        }
    }

    /// Charges `bytes`; `false` when there is no room. The call's own task is the only one that
    /// charges, so the loads and stores need not be one step.
    pub(super) fn charge(&self, bytes: u64) -> bool {
        let charged = self.charged.load(Ordering::Relaxed).saturating_add(bytes);
        if charged <= self.limit {
            self.charged.store(charged, Ordering::Relaxed);
            return true;
        }
        let since_count = self
            .charged
            .load(Ordering::Relaxed)
            .saturating_sub(self.counted.load(Ordering::Relaxed));
        if since_count < self.limit / 16 {
            return false;
        }
        let used = match use_of(&self.path, self.limit) {
            Ok(used) => used,
            Err(error) => {
                tracing::warn!(%error, "cannot count a call's temporary files");
                self.limit
            }
        };
        self.counted.store(used, Ordering::Relaxed);
        let fits = used.saturating_add(bytes) <= self.limit;
        self.charged
            .store(if fits { used + bytes } else { used }, Ordering::Relaxed);
        fits
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            // Not found: the parent went first, and took it along.
            if let Err(error) = std::fs::remove_dir_all(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "temporary files of a call are left behind");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// What lies below `dir`; stops counting beyond `enough`. Follows no links.
fn use_of(dir: &Path, enough: u64) -> io::Result<u64> {
    let mut used = 0_u64;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            used = used.saturating_add(ENTRY);
            if metadata.is_dir() {
                dirs.push(entry.path());
            } else {
                used = used.saturating_add(metadata.len());
            }
            if used > enough {
                return Ok(used);
            }
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(limit: u64) -> (tempfile::TempDir, Quota) {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("tmp");
        std::fs::create_dir(&path).unwrap();
        (parent, Quota::new(path, limit))
    }

    #[test]
    fn writing_beyond_the_quota_is_refused() {
        let (_parent, quota) = quota(10_000);
        assert!(quota.charge(6_000));
        std::fs::write(quota.path.join("a"), vec![0; 6_000]).unwrap();
        assert!(!quota.charge(6_000));
    }

    #[test]
    fn what_was_deleted_can_be_used_again() {
        let (_parent, quota) = quota(10_000);
        assert!(quota.charge(9_000));
        assert!(quota.charge(9_000), "nothing is there any more");
    }

    #[test]
    fn the_directory_is_removed_with_the_call() {
        let parent = tempfile::tempdir().unwrap();
        let root = Arc::new(TmpRoot::in_dir(&parent.path().join("calls")).unwrap());
        let tmp = Tmp::create(&root, 10_000).unwrap();
        std::fs::write(tmp.quota.path.join("left"), "x").unwrap();
        let path = tmp.quota.path.clone();
        drop(tmp);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_crash_left_is_removed_at_start() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("calls");
        std::fs::create_dir_all(dir.join("7")).unwrap();
        let _root = TmpRoot::in_dir(&dir).unwrap();
        assert!(!dir.join("7").exists());
    }
}
