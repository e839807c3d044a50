//! `cargo xtask bench`: the benchmarks, in release mode, with their output on the terminal.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::demo::{self, Profile};
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Packages and their benchmarks of one crate at a time.
const BENCHES: [(&str, &str); 4] = [
    ("fumehood-sandbox", "call"),
    ("fumehood-egress", "door"),
    ("fumehood-store", "journal"),
    ("fumehood-agent", "step"),
];

/// Builds in release mode and runs the benchmarks whose name contains `filter`.
pub(crate) fn bench(workspace: &Workspace, progress: &mut Progress, filter: Option<&str>) -> Result<()> {
    demo::build(workspace, progress, Profile::Release)?;

    let mut calls = workspace.cargo(["bench"]);
    for (package, bench) in BENCHES {
        calls.args(["-p", package, "--bench", bench]);
    }
    if let Some(filter) = filter {
        calls.args(["--", filter]);
    }
    shown(workspace, &mut calls)?;

    let mut host = workspace.cargo(["run", "--release", "-p", "fumehood-tests", "--bin", "bench-host", "--"]);
    host.args(filter);
    shown(workspace, &mut host)
}

fn shown(workspace: &Workspace, command: &mut Command) -> Result<()> {
    let status = command
        .env("FUMEHOOD_GUESTS", workspace.guests())
        .env("FUMEHOOD_BIN", workspace.fumehood("release"))
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("`{}` ended with {status}", crate::process::line(command));
    }
    Ok(())
}
