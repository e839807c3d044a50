//! From sources to a running host: `tools`, `build` and `demo`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::guests;
use crate::progress::{Outcome, Progress};
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// How the host is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Builds the guests.
pub(crate) fn tools(workspace: &Workspace, progress: &mut Progress) -> Result<()> {
    let mut ready = None;
    progress.step("guest compiler", |step| {
        let (toolchain, outcome) = Toolchain::ready(workspace, step)?;
        ready = Some(toolchain);
        Ok(outcome)
    })?;
    let toolchain = ready.context("a step that succeeded leaves a compiler")?;
    progress.step("guests", |step| guests::build(workspace, step, &toolchain))
}

/// Builds the guests, then the host, which carries the standard tools inside.
pub(crate) fn build(workspace: &Workspace, progress: &mut Progress, profile: Profile) -> Result<()> {
    tools(workspace, progress)?;
    progress.step("host", |step| {
        let mut cargo = workspace.cargo(["build", "-p", "fumehood-cli"]);
        if profile == Profile::Release {
            cargo.arg("--release");
        }
        step.run(&mut cargo, BUILD_LIMIT)?;
        let binary = workspace.fumehood(profile.directory());
        Ok(Outcome::Noted(workspace.shown(&binary).to_string()))
    })
}

/// Builds what is needed and hands the terminal to `fumehood demo`.
pub(crate) fn demo(workspace: &Workspace, progress: &mut Progress) -> Result<ExitCode> {
    build(workspace, progress, Profile::Dev)?;
    eprintln!();
    let binary = workspace.fumehood(Profile::Dev.directory());
    let status = workspace
        .command(&binary)
        .arg("demo")
        .status()
        .with_context(|| format!("cannot start {}", workspace.shown(&binary)))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}
