//! From a tool's folder to its component: built by its language, stripped, with the folder's manifest in it.

use super::{Language, Project, process, project::component_file, rust, sections};
use anyhow::{Context as _, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A component that was built.
pub(crate) struct Built {
    /// Where it is.
    pub(crate) file: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// What stripping took away, in bytes.
    pub(crate) stripped: u64,
}

/// Builds the component of a folder. Dropped, it stops the compiler, and the component is the one before or the new one.
pub(crate) async fn build(project: &Project) -> anyhow::Result<Built> {
    let made = match project.language {
        Language::Rust => rust::build(&project.dir).await?,
        Language::Js | Language::Python | Language::C | Language::Go => by_script(project).await?,
    };
    let bytes = fs::read(&made).with_context(|| format!("cannot read {}", made.display()))?;
    let finished = sections::finish(&bytes, &project.text)
        .with_context(|| format!("{} was built, but can't be used", made.display()))?;
    let file = project.component();
    write_atomically(&file, &finished)?;
    Ok(Built {
        file,
        size: finished.len() as u64,
        stripped: (bytes.len() as u64).saturating_sub(finished.len() as u64),
    })
}

/// Runs the tests of a folder, as its language does; whether they passed.
pub(crate) async fn test(project: &Project) -> anyhow::Result<bool> {
    match project.language {
        Language::Rust => rust::test(&project.dir).await,
        language => {
            let command: (&str, &[&str]) = match language {
                _ if project.dir.join("test.sh").is_file() => ("sh", &["test.sh"]),
                Language::Js => ("npm", &["test"]),
                Language::Python => ("python3", &["-m", "unittest"]),
                Language::Go => ("go", &["test", "./..."]),
                _ => bail!(
                    "a tool in {language} is tested by {}, which is not there; or say what to call: `fumehood tool dev -- TOOL JSON`",
                    project.dir.join("test.sh").display()
                ),
            };
            let mut command = process::command(command.0, command.1, &project.dir)?;
            Ok(process::run(&mut command).await?.success())
        }
    }
}

/// Has the folder's own build make it, with what it needs and the machine lacks installed in the folder.
async fn by_script(project: &Project) -> anyhow::Result<PathBuf> {
    let (language, dir) = (project.language, &*project.dir);
    let has = |name: &str| dir.join(name).exists();
    if has("package-lock.json") && !has("node_modules") {
        // What the lock file pins, and none of its packages' own scripts.
        step(dir, &["npm", "ci", "--ignore-scripts"]).await?;
    }
    if has("requirements.txt") && !has(ENVIRONMENT) && lacks_its_compiler(language) {
        step(dir, &["python3", "-m", "venv", ENVIRONMENT]).await?;
        let pip = dir.join(ENVIRONMENT).join("bin/pip").display().to_string();
        // Also what pip would take on trust has to be what the file pins.
        step(
            dir,
            &[&pip, "install", "--quiet", "--require-hashes", "-r", "requirements.txt"],
        )
        .await?;
    }
    if has("build.sh") {
        step(dir, &["sh", "build.sh"]).await?;
    } else if language == Language::Js {
        step(dir, &["npm", "run", "build"]).await?;
    } else {
        bail!(
            "a tool in {language} is built by {}, which is not there: write one that leaves {} beside it, or take that of `fumehood tool \
             new NAME --lang {language}`",
            dir.join("build.sh").display(),
            component_file(&project.manifest.name)
        );
    }
    let made = project.component();
    if !made.is_file() {
        bail!("the build left no {}", made.display());
    }
    Ok(made)
}

/// Where a folder has programs of Python's packages.
const ENVIRONMENT: &str = ".venv";

/// Whether what the template's `requirements.txt` brings is not there in another way.
fn lacks_its_compiler(language: Language) -> bool {
    match language {
        Language::Rust | Language::Js => false,
        Language::Python => !process::is_there("componentize-py"),
        Language::C => std::env::var_os("CC").is_none(),
        Language::Go => !process::is_there("go"),
    }
}

/// Runs one command of a build, with the folder's own programs before those of the machine. Each is said.
async fn step(dir: &Path, words: &[&str]) -> anyhow::Result<()> {
    let [program, args @ ..] = words else { return Ok(()) };
    let shown = words.join(" ");
    crate::out::tell(&format!("{shown}\n"));
    let mut command = process::command(program, args, dir)?;
    let programs = dir.join(ENVIRONMENT).join("bin");
    if programs.is_dir() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env(
            "PATH",
            std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path)))?,
        );
    }
    let status = process::run(&mut command)
        .await
        .with_context(|| format!("`{shown}` can't be run"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status}); what it says is above");
    }
    Ok(())
}

/// Whoever reads the file meanwhile has the component before or the new one.
fn write_atomically(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let unfinished = file.with_extension(format!("wasm.{}.partial", std::process::id()));
    let written = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, file));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}
