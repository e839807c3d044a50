//! Whether what is kept of a session's states is as it should be.

use super::{
    manifest::Manifest,
    shelf::{self, BYTES, CACHE, STATES},
};
use crate::faults::{self, Point};
use cap_std::fs::Dir;
use fumehood_core::digest::Digest;
use std::{collections::BTreeMap, io};

/// Something of a session's states that nobody can go back to, or that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::workspace) enum Unsound {
    /// A state that can't be read, or of which bytes are missing.
    State {
        /// Its file.
        name: String,
        /// What is wrong.
        detail: &'static str,
    },
    /// Bytes that are not what their name says.
    Bytes {
        /// Their file.
        name: String,
    },
    /// Bytes that no state names.
    Unnamed {
        /// Their file.
        name: String,
    },
}

/// What is unsound of a session's states. Reads all of them.
pub(in crate::workspace) fn examine(root: &Dir, session: &str) -> io::Result<Vec<Unsound>> {
    let shelf = root.open_dir(session)?;
    // The names of sound bytes, and whether a state names them.
    let mut bytes = BTreeMap::new();
    let mut unsound = Vec::new();
    for_each(&shelf, BYTES, |dir, name| {
        let (digest, _) = shelf::copy(&mut dir.open(name)?, &mut io::sink())?;
        if digest.to_hex() == name {
            bytes.insert(name.to_owned(), false);
        } else if digest_of_name(name).is_some() {
            unsound.push(Unsound::Bytes { name: name.to_owned() });
        } else {
            // A copy that was broken off.
            unsound.push(Unsound::Unnamed { name: name.to_owned() });
        }
        Ok(())
    })?;
    for_each(&shelf, STATES, |dir, name| {
        let read = dir.read(name)?;
        let state = |detail| Unsound::State {
            name: name.to_owned(),
            detail,
        };
        if Digest::of(&read).to_hex() != name {
            unsound.push(state("is not what its name says"));
            return Ok(());
        }
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&read) else {
            unsound.push(state("is not of a form this version knows"));
            return Ok(());
        };
        let mut is_whole = true;
        for digest in manifest.files() {
            match bytes.get_mut(&digest.to_hex()) {
                Some(named) => *named = true,
                None => is_whole = false,
            }
        }
        if !is_whole {
            unsound.push(state("names bytes that are not there"));
        }
        Ok(())
    })?;
    let unnamed = bytes.into_iter().filter(|(_, named)| !named);
    unsound.extend(unnamed.map(|(name, _)| Unsound::Unnamed { name }));
    Ok(unsound)
}

/// Removes what is unsound. What was remembered of the files goes first, so that nobody believes that it is still there.
pub(in crate::workspace) fn removed(root: &Dir, session: &str, unsound: &[Unsound]) -> io::Result<()> {
    let shelf = root.open_dir(session)?;
    shelf::gone_is_fine(shelf.remove_file(CACHE))?;
    shelf::sync(&shelf)?;
    // The states first, so that a state whose bytes are not all there is none.
    for pass in [true, false] {
        for one in unsound {
            let (dir, name) = match one {
                Unsound::State { name, .. } if pass => (STATES, name),
                Unsound::Bytes { name } | Unsound::Unnamed { name } if !pass => (BYTES, name),
                _ => continue,
            };
            let dir = shelf.open_dir(dir)?;
            faults::around(Point::SnapshotRemove, || shelf::gone_is_fine(dir.remove_file(name)))?;
        }
    }
    Ok(())
}

fn digest_of_name(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

fn for_each(shelf: &Dir, name: &str, mut look: impl FnMut(&Dir, &str) -> io::Result<()>) -> io::Result<()> {
    let dir = match shelf.open_dir(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        dir => dir?,
    };
    for entry in dir.entries()? {
        let name = entry?.file_name();
        // What else somebody put there is not ours.
        if let Some(name) = name.to_str() {
            look(&dir, name)?;
        }
    }
    Ok(())
}
