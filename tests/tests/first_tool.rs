//! The page "A first tool", as its reader follows it: every file that it shows is written, every command is run, in their order, from nothing to
//! a component that is installed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Place, binary, root};
use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

/// How long all of it may take before the test gives up: with every crate compiled anew, on a machine that does other work.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// What the page marks as not to be run here: the word after `sh`, and how many blocks have it.
const NOT_RUN: [(&str, usize); 3] = [("network", 1), ("until-ctrl-c", 1), ("without-rustup", 1)];

/// A block of code of the page: what stands behind its fence, and its lines.
struct Block<'a> {
    kind: &'a str,
    text: String,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let text = lines
                .by_ref()
                .take_while(|line| *line != "```")
                .map(|line| format!("{line}\n"));
            blocks.push(Block {
                kind,
                text: text.collect(),
            });
        }
    }
    blocks
}

/// What a reader does at a block, as a script; none where there is nothing to do.
fn step(block: &Block<'_>) -> Option<String> {
    let file = |how: &str, name: &str| Some(format!("cat {how} {name} <<'THE END'\n{}THE END\n", block.text));
    let first = block.text.lines().next().unwrap_or_default();
    match (block.kind, first) {
        ("sh", _) => Some(block.text.clone()),
        ("rust", "// src/lib.rs") => file(">", "src/lib.rs"),
        ("rust", "#[cfg(test)]") => file(">>", "src/lib.rs"),
        ("toml", "[files]") => file(">", "tool.toml"),
        ("toml", "# grant.toml") => file(">", "grant.toml"),
        ("toml", "# tests/notes.toml") => file(">", "tests/notes.toml"),
        ("text", _) => None,
        (kind, _) if kind.strip_prefix("sh ").is_some() => None,
        other => panic!("nobody knows what to do with {other:?}"),
    }
}

/// `fumehood`, with the SDK and the locked crates of this workspace, since the machine may have no network.
fn command(dir: &Path) {
    let (binary, root) = (binary(), root());
    let (binary, root) = (binary.display(), root.display());
    let script = format!(
        "#!/bin/sh\nif [ \"$1 $2\" = \"tool new\" ]; then\n  {binary} \"$@\" --sdk {root}/sdk/rust && cp {root}/Cargo.lock \"$3\"\nelse\n  \
         exec {binary} \"$@\"\nfi\n"
    );
    let file = dir.join("fumehood");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Whether the compiler on the PATH builds components.
fn compiles_components() -> bool {
    let output = std::process::Command::new("rustc")
        .args(["--print", "sysroot"])
        .output();
    let sysroot = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    sysroot.is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/wasm32-wasip2/lib").is_dir())
}

fn page() -> String {
    std::fs::read_to_string(root().join("docs/tool-authors/first-tool.md")).unwrap()
}

#[test]
fn what_is_not_run_here_is_what_is_marked_and_nothing_else() {
    let page = page();
    let blocks = blocks(&page);
    let marked: Vec<&str> = blocks
        .iter()
        .filter_map(|block| block.kind.strip_prefix("sh "))
        .collect();
    for (mark, count) in NOT_RUN {
        assert_eq!(marked.iter().filter(|found| **found == mark).count(), count, "{mark}");
    }
    assert_eq!(
        marked.len(),
        NOT_RUN.iter().map(|(_, count)| count).sum::<usize>(),
        "{marked:?}"
    );
    let run = blocks.iter().filter_map(step).collect::<String>();
    for command in [
        "tool new",
        "tool build",
        "tool test",
        "tool check",
        "tool call",
        "tool add",
    ] {
        assert!(run.contains(&format!("fumehood {command}")), "{command}");
    }
}

#[tokio::test]
async fn a_reader_comes_from_nothing_to_an_installed_tool() {
    if !compiles_components() {
        eprintln!("the compiler on the PATH has no wasm32-wasip2: nothing is tested");
        return;
    }
    let place = Place::empty("");
    let programs = place.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    command(&programs);
    let page = page();
    let mut script = String::from("set -eux\n");
    script.extend(blocks(&page).iter().filter_map(step));
    script.push_str("fumehood --json tool list > ../installed.json\n");
    std::fs::write(place.path().join("reader.sh"), script).unwrap();

    let path = std::env::var("PATH").unwrap_or_default();
    let mut reader = tokio::process::Command::new("sh");
    // What names the tests' own things would be taken for configuration.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FUMEHOOD_") {
            reader.env_remove(name);
        }
    }
    let reader = reader
        .arg("reader.sh")
        .current_dir(place.path())
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("NO_COLOR", "1")
        .env("XDG_CACHE_HOME", place.path().join("cache"))
        .env("CARGO_TARGET_DIR", root().join("target/author"))
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("RUSTFLAGS")
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, reader)
        .await
        .expect("it did not end")
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    assert!(said.contains("2 tests: 2 passed, 0 failed"), "{said}");
    let notes = std::fs::read_to_string(place.path().join("notes/ws/notes.md")).unwrap();
    assert_eq!(notes, "- buy lab coats\n", "what the call wrote");
    let installed: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path().join("installed.json")).unwrap()).unwrap();
    let names: Vec<&str> = installed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"notes"), "{names:?}");
}
