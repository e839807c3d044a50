//! The languages that a tool's folder can be written in, and how to tell.

use clap::ValueEnum;
use std::{fmt, path::Path};

/// A language with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// Rust.
    Rust,
    /// JavaScript or TypeScript.
    Js,
    /// Python.
    Python,
    /// C.
    C,
    /// Go.
    Go,
}

impl Language {
    /// The word, as on the command line and as its template's folder is called.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Python => "python",
            Self::C => "c",
            Self::Go => "go",
        }
    }

    /// The language of a folder, by the files that its tools need. What another language may have beside its own comes last.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        let has = |name: &str| dir.join(name).is_file();
        if has("Cargo.toml") {
            return Some(Self::Rust);
        }
        if has("go.mod") {
            return Some(Self::Go);
        }
        if has("package.json") {
            return Some(Self::Js);
        }
        if has("pyproject.toml") || has_source(dir, "py") {
            return Some(Self::Python);
        }
        has_source(dir, "c").then_some(Self::C)
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a source file of that kind lies in the folder or in its `src`.
fn has_source(dir: &Path, extension: &str) -> bool {
    [dir.to_owned(), dir.join("src")].iter().any(|dir| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .any(|path| path.extension().is_some_and(|found| found == extension))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_told_by_its_own_files_before_those_that_others_have_too() {
        let dir = tempfile::tempdir().unwrap();
        let holds = |name: &str| {
            std::fs::create_dir_all(dir.path().join("src")).unwrap();
            std::fs::write(dir.path().join(name), "").unwrap();
            Language::of(dir.path())
        };
        assert_eq!(Language::of(dir.path()), None);
        assert_eq!(holds("README.md"), None);
        assert_eq!(holds("src/tool.c"), Some(Language::C));
        assert_eq!(holds("app.py"), Some(Language::Python));
        assert_eq!(holds("package.json"), Some(Language::Js));
        assert_eq!(holds("go.mod"), Some(Language::Go));
        assert_eq!(holds("Cargo.toml"), Some(Language::Rust));
    }

    #[test]
    fn the_word_of_a_language_is_the_one_of_the_command_line() {
        for language in Language::value_variants() {
            let value = language.to_possible_value().unwrap();
            assert_eq!(value.get_name(), language.as_str());
        }
    }
}
