//! Building in Rust: `cargo build` for `wasm32-wasip2`, with whatever compiler `rustc` is in the tool's folder.
//!
//! What that compiler lacks is one command away where rustup is, which is then run, and said. Elsewhere it is explained.

use super::process;
use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Names the program that runs the component in tests with the crate `fumehood-test`.
pub(crate) const PROGRAM: &str = "FUMEHOOD_BIN";
const TARGET: &str = "wasm32-wasip2";
/// On a closed network rustup waits for long, several times over.
const RUSTUP_LIMIT: Duration = Duration::from_secs(120);
/// Variables that can bring a standard library from elsewhere.
const FLAGS: [&str; 3] = [
    "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
];

/// Builds, and returns the file that cargo made.
pub(super) async fn build(dir: &Path) -> anyhow::Result<PathBuf> {
    ready(dir).await?;
    let args = [
        "build",
        "--release",
        "--target",
        TARGET,
        "--message-format",
        "json-render-diagnostics",
    ];
    let mut cargo = process::command("cargo", &args, dir)?;
    cargo.stdout(Stdio::piped());
    let mut child = cargo.spawn().map_err(|error| process::not_started(&cargo, error))?;
    let mut lines = BufReader::new(child.stdout.take().context("cargo has no output")?).lines();
    let mut made = Vec::new();
    while let Some(line) = lines.next_line().await.context("cannot read what cargo says")? {
        made.extend(component(&line, dir));
    }
    let status = child.wait().await.context("cannot wait for cargo")?;
    if !status.success() {
        // Nothing was resolved yet: what it depends on may be out of reach.
        let hint = match dir.join("Cargo.lock").exists() {
            true => "",
            false => {
                "; if it could not fetch the crate `fumehood`, have the folder depend on one that is here, as `tool new --sdk DIR` does"
            }
        };
        bail!("`cargo build` failed ({status}); what it says is above{hint}");
    }
    made.pop().with_context(|| {
        format!(
            "{} builds no component; it needs\n  [lib]\n  crate-type = [\"cdylib\", \"rlib\"]\nand, if it is a workspace of several packages, the \
             folder of one of them has to be given",
            dir.join("Cargo.toml").display()
        )
    })
}

/// Runs the tests, natively; whether they passed. Those of the component itself have this program run it, unless the author says another.
pub(super) async fn test(dir: &Path) -> anyhow::Result<bool> {
    let mut cargo = process::command("cargo", &["test"], dir)?;
    if let (None, Ok(own)) = (std::env::var_os(PROGRAM), std::env::current_exe()) {
        cargo.env(PROGRAM, own);
    }
    Ok(process::run(&mut cargo).await?.success())
}

/// Sees to it that there is a compiler for the target.
async fn ready(dir: &Path) -> anyhow::Result<()> {
    if FLAGS
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|flags| flags.contains("--sysroot")))
    {
        return Ok(());
    }
    if has_target(dir).await? {
        return Ok(());
    }
    if !process::is_there("rustup") {
        bail!("{}", explain("there is no rustup, which could fetch it"));
    }
    crate::out::tell(&format!("{TARGET} is not installed: rustup target add {TARGET}\n"));
    let mut rustup = process::command("rustup", &["target", "add", TARGET], dir)?;
    let fetched = tokio::time::timeout(RUSTUP_LIMIT, process::run(&mut rustup)).await;
    match fetched.map(|status| status.map(|status| status.success())) {
        Ok(Ok(true)) => {}
        Ok(Err(error)) => return Err(error),
        Ok(Ok(false)) => bail!("{}", explain("rustup could not fetch it")),
        Err(_) => {
            let why = format!("rustup did not fetch it within {} s", RUSTUP_LIMIT.as_secs());
            bail!("{}", explain(&why));
        }
    }
    if has_target(dir).await? {
        return Ok(());
    }
    bail!(
        "{}",
        explain("rustup added it, but to another compiler than the `rustc` on the PATH")
    )
}

/// Whether the compiler has the target's standard library.
async fn has_target(dir: &Path) -> anyhow::Result<bool> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let asked = process::command(&rustc, &["--print", "sysroot"], dir)?;
    let sysroot = process::answer(asked).await.map_err(|error| {
        anyhow!("{error:#}: a tool in Rust needs Rust 1.95 or newer; install it from https://rustup.rs, then try again")
    })?;
    let sysroot = sysroot.with_context(|| format!("`{rustc} --print sysroot` failed"))?;
    Ok(Path::new(&sysroot)
        .join("lib/rustlib")
        .join(TARGET)
        .join("lib")
        .is_dir())
}

fn explain(why: &str) -> String {
    format!(
        "the Rust compiler has no standard library for {TARGET}, which tools are built for, and {why}. Install it with one of:\n  \
         - rustup (https://rustup.rs):   rustup target add {TARGET}\n  \
         - your distribution's package of Rust's standard library for {TARGET}\n  \
         - on Debian 12 and later without rustup: a second compiler, as docs/tool-authors/first-tool.md says under \"Without rustup\""
    )
}

/// A message of cargo.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// The component that a message of cargo is about, if it is one of the package in this folder.
fn component(line: &str, dir: &Path) -> Option<PathBuf> {
    let message: Message = serde_json::from_str(line).ok()?;
    if message.reason != "compiler-artifact" {
        return None;
    }
    let package = message.manifest_path?.parent()?.canonicalize().ok()?;
    let wasm = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wasm");
    (package == dir).then(|| message.filenames.into_iter().find(wasm))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_one_of_the_folders_own_package() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let artifact = |manifest: &Path, file: &str| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": manifest, "filenames": ["/t/libit.rlib", file], "fresh": true,
            })
            .to_string()
        };
        let own = dir.join("Cargo.toml");
        assert_eq!(
            component(&artifact(&own, "/t/it.wasm"), &dir),
            Some("/t/it.wasm".into())
        );
        assert_eq!(component(&artifact(&own, "/t/it.rmeta"), &dir), None);
        assert_eq!(component(&artifact(Path::new("/Cargo.toml"), "/t/it.wasm"), &dir), None);
        assert_eq!(component(r#"{"reason":"build-finished","success":true}"#, &dir), None);
        assert_eq!(component("what a build script prints", &dir), None);
    }

    #[test]
    fn what_is_missing_is_explained_with_the_commands() {
        let text = explain("there is no rustup");
        assert!(
            text.contains("rustup target add wasm32-wasip2") && text.contains("Debian"),
            "{text}"
        );
    }
}
