//! `cargo xtask test`: everything that decides whether a change may land, in one table.
//!
//! A failed check does not hide the next one; only a step that later steps stand on ends
//! the run.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::docs;
use crate::guests;
use crate::languages;
use crate::mock_provider;
use crate::process::{self, Ending};
use crate::progress::{Outcome, Progress, Step};
use crate::registry;
use crate::servers;
use crate::setup;
use crate::toolchain::Toolchain;
use crate::tracer;
use crate::workspace::Workspace;

/// How much `test` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What CI runs.
    All,
    /// What is worth running before every commit.
    Quick,
}

/// What a check is for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    /// Later checks stand on it: its failure ends the run.
    Ground,
    /// Part of every run.
    Always,
    /// Left out of a quick run.
    Thorough,
}

struct Check {
    rank: Rank,
    name: &'static str,
    run: fn(&Workspace, &mut Step) -> Result<Outcome>,
}

const fn check(rank: Rank, name: &'static str, run: fn(&Workspace, &mut Step) -> Result<Outcome>) -> Check {
    Check { rank, name, run }
}

/// The order: what is cheap first, then what the rest needs.
const CHECKS: [Check; 21] = [
    check(Rank::Ground, "setup", setup::everything),
    check(Rank::Always, "servers", servers::ready),
    check(Rank::Always, "registry", registry::ready),
    check(Rank::Always, "tracer", tracer::ready),
    check(Rank::Always, "mock provider", mock_provider::ready),
    check(Rank::Always, "fmt", fmt),
    check(Rank::Always, "typos", typos),
    check(Rank::Always, "book", docs::book),
    check(Rank::Thorough, "licences", licences),
    check(Rank::Thorough, "advisories", advisories),
    check(Rank::Always, "clippy", clippy),
    check(Rank::Thorough, "rustdoc", docs::rustdoc),
    check(Rank::Ground, "guests", guests),
    check(Rank::Ground, "build", build),
    check(Rank::Always, "bindings", bindings),
    check(Rank::Always, "reference", reference),
    check(Rank::Always, "tests", tests),
    check(Rank::Thorough, "languages", languages::quick),
    check(Rank::Thorough, "doc tests", doc_tests),
    check(Rank::Thorough, "packages", packages),
    check(Rank::Thorough, "oldest compiler", oldest_compiler),
];

/// What authors of tools depend on.
const PUBLISHED: [&str; 3] = ["fumehood", "fumehood-macros", "fumehood-test"];
/// The compiler that they promise to get along with: this package's own `rust-version`, which is the workspace's.
const OLDEST_COMPILER: &str = env!("CARGO_PKG_RUST_VERSION");

const SHORT: Duration = Duration::from_secs(3 * 60);
const LONG: Duration = Duration::from_secs(25 * 60);

impl Check {
    fn belongs_to(&self, extent: Extent) -> bool {
        extent == Extent::All || self.rank != Rank::Thorough
    }
}

/// Runs the checks and fails if one did.
pub(crate) fn test(workspace: &Workspace, progress: &mut Progress, extent: Extent) -> Result<()> {
    let mut failed = Vec::new();
    for check in CHECKS.iter().filter(|check| check.belongs_to(extent)) {
        if let Err(error) = progress.step(check.name, |step| (check.run)(workspace, step)) {
            failed.push(check.name);
            if check.rank == Rank::Ground {
                print!("{}", progress.summary());
                return Err(error);
            }
        }
    }
    print!("{}", progress.summary());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Names the files that `cargo fmt --all` would change.
fn fmt(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let args = ["fmt", "--all", "--check", "--", "--files-with-diff", "--color", "never"];
    step.run(&mut workspace.cargo(args), SHORT)
        .context("run `cargo fmt --all`")?;
    Ok(Outcome::Done)
}

fn typos(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    step.run(workspace.command("typos").args(["--format", "brief"]), SHORT)?;
    Ok(Outcome::Done)
}

fn clippy(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    step.run(&mut workspace.cargo(args), LONG)?;
    Ok(Outcome::Done)
}

fn licences(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let args = ["deny", "--workspace", "check", "licenses", "bans", "sources"];
    step.run(&mut workspace.cargo(args), SHORT)?;
    Ok(Outcome::Done)
}

/// Known vulnerabilities. The database is a git repository that not every machine reaches:
/// then the check is skipped where everybody sees it, and fails on nothing but findings.
fn advisories(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    const FETCH_LIMIT: Duration = Duration::from_secs(60);
    let mut fetch = workspace.cargo(["deny", "fetch", "db"]);
    // Else git asks for a name and a password on the terminal.
    fetch.env("GIT_TERMINAL_PROMPT", "0");
    match step.attempt(&mut fetch, FETCH_LIMIT)? {
        Ending::Exited(status) if status.success() => {}
        _ => return Ok(Outcome::Skipped("advisory database unreachable: skipped".into())),
    }
    let args = ["deny", "--workspace", "check", "--disable-fetch", "advisories"];
    step.run(&mut workspace.cargo(args), SHORT)?;
    Ok(Outcome::Done)
}

fn guests(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let (toolchain, _) = Toolchain::ready(workspace, step)?;
    guests::build(workspace, step, &toolchain)
}

/// Everything the tests run, in the shape in which they run it: the test runner then
/// compiles nothing again.
pub(crate) fn build(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    step.run(&mut workspace.cargo(["build", "--workspace", "--all-targets"]), LONG)?;
    Ok(Outcome::Done)
}

/// The SDK's checked-in bindings are those of `wit/`.
fn bindings(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let args = ["run", "--quiet", "-p", "fumehood-bindgen", "--", "--check"];
    step.run(&mut workspace.cargo(args), LONG)?;
    Ok(Outcome::Done)
}

/// What authors of tools depend on can be published: it builds from what is packed alone, and nothing in it refers to what stays here.
fn packages(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let mut args = vec!["package", "--allow-dirty"];
    args.extend(of_published());
    step.run(&mut workspace.cargo(args), LONG)?;
    Ok(Outcome::Noted(PUBLISHED.join(", ")))
}

/// The `rust-version` that is published is true. Where everything is built with that compiler there is nothing left to try.
fn oldest_compiler(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let used = process::output_of(workspace.command("rustc").arg("--version")).context("there is no `rustc`")?;
    if is_version(&used, OLDEST_COMPILER) {
        return Ok(Outcome::Noted(format!("everything is built with {OLDEST_COMPILER}")));
    }
    let toolchain = format!("{OLDEST_COMPILER}.0");
    let with_oldest = |args: &[&str]| {
        let mut command = workspace.command("rustup");
        command.args(["run", &toolchain]).args(args).env_remove("RUSTC");
        command
    };
    if process::output_of(&mut with_oldest(&["rustc", "--version"])).is_none() {
        return Ok(Outcome::Skipped(format!(
            "there is no Rust {OLDEST_COMPILER}; `rustup toolchain install {toolchain}`"
        )));
    }
    let mut check = with_oldest(&["cargo", "check"]);
    check.args(of_published());
    check.env("CARGO_TARGET_DIR", workspace.target().join("oldest-compiler"));
    step.run(&mut check, LONG)?;
    Ok(Outcome::Noted(format!("checked with {toolchain}")))
}

fn of_published() -> impl Iterator<Item = &'static str> {
    PUBLISHED.iter().flat_map(|package| ["--package", *package])
}

/// Whether a compiler that says this of itself is of this version, whichever of its patches.
fn is_version(said: &str, version: &str) -> bool {
    let own = said
        .strip_prefix("rustc ")
        .and_then(|rest| rest.split([' ', '-']).next());
    own.is_some_and(|own| {
        own.strip_prefix(version)
            .is_some_and(|patch| patch.is_empty() || patch.starts_with('.'))
    })
}

/// The reference pages are those that the binary writes.
fn reference(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let fumehood = workspace.fumehood("debug");
    if process::output_of(workspace.command(&fumehood).args(["reference", "--help"])).is_none() {
        return Ok(Outcome::Skipped("the binary has no command `reference`".into()));
    }
    let mut check = workspace.command(&fumehood);
    check.args(["reference", "--check", "docs/reference"]);
    step.run(&mut check, SHORT)?;
    Ok(Outcome::Done)
}

fn tests(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let profile = if std::env::var_os("CI").is_some() {
        "ci"
    } else {
        "default"
    };
    let mut nextest = workspace.cargo(["nextest", "run", "--workspace", "--profile", profile]);
    // What is there is not skipped by mistake.
    if servers::is_there(workspace) {
        nextest.env("TESTS_REQUIRE_REDIS", "1");
    }
    if registry::is_there(workspace) {
        nextest.env("TESTS_REQUIRE_REGISTRY", "1");
    }
    if mock_provider::is_there(workspace) {
        nextest.env("TESTS_REQUIRE_MOCK_PROVIDER", "1");
    }
    if tracer::is_there(workspace) {
        nextest.env("TESTS_REQUIRE_STRACE", "1");
    }
    step.run(&mut nextest, LONG)?;
    Ok(match nextest_summary(&process::tail(step.log(), 200, 64 * 1024)) {
        Some(summary) => Outcome::Noted(summary),
        None => Outcome::Done,
    })
}

fn doc_tests(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    step.run(&mut workspace.cargo(["test", "--doc", "--workspace"]), LONG)?;
    Ok(Outcome::Done)
}

/// What the test runner counted.
fn nextest_summary(log: &[String]) -> Option<String> {
    let line = log
        .iter()
        .rev()
        .find(|line| line.trim_start().starts_with("Summary ["))?;
    Some(line.split_once(']')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compilers_version_is_told_from_a_longer_one() {
        for said in [
            "rustc 1.95.0 (59807616e 2026-04-14)",
            "rustc 1.95.2-beta.1 (x)",
            "rustc 1.95",
        ] {
            assert!(is_version(said, "1.95"), "{said}");
        }
        for said in [
            "rustc 1.96.0 (x)",
            "rustc 1.9.5",
            "rustc 11.95.0",
            "rustc 1.950.0",
            "clippy 1.95.0",
        ] {
            assert!(!is_version(said, "1.95"), "{said}");
        }
    }

    #[test]
    fn the_count_of_tests_is_taken_from_the_runners_summary() {
        let log = [
            "        PASS [   0.004s] (1/2) core ids".to_owned(),
            "     Summary [   3.210s] 120 tests run: 120 passed (1 slow), 2 skipped".to_owned(),
            String::new(),
        ];
        assert_eq!(
            nextest_summary(&log).as_deref(),
            Some("120 tests run: 120 passed (1 slow), 2 skipped")
        );
        assert_eq!(nextest_summary(&[]), None);
    }

    #[test]
    fn a_quick_run_leaves_out_something_but_never_the_tests() {
        let quick = |name: &str| {
            let check = CHECKS.iter().find(|check| check.name == name).unwrap();
            check.belongs_to(Extent::Quick)
        };
        assert!(quick("tests"));
        assert!(!quick("doc tests"));
        assert!(CHECKS.iter().all(|check| check.belongs_to(Extent::All)));
    }
}
