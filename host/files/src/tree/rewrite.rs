//! How the host itself brings a directory into another state: past the quota's growth check and read-only marks, because what is
//! put there was there before.

use super::{FileError, STICKY, Tree, bytes_of, there};
use crate::walk::{id, remove_all};
use cap_std::fs::{Dir, DirBuilder, DirBuilderExt as _, Metadata, Permissions, PermissionsExt as _};
use std::io;

/// A tree while nobody else changes anything in it.
#[derive(Debug)]
pub struct Rewriting<'a> {
    tree: &'a Tree,
}

impl Tree {
    /// Runs `work` while nobody else changes anything, and counts afterwards what is there. Whoever puts something there sees
    /// to it that the quota allows it.
    ///
    /// # Errors
    /// What `work` returns, and [`FileError`].
    pub fn rewrite<T, E: From<FileError>>(&self, work: impl FnOnce(&Rewriting<'_>) -> Result<T, E>) -> Result<T, E> {
        let _gate = self.enter_alone()?;
        self.changing();
        let done = work(&Rewriting { tree: self });
        // Also when it failed: a part may be done.
        let counted = self.count().map_err(FileError::from)?;
        self.counted_anew(counted);
        done
    }
}

impl Rewriting<'_> {
    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Dir {
        &self.tree.root
    }

    /// Removes a file, a link, or a directory that is empty; another directory stays. What is not there is no error.
    ///
    /// # Errors
    /// Those of the system.
    // THREAT[T-box-restore]: what a link on the way leads to is not what is to be removed.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let root = &self.tree.root;
        if let Some(parent) = super::place::parent(path)
            && !self.is_directory(parent)?
        {
            return Ok(());
        }
        let Some(seen) = there(root, path)? else { return Ok(()) };
        if !seen.is_dir() {
            root.remove_file(path)?;
            self.nameless(&seen);
            return Ok(());
        }
        match root.remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            done => done,
        }
    }

    /// Makes a directory with those on its way; whatever else is in its place goes.
    ///
    /// # Errors
    /// Those of the system.
    // THREAT[T-box-restore]: no link on the way is followed, or what is put back would land elsewhere.
    pub fn directory(&self, path: &str) -> io::Result<()> {
        let root = &self.tree.root;
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        for end in ends(path) {
            let part = &path[..end];
            match there(root, part)? {
                Some(seen) if seen.is_dir() => {}
                Some(_) => {
                    self.remove(part)?;
                    root.create_dir_with(part, &builder)?;
                }
                None => root.create_dir_with(part, &builder)?,
            }
        }
        Ok(())
    }

    /// Makes the names in a directory durable. What is no directory has none, nor has what is behind a link.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync(&self, path: &str) -> io::Result<()> {
        if self.is_directory(path)? {
            self.tree.root.open(path)?.sync_all()?;
        }
        Ok(())
    }

    /// Whether it is a directory, as is everything on its way: no link.
    fn is_directory(&self, path: &str) -> io::Result<bool> {
        for end in ends(path) {
            if !there(&self.tree.root, &path[..end])?.is_some_and(|seen| seen.is_dir()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a directory one that nobody may move or remove.
    ///
    /// # Errors
    /// Those of the system.
    pub fn fix_directory(&self, path: &str) -> io::Result<()> {
        let mode = Permissions::from_mode(STICKY | 0o700);
        self.tree.root.set_permissions(path, mode)
    }

    /// Makes a symbolic link in the place of whatever is there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn link(&self, target: &str, path: &str) -> io::Result<()> {
        self.clear(path)?;
        // Also one that leads out, which nobody can follow here: it was there before.
        self.tree.root.symlink_contents(target, path)
    }

    /// Moves the finished file `name` of `from` to `path`, in the place of whatever is there.
    ///
    /// # Errors
    /// Those of the system.
    pub fn put(&self, from: (&Dir, &str), path: &str) -> io::Result<()> {
        self.parents(path)?;
        let replaced = there(&self.tree.root, path)?;
        if !replaced.as_ref().is_some_and(Metadata::is_file) {
            self.clear(path)?;
        }
        from.0.rename(from.1, &self.tree.root, path)?;
        if let Some(seen) = replaced.filter(Metadata::is_file) {
            self.nameless(&seen);
        }
        Ok(())
    }

    fn parents(&self, path: &str) -> io::Result<()> {
        super::place::parent(path).map_or(Ok(()), |parent| self.directory(parent))
    }

    /// Makes room for what comes to `path`.
    fn clear(&self, path: &str) -> io::Result<()> {
        self.parents(path)?;
        self.remove(path)?;
        // A directory that somebody filled meanwhile.
        remove_all(&self.tree.root, path)
    }

    /// A file has lost its name; as long as it is open, it takes its room.
    fn nameless(&self, seen: &Metadata) {
        if let Some(inode) = self.tree.inode(id(seen)) {
            inode.unlink(bytes_of(seen));
        }
    }
}

/// Where the parts of a path end, the outer first.
fn ends(path: &str) -> impl Iterator<Item = usize> {
    path.match_indices('/').map(|(at, _)| at).chain([path.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Create, Open, Opened, Quota, Usage, walk};
    use cap_std::ambient_authority;
    use std::sync::Arc;

    fn fixture() -> (tempfile::TempDir, Dir, Arc<Tree>) {
        let place = tempfile::tempdir().unwrap();
        for name in ["tree", "staged", "outside"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        let [tree, staged] =
            ["tree", "staged"].map(|name| Dir::open_ambient_dir(place.path().join(name), ambient_authority()).unwrap());
        (place, staged, Tree::open(tree, Quota::default()).unwrap())
    }

    #[test]
    fn what_is_put_back_takes_the_place_of_whatever_is_there_and_is_counted() {
        let (_place, staged, tree) = fixture();
        let how = Open {
            write: true,
            create: Create::Always,
            ..Open::default()
        };
        let Opened::File(held) = tree.open_at(tree.root(), "a", &how).unwrap() else {
            panic!("a directory")
        };
        held.write_at(0, b"12345").unwrap();
        tree.create_dir(tree.root(), "b").unwrap();
        tree.create_dir(tree.root(), "b/c").unwrap();
        for name in ["1", "2"] {
            staged.write(name, "new").unwrap();
        }
        let before = tree.changes().unwrap();
        tree.rewrite(|tree| {
            tree.put((&staged, "1"), "a")?;
            tree.put((&staged, "2"), "b")?;
            tree.link("../a", "d/e")?;
            Ok::<_, FileError>(())
        })
        .unwrap();
        assert!(tree.changes().unwrap() > before);
        assert_eq!(tree.root().read("a").unwrap(), b"new");
        assert_eq!(tree.root().read("b").unwrap(), b"new");
        assert_eq!(tree.root().read("d/e").unwrap(), b"new", "through the link");
        assert_eq!(
            tree.usage(),
            Usage {
                bytes: 3 + 3 + 5,
                entries: 4
            },
            "and what is still open"
        );
        drop(held);
        assert_eq!(tree.usage(), Usage { bytes: 6, entries: 4 });
        assert_eq!(tree.usage(), walk::count(tree.root()).unwrap());
    }

    #[test]
    fn nothing_is_put_back_through_a_link() {
        let (place, staged, tree) = fixture();
        tree.create_dir(tree.root(), "other").unwrap();
        tree.symlink(tree.root(), "other", "src").unwrap();
        tree.symlink(tree.root(), "../outside", "out").unwrap();
        for name in ["1", "2"] {
            staged.write(name, "new").unwrap();
        }
        tree.rewrite(|tree| {
            tree.put((&staged, "1"), "src/file")?;
            tree.put((&staged, "2"), "out")?;
            Ok::<_, FileError>(())
        })
        .unwrap();
        assert_eq!(tree.root().read("src/file").unwrap(), b"new");
        assert_eq!(std::fs::read_dir(place.path().join("tree/other")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(place.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_removed_through_a_link() {
        let (place, _staged, tree) = fixture();
        tree.create_dir(tree.root(), "other").unwrap();
        tree.symlink(tree.root(), "other", "link").unwrap();
        tree.symlink(tree.root(), "../outside", "out").unwrap();
        for file in ["tree/other/file", "tree/plain", "outside/file"] {
            std::fs::write(place.path().join(file), "stays").unwrap();
        }
        tree.rewrite(|tree| {
            for path in ["link/file", "out/file", "plain/file", "nothing/file"] {
                tree.remove(path)?;
                tree.sync(path)?;
            }
            for path in ["link", "out", "plain", "nothing", "other", "."] {
                tree.sync(path)?;
            }
            Ok::<_, FileError>(())
        })
        .unwrap();
        for file in ["tree/other/file", "tree/plain", "outside/file"] {
            assert_eq!(std::fs::read(place.path().join(file)).unwrap(), b"stays", "{file}");
        }
    }

    #[test]
    fn a_directory_that_somebody_filled_is_left_and_what_is_not_there_is_no_error() {
        let (_place, _staged, tree) = fixture();
        tree.create_dir(tree.root(), "a").unwrap();
        tree.create_dir(tree.root(), "a/b").unwrap();
        tree.rewrite(|tree| {
            {
                tree.remove("a")?;
                tree.remove("nothing")?;
                tree.remove("a/b")?;
                tree.remove("a")
            }
            .map_err(FileError::from)
        })
        .unwrap();
        assert_eq!(tree.usage(), Usage::default());
    }
}
