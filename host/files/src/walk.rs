//! Going through a whole directory, however deep it nests: with two handles at a time, and without a path that grows.
//!
//! A guest may nest directories until its quota of entries is used up. A walk that kept a handle for each level, or named
//! each level in one path, would fail there, and with it the removal of what the guest left.

use crate::quota::Usage;
use cap_std::{
    ambient_authority,
    fs::{Dir, Metadata, MetadataExt as _},
};
use std::{ffi::OsString, io, path::Path};

/// What tells a file from every other while it exists.
pub(crate) type FileId = (u64, u64);

pub(crate) fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// Opens the directory `name` of `dir`, and not what a link of that name leads to, even if it is swapped meanwhile.
///
/// # Errors
/// `NotADirectory` if it is something else, and those of the system.
// THREAT[T-box-prefix-escape]
pub fn open_dir_itself(dir: &Dir, name: impl AsRef<Path>) -> io::Result<Dir> {
    let name = name.as_ref();
    let seen = dir.symlink_metadata(name)?;
    if !seen.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let opened = dir.open_dir(name)?;
    if id(&opened.dir_metadata()?) != id(&seen) {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(opened)
}

// THREAT[T-box-deep-nesting]
/// Where a walk is: the directory, what is left to do in it, and the same for those above.
struct Walk {
    here: Dir,
    left: Vec<OsString>,
    above: Vec<(FileId, OsString, Vec<OsString>)>,
}

impl Walk {
    fn new(root: &Dir, left: Vec<OsString>) -> io::Result<Self> {
        Ok(Self {
            here: root.try_clone()?,
            left,
            above: Vec::new(),
        })
    }

    fn down(&mut self, name: OsString, below: Dir, left: Vec<OsString>) -> io::Result<()> {
        let here = id(&self.here.dir_metadata()?);
        self.above.push((here, name, std::mem::replace(&mut self.left, left)));
        self.here = below;
        Ok(())
    }

    /// Back up; returns the name of what is now done, or `None` at the top.
    fn up(&mut self) -> io::Result<Option<OsString>> {
        let Some((parent, name, left)) = self.above.pop() else {
            return Ok(None);
        };
        let up = self.here.open_parent_dir(ambient_authority())?;
        // Never leaves the tree, even if somebody moved the directory meanwhile.
        // THREAT[T-box-escape-files]
        if id(&up.dir_metadata()?) != parent {
            return Err(io::Error::other("a directory was moved while it was being walked"));
        }
        self.here = up;
        self.left = left;
        Ok(Some(name))
    }
}

/// What lies below `root`. Follows no links.
pub(crate) fn count(root: &Dir) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let left = count_here(root, &mut usage)?;
    let mut walk = Walk::new(root, left)?;
    loop {
        if let Some(name) = walk.left.pop() {
            match open_dir_itself(&walk.here, &name) {
                Ok(below) => {
                    let left = count_here(&below, &mut usage)?;
                    walk.down(name, below, left)?;
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        } else if walk.up()?.is_none() {
            return Ok(usage);
        }
    }
}

/// Adds what is directly in `dir`, and returns its directories.
fn count_here(dir: &Dir, usage: &mut Usage) -> io::Result<Vec<OsString>> {
    let mut directories = Vec::new();
    for entry in dir.entries()? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(error) if is_gone(&error) => continue,
            metadata => metadata?,
        };
        usage.entries = usage.entries.saturating_add(1);
        if metadata.is_dir() {
            directories.push(entry.file_name());
        } else if metadata.is_file() {
            usage.bytes = usage.bytes.saturating_add(metadata.len());
        }
    }
    Ok(directories)
}

/// Removes `name` below `parent` with everything in it; what is not there is no error. Links are removed, not followed.
///
/// # Errors
/// Those of the system; part of it may be removed then.
pub fn remove_all(parent: &Dir, name: impl AsRef<Path>) -> io::Result<()> {
    let name = name.as_ref();
    let root = match open_dir_itself(parent, name) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return gone_is_fine(parent.remove_file(name)),
        Err(error) => return gone_is_fine(Err(error)),
    };
    let left = remove_here(&root)?;
    let mut walk = Walk::new(&root, left)?;
    loop {
        if let Some(name) = walk.left.pop() {
            match open_dir_itself(&walk.here, &name) {
                Ok(below) => {
                    let left = remove_here(&below)?;
                    walk.down(name, below, left)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    gone_is_fine(walk.here.remove_file(&name))?;
                }
                Err(error) => gone_is_fine(Err(error))?,
            }
        } else if let Some(name) = walk.up()? {
            gone_is_fine(walk.here.remove_dir(&name))?;
        } else {
            return gone_is_fine(parent.remove_dir(name));
        }
    }
}

/// Removes what is directly in `dir` and no directory, and returns its directories.
fn remove_here(dir: &Dir) -> io::Result<Vec<OsString>> {
    let mut directories = Vec::new();
    for entry in dir.entries()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            directories.push(entry.file_name());
        } else {
            gone_is_fine(dir.remove_file(entry.file_name()))?;
        }
    }
    Ok(directories)
}

/// Somebody was quicker.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn fixture() -> (tempfile::TempDir, Dir) {
        let dir = tempfile::tempdir().unwrap();
        let open = Dir::open_ambient_dir(dir.path(), ambient_authority()).unwrap();
        (dir, open)
    }

    /// Deeper than the longest path and than the handles that a process usually may have.
    fn nest(dir: &Dir, depth: usize) {
        let mut here = dir.try_clone().unwrap();
        for _ in 0..depth {
            here.create_dir("deeper-and-deeper").unwrap();
            here = here.open_dir("deeper-and-deeper").unwrap();
        }
        here.write("bottom", "x").unwrap();
    }

    #[test]
    fn what_nests_deeper_than_any_path_is_counted_and_removed() {
        let (outer, dir) = fixture();
        dir.create_dir("tree").unwrap();
        nest(&dir.open_dir("tree").unwrap(), 3000);
        let usage = count(&dir).unwrap();
        assert_eq!(
            usage,
            Usage {
                bytes: 1,
                entries: 3002
            }
        );
        remove_all(&dir, "tree").unwrap();
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_counted_and_removed_but_not_followed() {
        let (outer, dir) = fixture();
        std::fs::create_dir_all(outer.path().join("tree/below")).unwrap();
        std::fs::create_dir(outer.path().join("kept")).unwrap();
        std::fs::write(outer.path().join("kept/file"), "kept").unwrap();
        symlink("../kept", outer.path().join("tree/link")).unwrap();
        symlink("..", outer.path().join("tree/below/up")).unwrap();
        let usage = count(&dir.open_dir("tree").unwrap()).unwrap();
        assert_eq!(usage, Usage { bytes: 0, entries: 3 });
        remove_all(&dir, "tree").unwrap();
        assert!(outer.path().join("kept/file").exists());
        assert!(!outer.path().join("tree").exists());
    }

    #[test]
    fn a_link_is_not_opened_as_the_directory_it_leads_to() {
        let (outer, dir) = fixture();
        std::fs::create_dir(outer.path().join("real")).unwrap();
        symlink("real", outer.path().join("link")).unwrap();
        assert!(open_dir_itself(&dir, "real").is_ok());
        assert_eq!(
            open_dir_itself(&dir, "link").unwrap_err().kind(),
            io::ErrorKind::NotADirectory
        );
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let (_outer, dir) = fixture();
        remove_all(&dir, "nothing").unwrap();
    }
}
