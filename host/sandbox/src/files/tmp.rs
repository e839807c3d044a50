//! `/tmp`: a fresh directory for one call, gone after it, with a quota: files by length, and a block
//! for every entry, so that a guest cannot fill the disk with names.

use super::{preopen, work::Worker};
use cap_std::{
    ambient_authority,
    fs::{Dir as CapDir, MetadataExt as _, OpenOptions},
};
use fumehood_files::{Quota, Tree, remove_all};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
};
use wasmtime_wasi::{FsPerms, filesystem::Dir};

/// What an empty file or directory costs.
const ENTRY: u64 = 4096;

/// How the directories begin that are made among the system's temporary files.
const PREFIX: &str = "fumehood-calls-";

/// The file in such a directory that is locked for as long as the process lives that made it.
const LOCK: &str = "lock";

/// Where the calls' directories are made. Belongs to this process alone.
#[derive(Debug)]
pub(crate) struct TmpRoot {
    dir: PathBuf,
    next: AtomicU64,
    /// Tells other processes that somebody uses it.
    _lock: Option<File>,
}

impl TmpRoot {
    /// Uses `dir`, which must be this process's own: what a crash left there is removed.
    pub(crate) fn in_dir(dir: &Path) -> io::Result<Self> {
        remove(dir)?;
        private_dir(dir, true)?;
        Ok(Self {
            dir: dir.to_owned(),
            next: AtomicU64::new(0),
            _lock: None,
        })
    }

    /// Makes a directory of its own among the system's temporary files. The first of a process removes those of processes that were
    /// killed.
    pub(crate) fn in_system() -> io::Result<Self> {
        static SWEPT: Once = Once::new();
        let system = std::env::temp_dir();
        SWEPT.call_once(|| {
            if let Err(error) = sweep(&system) {
                tracing::debug!(%error, "what calls of earlier processes left can't be looked for");
            }
        });
        Self::among(&system)
    }

    fn among(system: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let nonce = NEXT.fetch_add(1, Ordering::Relaxed);
            let since = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos());
            let name = format!("{PREFIX}{}-{nonce}-{since:x}", std::process::id());
            let dir = system.join(&name);
            match private_dir(&dir, false) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let parent = CapDir::open_ambient_dir(system, ambient_authority())?;
            // Who sweeps in this very moment may have been quicker: then it is not there any more.
            if let Some(lock) = lock(&parent, &name)? {
                return Ok(Self {
                    dir,
                    next: AtomicU64::new(0),
                    _lock: Some(lock),
                });
            }
        }
    }
}

/// Removes what processes left that are gone: directories of this user only, and only what nobody holds.
fn sweep(system: &Path) -> io::Result<()> {
    let system = CapDir::open_ambient_dir(system, ambient_authority())?;
    let own = rustix::process::geteuid().as_raw();
    for entry in system.entries()? {
        let entry = entry?;
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX))
            // Of the entry itself: a link is none, wherever it leads.
            && entry.metadata().is_ok_and(|about| about.is_dir() && about.uid() == own);
        if !is_ours {
            continue;
        }
        let swept = match lock(&system, Path::new(&name)) {
            Ok(Some(_held)) => remove_all(&system, &name),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::debug!(%error, "what calls of an earlier process left stays");
        }
    }
    Ok(())
}

/// Takes a directory for this process; nothing, where another has it or has just removed it.
fn lock(parent: &CapDir, name: impl AsRef<Path>) -> io::Result<Option<File>> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let dir = match parent.open_dir(name) {
        Ok(dir) => dir,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let file = match dir.open_with(LOCK, OpenOptions::new().write(true).create(true)) {
        Ok(file) => file,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = file.metadata()?;
    let file = file.into_std();
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    // What was locked may have been removed in between, by who held it before.
    let is_there = dir.symlink_metadata(LOCK).is_ok_and(|now| now.ino() == about.ino());
    Ok(is_there.then_some(file))
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
    fn what_a_killed_process_left_is_swept_and_nothing_that_is_used_or_not_ours() {
        let system = tempfile::tempdir().unwrap();
        let entry = |name: &str| system.path().join(name);
        let used = TmpRoot::among(system.path()).unwrap();
        // As a process leaves it that is killed with a call in it, and one that is killed before it had taken its directory.
        let left = entry(&format!("{PREFIX}1-0-a"));
        std::fs::create_dir_all(left.join("0/below")).unwrap();
        std::fs::write(left.join(LOCK), "").unwrap();
        let not_begun = entry(&format!("{PREFIX}1-0-b"));
        std::fs::create_dir(&not_begun).unwrap();
        let elsewhere = entry("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        let link = entry(&format!("{PREFIX}link"));
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        let file = entry(&format!("{PREFIX}file"));
        std::fs::write(&file, "").unwrap();

        sweep(system.path()).unwrap();
        assert!(!left.exists() && !not_begun.exists());
        assert!(used.dir.exists() && file.exists() && link.is_symlink());
        assert_eq!(
            std::fs::read_dir(&elsewhere).unwrap().count(),
            0,
            "the link was not followed"
        );

        let dir = used.dir.clone();
        drop(used);
        assert!(!dir.exists());
    }

    #[test]
    fn a_directory_that_another_process_holds_is_not_taken() {
        let system = tempfile::tempdir().unwrap();
        let used = TmpRoot::among(system.path()).unwrap();
        let parent = CapDir::open_ambient_dir(system.path(), ambient_authority()).unwrap();
        let name = used.dir.file_name().unwrap().to_owned();
        assert!(lock(&parent, &name).unwrap().is_none());
        drop(used);
        assert!(lock(&parent, &name).unwrap().is_none(), "it is gone");
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
