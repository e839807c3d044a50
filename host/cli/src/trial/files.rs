//! Finding and reading the test files of a tool's folder.

use super::case::TestFile;
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// A test file and where it is.
#[derive(Debug)]
pub(crate) struct Located {
    /// Its path, as it is shown.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) file: TestFile,
}

impl Located {
    /// Its name without directories and ending: what its snapshots begin with.
    pub(crate) fn stem(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("."))
    }
}

/// The test files of a tool's folder, `tests/*.toml`, by name.
///
/// # Errors
/// When there is none, or one can't be used; which and why.
pub(crate) fn find(folder: &Path) -> anyhow::Result<Vec<Located>> {
    let dir = folder.join("tests");
    let entries = std::fs::read_dir(&dir).with_context(|| match folder.join("tool.toml").exists() {
        true => format!("cannot read {}, where a tool's tests are", dir.display()),
        false => format!(
            "{} is no folder of a tool: it has neither tool.toml nor tests; `fumehood tool new NAME` makes one",
            folder.display()
        ),
    })?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", dir.display()))?.path();
        if is_test_file(&path) {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        bail!(
            "there is no test in {}: a test file is a .toml with one [[test]] or more",
            dir.display()
        );
    }
    paths.sort();
    paths.into_iter().map(read).collect()
}

/// Whether a tool's folder has a test file.
pub(crate) fn has_tests(folder: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(folder.join("tests")) else {
        return false;
    };
    entries.flatten().any(|entry| is_test_file(&entry.path()))
}

fn is_test_file(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

fn read(path: PathBuf) -> anyhow::Result<Located> {
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let file = TestFile::parse(&text, dir).with_context(|| format!("{} can't be used", path.display()))?;
    Ok(Located { path, file })
}
