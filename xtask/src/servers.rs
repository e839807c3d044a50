//! The servers that some tests talk to, from the distribution's packages.
//!
//! A developer's own is used as it is. Where one can't be installed its tests are skipped, and the summary says so.

use anyhow::Result;

use crate::apt;
use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

/// Any of these keeps the limits of several hosts.
const LIMITS_SERVERS: [&str; 2] = ["valkey-server", "redis-server"];
/// The package that has one in every Debian.
const PACKAGE: &str = "redis-server";

/// Installs what is missing, where that is possible.
pub(crate) fn ready(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    if let Some(found) = found(workspace) {
        return Ok(Outcome::Noted(found.into()));
    }
    let skipped = |why: &str| {
        let text = format!(
            "no Valkey or Redis, {why}: the tests with a real store of limits are skipped (apt-get install {PACKAGE})"
        );
        Ok(Outcome::Skipped(text))
    };
    if !apt::installs(workspace, step, &[PACKAGE])? {
        return skipped("and apt could not install it");
    }
    match found(workspace) {
        Some(found) => Ok(Outcome::Noted(format!("installed {found}"))),
        None => skipped("though its package is installed"),
    }
}

/// Whether tests can start one.
pub(crate) fn is_there(workspace: &Workspace) -> bool {
    found(workspace).is_some()
}

fn found(workspace: &Workspace) -> Option<&'static str> {
    LIMITS_SERVERS
        .into_iter()
        .find(|program| workspace.find_program(program).is_some())
}
