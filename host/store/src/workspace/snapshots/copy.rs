//! The files of one session for another.

use super::{
    NotKept, Snapshots,
    durable::Written,
    manifest::{Found, Manifest, Marked, What, walk},
    restore::write_copy,
    shelf, undisturbed,
};
use cap_std::fs::{Dir, File, Permissions, PermissionsExt as _};
use fumehood_core::{digest::Digest, id::SessionId};
use fumehood_files::{Full, Limit, Quota, Tree, remove_all};
use std::io;

/// What became of copying.
#[derive(Debug)]
pub(crate) enum Copied {
    /// They lie in the new directory.
    All,
    /// There are none.
    Nothing,
    /// They are more than the quota allows.
    Full(Full),
    /// They are not kept any more, or damaged.
    NotKept,
}

impl Snapshots {
    /// Copies a state that is kept into a new directory `name` of `to`.
    pub(crate) fn copy_state(
        &self,
        session: SessionId,
        state: &Digest,
        (to, name): (&Dir, &str),
        quota: Quota,
    ) -> Result<Copied, NotKept> {
        let Some((manifest, shelf)) = self.manifest(session, state)? else {
            return Ok(Copied::NotKept);
        };
        let Some(shelf) = shelf.filter(|_| !manifest.0.is_empty()) else {
            return Ok(Copied::Nothing);
        };
        if let Err(full) = has_room(&manifest, quota) {
            return Ok(Copied::Full(full));
        }
        let target = shelf::made(to, name)?;
        let whole = build(&target, &manifest, |_, digest| shelf.bytes(digest), Check::Digest);
        match whole {
            Ok(true) => Ok(Copied::All),
            Ok(false) => {
                remove_all(to, name)?;
                Ok(Copied::NotKept)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_all(to, name)?;
                Ok(Copied::NotKept)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Copies a workspace as it is into a new directory `name` of `to`.
pub(crate) fn copy_now(tree: &Tree, (to, name): (&Dir, &str), quota: Quota) -> Result<Copied, NotKept> {
    let (copied, _) = undisturbed(tree, |root| {
        remove_all(to, name)?;
        let manifest = listed(root)?;
        if manifest.0.is_empty() {
            return Ok(Copied::Nothing);
        }
        if let Err(full) = has_room(&manifest, quota) {
            return Ok(Copied::Full(full));
        }
        build(
            &shelf::made(to, name)?,
            &manifest,
            |path, _| root.open(path),
            Check::Nothing,
        )?;
        Ok(Copied::All)
    })?;
    Ok(copied)
}

/// What there is; what is in the files is not read.
fn listed(root: &Dir) -> Result<Manifest, NotKept> {
    let unread = Digest::of(b"");
    let entries = walk(root)?.into_iter().map(|entry| {
        let marked = entry.marked();
        let what = match entry.found {
            Found::Directory => What::Directory { marked },
            Found::Link(target) => What::Link { target },
            Found::File => What::File {
                digest: unread,
                size: entry.metadata.len(),
                marked,
            },
        };
        (entry.path, what)
    });
    Ok(Manifest(entries.collect()))
}

// THREAT[T-box-snapshot-quota]: a fork holds no more than any session may.
fn has_room(manifest: &Manifest, quota: Quota) -> Result<(), Full> {
    let (bytes, longest) = manifest.sizes();
    for (is, limit, most) in [
        (bytes, Limit::Bytes, quota.bytes),
        (longest, Limit::FileBytes, quota.file_bytes),
        (manifest.0.len() as u64, Limit::Entries, quota.entries),
    ] {
        if is > most {
            return Err(Full { limit, most });
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Digest,
    Nothing,
}

/// Makes all of it in an empty directory, durably; false if a file is not what it should be.
pub(super) fn build(
    target: &Dir,
    manifest: &Manifest,
    open: impl Fn(&str, &Digest) -> io::Result<File>,
    check: Check,
) -> io::Result<bool> {
    let mut written = Written::default();
    for (path, what) in &manifest.0 {
        match what {
            What::Directory { .. } => drop(shelf::made(target, path)?),
            What::Link { target: leads_to } => target.symlink_contents(leads_to, path)?,
            What::File { digest, marked, .. } => {
                let copied = write_copy(&mut open(path, digest)?, (target, path), *marked, &mut written)?;
                if check == Check::Digest && copied != *digest {
                    return Ok(false);
                }
            }
        }
    }
    written.sync()?;
    for (path, what) in &manifest.0 {
        if let What::Directory { marked } = what {
            if *marked == Marked::ReadOnly {
                target.set_permissions(path, Permissions::from_mode(0o1700))?;
            }
            target.open(path)?.sync_all()?;
        }
    }
    shelf::sync(target)?;
    Ok(true)
}
