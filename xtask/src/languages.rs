//! `cargo xtask languages`: the templates of `sdk/templates` as new projects, built with each language's own tools and tried in a real host.
//!
//! What a language needs is installed below `target`, pinned by version and digest. Where it can't be had the language is left out, and the
//! summary says so.

mod project;
mod toolkit;

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::checks;
use crate::demo;
use crate::progress::{Outcome, Progress, Step};
use crate::workspace::Workspace;
use project::Project;
use toolkit::Readiness;

/// A language with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    JavaScript,
    Python,
    C,
    Go,
}

const ALL: [Language; 5] = [
    Language::Rust,
    Language::JavaScript,
    Language::Python,
    Language::C,
    Language::Go,
];
/// Those that are built within seconds.
const QUICK: [Language; 3] = [Language::JavaScript, Language::Python, Language::C];

const TEST_LIMIT: Duration = Duration::from_secs(5 * 60);
const BUILD_LIMIT: Duration = Duration::from_secs(5 * 60);
const TRIAL_LIMIT: Duration = Duration::from_secs(5 * 60);

impl Language {
    /// The name of its template.
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::JavaScript => "js",
            Self::Python => "python",
            Self::C => "c",
            Self::Go => "go",
        }
    }
}

/// Builds the host and every language, and prints what each costs.
pub(crate) fn languages(workspace: &Workspace, progress: &mut Progress) -> Result<()> {
    demo::tools(workspace, progress)?;
    progress.step("build", |step| checks::build(workspace, step))?;
    progress.step("languages", |step| every(workspace, step, &ALL))?;
    let report = fs::read_to_string(report(workspace)).context("a trial that succeeded leaves a report")?;
    println!("\n{report}{}", progress.summary());
    Ok(())
}

/// Installs what the languages need that are built within seconds.
pub(crate) fn install(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    let port = port(workspace)?;
    let (mut ready, mut missing) = (Vec::new(), Vec::new());
    for language in QUICK {
        let project = Project::new(workspace, language, port);
        project.write()?;
        match toolkit::ready(language, &project, workspace, step)? {
            Readiness::Missing(why) => missing.push(format!("{}: {why}", language.name())),
            Readiness::Ready(_) => ready.push(language.name()),
        }
    }
    Ok(if missing.is_empty() {
        Outcome::Noted(ready.join(", "))
    } else {
        Outcome::Skipped(missing.join("; "))
    })
}

/// The languages that are built within seconds, against the host that is built.
pub(crate) fn quick(workspace: &Workspace, step: &mut Step) -> Result<Outcome> {
    every(workspace, step, &QUICK)
}

/// Every one of these languages that can be had here.
fn every(workspace: &Workspace, step: &mut Step, languages: &[Language]) -> Result<Outcome> {
    let port = port(workspace)?;
    let (mut ready, mut missing, mut times) = (Vec::new(), Vec::new(), String::new());
    for language in languages.iter().copied() {
        let project = Project::new(workspace, language, port);
        project.write()?;
        match toolkit::ready(language, &project, workspace, step)? {
            Readiness::Missing(why) => missing.push(format!("{}: {why}", language.name())),
            Readiness::Ready(toolkit) => {
                let began = Instant::now();
                build(&project, toolkit.commands(&project, workspace), step)
                    .with_context(|| format!("the template in {}", language.name()))?;
                times.push_str(&format!(" {} {:.0?}", language.name(), began.elapsed()));
                ready.push(language);
            }
        }
    }
    step.say(&format!("tested and built:{times}"));
    trial(workspace, step, port, &ready)?;
    let names: Vec<&str> = ready.iter().map(|language| language.name()).collect();
    Ok(if missing.is_empty() {
        Outcome::Noted(names.join(", "))
    } else {
        Outcome::Skipped(format!("tried {}; {}", names.join(", "), missing.join("; ")))
    })
}

/// Tests and builds a project, unless it was built as it is.
fn build(project: &Project, commands: Commands, step: &mut Step) -> Result<()> {
    if project.is_built()? {
        return Ok(());
    }
    let Commands { mut test, mut build } = commands;
    step.run(&mut test, TEST_LIMIT)?;
    step.run(&mut build, BUILD_LIMIT)?;
    project.note_built()
}

/// How a project is tested and built.
struct Commands {
    test: Command,
    build: Command,
}

/// Calls every component in a host; its table of costs goes to the report.
fn trial(workspace: &Workspace, step: &mut Step, port: u16, languages: &[Language]) -> Result<()> {
    let host = workspace.fumehood("debug");
    let program = host.with_file_name(format!("languages{}", env::consts::EXE_SUFFIX));
    let mut command = workspace.command(&program);
    command
        .arg(project::folder(workspace))
        .arg(port.to_string())
        .args(languages.iter().map(|language| language.name()))
        .env("FUMEHOOD_BIN", &host)
        .env("LANGUAGES_REPORT", report(workspace));
    step.run(&mut command, TRIAL_LIMIT)
}

fn report(workspace: &Workspace) -> PathBuf {
    project::folder(workspace).join("report.md")
}

/// The port of the API on loopback that the projects ask: the same as before if it is free, so that nothing is built anew.
fn port(workspace: &Workspace) -> Result<u16> {
    let folder = project::folder(workspace);
    let file = folder.join("port");
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let before = fs::read_to_string(&file).ok().and_then(|text| text.parse().ok());
    if let Some(port) = before.filter(is_free) {
        return Ok(port);
    }
    let free = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", workspace.shown(&folder)))?;
    fs::write(&file, free.to_string())?;
    Ok(free)
}

/// Copies a file that a build left.
fn keep(from: &Path, to: &Path) -> Result<()> {
    if !from.is_file() {
        bail!("the build left no {}", from.display());
    }
    fs::copy(from, to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_has_what_a_project_needs() {
        let templates = Workspace::locate().unwrap().root().join("sdk/templates");
        for language in ALL {
            let folder = templates.join(language.name());
            let text = fs::read_to_string(folder.join("README.md")).unwrap();
            assert!(text.contains("weather"), "{}", language.name());
            let identity = ["weather", "0.1.0", "Forecasts for cities."];
            assert_eq!(who(&folder, language), identity, "{}", language.name());
        }
    }

    /// Who a template's component is: name, version, description, from the one place that says it.
    fn who(folder: &Path, language: Language) -> [String; 3] {
        let manifest = fs::read_to_string(folder.join("tool.toml")).unwrap();
        let said = match language {
            Language::Rust => {
                assert!(manifest.starts_with('['), "Cargo.toml says it");
                fs::read_to_string(folder.join("Cargo.toml.template")).unwrap()
            }
            _ => manifest,
        };
        ["name", "version", "description"].map(|key| {
            let value = said
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            value.unwrap_or_default().trim_matches('"').to_owned()
        })
    }

    /// What a template's component asks for.
    fn requests(folder: &Path) -> String {
        let manifest = fs::read_to_string(folder.join("tool.toml")).unwrap();
        let asks = manifest.find('[').unwrap();
        manifest[asks..].to_owned()
    }

    #[test]
    fn every_template_asks_for_the_same_and_has_the_same_tests() {
        let templates = Workspace::locate().unwrap().root().join("sdk/templates");
        let tests = |folder: &Path| fs::read_to_string(folder.join("tests/forecast.toml")).unwrap();
        let rust = templates.join("rust");
        for language in ALL {
            let folder = templates.join(language.name());
            assert_eq!(requests(&folder), requests(&rust), "{}", language.name());
            assert_eq!(tests(&folder), tests(&rust), "{}", language.name());
        }
        assert!(requests(&rust).contains("[network]"));
    }
}
