//! Why the store could not be opened. Read by operators: paths may appear here, secrets never.

use std::{io, path::PathBuf};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the data directory or the database.
    #[error(
        "the {} {path} is in use by another process{holder}: stop it, or choose another {}",
        place.name(),
        place.key()
    )]
    InUse {
        /// What it has.
        place: Place,
        /// Where that is.
        path: PathBuf,
        /// ` (pid 123)`, or nothing where that is not known.
        holder: String,
    },
    /// The place cannot be written to.
    #[error(
        "cannot write to {path}: {reason}. Make it writable for this user, or set data_dir to a place on a writable disk"
    )]
    ReadOnly {
        /// The place.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A newer version of this program made the database.
    #[error(
        "the database {path} was made by a newer version (its schema is {found}, this program knows {known}): use that version, or restore an older backup"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
    /// The database does not hang together.
    #[error(
        "the database {path} is damaged or is no database: {reason}. Restore it from a backup, or move it away to start empty"
    )]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A sound database of some other program.
    #[error("the database {path} belongs to another program: choose another path in [store] url")]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// The files in the data directory are those of another database's sessions.
    #[error(
        "the files in {data_dir} belong to the sessions of another database, and this one would take them for nobody's: set [store] url to that database or choose another data_dir; to go on with this database, remove {mark}, and the files of sessions that it does not know are put aside"
    )]
    OtherFiles {
        /// The data directory.
        data_dir: PathBuf,
        /// The file in it that names the database.
        mark: PathBuf,
    },
    /// The URL does not name a store that this program has.
    #[error("`{url}` is not a store this program has: use sqlite:PATH")]
    BadUrl {
        /// As given, without a password.
        url: String,
    },
    /// The master key cannot be used.
    #[error("the master key from {source_name} cannot be used: {reason}")]
    BadMasterKey {
        /// The variable or file.
        source_name: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The secrets in the database were made with another key.
    #[error(
        "the secrets in the database were encrypted with another master key ({expected}; this one is {found}): restore FUMEHOOD_MASTER_KEY or the file master.key of that time"
    )]
    WrongMasterKey {
        /// The fingerprint of the key they were made with.
        expected: String,
        /// The fingerprint of the key given.
        found: String,
    },
    /// The disk or database refused for another reason.
    #[error("cannot open {path}: {reason}")]
    Unavailable {
        /// What was to be opened.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// What only one process may use at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The data directory.
    DataDir,
    /// The database, which may lie elsewhere.
    Database,
    /// Where a backup is made.
    Backup,
    /// Where a backup is restored.
    Restore,
}

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::DataDir => "data directory",
            Self::Database => "database",
            Self::Backup => "backup in the making",
            Self::Restore => "restore under way",
        }
    }

    /// The key of the configuration that says where it is.
    const fn key(self) -> &'static str {
        match self {
            Self::DataDir => "data_dir",
            Self::Database => "[store] url",
            Self::Backup => "place for the backup",
            Self::Restore => "data_dir",
        }
    }
}

impl OpenError {
    /// What an I/O error at `path` means to an operator.
    pub(crate) fn io(path: impl Into<PathBuf>, error: &io::Error) -> Self {
        let path = path.into();
        let reason = error.to_string();
        match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Self::ReadOnly { path, reason },
            _ => Self::Unavailable { path, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_disk_is_told_from_other_troubles_and_says_what_to_do() {
        for kind in [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied] {
            let error = OpenError::io("/data", &kind.into());
            assert!(matches!(error, OpenError::ReadOnly { .. }));
            let text = error.to_string();
            assert!(text.contains("/data") && text.contains("writable"), "{text}");
        }
        assert!(matches!(
            OpenError::io("/data", &io::ErrorKind::StorageFull.into()),
            OpenError::Unavailable { .. }
        ));
    }
}
