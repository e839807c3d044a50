//! Files of sessions on their way into a backup, and out of it: what a workspace holds and the states it can go back to, with the bytes
//! of all of them by digest, each once.

use super::{
    NotKept,
    copy::{Check, build},
    durable::Written,
    manifest::{Found, Manifest, Seen, What, walk},
    shelf::{self, BYTES, STATES},
};
use cap_std::fs::{Dir, File, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use fumehood_core::{digest::Digest, id::EventId};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How old a change must be for the next one to show in the times of a file.
const SETTLED: Duration = Duration::from_millis(50);

/// The files of one session, as a backup has them.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionFiles {
    /// What is in its workspace.
    files: Manifest,
    /// The states it can go back to: each names bytes that are a list like the one above.
    states: Vec<Digest>,
}

/// What became of copying a workspace.
#[derive(Debug)]
pub(crate) enum Took {
    /// It was copied. Whether it was changed meanwhile, [`Taken::is_as_copied`] tells.
    Files(Taken),
    /// It holds what can't be copied.
    Strange,
}

/// A workspace that was copied, and what it was known by.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    manifest: Manifest,
    /// Absent: whatever is there may be something else.
    looks: Option<BTreeMap<String, Look>>,
}

/// What a path is known by until it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    file: (u64, u64),
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    fn of(seen: &Seen) -> Self {
        let metadata = &seen.metadata;
        Self {
            file: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change since `at` would show.
    fn is_settled(self, at: SystemTime) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = u64::try_from(seconds).ok().zip(u32::try_from(nanos).ok());
        let changed = changed.map(|(seconds, nanos)| UNIX_EPOCH + Duration::new(seconds, nanos));
        changed.is_some_and(|changed| changed + SETTLED < at)
    }
}

/// Copies a session's workspace to `bytes`, file by file under their digests.
pub(crate) fn take(workspaces: &Dir, session: &str, bytes: &Dir) -> io::Result<Took> {
    take_at(workspaces, session, bytes, SystemTime::now())
}

fn take_at(workspaces: &Dir, session: &str, bytes: &Dir, at: SystemTime) -> io::Result<Took> {
    let root = match workspaces.open_dir(session) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Took::Files(Taken::default())),
        root => root?,
    };
    let seen = match walk(&root) {
        Ok(seen) => seen,
        Err(NotKept::Disk(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Took::Files(Taken::default()));
        }
        Err(NotKept::Disk(error)) => return Err(error),
        Err(_) => return Ok(Took::Strange),
    };
    let mut manifest = Manifest::default();
    let mut written = Written::default();
    for entry in &seen {
        let marked = entry.marked();
        let what = match &entry.found {
            Found::Directory => What::Directory { marked },
            Found::Link(target) => What::Link { target: target.clone() },
            Found::File => match root.open(&entry.path) {
                Ok(mut file) => {
                    let (digest, size) = keep(&mut file, bytes, &mut written)?;
                    What::File { digest, size, marked }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            },
        };
        manifest.0.insert(entry.path.clone(), what);
    }
    written.sync()?;
    // Of what was changed just before, another change might not show: it counts as changed.
    let is_settled = seen.iter().all(|entry| Look::of(entry).is_settled(at));
    Ok(Took::Files(Taken {
        manifest,
        looks: is_settled.then(|| looks(&seen)),
    }))
}

fn looks(seen: &[Seen]) -> BTreeMap<String, Look> {
    seen.iter().map(|entry| (entry.path.clone(), Look::of(entry))).collect()
}

impl Taken {
    /// Whether nothing was changed in the workspace since it was copied.
    pub(crate) fn is_as_copied(&self, workspaces: &Dir, session: &str) -> io::Result<bool> {
        let root = match workspaces.open_dir(session) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.manifest.0.is_empty()),
            root => root?,
        };
        match walk(&root) {
            Ok(seen) => Ok(Some(looks(&seen)) == self.looks),
            Err(NotKept::Disk(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Without the states that are kept of the session.
    pub(crate) fn without_states(self) -> SessionFiles {
        SessionFiles {
            files: self.manifest,
            states: Vec::new(),
        }
    }

    /// With the states that are kept of the session, whose bytes are copied as well. One that can't be gone back to stays behind.
    pub(crate) fn with_states(self, snapshots: &Dir, session: &str, bytes: &Dir) -> io::Result<SessionFiles> {
        let mut states = Vec::new();
        if let Some(shelf) = there(snapshots.open_dir(session))?
            && let (Some(kept), Some(of_states)) = (there(shelf.open_dir(STATES))?, there(shelf.open_dir(BYTES))?)
        {
            for entry in kept.entries()? {
                let name = entry?.file_name();
                let Some(name) = name.to_str() else { continue };
                if let Some(state) = take_state(&kept, &of_states, name, bytes)? {
                    states.push(state);
                }
            }
        }
        states.sort_unstable();
        Ok(SessionFiles {
            files: self.manifest,
            states,
        })
    }
}

fn take_state(states: &Dir, of_states: &Dir, name: &str, bytes: &Dir) -> io::Result<Option<Digest>> {
    // Removed meanwhile to make room, or being written.
    let Some(read) = there(states.read(name))? else {
        return Ok(None);
    };
    let digest = Digest::of(&read);
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&read) else {
        return Ok(None);
    };
    if digest.to_hex() != name {
        return Ok(None);
    }
    let mut written = Written::default();
    for file in manifest.files() {
        if bytes.exists(file.to_hex()) {
            continue;
        }
        let Some(mut from) = there(of_states.open(file.to_hex()))? else {
            return Ok(None);
        };
        if keep(&mut from, bytes, &mut written)?.0 != file {
            return Ok(None);
        }
    }
    written.sync()?;
    let name = digest.to_hex();
    if !bytes.exists(&name) {
        shelf::replace(bytes, &name, &read, shelf::Durable::Yes)?;
    }
    Ok(Some(digest))
}

/// Keeps a copy under its digest, once.
fn keep(from: &mut File, bytes: &Dir, written: &mut Written) -> io::Result<(Digest, u64)> {
    let name = format!("{}.new", EventId::new().uuid().simple());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut copy = bytes.open_with(&name, &options)?;
    let copied = shelf::copy(from, &mut copy);
    match copied {
        Ok((digest, _)) if !bytes.exists(digest.to_hex()) => {
            bytes.rename(&name, bytes, digest.to_hex())?;
            written.add(copy);
            if written.is_full() {
                written.sync()?;
            }
        }
        _ => bytes.remove_file(&name)?,
    }
    copied
}

impl SessionFiles {
    /// The bytes it needs.
    pub(crate) fn needs(&self, read: impl Fn(&Digest) -> io::Result<Vec<u8>>) -> io::Result<Vec<Digest>> {
        let mut needs: Vec<Digest> = self.files.files().collect();
        for state in &self.states {
            let manifest: Manifest = serde_json::from_slice(&read(state)?)?;
            needs.push(*state);
            needs.extend(manifest.files());
        }
        Ok(needs)
    }

    /// Makes the session's workspace and states as they were, durably. False if something is not what its digest says.
    pub(crate) fn place(&self, session: &str, bytes: &Dir, workspaces: &Dir, snapshots: &Dir) -> io::Result<bool> {
        if !self.files.0.is_empty() {
            let target = shelf::made(workspaces, session)?;
            if !build(
                &target,
                &self.files,
                |_, digest| bytes.open(digest.to_hex()),
                Check::Digest,
            )? {
                return Ok(false);
            }
        }
        if self.states.is_empty() {
            return Ok(true);
        }
        let shelf = shelf::made(snapshots, session)?;
        let (of_states, states) = (shelf::made(&shelf, BYTES)?, shelf::made(&shelf, STATES)?);
        let mut written = Written::default();
        for state in &self.states {
            let manifest: Manifest = serde_json::from_slice(&bytes.read(state.to_hex())?)?;
            for file in manifest.files() {
                if !of_states.exists(file.to_hex())
                    && keep(&mut bytes.open(file.to_hex())?, &of_states, &mut written)?.0 != file
                {
                    return Ok(false);
                }
            }
            if keep(&mut bytes.open(state.to_hex())?, &states, &mut written)?.0 != *state {
                return Ok(false);
            }
        }
        written.sync()?;
        shelf::sync(&of_states)?;
        shelf::sync(&states)?;
        shelf::sync(&shelf)?;
        Ok(true)
    }
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cap_std::ambient_authority;

    fn taken(took: Took) -> Taken {
        match took {
            Took::Files(taken) => taken,
            Took::Strange => panic!("there are ordinary files"),
        }
    }

    #[test]
    fn what_is_changed_after_it_was_copied_is_not_what_was_copied() {
        let place = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient_dir(place.path(), ambient_authority()).unwrap();
        let (workspaces, bytes) = (
            shelf::made(&root, "workspaces").unwrap(),
            shelf::made(&root, "bytes").unwrap(),
        );
        let files = shelf::made(&workspaces, "s").unwrap();
        files.write("a", "one").unwrap();
        let copy = || taken(take(&workspaces, "s", &bytes).unwrap());
        // What was written just now is not trusted before a while has gone by.
        let mut copied = copy();
        while !copied.is_as_copied(&workspaces, "s").unwrap() {
            copied = copy();
        }
        files.write("a", "two").unwrap();
        assert!(!copied.is_as_copied(&workspaces, "s").unwrap());
        files.write("a", "one").unwrap();
        assert!(
            !copied.is_as_copied(&workspaces, "s").unwrap(),
            "the same again is another moment"
        );
        let before = SystemTime::now();
        files.write("b", "").unwrap();
        let copied = taken(take_at(&workspaces, "s", &bytes, before).unwrap());
        assert!(
            !copied.is_as_copied(&workspaces, "s").unwrap(),
            "it was written just now"
        );
        assert!(
            taken(take(&workspaces, "other", &bytes).unwrap())
                .is_as_copied(&workspaces, "other")
                .unwrap()
        );
    }
}
