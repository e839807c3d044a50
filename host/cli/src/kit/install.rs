//! What a folder's build needs and the machine lacks, installed in the folder: the packages that its lock files pin.
//!
//! An installation counts when it came to its end. One that broke off is made again, and so is one of other pins.

use super::{Language, process, step::step};
use anyhow::Context as _;
use std::{fs, path::Path};

/// Where a folder has programs of Python's packages.
pub(super) const ENVIRONMENT: &str = ".venv";
/// Written last, with the pins that were installed.
const COMPLETE: &str = ".venv/.complete";
/// npm writes it last.
const NPM_COMPLETE: &str = "node_modules/.package-lock.json";
const NPM_PINS: &str = "package-lock.json";
const PINS: &str = "requirements.txt";

/// Sees to it that what a folder pins is there, as far as its language needs it.
pub(super) async fn ready(language: Language, dir: &Path) -> anyhow::Result<()> {
    if dir.join(NPM_PINS).exists() && !has_npm_installed(dir) {
        // What the lock file pins, and none of its packages' own scripts.
        step(dir, &["npm", "ci", "--ignore-scripts"]).await?;
    }
    if dir.join(PINS).is_file() && lacks_its_compiler(language, process::is_there) {
        of_python(dir).await?;
    }
    Ok(())
}

/// Whether an installation came to its end since the pins were written.
fn has_npm_installed(dir: &Path) -> bool {
    let written = |file: &str| {
        fs::metadata(dir.join(file))
            .and_then(|metadata| metadata.modified())
            .ok()
    };
    match (written(NPM_COMPLETE), written(NPM_PINS)) {
        (Some(complete), Some(pins)) => complete >= pins,
        _ => false,
    }
}

async fn of_python(dir: &Path) -> anyhow::Result<()> {
    let pins = fs::read(dir.join(PINS)).with_context(|| format!("cannot read {}", dir.join(PINS).display()))?;
    let complete = dir.join(COMPLETE);
    if fs::read(&complete).is_ok_and(|installed| installed == pins) {
        return Ok(());
    }
    // Over what is there, if anything is: it may be the author's own.
    step(dir, &["python3", "-m", "venv", ENVIRONMENT]).await?;
    let pip = dir.join(ENVIRONMENT).join("bin/pip").display().to_string();
    // Also what pip would take on trust has to be what the file pins. On a closed network it would wait for long, several times over.
    let install = [
        "install",
        "--quiet",
        "--retries",
        "1",
        "--timeout",
        "15",
        "--require-hashes",
        "-r",
        PINS,
    ];
    step(dir, &[&[&*pip], &install[..]].concat()).await?;
    fs::write(&complete, pins).with_context(|| format!("cannot write {}", complete.display()))
}

/// Whether what the template's pins bring is not there in another way.
fn lacks_its_compiler(language: Language, is_there: impl Fn(&str) -> bool) -> bool {
    match language {
        Language::Rust | Language::Js => false,
        Language::Python => !is_there("componentize-py"),
        Language::C => std::env::var_os("CC").is_none(),
        // Two programs: the second makes a component of what the first compiles.
        Language::Go => !is_there("go") || !is_there("wasm-tools"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_lacks_what_its_build_needs_unless_both_of_its_programs_are_there() {
        for (there, lacks) in [
            (&["go", "wasm-tools"][..], false),
            (&["go"], true),
            (&["wasm-tools"], true),
            (&[], true),
        ] {
            assert_eq!(
                lacks_its_compiler(Language::Go, |program| there.contains(&program)),
                lacks,
                "{there:?}"
            );
        }
    }
}
