//! Finding lines by a regular expression.

use crate::{
    read::looks_binary,
    walk::{self, Kind, Next},
    workspace::{Place, Workspace},
};
use fumehood::Failure;
use globset::GlobMatcher;
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{collections::VecDeque, fs, io::Read as _};

/// The most matches that one call returns.
const MOST_MATCHES: u64 = 200;
/// The most bytes of one result.
const MOST_BYTES: usize = 48 * 1024;
/// The most characters of one line that are shown.
const MOST_OF_LINE: usize = 400;
/// The largest file that is searched.
const MOST_OF_FILE: u64 = 32 << 20;

/// What to look for, and where.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    /// A regular expression, matched with each line.
    pub(crate) pattern: String,
    /// A file or a directory; the whole workspace if not given.
    pub(crate) path: Option<String>,
    /// Only files whose path below `path` matches, such as `**/*.rs`.
    pub(crate) glob: Option<String>,
    /// Take upper and lower case as the same.
    #[serde(default)]
    pub(crate) ignore_case: bool,
    /// How many lines to show before and after each match; none if not given.
    #[serde(default)]
    #[schemars(range(max = 20))]
    pub(crate) context: usize,
    /// How many matches to skip, to go on with a long result.
    #[serde(default)]
    pub(crate) skip: u64,
    /// How many matches to return; 200 if not given.
    #[schemars(range(min = 1, max = 200))]
    pub(crate) limit: Option<u64>,
}

/// Finds lines.
pub(crate) fn grep(workspace: &Workspace, query: &Query) -> Result<String, Failure> {
    let regex = RegexBuilder::new(&query.pattern)
        .case_insensitive(query.ignore_case)
        .size_limit(4 << 20)
        .build()
        .map_err(|error| Failure::invalid_arguments(format!("`pattern` is not a valid regular expression: {error}")))?;
    let glob = query.glob.as_deref().map(walk::pattern).transpose()?;
    let top = workspace.place(query.path.as_deref().unwrap_or("."))?;
    let mut found = Found::new(query);
    let complete = if top.metadata()?.is_dir() {
        search_directory(&top, &regex, glob.as_ref(), &mut found)?
    } else {
        search_file(&top, &regex, &mut found)? == Next::GoOn
    };
    Ok(found.finish(complete, query))
}

fn search_directory(
    top: &Place,
    regex: &Regex,
    glob: Option<&GlobMatcher>,
    found: &mut Found,
) -> Result<bool, Failure> {
    walk::walk(top, u32::MAX, &mut |entry| {
        let Kind::File { size } = entry.kind else {
            return Ok(Next::GoOn);
        };
        if glob.is_some_and(|glob| !glob.is_match(walk::relative(top, &entry.place))) {
            return Ok(Next::GoOn);
        }
        if size > MOST_OF_FILE {
            found.skipped_large += 1;
            return Ok(Next::GoOn);
        }
        match search_file(&entry.place, regex, found) {
            // What may not be read, or has gone meanwhile, is not there for the search.
            Err(Failure::Denied(_) | Failure::NotFound(_)) => Ok(Next::GoOn),
            other => other,
        }
    })
}

fn search_file(place: &Place, regex: &Regex, found: &mut Found) -> Result<Next, Failure> {
    let failed = |error: &std::io::Error| place.failure("cannot be read", error);
    let file = fs::File::open(&place.full).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    file.take(MOST_OF_FILE)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    if looks_binary(&bytes[..bytes.len().min(8192)]) {
        return Ok(Next::GoOn);
    }
    Ok(search_text(&place.name, &String::from_utf8_lossy(&bytes), regex, found))
}

fn search_text(name: &str, text: &str, regex: &Regex, found: &mut Found) -> Next {
    let mut before: VecDeque<(usize, &str)> = VecDeque::new();
    let mut after = 0;
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if regex.is_match(line) {
            match found.count() {
                Counted::Stop => return Next::Stop,
                Counted::Skipped => after = 0,
                Counted::Shown => {
                    for (number, line) in before.drain(..) {
                        found.line(name, '-', number, line);
                    }
                    found.line(name, ':', number, line);
                    after = found.context;
                    continue;
                }
            }
        } else if after > 0 {
            after -= 1;
            found.line(name, '-', number, line);
            continue;
        }
        if found.context > 0 {
            if before.len() == found.context {
                before.pop_front();
            }
            before.push_back((number, line));
        }
    }
    Next::GoOn
}

/// The result as it grows.
struct Found {
    text: String,
    context: usize,
    skip: u64,
    limit: u64,
    /// Matches so far, skipped ones included.
    matches: u64,
    last: Option<(String, usize)>,
    skipped_large: u64,
}

enum Counted {
    Skipped,
    Shown,
    Stop,
}

impl Found {
    fn new(query: &Query) -> Self {
        Self {
            text: String::new(),
            context: query.context.min(20),
            skip: query.skip,
            limit: query.limit.unwrap_or(MOST_MATCHES).clamp(1, MOST_MATCHES),
            matches: 0,
            last: None,
            skipped_large: 0,
        }
    }

    fn count(&mut self) -> Counted {
        if self.matches >= self.skip.saturating_add(self.limit) || self.text.len() > MOST_BYTES {
            return Counted::Stop;
        }
        self.matches += 1;
        if self.matches > self.skip {
            Counted::Shown
        } else {
            Counted::Skipped
        }
    }

    fn line(&mut self, name: &str, mark: char, number: usize, line: &str) {
        let follows = self
            .last
            .as_ref()
            .is_some_and(|(last, at)| last == name && at + 1 == number);
        if self.context > 0 && self.last.is_some() && !follows {
            self.text.push_str("--\n");
        }
        let shown = match line.char_indices().nth(MOST_OF_LINE) {
            Some((end, _)) => &line[..end],
            None => line,
        };
        let cut = if shown.len() < line.len() { "…" } else { "" };
        self.text
            .push_str(&format!("{name}{mark}{number}{mark} {shown}{cut}\n"));
        self.last = Some((name.to_owned(), number));
    }

    fn finish(mut self, complete: bool, query: &Query) -> String {
        if self.text.is_empty() {
            self.text = if query.skip > 0 {
                format!("[no further line matches `{}`]\n", query.pattern)
            } else {
                format!("[no line matches `{}`]\n", query.pattern)
            };
        }
        if !complete {
            self.text
                .push_str(&format!("[there are more; to go on, give `skip` {}]\n", self.matches));
        }
        if self.skipped_large > 0 {
            self.text.push_str(&format!(
                "[{} files of more than 32 MiB were not searched]\n",
                self.skipped_large
            ));
        }
        self.text.truncate(self.text.trim_end().len());
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> (tempfile::TempDir, Workspace) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("src")).unwrap();
        fs::write(directory.path().join("a.txt"), "one\nTwo\nthree\nfour\nfive\n").unwrap();
        fs::write(directory.path().join("src/b.rs"), "fn two() {}\n").unwrap();
        fs::write(directory.path().join("bin"), b"two\0").unwrap();
        let workspace = Workspace::at(directory.path());
        (directory, workspace)
    }

    fn query(json: &str) -> Query {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn lines_are_found_and_binary_files_skipped() {
        let (_guard, workspace) = workspace();
        assert_eq!(
            grep(&workspace, &query(r#"{"pattern":"two"}"#)).unwrap(),
            "src/b.rs:1: fn two() {}"
        );
        let both = grep(&workspace, &query(r#"{"pattern":"two","ignore_case":true}"#)).unwrap();
        assert_eq!(both, "a.txt:2: Two\nsrc/b.rs:1: fn two() {}");
        let only = grep(
            &workspace,
            &query(r#"{"pattern":"two","ignore_case":true,"glob":"**/*.txt"}"#),
        )
        .unwrap();
        assert_eq!(only, "a.txt:2: Two");
        let one = grep(&workspace, &query(r#"{"pattern":"^f","path":"/workspace/a.txt"}"#)).unwrap();
        assert_eq!(one, "a.txt:4: four\na.txt:5: five");
    }

    #[test]
    fn context_is_shown_once_and_gaps_are_marked() {
        let (_guard, workspace) = workspace();
        let text = grep(
            &workspace,
            &query(r#"{"pattern":"Two|four","path":"a.txt","context":1}"#),
        )
        .unwrap();
        assert_eq!(
            text,
            "a.txt-1- one\na.txt:2: Two\na.txt-3- three\na.txt:4: four\na.txt-5- five"
        );
        let text = grep(
            &workspace,
            &query(r#"{"pattern":"one|five","path":"a.txt","context":1}"#),
        )
        .unwrap();
        assert_eq!(text, "a.txt:1: one\na.txt-2- Two\n--\na.txt-4- four\na.txt:5: five");
    }

    #[test]
    fn a_long_result_is_continued() {
        let (_guard, workspace) = workspace();
        let first = grep(&workspace, &query(r#"{"pattern":"e","path":"a.txt","limit":2}"#)).unwrap();
        assert_eq!(
            first,
            "a.txt:1: one\na.txt:3: three\n[there are more; to go on, give `skip` 2]"
        );
        let rest = grep(&workspace, &query(r#"{"pattern":"e","path":"a.txt","skip":2}"#)).unwrap();
        assert_eq!(rest, "a.txt:5: five");
    }

    #[test]
    fn mistakes_are_explained() {
        let (_guard, workspace) = workspace();
        assert!(matches!(
            grep(&workspace, &query(r#"{"pattern":"("}"#)),
            Err(Failure::InvalidArguments(_))
        ));
        assert!(matches!(
            grep(&workspace, &query(r#"{"pattern":"a","path":"../.."}"#)),
            Err(Failure::InvalidArguments(_))
        ));
        assert!(matches!(
            grep(&workspace, &query(r#"{"pattern":"a","path":"nope"}"#)),
            Err(Failure::NotFound(_))
        ));
        assert!(
            grep(&workspace, &query(r#"{"pattern":"zzz"}"#))
                .unwrap()
                .contains("no line matches")
        );
    }
}
