//! `docs/threats.md` against the code: the page names each threat, where the code stands
//! against it, and the tests that show it; the code carries the ids. Neither may claim what
//! the other does not have.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod sources;

use sources::{quoted, root, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const PAGE: &str = "docs/threats.md";
const MARK: &str = "THREAT[";

/// What the page says of one threat.
#[derive(Default)]
struct Entry {
    files: Vec<String>,
    tests: Vec<String>,
}

/// The sections `### T-…` of the page, with their lists of files and tests.
fn entries(page: &str) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let id = heading.trim().to_owned();
            let earlier = entries.insert(id.clone(), Entry::default());
            assert!(earlier.is_none(), "{id} has two sections");
            current = Some(id);
        } else if line.starts_with("## ") {
            current = None;
        } else if let Some(entry) = current.as_ref().and_then(|id| entries.get_mut(id)) {
            if let Some(rest) = line.strip_prefix("- **Where**: ") {
                entry.files = quoted(rest);
            } else if let Some(rest) = line.strip_prefix("- **Tests**: ") {
                entry.tests = quoted(rest);
            }
        }
    }
    entries
}

/// The ids that a source file carries.
fn marks(source: &str) -> BTreeSet<String> {
    source
        .split(MARK)
        .skip(1)
        .filter_map(|rest| rest.split_once(']'))
        .map(|(id, _)| id.to_owned())
        .filter(|id| id.starts_with("T-"))
        .collect()
}

fn page() -> BTreeMap<String, Entry> {
    entries(&fs::read_to_string(root().join(PAGE)).unwrap())
}

#[test]
fn every_mark_in_the_code_is_listed_where_it_stands() {
    let page = page();
    let mut missing = Vec::new();
    for (file, source) in sources() {
        for id in marks(&source) {
            match page.get(&id) {
                None => missing.push(format!("{file} marks {id}, which {PAGE} does not know")),
                Some(entry) if !entry.files.contains(&file) => {
                    missing.push(format!("{PAGE}: {id} does not list {file}"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_place_that_the_page_names_carries_the_mark() {
    let sources = sources();
    let mut missing = Vec::new();
    for (id, entry) in page() {
        if entry.files.is_empty() {
            missing.push(format!("{id} names no place: is anything done against it?"));
        }
        for file in entry.files {
            let marked = sources.get(&file).is_some_and(|source| marks(source).contains(&id));
            if !marked {
                missing.push(format!("{file} does not carry {MARK}{id}]"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_test_that_the_page_names_exists() {
    let sources = sources();
    let mut missing = Vec::new();
    for (id, entry) in page() {
        if entry.tests.is_empty() {
            missing.push(format!("{id} names no test: what shows that it holds?"));
        }
        for test in entry.tests {
            let function = format!("fn {test}(");
            if !sources.values().any(|source| source.contains(&function)) {
                missing.push(format!("{id}: there is no test {test}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_page_and_the_marks_are_read_as_they_are_written() {
    let page = entries(
        "## Group\n### T-a\n- **Where**: `x.rs`, `y/z.rs`\n- **Tests**: `one_test`\n### T-b\n## Rest\n- **Where**: `no`\n",
    );
    assert_eq!(page["T-a"].files, ["x.rs", "y/z.rs"]);
    assert_eq!(page["T-a"].tests, ["one_test"]);
    assert!(page["T-b"].files.is_empty());
    let source = format!("// {MARK}T-a]: why\n// {MARK}T-b] {MARK}T-c]\nlet x = {MARK}n];");
    assert_eq!(marks(&source).into_iter().collect::<Vec<_>>(), ["T-a", "T-b", "T-c"]);
}
