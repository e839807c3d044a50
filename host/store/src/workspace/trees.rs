//! The sessions' trees: one each, shared by everybody who changes files of the session, so that all is charged to one account.
//!
//! A tree is kept while somebody uses it, and a bounded number beyond that, so that the next call need not count again.

use super::{Result, WorkspaceError, file, unavailable};
use crate::{
    faults::{self, Point},
    session_locks::SessionLocks,
};
use cap_std::fs::Dir;
use fumehood_core::id::SessionId;
use fumehood_files::{Quota, Tree, remove_all};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Trees that nobody uses and that are kept nevertheless; each holds a handle of its directory.
const MOST_IDLE: usize = 128;
/// How many deleted sessions are remembered, so that a call that began before does not make their directory anew.
const MOST_DELETED: usize = 65_536;

#[derive(Debug)]
pub(super) struct Trees {
    root: Dir,
    /// What is being removed.
    gone: Dir,
    quota: Quota,
    /// Those who open, take away or bring back a tree. They wait on threads that may block.
    pub(super) openers: SessionLocks,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    trees: HashMap<SessionId, Kept>,
    deleted: HashSet<SessionId>,
    deleted_in_order: VecDeque<SessionId>,
}

#[derive(Debug)]
struct Kept {
    tree: Arc<Tree>,
    used: Instant,
}

impl Trees {
    pub(super) fn new(root: Dir, gone: Dir, quota: Quota) -> Self {
        Self {
            root,
            gone,
            quota,
            openers: SessionLocks::default(),
            known: Mutex::default(),
        }
    }

    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    /// The tree, if it is open already; touches no disk.
    pub(super) fn known(&self, session: SessionId) -> Result<Option<Arc<Tree>>> {
        let mut known = self.lock();
        // THREAT[T-org-deleted-session]
        if known.deleted.contains(&session) {
            return Err(WorkspaceError::Gone);
        }
        Ok(known.trees.get_mut(&session).map(|kept| {
            kept.used = Instant::now();
            Arc::clone(&kept.tree)
        }))
    }

    /// The tree, if the session has a directory.
    pub(super) fn there(&self, session: SessionId) -> Result<Option<Arc<Tree>>> {
        self.open(session, |name| match self.root.open_dir(name) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// The tree; its directory is made if it is missing.
    pub(super) fn made(&self, session: SessionId) -> Result<Arc<Tree>> {
        let tree = self.open(session, |name| {
            if let Ok(dir) = self.root.open_dir(name) {
                return Ok(Some(dir));
            }
            match file::make_dir(&self.root, name) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            self.root.open_dir(name).map(Some)
        })?;
        tree.ok_or_else(|| unavailable(io::ErrorKind::NotFound.into()))
    }

    fn open(&self, session: SessionId, dir: impl FnOnce(&str) -> io::Result<Option<Dir>>) -> Result<Option<Arc<Tree>>> {
        if let Some(tree) = self.known(session)? {
            return Ok(Some(tree));
        }
        let _opening = self.openers.lock_blocking(session);
        if let Some(tree) = self.known(session)? {
            return Ok(Some(tree));
        }
        let Some(dir) = dir(&session.to_string()).map_err(unavailable)? else {
            return Ok(None);
        };
        let tree = Tree::open(dir, self.quota).map_err(unavailable)?;
        let mut known = self.lock();
        known.make_room();
        known.trees.insert(
            session,
            Kept {
                tree: Arc::clone(&tree),
                used: Instant::now(),
            },
        );
        Ok(Some(tree))
    }

    /// Takes the files out of everybody's reach, at once and for good unless [`Trees::restore`] follows. Changes that have
    /// begun are finished first; none begins any more, not even through a handle that a guest holds.
    // THREAT[T-org-deleted-session]
    pub(super) fn retire(&self, session: SessionId) -> Result<bool> {
        let _opening = self.openers.lock_blocking(session);
        let tree = {
            let mut known = self.lock();
            known.delete(session);
            known.trees.remove(&session)
        };
        if let Some(kept) = tree {
            kept.tree.close();
        }
        let name = session.to_string();
        match faults::around(Point::FilesRetire, || self.root.rename(&name, &self.gone, &name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Undoes [`Trees::retire`]. Who had the files open has to open them again.
    pub(super) fn restore(&self, session: SessionId) -> Result<()> {
        let _opening = self.openers.lock_blocking(session);
        let name = session.to_string();
        match faults::around(Point::FilesReinstate, || self.gone.rename(&name, &self.root, &name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unavailable(error)),
            _ => {}
        }
        let mut known = self.lock();
        known.deleted.remove(&session);
        known.deleted_in_order.retain(|deleted| *deleted != session);
        Ok(())
    }

    /// Removes what was retired.
    pub(super) fn purge(&self, session: SessionId) -> Result<()> {
        faults::around(Point::FilesPurge, || remove_all(&self.gone, session.to_string())).map_err(unavailable)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change leaves it consistent.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Keeps the number of trees that nobody uses in bounds: the half that was used last stays.
    fn make_room(&mut self) {
        let mut idle: Vec<(Instant, SessionId)> = self
            .trees
            .iter()
            .filter(|(_, kept)| Arc::strong_count(&kept.tree) == 1)
            .map(|(session, kept)| (kept.used, *session))
            .collect();
        if idle.len() < MOST_IDLE {
            return;
        }
        idle.sort_unstable();
        for (_, session) in &idle[..idle.len() / 2] {
            self.trees.remove(session);
        }
    }

    fn delete(&mut self, session: SessionId) {
        if !self.deleted.insert(session) {
            return;
        }
        self.deleted_in_order.push_back(session);
        if self.deleted_in_order.len() > MOST_DELETED
            && let Some(oldest) = self.deleted_in_order.pop_front()
        {
            self.deleted.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;

    #[test]
    fn a_tree_that_is_being_opened_keeps_no_other_waiting() {
        let place = tempfile::tempdir().unwrap();
        let [root, gone] = ["root", "gone"].map(|name| {
            std::fs::create_dir(place.path().join(name)).unwrap();
            Dir::open_ambient_dir(place.path().join(name), ambient_authority()).unwrap()
        });
        let trees = Trees::new(root, gone, Quota::default());
        let [busy, others @ ..] = [(); 100].map(|()| SessionId::new());
        let opening = trees.openers.lock_blocking(busy);
        for other in others {
            trees.made(other).unwrap();
            trees.retire(other).unwrap();
        }
        drop(opening);
        trees.made(busy).unwrap();
    }
}
