//! Putting a backup in the place of a data directory that is empty: verified before anything has its place, all or nothing.

use super::{
    CODE, FILES, KEYS_DIR, clear, database,
    manifest::{self, BackupManifest, FORMAT},
    open_dir, tar,
};
use crate::{
    OpenError, Problem, StoreUrl, disk,
    faults::{self, Point},
    lock::Lock,
    sqlite::{
        check,
        open::{self, Others},
    },
    workspace::{ROOT, SNAPSHOTS, snapshots::backup::SessionFiles},
};
use cap_std::{ambient_authority, fs::Dir};
use fumehood_core::id::SessionId;
use sqlx::Connection as _;
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something in the place already.
    #[error(
        "{0} is not empty: a backup is restored into a data directory where nothing is; move away what is there, or set another data_dir"
    )]
    Taken(PathBuf),
    /// The database is not to be in the data directory.
    #[error(
        "[store] url names a database outside of the data directory: restore without it, move {0} from the data directory there, and set it again"
    )]
    Elsewhere(&'static str),
    /// It is no backup.
    #[error("{place} is no backup: {reason}")]
    NoBackup {
        /// What was to be restored.
        place: PathBuf,
        /// Why.
        reason: String,
    },
    /// A newer version made it.
    #[error("the backup was made by a newer version ({made_by}): restore it with that")]
    Newer {
        /// The program and version that made it.
        made_by: String,
    },
    /// It is not as it was made.
    #[error("the backup is damaged: {0}; use another one")]
    Damaged(String),
    /// The database in it, or the place, can't be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A place can't be read or written.
    #[error("{place}: {reason}")]
    Io {
        /// The place.
        place: PathBuf,
        /// Why.
        reason: String,
    },
}

/// A backup that is in its place.
#[derive(Debug)]
pub struct Restored {
    /// What was in it.
    pub manifest: BackupManifest,
}

/// Restores a backup into a data directory.
///
/// # Errors
/// See [`RestoreError`]; the data directory is as it was then.
pub async fn restore(from: &Path, data_dir: &Path, url: &StoreUrl) -> Result<Restored, RestoreError> {
    let data_dir = std::path::absolute(data_dir).map_err(failed_at(data_dir))?;
    let database = std::path::absolute(url.file(&data_dir)).map_err(failed_at(&data_dir))?;
    let database = database
        .strip_prefix(&data_dir)
        .map_err(|_| RestoreError::Elsewhere(database::NAME))?;
    let restoring = Restoring::new(from, data_dir.clone(), database.to_owned())?;
    let (restoring, manifest) = blocking(&data_dir, move || restoring.unpack()).await??;
    // Nothing of it is believed before all of it is what it was.
    let (restoring, manifest) = blocking(&data_dir, move || restoring.verify(manifest)).await??;
    restoring.verify_database().await?;
    let manifest = blocking(&data_dir, move || restoring.place(manifest)).await??;
    Ok(Restored { manifest })
}

/// A backup on its way.
struct Restoring {
    from: PathBuf,
    data_dir: PathBuf,
    /// Where the database lies in the data directory.
    database: PathBuf,
    /// Where all of it is made ready, beside the data directory.
    staging: PathBuf,
    lock: Lock,
    /// The backup as a directory.
    backup: PathBuf,
}

impl Restoring {
    fn new(from: &Path, data_dir: PathBuf, database: PathBuf) -> Result<Self, RestoreError> {
        match fs::read_dir(&data_dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(RestoreError::Taken(data_dir));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed_at(&data_dir)(error)),
        }
        let mut staging = data_dir.clone().into_os_string();
        staging.push(".restoring");
        let staging = PathBuf::from(staging);
        disk::private_dir(&staging).map_err(failed_at(&staging))?;
        // Whoever has it restores; without, it is what a broken-off restore left.
        let lock = Lock::take(&staging.join("lock"), &staging, crate::Place::Restore)?;
        clear(&staging).map_err(failed_at(&staging))?;
        Ok(Self {
            from: from.to_owned(),
            backup: from.to_owned(),
            data_dir,
            database,
            staging,
            lock,
        })
    }

    /// The backup as a directory, and what it says of itself.
    fn unpack(mut self) -> Result<(Self, BackupManifest), RestoreError> {
        let no_backup = |reason: String| RestoreError::NoBackup {
            place: self.from.clone(),
            reason,
        };
        let metadata = fs::metadata(&self.from).map_err(|error| no_backup(disk::reason(&error)))?;
        if metadata.is_file() {
            self.backup = self.staging.join("backup");
            disk::private_dir(&self.backup).map_err(failed_at(&self.staging))?;
            tar::read(&self.from, &self.backup).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => no_backup(error.to_string()),
                _ => failed_at(&self.staging)(error),
            })?;
        }
        let text = match fs::read(self.backup.join(manifest::NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(no_backup(format!("there is no {} in it", manifest::NAME)));
            }
            text => text.map_err(failed_at(&self.backup))?,
        };
        // The form first: a newer one may have what this version does not know.
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| no_backup(error.to_string()))?;
        let made_by = value["made_by"].as_str().unwrap_or("unknown").to_owned();
        match value["format"].as_u64() {
            Some(format) if format > u64::from(FORMAT) => return Err(RestoreError::Newer { made_by }),
            Some(_) => {}
            None => return Err(no_backup(format!("its {} has no format", manifest::NAME))),
        }
        let manifest = serde_json::from_value(value).map_err(|error| no_backup(error.to_string()))?;
        Ok((self, manifest))
    }

    fn verify(self, manifest: BackupManifest) -> Result<(Self, BackupManifest), RestoreError> {
        let failed = failed_at(&self.backup);
        if let Some(difference) = manifest.difference(&self.backup).map_err(failed)? {
            return Err(RestoreError::Damaged(difference));
        }
        if !manifest.files.contains_key(database::NAME) {
            return Err(RestoreError::Damaged("it has no database".into()));
        }
        for (session, files) in self.sessions(&manifest)? {
            let read = |digest: &fumehood_core::digest::Digest| fs::read(self.backup.join(FILES).join(digest.to_hex()));
            let needs = files
                .needs(read)
                .map_err(|_| RestoreError::Damaged(format!("the files of {session} can't be read")))?;
            let missing = |digest: &fumehood_core::digest::Digest| {
                !manifest.files.contains_key(&format!("{FILES}/{}", digest.to_hex()))
            };
            if needs.iter().any(missing) {
                return Err(RestoreError::Damaged(format!("files of {session} are not in it")));
            }
        }
        Ok((self, manifest))
    }

    fn sessions(&self, manifest: &BackupManifest) -> Result<Vec<(SessionId, SessionFiles)>, RestoreError> {
        let mut sessions = Vec::new();
        for name in manifest.files.keys() {
            let id = name
                .strip_prefix("sessions/")
                .and_then(|name| name.strip_suffix(".json"));
            let Some(id) = id.and_then(|id| id.parse::<SessionId>().ok()) else {
                continue;
            };
            let text = fs::read(self.backup.join(name)).map_err(failed_at(&self.backup))?;
            let files = serde_json::from_slice(&text);
            let files = files.map_err(|error| RestoreError::Damaged(format!("{name}: {error}")))?;
            sessions.push((id, files));
        }
        Ok(sessions)
    }

    async fn verify_database(&self) -> Result<(), RestoreError> {
        let file = self.backup.join(database::NAME);
        let Some(mut looked) = open::look(&file, Others::KeptOut).await? else {
            return Err(RestoreError::Damaged("its database is empty".into()));
        };
        let found = check::look_at_structure(&mut looked.connection).await;
        // Whatever closing says, it was looked at.
        let _ = looked.connection.close().await;
        let found = found.map_err(|error| RestoreError::Damaged(error.to_string()))?;
        match found.into_iter().map(|found| found.problem).next() {
            // The rest is the doctor's.
            Some(Problem::Database(detail)) => Err(RestoreError::Damaged(detail)),
            _ => Ok(()),
        }
    }

    /// Makes the data directory beside its place, and gives it its place.
    fn place(self, manifest: BackupManifest) -> Result<BackupManifest, RestoreError> {
        let made = self.staging.join("data");
        self.fill(&made, &manifest)?;
        let parent = self.data_dir.parent().unwrap_or(Path::new("/"));
        // Over an empty directory, or where there is nothing: if somebody put something there meanwhile, it is refused.
        faults::around(Point::RestorePlace, || {
            fs::rename(&made, &self.data_dir).and_then(|()| disk::sync_dir(parent))
        })
        .map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => RestoreError::Taken(self.data_dir.clone()),
            _ => failed_at(&self.data_dir)(error),
        })?;
        if let Err(error) = fs::remove_dir_all(&self.staging) {
            tracing::warn!(%error, "what was needed to restore a backup can't be removed");
        }
        drop(self.lock);
        Ok(manifest)
    }

    fn fill(&self, made: &Path, manifest: &BackupManifest) -> Result<(), RestoreError> {
        let failed = |error| failed_at(&self.staging)(error);
        disk::private_dir(made).map_err(failed)?;
        let database = made.join(&self.database);
        if let Some(parent) = database.parent() {
            disk::private_dir(parent).map_err(failed)?;
        }
        copy(&self.backup.join(database::NAME), &database, 0o600).map_err(failed)?;
        for name in manifest.files.keys() {
            let from = self.backup.join(name);
            if let Some(file) = name.strip_prefix(KEYS_DIR).and_then(|name| name.strip_prefix('/')) {
                copy(&from, &made.join(file), 0o600).map_err(failed)?;
            } else if name.starts_with(CODE) {
                disk::private_dir(&made.join(CODE)).map_err(failed)?;
                copy(&from, &made.join(name), 0o400).map_err(failed)?;
            }
        }
        let sessions = self.sessions(manifest)?;
        if !sessions.is_empty() {
            self.fill_sessions(made, &sessions)?;
        }
        for entry in fs::read_dir(made).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                disk::sync_dir(&path).map_err(failed)?;
            }
        }
        disk::sync_dir(made).map_err(failed)
    }

    fn fill_sessions(&self, made: &Path, sessions: &[(SessionId, SessionFiles)]) -> Result<(), RestoreError> {
        let failed = |error| failed_at(&self.staging)(error);
        let Some(bytes) = open_dir(&self.backup.join(FILES)).map_err(failed)? else {
            return Ok(());
        };
        let dir = |name: &str| {
            let path = made.join(name);
            disk::private_dir(&path)?;
            Dir::open_ambient_dir(&path, ambient_authority())
        };
        let (workspaces, snapshots) = (dir(ROOT).map_err(failed)?, dir(SNAPSHOTS).map_err(failed)?);
        for (session, files) in sessions {
            let placed = files
                .place(&session.to_string(), &bytes, &workspaces, &snapshots)
                .map_err(failed)?;
            if !placed {
                return Err(RestoreError::Damaged(format!("files of {session} were changed")));
            }
        }
        Ok(())
    }
}

/// A durable copy with this mode.
fn copy(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    let mut source = fs::File::open(from)?;
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut source, &mut copy)?;
    copy.set_permissions(fs::Permissions::from_mode(mode))?;
    copy.sync_all()
}

async fn blocking<T: Send + 'static>(
    place: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RestoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| failed_at(place)(io::Error::other(error.to_string())))
}

fn failed_at(place: &Path) -> impl Fn(io::Error) -> RestoreError + use<> {
    let place = place.to_owned();
    move |error| RestoreError::Io {
        place: place.clone(),
        reason: disk::reason(&error),
    }
}
