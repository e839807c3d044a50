//! What of the files is on the disk for certain, and what a power failure may leave of the rest.
//!
//! A sync that succeeds makes certain what was written to that file before; the names in a directory are certain once that is synced.
//! A sync that fails loses what it was to write, however often it is repeated: the system shows it still, but the disk has it not
//! unless it is written anew. So do Linux's file systems.

use crate::trace::{Call, What};
use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

/// What becomes of that which was written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Power {
    /// All of it is there.
    KeepsAll,
    /// Nothing is.
    LosesAll,
    /// The last write got half-way.
    TearsTheLast,
    /// Every second write is there, as if they were done in another order.
    KeepsSome,
}

impl Power {
    pub(crate) const ALL: [Self; 4] = [Self::LosesAll, Self::TearsTheLast, Self::KeepsSome, Self::KeepsAll];
}

/// The files of a database.
#[derive(Debug, Clone)]
pub(crate) struct Platter {
    files: Vec<File>,
}

#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    certain: Vec<u8>,
    pending: Vec<Change>,
    name: Name,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Truncate(u64),
}

/// Whether the file is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Certain,
    Made,
    Removed,
    Absent,
}

impl Platter {
    /// The files as they are, all of it certain.
    pub(crate) fn of(database: &Path, log: &Path) -> Self {
        let file = |path: &Path| File {
            path: path.canonicalize().unwrap_or_else(|_| {
                let dir = path.parent().unwrap().canonicalize().unwrap();
                dir.join(path.file_name().unwrap())
            }),
            certain: std::fs::read(path).unwrap_or_default(),
            pending: Vec::new(),
            name: if path.exists() { Name::Certain } else { Name::Absent },
        };
        Self {
            files: vec![file(database), file(log)],
        }
    }

    /// Takes a call into account.
    pub(crate) fn apply(&mut self, call: &Call) {
        for file in &mut self.files {
            if matches!(call.what, What::Sync) && file.path.parent() == Some(&call.path) {
                file.name = match file.name {
                    Name::Made => Name::Certain,
                    Name::Removed => Name::Absent,
                    name => name,
                };
            }
            if file.path == call.path {
                file.apply(&call.what);
            }
        }
    }

    /// Tells what would be put down from what would be put down at another point.
    pub(crate) fn fingerprint(&self, power: Power) -> u64 {
        let mut hasher = DefaultHasher::new();
        for file in &self.files {
            file.left(power).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Writes the files into a directory as the power failure leaves them.
    pub(crate) fn put_down(&self, power: Power, dir: &Path) {
        for file in &self.files {
            if let Some(bytes) = file.left(power) {
                std::fs::write(dir.join(file.path.file_name().unwrap()), bytes).unwrap();
            }
        }
    }
}

impl File {
    fn apply(&mut self, what: &What) {
        match what {
            What::Write { at, bytes } => self.pending.push(Change::Write {
                at: *at,
                bytes: bytes.clone(),
            }),
            What::Truncate(length) => self.pending.push(Change::Truncate(*length)),
            What::Sync => {
                for change in std::mem::take(&mut self.pending) {
                    change.on(&mut self.certain);
                }
            }
            What::FailedSync => self.pending.clear(),
            What::Open => {
                if matches!(self.name, Name::Absent | Name::Removed) {
                    self.certain.clear();
                    self.pending.clear();
                    self.name = Name::Made;
                }
            }
            What::Remove => self.name = Name::Removed,
            What::Say(_) => {}
        }
    }

    fn left(&self, power: Power) -> Option<Vec<u8>> {
        let is_there = match self.name {
            Name::Certain => true,
            Name::Absent => false,
            Name::Made => power != Power::LosesAll,
            Name::Removed => power != Power::KeepsAll,
        };
        if !is_there {
            return None;
        }
        let mut bytes = self.certain.clone();
        let last = self.pending.len().saturating_sub(1);
        for (number, change) in self.pending.iter().enumerate() {
            match power {
                Power::LosesAll => break,
                Power::KeepsSome if number % 2 == 0 => {}
                Power::TearsTheLast if number == last => change.half().on(&mut bytes),
                _ => change.on(&mut bytes),
            }
        }
        Some(bytes)
    }
}

impl Change {
    fn on(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let at = usize::try_from(*at).unwrap();
                let end = at + bytes.len();
                if file.len() < end {
                    file.resize(end, 0);
                }
                file[at..end].copy_from_slice(bytes);
            }
            Self::Truncate(length) => file.resize(usize::try_from(*length).unwrap(), 0),
        }
    }

    fn half(&self) -> Self {
        match self {
            Self::Write { at, bytes } => Self::Write {
                at: *at,
                bytes: bytes[..bytes.len() / 2].to_vec(),
            },
            Self::Truncate(length) => Self::Truncate(*length),
        }
    }
}
