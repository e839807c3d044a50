//! The states of workspaces that sessions can go back to.
//!
//! A state is taken when a turn begins and costs next to nothing where nothing changed since the last one; otherwise what changed
//! is read and kept. Going back is made ready beside the workspace, decided by the journal, and then done: in the place of what is
//! there, file by file, each whole. What a crash interrupts after it was decided is finished at the next start; what it
//! interrupts before never happened.

pub(crate) mod backup;
mod compare;
mod copy;
mod durable;
mod examine;
mod manifest;
mod restore;
mod shelf;

pub(super) use copy::{Copied, copy_now};
pub(in crate::workspace) use examine::{Unsound, examine, removed};
pub(super) use restore::{Left, PutBack};

use self::{manifest::Manifest, shelf::Shelf};
use crate::faults::{self, Point};
use cap_std::fs::Dir;
use fumehood_core::{digest::Digest, id::SessionId};
use fumehood_files::{FileError, Tree, remove_all};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// How often a workspace is looked at that changes meanwhile, before those who change it have to wait.
const LOOKS: u32 = 2;
/// Marks of workspaces that may not be open any more.
const MOST_MARKS: usize = 4096;

/// Why a state is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    /// Something in it could not be put back.
    #[error(
        "it holds something that can't be put back: a pipe or device, a name that is no text, or a path that is too long"
    )]
    Strange,
    /// It does not fit.
    #[error("it is larger than what is kept of a session")]
    TooLarge,
    /// The session is being deleted.
    #[error("the session is being deleted")]
    Gone,
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

impl From<FileError> for NotKept {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Closed => Self::Gone,
            FileError::Io(error) => Self::Disk(error),
            other => Self::Disk(io::Error::other(other)),
        }
    }
}

/// What is kept of all sessions.
#[derive(Debug)]
pub(super) struct Snapshots {
    root: Dir,
    /// What is ready to be put back.
    restoring: Dir,
    /// Bytes kept of each session.
    most: u64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    marks: HashMap<SessionId, Mark>,
    /// Sessions of which something is ready to be put back that nobody sees to.
    left: HashMap<SessionId, Left>,
}

/// The state of a workspace that was kept last, as long as nothing changes in it.
#[derive(Debug)]
struct Mark {
    tree: Weak<Tree>,
    changes: u64,
    state: Digest,
}

impl Snapshots {
    pub(super) fn new(root: Dir, restoring: Dir, most: u64) -> Self {
        Self {
            root,
            restoring,
            most,
            known: Mutex::default(),
        }
    }

    /// Keeps the state of a workspace, and gives its name.
    pub(super) fn take(&self, session: SessionId, tree: Option<&Arc<Tree>>) -> Result<Digest, NotKept> {
        if self.most == 0 {
            return Err(NotKept::TooLarge);
        }
        let Some(tree) = tree else {
            return Manifest::default().digest();
        };
        if let Some(state) = self.marked(session, tree)? {
            return Ok(state);
        }
        let shelf = Shelf::made(&self.root, &session.to_string())?;
        let mut cache = shelf.cache()?;
        let (manifest, changes) = undisturbed(tree, |root| shelf.collect(root, &mut cache, self.most))?;
        let state = shelf.keep(&manifest, &mut cache)?;
        self.mark(session, tree, changes, state);
        Ok(state)
    }

    /// The state of a workspace, if it was kept and nothing changed since.
    fn marked(&self, session: SessionId, tree: &Arc<Tree>) -> Result<Option<Digest>, NotKept> {
        let changes = tree.changes()?;
        let known = self.lock();
        let mark = known.marks.get(&session);
        Ok(mark
            .filter(|mark| mark.changes == changes && Weak::ptr_eq(&mark.tree, &Arc::downgrade(tree)))
            .map(|mark| mark.state))
    }

    fn mark(&self, session: SessionId, tree: &Arc<Tree>, changes: u64, state: Digest) {
        let mut known = self.lock();
        if known.marks.len() >= MOST_MARKS {
            known.marks.retain(|_, mark| mark.tree.strong_count() > 0);
        }
        let mark = Mark {
            tree: Arc::downgrade(tree),
            changes,
            state,
        };
        known.marks.insert(session, mark);
    }

    /// A state of a session that is kept.
    fn manifest(&self, session: SessionId, state: &Digest) -> Result<Option<(Manifest, Option<Shelf>)>, NotKept> {
        if self.most == 0 {
            // Not even that there was nothing.
            return Ok(None);
        }
        let shelf = Shelf::open(&self.root, &session.to_string())?;
        if Manifest::default().digest()? == *state {
            return Ok(Some((Manifest::default(), shelf)));
        }
        let Some(shelf) = shelf else { return Ok(None) };
        Ok(shelf.manifest(state)?.map(|manifest| (manifest, Some(shelf))))
    }

    /// Puts aside what is kept of a session that is to be deleted.
    pub(super) fn retire(&self, session: SessionId, gone: &Dir) -> io::Result<()> {
        self.lock().marks.remove(&session);
        faults::around(Point::FilesRetire, || {
            moved(&self.root, &session.to_string(), gone, &retired(session))
        })
    }

    /// Undoes [`Snapshots::retire`].
    pub(super) fn reinstate(&self, session: SessionId, gone: &Dir) -> io::Result<()> {
        faults::around(Point::FilesReinstate, || {
            moved(gone, &retired(session), &self.root, &session.to_string())
        })
    }

    /// Removes what was put aside.
    pub(super) fn purge(&self, session: SessionId, gone: &Dir) -> io::Result<()> {
        self.lock().left.remove(&session);
        remove_all(&self.restoring, session.to_string())?;
        remove_all(gone, retired(session))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change leaves it consistent.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept of a session is put aside under a name that ends so.
pub(super) const RETIRED: &str = ".snapshots";

fn retired(session: SessionId) -> String {
    format!("{session}{RETIRED}")
}

fn moved(from: &Dir, name: &str, to: &Dir, target: &str) -> io::Result<()> {
    shelf::gone_is_fine(from.rename(name, to, target))
}

/// Looks at a workspace until nothing changed while it was looked at; what was seen, and the number that stays as long as it is so.
fn undisturbed<T>(tree: &Tree, mut look: impl FnMut(&Dir) -> Result<T, NotKept>) -> Result<(T, u64), NotKept> {
    for _ in 0..LOOKS {
        let before = tree.changes()?;
        let seen = look(tree.root());
        if tree.changes()? == before {
            return Ok((seen?, before));
        }
    }
    // Only calls outside of turns can be so busy: now they wait.
    tree.undisturbed(|root, changes| look(root).map(|seen| (seen, changes)))?
}
