//! The mock of model providers that some tests talk to, from the npm registry: below `target`, pinned by version and digest.
//!
//! It needs node. Where node or the registry can't be had its tests are skipped, and the summary says so.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::apt;
use crate::process::{Ending, output_of};
use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

/// The files that pin it, and where they are.
const PINS: [&str; 2] = ["package.json", "package-lock.json"];
const PINNED_IN: &str = "tests/provider/npm";
/// Where it goes, below the developer tools.
const FOLDER: &str = "mock-provider";
/// A copy of the pins there says that this is what is installed.
const INSTALLED: &str = "installed.json";
/// The oldest node that it runs on.
const NODE: u32 = 20;
const NPM_LIMIT: Duration = Duration::from_secs(3 * 60);

/// Installs it if it is missing or another version, where that is possible.
pub(crate) fn ready(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let pinned_in = workspace.root().join(PINNED_IN);
    let folder = workspace.tools().join(FOLDER);
    let pins = fs::read_to_string(pinned_in.join(PINS[1])).with_context(|| format!("read {PINNED_IN}"))?;
    let skipped = |why: &str| {
        let text = format!("{why}: the tests with a provider that others wrote are skipped");
        Ok(Outcome::Skipped(text))
    };
    if !node_will_do(workspace) && !apt::installs(workspace, step, &["nodejs", "npm"])? {
        return skipped(&format!("no node {NODE} and npm, and apt could not install them"));
    }
    if !node_will_do(workspace) {
        return skipped(&format!("node is older than {NODE}"));
    }
    if is_there(workspace) {
        return Ok(Outcome::Noted("all there".into()));
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    for pin in PINS {
        fs::copy(pinned_in.join(pin), folder.join(pin)).with_context(|| format!("copy {PINNED_IN}/{pin}"))?;
    }
    match step.attempt(&mut npm_ci(workspace, &folder), NPM_LIMIT)? {
        Ending::Exited(status) if status.success() => {}
        _ => return skipped("npm could not install it (is the registry reachable?)"),
    }
    fs::write(folder.join(INSTALLED), pins)?;
    Ok(Outcome::Noted("installed".into()))
}

/// Whether tests can start it: what is installed is what is pinned.
pub(crate) fn is_there(workspace: &Workspace) -> bool {
    let pins = fs::read_to_string(workspace.root().join(PINNED_IN).join(PINS[1]));
    let installed = fs::read_to_string(workspace.tools().join(FOLDER).join(INSTALLED));
    matches!((pins, installed), (Ok(pins), Ok(installed)) if pins == installed) && node_will_do(workspace)
}

/// THREAT[T-supply-digest]: `ci` takes what the lock file has the digest of, and nothing else; no script of it runs.
pub(crate) fn npm_ci(workspace: &Workspace, folder: &Path) -> Command {
    let mut npm = workspace.command("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(folder);
    npm
}

/// Whether node is new enough, and npm there.
pub(crate) fn node_will_do(workspace: &Workspace) -> bool {
    let version = output_of(workspace.command("node").arg("--version"));
    workspace.find_program("npm").is_some() && version.as_deref().and_then(major).is_some_and(|major| major >= NODE)
}

/// The first number of `v20.20.2`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_the_mock_provider_is_pinned_by_its_digest() {
        let workspace = Workspace::locate().unwrap();
        let lock = fs::read_to_string(workspace.root().join(PINNED_IN).join(PINS[1])).unwrap();
        let packages = lock.matches("\"node_modules/").count();
        assert_eq!(lock.matches("\"integrity\": \"sha512-").count(), packages);
        assert_ne!(packages, 0);
        let line = crate::process::line(&npm_ci(&workspace, Path::new("/")));
        assert!(line.starts_with("npm ci --ignore-scripts"), "{line}");
    }

    #[test]
    fn the_version_of_node_is_read_as_it_is_told() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("20"), None);
    }
}
