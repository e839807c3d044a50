//! One file: read, write, delete.

use super::{
    FileContent, Precondition, Quota, Result, WorkspaceError, WorkspacePath, WriteOutcome, Written, failed, list,
    unavailable,
};
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, Metadata, OpenOptions, OpenOptionsExt as _};
use fumehood_core::{Time, digest::Digest, id::EventId};
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
    dir: &Dir,
    temporary: &Dir,
    path: &WorkspacePath,
    bytes: &[u8],
    precondition: Precondition,
    quota: Quota,
) -> Result<Written> {
    let before = size_before(dir, path)?;
    check(dir, path, precondition, quota.file_bytes)?;
    // THREAT[T-box-output]: checked before a byte is written.
    fits(dir, path, bytes, before, quota)?;
    let name = EventId::new().uuid().simple().to_string();
    let placed = write_new(temporary, &name, bytes)
        .map_err(unavailable)
        .and_then(|()| place(dir, temporary, &name, path).map_err(|error| failed(path, &error)));
    if placed.is_err() {
        // The first error counts; a leftover is swept at the next start.
        let _ = temporary.remove_file(&name);
    }
    placed?;
    sync_parent(dir, path).map_err(unavailable)?;
    Ok(Written {
        etag: Digest::of(bytes),
        outcome: match before {
            Some(_) => WriteOutcome::Replaced,
            None => WriteOutcome::Created,
        },
    })
}

/// Gives a finished file its name, making the directories on its way.
fn place(dir: &Dir, temporary: &Dir, name: &str, path: &WorkspacePath) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_parents(dir, &parent)?;
    }
    temporary.rename(name, dir, path.as_str())
}

/// The size of what a write would replace; `None` if nothing is there. A link is replaced, not followed.
fn size_before(dir: &Dir, path: &WorkspacePath) -> Result<Option<u64>> {
    match dir.symlink_metadata(path.as_str()) {
        Ok(metadata) if metadata.is_dir() => Err(WorkspaceError::IsDirectory { path: path.clone() }),
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
        Ok(_) => Ok(Some(0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
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

fn fits(dir: &Dir, path: &WorkspacePath, bytes: &[u8], before: Option<u64>, quota: Quota) -> Result<()> {
    let usage = list::usage(dir)?;
    let after = usage
        .bytes
        .saturating_sub(before.unwrap_or(0))
        .saturating_add(bytes.len() as u64);
    // A smaller file is welcome even in a workspace that a guest has overfilled.
    if after > quota.bytes && after > usage.bytes {
        return Err(WorkspaceError::Quota {
            of: "bytes",
            limit: quota.bytes,
        });
    }
    if before.is_none() {
        let missing_parents = std::iter::successors(path.parent(), WorkspacePath::parent)
            .filter(|parent| !dir.exists(parent.as_str()))
            .count() as u64;
        if usage.entries + 1 + missing_parents > quota.entries {
            return Err(WorkspaceError::Quota {
                of: "files",
                limit: quota.entries,
            });
        }
    }
    Ok(())
}

fn make_parents(dir: &Dir, path: &WorkspacePath) -> io::Result<()> {
    match dir.metadata(path.as_str()) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = path.parent() {
        make_parents(dir, &parent)?;
    }
    match make_dir(dir, path.as_str()) {
        // A guest was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    sync_parent(dir, path)
}

fn write_new(temporary: &Dir, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = temporary.open_with(name, &options)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a name durable.
fn sync_parent(dir: &Dir, path: &WorkspacePath) -> io::Result<()> {
    // Opened as a file: what opens as a directory can't be synchronised.
    let parent = path.parent();
    dir.open(parent.as_ref().map_or(".", WorkspacePath::as_str))?.sync_all()
}

pub(super) fn delete(dir: &Dir, path: &WorkspacePath, precondition: Precondition, largest: u64) -> Result<bool> {
    check(dir, path, precondition, largest)?;
    let metadata = match dir.symlink_metadata(path.as_str()) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(path, &error)),
    };
    let removed = if metadata.is_dir() {
        dir.remove_dir(path.as_str())
    } else {
        dir.remove_file(path.as_str())
    };
    match removed {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(path, &error)),
    }
    sync_parent(dir, path).map_err(unavailable)?;
    Ok(true)
}
