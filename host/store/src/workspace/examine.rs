//! Whether the files of sessions are as they should be: states whole, and nothing there of sessions that are not. Changes nothing but
//! what [`remove`] is told to.

use super::{GONE, RESTORING, ROOT, SNAPSHOTS, TEMPORARY, belonging, snapshots};
use cap_std::{ambient_authority, fs::Dir};
use fumehood_core::id::SessionId;
use std::{collections::BTreeSet, io, path::Path};

/// What was found of the files of sessions.
#[derive(Debug)]
pub(crate) enum Found {
    /// Something of a session's states that nobody can go back to, or that nobody needs.
    Unsound(Unsound),
    /// What the next start finishes or puts aside.
    Left(String),
    /// What waits for an operator.
    Aside(String),
}

/// What is unsound of a session's states.
#[derive(Debug)]
pub(crate) struct Unsound {
    session: SessionId,
    what: Vec<snapshots::Unsound>,
}

impl Unsound {
    /// In words.
    pub(crate) fn detail(&self) -> String {
        let (mut states, mut wrong, mut unnamed) = (Vec::new(), 0_u32, 0_u32);
        for one in &self.what {
            match one {
                snapshots::Unsound::State { name, detail } => states.push(format!("the state {name} {detail}")),
                snapshots::Unsound::Bytes { .. } => wrong += 1,
                snapshots::Unsound::Unnamed { .. } => unnamed += 1,
            }
        }
        if wrong > 0 {
            states.push(format!("{wrong} files of states are not what their names say"));
        }
        if unnamed > 0 {
            states.push(format!("{unnamed} files belong to no state"));
        }
        format!("of what {} can go back to: {}", self.session, states.join("; "))
    }

    /// Whether something that somebody may want is lost.
    pub(crate) fn is_damage(&self) -> bool {
        let unneeded = |one: &snapshots::Unsound| matches!(one, snapshots::Unsound::Unnamed { .. });
        !self.what.iter().all(unneeded)
    }
}

/// Looks at the files in a data directory that nobody uses meanwhile.
pub(crate) fn examine(data_dir: &Path, known: &BTreeSet<SessionId>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for (place, what) in [
        (ROOT, "files"),
        (SNAPSHOTS, "states"),
        (RESTORING, "files to be put back"),
    ] {
        let Some(dir) = open(data_dir, place)? else { continue };
        for session in belonging::sessions_in(&dir, "")? {
            if !known.contains(&session) {
                found.push(Found::Left(format!(
                    "there are {what} of {session}, which the database does not know; the next start puts them aside"
                )));
            } else if place == SNAPSHOTS {
                let what = snapshots::examine(&dir, &session.to_string())?;
                if !what.is_empty() {
                    found.push(Found::Unsound(Unsound { session, what }));
                }
            } else if place == RESTORING {
                found.push(Found::Left(format!(
                    "{session} went back, or was about to, when the host ended; the next start finishes that"
                )));
            }
        }
    }
    for (place, what) in [
        (GONE, "of deleted sessions are left; the next start removes them"),
        (TEMPORARY, "of broken-off writes are left; the next start removes them"),
    ] {
        if let Some(dir) = open(data_dir, place)?
            && let count @ 1.. = dir.entries()?.count()
        {
            found.push(Found::Left(format!("{count} files {what}")));
        }
    }
    if let Some(dir) = open(data_dir, belonging::UNKNOWN)?
        && let count @ 1.. = dir.entries()?.count()
    {
        found.push(Found::Aside(format!(
            "{count} directories of sessions that the database does not know are in {}/; they come back with a database that does; if no \
             backup has these sessions, remove them",
            belonging::UNKNOWN
        )));
    }
    Ok(found)
}

/// Removes what is unsound.
pub(crate) fn remove(data_dir: &Path, unsound: &[Unsound]) -> io::Result<()> {
    let Some(dir) = open(data_dir, SNAPSHOTS)? else {
        return Ok(());
    };
    for one in unsound {
        snapshots::removed(&dir, &one.session.to_string(), &one.what)?;
    }
    Ok(())
}

fn open(data_dir: &Path, name: &str) -> io::Result<Option<Dir>> {
    match Dir::open_ambient_dir(data_dir.join(name), ambient_authority()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        dir => dir.map(Some),
    }
}
