//! `cargo xtask soak`: many mixed calls against one host, which must end where it began.

use anyhow::{Context, Result, bail};

use crate::demo::{self, Profile};
use crate::progress::Progress;
use crate::workspace::Workspace;

/// How many calls a soak makes if not told.
const CALLS: u32 = 100_000;

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

/// Builds the host as the tests do and runs the soak, its table on the terminal.
pub(crate) fn soak(workspace: &Workspace, progress: &mut Progress, calls: u32) -> Result<()> {
    demo::build(workspace, progress, Profile::Dev)?;
    let mut soak = workspace.cargo(["run", "--quiet", "-p", "fumehood-tests", "--bin", "soak", "--"]);
    let status = soak
        .arg(calls.to_string())
        .env("FUMEHOOD_GUESTS", workspace.guests())
        .env("FUMEHOOD_BIN", workspace.fumehood("debug"))
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the host did not end where it began, or a call ended otherwise than it must: {status}");
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
