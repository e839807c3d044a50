//! What is fuzzed: everything that reads hostile bytes, as plain functions with the properties that must hold.
//!
//! A function gets any bytes and panics when a property does not hold. The same functions run under libFuzzer
//! (`cargo xtask fuzz`, for minutes or days) and on mutated seeds in the tests (seconds).
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a property that does not hold is reported by panicking"
)]

mod answer;
mod install;
mod leak_guard;
mod manifest;
mod outside;
mod request;
mod rules;

/// One thing that is fuzzed.
pub struct Target {
    /// Its name: that of its harness in `fuzz/fuzz_targets` and of its corpus.
    pub name: &'static str,
    /// Runs it on one input.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many mutated inputs the tests run.
    pub short: usize,
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "rules",
        run: rules::run,
        seeds: rules::seeds,
        short: 40_000,
    },
    Target {
        name: "manifest",
        run: manifest::run,
        seeds: manifest::seeds,
        short: 4_000,
    },
    Target {
        name: "install",
        run: install::run,
        seeds: install::seeds,
        short: 150,
    },
    Target {
        name: "leak_guard",
        run: leak_guard::run,
        seeds: leak_guard::seeds,
        short: 1_500,
    },
    Target {
        name: "http_request",
        run: request::run,
        seeds: request::seeds,
        short: 1_500,
    },
    Target {
        name: "http_answer",
        run: answer::run,
        seeds: answer::seeds,
        short: 1_500,
    },
];

/// Runs the target of that name, for its harness.
///
/// # Panics
/// When there is none, or a property does not hold.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a harness is named like its target").run)(input);
}

/// The lines of an input, as far as it is text.
fn lines(input: &[u8]) -> Option<std::str::Lines<'_>> {
    std::str::from_utf8(input).ok().map(str::lines)
}

fn owned(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}
