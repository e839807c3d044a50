//! A template as a new project below `target/languages`: named, with the contract beside it, and asking an API on loopback.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
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
/// What a template's own build or an editor leaves behind is no part of it.
const LEFT_BEHIND: [&str; 6] = [
    ".gitignore",
    ".venv",
    "Cargo.lock",
    "__pycache__",
    "node_modules",
    "target",
];
/// What of a project was copied, a path a line: the sources, and what goes when a template has it no more.
const COPIED: &str = "copied";
/// Says as what it was built.
const BUILT: &str = "built";

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

    /// Copies the template, and removes what an earlier one had. What has not changed keeps its time, so that nothing is built anew.
    pub(super) fn write(&self) -> Result<()> {
        let mut copied = BTreeSet::new();
        let template = self.root.join("sdk/templates").join(self.language.name());
        self.copy(&template, Path::new(""), &mut copied)?;
        if self.language == Language::Rust {
            // The versions that the workspace is tested with. Not among what is copied: cargo changes it.
            self.copy_file(&self.root.join("Cargo.lock"), &self.folder.join("Cargo.lock"))?;
        } else {
            self.copy(&self.root.join("sdk/templates/wit"), Path::new("wit"), &mut copied)?;
            self.copy(&self.root.join("wit/deps"), Path::new("wit/deps"), &mut copied)?;
            for entry in fs::read_dir(self.root.join("wit"))? {
                let path = entry?.path();
                if path.is_file() {
                    let inside = Path::new("wit/deps/fumehood-tool").join(file_name(&path));
                    self.copy_file(&path, &self.folder.join(&inside))?;
                    copied.insert(inside);
                }
            }
        }
        self.note_copied(&copied)
    }

    /// Copies what are sources of a folder of the work tree to a place in the project.
    fn copy(&self, from: &Path, inside: &Path, copied: &mut BTreeSet<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
            let path = entry?.path();
            let name = file_name(&path);
            if LEFT_BEHIND.contains(&&*name)
                || name.ends_with('~')
                || name.ends_with(".wasm")
                || name.ends_with(".partial")
            {
                continue;
            }
            let inside = inside.join(name.strip_suffix(SUFFIX).unwrap_or(&name));
            if path.is_dir() {
                self.copy(&path, &inside, copied)?;
            } else {
                self.copy_file(&path, &self.folder.join(&inside))?;
                copied.insert(inside);
            }
        }
        Ok(())
    }

    /// Notes what was copied, and removes what was before and is not now.
    fn note_copied(&self, copied: &BTreeSet<PathBuf>) -> Result<()> {
        for stale in self.copied()?.difference(copied) {
            match fs::remove_file(self.folder.join(stale)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", stale.display()));
                }
                _ => {}
            }
        }
        let lines: String = copied.iter().map(|path| format!("{}\n", path.display())).collect();
        fs::write(self.folder.join(COPIED), lines)?;
        Ok(())
    }

    /// What was copied when it was last written.
    fn copied(&self) -> Result<BTreeSet<PathBuf>> {
        match fs::read_to_string(self.folder.join(COPIED)) {
            Ok(lines) => Ok(lines.lines().map(PathBuf::from).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read what {} has", self.folder.display())),
        }
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
        let built = fs::read_to_string(self.folder.join(BUILT));
        Ok(self.component().is_file() && built.is_ok_and(|built| self.fingerprint().is_ok_and(|now| now == built)))
    }

    /// Notes that it was built as it is, and puts the component beside its manifest.
    pub(super) fn note_built(&self) -> Result<()> {
        let component = self.component();
        let beside = self.folder.join(format!("{}.wasm", self.name()));
        if component != beside {
            keep(&component, &beside)?;
        }
        fs::write(self.folder.join(BUILT), self.fingerprint()?)?;
        Ok(())
    }

    fn fingerprint(&self) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        for path in self.copied()? {
            path.hash(&mut hasher);
            fs::read(self.folder.join(&path))?.hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }
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
    fn what_a_template_has_no_more_goes_and_what_a_build_left_in_it_is_not_copied() {
        let root = std::env::temp_dir().join(format!("xtask-project-{}", std::process::id()));
        let template = root.join("sdk/templates/c");
        let project = Project {
            language: Language::C,
            root: root.clone(),
            folder: root.join("target/languages/c"),
            port: 1,
        };
        for folder in ["sdk/templates/c/target", "sdk/templates/wit", "wit/deps"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (file, text) in [
            ("tool.c", "weather"),
            ("old.h", ""),
            ("target/tool.o", ""),
            ("weather.wasm", ""),
        ] {
            fs::write(template.join(file), text).unwrap();
        }
        project.write().unwrap();
        let there = |name: &str| project.folder.join(name).exists();
        assert!(
            there("tool.c") && there("old.h") && !there("target") && !there("weather-c.wasm") && !there("weather.wasm")
        );

        fs::write(project.folder.join("weather-c.wasm"), "built").unwrap();
        project.note_built().unwrap();
        assert!(project.is_built().unwrap());
        fs::remove_file(template.join("old.h")).unwrap();
        project.write().unwrap();
        assert!(there("tool.c") && !there("old.h") && there("weather-c.wasm"));
        assert!(!project.is_built().unwrap(), "it has other sources now");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn the_manifest_of_rust_takes_the_sdk_of_the_work_tree() {
        let workspace = Workspace::locate().unwrap();
        let template = workspace.root().join("sdk/templates/rust/Cargo.toml.template");
        let text = Project::new(&workspace, Language::Rust, 1).filled(&fs::read_to_string(template).unwrap());
        assert!(text.contains("fumehood = { path = \""), "{text}");
    }
}
