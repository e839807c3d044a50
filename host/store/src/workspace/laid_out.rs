//! States of a session's files in directories of their own: to be used as they were, and compared with what became of them.

use super::{
    Result, TakenAlong, WorkspaceError, Workspaces,
    snapshots::{Copied, NotKept},
    unavailable,
};
use cap_std::{ambient_authority, fs::Dir};
use fumehood_core::{digest::Digest, id::SessionId};
use fumehood_files::Quota;
use std::path::Path;

/// A path at which a directory is not as a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// The path, relative to the workspace.
    pub path: String,
    /// What the state has there, in words.
    pub kept: String,
    /// What the directory has there, in words.
    pub found: String,
}

impl Workspaces {
    /// Copies a state of a session's files into the new directory `name` of `place`, which belongs to the caller.
    /// [`TakenAlong::Nothing`] makes no directory.
    ///
    /// # Errors
    /// [`WorkspaceError::Unavailable`].
    pub async fn lay_out(&self, session: SessionId, state: Digest, place: &Path, name: &str) -> Result<TakenAlong> {
        let (place, name) = (place.to_owned(), name.to_owned());
        self.blocking(move |inner| {
            let place = Dir::open_ambient_dir(&place, ambient_authority()).map_err(unavailable)?;
            match inner
                .snapshots
                .copy_state(session, &state, (&place, &name), Quota::UNLIMITED)
            {
                Ok(Copied::All) => Ok(TakenAlong::All),
                Ok(Copied::Nothing) => Ok(TakenAlong::Nothing),
                Ok(Copied::NotKept | Copied::Full(_)) => Ok(TakenAlong::Unavailable),
                Err(error) => Err(refused(error)),
            }
        })
        .await
    }

    /// Where a directory is not as a state of a session's files, in order of the paths. `None` if the state is not kept any more.
    ///
    /// # Errors
    /// [`WorkspaceError::BadRequest`] for a directory with something in it that no state could hold; [`WorkspaceError::Unavailable`].
    pub async fn differing(&self, session: SessionId, state: Digest, dir: &Path) -> Result<Option<Vec<Differing>>> {
        let dir = dir.to_owned();
        self.blocking(move |inner| {
            let dir = Dir::open_ambient_dir(&dir, ambient_authority()).map_err(unavailable)?;
            inner.snapshots.differing(session, &state, &dir).map_err(refused)
        })
        .await
    }
}

fn refused(error: NotKept) -> WorkspaceError {
    match error {
        NotKept::Disk(error) => unavailable(error),
        NotKept::Gone => WorkspaceError::Gone,
        NotKept::Strange | NotKept::TooLarge => WorkspaceError::BadRequest {
            reason: error.to_string(),
        },
    }
}
