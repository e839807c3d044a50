//! Why something is not done in a workspace, and what the errors below mean there.

use super::WorkspacePath;
use crate::disk;
use fumehood_core::digest::Digest;
use fumehood_files::{FileError, Full};
use std::io;

/// `ELOOP`; its `ErrorKind` is not stable yet.
const LINK_LOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };

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
    /// The file came with the session and is read-only, or the directory holds such a file.
    #[error(
        "`{path}` is read-only, or holds a file that is: it came with the session, and goes with it; write to another path"
    )]
    ReadOnly {
        /// As given.
        path: WorkspacePath,
    },
    /// The session was deleted.
    #[error("the session was deleted")]
    Gone,
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

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
pub(super) fn unavailable(error: io::Error) -> WorkspaceError {
    WorkspaceError::Unavailable {
        reason: disk::reason(&error),
    }
}

/// What an I/O error at a path means.
pub(super) fn failed(path: &WorkspacePath, error: &io::Error) -> WorkspaceError {
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

/// What a refusal of the tree means at a path.
pub(super) fn refused(path: &WorkspacePath, error: FileError) -> WorkspaceError {
    match error {
        FileError::Full(Full { limit, most }) => WorkspaceError::Quota {
            of: limit.counts(),
            limit: most,
        },
        FileError::ReadOnly => WorkspaceError::ReadOnly { path: path.clone() },
        FileError::Special => WorkspaceError::Blocked { path: path.clone() },
        FileError::Closed => WorkspaceError::Gone,
        FileError::Io(error) => failed(path, &error),
    }
}
