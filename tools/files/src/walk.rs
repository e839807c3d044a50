//! Going through directories: sorted, bounded, never through a symbolic link.

use crate::workspace::{Place, Workspace};
use fumehood::Failure;
use globset::{GlobBuilder, GlobMatcher};
use std::fs;

/// The most entries that one result lists.
const MOST_LISTED: u64 = 500;
/// The most entries that one call looks at.
const MOST_VISITED: usize = 200_000;
/// How deep directories may lie within each other.
const DEEPEST: u32 = 64;

/// An entry of a directory.
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File {
        size: u64,
    },
    /// A symbolic link, or something stranger.
    Other,
}

/// Calls `visit` for every entry below a directory, in the order of paths, until it says to stop.
/// Returns whether everything was visited.
pub(crate) fn walk(
    top: &Place,
    depth: u32,
    visit: &mut dyn FnMut(Entry) -> Result<Next, Failure>,
) -> Result<bool, Failure> {
    let mut visited = 0;
    below(top, depth.min(DEEPEST), &mut visited, visit).map(|next| next == Next::GoOn)
}

/// Whether a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    Stop,
}

fn below(
    top: &Place,
    depth: u32,
    visited: &mut usize,
    visit: &mut dyn FnMut(Entry) -> Result<Next, Failure>,
) -> Result<Next, Failure> {
    let unreadable = |error: &std::io::Error| top.failure("cannot be listed", error);
    let mut entries = Vec::new();
    for entry in fs::read_dir(&top.full).map_err(|error| unreadable(&error))? {
        let entry = entry.map_err(|error| unreadable(&error))?;
        *visited += 1;
        if *visited > MOST_VISITED {
            return Err(Failure::failed(format!(
                "there are more than {MOST_VISITED} files: give a `path` further down"
            )));
        }
        // A name that is not text cannot be asked for either.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let kind = match entry.file_type() {
            Ok(kind) if kind.is_dir() => Kind::Directory,
            Ok(kind) if kind.is_file() => Kind::File {
                size: entry.metadata().map_or(0, |metadata| metadata.len()),
            },
            _ => Kind::Other,
        };
        entries.push((name, kind));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, kind) in entries {
        let place = top.child(&name);
        if visit(Entry {
            place: place.clone(),
            kind,
        })? == Next::Stop
        {
            return Ok(Next::Stop);
        }
        if kind == Kind::Directory && depth > 1 {
            match below(&place, depth - 1, visited, visit) {
                Ok(Next::GoOn) => {}
                // A part that the grant leaves out does not spoil the rest.
                Err(Failure::Denied(_)) => {}
                other => return other,
            }
        }
    }
    Ok(Next::GoOn)
}

/// The directory that a path names.
pub(crate) fn directory(workspace: &Workspace, path: &str) -> Result<Place, Failure> {
    let place = workspace.place(path)?;
    if place.metadata()?.is_dir() {
        Ok(place)
    } else {
        Err(Failure::invalid_arguments(format!(
            "`{}` is a file, not a directory",
            place.name
        )))
    }
}

/// The matcher of a pattern, in which `*` stays within a name.
pub(crate) fn pattern(text: &str) -> Result<GlobMatcher, Failure> {
    let glob = GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build();
    glob.map(|glob| glob.compile_matcher())
        .map_err(|error| Failure::invalid_arguments(format!("`{text}` is not a valid pattern: {}", error.kind())))
}

/// A bounded list that knows how to be continued.
struct Page {
    lines: Vec<String>,
    skip: u64,
    seen: u64,
}

impl Page {
    fn new(skip: u64) -> Self {
        Self {
            lines: Vec::new(),
            skip,
            seen: 0,
        }
    }

    fn push(&mut self, line: impl FnOnce() -> String) -> Next {
        self.seen += 1;
        if self.seen > self.skip + MOST_LISTED {
            return Next::Stop;
        }
        if self.seen > self.skip {
            self.lines.push(line());
        }
        Next::GoOn
    }

    fn finish(mut self, complete: bool, nothing: String) -> String {
        if self.lines.is_empty() {
            return nothing;
        }
        if !complete {
            self.lines.push(format!(
                "[there are more; to go on, give `skip` {}]",
                self.skip + MOST_LISTED
            ));
        }
        self.lines.join("\n")
    }
}

/// Lists a directory.
pub(crate) fn list(workspace: &Workspace, path: &str, depth: u32, skip: u64) -> Result<String, Failure> {
    let top = directory(workspace, path)?;
    let mut page = Page::new(skip);
    let complete = walk(&top, depth, &mut |entry| {
        Ok(page.push(|| {
            let name = &entry.place.name;
            match entry.kind {
                Kind::Directory => format!("{name}/"),
                Kind::File { size } => format!("{name}  {size} bytes"),
                Kind::Other => format!("{name}  (link)"),
            }
        }))
    })?;
    Ok(page.finish(
        complete,
        format!(
            "[`{}` has no {}entries]",
            top.name,
            if skip > 0 { "further " } else { "" }
        ),
    ))
}

/// Finds files by a pattern.
pub(crate) fn glob(workspace: &Workspace, path: &str, text: &str, skip: u64) -> Result<String, Failure> {
    let matcher = pattern(text)?;
    let top = directory(workspace, path)?;
    let mut page = Page::new(skip);
    let complete = walk(&top, DEEPEST, &mut |entry| {
        let is_match = matches!(entry.kind, Kind::File { .. }) && matcher.is_match(relative(&top, &entry.place));
        Ok(if is_match {
            page.push(|| entry.place.name.clone())
        } else {
            Next::GoOn
        })
    })?;
    Ok(page.finish(complete, format!("[no file below `{}` matches `{text}`]", top.name)))
}

/// A place's name as seen from a directory above it.
pub(crate) fn relative<'a>(top: &Place, place: &'a Place) -> &'a str {
    if top.name == "." {
        return &place.name;
    }
    place.name.get(top.name.len() + 1..).unwrap_or(&place.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Workspace) {
        let directory = tempfile::tempdir().unwrap();
        for path in ["src/a.rs", "src/deep/b.rs", "src/deep/c.toml", "README.md"] {
            let full = directory.path().join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(full, "x").unwrap();
        }
        let workspace = Workspace::at(directory.path());
        (directory, workspace)
    }

    #[test]
    fn a_directory_is_listed_in_order_to_the_depth_asked_for() {
        let (_guard, workspace) = tree();
        assert_eq!(list(&workspace, ".", 1, 0).unwrap(), "README.md  1 bytes\nsrc/");
        let all = list(&workspace, "src", 9, 0).unwrap();
        assert_eq!(
            all,
            "src/a.rs  1 bytes\nsrc/deep/\nsrc/deep/b.rs  1 bytes\nsrc/deep/c.toml  1 bytes"
        );
        assert!(matches!(
            list(&workspace, "README.md", 1, 0),
            Err(Failure::InvalidArguments(_))
        ));
        assert!(matches!(list(&workspace, "nope", 1, 0), Err(Failure::NotFound(_))));
    }

    #[test]
    fn a_long_list_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        for i in 0..501 {
            fs::write(directory.path().join(format!("{i:04}")), "").unwrap();
        }
        let workspace = Workspace::at(directory.path());
        let first = list(&workspace, ".", 1, 0).unwrap();
        assert!(first.ends_with("give `skip` 500]"), "{first}");
        assert_eq!(list(&workspace, ".", 1, 500).unwrap(), "0500  0 bytes");
    }

    #[test]
    fn files_are_found_by_patterns() {
        let (_guard, workspace) = tree();
        assert_eq!(glob(&workspace, ".", "**/*.rs", 0).unwrap(), "src/a.rs\nsrc/deep/b.rs");
        assert_eq!(
            glob(&workspace, ".", "*.rs", 0).unwrap(),
            "[no file below `.` matches `*.rs`]"
        );
        assert_eq!(glob(&workspace, "src", "*.rs", 0).unwrap(), "src/a.rs");
        assert_eq!(
            glob(&workspace, ".", "**/*.{toml,md}", 0).unwrap(),
            "README.md\nsrc/deep/c.toml"
        );
        assert!(matches!(
            glob(&workspace, ".", "a{", 0),
            Err(Failure::InvalidArguments(_))
        ));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_directory_is_not_followed() {
        let (guard, workspace) = tree();
        std::os::unix::fs::symlink(guard.path(), guard.path().join("src/loop")).unwrap();
        let all = list(&workspace, ".", 20, 0).unwrap();
        assert!(all.contains("src/loop  (link)") && !all.contains("src/loop/"), "{all}");
    }
}
