//! Which compiler builds the guests: finding one that has `wasm32-wasip2`, or installing
//! it. Routes in order: what is there, rustup, Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::debian;
use crate::process::{Ending, output_of};
use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

pub(crate) const TARGET: &str = "wasm32-wasip2";

/// On a closed network rustup waits for long, several times over.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);

/// A compiler for guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Toolchain {
    kind: Kind,
    identity: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// The compiler of the host, which has the target's standard library.
    Own,
    /// Debian's second compiler with a standard library that `setup` built.
    Debian(debian::Compiler),
}

impl Toolchain {
    /// A compiler that is ready, without installing anything.
    pub(crate) fn find() -> Option<Self> {
        Self::own().or_else(|| {
            let compiler = debian::Compiler::find()?;
            Some(Self {
                identity: compiler.version().to_owned(),
                kind: Kind::Debian(compiler),
            })
        })
    }

    fn own() -> Option<Self> {
        let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]))?;
        let identity = standard_library(Path::new(&sysroot))?;
        Some(Self {
            kind: Kind::Own,
            identity,
        })
    }

    /// Finds a compiler, or installs what is missing.
    pub(crate) fn ready(workspace: &Workspace, step: &mut Step) -> Result<(Self, Outcome)> {
        if let Some(found) = Self::find() {
            let note = format!("{TARGET}: {}", found.describe());
            return Ok((found, Outcome::Noted(note)));
        }
        let mut refusals = Vec::new();
        step.say(&format!("{TARGET} is not installed"));
        if let Err(why) = rustup(workspace, step) {
            refusals.push(format!("rustup: {why:#}"));
            step.say(&format!("rustup: {why:#}; trying Debian's packages"));
            if let Err(why) = debian::install(workspace, step) {
                refusals.push(format!("Debian: {why:#}"));
            }
        }
        match Self::find() {
            Some(found) => {
                let note = format!("{TARGET} installed: {}", found.describe());
                Ok((found, Outcome::Noted(note)))
            }
            None => bail!("{}", explain(&refusals)),
        }
    }

    /// Says where the compiler comes from.
    fn describe(&self) -> String {
        match &self.kind {
            Kind::Own => "the host's own compiler".into(),
            Kind::Debian(compiler) => format!("Debian's rustc {}", compiler.version()),
        }
    }

    /// What tells one compiler's output from another's.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Makes a cargo command build for [`TARGET`] with this compiler.
    pub(crate) fn configure(&self, cargo: &mut Command) {
        if let Kind::Debian(compiler) = &self.kind {
            compiler.configure(cargo);
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(identity: &str) -> Self {
        Self {
            kind: Kind::Own,
            identity: identity.to_owned(),
        }
    }
}

/// The file name of the target's `libstd`, which carries a hash of the compiler.
fn standard_library(sysroot: &Path) -> Option<String> {
    let dir: PathBuf = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("libstd-") && name.ends_with(".rlib"))
}

fn rustup(workspace: &Workspace, step: &mut Step) -> Result<()> {
    if workspace.find_program("rustup").is_none() {
        bail!("not installed");
    }
    step.say(&format!(
        "rustup target add {TARGET} (at most {} s)",
        RUSTUP_LIMIT.as_secs()
    ));
    let mut command = workspace.command("rustup");
    command.args(["target", "add", TARGET]);
    match step.attempt(&mut command, RUSTUP_LIMIT)? {
        Ending::Exited(status) if status.success() && Toolchain::own().is_some() => Ok(()),
        Ending::Exited(status) if status.success() => {
            bail!("added the target, but to another compiler than the `rustc` on PATH")
        }
        Ending::Exited(_) => bail!("could not fetch the target"),
        Ending::TimedOut => bail!("no answer within {} s", RUSTUP_LIMIT.as_secs()),
    }
}

fn explain(refusals: &[String]) -> String {
    let mut text = format!("no compiler for {TARGET}, which the guests need. Tried:");
    for refusal in refusals {
        text.push_str("\n  - ");
        text.push_str(refusal);
    }
    text.push_str("\nInstall one of:");
    text.push_str("\n  - with rustup:   rustup target add ");
    text.push_str(TARGET);
    text.push_str("\n  - on Debian 12+, as root:   apt-get install ");
    text.push_str(&debian::PACKAGES.join(" "));
    text.push_str("\n  - or your distribution's package of Rust's standard library for ");
    text.push_str(TARGET);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysroot_without_the_target_has_no_standard_library_for_it() {
        let dir = std::env::temp_dir().join(format!("xtask-sysroot-{}", std::process::id()));
        let lib = dir.join("lib/rustlib").join(TARGET).join("lib");
        fs::create_dir_all(&lib).unwrap();
        assert_eq!(standard_library(&dir), None);
        fs::write(lib.join("libstd-0123.rlib"), "").unwrap();
        assert_eq!(standard_library(&dir).as_deref(), Some("libstd-0123.rlib"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_last_word_says_what_was_tried_and_what_to_install() {
        let text = explain(&["rustup: not installed".into(), "Debian: not root".into()]);
        assert!(text.contains("- rustup: not installed"), "{text}");
        assert!(text.contains("rustup target add wasm32-wasip2"), "{text}");
        assert!(text.contains("rustc-web"), "{text}");
    }
}
