//! The servers that some tests talk to, from the distribution's packages.
//!
//! A developer's own is used as it is. Where one can't be installed its tests are skipped, and the summary says so.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::{Ending, output_of};
use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

/// Any of these keeps the limits of several hosts.
const LIMITS_SERVERS: [&str; 2] = ["valkey-server", "redis-server"];
/// The package that has one in every Debian.
const PACKAGE: &str = "redis-server";
const APT_LIMIT: Duration = Duration::from_secs(5 * 60);

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
    if !apt_installs(workspace, step, &[PACKAGE])? {
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

/// Whether these packages are there now. Needs Debian and root.
pub(crate) fn apt_installs(workspace: &Workspace, step: &mut Step, packages: &[&str]) -> Result<bool> {
    if workspace.find_program("apt-get").is_none() {
        step.say("this is not Debian");
        return Ok(false);
    }
    if output_of(Command::new("id").arg("-u")).as_deref() != Some("0") {
        step.say(&format!("apt-get install {} needs root", packages.join(" ")));
        return Ok(false);
    }
    let install = [&["install", "-y", "-q", "--no-install-recommends"][..], packages].concat();
    for arguments in [&["-q", "update"][..], &install] {
        let mut apt = workspace.command("apt-get");
        // The tests start their own on a free port: nothing should listen on the usual one after this.
        apt.args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1");
        match step.attempt(&mut apt, APT_LIMIT)? {
            Ending::Exited(status) if status.success() => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn found(workspace: &Workspace) -> Option<&'static str> {
    LIMITS_SERVERS
        .into_iter()
        .find(|program| workspace.find_program(program).is_some())
}
