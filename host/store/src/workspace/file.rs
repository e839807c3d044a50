//! One file: read, write, delete.

use super::{
    FileContent, Precondition, Quota, Result, WorkspaceError, WorkspacePath, WriteOutcome, Written, failed, refused,
    unavailable,
};
use crate::faults::{self, Point};
use cap_std::fs::{
    Dir, DirBuilder, DirBuilderExt as _, File, Metadata, MetadataExt as _, OpenOptions, OpenOptionsExt as _,
};
use fumehood_core::{Time, digest::Digest, id::EventId};
use fumehood_files::{FileError, Placed, Tree, Usage};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read as _, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Makes a directory that only this user can enter.
pub(super) fn make_dir(parent: &Dir, name: &str) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    parent.create_dir_with(name, &builder)
}

pub(super) fn modified(metadata: &Metadata) -> Time {
    metadata
        .modified()
        .map_or(Time::UNIX_EPOCH, |time| Time::from(time.into_std()))
}

/// Opens a file of the workspace, if it is there; what is neither file nor directory is refused unopened, because opening
/// a pipe waits for its other end.
pub(super) fn open(dir: &Dir, path: &WorkspacePath, largest: u64) -> Result<Option<(File, Metadata)>> {
    let metadata = match dir.metadata(path.as_str()) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, &error)),
    };
    if metadata.is_dir() {
        return Err(WorkspaceError::IsDirectory { path: path.clone() });
    }
    if !metadata.is_file() {
        return Err(WorkspaceError::Blocked { path: path.clone() });
    }
    if metadata.len() > largest {
        return Err(too_large(largest));
    }
    match dir.open(path.as_str()) {
        Ok(file) => Ok(Some((file, metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, &error)),
    }
}

/// A file's bytes, if it is there.
pub(super) fn read(dir: &Dir, path: &WorkspacePath, largest: u64) -> Result<Option<FileContent>> {
    match open(dir, path, largest)? {
        Some((file, metadata)) => content(file, &metadata, path, largest).map(Some),
        None => Ok(None),
    }
}

/// The bytes of an open file.
pub(super) fn content(file: File, metadata: &Metadata, path: &WorkspacePath, largest: u64) -> Result<FileContent> {
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // A guest may be appending meanwhile: never take more than the limit.
    file.take(largest.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| failed(path, &error))?;
    if bytes.len() as u64 > largest {
        return Err(too_large(largest));
    }
    Ok(FileContent {
        etag: Digest::of(&bytes),
        bytes,
        modified: modified(metadata),
    })
}

pub(super) const fn too_large(largest: u64) -> WorkspaceError {
    WorkspaceError::Quota {
        of: "bytes in one file",
        limit: largest,
    }
}

pub(super) fn fits_alone(bytes: &[u8], quota: Quota) -> Result<()> {
    let size = bytes.len() as u64;
    for (of, limit) in [("bytes in one file", quota.file_bytes), ("bytes", quota.bytes)] {
        if size > limit {
            return Err(WorkspaceError::Quota { of, limit });
        }
    }
    Ok(())
}

pub(super) fn write(
    tree: &Tree,
    temporary: &Dir,
    path: &WorkspacePath,
    bytes: &[u8],
    precondition: Precondition,
) -> Result<Written> {
    // Looked at before anything is written, and again when the file takes its place.
    let looked = Looked::at(tree, path, precondition)?;
    // THREAT[T-box-workspace-quota]: set aside before a byte is written, from what guests share.
    let room = tree
        .reserve(growth(tree.root(), path, bytes)?)
        .map_err(|error| refused(path, error))?;
    let name = EventId::new().uuid().simple().to_string();
    let written = faults::around(Point::WorkspaceBytes, || write_new(temporary, &name, bytes));
    let placed = written.map_err(unavailable).and_then(|()| {
        let still = |root: &Dir| looked.still_holds(root, SystemTime::now()).map_err(NotPlaced::Refused);
        let place = || tree.place(room, (temporary, &name), path.as_str(), still);
        faults::around(Point::WorkspacePlace, place).map_err(|error| match error {
            NotPlaced::Refused(error) => error,
            NotPlaced::Tree(error) => refused(path, error),
        })
    });
    if placed.is_err() {
        // The first error counts; a leftover is swept at the next start.
        let _ = temporary.remove_file(&name);
    }
    let placed = placed?;
    sync_parents(tree.root(), path).map_err(unavailable)?;
    Ok(Written {
        etag: Digest::of(bytes),
        outcome: match placed {
            Placed::Replaced => WriteOutcome::Replaced,
            Placed::New => WriteOutcome::Created,
        },
    })
}

/// Why a change was not made.
enum NotPlaced {
    Refused(WorkspaceError),
    Tree(FileError),
}

impl From<FileError> for NotPlaced {
    fn from(error: FileError) -> Self {
        Self::Tree(error)
    }
}

/// What a write adds. A link is replaced, not followed; a smaller file adds nothing, and is welcome even where somebody has
/// overfilled the directory.
fn growth(dir: &Dir, path: &WorkspacePath, bytes: &[u8]) -> Result<Usage> {
    let size = bytes.len() as u64;
    match dir.symlink_metadata(path.as_str()) {
        Ok(metadata) if metadata.is_dir() => Err(WorkspaceError::IsDirectory { path: path.clone() }),
        Ok(metadata) => Ok(Usage {
            bytes: size.saturating_sub(if metadata.is_file() { metadata.len() } else { 0 }),
            entries: 0,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parents = std::iter::successors(path.parent(), WorkspacePath::parent);
            let missing = parents.filter(|parent| !dir.exists(parent.as_str())).count() as u64;
            Ok(Usage {
                bytes: size,
                entries: 1 + missing,
            })
        }
        Err(error) => Err(failed(path, &error)),
    }
}

/// A precondition that held.
///
/// While a file takes its place, nobody else changes anything in the session. Reading a large file once more would keep all
/// waiting; so what it is known by is compared where that suffices.
struct Looked<'a> {
    path: &'a WorkspacePath,
    precondition: Precondition,
    largest: u64,
    stamp: Option<Stamp>,
}

impl<'a> Looked<'a> {
    fn at(tree: &Tree, path: &'a WorkspacePath, precondition: Precondition) -> Result<Self> {
        let largest = tree.quota().file_bytes;
        // Taken before the bytes are read: a change meanwhile shows.
        let stamp = Stamp::of(tree.root(), path, SystemTime::now());
        check(tree.root(), path, precondition, largest)?;
        Ok(Self {
            path,
            precondition,
            largest,
            stamp,
        })
    }

    fn still_holds(&self, root: &Dir, now: SystemTime) -> Result<()> {
        if self.stamp.is_some() && self.stamp == Stamp::of(root, self.path, now) {
            return Ok(());
        }
        check(root, self.path, self.precondition, self.largest)
    }
}

/// How old a change must be for the next one to show in the file's times, however coarse the system's clock.
const SETTLED: Duration = Duration::from_secs(2);

/// What a file is known by as long as nobody changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// None where there is no such file, or where it was changed so lately that another change might not show.
    fn of(root: &Dir, path: &WorkspacePath, now: SystemTime) -> Option<Self> {
        Self::from(&root.metadata(path.as_str()).ok()?, now)
    }

    /// The same for what is known of the file already.
    pub(super) fn from(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let changed = u64::try_from(metadata.ctime()).ok()?;
        let settled = Duration::from_secs(changed) + SETTLED < now;
        settled.then(|| Self {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

fn check(dir: &Dir, path: &WorkspacePath, precondition: Precondition, largest: u64) -> Result<()> {
    let holds = match precondition {
        Precondition::Any => return Ok(()),
        Precondition::Absent => dir.symlink_metadata(path.as_str()).is_err(),
        Precondition::Matches(_) => false,
    };
    if holds {
        return Ok(());
    }
    let current = read(dir, path, largest)?.map(|file| file.etag);
    match precondition {
        Precondition::Matches(etag) if current == Some(etag) => Ok(()),
        _ => Err(WorkspaceError::Precondition { current }),
    }
}

fn write_new(temporary: &Dir, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = temporary.open_with(name, &options)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a name durable, and those of the directories it is in.
fn sync_parents(dir: &Dir, path: &WorkspacePath) -> io::Result<()> {
    // Opened as files: what opens as a directory can't be synchronised.
    for parent in std::iter::successors(path.parent(), WorkspacePath::parent) {
        match dir.open(parent.as_str()) {
            // A guest was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => opened?.sync_all()?,
        }
    }
    dir.open(".")?.sync_all()
}

pub(super) fn delete(tree: &Tree, path: &WorkspacePath, precondition: Precondition) -> Result<bool> {
    let looked = Looked::at(tree, path, precondition)?;
    let still = |root: &Dir| looked.still_holds(root, SystemTime::now()).map_err(NotPlaced::Refused);
    match faults::around(Point::WorkspaceDelete, || tree.remove(path.as_str(), still)) {
        Ok(()) => {}
        Err(NotPlaced::Tree(FileError::Io(error))) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(NotPlaced::Tree(error)) => return Err(refused(path, error)),
        Err(NotPlaced::Refused(error)) => return Err(error),
    }
    sync_parents(tree.root(), path).map_err(unavailable)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;

    #[test]
    fn a_file_is_read_again_only_if_it_may_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        let path: WorkspacePath = "file".parse().unwrap();
        root.write("file", "first").unwrap();
        let now = SystemTime::now();
        let later = now + 5 * SETTLED;
        assert_eq!(Stamp::of(&root, &path, now), None, "it has just been written");
        let looked = Looked {
            path: &path,
            // Never true: tells whether it was read.
            precondition: Precondition::Matches(Digest::of(b"other")),
            largest: 100,
            stamp: Stamp::of(&root, &path, later),
        };
        assert!(looked.still_holds(&root, later).is_ok(), "read again");
        let read = |result| matches!(result, Err(WorkspaceError::Precondition { .. }));
        assert!(read(looked.still_holds(&root, now)), "believed too early");
        root.remove_file("file").unwrap();
        root.write("another", "").unwrap();
        root.write("file", "third").unwrap();
        assert!(read(looked.still_holds(&root, later)), "another file");
    }
}
