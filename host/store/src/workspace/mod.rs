//! Workspaces: a directory of files per session.
//!
//! Every access goes through a capability for the session's directory, so no path and no symbolic link leads out of it.
//! A link that stays inside is followed when read; lists show links as what they are. Names that are not UTF-8 are not shown.
//!
//! Writes of the host are atomic, durable, in turn per session, and inside the quota. A guest that has the directory
//! open writes beside them: its own writes are bounded by the sandbox, and a precondition holds against other writers of the
//! host, not against a guest that writes in the same moment.
//!
//! An operation that began runs to its end even if its future is dropped.

mod file;
mod grep;
mod list;
mod path;

pub use grep::{Found, GrepLine, GrepRequest, Skipped};
pub use list::{Depth, ListRequest};
pub use path::{WorkspacePath, WorkspacePathError};

use crate::{data_dir::DataDir, disk, error::OpenError, record::Page};
use cap_std::{ambient_authority, fs::Dir};
use fumehood_core::{Time, digest::Digest, id::SessionId};
use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Semaphore;

/// How many operations touch the disk at once; others wait their turn.
const AT_ONCE: usize = 32;
/// `ELOOP`; its `ErrorKind` is not stable yet.
const LINK_LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };
/// Writers of one session wait for each other; different sessions rarely do.
const STRIPES: usize = 64;

/// What a workspace may hold; checked before each write of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes in all files.
    pub bytes: u64,
    /// Bytes in one file.
    pub file_bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            bytes: 500 * 1024 * 1024,
            file_bytes: 100 * 1024 * 1024,
            entries: 10_000,
        }
    }
}

/// Why something was not done in a workspace. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The file is not as the caller believes.
    #[error("the file has changed: read it again, then repeat the change")]
    Precondition {
        /// Its etag now; `None` if there is no file.
        current: Option<Digest>,
    },
    /// The quota does not allow it.
    #[error("the workspace would pass its limit of {limit} {of}: delete something, or write less")]
    Quota {
        /// `bytes`, `bytes in one file` or `files`.
        of: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The path is a directory.
    #[error("`{path}` is a directory")]
    IsDirectory {
        /// As given.
        path: WorkspacePath,
    },
    /// The directory still has files.
    #[error("the directory `{path}` is not empty: delete what is in it first")]
    NotEmpty {
        /// As given.
        path: WorkspacePath,
    },
    /// Something on the way is a file, or what is there is neither file nor directory.
    #[error("`{path}` can't be used: something on its way is not a directory, or it is no ordinary file")]
    Blocked {
        /// As given.
        path: WorkspacePath,
    },
    /// A symbolic link would lead out of the workspace.
    #[error("`{path}` leads out of the workspace")]
    LeadsOut {
        /// As given.
        path: WorkspacePath,
    },
    /// A pattern, or another part of the request, is not valid.
    #[error("{reason}")]
    BadRequest {
        /// Which part, and the rule.
        reason: String,
    },
    /// A page cursor that this list did not make.
    #[error("the page cursor is not valid here: start again without it")]
    BadCursor,
    /// The disk refused.
    #[error("the workspace is not available: {reason}")]
    Unavailable {
        /// In words, without paths.
        reason: String,
    },
}

/// A result in a workspace.
pub type Result<T> = std::result::Result<T, WorkspaceError>;

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

/// What a workspace holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes in all files.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

/// The sessions' workspaces. Clones share them.
#[derive(Debug, Clone)]
pub struct Workspaces {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: Dir,
    root_path: PathBuf,
    /// Beside the workspaces, so that a file being written is not seen in one.
    temporary: Dir,
    quota: Quota,
    writers: [Mutex<()>; STRIPES],
    turns: Arc<Semaphore>,
    _data_dir: DataDir,
}

impl Workspaces {
    /// Opens, or makes, `workspaces/` in the data directory and sweeps what an interrupted write left.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn open(data_dir: &DataDir, quota: Quota) -> std::result::Result<Self, OpenError> {
        let open = |name: &str| {
            let path = data_dir.path().join(name);
            disk::private_dir(&path)
                .and_then(|()| Dir::open_ambient_dir(&path, ambient_authority()))
                .map_err(|error| OpenError::io(&path, &error))
        };
        let temporary = open("workspaces.new")?;
        sweep(&temporary).map_err(|error| OpenError::io(data_dir.path().join("workspaces.new"), &error))?;
        Ok(Self {
            inner: Arc::new(Inner {
                root: open("workspaces")?,
                root_path: data_dir.path().join("workspaces"),
                temporary,
                quota,
                writers: [const { Mutex::new(()) }; STRIPES],
                turns: Arc::new(Semaphore::new(AT_ONCE)),
                _data_dir: data_dir.clone(),
            }),
        })
    }

    /// The directory of a session, made if it is missing; for a guest's preopen.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`].
    pub async fn dir(&self, session: SessionId) -> Result<PathBuf> {
        self.blocking(move |inner| {
            inner.made(session).map_err(unavailable)?;
            Ok(inner.root_path.join(session.to_string()))
        })
        .await
    }

    /// A file's bytes, if there is such a file.
    ///
    /// # Errors
    /// [`WorkspaceError::IsDirectory`], [`WorkspaceError::LeadsOut`], [`WorkspaceError::Blocked`], [`WorkspaceError::Quota`]
    /// for a file larger than the host would write, [`WorkspaceError::Unavailable`].
    pub async fn read(&self, session: SessionId, path: &WorkspacePath) -> Result<Option<FileContent>> {
        let path = path.clone();
        self.blocking(move |inner| match inner.there(session)? {
            Some(dir) => file::read(&dir, &path, inner.quota.file_bytes),
            None => Ok(None),
        })
        .await
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
        let written = self.blocking(move |inner| {
            let _turn = inner.writer(session);
            // Looked at first, so that a refused write doesn't even make the session's directory.
            file::fits_alone(&bytes, inner.quota)?;
            let dir = inner.made(session).map_err(unavailable)?;
            file::write(&dir, &inner.temporary, &path, &bytes, precondition, inner.quota)
        });
        written.await.inspect(|_| crate::telemetry::workspace_written(length))
    }

    /// Deletes a file, a link (not what it points to) or an empty directory. `false` if there is none.
    ///
    /// # Errors
    /// [`WorkspaceError::Precondition`], [`WorkspaceError::NotEmpty`], and those of [`Self::read`].
    pub async fn delete(&self, session: SessionId, path: &WorkspacePath, precondition: Precondition) -> Result<bool> {
        let path = path.clone();
        self.blocking(move |inner| {
            let _turn = inner.writer(session);
            match inner.there(session)? {
                Some(dir) => file::delete(&dir, &path, precondition, inner.quota.file_bytes),
                None if precondition == Precondition::Any => Ok(false),
                None => Err(WorkspaceError::Precondition { current: None }),
            }
        })
        .await
    }

    /// One entry, if it is there. Of a link, the link.
    ///
    /// # Errors
    /// [`WorkspaceError::LeadsOut`], [`WorkspaceError::Blocked`], [`WorkspaceError::Unavailable`].
    pub async fn stat(&self, session: SessionId, path: &WorkspacePath) -> Result<Option<Entry>> {
        let path = path.clone();
        self.blocking(move |inner| match inner.there(session)? {
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
        self.blocking(move |inner| match inner.there(session)? {
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
    pub async fn grep(&self, session: SessionId, request: GrepRequest) -> Result<Found> {
        let search = grep::Search::new(&request)?;
        self.blocking(move |inner| match inner.there(session)? {
            Some(dir) => search.run(&dir),
            None => Ok(Found::default()),
        })
        .await
    }

    /// What the session's workspace holds.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`].
    pub async fn usage(&self, session: SessionId) -> Result<Usage> {
        self.blocking(move |inner| match inner.there(session)? {
            Some(dir) => list::usage(&dir),
            None => Ok(Usage::default()),
        })
        .await
    }

    /// Removes a session's workspace with everything in it. `false` if there was none.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`]; part of it may be removed then.
    pub async fn remove(&self, session: SessionId) -> Result<bool> {
        self.blocking(move |inner| {
            let _turn = inner.writer(session);
            match inner.root.remove_dir_all(session.to_string()) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(unavailable(error)),
            }
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let stopping = || WorkspaceError::Unavailable {
            reason: "the host is shutting down".into(),
        };
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

impl Inner {
    fn writer(&self, session: SessionId) -> std::sync::MutexGuard<'_, ()> {
        // The last byte of the id is random.
        let stripe = session.uuid().as_bytes()[15] as usize % STRIPES;
        self.writers[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn there(&self, session: SessionId) -> Result<Option<Dir>> {
        match self.root.open_dir(session.to_string()) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    fn made(&self, session: SessionId) -> io::Result<Dir> {
        let name = session.to_string();
        if let Ok(dir) = self.root.open_dir(&name) {
            return Ok(dir);
        }
        match file::make_dir(&self.root, &name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        self.root.open_dir(&name)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn unavailable(error: io::Error) -> WorkspaceError {
    WorkspaceError::Unavailable {
        reason: disk::reason(&error),
    }
}

/// What an I/O error at a path means.
fn failed(path: &WorkspacePath, error: &io::Error) -> WorkspaceError {
    let path = path.clone();
    match error.kind() {
        io::ErrorKind::IsADirectory => WorkspaceError::IsDirectory { path },
        io::ErrorKind::NotADirectory => WorkspaceError::Blocked { path },
        io::ErrorKind::DirectoryNotEmpty => WorkspaceError::NotEmpty { path },
        // THREAT[T-box-escape-files]: this is how the capability refuses to leave its directory.
        io::ErrorKind::PermissionDenied => WorkspaceError::LeadsOut { path },
        _ if error.raw_os_error() == Some(LINK_LOOP) => WorkspaceError::Blocked { path },
        _ => WorkspaceError::Unavailable {
            reason: disk::reason(error),
        },
    }
}

fn sweep(temporary: &Dir) -> io::Result<()> {
    for entry in temporary.entries()? {
        entry?.remove_file()?;
    }
    Ok(())
}
