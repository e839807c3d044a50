//! Which files belong to a session that is there, looked at before anything is swept at the start.
//!
//! What was about to be deleted, or was made for a session that was never written, is removed when its session is not there. All
//! else that the database does not know is put aside and stays: the database may be an older one, from a backup. It comes back
//! with a database that knows it. Files of another database altogether are not touched: the host does not start with them.

use super::{BEGUN, GONE, RESTORING, ROOT, SNAPSHOTS, TEMPORARY, open_private, snapshots::RETIRED};
use crate::{
    data_dir::DataDir,
    disk,
    error::OpenError,
    faults::{self, Point},
    sqlite::SqliteStore,
};
use cap_std::fs::Dir;
use fumehood_core::id::SessionId;
use fumehood_files::remove_all;
use std::{collections::HashSet, fs, io, path::Path};
use uuid::Uuid;

/// Where files are that the database does not know.
pub(super) const UNKNOWN: &str = "workspaces.unknown";
/// Names the database that the files belong to.
const MARK: &str = "workspaces.database";

/// Where something of each session is kept, in a directory of its id.
struct Place {
    dir: Dir,
    /// How its directories are called where they lie with those of other places.
    suffix: &'static str,
}

impl Place {
    fn name_aside(&self, session: SessionId) -> String {
        format!("{session}{}", self.suffix)
    }
}

/// All there is of sessions beside the database.
struct Belongings {
    places: [Place; 3],
    gone: Dir,
    unknown: Dir,
    /// Sessions that were begun and may never have been written.
    begun: HashSet<SessionId>,
}

/// Puts back the files of sessions that were about to be deleted and are still there, and puts aside those of sessions that are
/// not.
///
/// # Errors
/// [`OpenError::OtherFiles`]; when the database or the system refuses.
// THREAT[T-org-deleted-session]
pub(crate) async fn restore_of_sessions(
    data_dir: &DataDir,
    sessions: &SqliteStore,
) -> std::result::Result<(), OpenError> {
    let path = data_dir.path();
    let unavailable = |error: crate::StoreError| OpenError::Unavailable {
        path: path.into(),
        reason: error.to_string(),
    };
    let database = sessions.id().await.map_err(unavailable)?;
    let known = sessions.all_sessions().await.map_err(unavailable)?;
    let belongings = Belongings::open(path)?;
    belongings.claim(path, database)?;
    belongings
        .settle(&known)
        .map_err(|error| OpenError::io(path.join(ROOT), &error))
}

/// Whether a database was used with this data directory before.
pub(crate) fn had_a_database(data_dir: &Path) -> bool {
    data_dir.join(MARK).exists()
}

impl Belongings {
    fn open(data_dir: &Path) -> std::result::Result<Self, OpenError> {
        let open = |name| open_private(&data_dir.join(name));
        let place = |name, suffix| open(name).map(|dir| Place { dir, suffix });
        let temporary = open(TEMPORARY)?;
        let begun = sessions_in(&temporary, BEGUN).map_err(|error| OpenError::io(data_dir.join(TEMPORARY), &error))?;
        Ok(Self {
            places: [
                place(ROOT, "")?,
                place(SNAPSHOTS, RETIRED)?,
                place(RESTORING, ".restoring")?,
            ],
            gone: open(GONE)?,
            unknown: open(UNKNOWN)?,
            begun,
        })
    }

    /// Sees to it that the files are the database's.
    fn claim(&self, data_dir: &Path, database: Uuid) -> std::result::Result<(), OpenError> {
        let mark = data_dir.join(MARK);
        let failed = |error: io::Error| OpenError::io(&mark, &error);
        match fs::read_to_string(&mark) {
            Ok(text) if Uuid::parse_str(text.trim()).is_ok_and(|id| id == database) => return Ok(()),
            // Those that were put aside are nobody's for now.
            Ok(_) if !self.are_empty().map_err(failed)? => {
                return Err(OpenError::OtherFiles {
                    data_dir: data_dir.into(),
                    mark,
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let temporary = data_dir.join(format!("{MARK}.new"));
        // Left by a start that was broken off.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let text = format!("{database}\n");
        faults::around(Point::FilesClaim, || {
            disk::place(&temporary, &mark, 0o600, text.as_bytes())
        })
        .map_err(failed)
    }

    fn are_empty(&self) -> io::Result<bool> {
        for place in &self.places {
            if !sessions_in(&place.dir, "")?.is_empty() || !sessions_in(&self.gone, place.suffix)?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn settle(&self, known: &HashSet<SessionId>) -> io::Result<()> {
        let mut removed: HashSet<SessionId> = self.begun.difference(known).copied().collect();
        for place in &self.places {
            for session in sessions_in(&self.gone, place.suffix)? {
                if known.contains(&session) {
                    tracing::warn!(%session, "the session was not deleted to the end; its files are put back");
                    // It has files already: those that were about to be deleted are swept.
                    put_back(&self.gone, place, session)?;
                } else {
                    removed.insert(session);
                }
            }
            for session in sessions_in(&self.unknown, place.suffix)?.intersection(known) {
                tracing::warn!(%session, "the database knows the session again; its files are put back");
                if !put_back(&self.unknown, place, *session)? {
                    tracing::error!(
                        %session,
                        "the session has other files already; those in {UNKNOWN}/ stay there until somebody takes them"
                    );
                }
            }
        }
        self.put_aside(known, &removed)?;
        self.warn()
    }

    /// Moves what the database does not know to where it stays, or to where it is removed.
    fn put_aside(&self, known: &HashSet<SessionId>, removed: &HashSet<SessionId>) -> io::Result<()> {
        for place in &self.places {
            for session in sessions_in(&place.dir, "")?.difference(known) {
                let name = place.name_aside(*session);
                if removed.contains(session) {
                    tracing::warn!(%session, "there are files of a session that was deleted or never made; they are removed");
                    remove_all(&self.gone, &name)?;
                    place.dir.rename(session.to_string(), &self.gone, &name)?;
                } else if !self.unknown.try_exists(&name)? {
                    place.dir.rename(session.to_string(), &self.unknown, &name)?;
                } else {
                    tracing::error!(%session, "files of that session are in {UNKNOWN}/ already; these stay where they are");
                }
            }
        }
        Ok(())
    }

    fn warn(&self) -> io::Result<()> {
        let mut unknown = HashSet::new();
        for place in &self.places {
            unknown.extend(sessions_in(&self.unknown, place.suffix)?);
        }
        if !unknown.is_empty() {
            tracing::warn!(
                sessions = unknown.len(),
                "there are files of sessions that the database does not know, in {UNKNOWN}/ of the data directory; they come back \
                 with a database that does; if no backup has these sessions, remove them"
            );
        }
        Ok(())
    }
}

/// False if there is something in its place.
fn put_back(from: &Dir, place: &Place, session: SessionId) -> io::Result<bool> {
    let back = || from.rename(place.name_aside(session), &place.dir, session.to_string());
    match faults::around(Point::FilesReinstate, back) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        moved => moved.map(|()| true),
    }
}

/// The sessions of which there is something with that suffix. What else somebody put there is not ours.
pub(super) fn sessions_in(dir: &Dir, suffix: &str) -> io::Result<HashSet<SessionId>> {
    let mut sessions = HashSet::new();
    for entry in dir.entries()? {
        let name = entry?.file_name();
        let session = name.to_str().and_then(|name| name.strip_suffix(suffix));
        sessions.extend(session.and_then(|session| session.parse::<SessionId>().ok()));
    }
    Ok(sessions)
}
