//! `fumehood.lock`: what each component was when it was added, so that the same can be had again, and nothing else in its name.
//!
//! It lies beside the configuration file and belongs under version control with it; without a configuration file, in the data directory.
//! What is in it is decided here without I/O; [`LockFile`] reads and writes it.

use super::{Reference, Signed, Source};
use crate::config::Loaded;
use anyhow::{Context as _, bail};
use fumehood_core::{digest::Digest, name::ComponentName};
use semver::Version;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

const NAME: &str = "fumehood.lock";
const FORMAT: u32 = 1;
const HEAD: &str = "# What the components of this installation are. Written by `fumehood tool add` and `tool lock`; keep it with the configuration.\n";
const LARGEST: u64 = 4 << 20;
/// How often somebody else's change is waited for.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// What is in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    version: u32,
    /// In the order of their names.
    #[serde(default, rename = "component", skip_serializing_if = "Vec::is_empty")]
    components: Vec<Entry>,
}

/// A component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// What it calls itself.
    pub(crate) name: ComponentName,
    /// Its version, as its manifest has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    /// Where it was.
    pub(crate) source: String,
    /// The artifact that it was in, for one of a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact: Option<Digest>,
    /// Its exact code.
    pub(crate) digest: Digest,
    /// The key that signed it, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Digest>,
}

/// What is about to be added.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) name: &'a ComponentName,
    pub(crate) version: Option<&'a str>,
    pub(crate) source: &'a Source,
    pub(crate) digest: Digest,
    pub(crate) signed: Signed,
}

/// Whether what is locked may be replaced by what it is locked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replacing {
    /// Only by something newer at another tag or URL.
    Newer,
    /// Also by what its place has in its place now.
    Changed,
    /// By anything: somebody asked for it.
    Anything,
}

/// Why something does not take the place of what is locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "{place} had {locked} when it was locked and has {found} now: whoever can write there put something else in its place. See what changed \
         with `fumehood tool update {name}`, or take it as it is with --replace"
    )]
    Moved {
        place: String,
        name: ComponentName,
        locked: Digest,
        found: Digest,
    },
    #[error(
        "{place} has the version {found} of {name}, which is older than {locked}, which is locked: faults that were mended since would be back. \
         If that is what you want, say so with --replace"
    )]
    Older {
        place: String,
        name: ComponentName,
        locked: String,
        found: String,
    },
    #[error(
        "{place} is not signed, and {name} was when it was locked, by the key {key}: somebody may have put another in its place. If it is meant \
         to be unsigned from now on, say so with --replace"
    )]
    Unsigned {
        place: String,
        name: ComponentName,
        key: Digest,
    },
    #[error(
        "{name} is locked from {locked}, and this one is from {found}: it could be another one of the same name. If it is the same, say so with \
         --replace; if not, `fumehood tool remove {name}` first"
    )]
    Elsewhere {
        name: ComponentName,
        locked: String,
        found: String,
    },
}

impl Entry {
    /// Whether its place can have something newer: a tag or a URL, and no artifact that is pinned by its digest alone.
    pub(crate) fn follows(&self) -> bool {
        self.source.parse().is_ok_and(|source: Source| match source {
            Source::Oci(reference) => reference.tag.is_some(),
            Source::Web { .. } => true,
            Source::File(_) => false,
        })
    }

    /// Where it is, and which one it must be there. Paths begin at the folder of the lock.
    pub(crate) fn source_in(&self, dir: &Path) -> anyhow::Result<Source> {
        let parsed: Source = self
            .source
            .parse()
            .with_context(|| format!("fumehood.lock: {}", self.name))?;
        Ok(match parsed {
            Source::File(path) => Source::File(dir.join(path)),
            Source::Web { url, .. } => Source::Web {
                url,
                digest: Some(self.digest),
            },
            Source::Oci(reference) => Source::Oci(Reference {
                digest: self.artifact.or(reference.digest),
                ..reference
            }),
        })
    }
}

impl Lock {
    /// A component by its name.
    pub(crate) fn get(&self, name: &ComponentName) -> Option<&Entry> {
        self.components.iter().find(|entry| entry.name == *name)
    }

    /// Every component.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.components
    }

    /// What was at a place.
    pub(crate) fn at(&self, place: &str) -> Option<&Entry> {
        self.components.iter().find(|entry| entry.source == place)
    }

    /// Whether something may be added. What the operator has as a file is the operator's own, and always may.
    pub(crate) fn decide(&self, candidate: &Candidate<'_>, replacing: Replacing) -> Result<(), Refused> {
        if !candidate.source.is_remote() || replacing == Replacing::Anything {
            return Ok(());
        }
        let place = candidate.source.place();
        let name = candidate.name;
        // THREAT[T-supply-moved-tag]: what was pinned once does not change under its name.
        if let Some(entry) = self.at(&place)
            && entry.digest != candidate.digest
            && candidate.source.pinned().is_none()
            && replacing == Replacing::Newer
        {
            return Err(Refused::Moved {
                place,
                name: entry.name.clone(),
                locked: entry.digest,
                found: candidate.digest,
            });
        }
        let Some(entry) = self.get(name) else { return Ok(()) };
        let locked_at: Option<Source> = entry.source.parse().ok();
        if locked_at.is_none_or(|locked_at| !same_origin(&locked_at, candidate.source)) {
            return Err(Refused::Elsewhere {
                name: name.clone(),
                locked: entry.source.clone(),
                found: place,
            });
        }
        // Another key that is trusted is the operator's word; none is nobody's.
        if let (Some(key), Signed::Nobody) = (entry.key, candidate.signed) {
            return Err(Refused::Unsigned {
                place,
                name: name.clone(),
                key,
            });
        }
        // THREAT[T-supply-rollback]: an old version stays validly signed for ever.
        if let (Some(locked), Some(found)) = (&entry.version, candidate.version)
            && is_older(found, locked)
        {
            return Err(Refused::Older {
                place,
                name: name.clone(),
                locked: locked.clone(),
                found: found.to_owned(),
            });
        }
        Ok(())
    }

    /// With this component, in the place of one of its name.
    fn with(mut self, entry: Entry) -> Self {
        self.components.retain(|other| other.name != entry.name);
        self.components.push(entry);
        self.components.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            version: FORMAT,
            ..self
        }
    }

    /// Without the component of this name.
    fn without(mut self, name: &ComponentName) -> Self {
        self.components.retain(|entry| entry.name != *name);
        self
    }
}

/// Whether a version is older than another. What is no version by semver.org is neither.
pub(crate) fn is_older(found: &str, than: &str) -> bool {
    match (Version::parse(found), Version::parse(than)) {
        (Ok(found), Ok(than)) => found < than,
        _ => false,
    }
}

/// Whether the same people decide about two places. About a file nobody does but the operator.
fn same_origin(one: &Source, other: &Source) -> bool {
    match (one, other) {
        (Source::Oci(one), Source::Oci(other)) => {
            Reference::repository_place(one) == Reference::repository_place(other)
        }
        (Source::Web { url: one, .. }, Source::Web { url: other, .. }) => one.origin() == other.origin(),
        _ => false,
    }
}

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct LockFile {
    path: PathBuf,
}

impl LockFile {
    /// That of a configuration.
    pub(crate) fn of(loaded: &Loaded) -> Self {
        let dir = match loaded.file {
            Some(_) => loaded.base(),
            None => &loaded.config.data_dir,
        };
        Self { path: dir.join(NAME) }
    }

    /// Where it is, or would be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder it is in, from which paths in it begin.
    pub(crate) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// What is in it; nothing where it is not there.
    pub(crate) fn read(&self) -> anyhow::Result<Lock> {
        let shown = self.path.display();
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > LARGEST => bail!("{shown} is too large to be a lock file"),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Lock::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        }
        let text = fs::read_to_string(&self.path).with_context(|| format!("cannot read {shown}"))?;
        let lock: Lock = toml::from_str(&text).with_context(|| {
            format!("{shown} is not a lock file of this version; restore it, or delete it to pin everything anew")
        })?;
        if lock.version != FORMAT {
            bail!(
                "{shown} is of the format {}, and this version knows {FORMAT}; use a newer fumehood",
                lock.version
            );
        }
        Ok(lock)
    }

    /// Refuses where it could not be written later.
    pub(crate) fn check_writable(&self) -> anyhow::Result<()> {
        // A data directory that is not there yet is made by the host.
        if !self.dir().exists() {
            return Ok(());
        }
        tempfile::NamedTempFile::new_in(self.dir())
            .map(drop)
            .with_context(|| format!("{} could not be written, so nothing was added", self.path.display()))
    }

    /// Writes a component into it. Others that do the same at the same time lose nothing.
    pub(crate) fn record(&self, entry: Entry) -> anyhow::Result<()> {
        self.change(|lock| lock.with(entry))
    }

    /// Takes a component out of it.
    pub(crate) fn forget(&self, name: &ComponentName) -> anyhow::Result<()> {
        if self.read()?.get(name).is_none() {
            return Ok(());
        }
        self.change(|lock| lock.without(name))
    }

    fn change(&self, change: impl FnOnce(Lock) -> Lock) -> anyhow::Result<()> {
        let _guard = self.guard()?;
        let changed = change(self.read()?);
        let text = toml::to_string(&changed).context("the lock can't be written as TOML")?;
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(self.dir())?;
            file.write_all(HEAD.as_bytes())?;
            file.write_all(b"\n")?;
            file.write_all(text.as_bytes())?;
            // It is read by others: it holds no secret.
            let mut permissions = file.as_file().metadata()?.permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
            file.as_file().set_permissions(permissions)?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|error| error.error)?;
            std::io::Result::Ok(())
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Held while it is changed. The folder's own lock, so that no further file lies there.
    fn guard(&self) -> anyhow::Result<File> {
        let dir = File::open(self.dir()).with_context(|| format!("cannot open {}", self.dir().display()))?;
        for _ in 0..TRIES {
            match dir.try_lock() {
                Ok(()) => return Ok(dir),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", self.dir().display()));
                }
            }
        }
        bail!("another fumehood is changing {}; try again", self.path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ComponentName {
        text.parse().unwrap()
    }

    fn entry(source: &str, version: &str, code: &[u8]) -> Entry {
        Entry {
            name: name("github"),
            version: Some(version.to_owned()),
            source: source.to_owned(),
            artifact: None,
            digest: Digest::of(code),
            key: None,
        }
    }

    fn decide(lock: &Lock, source: &str, version: &str, code: &[u8], replacing: Replacing) -> Result<(), Refused> {
        let candidate = Candidate {
            name: &name("github"),
            version: Some(version),
            source: &source.parse().unwrap(),
            digest: Digest::of(code),
            signed: Signed::Nobody,
        };
        lock.decide(&candidate, replacing)
    }

    #[test]
    fn what_is_locked_is_not_replaced_by_what_an_attacker_would_put_there() {
        let lock = Lock::default().with(entry("oci://ghcr.io/acme/github:1", "1.2.0", b"a"));
        let at = "oci://ghcr.io/acme/github:1";
        assert_eq!(decide(&lock, at, "1.2.0", b"a", Replacing::Newer), Ok(()));
        let moved = decide(&lock, at, "1.3.0", b"b", Replacing::Newer);
        assert!(matches!(moved, Err(Refused::Moved { .. })), "{moved:?}");
        assert_eq!(decide(&lock, at, "1.3.0", b"b", Replacing::Changed), Ok(()));
        let older = decide(&lock, "oci://ghcr.io/acme/github:1.1", "1.1.0", b"b", Replacing::Newer);
        assert!(matches!(older, Err(Refused::Older { .. })), "{older:?}");
        let older = decide(&lock, at, "1.1.0", b"b", Replacing::Changed);
        assert!(
            matches!(older, Err(Refused::Older { .. })),
            "also by an update: {older:?}"
        );
        for elsewhere in [
            "oci://ghcr.io/evil/github:9",
            "https://ghcr.io/github.wasm",
            "oci://ghcr.io.evil.example/acme/github:9",
        ] {
            let refused = decide(&lock, elsewhere, "9.0.0", b"b", Replacing::Newer);
            assert!(matches!(refused, Err(Refused::Elsewhere { .. })), "{refused:?}");
        }
        assert_eq!(
            decide(&lock, "oci://ghcr.io/evil/x:1", "0.1.0", b"b", Replacing::Anything),
            Ok(())
        );
        assert_eq!(
            decide(&lock, "github.wasm", "0.1.0", b"b", Replacing::Newer),
            Ok(()),
            "the operator's own"
        );
        assert_eq!(
            decide(&lock, "oci://ghcr.io/acme/github:2", "2.0.0", b"b", Replacing::Newer),
            Ok(())
        );
    }

    #[test]
    fn what_is_locked_from_a_file_or_from_nowhere_that_is_known_is_not_replaced_by_what_comes_from_elsewhere() {
        for own in [
            "github.wasm",
            "/opt/tools/github.wasm",
            "oci://no registry",
            "gopher://a.example/x",
        ] {
            let lock = Lock::default().with(entry(own, "1.2.0", b"a"));
            for source in ["oci://ghcr.io/evil/github:9", "https://evil.example/github.wasm"] {
                for replacing in [Replacing::Newer, Replacing::Changed] {
                    let refused = decide(&lock, source, "9.0.0", b"b", replacing);
                    assert!(
                        matches!(refused, Err(Refused::Elsewhere { .. })),
                        "{own} by {source}: {refused:?}"
                    );
                }
                assert_eq!(decide(&lock, source, "9.0.0", b"b", Replacing::Anything), Ok(()));
            }
        }
    }

    #[test]
    fn a_tag_and_a_url_can_have_something_newer_and_a_digest_and_a_file_cannot() {
        for (source, follows) in [
            ("oci://ghcr.io/acme/github:1", true),
            ("https://a.example/github.wasm", true),
            ("oci://ghcr.io/acme/github", false),
            ("github.wasm", false),
        ] {
            assert_eq!(entry(source, "1.2.0", b"a").follows(), follows, "{source}");
        }
    }

    #[test]
    fn what_was_signed_when_it_was_locked_does_not_lose_its_signature() {
        let key = Digest::of(b"key");
        let signed = Entry {
            key: Some(key),
            ..entry("oci://ghcr.io/acme/github:1.2.0", "1.2.0", b"a")
        };
        let lock = Lock::default().with(signed);
        let decide = |signed| {
            let candidate = Candidate {
                name: &name("github"),
                version: Some("1.3.0"),
                source: &"oci://ghcr.io/acme/github:1.3.0".parse().unwrap(),
                digest: Digest::of(b"b"),
                signed,
            };
            lock.decide(&candidate, Replacing::Newer)
        };
        assert!(matches!(decide(Signed::Nobody), Err(Refused::Unsigned { .. })));
        for fine in [Signed::By(key), Signed::By(Digest::of(b"new key")), Signed::NotAsked] {
            assert_eq!(decide(fine), Ok(()), "{fine:?}");
        }
    }

    #[test]
    fn versions_are_ordered_as_semver_says_and_others_are_not_compared() {
        assert!(is_older("1.9.0", "1.10.0") && is_older("1.0.0-rc.1", "1.0.0"));
        assert!(!is_older("1.0.0", "1.0.0") && !is_older("monday", "1.0.0") && !is_older("1", "2.0.0"));
    }

    #[test]
    fn the_file_has_each_component_once_in_order_and_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = LockFile {
            path: dir.path().join(NAME),
        };
        assert_eq!(file.read().unwrap(), Lock::default());
        file.record(entry("oci://ghcr.io/acme/github:1", "1.2.0", b"a"))
            .unwrap();
        let other = Entry {
            name: name("a-first"),
            ..entry("x.wasm", "1.0.0", b"x")
        };
        file.record(other).unwrap();
        file.record(entry("oci://ghcr.io/acme/github:2", "2.0.0", b"b"))
            .unwrap();
        let text = fs::read_to_string(&file.path).unwrap();
        let digests = (Digest::of(b"x"), Digest::of(b"b"));
        assert_eq!(
            text,
            format!(
                "{HEAD}\nversion = 1\n\n[[component]]\nname = \"a-first\"\nversion = \"1.0.0\"\nsource = \"x.wasm\"\ndigest = \"{}\"\n\n\
                 [[component]]\nname = \"github\"\nversion = \"2.0.0\"\nsource = \"oci://ghcr.io/acme/github:2\"\ndigest = \"{}\"\n",
                digests.0, digests.1
            )
        );
        assert_eq!(file.read().unwrap().entries().len(), 2);
        file.forget(&name("github")).unwrap();
        assert!(file.read().unwrap().get(&name("github")).is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it");
    }

    #[test]
    fn a_lock_that_cannot_be_understood_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = LockFile {
            path: dir.path().join(NAME),
        };
        for text in ["version = 2", "version = 1\nextra = 1", "[[component]]", "no toml"] {
            fs::write(&file.path, text).unwrap();
            assert!(file.read().is_err(), "{text}");
        }
    }
}
