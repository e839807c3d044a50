//! The log as an earlier process left it: made certain before anything rests on it.

use crate::disk;
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Bytes that are in memory at a time.
const PIECE: usize = 1 << 20;

/// Where the log of a database is: beside the file itself, by whatever link that is reached.
pub(super) fn of(database: &Path) -> PathBuf {
    let file = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let mut log = file.into_os_string();
    log.push("-wal");
    log.into()
}

/// Writes all of the log anew, in its place, and syncs it and its name, before SQLite takes any of it over into the database file.
///
/// After a sync that failed, the system shows what was to be written though the disk does not have it, and no sync writes it any more:
/// it counts as written. SQLite would sync the log, believe it, and begin to change the database file by it; a power failure in between
/// would leave a file that is changed in part, and a log that can't tell the rest. What is written anew is written.
///
/// # Errors
/// When the disk refuses: nothing was changed then.
pub(super) fn make_certain(database: &Path) -> io::Result<()> {
    let log = match OpenOptions::new().read(true).write(true).open(of(database)) {
        Ok(log) => log,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    write_anew(&log)?;
    log.sync_all()?;
    make_name_certain(database)
}

/// Syncs the directory of a log that is there. SQLite does so as well, once, and does not look whether it succeeded.
///
/// # Errors
/// When the disk refuses.
pub(super) fn make_name_certain(database: &Path) -> io::Result<()> {
    match of(database).parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => disk::sync_dir(parent),
        None => disk::sync_dir(Path::new(".")),
    }
}

fn write_anew(log: &File) -> io::Result<()> {
    let (mut piece, mut at) = (vec![0; PIECE], 0);
    loop {
        let read = match log.read_at(&mut piece, at) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let same = piece.get(..read).unwrap_or_default();
        log.write_all_at(same, at)?;
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_anew_is_what_was_there_and_where_there_is_nothing_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("a.db");
        make_certain(&database).unwrap();
        assert!(!of(&database).exists());
        let bytes: Vec<u8> = (0..=250).cycle().take(PIECE * 2 + 7).collect();
        std::fs::write(of(&database), &bytes).unwrap();
        make_certain(&database).unwrap();
        assert_eq!(std::fs::read(of(&database)).unwrap(), bytes);
    }

    #[test]
    fn the_log_is_beside_the_file_that_a_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().canonicalize().unwrap().join("there");
        std::fs::create_dir(&there).unwrap();
        std::fs::write(there.join("a.db"), "").unwrap();
        let link = dir.path().join("link.db");
        std::os::unix::fs::symlink(there.join("a.db"), &link).unwrap();
        assert_eq!(of(&link), there.join("a.db-wal"));
        assert_eq!(of(Path::new("nowhere.db")), Path::new("nowhere.db-wal"));
        make_name_certain(&link).unwrap();
        make_name_certain(Path::new("nowhere.db")).unwrap();
    }
}
