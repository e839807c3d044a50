//! One command of a build or of its tests, in a tool's folder: said, and run with the folder's own programs before those of the machine.

use super::{install::ENVIRONMENT, process};
use anyhow::{Context as _, bail};
use std::path::Path;
use tokio::process::Command;

/// Runs a command of a build. What it fails with is what it says itself.
pub(super) async fn step(dir: &Path, words: &[&str]) -> anyhow::Result<()> {
    step_with(dir, words, &[]).await
}

/// The same with these variables.
pub(super) async fn step_with(dir: &Path, words: &[&str], variables: &[(&str, &Path)]) -> anyhow::Result<()> {
    let shown = words.join(" ");
    crate::out::tell(&format!("{shown}\n"));
    let mut command = in_folder(dir, words)?;
    command.envs(variables.iter().copied());
    let status = process::run(&mut command)
        .await
        .with_context(|| format!("`{shown}` can't be run"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status}); what it says is above");
    }
    Ok(())
}

/// A command that finds the folder's own programs first.
pub(super) fn in_folder(dir: &Path, words: &[&str]) -> anyhow::Result<Command> {
    let [program, args @ ..] = words else {
        bail!("there is no command to run");
    };
    let mut command = process::command(program, args, dir)?;
    let programs = dir.join(ENVIRONMENT).join("bin");
    if programs.is_dir() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = [programs].into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(all)?);
    }
    Ok(command)
}
