//! What builds a project in each language: installed where it is missing, and the commands that use it.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::project::Project;
use super::{Commands, Language};
use crate::devtools;
use crate::mock_provider::{node_will_do, npm_ci};
use crate::process::{Ending, output_of};
use crate::progress::Step;
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::Workspace;

const INSTALL_LIMIT: Duration = Duration::from_secs(5 * 60);
/// What is installed is that of this file.
const INSTALLED: &str = "installed";

/// Whether a language can be built here.
pub(super) enum Readiness {
    Ready(Toolkit),
    /// No, and why.
    Missing(String),
}

/// The tools of one language.
pub(super) enum Toolkit {
    Rust(Toolchain),
    /// In the project's own `node_modules`.
    Node,
    /// Packages of the Python package index in a folder.
    Python(PathBuf),
    /// The same, with a C compiler.
    C(PathBuf),
    /// The same, with Go.
    Go(PathBuf),
}

/// Finds or installs what a language needs.
pub(super) fn ready(
    language: Language,
    project: &Project,
    workspace: &Workspace,
    step: &mut Step,
) -> Result<Readiness> {
    let ready = |toolkit| Ok(Readiness::Ready(toolkit));
    let missing = |why: &str| Ok(Readiness::Missing(why.to_owned()));
    match language {
        Language::Rust => match Toolchain::find() {
            Some(toolchain) => ready(Toolkit::Rust(toolchain)),
            None => missing("no compiler for wasm32-wasip2"),
        },
        Language::JavaScript if !node_will_do(workspace) => missing("no node 20 and npm"),
        Language::JavaScript => {
            let modules = project.folder().join("node_modules");
            let lock = project.folder().join("package-lock.json");
            let mut install = npm_ci(workspace, project.folder());
            if !installed(&lock, &modules, &mut install, step)? {
                return missing("npm could not install its tools (is the registry reachable?)");
            }
            ready(Toolkit::Node)
        }
        Language::C if !links_components() => {
            missing("the `rustc` on PATH has no C library and linker for wasm32-wasip2 (rustup target add)")
        }
        Language::Python | Language::C | Language::Go => {
            if output_of(
                workspace
                    .command("python3")
                    .args(["-c", "import sys; sys.exit(sys.version_info < (3, 10))"]),
            )
            .is_none()
            {
                return missing("no Python 3.10");
            }
            let folder = workspace.tools().join("languages").join(language.name());
            let requirements = project.folder().join("requirements.txt");
            fs::create_dir_all(&folder)?;
            let mut install = devtools::pip_install(workspace, &requirements, &folder);
            if !installed(&requirements, &folder, &mut install, step)? {
                return missing("pip could not install its tools (is the registry reachable?)");
            }
            ready(match language {
                Language::C => Toolkit::C(folder),
                Language::Go => Toolkit::Go(folder),
                _ => Toolkit::Python(folder),
            })
        }
    }
}

/// Runs `install` unless `folder` has what `pins` names already. THREAT[T-supply-digest]: both installers check digests.
fn installed(pins: &Path, folder: &Path, install: &mut Command, step: &mut Step) -> Result<bool> {
    let note = folder.join(INSTALLED);
    let wanted = fs::read_to_string(pins).with_context(|| format!("cannot read {}", pins.display()))?;
    if fs::read_to_string(&note).is_ok_and(|there| there == wanted) {
        return Ok(true);
    }
    // pip adds to nothing that is there.
    if folder.is_dir() {
        fs::remove_dir_all(folder)?;
    }
    match step.attempt(install, INSTALL_LIMIT)? {
        Ending::Exited(status) if status.success() => {}
        _ => return Ok(false),
    }
    fs::write(note, wanted)?;
    Ok(true)
}

/// Whether the `rustc` on `PATH` has a C library and a linker for components.
fn links_components() -> bool {
    let libraries = |more: &[&str]| {
        let printed = output_of(Command::new("rustc").args(["--print", "target-libdir"]).args(more));
        printed.map(PathBuf::from)
    };
    let linker = libraries(&[]).and_then(|own| Some(own.parent()?.join("bin/wasm-component-ld")));
    let library = libraries(&["--target", TARGET]).map(|target| target.join("self-contained/libc.a"));
    [linker, library]
        .into_iter()
        .all(|file| file.is_some_and(|file| file.is_file()))
}

impl Toolkit {
    /// How a project is tested and built with it, as its README says.
    pub(super) fn commands(&self, project: &Project, workspace: &Workspace) -> Commands {
        let command = |line: &[&str]| {
            let mut command = workspace.command(line[0]);
            command.args(&line[1..]).current_dir(project.folder());
            command
        };
        match self {
            Self::Rust(toolchain) => {
                let cargo = |arguments: &[&str]| {
                    let mut cargo = workspace.cargo(arguments);
                    cargo
                        .current_dir(project.folder())
                        .env("CARGO_TARGET_DIR", project.folder().join("target"));
                    cargo
                };
                let mut build = cargo(&["build", "--release", "--target", TARGET]);
                toolchain.configure(&mut build);
                Commands {
                    test: cargo(&["test"]),
                    build,
                }
            }
            Self::Node => Commands {
                test: command(&["npm", "test"]),
                build: command(&["npm", "run", "build"]),
            },
            Self::Python(folder) => Commands {
                test: command(&["python3", "-m", "unittest"]),
                build: with_packages(command(&["sh", "build.sh"]), folder, workspace),
            },
            Self::Go(folder) => Commands {
                test: with_packages(command(&["go", "test"]), folder, workspace),
                build: with_packages(command(&["sh", "build.sh"]), folder, workspace),
            },
            Self::C(folder) => Commands {
                test: with_packages(command(&["sh", "test.sh"]), folder, workspace),
                build: with_packages(command(&["sh", "build.sh"]), folder, workspace),
            },
        }
    }
}

/// A command that finds the packages that pip put into a folder, and their programs.
fn with_packages(mut command: Command, folder: &Path, workspace: &Workspace) -> Command {
    let path = workspace.search_path();
    let folders = std::iter::once(folder.join("bin")).chain(env::split_paths(&path));
    command.env("PATH", env::join_paths(folders).unwrap_or(path.clone()));
    command.env("PYTHONPATH", folder).env("GOTOOLCHAIN", "local");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_the_templates_is_pinned_by_its_digest() {
        let templates = Workspace::locate().unwrap().root().join("sdk/templates");
        for language in ["python", "c", "go"] {
            let text = fs::read_to_string(templates.join(language).join("requirements.txt")).unwrap();
            let packages = text.lines().filter(|line| line.contains("==")).count();
            assert!(
                packages > 0 && text.matches("--hash=sha256:").count() >= 3 * packages,
                "{text}"
            );
        }
        let lock = fs::read_to_string(templates.join("js/package-lock.json")).unwrap();
        let packages = lock.matches("\"node_modules/").count();
        assert_eq!(lock.matches("\"integrity\": \"sha512-").count(), packages);
        assert!(packages > 0 && !lock.contains("\"resolved\""), "{lock}");
    }
}
