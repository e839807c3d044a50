//! `strace`, under which the tests of disks that fail let the store live, from the distribution's packages.
//!
//! Where it can't be installed, or may not trace, those tests are skipped, and the summary says so.

use std::process::Command;

use anyhow::Result;

use crate::apt;
use crate::process::output_of;
use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

const PROGRAM: &str = "strace";

/// Installs it if it is missing, where that is possible.
pub(crate) fn ready(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    if cfg!(not(target_os = "linux")) {
        return Ok(Outcome::Skipped(
            "no Linux: the tests of disks that fail are skipped".into(),
        ));
    }
    if workspace.find_program(PROGRAM).is_none() {
        apt::installs(workspace, step, &[PROGRAM])?;
    }
    if is_there(workspace) {
        return Ok(Outcome::Noted(PROGRAM.into()));
    }
    let text = "no strace that may trace: the tests of disks that fail are skipped (apt-get install strace)";
    Ok(Outcome::Skipped(text.into()))
}

/// Whether it is there and may trace.
pub(crate) fn is_there(workspace: &Workspace) -> bool {
    workspace.find_program(PROGRAM).is_some()
        // What it says where it may not is for nobody: the summary says it in our words.
        && output_of(Command::new(PROGRAM).args(["-qq", "-o", "/dev/null", "true"])).is_some()
}
