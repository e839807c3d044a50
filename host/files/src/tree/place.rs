//! Changes by path from the top, as the host makes them for clients: a whole file takes its place at once, or nothing happens.

use super::{FileError, STICKY, Tree, bytes_of, check_movable, there};
use crate::{
    quota::{Full, Usage},
    walk::id,
};
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, Permissions, PermissionsExt as _};
use std::io;

/// What became of placing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// Nothing was there.
    New,
    /// Something was there.
    Replaced,
}

impl Tree {
    /// Sets room aside for what is about to come in by [`Tree::place`].
    ///
    /// # Errors
    /// [`FileError::Full`].
    pub fn reserve(&self, more: Usage) -> Result<Reservation<'_>, FileError> {
        self.attempt(|| {
            let _gate = self.enter()?;
            let mut state = self.state();
            self.quota.has_room(state.used.plus(state.reserved), more)?;
            state.reserved = state.reserved.plus(more);
            Ok(Reservation { tree: self, more })
        })
    }

    /// Moves the finished file `name` of `from` to `path`, making the directories on its way, if `check` agrees. Nothing in
    /// the tree changes between the check and the move.
    ///
    /// # Errors
    /// What `check` returns, and [`FileError`].
    pub fn place<E: From<FileError>>(
        &self,
        reservation: Reservation<'_>,
        from: (&Dir, &str),
        path: &str,
        check: impl FnOnce(&Dir) -> Result<(), E>,
    ) -> Result<Placed, E> {
        let _gate = self.enter_alone()?;
        self.changing();
        check(&self.root)?;
        let io = |error: io::Error| E::from(error.into());
        let len = from.0.symlink_metadata(from.1).map_err(io)?.len();
        let replaced = there(&self.root, path).map_err(io)?;
        if let Some(replaced) = &replaced {
            check_movable(replaced).map_err(E::from)?;
        }
        self.quota.has_room_in_file(len).map_err(FileError::from)?;
        // While the old file is open, both take their room.
        let open = replaced.as_ref().and_then(|replaced| self.inode(id(replaced)));
        let before = replaced.as_ref().map_or(0, bytes_of);
        let freed = if open.is_some() { 0 } else { before };
        let parents = missing_parents(&self.root, path);
        let entries = parents.len() as u64 + u64::from(replaced.is_none());
        let more = Usage {
            bytes: len.saturating_sub(freed),
            entries: 0,
        }
        .plus(self.quota.of_entries(entries));
        reservation.exchange(more).map_err(FileError::from)?;
        if let Err((made, error)) = self.move_in(&parents, from, path) {
            self.release(more.minus(self.quota.of_entries(made)));
            return Err(io(error));
        }
        self.release(Usage {
            bytes: freed.saturating_sub(len),
            entries: 0,
        });
        if let Some(open) = open {
            open.unlink(before);
        }
        Ok(match replaced {
            Some(_) => Placed::Replaced,
            None => Placed::New,
        })
    }

    /// Tells how many directories were made when it fails.
    fn move_in(&self, parents: &[&str], from: (&Dir, &str), path: &str) -> Result<(), (u64, io::Error)> {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        for (made, parent) in parents.iter().enumerate() {
            self.root
                .create_dir_with(parent, &builder)
                .map_err(|error| (made as u64, error))?;
        }
        from.0
            .rename(from.1, &self.root, path)
            .map_err(|error| (parents.len() as u64, error))
    }

    /// Removes a file, link or empty directory at `path`, if `check` agrees. Nothing changes between the two.
    ///
    /// # Errors
    /// What `check` returns, and [`FileError`].
    pub fn remove<E: From<FileError>>(&self, path: &str, check: impl FnOnce(&Dir) -> Result<(), E>) -> Result<(), E> {
        let _gate = self.enter_alone()?;
        self.changing();
        check(&self.root)?;
        let remove = || {
            let seen = self.root.symlink_metadata(path)?;
            check_movable(&seen)?;
            if seen.is_dir() {
                self.root.remove_dir(path)?;
                self.release(self.quota.of_entries(1));
            } else {
                self.root.remove_file(path)?;
                self.name_gone(&seen);
            }
            Ok::<(), FileError>(())
        };
        Ok(remove()?)
    }

    /// Makes the file at `path` one that nobody may change, move or remove, and the directories it is in ones that nobody
    /// may move or remove.
    ///
    /// # Errors
    /// Those of the system.
    pub fn make_read_only(&self, path: &str) -> Result<(), FileError> {
        let _gate = self.enter_alone()?;
        self.changing();
        self.root.set_permissions(path, Permissions::from_mode(0o400))?;
        let parents = std::iter::successors(parent(path), |path| parent(path));
        for parent in parents {
            self.root
                .set_permissions(parent, Permissions::from_mode(STICKY | 0o700))?;
        }
        Ok(())
    }
}

/// Room that is set aside. Dropping it gives it back.
#[derive(Debug)]
pub struct Reservation<'a> {
    tree: &'a Tree,
    more: Usage,
}

impl Reservation<'_> {
    /// Charges `more` in the place of what was set aside.
    fn exchange(mut self, more: Usage) -> Result<(), Full> {
        let mut state = self.tree.state();
        state.reserved = state.reserved.minus(std::mem::take(&mut self.more));
        self.tree.quota.has_room(state.used.plus(state.reserved), more)?;
        state.used = state.used.plus(more);
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if self.more != Usage::default() {
            let mut state = self.tree.state();
            state.reserved = state.reserved.minus(self.more);
        }
    }
}

pub(super) fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

/// The directories on the way to `path` that are not there, from the top.
fn missing_parents<'a>(root: &Dir, path: &'a str) -> Vec<&'a str> {
    let mut missing: Vec<&str> = std::iter::successors(parent(path), |path| parent(path))
        .take_while(|parent| !root.exists(parent))
        .collect();
    missing.reverse();
    missing
}
