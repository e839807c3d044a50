//! The master key: 32 random bytes, from the environment or a file, from which every other key of the host derives.
//!
//! It is kept in memory that is wiped, never printed, and never used directly: each use has its own key, derived by label.
//!
//! While the key is being changed there are two: see [`crate::rotation`].

use crate::{
    faults::{self, Point},
    {disk, error::OpenError},
};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The variable that may hold the key, as base64 of 32 bytes.
pub(crate) const VARIABLE: &str = "FUMEHOOD_MASTER_KEY";
/// The variable that may hold keys of before, separated by commas: what they sealed still opens.
pub(crate) const VARIABLE_BEFORE: &str = "FUMEHOOD_MASTER_KEY_PREVIOUS";
/// Every variable that keys are read from.
pub const MASTER_KEY_VARIABLES: [&str; 2] = [VARIABLE, VARIABLE_BEFORE];
/// The key's file in the data directory.
const FILE: &str = "master.key";
/// The key that a change of key leads to, until the change is complete.
const FILE_NEXT: &str = "master.key.next";

/// The host's master key.
#[derive(Clone)]
pub struct MasterKey {
    bytes: Zeroizing<[u8; 32]>,
}

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

impl MasterKey {
    /// The first key of [`MasterKeys::from_env_or_file`].
    ///
    /// # Errors
    /// As there.
    pub fn from_env_or_file(data_dir: &Path) -> Result<Self, OpenError> {
        Ok(MasterKeys::from_env_or_file(data_dir)?.first)
    }

    /// The key in a file that its owner alone can read.
    ///
    /// # Errors
    /// When it holds something else than base64 of 32 bytes, others may read it, or it can't be read.
    pub fn from_file(file: &Path) -> Result<Self, OpenError> {
        let metadata = fs::metadata(file).map_err(|error| OpenError::io(file, &error))?;
        Self::read(file, metadata.permissions().mode())
    }

    fn load(variable: Option<&str>, file: &Path) -> Result<Self, OpenError> {
        if let Some(text) = variable.filter(|text| !text.is_empty()) {
            return Self::parse(text).ok_or_else(|| refused(VARIABLE, MUST_BE));
        }
        match fs::metadata(file) {
            Ok(metadata) => Self::read(file, metadata.permissions().mode()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::create(file),
            Err(error) => Err(OpenError::io(file, &error)),
        }
    }

    fn read(file: &Path, mode: u32) -> Result<Self, OpenError> {
        let name = file.display().to_string();
        // THREAT[T-sec-at-rest]
        if mode & 0o077 != 0 {
            return Err(refused(
                &name,
                "others can read it: run chmod 600 on it, and think about who may have",
            ));
        }
        let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => refused(&name, MUST_BE),
            _ => OpenError::io(file, &error),
        })?);
        Self::parse(&text).ok_or_else(|| refused(&name, MUST_BE))
    }

    fn create(file: &Path) -> Result<Self, OpenError> {
        let key =
            Self::random().ok_or_else(|| refused(&file.display().to_string(), "the system gives no random bytes"))?;
        key.write(file)?;
        Ok(key)
    }

    fn write(&self, file: &Path) -> Result<(), OpenError> {
        let mut text = Zeroizing::new(String::with_capacity(64));
        STANDARD.encode_string(*self.bytes, &mut text);
        text.push('\n');
        let temporary = file.with_extension("new");
        // What a broken-off attempt left.
        let _ = fs::remove_file(&temporary);
        let place = || disk::place(&temporary, file, 0o600, text.as_bytes());
        faults::around(Point::MasterKeyWrite, place).map_err(|error| OpenError::io(file, &error))
    }

    fn parse(text: &str) -> Option<Self> {
        let decoded = Zeroizing::new(STANDARD.decode(text.trim()).ok()?);
        let bytes: &[u8; 32] = decoded.as_slice().try_into().ok()?;
        Some(Self {
            bytes: Zeroizing::new(*bytes),
        })
    }

    /// A fresh key that nothing keeps; `None` if the system gives no random bytes.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).ok()?;
        Some(Self { bytes })
    }

    /// The key for one use. The same label gives the same key; from it neither the master key nor another use's key can be
    /// found (HKDF-SHA-256). Labels are constants of the program, such as `compiled-code`.
    #[must_use]
    pub fn derive(&self, label: &str) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let pseudorandom = Salt::new(HKDF_SHA256, b"fumehood").extract(self.bytes.as_slice());
        let filled = pseudorandom
            .expand(&[label.as_bytes()], Bytes32)
            .and_then(|okm| okm.fill(key.as_mut_slice()));
        // HKDF refuses only lengths above 255 hashes, and ours is one.
        assert!(filled.is_ok(), "HKDF of 32 bytes");
        key
    }

    /// Names the key in stored envelopes and messages; tells nothing about it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(&self.derive("fingerprint")[..8])
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// Where the keys come from; that is where they are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// The variables: the operator changes them.
    Environment,
    /// The files of the data directory.
    Files,
}

/// The key that seals, and those that only still open.
#[derive(Debug, Clone)]
pub struct MasterKeys {
    first: MasterKey,
    others: Vec<MasterKey>,
    source: KeySource,
}

impl MasterKeys {
    /// These keys.
    #[must_use]
    pub const fn new(first: MasterKey, others: Vec<MasterKey>) -> Self {
        Self {
            first,
            others,
            source: KeySource::Files,
        }
    }

    /// The keys of the variables `FUMEHOOD_MASTER_KEY` and `FUMEHOOD_MASTER_KEY_PREVIOUS`, else of the file `master.key` in the
    /// data directory, which is made (mode 0600) when it is missing, and of `master.key.next` beside it, which is there while
    /// a change of key is incomplete.
    ///
    /// # Errors
    /// When a variable or file holds something else than base64 of 32 bytes, others may read the file, or it can't be
    /// read or made.
    pub fn from_env_or_file(data_dir: &Path) -> Result<Self, OpenError> {
        let variable = |name| std::env::var_os(name).map(|value| Zeroizing::new(value.to_string_lossy().into_owned()));
        let (now, before) = (variable(VARIABLE), variable(VARIABLE_BEFORE));
        Self::load(
            now.as_ref().map(|text| text.as_str()),
            before.as_ref().map(|text| text.as_str()),
            data_dir,
        )
    }

    /// The same, where no key is made: `None` if there is none.
    ///
    /// # Errors
    /// As [`Self::from_env_or_file`].
    pub fn existing(data_dir: &Path) -> Result<Option<Self>, OpenError> {
        let set = std::env::var_os(VARIABLE).is_some_and(|text| !text.is_empty());
        if !set && !data_dir.join(FILE).exists() {
            return Ok(None);
        }
        Self::from_env_or_file(data_dir).map(Some)
    }

    pub(crate) fn load(now: Option<&str>, before: Option<&str>, data_dir: &Path) -> Result<Self, OpenError> {
        let first = MasterKey::load(now, &data_dir.join(FILE))?;
        let source = if now.is_some_and(|text| !text.is_empty()) {
            KeySource::Environment
        } else {
            KeySource::Files
        };
        let mut others = Vec::new();
        for text in before
            .unwrap_or_default()
            .split(',')
            .filter(|text| !text.trim().is_empty())
        {
            others.push(MasterKey::parse(text).ok_or_else(|| refused(VARIABLE_BEFORE, MUST_BE))?);
        }
        if source == KeySource::Files {
            others.extend(Self::next(data_dir)?);
        }
        Ok(Self { first, others, source })
    }

    /// The key that seals.
    #[must_use]
    pub const fn first(&self) -> &MasterKey {
        &self.first
    }

    /// Those that only open.
    #[must_use]
    pub fn others(&self) -> &[MasterKey] {
        &self.others
    }

    pub(crate) const fn source(&self) -> KeySource {
        self.source
    }

    /// The same keys with another one first.
    pub(crate) fn led_by(self, first: MasterKey) -> Self {
        let mut others = self.others;
        others.push(self.first);
        others.retain(|key| key.fingerprint() != first.fingerprint());
        Self {
            first,
            others,
            source: self.source,
        }
    }

    /// The key that an incomplete change leads to.
    pub(crate) fn next(data_dir: &Path) -> Result<Option<MasterKey>, OpenError> {
        let file = data_dir.join(FILE_NEXT);
        match fs::metadata(&file) {
            Ok(metadata) => MasterKey::read(&file, metadata.permissions().mode()).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::io(file, &error)),
        }
    }

    /// Begins a change of the key in the files: from here on both keys open.
    pub(crate) fn keep_next(data_dir: &Path, key: &MasterKey) -> Result<(), OpenError> {
        key.write(&data_dir.join(FILE_NEXT))
    }

    /// Gives up a change of the key in the files.
    pub(crate) fn forget_next(data_dir: &Path) -> Result<(), OpenError> {
        let file = data_dir.join(FILE_NEXT);
        let forget = || fs::remove_file(&file).and_then(|()| disk::sync_dir(data_dir));
        faults::around(Point::MasterKeyForget, forget).map_err(|error| OpenError::io(&file, &error))
    }

    /// Ends a change of the key in the files: the next one takes the place of the old one, which stays under its own name for
    /// backups. At no moment is there no key.
    pub(crate) fn take_next(data_dir: &Path, old: &MasterKey) -> Result<PathBuf, OpenError> {
        let (file, kept) = (
            data_dir.join(FILE),
            data_dir.join(format!("{FILE}.{}", old.fingerprint())),
        );
        old.write(&kept)?;
        let take = || fs::rename(data_dir.join(FILE_NEXT), &file).and_then(|()| disk::sync_dir(data_dir));
        faults::around(Point::MasterKeyTake, take).map_err(|error| OpenError::io(&file, &error))?;
        Ok(kept)
    }
}

impl From<MasterKey> for MasterKeys {
    fn from(key: MasterKey) -> Self {
        Self::new(key, Vec::new())
    }
}

const MUST_BE: &str = "it must be the base64 of 32 bytes; `openssl rand -base64 32` makes one";

fn refused(source_name: &str, reason: &str) -> OpenError {
    OpenError::BadMasterKey {
        source_name: source_name.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn in_new_dir(test: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        test(&dir.path().join("master.key"));
    }

    #[test]
    fn a_missing_file_is_made_for_this_user_only_and_read_again() {
        in_new_dir(|file| {
            let first = MasterKey::load(None, file).unwrap();
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
            let second = MasterKey::load(None, file).unwrap();
            assert_eq!(first.bytes, second.bytes);
        });
    }

    #[test]
    fn the_variable_comes_before_the_file_and_makes_none() {
        in_new_dir(|file| {
            let key = MasterKey::load(Some(GIVEN), file).unwrap();
            assert_eq!(key.bytes[31], 31);
            assert!(!file.exists());
        });
    }

    #[test]
    fn a_variable_or_file_that_is_no_key_is_refused_without_being_shown() {
        in_new_dir(|file| {
            for text in ["hunter2", "AAAA", &GIVEN[1..]] {
                let error = MasterKey::load(Some(text), file).unwrap_err().to_string();
                assert!(
                    error.contains("FUMEHOOD_MASTER_KEY") && !error.contains(text),
                    "{error}"
                );
                disk::private_file(file).unwrap();
                fs::write(file, text).unwrap();
                let error = MasterKey::load(None, file).unwrap_err().to_string();
                assert!(error.contains("base64 of 32 bytes") && !error.contains(text), "{error}");
            }
        });
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        in_new_dir(|file| {
            MasterKey::load(None, file).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
            let error = MasterKey::load(None, file).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        });
    }

    #[test]
    fn each_label_has_its_own_key_and_none_is_the_master() {
        let key = MasterKey::random().unwrap();
        assert_eq!(key.derive("a"), key.derive("a"));
        assert_ne!(key.derive("a"), key.derive("b"));
        assert_ne!(key.derive("a"), key.bytes);
        assert_ne!(key.derive("a"), MasterKey::random().unwrap().derive("a"));
    }

    #[test]
    fn debug_shows_nothing() {
        let key = MasterKey::parse(GIVEN).unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(…)");
    }
}
