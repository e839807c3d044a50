//! The catalogue of metrics against the code: every metric is measured somewhere, and nothing is measured that the
//! catalogue does not have.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const CATALOGUE: &str = "host/core/src/metric.rs";
const MACROS: [&str; 3] = ["counter!(", "gauge!(", "histogram!("];
const PREFIX: &str = "\"fumehood_";
/// Measured where limits are shared between hosts.
const SHARED_LIMITS: &str = "fumehood_limits_";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The lines `CONSTANT = "name", …` of the catalogue: name by constant.
fn catalogue() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join(CATALOGUE)).unwrap();
    let metrics: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| {
            let (constant, rest) = line.trim().split_once(" = \"")?;
            let name = rest.split('"').next()?;
            let upper = |c: char| c.is_ascii_uppercase() || c == '_';
            constant
                .chars()
                .all(upper)
                .then(|| (constant.to_owned(), name.to_owned()))
        })
        .collect();
    assert!(metrics.len() > 40, "the catalogue was not understood: {metrics:?}");
    metrics
}

/// Every source file of the host but the catalogue: its path and text.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    for krate in fs::read_dir(root().join("host")).unwrap() {
        walk(&krate.unwrap().path().join("src"), &mut found);
    }
    found.retain(|(path, _)| !path.ends_with(CATALOGUE));
    found
}

/// What stands before the first `,` or `)` after each use of a macro of the metrics.
fn measured(text: &str) -> impl Iterator<Item = &str> {
    MACROS.iter().flat_map(move |name| {
        text.split(name)
            .skip(1)
            .filter_map(|rest| rest.split([',', ')']).next().map(str::trim))
    })
}

#[test]
fn every_metric_of_the_catalogue_is_measured_somewhere() {
    let sources = sources();
    for (constant, name) in catalogue() {
        let by_constant = format!("metric::{constant}");
        let by_name = format!("\"{name}\"");
        if name.starts_with(SHARED_LIMITS) {
            continue;
        }
        let is_whole = |text: &str| {
            text.match_indices(&by_constant).any(|(at, found)| {
                let next = text[at + found.len()..].chars().next();
                !next.is_some_and(|c| c.is_ascii_uppercase() || c == '_')
            })
        };
        let found = sources
            .iter()
            .any(|(_, text)| is_whole(text) || text.contains(&by_name));
        assert!(found, "{name} is in the catalogue and measured nowhere");
    }
}

#[test]
fn nothing_is_measured_that_the_catalogue_does_not_have() {
    let catalogue = catalogue();
    for (path, text) in sources() {
        for what in measured(&text) {
            // Given on by what goes through the whole catalogue.
            let known = what == "name"
                || what
                    .strip_prefix("metric::")
                    .and_then(|rest| rest.strip_suffix(".name"))
                    .is_some_and(|constant| catalogue.contains_key(constant))
                || catalogue.values().any(|name| what == format!("\"{name}\""));
            assert!(known, "{}: {what} is not in {CATALOGUE}", path.display());
        }
        for (at, _) in text.match_indices(PREFIX) {
            let name = text[at + 1..].split('"').next().unwrap();
            let is_metric = MACROS.iter().any(|name| text[..at].trim_end().ends_with(name));
            assert!(
                !is_metric || catalogue.values().any(|known| known == name),
                "{}: {name}",
                path.display()
            );
        }
    }
}
