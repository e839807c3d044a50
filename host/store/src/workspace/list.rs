//! Lists of entries.

use super::{Entry, Kind, Result, WorkspaceError, WorkspacePath, failed, file::modified, unavailable};
use crate::record::{Page, PageRequest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cap_std::fs::{Dir, Metadata};
use std::io;

/// The largest workspace that is walked; the quota allows fewer, a guest may have made more.
const MOST: usize = 100_000;
const LARGEST_PAGE: u32 = 1000;

/// How far a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What is directly in the directory.
    Here,
    /// Everything below it.
    Below,
}

/// Which entries to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// The directory; `None` is the top. One that is not there lists as empty.
    pub directory: Option<WorkspacePath>,
    /// How far.
    pub depth: Depth,
    /// Which page; the limit is brought into 1 to 1,000.
    pub page: PageRequest,
}

pub(super) fn stat(dir: &Dir, path: &WorkspacePath) -> Result<Option<Entry>> {
    match dir.symlink_metadata(path.as_str()) {
        Ok(metadata) => Ok(Some(entry(path.clone(), &metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, &error)),
    }
}

fn entry(path: WorkspacePath, metadata: &Metadata) -> Entry {
    let kind = if metadata.is_file() {
        Kind::File
    } else if metadata.is_dir() {
        Kind::Directory
    } else {
        Kind::Other
    };
    Entry {
        path,
        kind,
        size: if kind == Kind::File { metadata.len() } else { 0 },
        modified: modified(metadata),
    }
}

pub(super) fn list(dir: &Dir, request: &ListRequest) -> Result<Page<Entry>> {
    let after = request.page.after.as_deref().map(place).transpose()?;
    let limit = request.page.limit.clamp(1, LARGEST_PAGE) as usize;
    let mut entries = entries(dir, request.directory.as_ref(), request.depth)?;
    if let Some(after) = after {
        entries.retain(|entry| entry.path > after);
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries
        .last()
        .filter(|_| more)
        .map(|last| URL_SAFE_NO_PAD.encode(format!("w{}", last.path)));
    Ok(Page { items: entries, next })
}

/// The path that a cursor continues after.
fn place(cursor: &str) -> Result<WorkspacePath> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix('w').and_then(|path| WorkspacePath::new(path).ok()))
        .ok_or(WorkspaceError::BadCursor)
}

/// The entries of a directory, in no order. Links are shown and never followed.
pub(super) fn entries(dir: &Dir, directory: Option<&WorkspacePath>, depth: Depth) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut open = vec![directory.cloned()];
    while let Some(directory) = open.pop() {
        for entry in children(dir, directory.as_ref())? {
            if found.len() == MOST {
                return Err(WorkspaceError::BadRequest {
                    reason: format!("the workspace has more than {MOST} entries: name a directory in it"),
                });
            }
            if depth == Depth::Below && entry.kind == Kind::Directory {
                open.push(Some(entry.path.clone()));
            }
            found.push(entry);
        }
    }
    Ok(found)
}

fn children(dir: &Dir, directory: Option<&WorkspacePath>) -> Result<Vec<Entry>> {
    let opened = match directory {
        Some(path) => match dir.read_dir(path.as_str()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|error| failed(path, &error)),
        },
        None => dir.entries().map_err(unavailable),
    }?;
    let mut found = Vec::new();
    for child in opened {
        let child = child.map_err(unavailable)?;
        let Some(path) = child.file_name().to_str().and_then(|name| {
            match directory {
                Some(directory) => WorkspacePath::new(format!("{directory}/{name}")),
                None => WorkspacePath::new(name),
            }
            .ok()
        }) else {
            continue;
        };
        match child.metadata() {
            Ok(metadata) => found.push(entry(path, &metadata)),
            // A guest was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Ok(found)
}
