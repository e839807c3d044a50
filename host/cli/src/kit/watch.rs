//! Notices that the files of a folder were saved.
//!
//! It looks again and again, which works on every file system and costs little for folders as small as a tool's; an editor that writes
//! several files, or one in several steps, is waited for until it is done. What counts is what the files say: one that a build or an
//! editor writes again as it was is as it was.

use anyhow::Context as _;
use fumehood_core::digest::{Digest, Digesting};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How often it looks. Also how long nothing may change for the saving to be over.
const INTERVAL: Duration = Duration::from_millis(250);
/// More files than a tool has.
const MOST_FILES: usize = 10_000;
/// What builds make, and what they and editors keep.
const MADE: [&str; 7] = [
    "Cargo.lock",
    "__pycache__",
    "build",
    "dist",
    "node_modules",
    "package-lock.json",
    "target",
];

/// What builds do not read: tests, and what is for people.
const UNBUILT: [&str; 3] = ["test", "tests", "tool.toml"];

/// A file that a build reads and that was saved after that time, if there is one.
pub(crate) fn saved_since(dir: &Path, built: SystemTime) -> anyhow::Result<Option<PathBuf>> {
    let Seen(files) = Seen::now(dir, None)?;
    let is_built = |file: &Path| {
        let below = file.strip_prefix(dir).unwrap_or(file);
        let first = below.components().next().and_then(|part| part.as_os_str().to_str());
        !first.is_some_and(|first| UNBUILT.contains(&first)) && below.extension().is_none_or(|kind| kind != "md")
    };
    let newer = |(file, content): &(PathBuf, Content)| content.written.0 > built && is_built(file);
    Ok(files.into_iter().find(newer).map(|(file, _)| file))
}

/// As much as is read of a file at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// What the files of a folder say.
struct Seen(BTreeMap<PathBuf, Content>);

/// What a file says, and how it was told that it need not be read again.
struct Content {
    written: (SystemTime, u64),
    digest: Digest,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let same = |((path, one), (other_path, other)): ((&PathBuf, &Content), (&PathBuf, &Content))| {
            path == other_path && one.digest == other.digest
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

/// A folder that is watched.
pub(crate) struct Watch {
    dir: PathBuf,
    seen: Seen,
}

impl Watch {
    /// From now on.
    pub(crate) fn begin(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            seen: Seen::now(dir, None)?,
        })
    }

    /// Waits until something was saved since it began, or since this was last waited for. Cancel-safe.
    pub(crate) async fn saved(&mut self) -> anyhow::Result<()> {
        let mut before = Seen::now(&self.dir, Some(&self.seen))?;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = Seen::now(&self.dir, Some(&before))?;
            if now == before && now != self.seen {
                self.seen = now;
                return Ok(());
            }
            before = now;
        }
    }
}

impl Seen {
    /// Looks. What is as it was `before` is not read again.
    fn now(dir: &Path, before: Option<&Self>) -> anyhow::Result<Self> {
        let mut seen = Self(BTreeMap::new());
        seen.look(dir, before)
            .with_context(|| format!("cannot watch {}", dir.display()))?;
        Ok(seen)
    }

    fn look(&mut self, dir: &Path, before: Option<&Self>) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let made = MADE.contains(&&*name) || name.ends_with(".wasm") || name.ends_with(".partial");
            if made || name.starts_with('.') || name.ends_with('~') {
                continue;
            }
            match self.look_at(&entry, before) {
                // Gone since it was listed: an editor at work.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                looked => looked?,
            }
            if self.0.len() > MOST_FILES {
                let why = format!("it has more than {MOST_FILES} files; watch the folder of one tool");
                return Err(io::Error::other(why));
            }
        }
        Ok(())
    }

    fn look_at(&mut self, entry: &fs::DirEntry, before: Option<&Self>) -> io::Result<()> {
        let (path, metadata) = (entry.path(), entry.metadata()?);
        if metadata.is_dir() {
            return self.look(&path, before);
        }
        let written = (metadata.modified()?, metadata.len());
        let known = before.and_then(|before| before.0.get(&path));
        let digest = match known.filter(|known| known.written == written) {
            Some(known) => known.digest,
            // What is neither a file nor a folder has nothing to read, or no end.
            None if !metadata.is_file() => Digest::of(&[]),
            None => match digest(&path) {
                // It can't be a source then; that it was written again is all there is to tell of it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    Digest::of(format!("{written:?}").as_bytes())
                }
                read => read?,
            },
        };
        self.0.insert(path, Content { written, digest });
        Ok(())
    }
}

fn digest(path: &Path) -> io::Result<Digest> {
    let (mut file, mut piece, mut digesting) = (fs::File::open(path)?, vec![0; PIECE], Digesting::default());
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(digesting.finish()),
            read => digesting.update(piece.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_saved_is_noticed_and_what_a_build_makes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::create_dir(dir.path().join("target")).unwrap();
        let mut watch = Watch::begin(dir.path()).unwrap();
        for made in ["target/it", "it.wasm", "Cargo.lock", ".hidden"] {
            fs::write(dir.path().join(made), "made").unwrap();
        }
        assert!(Seen::now(dir.path(), None).unwrap() == watch.seen, "only made");
        // Before anybody waits.
        fs::write(dir.path().join("src/lib.rs"), "fn f() {}").unwrap();
        watch.saved().await.unwrap();
        fs::remove_file(dir.path().join("src/lib.rs")).unwrap();
        watch.saved().await.unwrap();
    }

    #[test]
    fn a_file_that_is_written_again_as_it_was_is_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("tool.o");
        fs::write(&made, "made").unwrap();
        let watch = Watch::begin(dir.path()).unwrap();
        fs::write(&made, "made").unwrap();
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::options()
            .write(true)
            .open(&made)
            .unwrap()
            .set_modified(later)
            .unwrap();
        assert!(Seen::now(dir.path(), Some(&watch.seen)).unwrap() == watch.seen);
        fs::write(&made, "edit").unwrap();
        assert!(Seen::now(dir.path(), Some(&watch.seen)).unwrap() != watch.seen);
    }

    #[test]
    fn a_folder_with_too_much_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for count in 0..=MOST_FILES {
            fs::write(dir.path().join(count.to_string()), "").unwrap();
        }
        let refused = Watch::begin(dir.path()).err().map(|error| format!("{error:#}"));
        assert!(
            refused.as_ref().is_some_and(|told| told.contains("one tool")),
            "{refused:?}"
        );
    }
}
