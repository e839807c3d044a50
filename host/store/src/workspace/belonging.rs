//! Which files belong to a session that is there, looked at before anything is swept at the start.

use super::{GONE, ROOT, SNAPSHOTS, open_private, snapshots};
use crate::{data_dir::DataDir, error::OpenError, sqlite::SqliteStore};
use cap_std::fs::Dir;
use fumehood_core::id::SessionId;
use fumehood_files::remove_all;
use std::{collections::HashSet, io};

/// Puts back the files of sessions that were about to be deleted and are still there, and puts aside those of sessions that are
/// not: their session was never written, or was deleted.
///
/// # Errors
/// When the database or the system refuses.
pub(crate) async fn restore_of_sessions(
    data_dir: &DataDir,
    sessions: &SqliteStore,
) -> std::result::Result<(), OpenError> {
    let path = data_dir.path().join(GONE);
    let gone = open_private(&path)?;
    let root = open_private(&data_dir.path().join(ROOT))?;
    let kept = open_private(&data_dir.path().join(SNAPSHOTS))?;
    let known = sessions.all_sessions().await.map_err(|error| OpenError::Unavailable {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let failed = |error: io::Error| OpenError::io(&path, &error);
    put_where_they_belong(&gone, &root, &kept, &known).map_err(failed)?;
    if known.is_empty() {
        // A new database beside old files is more likely a mistake than that all of them are nobody's.
        return Ok(());
    }
    put_aside(&root, &known, &gone, |session| session.to_string()).map_err(failed)?;
    put_aside(&kept, &known, &gone, snapshots::retired).map_err(failed)
}

fn put_where_they_belong(gone: &Dir, root: &Dir, kept: &Dir, known: &HashSet<SessionId>) -> io::Result<()> {
    for entry in gone.entries()? {
        let name = entry?.file_name();
        let text = name.to_str().unwrap_or_default();
        let (session, place) = match (text.parse::<SessionId>(), snapshots::retired_of(text)) {
            (Ok(session), _) => (session, root),
            (Err(_), Some(session)) => (session, kept),
            (Err(_), None) => continue,
        };
        if !known.contains(&session) {
            continue;
        }
        tracing::warn!(%session, "the session was not deleted to the end; its files are put back");
        match gone.rename(&name, place, session.to_string()) {
            // It has files already: these are swept.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// Moves what belongs to no session to where it is removed.
fn put_aside(
    from: &Dir,
    known: &HashSet<SessionId>,
    gone: &Dir,
    name_there: impl Fn(SessionId) -> String,
) -> io::Result<()> {
    for entry in from.entries()? {
        let name = entry?.file_name();
        // What else somebody put there is not ours.
        let Some(session) = name.to_str().and_then(|name| name.parse::<SessionId>().ok()) else {
            continue;
        };
        if known.contains(&session) {
            continue;
        }
        tracing::warn!(%session, "there are files of a session that is not there; they are removed");
        let target = name_there(session);
        remove_all(gone, &target)?;
        from.rename(&name, gone, &target)?;
    }
    Ok(())
}
