//! Writing and editing. A file is replaced whole or not at all.

use crate::{
    read::looks_binary,
    workspace::{Place, Workspace},
};
use fumehood::Failure;
use std::{fs, io};

/// The largest file that is edited: it is held in memory twice.
const MOST_TO_EDIT: u64 = 16 << 20;

/// Which occurrences are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The only one; several are a mistake.
    TheOnly,
    /// All of them.
    All,
}

/// Writes a whole file.
pub(crate) fn write(workspace: &Workspace, path: &str, content: &str) -> Result<String, Failure> {
    let place = workspace.place(path)?;
    if place.name == "." {
        return Err(Failure::invalid_arguments(
            "`path` names the workspace itself: give the name of a file",
        ));
    }
    let before = fs::metadata(&place.full).ok();
    if before.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(Failure::invalid_arguments(format!(
            "`{}` is a directory: give the name of a file",
            place.name
        )));
    }
    replace(&place, content.as_bytes())?;
    let was = before.map_or_else(
        || "a new file".to_owned(),
        |before| format!("it had {} bytes before", before.len()),
    );
    Ok(format!("wrote {} bytes to `{}` ({was})", content.len(), place.name))
}

/// Replaces a text in a file.
pub(crate) fn edit(workspace: &Workspace, path: &str, old: &str, new: &str, scope: Scope) -> Result<String, Failure> {
    let place = workspace.place(path)?;
    if old.is_empty() {
        return Err(Failure::invalid_arguments(
            "`old` is empty: to write a whole file use files_write",
        ));
    }
    if old == new {
        return Err(Failure::invalid_arguments(
            "`old` and `new` are the same: there is nothing to do",
        ));
    }
    let metadata = place.metadata()?;
    if metadata.is_dir() {
        return Err(Failure::invalid_arguments(format!("`{}` is a directory", place.name)));
    }
    if metadata.len() > MOST_TO_EDIT {
        return Err(Failure::failed(format!(
            "`{}` has {} bytes; files of more than {MOST_TO_EDIT} bytes are not edited",
            place.name,
            metadata.len()
        )));
    }
    let bytes = fs::read(&place.full).map_err(|error| place.failure("cannot be read", &error))?;
    if looks_binary(&bytes) {
        return Err(Failure::failed(format!(
            "`{}` is a binary file: it cannot be edited as text",
            place.name
        )));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::failed(format!("`{}` is not UTF-8: it cannot be edited as text", place.name)))?;
    let edited = apply(&text, old, new, scope).map_err(|why| Failure::not_found(format!("`{}`: {why}", place.name)))?;
    replace(&place, edited.text.as_bytes())?;
    let s = if edited.lines.len() == 1 { "" } else { "s" };
    Ok(format!(
        "replaced {} occurrence{s} in `{}`, at line{s} {}",
        edited.lines.len(),
        place.name,
        numbers(&edited.lines)
    ))
}

#[derive(Debug, PartialEq, Eq)]
struct Edited {
    text: String,
    /// Where the replaced texts began.
    lines: Vec<usize>,
}

fn apply(text: &str, old: &str, new: &str, scope: Scope) -> Result<Edited, String> {
    let mut lines = Vec::new();
    let (mut line, mut counted) = (1, 0);
    for (at, _) in text.match_indices(old) {
        line += newlines(&text[counted..at]);
        counted = at;
        lines.push(line);
    }
    match (lines.len(), scope) {
        (0, _) => Err(nearly(text, old)),
        (1, _) | (_, Scope::All) => Ok(Edited {
            text: text.replace(old, new),
            lines,
        }),
        (count, Scope::TheOnly) => Err(format!(
            "`old` is there {count} times, at lines {}: give more of the text around the one you mean, or set `replace_all`",
            numbers(&lines)
        )),
    }
}

/// Says why a text was not found, as helpfully as it can be told.
fn nearly(text: &str, old: &str) -> String {
    let start = "`old` is not in the file";
    let wanted: Vec<&str> = old.trim().lines().map(str::trim).collect();
    let have: Vec<&str> = text.lines().map(str::trim).collect();
    let found = have.windows(wanted.len().max(1)).position(|window| window == wanted);
    if let Some(at) = found {
        return format!(
            "{start} as given, but with other white space at line {}: read those lines and copy them exactly",
            at + 1
        );
    }
    if text.to_lowercase().contains(&old.to_lowercase()) {
        return format!("{start} as given, but with other upper and lower case: copy it exactly");
    }
    match wanted
        .iter()
        .find(|line| line.len() > 3)
        .and_then(|line| have.iter().position(|h| h == line))
    {
        Some(at) => format!(
            "{start}; its first line is at line {}, but what follows differs: read the file again",
            at + 1
        ),
        None => format!("{start}: read the file again, it may have changed"),
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

fn numbers(lines: &[usize]) -> String {
    let shown: Vec<String> = lines.iter().take(10).map(ToString::to_string).collect();
    let more = if lines.len() > 10 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Replaces a file by writing another beside it and renaming it, so that a call that is stopped
/// half-way leaves the old content.
fn replace(place: &Place, content: &[u8]) -> Result<(), Failure> {
    let failed = |error: &io::Error| place.failure("cannot be written", error);
    if let Some(parent) = place.full.parent()
        && !parent.is_dir()
    {
        fs::create_dir_all(parent).map_err(|error| failed(&error))?;
    }
    let mut name = place.full.file_name().unwrap_or_default().to_owned();
    name.push(".part~");
    let part = place.full.with_file_name(name);
    let written = fs::write(&part, content).and_then(|()| fs::rename(&part, &place.full));
    written.map_err(|error| {
        // Best effort: the failure to report is the first one.
        let _ = fs::remove_file(&part);
        failed(&error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_with_its_directories_and_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(directory.path());
        assert!(write(&workspace, "a/b/c.txt", "one").unwrap().contains("a new file"));
        assert!(
            write(&workspace, "a/b/c.txt", "two!")
                .unwrap()
                .contains("3 bytes before")
        );
        assert_eq!(fs::read_to_string(directory.path().join("a/b/c.txt")).unwrap(), "two!");
        assert_eq!(fs::read_dir(directory.path().join("a/b")).unwrap().count(), 1);
        assert!(matches!(write(&workspace, "a", "x"), Err(Failure::InvalidArguments(_))));
        assert!(matches!(
            write(&workspace, "../x", "x"),
            Err(Failure::InvalidArguments(_))
        ));
    }

    #[test]
    fn the_only_occurrence_is_replaced() {
        let edited = apply("a\nb\nc\n", "b", "x\ny", Scope::TheOnly).unwrap();
        assert_eq!(
            edited,
            Edited {
                text: "a\nx\ny\nc\n".into(),
                lines: vec![2]
            }
        );
    }

    #[test]
    fn several_occurrences_need_to_be_meant() {
        let why = apply("a\nb\na\n", "a", "x", Scope::TheOnly).unwrap_err();
        assert!(
            why.contains("2 times") && why.contains("1, 3") && why.contains("replace_all"),
            "{why}"
        );
        assert_eq!(apply("a\nb\na\n", "a", "x", Scope::All).unwrap().text, "x\nb\nx\n");
    }

    #[test]
    fn a_text_that_is_not_there_is_explained() {
        assert!(
            apply("  let a = 1;\n", "let  a", "x", Scope::TheOnly)
                .unwrap_err()
                .contains("not in the file")
        );
        assert!(
            apply("\tif x {\n\t\ty\n", "if x {\n  y", "z", Scope::TheOnly)
                .unwrap_err()
                .contains("white space at line 1")
        );
        assert!(
            apply("Hello\n", "hello", "x", Scope::TheOnly)
                .unwrap_err()
                .contains("upper and lower case")
        );
        assert!(
            apply("first line\nthis\n", "first line\nthat", "x", Scope::TheOnly)
                .unwrap_err()
                .contains("differs")
        );
    }

    #[test]
    fn an_edit_changes_the_file_and_a_refused_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(directory.path());
        fs::write(directory.path().join("f"), "one two two").unwrap();
        assert!(
            edit(&workspace, "f", "one", "1", Scope::TheOnly)
                .unwrap()
                .contains("line 1")
        );
        assert!(matches!(
            edit(&workspace, "f", "two", "2", Scope::TheOnly),
            Err(Failure::NotFound(_))
        ));
        assert!(matches!(
            edit(&workspace, "f", "", "2", Scope::All),
            Err(Failure::InvalidArguments(_))
        ));
        assert!(matches!(
            edit(&workspace, "g", "a", "b", Scope::All),
            Err(Failure::NotFound(_))
        ));
        assert_eq!(fs::read_to_string(directory.path().join("f")).unwrap(), "1 two two");
        fs::write(directory.path().join("b"), b"\0one").unwrap();
        assert!(matches!(
            edit(&workspace, "b", "one", "1", Scope::All),
            Err(Failure::Failed(_))
        ));
    }
}
