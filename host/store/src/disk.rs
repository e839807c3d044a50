//! The few things about files that more than one part needs: modes, durable replacement, and words for I/O errors
//! that show no host path.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// What an I/O error means, without a path.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full: free some space".into(),
        io::ErrorKind::ReadOnlyFilesystem => "the disk is read-only: make it writable".into(),
        io::ErrorKind::PermissionDenied => {
            "the system denies access: check owner and mode of the data directory".into()
        }
        kind => kind.to_string(),
    }
}

/// Makes a directory that only this user can enter, with its parents; one that is there stays as it is.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file for writing that only this user can read; makes it if it is not there.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Makes a new file with these bytes and this mode under `path`, whole and durable or not at all.
/// `temporary` is a free name in the same file system.
pub(crate) fn place(temporary: &Path, path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let written = write_new(temporary, mode, bytes).and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        // The first error counts; a leftover is swept at the next start.
        let _ = fs::remove_file(temporary);
    }
    written?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
