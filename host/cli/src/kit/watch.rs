//! Notices that the files of a folder were saved.
//!
//! It looks again and again, which works on every file system and costs little for folders as small as a tool's; an editor that writes
//! several files, or one in several steps, is waited for until it is done.

use anyhow::Context as _;
use std::{
    collections::BTreeMap,
    fs, io,
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
    let Seen(files) = Seen::now(dir)?;
    let is_built = |file: &Path| {
        let below = file.strip_prefix(dir).unwrap_or(file);
        let first = below.components().next().and_then(|part| part.as_os_str().to_str());
        !first.is_some_and(|first| UNBUILT.contains(&first)) && below.extension().is_none_or(|kind| kind != "md")
    };
    let newer = |(file, (saved, _)): &(PathBuf, (SystemTime, u64))| *saved > built && is_built(file);
    Ok(files.into_iter().find(newer).map(|(file, _)| file))
}

/// What the files of a folder were.
#[derive(PartialEq, Eq)]
struct Seen(BTreeMap<PathBuf, (SystemTime, u64)>);

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
            seen: Seen::now(dir)?,
        })
    }

    /// Waits until something was saved since it began, or since this was last waited for. Cancel-safe.
    pub(crate) async fn saved(&mut self) -> anyhow::Result<()> {
        let mut before = Seen::now(&self.dir)?;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = Seen::now(&self.dir)?;
            if now == before && now != self.seen {
                self.seen = now;
                return Ok(());
            }
            before = now;
        }
    }
}

impl Seen {
    fn now(dir: &Path) -> anyhow::Result<Self> {
        let mut seen = Self(BTreeMap::new());
        seen.look(dir)
            .with_context(|| format!("cannot watch {}", dir.display()))?;
        Ok(seen)
    }

    fn look(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let made = MADE.contains(&&*name) || name.ends_with(".wasm") || name.ends_with(".partial");
            if made || name.starts_with('.') || name.ends_with('~') {
                continue;
            }
            match self.look_at(&entry) {
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

    fn look_at(&mut self, entry: &fs::DirEntry) -> io::Result<()> {
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            return self.look(&entry.path());
        }
        self.0.insert(entry.path(), (metadata.modified()?, metadata.len()));
        Ok(())
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
        assert!(Seen::now(dir.path()).unwrap() == watch.seen, "only made");
        // Before anybody waits.
        fs::write(dir.path().join("src/lib.rs"), "fn f() {}").unwrap();
        watch.saved().await.unwrap();
        fs::remove_file(dir.path().join("src/lib.rs")).unwrap();
        watch.saved().await.unwrap();
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
