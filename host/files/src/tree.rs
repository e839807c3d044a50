//! A directory with its account, and the changes made to names in it.
//!
//! **The account** is two numbers, bytes and entries, that never fall below what is there: growth is added before it
//! happens, and what is removed is taken off afterwards. It is counted when the tree is opened, so a crash leaves no error in
//! it; and again, at most once a second, when it looks full, so that room which somebody made on the host's disk is found.
//!
//! **The gate** keeps changes apart: those that move or remove names, and the count, have the tree to themselves; those
//! within one file wait only for each other. So what was looked at before a change is still so when the change is made.
//!
//! **A file that has no name but is open** stays charged until it is closed. What such files take is kept apart as well: no
//! count finds them.
//!
//! **Read-only files** are files without any write permission; nobody changes, moves or removes them through a tree. The
//! directories they are in carry the sticky bit: they are not moved or removed, either.

mod account;
mod place;
mod rewrite;

pub(crate) use account::Room;
use account::State;
pub use place::{Placed, Reservation};
pub use rewrite::Rewriting;

use crate::{
    file::{Inode, OpenFile},
    quota::{Full, Quota, Usage},
    walk::id,
};
use cap_std::{
    ambient_authority,
    fs::{Dir, DirBuilder, DirBuilderExt as _, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _},
};
use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

const ANY_WRITE: u32 = 0o222;
const STICKY: u32 = 0o1000;

/// Why something was not done. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The quota does not allow it.
    #[error(transparent)]
    Full(#[from] Full),
    /// The file may only be read, or the directory holds one such.
    #[error("it is read-only, or holds a file that is")]
    ReadOnly,
    /// Neither a file nor a directory.
    #[error("it is neither a file nor a directory")]
    Special,
    /// The tree is being removed.
    #[error("the files are gone")]
    Closed,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whether opening may make a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Create {
    /// It must be there.
    #[default]
    Never,
    /// If it is not there.
    IfAbsent,
    /// It must not be there.
    Always,
}

/// How to open a file or directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Open {
    /// To look.
    pub read: bool,
    /// To change.
    pub write: bool,
    /// Whether to make it.
    pub create: Create,
    /// Whether to empty it.
    pub truncate: bool,
    /// Whether to follow a link at the end of the path; those on the way are followed in any case.
    pub follow: bool,
    /// Whether it must be a directory.
    pub directory: bool,
}

/// What was opened.
#[derive(Debug)]
pub enum Opened {
    /// A directory.
    Directory(File),
    /// A file.
    File(OpenFile),
}

/// A directory with its account.
#[derive(Debug)]
pub struct Tree {
    root: Dir,
    quota: Quota,
    gate: RwLock<Gate>,
    state: Mutex<State>,
    /// How often something was changed; counted within the gate.
    changes: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    Closed,
}

impl Tree {
    /// A tree of what is there.
    ///
    /// # Errors
    /// When it can't be counted.
    pub fn open(root: Dir, quota: Quota) -> io::Result<Arc<Self>> {
        let tree = Self::uncounted(root, quota);
        let counted = tree.count()?;
        tree.state().used = counted;
        Ok(tree)
    }

    /// A tree that is taken as empty: because it is, or because nothing is limited.
    #[must_use]
    pub fn uncounted(root: Dir, quota: Quota) -> Arc<Self> {
        Arc::new(Self {
            root,
            quota,
            gate: RwLock::new(Gate::Open),
            state: Mutex::new(State::new()),
            changes: AtomicU64::new(0),
        })
    }

    /// A tree of the directory at `path`; counted unless nothing is limited.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open_ambient(path: &Path, quota: Quota) -> io::Result<Arc<Self>> {
        let root = Dir::open_ambient_dir(path, ambient_authority())?;
        if quota == Quota::UNLIMITED {
            return Ok(Self::uncounted(root, quota));
        }
        Self::open(root, quota)
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// What it may hold.
    #[must_use]
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// What it holds, by the account.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state().used
    }

    /// A number that grows with each change made through this tree; those under way are waited for. As long as it stays,
    /// whoever looked at the directory has seen what is there.
    ///
    /// # Errors
    /// [`FileError::Closed`].
    pub fn changes(&self) -> Result<u64, FileError> {
        let _gate = self.enter_alone()?;
        Ok(self.changes.load(Ordering::Relaxed))
    }

    /// Looks at the directory while nobody changes anything in it; `look` is given what [`Tree::changes`] is then.
    ///
    /// # Errors
    /// [`FileError::Closed`].
    pub fn undisturbed<T>(&self, look: impl FnOnce(&Dir, u64) -> T) -> Result<T, FileError> {
        let _gate = self.enter_alone()?;
        Ok(look(&self.root, self.changes.load(Ordering::Relaxed)))
    }

    /// Something is about to be changed. Called within the gate, whose lock orders it.
    pub(crate) fn changing(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on nothing is changed any more. What has begun is finished first.
    pub fn close(&self) {
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = Gate::Closed;
    }

    /// Opens a file or directory at `path` below `dir`, which must be in the tree.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open_at(self: &Arc<Self>, dir: &Dir, path: &str, how: &Open) -> Result<Opened, FileError> {
        self.attempt(|| {
            if how.create == Create::Never {
                let _gate = self.enter()?;
                self.open_there(dir, path, how)
            } else {
                let _gate = self.enter_alone()?;
                match how.create {
                    Create::IfAbsent => match self.open_there(dir, path, how) {
                        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                            self.open_new(dir, path, how)
                        }
                        other => other,
                    },
                    _ => self.open_new(dir, path, how),
                }
            }
        })
    }

    fn open_there(self: &Arc<Self>, dir: &Dir, path: &str, how: &Open) -> Result<Opened, FileError> {
        let seen = if how.follow {
            dir.metadata(path)?
        } else {
            dir.symlink_metadata(path)?
        };
        let write = how.write || how.truncate || how.create != Create::Never;
        if seen.is_dir() {
            if write {
                return Err(io::Error::from(io::ErrorKind::IsADirectory).into());
            }
        } else if seen.is_symlink() {
            return Err(io::Error::from_raw_os_error(LINK_LOOP).into());
        } else if how.directory {
            return Err(io::Error::from(io::ErrorKind::NotADirectory).into());
        } else if !seen.is_file() {
            // THREAT[T-box-special-files]: opening a pipe waits for its other end, opening a device may do anything.
            return Err(FileError::Special);
        } else if write && is_read_only(&seen) {
            return Err(FileError::ReadOnly);
        }
        let mut options = OpenOptions::new();
        options.read(how.read || !how.write).write(write);
        let file = dir.open_with(path, &options)?.into_std();
        let opened = file.metadata()?;
        if (opened.dev(), opened.ino()) != id(&seen) {
            // Only somebody on the host's disk can have been quicker.
            return Err(FileError::Special);
        }
        if opened.is_dir() {
            return Ok(Opened::Directory(file));
        }
        let file = self.register(file, &opened);
        if how.truncate {
            file.resize(0)?;
        }
        Ok(Opened::File(file))
    }

    /// The caller has the tree to itself.
    fn open_new(self: &Arc<Self>, dir: &Dir, path: &str, how: &Open) -> Result<Opened, FileError> {
        self.changing();
        let entry = self.quota.of_entries(1);
        self.charge(entry)?;
        let mut options = OpenOptions::new();
        options.read(how.read).write(true).mode(0o600);
        match how.create {
            // Through a link that leads to nothing as well: what it names is made.
            Create::Never | Create::IfAbsent if how.follow => options.create(true),
            _ => options.create_new(true),
        };
        let made = dir.open_with(path, &options).and_then(|file| {
            let file = file.into_std();
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match made {
            Ok((file, metadata)) => Ok(Opened::File(self.register(file, &metadata))),
            Err(error) => {
                self.release(entry);
                Err(error.into())
            }
        }
    }

    fn register(self: &Arc<Self>, file: File, metadata: &std::fs::Metadata) -> OpenFile {
        let id = (metadata.dev(), metadata.ino());
        let mut state = self.state();
        let known = state.open.get(&id).and_then(Weak::upgrade);
        let inode = known.unwrap_or_else(|| {
            let read_only = metadata.mode() & ANY_WRITE == 0;
            let inode = Arc::new(Inode::new(Arc::clone(self), id, metadata.len(), read_only));
            state.open.insert(id, Arc::downgrade(&inode));
            if state.open.len() > state.sweep_at {
                state.open.retain(|_, inode| inode.strong_count() > 0);
                state.sweep_at = state.open.len() * 2 + 64;
            }
            inode
        });
        drop(state);
        OpenFile::new(inode, file)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create_dir(&self, dir: &Dir, path: &str) -> Result<(), FileError> {
        self.new_entry(|| {
            let mut builder = DirBuilder::new();
            builder.mode(0o700);
            dir.create_dir_with(path, &builder)
        })
    }

    /// Makes a symbolic link to `target`, which must be relative. It may lead anywhere; following it does not.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn symlink(&self, dir: &Dir, target: &str, path: &str) -> Result<(), FileError> {
        self.new_entry(|| dir.symlink(target, path))
    }

    fn new_entry(&self, make: impl Fn() -> io::Result<()>) -> Result<(), FileError> {
        self.attempt(|| {
            let _gate = self.enter()?;
            self.changing();
            let entry = self.quota.of_entries(1);
            self.charge(entry)?;
            make().map_err(|error| {
                self.release(entry);
                error.into()
            })
        })
    }

    /// Removes a file or link.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove_file(&self, dir: &Dir, path: &str) -> Result<(), FileError> {
        let _gate = self.enter_alone()?;
        self.changing();
        let seen = dir.symlink_metadata(path)?;
        check_movable(&seen)?;
        dir.remove_file(path)?;
        self.name_gone(&seen);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remove_dir(&self, dir: &Dir, path: &str) -> Result<(), FileError> {
        let _gate = self.enter_alone()?;
        self.changing();
        check_movable(&dir.symlink_metadata(path)?)?;
        dir.remove_dir(path)?;
        self.release(self.quota.of_entries(1));
        Ok(())
    }

    /// Moves a file, link or directory; what a file is moved onto is gone then.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn rename(&self, dir: &Dir, path: &str, to_dir: &Dir, to: &str) -> Result<(), FileError> {
        let _gate = self.enter_alone()?;
        self.changing();
        let moved = dir.symlink_metadata(path)?;
        check_movable(&moved)?;
        let replaced = there(to_dir, to)?;
        if let Some(replaced) = &replaced {
            check_movable(replaced)?;
        }
        dir.rename(path, to_dir, to)?;
        if let Some(replaced) = replaced
            && id(&replaced) != id(&moved)
        {
            self.name_gone(&replaced);
        }
        Ok(())
    }

    /// Whether the times of what is at `path` may be set.
    ///
    /// # Errors
    /// [`FileError::ReadOnly`], and those of the system.
    pub fn check_touchable(&self, dir: &Dir, path: &str, follow: bool) -> Result<(), FileError> {
        let _gate = self.enter()?;
        let seen = if follow {
            dir.metadata(path)?
        } else {
            dir.symlink_metadata(path)?
        };
        if seen.is_file() && is_read_only(&seen) {
            return Err(FileError::ReadOnly);
        }
        Ok(())
    }

    /// A name is gone that `seen` was found under. The caller has the tree to itself.
    fn name_gone(&self, seen: &Metadata) {
        self.release(self.quota.of_entries(1));
        let bytes = bytes_of(seen);
        match self.inode(id(seen)) {
            // THREAT[T-box-workspace-quota]: deleting a file that is open frees nothing yet.
            Some(inode) => inode.unlink(bytes),
            None => self.release(Usage { bytes, entries: 0 }),
        }
    }

    /// For changes within a file, and for new names.
    pub(crate) fn enter(&self) -> Result<RwLockReadGuard<'_, Gate>, FileError> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        match *gate {
            Gate::Open => Ok(gate),
            Gate::Closed => Err(FileError::Closed),
        }
    }

    /// For changes that must not meet any other.
    fn enter_alone(&self) -> Result<RwLockWriteGuard<'_, Gate>, FileError> {
        let gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        match *gate {
            Gate::Open => Ok(gate),
            Gate::Closed => Err(FileError::Closed),
        }
    }
}

/// `ELOOP`; its `ErrorKind` is not stable yet.
const LINK_LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };

fn is_read_only(metadata: &Metadata) -> bool {
    metadata.mode() & ANY_WRITE == 0
}

// THREAT[T-box-read-only-files]
fn check_movable(metadata: &Metadata) -> Result<(), FileError> {
    let fixed = metadata.is_file() && is_read_only(metadata) || metadata.is_dir() && metadata.mode() & STICKY != 0;
    if fixed { Err(FileError::ReadOnly) } else { Ok(()) }
}

fn bytes_of(metadata: &Metadata) -> u64 {
    if metadata.is_file() { metadata.len() } else { 0 }
}

/// What is at `path`, a link as itself.
fn there(dir: &Dir, path: &str) -> io::Result<Option<Metadata>> {
    match dir.symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
