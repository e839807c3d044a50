//! The data directory: where everything kept lies, and the exclusive use of it.

use crate::{
    disk,
    error::{OpenError, Place},
    lock::Lock,
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

/// A data directory that this process alone uses, until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct DataDir {
    inner: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    path: PathBuf,
    _lock: Lock,
}

impl DataDir {
    /// Makes the directory if it is missing (mode 0700) and takes it for this process.
    ///
    /// # Errors
    /// [`OpenError::InUse`] at once if another process or another store of this one has it; [`OpenError::ReadOnly`] or
    /// [`OpenError::Unavailable`] if the system refuses.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let path = path.to_owned();
        tokio::task::spawn_blocking({
            let path = path.clone();
            move || Self::open_blocking(&path)
        })
        .await
        .unwrap_or_else(|error| {
            Err(OpenError::Unavailable {
                path,
                reason: error.to_string(),
            })
        })
    }

    fn open_blocking(path: &Path) -> Result<Self, OpenError> {
        disk::private_dir(path).map_err(|error| OpenError::io(path, &error))?;
        // Absolute, so that a later change of the working directory moves nothing.
        let path = path.canonicalize().map_err(|error| OpenError::io(path, &error))?;
        let lock = Lock::take(&path.join("lock"), &path, Place::DataDir)?;
        if let Some(concern) = concern(&path) {
            tracing::warn!("{concern}");
        }
        Ok(Self {
            inner: Arc::new(Held { path, _lock: lock }),
        })
    }

    /// Writes a file of the host's own, beside the database: whole, durable and readable by this user alone, or not at all. What was
    /// there under the name before is replaced.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_private(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.path().join(format!("{name}.new"));
        // Nobody else has the directory: it is left by a crash.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => disk::place(&temporary, &self.path().join(name), 0o600, bytes),
        }
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }
}

/// What is to be said of who else may change what is in the directory. Refusing would keep hosts from volumes that come so, as those of
/// containers often do; what must be nobody else's has a mode of its own.
fn concern(path: &Path) -> Option<String> {
    let metadata = path.metadata().ok()?;
    let (mode, owner, user) = (
        metadata.mode() & 0o777,
        metadata.uid(),
        rustix::process::geteuid().as_raw(),
    );
    let shown = path.display();
    if mode & 0o022 != 0 {
        return Some(format!(
            "others may change what is in the data directory {shown} (mode {mode:o}): run chmod go-w on it, unless you know who they are"
        ));
    }
    (owner != user).then(|| {
        format!(
            "the data directory {shown} belongs to the user {owner}, and this host runs as {user}: chown it, or run the host as its owner"
        )
    })
}

/// Which database to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `fumehood.db` in the data directory.
    InDataDir,
    /// A SQLite file: `sqlite:PATH`.
    Sqlite(PathBuf),
    /// `fumehood.db` in a data directory that goes with its host: nothing waits for the disk. No configuration can ask for it; see
    /// [`crate::open_temporary`].
    Temporary,
}

impl StoreUrl {
    /// The file, for a data directory.
    #[must_use]
    pub fn file(&self, data_dir: &Path) -> PathBuf {
        match self {
            Self::InDataDir | Self::Temporary => data_dir.join("fumehood.db"),
            Self::Sqlite(path) => path.clone(),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = OpenError;

    fn from_str(url: &str) -> Result<Self, OpenError> {
        // A database in memory would lose what its clients were told is kept; parameters would change how it is kept.
        match url.strip_prefix("sqlite:") {
            Some(rest) if !rest.starts_with(':') && !rest.contains('?') => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() {
                    Err(bad(url))
                } else {
                    Ok(Self::Sqlite(path.into()))
                }
            }
            _ => Err(bad(url)),
        }
    }
}

/// The URL without what may be a password.
fn bad(url: &str) -> OpenError {
    let url = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
        _ => url.to_owned(),
    };
    OpenError::BadUrl { url }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[tokio::test]
    async fn a_data_directory_in_use_is_refused_and_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDir::open(&path).await.unwrap();
        let clone = first.clone();
        drop(first);
        let error = DataDir::open(&path).await.unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }));
        let text = error.to_string();
        assert!(
            text.contains("in use by another process") && text.contains(&std::process::id().to_string()),
            "{text}"
        );
        drop(clone);
        DataDir::open(&path).await.unwrap();
    }

    #[tokio::test]
    async fn only_the_user_can_enter_what_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let data = DataDir::open(&path).await.unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(data.path()), 0o700);
        assert_eq!(mode(&data.path().join("lock")), 0o600);
    }

    #[tokio::test]
    async fn a_file_in_the_place_of_the_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(DataDir::open(&path).await, Err(OpenError::Unavailable { .. })));
    }

    #[test]
    fn a_directory_that_others_may_change_is_told_of_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, is_told) in [(0o700, false), (0o755, false), (0o770, true), (0o777, true)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let told = concern(dir.path());
            assert_eq!(told.is_some(), is_told, "{mode:o}: {told:?}");
            assert!(told.is_none_or(|text| text.contains("chmod go-w")));
        }
    }

    #[test]
    fn a_url_names_a_file() {
        for (url, path) in [
            ("sqlite:.fumehood/fumehood.db", ".fumehood/fumehood.db"),
            ("sqlite:///var/lib/x.db", "/var/lib/x.db"),
            ("sqlite:/x.db", "/x.db"),
        ] {
            assert_eq!(url.parse::<StoreUrl>().unwrap(), StoreUrl::Sqlite(path.into()), "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_without_showing_a_password() {
        for url in [
            "",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:x.db?mode=ro",
            "x.db",
            "postgres://me:hush@db/x",
        ] {
            let error = url.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(error.contains("sqlite:PATH") && !error.contains("hush"), "{error}");
        }
    }
}
