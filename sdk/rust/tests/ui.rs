//! What an author reads who writes a tool that can't be one.
//!
//! `tests/ui` has what the macro says itself, word by word. `tests/types` has what the compiler says about types,
//! in words that differ between compilers: there the lines count to which it points.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[test]
fn what_cannot_be_a_tool_is_refused_at_its_line() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

#[test]
fn what_the_compiler_says_of_a_tools_types_stands_where_the_author_wrote_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/types/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    let expected = lines_marked(&text, "// here");
    let allowed = lines_marked(&text, "// or here");

    let mut found = BTreeSet::new();
    for error in errors(&project(&source)) {
        let rendered = error["rendered"].as_str().unwrap();
        let lines = primary_lines(&error, &source);
        assert!(!lines.is_empty(), "this points to no line:\n{rendered}");
        for line in lines {
            let words = expected.get(&line).or_else(|| allowed.get(&line));
            let words = words.unwrap_or_else(|| panic!("line {line} is not where the author went wrong:\n{rendered}"));
            assert!(
                error["message"].as_str().unwrap().contains(words),
                "`{words}` is not in:\n{rendered}"
            );
            found.insert(line);
        }
    }
    let missed: Vec<_> = expected.keys().filter(|line| !found.contains(line)).collect();
    assert!(missed.is_empty(), "no error points to the lines {missed:?}");
}

/// The lines that end in `mark`, counted from one, and what the error at each must say.
fn lines_marked(source: &str, mark: &str) -> BTreeMap<u64, String> {
    let lines = (1..).zip(source.lines()).filter(|(_, line)| !line.starts_with("//!"));
    let lines: BTreeMap<u64, String> = lines
        .filter_map(|(number, line)| line.split_once(mark).map(|(_, words)| (number, words)))
        .map(|(number, words)| (number, words.trim().trim_matches('"').to_owned()))
        .collect();
    assert!(!lines.is_empty(), "no line is marked with {mark}");
    lines
}

/// A package outside the workspace with `source` as its library.
fn project(source: &Path) -> PathBuf {
    let sdk = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("types");
    fs::create_dir_all(&project).unwrap();
    let manifest = format!(
        "[package]\nname = \"types\"\nedition = \"2024\"\n\n[lib]\npath = {source:?}\n\n\
         [dependencies]\nfumehood = {{ path = {sdk:?} }}\nschemars = \"1\"\nserde = \"1\"\n\n[workspace]\n"
    );
    fs::write(project.join("Cargo.toml"), manifest).unwrap();
    // The versions that are here already: the test needs no network.
    fs::copy(sdk.join("../../Cargo.lock"), project.join("Cargo.lock")).unwrap();
    project
}

/// What the compiler calls errors, except its count of them.
fn errors(project: &Path) -> Vec<Value> {
    // Beside what `trybuild` builds, and for a target as it does: macros and what they need are compiled once for both.
    let built = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .with_file_name("tests")
        .join("trybuild");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "check",
            "--offline",
            "--quiet",
            "--message-format=json",
            "--target=host-tuple",
        ])
        .current_dir(project)
        .env("CARGO_TARGET_DIR", built)
        .env("CARGO_INCREMENTAL", "0")
        .output()
        .unwrap();
    let errors: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|report| report["reason"] == "compiler-message" && report["message"]["level"] == "error")
        .map(|mut report| report["message"].take())
        .filter(|message| !message["spans"].as_array().unwrap().is_empty())
        .collect();
    assert!(!errors.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    errors
}

/// Where an error points to. Each place must be in `source`, and not be made by a macro elsewhere.
fn primary_lines(error: &Value, source: &Path) -> BTreeSet<u64> {
    let spans = error["spans"].as_array().unwrap();
    spans
        .iter()
        .filter(|span| span["is_primary"] == true)
        .map(|span| {
            let file = span["file_name"].as_str().unwrap();
            assert!(
                source.ends_with(file) || source == Path::new(file),
                "{file}: {}",
                error["rendered"]
            );
            span["line_start"].as_u64().unwrap()
        })
        .collect()
}
