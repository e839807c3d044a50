//! One file: read, write, delete.

use super::{
    FileContent, Precondition, Quota, Result, WorkspaceError, WorkspacePath, WriteOutcome, Written, failed, refused,
    unavailable,
};
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, Metadata, OpenOptions, OpenOptionsExt as _};
use fumehood_core::{Time, digest::Digest, id::EventId};
use fumehood_files::{FileError, Placed, Tree, Usage};
use std::io::{self, Read as _, Write as _};

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

/// A file of the workspace, if it is there; what is neither file nor directory is refused unopened, because opening
/// a pipe waits for its other end.
pub(super) fn read(dir: &Dir, path: &WorkspacePath, largest: u64) -> Result<Option<FileContent>> {
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
    let too_large = || WorkspaceError::Quota {
        of: "bytes in one file",
        limit: largest,
    };
    if metadata.len() > largest {
        return Err(too_large());
    }
    let file = match dir.open(path.as_str()) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, &error)),
    };
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // A guest may be appending meanwhile: never take more than the limit.
    file.take(largest + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(path, &error))?;
    if bytes.len() as u64 > largest {
        return Err(too_large());
    }
    Ok(Some(FileContent {
        etag: Digest::of(&bytes),
        bytes,
        modified: modified(&metadata),
    }))
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
    let largest = tree.quota().file_bytes;
    // Looked at before anything is written, and again when the file takes its place.
    check(tree.root(), path, precondition, largest)?;
    // THREAT[T-box-workspace-quota]: set aside before a byte is written, from what guests share.
    let room = tree
        .reserve(growth(tree.root(), path, bytes)?)
        .map_err(|error| refused(path, error))?;
    let name = EventId::new().uuid().simple().to_string();
    let placed = write_new(temporary, &name, bytes).map_err(unavailable).and_then(|()| {
        let still = |root: &Dir| check(root, path, precondition, largest).map_err(NotPlaced::Refused);
        tree.place(room, (temporary, &name), path.as_str(), still)
            .map_err(|error| match error {
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

fn check(dir: &Dir, path: &WorkspacePath, precondition: Precondition, largest: u64) -> Result<()> {
    if precondition == Precondition::Any {
        return Ok(());
    }
    let current = read(dir, path, largest)?.map(|file| file.etag);
    let there = dir.symlink_metadata(path.as_str()).is_ok();
    let holds = match precondition {
        Precondition::Any => true,
        Precondition::Absent => !there,
        Precondition::Matches(etag) => current == Some(etag),
    };
    if holds {
        Ok(())
    } else {
        Err(WorkspaceError::Precondition { current })
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
    let largest = tree.quota().file_bytes;
    let still = |root: &Dir| check(root, path, precondition, largest).map_err(NotPlaced::Refused);
    match tree.remove(path.as_str(), still) {
        Ok(()) => {}
        Err(NotPlaced::Tree(FileError::Io(error))) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(NotPlaced::Tree(error)) => return Err(refused(path, error)),
        Err(NotPlaced::Refused(error)) => return Err(error),
    }
    sync_parents(tree.root(), path).map_err(unavailable)?;
    Ok(true)
}
