//! A model provider for tests: a mock that others wrote ([`MockProvider`]), and a line to it that fails as told
//! ([`Line`]).
//!
//! The mock is npm's `@copilotkit/aimock`, pinned in `tests/provider/npm`. `cargo xtask setup` installs it below `target`;
//! it needs node 20. Nothing of the host is linked in.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails by panicking"
)]

mod line;

pub use line::{Fault, Line};

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long the mock may take to start.
const START_TIME: Duration = Duration::from_secs(60);
/// Where it is installed, from the root of the work tree.
const PROGRAM: &str = "target/xtask-tools/mock-provider/node_modules/@copilotkit/aimock/dist/cli.js";
/// Whether tests fail where it is not installed.
const REQUIRED: &str = "TESTS_REQUIRE_MOCK_PROVIDER";

/// A running mock of every provider, on loopback; ends when dropped.
pub struct MockProvider {
    url: String,
    _script: TempDir,
    _process: Child,
}

impl MockProvider {
    /// Starts one that answers as these fixtures say. Where the mock is not installed the test says that it was skipped.
    pub async fn start(fixtures: &Value) -> Option<Self> {
        let program = installed()?;
        let script = TempDir::new().unwrap();
        let file = script.path().join("fixtures.json");
        std::fs::write(&file, fixtures.to_string()).unwrap();
        let mut process = Command::new("node")
            .arg(program)
            .args(["--port", "0", "--strict", "--chunk-size", "10", "--fixtures"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("node does not run ({error}); run `cargo xtask setup`"));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, url)) = line.split_once("listening on ") {
                    return url.trim().to_owned();
                }
            }
            panic!("the mock provider ended before it listened; does `node --version` say 20 or more?");
        };
        let url = timeout(START_TIME, listening)
            .await
            .expect("the mock provider did not listen in time");
        // Its log has to be read on, or it stops when the pipe is full.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self {
            url,
            _script: script,
            _process: process,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// The mock's program, if it is installed.
fn installed() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let program = root.join(PROGRAM);
    if program.is_file() {
        return Some(program);
    }
    eprintln!("SKIPPED: the mock provider is not installed; `cargo xtask setup` installs it");
    assert!(std::env::var_os(REQUIRED).is_none(), "it is required here");
    None
}
