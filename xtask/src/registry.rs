//! The registry that tests of distribution talk to, from the distribution's packages.
//!
//! Where it can't be installed those tests are skipped, and the summary says so. A registry of the tests' own, which lies, is always there.

use anyhow::Result;

use crate::apt;
use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

/// The program, and its package.
const PROGRAM: &str = "docker-registry";

/// Installs it if it is missing, where that is possible.
pub(crate) fn ready(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    if !is_there(workspace) {
        apt::installs(workspace, step, &[PROGRAM])?;
    }
    if is_there(workspace) {
        return Ok(Outcome::Noted(PROGRAM.into()));
    }
    let text = "no docker-registry: the tests with a real registry are skipped (apt-get install docker-registry)";
    Ok(Outcome::Skipped(text.into()))
}

/// Whether tests can start one.
pub(crate) fn is_there(workspace: &Workspace) -> bool {
    workspace.find_program(PROGRAM).is_some()
}
