//! Results that are kept beside the tests, `tests/snapshots/FILE--TEST.json`, and compared with those of later runs.

use anyhow::Context as _;
use serde_json::Value;
use std::{
    io,
    path::{Path, PathBuf},
};

/// What is done about a result that differs from the one that was kept, or that none was kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snapshots {
    /// The test fails.
    Compare,
    /// It is kept from now on.
    Update,
}

/// How a result stands to the one that was kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// It is the same, or is kept now.
    Same,
    /// None was kept.
    Missing(PathBuf),
    /// It differs: the first line that does, as it was and as it is.
    Differs { line: usize, kept: String, now: String },
}

impl Snapshots {
    /// Compares, or keeps, the result of the test `name` of the file `stem` in `dir`.
    pub(crate) fn compare(self, dir: &Path, stem: &str, name: &str, result: &Value) -> anyhow::Result<Comparison> {
        let path = dir.join("snapshots").join(format!("{stem}--{}.json", slug(name)));
        let now = format!("{}\n", serde_json::to_string_pretty(result)?);
        let kept = match std::fs::read_to_string(&path) {
            Ok(kept) => Some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if kept.as_deref() == Some(&*now) {
            return Ok(Comparison::Same);
        }
        match (self, kept) {
            (Self::Update, _) => {
                std::fs::create_dir_all(dir.join("snapshots"))
                    .and_then(|()| std::fs::write(&path, now))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                Ok(Comparison::Same)
            }
            (Self::Compare, None) => Ok(Comparison::Missing(path)),
            (Self::Compare, Some(kept)) => Ok(first_difference(&kept, &now)),
        }
    }
}

fn first_difference(kept: &str, now: &str) -> Comparison {
    let (mut kept, mut now) = (kept.lines(), now.lines());
    let mut line = 1;
    loop {
        match (kept.next(), now.next()) {
            (None, None) => return Comparison::Same,
            (kept, now) if kept == now => line += 1,
            (kept, now) => {
                return Comparison::Differs {
                    line,
                    kept: kept.unwrap_or("(the end)").to_owned(),
                    now: now.unwrap_or("(the end)").to_owned(),
                };
            }
        }
    }
}

/// A name as a part of a file name.
pub(super) fn slug(name: &str) -> String {
    let mut slug = String::new();
    for character in name.chars() {
        if character.is_alphanumeric() {
            slug.extend(character.to_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_result_that_was_never_kept_is_missing_until_it_is_updated_and_the_same_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let compare = |how: Snapshots, value: &Value| how.compare(dir.path(), "f", "A test, of Ü!", value).unwrap();
        let first = json!({"a": 1, "b": 2});
        let Comparison::Missing(path) = compare(Snapshots::Compare, &first) else {
            panic!("nothing was kept yet")
        };
        assert_eq!(path.file_name().unwrap(), "f--a-test-of-ü.json");
        assert_eq!(compare(Snapshots::Update, &first), Comparison::Same);
        assert_eq!(compare(Snapshots::Compare, &first), Comparison::Same);
        let differs = compare(Snapshots::Compare, &json!({"a": 1, "b": 3}));
        let Comparison::Differs { line, kept, now } = differs else {
            panic!("{differs:?}")
        };
        assert_eq!((line, kept.trim(), now.trim()), (3, "\"b\": 2", "\"b\": 3"));
    }
}
