//! A file that is open, and the changes made in place.

use crate::{
    tree::{FileError, Room, Tree},
    walk::FileId,
};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// What is known of a file while anybody has it open, however often.
#[derive(Debug)]
pub(crate) struct Inode {
    tree: Arc<Tree>,
    id: FileId,
    /// Held while the file changes in place; the length after the last change.
    len: Mutex<u64>,
    /// It has no name any more, but takes its room until it is closed.
    unlinked: AtomicBool,
    pub(crate) read_only: bool,
}

impl Inode {
    pub(crate) fn new(tree: Arc<Tree>, id: FileId, len: u64, read_only: bool) -> Self {
        Self {
            tree,
            id,
            len: Mutex::new(len),
            unlinked: AtomicBool::new(false),
            read_only,
        }
    }

    /// Its last name is gone: from now on it is charged as an open file. The caller has the tree to itself.
    pub(crate) fn unlink(&self, len: u64) {
        *self.len.lock().unwrap_or_else(PoisonError::into_inner) = len;
        self.unlinked.store(true, Ordering::Release);
        self.tree.named_no_more(len);
    }

    /// Whose room it takes. Stays so within the tree's gate.
    fn room(&self) -> Room {
        if self.unlinked.load(Ordering::Acquire) {
            Room::Nameless
        } else {
            Room::Named
        }
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let nameless = match self.room() {
            Room::Named => 0,
            Room::Nameless => *self.len.lock().unwrap_or_else(PoisonError::into_inner),
        };
        self.tree.closed(self.id, self, nameless);
    }
}

/// An open file of a [`Tree`]. Clones share the handle. The room of a file that was deleted is free again when the last
/// handle of it is dropped.
#[derive(Debug, Clone)]
pub struct OpenFile {
    // Dropped before the handle: as long as it lives, the system gives its number to no other file.
    inode: Arc<Inode>,
    file: Arc<File>,
}

/// Where in a file.
#[derive(Debug, Clone, Copy)]
enum Place {
    At(u64),
    End,
}

impl OpenFile {
    pub(crate) fn new(inode: Arc<Inode>, file: File) -> Self {
        Self {
            inode,
            file: Arc::new(file),
        }
    }

    /// The system's handle, for looking.
    #[must_use]
    pub fn handle(&self) -> &Arc<File> {
        &self.file
    }

    /// Gives the handle to `wrap`, and goes on with the one in what it returns.
    ///
    /// # Errors
    /// When the handle is shared already, and cannot be duplicated.
    pub fn wrapped<T>(self, wrap: impl FnOnce(File) -> (Arc<File>, T)) -> io::Result<(Self, T)> {
        let Self { inode, file } = self;
        let file = Arc::try_unwrap(file).or_else(|shared| shared.try_clone())?;
        let (file, wrapper) = wrap(file);
        Ok((Self { inode, file }, wrapper))
    }

    /// Whether it is one that nobody may change.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inode.read_only
    }

    /// Writes all of `bytes` at `offset`, or nothing if the quota does not allow all of it. Returns how much was written:
    /// less only when the disk fails in between.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<usize, FileError> {
        self.inode.tree.attempt(|| self.write(Place::At(offset), bytes))
    }

    /// The same at the end, wherever that is by then.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn append(&self, bytes: &[u8]) -> Result<usize, FileError> {
        self.inode.tree.attempt(|| self.write(Place::End, bytes))
    }

    /// Cuts or extends it. What it is extended by reads as zeroes and counts like anything written.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn set_len(&self, size: u64) -> Result<(), FileError> {
        self.inode.tree.attempt(|| {
            let _gate = self.inode.tree.enter()?;
            self.resize(size)
        })
    }

    /// As [`OpenFile::set_len`], for who is inside the gate already.
    pub(crate) fn resize(&self, size: u64) -> Result<(), FileError> {
        let tree = &self.inode.tree;
        tree.changing();
        let mut len = self.inode.len.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.file.metadata()?.len();
        let growth = size.saturating_sub(before);
        if growth > 0 {
            tree.quota().has_room_in_file(size)?;
        }
        let room = self.inode.room();
        tree.charge_bytes(room, growth)?;
        match self.file.set_len(size) {
            Ok(()) => {
                tree.release_bytes(room, before.saturating_sub(size));
                *len = size;
                Ok(())
            }
            Err(error) => {
                tree.release_bytes(room, growth);
                Err(error.into())
            }
        }
    }

    // THREAT[T-box-workspace-quota]: what the file grows by is charged before it grows, and nobody else changes its length
    // in between.
    fn write(&self, place: Place, data: &[u8]) -> Result<usize, FileError> {
        if data.is_empty() {
            return Ok(0);
        }
        let tree = &self.inode.tree;
        let _gate = tree.enter()?;
        tree.changing();
        let mut len = self.inode.len.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.file.metadata()?.len();
        let start = match place {
            Place::At(offset) => offset,
            Place::End => before,
        };
        let end = start.saturating_add(data.len() as u64);
        let growth = end.saturating_sub(before);
        if growth > 0 {
            tree.quota().has_room_in_file(end)?;
        }
        let room = self.inode.room();
        tree.charge_bytes(room, growth)?;
        let written = write_all(&self.file, start, data);
        let after = match written {
            Ok(n) => before.max(start.saturating_add(n as u64)),
            Err(_) => before,
        };
        tree.release_bytes(room, end.max(before).saturating_sub(after));
        *len = after;
        Ok(written?)
    }
}

/// Writes until all is written or the disk fails; fails itself only when nothing was written.
fn write_all(file: &File, start: u64, data: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < data.len() {
        match file.write_at(&data[done..], start.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
