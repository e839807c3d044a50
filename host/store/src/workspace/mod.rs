//! Workspaces: a directory of files per session.
//!
//! Every access goes through a capability for the session's directory, so no path and no symbolic link leads out of it.
//! A link that stays inside is followed when read; lists show links as what they are. Names that are not UTF-8 are not shown.
//!
//! Writes of the host are atomic, durable, in turn per session, and inside the quota, which guests that write meanwhile share
//! with them: both change files through the session's one [`Tree`]. A precondition is looked at again in the moment of the
//! change, when no guest changes anything: it holds against guests as well. A guest that has the replaced file open goes on
//! with the file that has no name any more.
//!
//! What a session that went back had is put back before anything else is done with its files, should it not have been at once:
//! nothing is read that is about to be replaced, and nothing written that would be overwritten.
//!
//! An operation that began runs to its end even if its future is dropped.

mod belonging;
mod error;
pub(crate) mod examine;
mod file;
mod going_back;
mod grep;
mod laid_out;
mod list;
mod open;
mod path;
pub(crate) mod snapshots;
#[cfg(test)]
mod tests;
mod trees;

pub(crate) use belonging::{had_a_database, restore_of_sessions};
pub use error::{Result, WorkspaceError};
pub use fumehood_files::{Quota, Usage};
pub use going_back::{Ready, TakenAlong};
pub use grep::{Found, GrepLine, GrepRequest, Skipped};
pub use laid_out::Differing;
pub use list::{Depth, ListRequest};
pub use open::{OpenFile, Opened};
pub use path::{WorkspacePath, WorkspacePathError};

use self::{
    error::{failed, refused, unavailable},
    snapshots::Snapshots,
    trees::Trees,
};
use crate::{
    data_dir::DataDir,
    disk,
    error::OpenError,
    faults::{self, Point},
    record::Page,
    session_locks::SessionLocks,
    sqlite::SqliteStore,
};
use cap_std::{ambient_authority, fs::Dir};
use fumehood_core::{Time, digest::Digest, id::SessionId};
use fumehood_files::{Tree, remove_all};
use std::{
    io,
    path::Path,
    sync::{Arc, OnceLock},
};
use tokio::sync::Semaphore;

/// Where the sessions' directories are, in the data directory.
pub(crate) const ROOT: &str = "workspaces";
/// Where they are moved to be removed.
pub(crate) const GONE: &str = "workspaces.gone";
/// What is kept of the states they were in.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// What is ready to be put back, until it is.
pub(crate) const RESTORING: &str = "workspaces.restoring";
/// Where a file is written, or a workspace made, before it has its place.
const TEMPORARY: &str = "workspaces.new";
/// Ends the name of what says there that files were made for a session that may not be written yet.
const BEGUN: &str = ".begun";
/// What is kept of a session at most, unless the operator says otherwise.
pub const DEFAULT_SNAPSHOTS: u64 = 500 << 20;
/// How many operations touch the disk at once; others wait their turn.
const AT_ONCE: usize = 32;

/// What must be true of a file for a change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Any,
    /// There is nothing of that name yet.
    Absent,
    /// It is a file with this etag.
    Matches(Digest),
}

/// A file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The SHA-256 of the bytes.
    pub etag: Digest,
    /// When it was last written.
    pub modified: Time,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The etag of what was written.
    pub etag: Digest,
    /// Whether it was there before.
    pub outcome: WriteOutcome,
}

/// Whether a write made a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// It was not there.
    Created,
    /// It was there.
    Replaced,
}

/// What an entry of a workspace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, or anything else that can't be read as a file.
    Other,
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: WorkspacePath,
    /// What it is.
    pub kind: Kind,
    /// Bytes of a file; 0 for others.
    pub size: u64,
    /// When it was last written.
    pub modified: Time,
}

/// A file that a session begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starter {
    /// Where it is.
    pub path: WorkspacePath,
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Who may change it.
    pub kept: Kept,
}

/// Whether a file that a session begins with may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Like any other.
    Changeable,
    /// Neither a tool nor a client changes, moves or deletes it; it goes with the session.
    ReadOnly,
}

/// The sessions' workspaces. Clones share them.
#[derive(Debug, Clone)]
pub struct Workspaces {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: Dir,
    trees: Trees,
    snapshots: Snapshots,
    /// What is being removed.
    gone: Dir,
    /// Beside the workspaces, so that a file being written is not seen in one.
    temporary: Dir,
    /// Those who change files.
    writers: SessionLocks,
    /// Those who keep states, which may take longer.
    keepers: SessionLocks,
    /// Those who only want the tree, which may have to be counted.
    visitors: SessionLocks,
    turns: Arc<Semaphore>,
    /// What says whether a session went back; without it none did.
    journal: OnceLock<SqliteStore>,
    _data_dir: DataDir,
}

impl Workspaces {
    /// Opens, or makes, `workspaces/` in the data directory and sweeps what an interrupted write or deletion left.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(data_dir: &DataDir, quota: Quota) -> std::result::Result<Self, OpenError> {
        Self::open_with(data_dir, quota, DEFAULT_SNAPSHOTS)
    }

    /// The same, with how many bytes are kept of each session so that it can go back; none, if it is 0.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open_with(data_dir: &DataDir, quota: Quota, snapshots: u64) -> std::result::Result<Self, OpenError> {
        let swept = |name: &str| {
            let path = data_dir.path().join(name);
            let dir = open_private(&path)?;
            sweep(&dir).map_err(|error| OpenError::io(&path, &error))?;
            Ok::<_, OpenError>(dir)
        };
        let path = data_dir.path().join(ROOT);
        let root = open_private(&path)?;
        let clone = |dir: &Dir| dir.try_clone().map_err(|error| OpenError::io(&path, &error));
        let gone = swept(GONE)?;
        // What an operator wants no more of goes at once.
        let kept = match snapshots {
            0 => swept(SNAPSHOTS)?,
            _ => open_private(&data_dir.path().join(SNAPSHOTS))?,
        };
        let restoring = open_private(&data_dir.path().join(RESTORING))?;
        Ok(Self {
            inner: Arc::new(Inner {
                trees: Trees::new(clone(&root)?, clone(&gone)?, quota),
                snapshots: Snapshots::new(kept, restoring, snapshots),
                gone,
                root,
                temporary: swept(TEMPORARY)?,
                writers: SessionLocks::default(),
                keepers: SessionLocks::default(),
                visitors: SessionLocks::default(),
                turns: Arc::new(Semaphore::new(AT_ONCE)),
                journal: OnceLock::new(),
                _data_dir: data_dir.clone(),
            }),
        })
    }

    /// The files of a session, for guests; the directory is made if it is missing. Everybody gets the same one.
    ///
    /// # Errors
    /// [`WorkspaceError::Gone`], [`WorkspaceError::Unavailable`].
    pub async fn tree(&self, session: SessionId) -> Result<Arc<Tree>> {
        self.finished(session).await?;
        if let Some(tree) = self.inner.trees.known(session)? {
            return Ok(tree);
        }
        self.visiting(session, move |inner| inner.trees.made(session)).await
    }

    /// Gives a session the files it begins with: all of them, or nothing. [`Self::settle`] follows when the session is written: a
    /// crash before leaves no files.
    ///
    /// # Errors
    /// Those of [`Self::write`]; [`WorkspaceError::Precondition`] when two are in the same place.
    pub async fn start_with(&self, session: SessionId, files: Vec<Starter>) -> Result<()> {
        self.changing(session, move |inner| {
            inner.begin(session)?;
            let placed = inner.trees.made(session).and_then(|tree| {
                for file in &files {
                    file::fits_alone(&file.bytes, inner.trees.quota())?;
                    file::write(&tree, &inner.temporary, &file.path, &file.bytes, Precondition::Absent)?;
                    if file.kept == Kept::ReadOnly {
                        tree.make_read_only(file.path.as_str())
                            .map_err(|error| refused(&file.path, error))?;
                    }
                }
                Ok(())
            });
            if placed.is_err() {
                // The first error counts; a leftover is swept at the next start.
                let _ = inner.trees.retire(session).and_then(|_| inner.trees.purge(session));
                let _ = inner.settle(session);
            }
            placed
        })
        .await
    }

    /// The session that files were made for is written: they stay.
    pub async fn settle(&self, session: SessionId) {
        let settled = self.blocking(move |inner| inner.settle(session).map_err(unavailable));
        if let Err(error) = settled.await {
            tracing::warn!(%session, %error, "the mark of a new session can't be removed; the next start does that");
        }
    }

    /// A file's bytes, if there is such a file.
    ///
    /// # Errors
    /// [`WorkspaceError::IsDirectory`], [`WorkspaceError::LeadsOut`], [`WorkspaceError::Blocked`], [`WorkspaceError::Quota`]
    /// for a file larger than the host would write, [`WorkspaceError::Unavailable`].
    pub async fn read(&self, session: SessionId, path: &WorkspacePath) -> Result<Option<FileContent>> {
        let path = path.clone();
        self.reading(session, move |inner| match inner.there(session)? {
            Some(dir) => file::read(&dir, &path, inner.trees.quota().file_bytes),
            None => Ok(None),
        })
        .await
    }

    /// The same for a file of any size: a large one is read on piece by piece, so that it never lies in memory whole.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub async fn open_file(&self, session: SessionId, path: &WorkspacePath) -> Result<Option<Opened>> {
        let path = path.clone();
        self.reading(session, move |inner| match inner.there(session)? {
            Some(dir) => open::open(&dir, &path, inner.trees.quota().file_bytes),
            None => Ok(None),
        })
        .await
    }

    /// The next piece of a file, which is empty at its end, and the file to read on.
    ///
    /// # Errors
    /// Those of [`Self::read`], and [`WorkspaceError::Unavailable`] when the file was changed meanwhile.
    pub async fn read_on(&self, mut file: OpenFile) -> Result<(Vec<u8>, OpenFile)> {
        self.blocking(move |_| file.read_on().map(|piece| (piece, file))).await
    }

    /// Writes a file, with the directories on its way: whole and durable, or not at all.
    ///
    /// # Errors
    /// [`WorkspaceError::Precondition`], [`WorkspaceError::Quota`], and those of [`Self::read`].
    pub async fn write(
        &self,
        session: SessionId,
        path: &WorkspacePath,
        bytes: Vec<u8>,
        precondition: Precondition,
    ) -> Result<Written> {
        let path = path.clone();
        let length = bytes.len();
        let written = self.changing(session, move |inner| {
            // Looked at first, so that a refused write doesn't even make the session's directory.
            file::fits_alone(&bytes, inner.trees.quota())?;
            let tree = inner.trees.made(session)?;
            file::write(&tree, &inner.temporary, &path, &bytes, precondition)
        });
        written.await.inspect(|_| crate::telemetry::workspace_written(length))
    }

    /// Deletes a file, a link (not what it points to) or an empty directory. `false` if there is none.
    ///
    /// # Errors
    /// [`WorkspaceError::Precondition`], [`WorkspaceError::NotEmpty`], and those of [`Self::read`].
    pub async fn delete(&self, session: SessionId, path: &WorkspacePath, precondition: Precondition) -> Result<bool> {
        let path = path.clone();
        self.changing(session, move |inner| match inner.trees.there(session)? {
            Some(tree) => file::delete(&tree, &path, precondition),
            None if precondition == Precondition::Any => Ok(false),
            None => Err(WorkspaceError::Precondition { current: None }),
        })
        .await
    }

    /// One entry, if it is there. Of a link, the link.
    ///
    /// # Errors
    /// [`WorkspaceError::LeadsOut`], [`WorkspaceError::Blocked`], [`WorkspaceError::Unavailable`].
    pub async fn stat(&self, session: SessionId, path: &WorkspacePath) -> Result<Option<Entry>> {
        let path = path.clone();
        self.reading(session, move |inner| match inner.there(session)? {
            Some(dir) => list::stat(&dir, &path),
            None => Ok(None),
        })
        .await
    }

    /// Entries in order of their paths.
    ///
    /// # Errors
    /// [`WorkspaceError::BadCursor`], [`WorkspaceError::BadRequest`] if there are too many to list, and those of [`Self::stat`].
    pub async fn list(&self, session: SessionId, request: ListRequest) -> Result<Page<Entry>> {
        self.reading(session, move |inner| match inner.there(session)? {
            Some(dir) => list::list(&dir, &request),
            None => Ok(Page {
                items: Vec::new(),
                next: None,
            }),
        })
        .await
    }

    /// Lines that match. Bounded in time and size: see [`GrepRequest`].
    ///
    /// # Errors
    /// [`WorkspaceError::BadRequest`] for a pattern or glob that is too long, too costly or not valid; those of [`Self::list`].
    pub async fn grep(
        &self,
        session: SessionId,
        request: GrepRequest,
        clean: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static,
    ) -> Result<Found> {
        let search = grep::Search::new(&request)?;
        self.reading(session, move |inner| match inner.there(session)? {
            Some(dir) => search.run(&dir, &clean),
            None => Ok(Found::default()),
        })
        .await
    }

    /// What the session's workspace holds, by its account: files that were deleted and are still open count.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`].
    pub async fn usage(&self, session: SessionId) -> Result<Usage> {
        self.finished(session).await?;
        self.visiting(session, move |inner| match inner.trees.there(session)? {
            Some(tree) => Ok(tree.usage()),
            None => Ok(Usage::default()),
        })
        .await
    }

    /// Takes a session's files out of everybody's reach, before the session is deleted. From then on nothing is written there,
    /// neither by a guest that runs nor by a client; whoever asks finds the session gone. [`Self::purge`] or
    /// [`Self::restore`] follows.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`].
    pub async fn retire(&self, session: SessionId) -> Result<bool> {
        // What is left of going back goes with the files.
        let alone = self.inner.writers.lock(session).await;
        self.blocking(move |inner| {
            let _alone = alone;
            let was_there = inner.trees.retire(session)?;
            inner.snapshots.retire(session, &inner.gone).map_err(unavailable)?;
            Ok(was_there)
        })
        .await
    }

    /// Undoes [`Self::retire`].
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`].
    pub async fn restore(&self, session: SessionId) -> Result<()> {
        self.blocking(move |inner| {
            inner.snapshots.reinstate(session, &inner.gone).map_err(unavailable)?;
            inner.trees.restore(session)
        })
        .await
    }

    /// Removes what [`Self::retire`] put aside. What a crash keeps it from removing is removed at the next start.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`]; part of it may be removed then.
    pub async fn purge(&self, session: SessionId) -> Result<()> {
        self.blocking(move |inner| {
            inner.snapshots.purge(session, &inner.gone).map_err(unavailable)?;
            inner.trees.purge(session)?;
            inner.settle(session).map_err(unavailable)
        })
        .await
    }

    /// Removes a session's workspace with everything in it. `false` if there was none.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`]; part of it may be removed then.
    pub async fn remove(&self, session: SessionId) -> Result<bool> {
        let was_there = self.retire(session).await?;
        self.purge(session).await?;
        Ok(was_there)
    }

    /// Like [`Self::blocking`], and apart from other changes of the session.
    // THREAT[T-org-starve]: who waits for another writer of a session holds no turn that other sessions wait for.
    async fn changing<T: Send + 'static>(
        &self,
        session: SessionId,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alone = self.inner.writers.lock(session).await;
        self.finished(session).await?;
        self.blocking(move |inner| {
            let _alone = alone;
            work(inner)
        })
        .await
    }

    /// Like [`Self::blocking`], after what is left of going back.
    async fn reading<T: Send + 'static>(
        &self,
        session: SessionId,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.finished(session).await?;
        self.blocking(work).await
    }

    /// Like [`Self::blocking`], for what wants the session's tree open and nothing else.
    // THREAT[T-org-starve]: of those who wait for a tree to be opened one holds a turn.
    async fn visiting<T: Send + 'static>(
        &self,
        session: SessionId,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let alone = self.inner.visitors.lock(session).await;
        self.blocking(move |inner| {
            let _alone = alone;
            work(inner)
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        // The permit goes along, so that work whose caller has gone still counts.
        let permit = Arc::clone(&self.inner.turns)
            .acquire_owned()
            .await
            .map_err(|_| stopping())?;
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&inner)
        })
        .await
        .unwrap_or_else(|_| Err(stopping()))
    }
}

fn stopping() -> WorkspaceError {
    WorkspaceError::Unavailable {
        reason: "the host is shutting down".into(),
    }
}

fn open_private(path: &Path) -> std::result::Result<Dir, OpenError> {
    disk::private_dir(path)
        .and_then(|()| Dir::open_ambient_dir(path, ambient_authority()))
        .map_err(|error| OpenError::io(path, &error))
}

impl Inner {
    /// Marks the session as one that may not be written yet.
    fn begin(&self, session: SessionId) -> Result<()> {
        let mark = || {
            let marked = self.temporary.write(format!("{session}{BEGUN}"), "");
            marked.and_then(|()| self.temporary.open(".")?.sync_all())
        };
        faults::around(Point::FilesBegin, mark).map_err(unavailable)
    }

    fn settle(&self, session: SessionId) -> io::Result<()> {
        let name = format!("{session}{BEGUN}");
        match faults::around(Point::FilesSettle, || self.temporary.remove_file(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.temporary.open(".")?.sync_all()),
        }
    }

    fn there(&self, session: SessionId) -> Result<Option<Dir>> {
        match self.root.open_dir(session.to_string()) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn sweep(dir: &Dir) -> io::Result<()> {
    for entry in dir.entries()? {
        remove_all(dir, entry?.file_name())?;
    }
    Ok(())
}
