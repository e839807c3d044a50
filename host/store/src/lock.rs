//! The exclusive use of a place by one process: a file beside it, locked for as long as it is open.
//!
//! The lock is advisory and per machine: it keeps a second host of the same machine away, not one on another machine that
//! mounts the same network disk. Put data directory and database on a local disk. The file stays when the lock ends; it holds the
//! number of the process that took it last.

use crate::{
    disk,
    error::{OpenError, Place},
};
use std::{
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

/// The exclusive use of a place, until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `path`, which is in the file `name`.
    ///
    /// # Errors
    /// [`OpenError::InUse`] at once if somebody has it, this process included; others if the system refuses.
    pub(crate) fn take(name: &Path, path: &Path, place: Place) -> Result<Self, OpenError> {
        let refused = |error: &std::io::Error| OpenError::io(path, error);
        let mut file = disk::private_file(name).map_err(|error| refused(&error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse {
                    place,
                    path: path.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(refused(&error)),
        }
        sign(&mut file).map_err(|error| refused(&error))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock of `path` to look at what is there: nothing is made or written. `None` where nobody ever took it.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub(crate) fn look(name: &Path, path: &Path, place: Place) -> Result<Option<Self>, OpenError> {
        let refused = |error: &std::io::Error| OpenError::io(path, error);
        let mut file = match File::open(name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| refused(&error))?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
                place,
                path: path.to_owned(),
                holder: holder(&mut file),
            }),
            Err(TryLockError::Error(error)) => Err(refused(&error)),
        }
    }

    /// The file of a database's lock.
    pub(crate) fn name_of_database(path: &Path) -> PathBuf {
        let mut name = path.to_owned().into_os_string();
        name.push(".lock");
        PathBuf::from(name)
    }

    /// Takes the database `path`, whatever name and data directory it is opened by.
    ///
    /// The lock is on a file beside it: SQLite's own locks on the database end when any descriptor of it is closed in the process.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub(crate) fn of_database(path: &Path) -> Result<Self, OpenError> {
        let refused = |error: &std::io::Error| OpenError::io(path, error);
        if !path.exists() {
            // SQLite gives its log files the mode of the database, so making that one private makes all of them private.
            disk::private_file(path).map_err(|error| refused(&error))?;
        }
        let path = path.canonicalize().map_err(|error| refused(&error))?;
        Self::take(&Self::name_of_database(&path), &path, Place::Database)
    }
}

/// The locks of a data directory and of a database, taken only to look at both; `None` if a host has one of them.
///
/// # Errors
/// When the system refuses.
pub(crate) fn look_at(data_dir: &Path, database: &Path) -> Result<Option<[Option<Lock>; 2]>, OpenError> {
    let real = database.canonicalize().unwrap_or_else(|_| database.to_owned());
    let of_dir = Lock::look(&data_dir.join("lock"), data_dir, Place::DataDir);
    let both = of_dir.and_then(|dir| Ok([dir, Lock::look(&Lock::name_of_database(&real), &real, Place::Database)?]));
    match both {
        Ok(locks) => Ok(Some(locks)),
        Err(OpenError::InUse { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Who has the lock, for the message: ` (pid 123)`, or nothing where that is not known.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    if file.take(16).read_to_string(&mut text).is_err() {
        return String::new();
    }
    let pid = text.trim().parse::<u32>();
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Leaves our process id in the lock file, for the message of whoever comes next.
fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
