//! The state of a workspace: which files, directories and links there are, and what is in them.

use super::NotKept;
use crate::workspace::{WorkspacePath, file::Stamp};
use cap_std::fs::{Dir, Metadata, MetadataExt as _};
use fumehood_core::digest::Digest;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    io,
    time::SystemTime,
};

const ANY_WRITE: u32 = 0o222;
const STICKY: u32 = 0o1000;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(super) enum What {
    File {
        digest: Digest,
        size: u64,
        #[serde(default, skip_serializing_if = "is_default")]
        marked: Marked,
    },
    Directory {
        #[serde(default, skip_serializing_if = "is_default")]
        marked: Marked,
    },
    Link {
        target: String,
    },
}

/// Whether nobody may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Marked {
    #[default]
    Not,
    ReadOnly,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The state of a workspace, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Manifest(pub(super) BTreeMap<String, What>);

impl Manifest {
    /// As it is kept.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, NotKept> {
        serde_json::to_vec(&self.0).map_err(|error| NotKept::Disk(error.into()))
    }

    /// What names it.
    pub(super) fn digest(&self) -> Result<Digest, NotKept> {
        Ok(Digest::of(&self.to_bytes()?))
    }

    /// The digests of its files.
    pub(super) fn files(&self) -> impl Iterator<Item = Digest> {
        self.0.values().filter_map(|what| match what {
            What::File { digest, .. } => Some(*digest),
            _ => None,
        })
    }

    /// Bytes of all files, and the length of the longest.
    pub(super) fn sizes(&self) -> (u64, u64) {
        self.0.values().fold((0, 0), |(all, longest), what| match what {
            What::File { size, .. } => (all + size, longest.max(*size)),
            _ => (all, longest),
        })
    }
}

/// An entry as it was found.
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) found: Found,
    pub(super) metadata: Metadata,
}

pub(super) enum Found {
    File,
    Directory,
    Link(String),
}

impl Seen {
    pub(super) fn marked(&self) -> Marked {
        let is_marked = match self.found {
            Found::File => self.metadata.mode() & ANY_WRITE == 0,
            Found::Directory => self.metadata.mode() & STICKY != 0,
            Found::Link(_) => false,
        };
        if is_marked { Marked::ReadOnly } else { Marked::Not }
    }

    /// What it is known by until it changes.
    pub(super) fn stamp(&self, now: SystemTime) -> Option<Stamp> {
        Stamp::from(&self.metadata, now)
    }
}

/// Everything below a directory, in no order. Nothing is followed.
///
/// # Errors
/// [`NotKept::Strange`] for what could not be put back as it is: a pipe, a name that is no text, a path that is too long.
// THREAT[T-box-deep-nesting]: ends at the longest path, however deep a guest nested.
pub(super) fn walk(root: &Dir) -> Result<Vec<Seen>, NotKept> {
    let mut seen = Vec::new();
    let mut open = vec![String::new()];
    while let Some(directory) = open.pop() {
        let dir = if directory.is_empty() {
            root.try_clone()?
        } else {
            root.open_dir(&directory)?
        };
        for entry in dir.entries()? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or(NotKept::Strange)?;
            let path = if directory.is_empty() {
                name.to_owned()
            } else {
                format!("{directory}/{name}")
            };
            WorkspacePath::new(&path).map_err(|_| NotKept::Strange)?;
            let metadata = match entry.metadata() {
                // A guest was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let found = if metadata.is_dir() {
                open.push(path.clone());
                Found::Directory
            } else if metadata.is_symlink() {
                let target = dir.read_link_contents(name)?;
                Found::Link(target.to_str().ok_or(NotKept::Strange)?.to_owned())
            } else if metadata.is_file() {
                Found::File
            } else {
                return Err(NotKept::Strange);
            };
            seen.push(Seen { path, found, metadata });
        }
    }
    Ok(seen)
}

/// What leads from one state to another. It can be carried out again after it was broken off anywhere: nothing is removed that it makes,
/// except a link, which is made again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What goes first: the deepest first.
    pub(super) remove: Vec<String>,
    /// Directories, the outer first.
    pub(super) directories: Vec<(String, Marked)>,
    /// Files with their digests; each is made ready under its place in this list.
    pub(super) files: Vec<(String, Digest, Marked)>,
    /// Links with their targets.
    pub(super) links: Vec<(String, String)>,
}

impl Plan {
    pub(super) fn new(now: &Manifest, then: &Manifest) -> Self {
        let mut plan = Self::default();
        for (path, what) in now.0.iter().rev() {
            let stays = match (what, then.0.get(path)) {
                // It takes the place of whatever is there. Made ready once, it could not be made again if it were removed.
                (_, Some(What::File { .. })) | (What::Directory { .. }, Some(What::Directory { .. })) => true,
                (what, then) => Some(what) == then,
            };
            if !stays {
                plan.remove.push(path.clone());
            }
        }
        for (path, what) in &then.0 {
            if now.0.get(path) == Some(what) {
                continue;
            }
            match what {
                What::File { digest, marked, .. } => plan.files.push((path.clone(), *digest, *marked)),
                What::Directory { marked } => plan.directories.push((path.clone(), *marked)),
                What::Link { target } => plan.links.push((path.clone(), target.clone())),
            }
        }
        plan
    }

    /// How many paths it touches.
    pub(super) fn len(&self) -> usize {
        let made = (self.directories.iter().map(|(path, _)| path))
            .chain(self.files.iter().map(|(path, ..)| path))
            .chain(self.links.iter().map(|(path, _)| path));
        made.chain(&self.remove).collect::<HashSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> What {
        What::File {
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
            marked: Marked::Not,
        }
    }

    fn manifest<const N: usize>(entries: [(&str, What); N]) -> Manifest {
        Manifest(
            entries
                .into_iter()
                .map(|(path, what)| (path.to_owned(), what))
                .collect(),
        )
    }

    const DIRECTORY: What = What::Directory { marked: Marked::Not };

    #[test]
    fn a_plan_removes_what_was_not_there_and_makes_what_was() {
        let link = What::Link { target: "a".into() };
        let now = manifest([
            ("a", file("new")),
            ("b", DIRECTORY),
            ("b/c", file("x")),
            ("d", link.clone()),
            ("same", file("same")),
        ]);
        let then = manifest([
            ("a", file("old")),
            ("d", DIRECTORY),
            ("d/e", link),
            ("same", file("same")),
        ]);
        let plan = Plan::new(&now, &then);
        assert_eq!(plan.remove, ["d", "b/c", "b"], "the deepest first");
        assert_eq!(plan.directories, [("d".into(), Marked::Not)]);
        assert_eq!(plan.files, [("a".into(), Digest::of(b"old"), Marked::Not)]);
        assert_eq!(plan.links, [("d/e".into(), "a".into())]);
        assert_eq!(plan.len(), 5);
        assert_eq!(Plan::new(&then, &then), Plan::default());
    }

    #[test]
    fn a_manifest_has_one_name_however_it_came_to_be() {
        let one = manifest([("a", file("x")), ("b", DIRECTORY)]);
        let read: Manifest = serde_json::from_slice(&one.to_bytes().unwrap()).unwrap();
        assert_eq!(read, one);
        assert_eq!(read.digest().unwrap(), one.digest().unwrap());
        assert_ne!(Manifest::default().digest().unwrap(), one.digest().unwrap());
    }
}
