//! `docs/contributors/conformance.md` against the code: each row is a behaviour and the tests that show it, and these
//! tests are there.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod sources;

use sources::{quoted, root, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

const PAGE: &str = "docs/contributors/conformance.md";

/// A row of the page's tables.
#[derive(Debug, PartialEq)]
struct Row {
    behaviour: String,
    tests: Vec<String>,
}

/// The rows of every table whose columns are the behaviour and its tests.
fn rows(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        if line == "| behaviour | tests |" {
            in_table = true;
        } else if !line.starts_with('|') {
            in_table = false;
        } else if in_table && !line.starts_with("|-") {
            let cells: Vec<_> = line.trim_matches('|').splitn(2, " | ").collect();
            let [behaviour, tests] = cells[..] else {
                panic!("{line} has no two cells")
            };
            rows.push(Row {
                behaviour: behaviour.trim().to_owned(),
                tests: quoted(tests),
            });
        }
    }
    rows
}

/// The functions of a source that a test runner runs.
fn tests(source: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ")
            && marked
        {
            found.extend(rest.split('(').next());
            marked = false;
        }
    }
    found
}

fn page() -> Vec<Row> {
    rows(&fs::read_to_string(root().join(PAGE)).unwrap())
}

#[test]
fn every_behaviour_names_a_test_and_each_of_them_exists() {
    let sources = sources();
    let known: BTreeSet<&str> = sources.values().flat_map(|source| tests(source)).collect();
    let mut missing = Vec::new();
    for row in page() {
        if row.tests.is_empty() {
            missing.push(format!("{:?} names no test: what shows it?", row.behaviour));
        }
        let gone = row.tests.iter().filter(|test| !known.contains(test.as_str()));
        missing.extend(gone.map(|test| format!("{:?}: there is no test {test}", row.behaviour)));
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn no_behaviour_is_told_twice() {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for row in page() {
        *told.entry(row.behaviour).or_default() += 1;
    }
    assert!(told.len() > 100, "the tables are not read: {} rows", told.len());
    told.retain(|_, times| *times > 1);
    assert!(told.is_empty(), "{told:#?}");
}

#[test]
fn every_scenario_of_the_two_suites_is_on_the_page() {
    let sources = sources();
    let listed: BTreeSet<String> = page().into_iter().flat_map(|row| row.tests).collect();
    let of_the_suites =
        |file: &str| file.starts_with("tests/tests/providers/") || file == "host/server/tests/api/trouble.rs";
    let suites: Vec<_> = sources.keys().filter(|file| of_the_suites(file)).collect();
    assert!(suites.len() > 2, "{suites:?}");
    for file in suites {
        let missing: Vec<_> = tests(&sources[file])
            .into_iter()
            .filter(|test| !listed.contains(*test))
            .collect();
        assert!(missing.is_empty(), "{PAGE} lacks these of {file}: {missing:#?}");
    }
}

#[test]
fn the_tables_and_the_sources_are_read_as_they_are_written() {
    let page =
        "| behaviour | tests |\n|---|---|\n| one, `code` | `a_test`, `b_test` |\n\n| a | b |\n|---|---|\n| c | `d` |\n";
    let expected = Row {
        behaviour: "one, `code`".to_owned(),
        tests: vec!["a_test".to_owned(), "b_test".to_owned()],
    };
    assert_eq!(rows(page), [expected]);
    let source =
        "#[test]\nfn a_test() {}\nfn no_test() {}\n#[tokio::test(flavor = \"x\")]\n#[allow(x)]\nasync fn b_test() {}";
    assert_eq!(tests(source).into_iter().collect::<Vec<_>>(), ["a_test", "b_test"]);
}
