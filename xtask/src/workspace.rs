//! Where things are, and how a child process of the workspace is started.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The work tree that the developer commands act on.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace this program was built from.
    pub(crate) fn locate() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask has no parent directory")?
            .to_path_buf();
        if !root.join("Cargo.toml").is_file() {
            bail!("{} is gone: run `cargo xtask` inside the work tree", root.display());
        }
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) if !dir.is_empty() => root.join(dir),
            _ => root.join("target"),
        };
        Ok(Self { root, target })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts the host's build.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The built guests: `files.wasm`, `http.wasm`, … Always under the work tree's own
    /// `target`, wherever cargo builds, because the host's build script looks there.
    pub(crate) fn guests(&self) -> PathBuf {
        self.root.join("target/guests")
    }

    /// Guests have their own target directory, so that a build of the host and a build of
    /// the guests neither wait for each other's lock nor share fingerprints.
    pub(crate) fn guests_build(&self) -> PathBuf {
        self.root.join("target/guests-build")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("target/xtask-logs")
    }

    /// Root of the developer tools that `setup` installs, with their `bin` folder.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("target/xtask-tools")
    }

    /// A path of the work tree as a person would write it.
    pub(crate) fn shown<'p>(&self, path: &'p Path) -> std::path::Display<'p> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    /// The `fumehood` binary of a profile (`debug`, `release`).
    pub(crate) fn fumehood(&self, profile: &str) -> PathBuf {
        self.target
            .join(profile)
            .join(format!("fumehood{}", env::consts::EXE_SUFFIX))
    }

    pub(crate) fn cargo<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = self.command(cargo);
        command.args(args).env("CARGO_TERM_COLOR", "never");
        command
    }

    /// A command in the root of the work tree that finds the installed developer tools.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("PATH", self.search_path());
        // `cargo run` describes this package in the environment; a nested cargo that sees
        // it would believe that build scripts have to run again.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(describes_this_package) {
                command.env_remove(name);
            }
        }
        command
    }

    /// `PATH` with the installed developer tools last: a developer's own come first.
    pub(crate) fn search_path(&self) -> std::ffi::OsString {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
        dirs.push(self.tools().join("bin"));
        env::join_paths(dirs).unwrap_or(path)
    }

    /// The file that running `program` would start.
    pub(crate) fn find_program(&self, program: &str) -> Option<PathBuf> {
        let file = format!("{program}{}", env::consts::EXE_SUFFIX);
        env::split_paths(&self.search_path())
            .map(|dir| dir.join(&file))
            .find(|path| path.is_file())
    }
}

fn describes_this_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_") || variable.starts_with("CARGO_BIN_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_this_package_are_told_from_those_of_the_developer() {
        assert!(describes_this_package("CARGO_PKG_NAME"));
        assert!(describes_this_package("CARGO_MANIFEST_DIR"));
        assert!(!describes_this_package("CARGO_TARGET_DIR"));
        assert!(!describes_this_package("CARGO_HOME"));
    }

    #[test]
    fn the_workspace_is_the_parent_of_this_crate() {
        let workspace = Workspace::locate().unwrap();
        assert!(workspace.root().join("xtask/Cargo.toml").is_file());
        assert_eq!(workspace.shown(&workspace.logs()).to_string(), "target/xtask-logs");
    }
}
