//! A tool's folder: its language, its manifest, and where its component goes.

use super::{Language, identity::Written};
use crate::fault::OrFault as _;
use anyhow::{Context as _, anyhow};
use fumehood_policy::manifest::Manifest;
use std::{
    io,
    path::{Path, PathBuf},
};

/// A folder with a component's code and its manifest.
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    pub(crate) language: Language,
    pub(crate) manifest: Manifest,
    /// The manifest as the component is to carry it.
    pub(super) text: String,
}

impl Project {
    /// Reads what is in a folder. What is wrong with that is for its author to mend before anything is built.
    pub(crate) fn find(dir: &Path) -> anyhow::Result<Self> {
        Self::read(dir).or_fault()
    }

    fn read(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("{} is no folder of a tool", dir.display()))?;
        let language = Language::of(&dir).with_context(|| {
            format!(
                "{} is no folder of a tool: it has no Cargo.toml, go.mod, package.json, pyproject.toml, and no source in Python or C; \
                 `fumehood tool new NAME` makes one",
                dir.display()
            )
        })?;
        let (manifest, text) = manifest(&dir)?;
        Ok(Self {
            dir,
            language,
            manifest,
            text,
        })
    }

    /// Where its component goes when it is built: beside the manifest, under its name.
    pub(crate) fn component(&self) -> PathBuf {
        self.dir.join(component_file(&self.manifest.name))
    }
}

/// The component of a folder that has its manifest and need not have its code. It need not be there.
pub(crate) fn named_component(dir: &Path) -> anyhow::Result<PathBuf> {
    let (manifest, _) = manifest(dir).or_fault()?;
    Ok(dir.join(component_file(&manifest.name)))
}

/// The manifest of a folder, and as its component is to carry it.
fn manifest(dir: &Path) -> anyhow::Result<(Manifest, String)> {
    let file = dir.join("tool.toml");
    let text = std::fs::read_to_string(&file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => anyhow!(
            "{} is not there: it says what the component is and asks for; write at least\n  name = \"…\"\n  version = \"0.1.0\"\n  \
             description = \"…\"\nor, beside a Cargo.toml that says these, leave it empty",
            file.display()
        ),
        _ => anyhow!(error).context(format!("cannot read {}", file.display())),
    })?;
    let written = Written::new(text, &file)?;
    let manifest = written
        .manifest()
        .with_context(|| format!("{} is not a manifest", file.display()))?;
    Ok((manifest, written.whole()))
}

/// What the file of a component is called.
pub(super) fn component_file(name: &str) -> String {
    format!("{name}.wasm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let told = || Project::find(dir.path()).err().map(|error| format!("{error:#}"));
        assert!(told().unwrap().contains("tool new"), "{:?}", told());
        std::fs::write(dir.path().join("Cargo.toml"), "").unwrap();
        assert!(told().unwrap().contains("version = \"0.1.0\""), "{:?}", told());
        std::fs::write(dir.path().join("tool.toml"), "name = \"a\"\nversoin = \"1\"\n").unwrap();
        assert!(told().unwrap().contains("version"), "{:?}", told());
        std::fs::write(dir.path().join("tool.toml"), "name = \"a\"\nversion = \"1\"\n").unwrap();
        let project = Project::find(dir.path()).unwrap();
        assert_eq!(project.component(), dir.path().canonicalize().unwrap().join("a.wasm"));
    }
}
