//! `/tmp`: a fresh directory for one call, gone after it, with a quota: files by length, and a block
//! for every entry, so that a guest cannot fill the disk with names.

use super::{preopen, work::Worker};
use cap_std::{ambient_authority, fs::Dir as CapDir};
use fumehood_files::{Quota, Tree, remove_all};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use wasmtime_wasi::{FsPerms, filesystem::Dir};

/// What an empty file or directory costs.
const ENTRY: u64 = 4096;

/// Where the calls' directories are made. Belongs to this process alone.
#[derive(Debug)]
pub(crate) struct TmpRoot {
    dir: PathBuf,
    next: AtomicU64,
}

impl TmpRoot {
    /// Uses `dir`, which must be this process's own: what a crash left there is removed.
    pub(crate) fn in_dir(dir: &Path) -> io::Result<Self> {
        remove(dir)?;
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
        if let Err(error) = remove(&self.dir) {
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

/// Removes a directory, however deep its content nests; what is not there is no error.
fn remove(dir: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    match CapDir::open_ambient_dir(parent, ambient_authority()) {
        Ok(parent) => remove_all(&parent, name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The `/tmp` of one call. Dropping it removes the directory.
pub(crate) struct Tmp {
    path: PathBuf,
    tree: Arc<Tree>,
    root: Dir,
    worker: Worker,
    /// Keeps the parent until the last call is gone.
    _parent: Arc<TmpRoot>,
}

impl Tmp {
    /// What is left in it is removed by `worker`.
    pub(super) fn create(parent: &Arc<TmpRoot>, quota: u64, worker: Worker) -> io::Result<Self> {
        let path = parent.dir.join(parent.next.fetch_add(1, Ordering::Relaxed).to_string());
        private_dir(&path, false)?;
        let root = CapDir::open_ambient_dir(&path, ambient_authority())?;
        let quota = Quota {
            bytes: quota,
            file_bytes: quota,
            entries: u64::MAX,
            entry_bytes: ENTRY,
        };
        Ok(Self {
            path,
            root: preopen(root.try_clone()?, FsPerms::ReadWrite),
            tree: Tree::uncounted(root, quota),
            worker,
            _parent: Arc::clone(parent),
        })
    }

    pub(super) fn root(&self) -> Dir {
        self.root.clone()
    }

    pub(super) fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let tree = Arc::clone(&self.tree);
        let remove = move || {
            // A write that has begun is finished first; none begins any more.
            tree.close();
            if let Err(error) = remove(&path) {
                tracing::warn!(%error, "temporary files of a call are left behind");
            }
        };
        match tokio::runtime::Handle::try_current() {
            // In its share's turn: who leaves much behind waits for it with the next call.
            Ok(_) => self.worker.leave(remove),
            Err(_) => remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::work, *};

    #[test]
    fn the_directory_is_removed_with_the_call() {
        let parent = tempfile::tempdir().unwrap();
        let root = Arc::new(TmpRoot::in_dir(&parent.path().join("calls")).unwrap());
        let tmp = Tmp::create(&root, 10_000, work::idle_worker()).unwrap();
        std::fs::write(tmp.path.join("left"), "x").unwrap();
        let path = tmp.path.clone();
        drop(tmp);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_crash_left_is_removed_at_start_however_deep_it_nests() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("calls");
        std::fs::create_dir_all(dir.join("7")).unwrap();
        let mut here = CapDir::open_ambient_dir(dir.join("7"), ambient_authority()).unwrap();
        for _ in 0..2500 {
            here.create_dir("a-long-name-for-a-directory").unwrap();
            here = here.open_dir("a-long-name-for-a-directory").unwrap();
        }
        let _root = TmpRoot::in_dir(&dir).unwrap();
        assert!(!dir.join("7").exists());
    }
}
