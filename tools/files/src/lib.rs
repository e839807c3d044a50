//! The standard tool `files`: read, write, edit, list and search the session's workspace.
//!
//! Nothing here reaches beyond `/workspace`: the host gives no other directory, and paths that lead
//! out of it are refused before they are tried, with a message that says why.
#![forbid(unsafe_code)]

mod edit;
mod read;
mod search;
mod walk;
mod workspace;

use fumehood::{Failure, Output};
use workspace::Workspace;

/// Reads a text file of the workspace, by lines, or shows an image.
///
/// Returns at most 2000 lines or 64 KiB at a time; the note at the end says how to read on.
#[fumehood::tool(effect = "pure", read_only, title = "Read a file")]
fn files_read(
    /// The file, such as `src/main.rs`.
    path: String,
    /// The first line to return, counted from 1; 1 if not given.
    #[schemars(range(min = 1))]
    offset: Option<u64>,
    /// How many lines to return; 2000 if not given.
    #[schemars(range(min = 1, max = 2000))]
    limit: Option<u64>,
) -> Result<Output, Failure> {
    read::read(
        &Workspace::session(),
        &path,
        offset.unwrap_or(1),
        limit.unwrap_or(read::MOST_LINES),
    )
}

/// Writes a file of the workspace, replacing what it held. Makes the directories it needs.
#[fumehood::tool(effect = "idempotent", destructive, title = "Write a file")]
fn files_write(
    /// The file, such as `notes/today.md`.
    path: String,
    /// The whole new content.
    content: String,
) -> Result<String, Failure> {
    edit::write(&Workspace::session(), &path, &content)
}

/// Replaces a text in a file of the workspace.
///
/// `old` must be in the file exactly as given, white space included, and only once unless
/// `replace_all` is set: give enough lines around it to make it unique.
#[fumehood::tool(effect = "at-most-once", destructive, title = "Edit a file")]
fn files_edit(
    /// The file.
    path: String,
    /// The text to replace, exactly.
    old: String,
    /// What to put in its place.
    new: String,
    /// Replace every occurrence.
    #[serde(default)]
    replace_all: bool,
) -> Result<String, Failure> {
    let scope = if replace_all {
        edit::Scope::All
    } else {
        edit::Scope::TheOnly
    };
    edit::edit(&Workspace::session(), &path, &old, &new, scope)
}

/// Lists a directory of the workspace: directories end in `/`, files have their size.
#[fumehood::tool(effect = "pure", read_only, title = "List files")]
fn files_list(
    /// The directory; the workspace itself if not given.
    path: Option<String>,
    /// How many levels to list; 1 if not given.
    #[schemars(range(min = 1, max = 20))]
    depth: Option<u32>,
    /// How many entries to skip, to go on with a long list.
    #[serde(default)]
    skip: u64,
) -> Result<String, Failure> {
    walk::list(
        &Workspace::session(),
        path.as_deref().unwrap_or("."),
        depth.unwrap_or(1),
        skip,
    )
}

/// Finds files of the workspace by a pattern.
#[fumehood::tool(effect = "pure", read_only, title = "Find files")]
fn files_glob(
    /// Matched with the path below `path`: `*` is any text within a name, `**` any directories, `?` one character,
    /// `{a,b}` one of several; for example `**/*.{rs,toml}`.
    pattern: String,
    /// Where to look; the whole workspace if not given.
    path: Option<String>,
    /// How many matches to skip, to go on with a long list.
    #[serde(default)]
    skip: u64,
) -> Result<String, Failure> {
    walk::glob(&Workspace::session(), path.as_deref().unwrap_or("."), &pattern, skip)
}

/// Finds lines in files of the workspace by a regular expression.
///
/// Matches read `path:line: text`, lines around them `path-line- text`. Binary files are skipped.
#[fumehood::tool(effect = "pure", read_only, title = "Search in files")]
fn files_grep(#[arguments] query: search::Query) -> Result<String, Failure> {
    search::grep(&Workspace::session(), &query)
}

fumehood::export!(files_read, files_write, files_edit, files_list, files_glob, files_grep);
