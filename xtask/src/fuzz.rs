//! `cargo xtask fuzz`: the targets of `tests/fuzz` under libFuzzer, for a number of seconds each.
//!
//! Runs on a stable compiler: coverage instrumentation needs no nightly, only address sanitizing would, and the crates
//! that are fuzzed have no unsafe code. The corpus stays in `target/fuzz-corpus`, so that the next run begins where this
//! one ended; inputs that break a property are kept in `target/fuzz-artifacts`, and the command that repeats one is printed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::devtools::FUZZ;
use crate::progress::{Outcome, Progress};
use crate::workspace::Workspace;

/// In the order of `fuzz/Cargo.toml`.
const TARGETS: [&str; 6] = [
    "rules",
    "manifest",
    "install",
    "leak_guard",
    "http_request",
    "http_answer",
];
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
/// What libFuzzer may take beyond its own limit, to finish an input and write its corpus.
const GRACE: Duration = Duration::from_secs(120);

/// Which target, and for how long each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fuzzing {
    pub(crate) target: Option<String>,
    pub(crate) seconds: u64,
}

impl Fuzzing {
    /// Reads `[TARGET] [--seconds N]`.
    pub(crate) fn parse(args: &[&str]) -> Result<Self, String> {
        let (target, rest) = match args {
            [target, rest @ ..] if !target.starts_with('-') => (Some((*target).to_owned()), rest),
            rest => (None, rest),
        };
        if let Some(target) = target.as_deref().filter(|target| !TARGETS.contains(target)) {
            return Err(format!(
                "there is no fuzz target `{target}`; there are: {}",
                TARGETS.join(", ")
            ));
        }
        let seconds = match rest {
            [] => 300,
            ["--seconds", seconds] => seconds
                .parse()
                .ok()
                .filter(|seconds| *seconds > 0)
                .ok_or_else(|| format!("`--seconds` takes a number above zero, not `{seconds}`"))?,
            _ => return Err(format!("`fuzz` does not take `{}`", rest.join(" "))),
        };
        Ok(Self { target, seconds })
    }

    fn targets(&self) -> impl Iterator<Item = &'static str> {
        TARGETS
            .into_iter()
            .filter(|target| self.target.as_deref().is_none_or(|wanted| wanted == *target))
    }
}

/// Builds the harnesses and runs them one after the other; the first broken property ends the run.
pub(crate) fn fuzz(workspace: &Workspace, progress: &mut Progress, fuzzing: &Fuzzing) -> Result<()> {
    progress.step("setup", |step| {
        if workspace.find_program("c++").is_none() {
            bail!("libFuzzer needs a C++ compiler: install g++ or clang (on Debian: apt-get install g++)");
        }
        FUZZ.ready(workspace, step)
    })?;
    let corpus = workspace.target().join("fuzz-corpus");
    progress.step("seeds", |step| {
        let mut seeds = workspace.cargo(["run", "--quiet", "-p", "fumehood-fuzz", "--bin", "fuzz-seeds", "--"]);
        step.run(seeds.arg(&corpus), BUILD_LIMIT)?;
        // The harnesses are a workspace of their own; with this they have the versions that the host has.
        let lock = workspace.root().join("fuzz/Cargo.lock");
        fs::copy(workspace.root().join("Cargo.lock"), lock).context("cannot write fuzz/Cargo.lock")?;
        Ok(Outcome::Done)
    })?;
    progress.step("harnesses", |step| {
        step.run(&mut build(workspace), BUILD_LIMIT)?;
        Ok(Outcome::Done)
    })?;
    for target in fuzzing.targets() {
        let artifacts = workspace.target().join("fuzz-artifacts").join(target);
        fs::create_dir_all(&artifacts)?;
        progress.step(&format!("fuzz {target}"), |step| {
            // The program itself: `cargo fuzz run` would count what it builds against the time to run.
            let mut run = Command::new(harness(workspace, target)?);
            run.arg(corpus.join(target));
            run.arg(format!("-max_total_time={}", fuzzing.seconds));
            run.arg(format!("-artifact_prefix={}/", artifacts.display()));
            run.args(["-timeout=30", "-rss_limit_mb=4096", "-print_final_stats=1"]);
            let limit = Duration::from_secs(fuzzing.seconds) + GRACE;
            step.run(&mut run, limit)
                .with_context(|| format!("the input that broke {target} is in {}", workspace.shown(&artifacts)))?;
            let log = crate::process::tail(step.log(), 20, 16 * 1024);
            Ok(match executed(&log) {
                Some(inputs) => Outcome::Noted(format!("{inputs} inputs, none broke a property")),
                None => Outcome::Done,
            })
        })?;
    }
    print!("{}", progress.summary());
    Ok(())
}

fn build(workspace: &Workspace) -> Command {
    let mut cargo = workspace.cargo([
        "fuzz",
        "build",
        "--sanitizer",
        "none",
        "--fuzz-dir",
        "fuzz",
        "--target-dir",
    ]);
    cargo.arg(workspace.target().join("fuzz"));
    cargo
}

/// Where the harness of a target was built: below the directory of the machine's triple.
fn harness(workspace: &Workspace, target: &str) -> Result<PathBuf> {
    let built = workspace.target().join("fuzz");
    let triples = fs::read_dir(&built).with_context(|| format!("cannot read {}", workspace.shown(&built)))?;
    triples
        .filter_map(|entry| Some(entry.ok()?.path().join("release").join(target)))
        .find(|program| program.is_file())
        .with_context(|| {
            format!(
                "`cargo fuzz build` left no harness `{target}` in {}",
                workspace.shown(&built)
            )
        })
}

/// How many inputs libFuzzer ran.
fn executed(log: &[String]) -> Option<String> {
    log.iter()
        .rev()
        .find_map(|line| Some(line.strip_prefix("stat::number_of_executed_units:")?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_of_one_target_or_of_all() {
        let all = Fuzzing::parse(&[]).unwrap();
        assert_eq!((all.targets().count(), all.seconds), (TARGETS.len(), 300));
        let one = Fuzzing::parse(&["rules", "--seconds", "5"]).unwrap();
        assert_eq!(one.targets().collect::<Vec<_>>(), ["rules"]);
        assert_eq!(one.seconds, 5);
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_words() {
        assert!(Fuzzing::parse(&["frob"]).unwrap_err().contains("leak_guard"));
        assert!(Fuzzing::parse(&["--seconds", "0"]).unwrap_err().contains("above zero"));
        assert!(Fuzzing::parse(&["rules", "twice"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn each_target_has_a_harness() {
        let workspace = Workspace::locate().unwrap();
        let manifest = fs::read_to_string(workspace.root().join("fuzz/Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
            let harness = workspace.root().join(format!("fuzz/fuzz_targets/{target}.rs"));
            assert!(
                fs::read_to_string(harness).unwrap().contains(&format!("\"{target}\"")),
                "{target}"
            );
        }
    }

    #[test]
    fn the_number_of_inputs_is_read_from_the_statistics() {
        let log = ["stat::number_of_executed_units: 4711".to_owned(), "Done".to_owned()];
        assert_eq!(executed(&log).as_deref(), Some("4711"));
    }
}
