//! What a backup says of itself: what it is of, and every file in it with its digest.

use crate::disk;
use fumehood_core::{
    Time,
    digest::{Digest, Digesting},
    id::SessionId,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};
use uuid::Uuid;

/// The form of backups that this version makes and reads.
pub(super) const FORMAT: u32 = 1;
/// Its file.
pub(super) const NAME: &str = "manifest.json";

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// Its form.
    pub format: u32,
    /// The program and version that made it.
    pub made_by: String,
    /// The schema of the database.
    pub schema: i64,
    /// The database it is of.
    pub database: Option<Uuid>,
    /// The moment it is of.
    pub at: Time,
    /// How many sessions there are.
    pub sessions: u64,
    /// The key that the secrets are under.
    pub master_key: MasterKeyNote,
    /// Whether the API key of the commands is in it.
    pub api_key_included: bool,
    /// Sessions whose files are not, or not exactly, those of that moment.
    pub left_out: Vec<LeftOut>,
    /// Every other file in it.
    pub files: BTreeMap<String, FileNote>,
}

/// The master key that the secrets are under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKeyNote {
    /// Its name, which tells nothing about it.
    pub name: Option<String>,
    /// Whether it is in the backup.
    pub included: bool,
}

/// A session whose files are not, or not exactly, those of the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The session.
    pub session: SessionId,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why files of a session are not those of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// They were changed all the time: what is there is of moments after it.
    Changing,
    /// There is a pipe or device among them, a name that is no text, or a path that is too long: there are none.
    CannotBeCopied,
}

impl LeftOut {
    pub(super) const fn moving(session: SessionId) -> Self {
        Self {
            session,
            reason: LeftOutReason::Changing,
        }
    }

    pub(super) const fn strange(session: SessionId) -> Self {
        Self {
            session,
            reason: LeftOutReason::CannotBeCopied,
        }
    }

    pub(super) const fn is_for_good(&self) -> bool {
        matches!(self.reason, LeftOutReason::CannotBeCopied)
    }
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileNote {
    /// How long it is.
    pub size: u64,
    /// The digest of its bytes.
    pub digest: Digest,
}

impl FileNote {
    fn of(path: &Path) -> io::Result<Self> {
        let (mut file, mut digest, mut size) = (File::open(path)?, Digesting::default(), 0);
        let mut piece = vec![0; 64 << 10];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                count => {
                    digest.update(&piece[..count]);
                    size += count as u64;
                }
            }
        }
        Ok(Self {
            size,
            digest: digest.finish(),
        })
    }
}

impl BackupManifest {
    /// Notes every file that lies there, and writes itself beside them.
    pub(super) fn write(&mut self, dir: &Path) -> io::Result<()> {
        for name in names(dir)? {
            if name != "lock" && name != NAME {
                let note = FileNote::of(&dir.join(&name))?;
                self.files.insert(name, note);
            }
        }
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        disk::place(&dir.join("manifest.new"), &dir.join(NAME), 0o600, &text)
    }

    /// How many bytes the files have.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }

    /// What is wrong with the files that lie there, the first of it; `None` if they are all there, as they were.
    pub(super) fn difference(&self, dir: &Path) -> io::Result<Option<String>> {
        for (name, note) in &self.files {
            if !is_plain(name) {
                return Ok(Some(format!("{name:?} is no name of a file in a backup")));
            }
            match FileNote::of(&dir.join(name)) {
                Ok(found) if found == *note => {}
                Ok(_) => return Ok(Some(format!("{name} was changed"))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Some(format!("{name} is not there")));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Whether a name stays in the backup: what comes from a file is not believed.
// THREAT[T-supply-backup]
pub(super) fn is_plain(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let plain = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    parts.len() <= 2 && parts.iter().all(plain)
}

/// The files in a directory, and in the directories in it.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() {
            names.push(name);
            continue;
        }
        for inner in fs::read_dir(entry.path())? {
            names.push(format!("{name}/{}", inner?.file_name().to_string_lossy()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_of_the_backup_is_none() {
        for name in ["fumehood.db", "files/0123abcdef", "sessions/ses_0190.json"] {
            assert!(is_plain(name), "{name}");
        }
        for name in [
            "",
            "/etc/passwd",
            "../x",
            "files/../x",
            "files//x",
            "a/b/c",
            "files/.x",
            "a\\b",
            "é",
        ] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
