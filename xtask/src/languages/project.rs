//! A template as a new project below `target/languages`: named, with the contract beside it, and asking an API on loopback.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Language, keep};
use crate::workspace::Workspace;

/// The name of the templates, which is nothing else in them.
const NAME: &str = "weather";
/// What the templates ask.
const API: &str = "https://api.forecast.example";
const API_HOST: &str = "api.forecast.example";
/// Kept from cargo while it is a template.
const SUFFIX: &str = ".template";
/// Where the SDK is for a project outside of the work tree.
const PUBLISHED_SDK: &str = "git = \"https://github.com/fumehood/fumehood\"";
/// Made by installing and building.
const NOT_SOURCES: [&str; 5] = ["node_modules", "__pycache__", "target", "test_tool", "built"];

/// One new project.
pub(super) struct Project {
    language: Language,
    root: PathBuf,
    folder: PathBuf,
    port: u16,
}

/// Where the projects are.
pub(super) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root().join("target/languages")
}

impl Project {
    pub(super) fn new(workspace: &Workspace, language: Language, port: u16) -> Self {
        Self {
            language,
            root: workspace.root().to_owned(),
            folder: folder(workspace).join(language.name()),
            port,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn name(&self) -> String {
        format!("{NAME}-{}", self.language.name())
    }

    /// The component that the build leaves.
    fn component(&self) -> PathBuf {
        let name = self.name();
        match self.language {
            Language::Rust => {
                let file = format!("target/wasm32-wasip2/release/{}.wasm", name.replace('-', "_"));
                self.folder.join(file)
            }
            _ => self.folder.join(format!("{name}.wasm")),
        }
    }

    /// Copies the template. What has not changed keeps its time, so that nothing is built anew.
    pub(super) fn write(&self) -> Result<()> {
        let template = self.root.join("sdk/templates").join(self.language.name());
        self.copy(&template, &self.folder)?;
        if self.language == Language::Rust {
            // The versions that the workspace is tested with.
            return self.copy_file(&self.root.join("Cargo.lock"), &self.folder.join("Cargo.lock"));
        }
        let wit = self.folder.join("wit");
        self.copy(&self.root.join("sdk/templates/wit"), &wit)?;
        self.copy(&self.root.join("wit/deps"), &wit.join("deps"))?;
        for entry in fs::read_dir(self.root.join("wit"))? {
            let path = entry?.path();
            if path.is_file() {
                self.copy_file(&path, &wit.join("deps/fumehood-tool").join(file_name(&path)))?;
            }
        }
        Ok(())
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
            let path = entry?.path();
            let name = file_name(&path);
            let target = to.join(name.strip_suffix(SUFFIX).unwrap_or(&name));
            if path.is_dir() {
                self.copy(&path, &target)?;
            } else {
                self.copy_file(&path, &target)?;
            }
        }
        Ok(())
    }

    fn copy_file(&self, from: &Path, to: &Path) -> Result<()> {
        let text = fs::read_to_string(from).with_context(|| format!("cannot read {}", from.display()))?;
        let text = self.filled(&text);
        if fs::read_to_string(to).is_ok_and(|present| present == text) {
            return Ok(());
        }
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
    }

    /// The text of a template's file as that of this project.
    fn filled(&self, text: &str) -> String {
        let sdk = format!("path = {:?}", self.root.join("sdk/rust"));
        text.replace(NAME, &self.name())
            .replace(API, &format!("http://127.0.0.1:{}", self.port))
            .replace(API_HOST, "127.0.0.1")
            .replace(PUBLISHED_SDK, &sdk)
    }

    /// Whether what is there is what was built. Not for Rust: cargo knows better, as the SDK is a source, too.
    pub(super) fn is_built(&self) -> Result<bool> {
        if self.language == Language::Rust {
            return Ok(false);
        }
        let built = fs::read_to_string(self.folder.join("built"));
        Ok(self.component().is_file() && built.is_ok_and(|built| self.fingerprint().is_ok_and(|now| now == built)))
    }

    /// Notes that it was built as it is, and puts the component beside its manifest.
    pub(super) fn note_built(&self) -> Result<()> {
        let component = self.component();
        let beside = self.folder.join(format!("{}.wasm", self.name()));
        if component != beside {
            keep(&component, &beside)?;
        }
        fs::write(self.folder.join("built"), self.fingerprint()?)?;
        Ok(())
    }

    fn fingerprint(&self) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        hash(&self.folder, &mut hasher)?;
        Ok(format!("{:016x}", hasher.finish()))
    }
}

fn hash(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    paths.retain(|path| {
        let name = file_name(path);
        !NOT_SOURCES.contains(&name.as_str()) && !name.ends_with(".wasm") && !name.ends_with(".o")
    });
    paths.sort();
    for path in paths {
        file_name(&path).hash(hasher);
        if path.is_dir() {
            hash(&path, hasher)?;
        } else {
            fs::read(&path)?.hash(hasher);
        }
    }
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_has_its_own_name_and_asks_on_loopback() {
        let project = Project::new(&Workspace::locate().unwrap(), Language::JavaScript, 7171);
        let text = project.filled("name = \"weather\"\nallow = [\"GET https://api.forecast.example/v1/\"]\nhosts = [\"api.forecast.example\"]");
        let expected = "name = \"weather-js\"\nallow = [\"GET http://127.0.0.1:7171/v1/\"]\nhosts = [\"127.0.0.1\"]";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_manifest_of_rust_takes_the_sdk_of_the_work_tree() {
        let workspace = Workspace::locate().unwrap();
        let template = workspace.root().join("sdk/templates/rust/Cargo.toml.template");
        let text = Project::new(&workspace, Language::Rust, 1).filled(&fs::read_to_string(template).unwrap());
        assert!(text.contains("fumehood = { path = \""), "{text}");
    }
}
