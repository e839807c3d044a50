//! Packages of Debian, where there is Debian and its root. Their lists are fetched once for all that one command installs.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::process::{Ending, output_of};
use crate::progress::Step;
use crate::workspace::Workspace;

const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Whether the lists were fetched by this process.
static FETCHED: AtomicBool = AtomicBool::new(false);

/// Whether these packages are there now.
pub(crate) fn installs(workspace: &Workspace, step: &mut Step, packages: &[&str]) -> Result<bool> {
    if workspace.find_program("apt-get").is_none() {
        step.say("this is not Debian");
        return Ok(false);
    }
    if output_of(Command::new("id").arg("-u")).as_deref() != Some("0") {
        step.say(&format!("apt-get install {} needs root", packages.join(" ")));
        return Ok(false);
    }
    step.say(&format!("apt-get install {}", packages.join(" ")));
    for arguments in commands(packages, &FETCHED) {
        let mut apt = workspace.command("apt-get");
        // The tests start their own servers on a free port: nothing should listen on the usual one after this.
        apt.args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1");
        match step.attempt(&mut apt, LIMIT)? {
            Ending::Exited(status) if status.success() => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// What apt is told: to fetch its lists, if nobody has, and to install.
fn commands<'a>(packages: &[&'a str], fetched: &AtomicBool) -> Vec<Vec<&'a str>> {
    let install = [&["install", "-y", "-q", "--no-install-recommends"][..], packages].concat();
    // Also where it fails it is not tried again: a registry that can't be reached once is waited for once.
    if fetched.swap(true, Ordering::Relaxed) {
        vec![install]
    } else {
        vec![vec!["-q", "update"], install]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_fetched_once_for_all_packages() {
        let fetched = AtomicBool::new(false);
        let words = |packages: &[&'static str]| {
            commands(packages, &fetched)
                .iter()
                .map(|words| words.join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(&["strace"]),
            ["-q update", "install -y -q --no-install-recommends strace"]
        );
        assert_eq!(
            words(&["nodejs", "npm"]),
            ["install -y -q --no-install-recommends nodejs npm"]
        );
    }
}
