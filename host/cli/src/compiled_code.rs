//! Compiled code that the commands of one user keep from one run to the next: for components that are called as files, without a host
//! that keeps it. The [empty database](crate::kept_database) that such commands begin from lies with it, and
//! [which code a file is likely to need](crate::load_hints).
//!
//! Code that is loaded runs with the rights of whoever loads it. So the folder is used only if nobody else can put a file there or put
//! another folder in its place, and each file in it only if it authenticates under the key that lies there, too, as the sandbox requires
//! of all kept code. Where that can't be had, components are compiled each time.

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::hmac;
use fumehood_sandbox::CacheKey;
use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Files that are kept; the oldest go first.
const MOST_FILES: usize = 64;
const KEY: usize = 32;
/// What another key is made of the folder's for.
const DATABASES: &[u8] = b"fumehood kept databases: tags of their files";

/// A folder of compiled code and the key to it.
#[derive(Clone)]
pub(crate) struct CompiledCode {
    pub(crate) dir: PathBuf,
    pub(crate) key: CacheKey,
    /// What vouches for databases that lie there.
    pub(crate) databases: hmac::Key,
}

impl CompiledCode {
    /// That of the user who runs this, made if it is not there. None, with a line in the log, where it can't be trusted.
    pub(crate) fn of_user() -> Option<Self> {
        let opened = user_cache().and_then(|dir| Self::open(&dir.join("compiled")));
        opened
            .inspect_err(|error| tracing::warn!("compiled code is not kept: {error:#}"))
            .ok()
    }

    // THREAT[T-box-cache-tamper]
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        only_mine(&dir)?;
        let key = key(&dir)?;
        tidy(&dir).with_context(|| format!("cannot tidy {}", dir.display()))?;
        let databases = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), DATABASES);
        Ok(Self {
            databases: hmac::Key::new(hmac::HMAC_SHA256, databases.as_ref()),
            key: CacheKey::new(key),
            dir,
        })
    }
}

/// `$XDG_CACHE_HOME/fumehood`, else `~/.cache/fumehood`.
pub(crate) fn user_cache() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = match absolute("XDG_CACHE_HOME") {
        Some(base) => base,
        None => absolute("HOME").context("HOME is not set")?.join(".cache"),
    };
    Ok(base.join("fumehood"))
}

/// Refuses a folder that others can look into or change, and one that others can put another in the place of.
fn only_mine(dir: &Path) -> anyhow::Result<()> {
    let me = rustix::process::geteuid().as_raw();
    let own = fs::symlink_metadata(dir)?;
    ensure!(own.is_dir(), "{} is no folder", dir.display());
    if own.uid() != me || own.mode() & 0o077 != 0 {
        bail!(
            "{} belongs to somebody else, or others have access to it; it must be yours, with mode 0700",
            dir.display()
        );
    }
    for above in dir.ancestors().skip(1) {
        let metadata = fs::symlink_metadata(above)?;
        let others_write = metadata.mode() & 0o022 != 0;
        // In a folder like /tmp nobody moves what is another's.
        let sticky = metadata.mode() & 0o1000 != 0;
        if !(metadata.uid() == 0 || metadata.uid() == me) || (others_write && !sticky) {
            bail!("others can change {}, in which {} lies", above.display(), dir.display());
        }
    }
    Ok(())
}

/// The key in the folder; made if there is none.
fn key(dir: &Path) -> anyhow::Result<[u8; KEY]> {
    let file = dir.join("key");
    let read = || -> io::Result<[u8; KEY]> {
        let mut key = [0; KEY];
        let mut opened = fs::File::open(&file)?;
        opened.read_exact(&mut key)?;
        Ok(key)
    };
    match read() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => fs::remove_file(&file)?,
        read => return read.with_context(|| format!("cannot read {}", file.display())),
    }
    let mut made = [0; KEY];
    getrandom::fill(&mut made).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    let unfinished = tempfile::Builder::new().prefix("key-").make_in(dir, |path| {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
    })?;
    unfinished.as_file().write_all(&made)?;
    // Whoever was first has made it: the key is the one that is there.
    match unfinished.persist_noclobber(&file) {
        Ok(_) => Ok(made),
        Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(read()?),
        Err(failed) => Err(failed.error.into()),
    }
}

/// Removes the oldest files beyond as many as are kept.
fn tidy(dir: &Path) -> io::Result<()> {
    let mut files = files(dir)?;
    files.sort_by_key(|(_, changed)| *changed);
    let excess = files.len().saturating_sub(MOST_FILES);
    for (path, _) in files.into_iter().take(excess) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The files that can be made again, finished or not, and when each was written.
fn files(dir: &Path) -> io::Result<Vec<(PathBuf, SystemTime)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let extension = entry
            .path()
            .extension()
            .map(|extension| extension.to_string_lossy().into_owned());
        if matches!(extension.as_deref(), Some("aot" | "db" | "hint" | "tmp")) {
            // Gone meanwhile: another command tidies.
            if let Ok(metadata) = entry.metadata() {
                files.push((entry.path(), metadata.modified()?));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_key_is_made_once_and_nobody_else_reads_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/compiled");
        CompiledCode::open(&dir).unwrap();
        let first = fs::read(dir.join("key")).unwrap();
        CompiledCode::open(&dir).unwrap();
        assert_eq!((fs::read(dir.join("key")).unwrap(), first.len()), (first, KEY));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("key"))), (0o700, 0o600));
        fs::write(dir.join("key"), "cut off").unwrap();
        CompiledCode::open(&dir).unwrap();
        assert_eq!(fs::read(dir.join("key")).unwrap().len(), KEY);
    }

    #[test]
    fn a_folder_that_others_can_change_keeps_no_code() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("cache/compiled");
        CompiledCode::open(&dir).unwrap();
        for open in [0o755, 0o770, 0o701] {
            set_mode(&dir, open);
            assert!(CompiledCode::open(&dir).is_err(), "{open:o}");
        }
        set_mode(&dir, 0o700);
        set_mode(&home.path().join("cache"), 0o777);
        let refused = CompiledCode::open(&dir).err().map(|error| error.to_string());
        assert!(
            refused.as_ref().is_some_and(|why| why.contains("others can change")),
            "{refused:?}"
        );
        set_mode(&home.path().join("cache"), 0o1777);
        assert!(CompiledCode::open(&dir).is_ok(), "as in /tmp");
    }

    #[test]
    fn the_oldest_code_goes_first() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("compiled");
        CompiledCode::open(&dir).unwrap();
        for count in 0..=MOST_FILES {
            let file = fs::File::create(dir.join(format!("{count}.aot"))).unwrap();
            let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(count as u64);
            file.set_modified(written).unwrap();
        }
        CompiledCode::open(&dir).unwrap();
        assert!(!dir.join("0.aot").exists() && dir.join("1.aot").exists() && dir.join("key").exists());
    }
}
