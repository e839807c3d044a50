//! Other programs, run for their work: compilers and tests. They end with whoever waits for them.

use anyhow::{Context as _, anyhow};
use std::{
    io,
    os::fd::AsFd as _,
    path::Path,
    process::{ExitStatus, Stdio},
};
use tokio::process::Command;

/// A command in a folder. What it says goes to standard error: standard output is for results.
pub(crate) fn command(program: &str, args: &[&str], dir: &Path) -> anyhow::Result<Command> {
    let said = io::stderr().as_fd().try_clone_to_owned()?;
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::from(said))
        .kill_on_drop(true);
    Ok(command)
}

/// Runs a command to its end. Dropped, it kills the command.
pub(crate) async fn run(command: &mut Command) -> anyhow::Result<ExitStatus> {
    command.status().await.map_err(|error| not_started(command, error))
}

/// Runs a command that answers in a line.
pub(super) async fn answer(mut command: Command) -> anyhow::Result<Option<String>> {
    let output = command.stdout(Stdio::piped()).output().await;
    let output = output.map_err(|error| not_started(&command, error))?;
    let said = String::from_utf8(output.stdout).context("it does not answer with text")?;
    Ok(output.status.success().then(|| said.trim().to_owned()))
}

/// Whether a program is on the PATH.
pub(super) fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

pub(super) fn not_started(command: &Command, error: io::Error) -> anyhow::Error {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    match error.kind() {
        io::ErrorKind::NotFound => anyhow!("`{program}` is not on the PATH"),
        _ => anyhow!(error).context(format!("cannot start `{program}`")),
    }
}
