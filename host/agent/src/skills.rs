//! Skills: directories with a `SKILL.md` that tell a model how something is done. Their names and descriptions stand in the
//! instructions; what they say is read when the model asks for it.

use fumehood_core::name::SkillName;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

/// The most of `SKILL.md`, and of each other file, in bytes.
const FILE: u64 = 32 << 10;
/// The most files of a skill, beside `SKILL.md`.
const FILES: usize = 64;
/// The most characters of a description.
const DESCRIPTION: usize = 1024;
/// The file that makes a directory a skill.
const SKILL_FILE: &str = "SKILL.md";

/// One skill, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skill {
    /// Its name, which its directory has as well.
    pub name: SkillName,
    /// What it is for: what a model decides by.
    pub description: String,
    /// What it says.
    pub body: String,
    /// The other texts of its directory, by name.
    pub files: BTreeMap<String, String>,
}

/// Why a directory is no skill.
#[derive(Debug, thiserror::Error)]
pub enum SkillError {
    /// Something in it can't be read.
    #[error("`{file}` can't be read: {source}")]
    Read {
        /// Its name in the directory.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Something in it is too long to be handed to a model.
    #[error("`{0}` is longer than 32 KiB; split it into several files of the skill")]
    Long(String),
    /// Something in it is not text.
    #[error("`{0}` is not UTF-8 text")]
    NotText(String),
    /// There are too many files.
    #[error("it has more than 64 files beside SKILL.md")]
    Files,
    /// `SKILL.md` does not begin with its front matter.
    #[error("SKILL.md has to begin with a line `---`, then `name` and `description`, then a line `---`")]
    NoFrontMatter,
    /// The front matter is not what it has to be.
    #[error("the front matter of SKILL.md is not right: {0}")]
    FrontMatter(String),
    /// It has another name than its directory, or than the configuration gives it.
    #[error("SKILL.md says that its name is `{said}`; it has to be `{expected}`, as the configuration names it")]
    Name {
        /// What it says.
        said: SkillName,
        /// What it should say.
        expected: SkillName,
    },
}

/// Other keys are for other hosts.
#[derive(Deserialize)]
struct FrontMatter {
    name: SkillName,
    description: String,
}

impl Skill {
    /// Reads a directory. Symbolic links and directories in it are passed over.
    ///
    /// # Errors
    /// [`SkillError`], with the file it is about.
    pub fn read(directory: &Path, expected: &SkillName) -> Result<Self, SkillError> {
        let text = read(&directory.join(SKILL_FILE), SKILL_FILE)?;
        let (front, body) = split(&text).ok_or(SkillError::NoFrontMatter)?;
        let front: FrontMatter =
            serde_yaml_ng::from_str(front).map_err(|error| SkillError::FrontMatter(error.to_string()))?;
        if front.name != *expected {
            return Err(SkillError::Name {
                said: front.name,
                expected: expected.clone(),
            });
        }
        let description = front.description.trim().replace(['\n', '\r'], " ");
        if description.is_empty() || description.chars().count() > DESCRIPTION {
            let fault = format!("`description` has to have 1 to {DESCRIPTION} characters");
            return Err(SkillError::FrontMatter(fault));
        }
        Ok(Self {
            name: front.name,
            description,
            body: body.trim().to_owned(),
            files: files(directory)?,
        })
    }
}

/// The front matter and what follows it.
fn split(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("---")?.trim_start_matches([' ', '\r']);
    let rest = rest.strip_prefix('\n')?;
    let end = rest.match_indices("---").map(|(at, _)| at).find(|at| {
        let before = rest[..*at].ends_with('\n') || *at == 0;
        let after = rest[at + 3..].trim_start_matches([' ', '\r']);
        before && (after.is_empty() || after.starts_with('\n'))
    })?;
    Some((&rest[..end], &rest[end + 3..]))
}

fn files(directory: &Path) -> Result<BTreeMap<String, String>, SkillError> {
    let unreadable = |source| SkillError::Read {
        file: ".".into(),
        source,
    };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let is_file = entry.file_type().map_err(unreadable)?.is_file();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_file || name == SKILL_FILE || name.starts_with('.') {
            continue;
        }
        if files.len() == FILES {
            return Err(SkillError::Files);
        }
        let text = read(&entry.path(), &name)?;
        files.insert(name, text);
    }
    Ok(files)
}

fn read(path: &Path, name: &str) -> Result<String, SkillError> {
    let unreadable = |source| SkillError::Read {
        file: name.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE {
        return Err(SkillError::Long(name.to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| SkillError::NotText(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skill(files: &[(&str, &str)]) -> Result<Skill, SkillError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Skill::read(dir.path(), &SkillName::new("review").unwrap())
    }

    const GOOD: &str =
        "---\nname: review\ndescription: Reviews a\n  change.\nlicence: MIT\n---\n# Review\n\n---\nLook twice.\n";

    #[test]
    fn a_directory_with_its_file_is_a_skill() {
        let skill = skill(&[("SKILL.md", GOOD), ("checklist.md", "1. Look"), (".hidden", "x")]).unwrap();
        assert_eq!(skill.description, "Reviews a change.");
        assert_eq!(skill.body, "# Review\n\n---\nLook twice.");
        assert_eq!(skill.files.keys().collect::<Vec<_>>(), ["checklist.md"]);
    }

    #[test]
    fn lines_may_end_as_windows_ends_them() {
        let text = GOOD.replace('\n', "\r\n");
        assert!(skill(&[("SKILL.md", &text)]).unwrap().body.starts_with("# Review"));
    }

    #[test]
    fn what_is_no_skill_is_refused_in_words() {
        let long = format!("{GOOD}{}", "x".repeat(33 << 10));
        let wordy = format!("---\nname: review\ndescription: {}\n---\n", "x".repeat(1025));
        for (files, word) in [
            (vec![], "SKILL.md"),
            (vec![("SKILL.md", "# Review")], "has to begin"),
            (vec![("SKILL.md", "---\nname: review\n")], "has to begin"),
            (vec![("SKILL.md", "---\nname: review\n---\n")], "description"),
            (
                vec![("SKILL.md", "---\nname: Review\ndescription: x\n---\n")],
                "lower-case",
            ),
            (
                vec![("SKILL.md", "---\nname: other\ndescription: x\n---\n")],
                "has to be `review`",
            ),
            (
                vec![("SKILL.md", "---\nname: review\ndescription: ''\n---\n")],
                "1 to 1024",
            ),
            (vec![("SKILL.md", &wordy)], "1 to 1024"),
            (vec![("SKILL.md", &long)], "32 KiB"),
            (vec![("SKILL.md", GOOD), ("more.md", &long)], "more.md"),
        ] {
            let refused = skill(&files).unwrap_err().to_string();
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
}
