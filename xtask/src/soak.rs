//! `cargo xtask soak`: many mixed calls against one host, which must end where it began; the whole crash matrix; and a host that is killed under
//! load at any moment.

use std::{env, path::Path};

use anyhow::{Context, Result, bail};

use crate::checks;
use crate::demo;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// How many calls a soak makes if not told.
const CALLS: u32 = 100_000;
/// How often a host is killed under load.
const KILLS: &str = "500";

/// Reads `[CALLS]`.
pub(crate) fn parse(args: &[&str]) -> Result<u32, String> {
    match args {
        [] => Ok(CALLS),
        [calls] => calls
            .parse()
            .ok()
            .filter(|calls| *calls >= 1000)
            .ok_or_else(|| format!("`soak` takes a number of calls from 1000, not `{calls}`")),
        _ => Err(format!("`soak` does not take `{}`", args.join(" "))),
    }
}

/// Builds what the tests build and runs the soak, its table on the terminal.
pub(crate) fn soak(workspace: &Workspace, progress: &mut Progress, calls: u32) -> Result<()> {
    demo::tools(workspace, progress)?;
    progress.step("build", |step| checks::build(workspace, step))?;
    let host = workspace.fumehood("debug");
    let soak = host.with_file_name(format!("soak{}", env::consts::EXE_SUFFIX));
    let status = workspace
        .command(&soak)
        .arg(calls.to_string())
        .env("FUMEHOOD_GUESTS", workspace.guests())
        .env("FUMEHOOD_BIN", &host)
        .status()
        .with_context(|| format!("cannot start {}", workspace.shown(&soak)))?;
    if !status.success() {
        bail!("the host did not end where it began, or a call ended otherwise than it must: {status}");
    }
    crashes(workspace, &host)
}

/// Kills a host before and after everything that it writes; the tests do it on one side of each.
fn crashes(workspace: &Workspace, host: &Path) -> Result<()> {
    let args = ["test", "-p", "fumehood-tests", "--test", "crashes"];
    let status = workspace
        .cargo(args)
        .env("FUMEHOOD_GUESTS", workspace.guests())
        .env("FUMEHOOD_BIN", host)
        .env("FUMEHOOD_CRASHES", "all")
        .env("TESTS_KILLS", KILLS)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("something that was promised did not hold after a crash: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soak_is_long_unless_told() {
        assert_eq!(parse(&[]), Ok(CALLS));
        assert_eq!(parse(&["5000"]), Ok(5000));
        assert!(parse(&["10"]).is_err() && parse(&["many"]).is_err());
    }
}
