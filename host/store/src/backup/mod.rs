//! A copy of everything that is kept, made while a host works, and put in its place again.
//!
//! The copy is of one moment: the database is read in one transaction, and each session's files are those of that moment, because
//! they are copied before it and were not changed by the time it has begun. What changes is copied again, until nothing did. A
//! session whose files never stand still for long enough is named; its files are of about that moment.
//!
//! No master key and no API key is in it, unless that was asked for.

mod database;
mod manifest;
mod restore;
mod tar;

pub use manifest::{BackupManifest, FileNote, LeftOut, LeftOutReason, MasterKeyNote};
pub use restore::{RestoreError, Restored, restore};

use crate::{
    OpenError, StoreUrl, disk,
    faults::{self, Point},
    lock::{self, Lock},
    sqlite::open::{self, Others},
    workspace::{
        GONE, RESTORING, ROOT, SNAPSHOTS,
        snapshots::backup::{self, Taken, Took},
    },
};
use cap_std::{ambient_authority, fs::Dir};
use database::Pinned;
use fumehood_core::{Time, digest::Digest, id::SessionId, now};
use manifest::FORMAT;
use sqlx::Connection as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long files that change are copied again before they are taken as they are.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at files that change.
const PAUSE: Duration = Duration::from_millis(60);
/// The files of the data directory that are keys.
const KEYS: [&str; 3] = ["key", "master.key", "master.key.next"];

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// What is kept can't be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is nothing kept.
    #[error("there is no database in {0}: there is nothing to back up")]
    Nothing(PathBuf),
    /// The place is taken.
    #[error("{0} is there already: choose another place, or an empty directory")]
    Taken(PathBuf),
    /// The place is in what is backed up.
    #[error("{0} is in the data directory: a backup belongs somewhere else, best on another disk")]
    Inside(PathBuf),
    /// A crash left something that a start finishes.
    #[error(
        "a host ended while files of {0} were being put back or removed; start the host once, it finishes that, and make the backup then"
    )]
    Unfinished(SessionId),
    /// A place can't be read or written.
    #[error("{place}: {reason}")]
    Io {
        /// The place.
        place: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Whether keys are in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithKeys {
    /// None: whoever has it can read no secret and call no host.
    No,
    /// The master key and the API key of the commands, as far as they are files.
    Yes,
}

/// A backup that was made.
#[derive(Debug)]
pub struct BackedUp {
    /// What is in it.
    pub manifest: BackupManifest,
    /// How many bytes it has.
    pub bytes: u64,
}

/// Makes a backup at `to`: a file if its name ends with `.tar`, else a directory. Whole and durable, or nothing.
///
/// # Errors
/// See [`BackupError`].
pub async fn backup(data_dir: &Path, url: &StoreUrl, to: &Path, with_keys: WithKeys) -> Result<BackedUp, BackupError> {
    let data_dir = data_dir.canonicalize().map_err(failed_at(data_dir))?;
    let to = std::path::absolute(to).map_err(failed_at(to))?;
    let place = Target::new(&to, &data_dir)?;
    let file = url.file(&data_dir);
    let file = file.canonicalize().unwrap_or(file);
    let locks = lock::look_at(&data_dir, &file)?;
    let others = if locks.is_some() {
        Others::KeptOut
    } else {
        Others::MayWrite
    };
    let Some(looked) = open::look(&file, others).await? else {
        return Err(BackupError::Nothing(data_dir));
    };
    let schema = looked.version;
    // Whatever closing says, it was looked at.
    let _ = looked.connection.close().await;
    let staging = Staging::new(&place)?;
    let source = Source {
        data_dir,
        others,
        with_keys,
    };
    let mut pinned = Pinned::open(&file, &staging.path.join(database::NAME)).await?;
    let made = source.copy(&mut pinned, &staging, schema).await;
    pinned.close().await;
    let manifest = made?;
    let bytes = manifest.bytes();
    let placed = tokio::task::spawn_blocking(move || staging.place(&place)).await;
    placed
        .unwrap_or_else(|error| Err(io::Error::other(error.to_string())))
        .map_err(failed_at(&to))?;
    drop(locks);
    Ok(BackedUp { manifest, bytes })
}

/// Where a backup is to be.
struct Target {
    path: PathBuf,
    is_archive: bool,
}

impl Target {
    fn new(to: &Path, data_dir: &Path) -> Result<Self, BackupError> {
        let parent = to.parent().unwrap_or(Path::new("/"));
        let parent = parent.canonicalize().map_err(failed_at(parent))?;
        let path = to.file_name().map_or(parent.clone(), |name| parent.join(name));
        if path.starts_with(data_dir) {
            return Err(BackupError::Inside(path));
        }
        let is_archive = path.extension().is_some_and(|extension| extension == "tar");
        let is_free = match fs::read_dir(&path) {
            Ok(mut entries) => !is_archive && entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if is_free {
            Ok(Self { path, is_archive })
        } else {
            Err(BackupError::Taken(path))
        }
    }
}

/// Where a backup is made, beside its place.
struct Staging {
    path: PathBuf,
    lock: Lock,
}

impl Staging {
    fn new(target: &Target) -> Result<Self, BackupError> {
        let mut path = target.path.clone().into_os_string();
        path.push(".partial");
        let path = PathBuf::from(path);
        disk::private_dir(&path).map_err(failed_at(&path))?;
        // Whoever has it is making one; without, it is what a broken-off one left.
        let lock = Lock::take(&path.join("lock"), &path, crate::Place::Backup)?;
        clear(&path).map_err(failed_at(&path))?;
        Ok(Self { path, lock })
    }

    fn dir(&self, name: &str) -> io::Result<Dir> {
        let path = self.path.join(name);
        disk::private_dir(&path)?;
        Dir::open_ambient_dir(path, ambient_authority())
    }

    fn place(self, target: &Target) -> io::Result<()> {
        let parent = target.path.parent().unwrap_or(Path::new("/"));
        fs::remove_file(self.path.join("lock"))?;
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.is_dir() {
                disk::sync_dir(&path)?;
            }
        }
        disk::sync_dir(&self.path)?;
        if target.is_archive {
            let temporary = self.path.join("archive");
            tar::write(&self.path, &temporary)?;
            faults::around(Point::BackupPlace, || fs::rename(&temporary, &target.path))?;
            fs::remove_dir_all(&self.path)?;
        } else {
            // Over an empty directory, or where there is nothing.
            faults::around(Point::BackupPlace, || fs::rename(&self.path, &target.path))?;
        }
        drop(self.lock);
        disk::sync_dir(parent)
    }
}

/// Removes what a broken-off backup left, but for the lock.
fn clear(staging: &Path) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if path.file_name().is_some_and(|name| name != "lock") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// What is backed up.
struct Source {
    data_dir: PathBuf,
    others: Others,
    with_keys: WithKeys,
}

/// The sessions' files as they were at the moment that is pinned.
#[derive(Default)]
struct Files {
    taken: BTreeMap<SessionId, Taken>,
    left_out: Vec<LeftOut>,
    /// Whether none was copied anew since the moment was pinned.
    are_of_the_moment: bool,
}

impl Source {
    async fn copy(&self, pinned: &mut Pinned, staging: &Staging, schema: i64) -> Result<BackupManifest, BackupError> {
        let (files, at) = self.copy_files(pinned, staging).await?;
        let facts = pinned.facts().await?;
        pinned.copy().await?;
        let left_out = files.left_out.clone();
        let sessions = files.taken.len() as u64;
        self.copy_rest(files, facts.code, staging).await?;
        let keys = self.copy_keys(staging).map_err(failed_at(&self.data_dir))?;
        let mut manifest = BackupManifest {
            format: FORMAT,
            made_by: format!("fumehood {}", env!("CARGO_PKG_VERSION")),
            schema,
            database: facts.database,
            at,
            sessions,
            master_key: MasterKeyNote {
                name: facts.master_key,
                included: keys.iter().any(|key| key.starts_with("master.key")),
            },
            api_key_included: keys.iter().any(|key| key == "key"),
            left_out,
            files: BTreeMap::new(),
        };
        let path = staging.path.clone();
        let written = tokio::task::spawn_blocking(move || manifest.write(&path).map(|()| manifest)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        written.map_err(failed_at(&staging.path))
    }

    /// Copies files until those of all sessions are those of the moment that is pinned then.
    async fn copy_files(&self, pinned: &mut Pinned, staging: &Staging) -> Result<(Files, Time), BackupError> {
        let begun = Instant::now();
        let mut files = Files::default();
        loop {
            let at = now();
            let round = Round {
                data_dir: self.data_dir.clone(),
                bytes: staging.dir(FILES).map_err(failed_at(&staging.path))?,
                sessions: pinned.pin().await?,
                haste: if begun.elapsed() < PATIENCE {
                    Haste::None
                } else {
                    Haste::AsTheyAre
                },
                others: self.others,
            };
            let done = tokio::task::spawn_blocking(move || round.run(files)).await;
            let done = done.unwrap_or_else(|error| Err(Stopped::Io(io::Error::other(error.to_string()))));
            files = done.map_err(|stopped| match stopped {
                Stopped::Unfinished(session) => BackupError::Unfinished(session),
                Stopped::Io(error) => failed_at(&self.data_dir)(error),
            })?;
            if files.are_of_the_moment {
                return Ok((files, at));
            }
            pinned.unpin().await?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn copy_rest(&self, files: Files, code: BTreeSet<Digest>, staging: &Staging) -> Result<(), BackupError> {
        let (data_dir, path) = (self.data_dir.clone(), staging.path.clone());
        let dirs = staging.dir(FILES).and_then(|bytes| {
            disk::private_dir(&path.join(SESSIONS))?;
            disk::private_dir(&path.join(CODE))?;
            Ok(bytes)
        });
        let bytes = dirs.map_err(failed_at(&staging.path))?;
        let copied = tokio::task::spawn_blocking(move || {
            let snapshots = open_dir(&data_dir.join(SNAPSHOTS))?;
            for (session, taken) in files.taken {
                let name = session.to_string();
                let kept = match &snapshots {
                    Some(snapshots) => taken.with_states(snapshots, &name, &bytes)?,
                    None => taken.without_states(),
                };
                let text = serde_json::to_vec(&kept)?;
                write(&path.join(SESSIONS).join(format!("{name}.json")), &text)?;
            }
            copy_code(&data_dir.join("components"), &path.join(CODE), &code)
        });
        let copied = copied
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        copied.map_err(failed_at(&self.data_dir))
    }

    fn copy_keys(&self, staging: &Staging) -> io::Result<Vec<String>> {
        let mut copied = Vec::new();
        if self.with_keys == WithKeys::No {
            return Ok(copied);
        }
        let dir = staging.path.join(KEYS_DIR);
        disk::private_dir(&dir)?;
        for name in KEYS {
            match fs::read(self.data_dir.join(name)) {
                Ok(key) => write(&dir.join(name), &key)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            copied.push(name.to_owned());
        }
        Ok(copied)
    }
}

/// In a backup: bytes of files by digest.
const FILES: &str = "files";
/// What each session has of them.
const SESSIONS: &str = "sessions";
/// Code of components.
const CODE: &str = "components";
/// Keys.
const KEYS_DIR: &str = "keys";

/// One look at all sessions' files.
struct Round {
    data_dir: PathBuf,
    bytes: Dir,
    sessions: BTreeSet<SessionId>,
    haste: Haste,
    others: Others,
}

/// Whether files are waited for that don't stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Haste {
    None,
    AsTheyAre,
}

/// Why a look ended.
enum Stopped {
    Unfinished(SessionId),
    Io(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Round {
    /// Copies again what is not as it was copied.
    fn run(self, mut files: Files) -> Result<Files, Stopped> {
        files.are_of_the_moment = true;
        files.left_out.clear();
        files.taken.retain(|session, _| self.sessions.contains(session));
        let workspaces = open_dir(&self.data_dir.join(ROOT))?;
        for session in &self.sessions {
            let Some(workspaces) = &workspaces else {
                files.taken.entry(*session).or_default();
                continue;
            };
            self.look(*session, workspaces, &mut files)?;
        }
        Ok(files)
    }

    fn look(&self, session: SessionId, workspaces: &Dir, files: &mut Files) -> Result<(), Stopped> {
        let name = session.to_string();
        let is_between = self.is_between(&name)?;
        if is_between && self.others == Others::KeptOut {
            return Err(Stopped::Unfinished(session));
        }
        let known = files.taken.get(&session).filter(|_| !is_between);
        if let Some(known) = known
            && known.is_as_copied(workspaces, &name)?
        {
            return Ok(());
        }
        let (taken, left_out) = match backup::take(workspaces, &name, &self.bytes)? {
            Took::Files(taken) => (taken, LeftOut::moving(session)),
            Took::Strange => (Taken::default(), LeftOut::strange(session)),
        };
        files.taken.insert(session, taken);
        // What was copied just now is compared with what is there once the next moment is pinned.
        match (left_out.is_for_good(), self.haste) {
            (true, _) | (_, Haste::AsTheyAre) => files.left_out.push(left_out),
            (false, Haste::None) => files.are_of_the_moment = false,
        }
        Ok(())
    }

    /// Whether the session's files are being put back or removed.
    fn is_between(&self, session: &str) -> io::Result<bool> {
        Ok(self.data_dir.join(RESTORING).join(session).try_exists()?
            || self.data_dir.join(GONE).join(session).try_exists()?)
    }
}

fn open_dir(path: &Path) -> io::Result<Option<Dir>> {
    match Dir::open_ambient_dir(path, ambient_authority()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        dir => dir.map(Some),
    }
}

/// Copies the code that components have. Some that is not there stays away: the doctor tells of it, and so does a restored host.
fn copy_code(from: &Path, to: &Path, code: &BTreeSet<Digest>) -> io::Result<()> {
    for digest in code {
        let name = format!("{}.wasm", digest.to_hex());
        match fs::read(from.join(&name)) {
            Ok(bytes) if Digest::of(&bytes) == *digest => write(&to.join(&name), &bytes)?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A new file for this user alone, durable once its directory is.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = disk::private_file(path)?;
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failed_at(place: &Path) -> impl Fn(io::Error) -> BackupError + use<> {
    let place = place.to_owned();
    move |error| BackupError::Io {
        place: place.clone(),
        reason: disk::reason(&error),
    }
}
