//! The guests' compiler where rustup cannot fetch one: Debian's `rustc-web`, which lives
//! beside any other Rust, with a standard library for `wasm32-wasip2` built once and kept
//! in the user's cache.
//!
//! Debian's stable suites carry the compiler but not the C library of the target, so one
//! small package is fetched from a newer suite, through an apt configuration of its own:
//! the system's sources and lists are not touched.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::process::output_of;
use crate::progress::Step;
use crate::toolchain::TARGET;
use crate::workspace::Workspace;

/// What apt has to install.
pub(crate) const PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm", "lld-22"];

/// The package with the target's C library, and the suite that has it.
const C_LIBRARY: &str = "wasi-libc";
const C_LIBRARY_SUITE: &str = "forky";
/// What the linker takes from it.
const C_OBJECTS: [&str; 3] = ["crt1-command.o", "crt1-reactor.o", "libc.a"];

const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";
const LINKER: &str = "/usr/bin/wasm-ld-22";

/// Prefix of the folder in which one process builds; its id follows.
const WORK: &str = "work-";

const APT_LIMIT: Duration = Duration::from_secs(10 * 60);
const BUILD_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Debian's compiler with a finished sysroot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compiler {
    version: String,
    sysroot: PathBuf,
}

impl Compiler {
    /// The compiler, if everything it needs is installed.
    pub(crate) fn find() -> Option<Self> {
        if !Path::new(LINKER).is_file() {
            return None;
        }
        let version = version()?;
        let sysroot = cache_dir()?.join(sysroot_name(&version));
        sysroot.is_dir().then_some(Self { version, sysroot })
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Makes a cargo command build guests with this compiler.
    pub(crate) fn configure(&self, cargo: &mut Command) {
        cargo.env("RUSTC", RUSTC);
        // With an old lld on the machine the compiler else picks that, and fails.
        cargo.env(
            "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS",
            format!(
                "--sysroot={} -Clink-arg=--wasm-ld-path={LINKER}",
                self.sysroot.display()
            ),
        );
    }
}

/// Installs the packages and builds the sysroot.
pub(crate) fn install(workspace: &Workspace, step: &mut Step) -> Result<()> {
    if workspace.find_program("apt-get").is_none() {
        bail!("this is not Debian");
    }
    let cache = cache_dir().context("no home directory to keep the standard library in")?;
    if !Path::new(LINKER).is_file() || version().is_none() {
        install_packages(workspace, step)?;
    }
    let version = version().with_context(|| format!("{RUSTC} does not run"))?;

    sweep(&cache);
    let work = cache.join(format!("{WORK}{}", std::process::id()));
    let result = build_sysroot(workspace, step, &work, &cache.join(sysroot_name(&version)));
    let _ = fs::remove_dir_all(&work);
    result
}

/// Removes what an interrupted run left behind.
fn sweep(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(WORK));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn install_packages(workspace: &Workspace, step: &mut Step) -> Result<()> {
    if apt::installs(workspace, step, &PACKAGES)? {
        return Ok(());
    }
    bail!(
        "apt could not install its packages; as root: apt-get install {}",
        PACKAGES.join(" ")
    )
}

fn build_sysroot(workspace: &Workspace, step: &mut Step, work: &Path, sysroot: &Path) -> Result<()> {
    step.say("building the standard library for the guests, once (about a minute and a half)");
    let objects = fetch_c_library(workspace, step, &work.join("apt"))?;

    let empty = work.join("empty");
    fs::create_dir_all(empty.join("src"))?;
    fs::write(
        empty.join("Cargo.toml"),
        "[package]\nname = \"empty\"\nedition = \"2021\"\n[workspace]\n",
    )?;
    fs::write(empty.join("src/lib.rs"), "")?;
    step.run(&mut build_std_command(workspace, &empty), BUILD_LIMIT)?;

    let unfinished = work.join("sysroot");
    let lib = unfinished.join("lib/rustlib").join(TARGET).join("lib");
    let own = lib.join("self-contained");
    fs::create_dir_all(&own)?;
    let built = empty.join("target").join(TARGET).join("release/deps");
    for entry in fs::read_dir(&built)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_owned();
        if is_library(&name.to_string_lossy()) {
            fs::copy(&path, lib.join(name))?;
        }
    }
    for object in C_OBJECTS {
        fs::copy(objects.join(object), own.join(object))
            .with_context(|| format!("{C_LIBRARY} of {C_LIBRARY_SUITE} has no {object}"))?;
    }
    match fs::rename(&unfinished, sysroot) {
        // Somebody else was first.
        Err(_) if sysroot.is_dir() => Ok(()),
        other => other.with_context(|| format!("cannot create {}", sysroot.display())),
    }
}

/// The standard library from Debian's sources. `-Zbuild-std` is an unstable flag, hence the
/// bootstrap variable. Bitcode is needed by guests that link with `lto`.
fn build_std_command(workspace: &Workspace, package: &Path) -> Command {
    let mut command = workspace.command(CARGO);
    command
        .args(["build", "--release", "--target", TARGET, "-Zbuild-std=std,panic_abort"])
        .current_dir(package)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", RUSTC)
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .env("CARGO_TARGET_DIR", package.join("target"));
    command
}

/// Fetches the C library and returns the folder with its objects for the target.
fn fetch_c_library(workspace: &Workspace, step: &mut Step, work: &Path) -> Result<PathBuf> {
    let mirror = system_mirror().unwrap_or_else(|| "http://deb.debian.org/debian".into());
    fs::create_dir_all(work.join("lists/partial"))?;
    fs::create_dir_all(work.join("cache/archives/partial"))?;
    fs::write(
        work.join("sources.list"),
        format!("deb {mirror} {C_LIBRARY_SUITE} main\n"),
    )?;
    let options = private_apt_options(work);
    step.run(
        workspace
            .command("apt-get")
            .args(&options)
            .args(["-q", "update"])
            .current_dir(work),
        APT_LIMIT,
    )?;
    step.run(
        workspace
            .command("apt-get")
            .args(&options)
            .args(["-q", "download", C_LIBRARY])
            .current_dir(work),
        APT_LIMIT,
    )?;
    let package = fs::read_dir(work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get fetched no {C_LIBRARY}"))?;
    let root = work.join("root");
    step.run(
        workspace.command("dpkg-deb").arg("-x").arg(&package).arg(&root),
        APT_LIMIT,
    )?;
    Ok(root.join("usr/lib").join(TARGET))
}

fn private_apt_options(work: &Path) -> Vec<OsString> {
    let settings = [
        ("Dir::Etc::SourceList=", work.join("sources.list")),
        ("Dir::Etc::SourceParts=", PathBuf::from("-")),
        ("Dir::State::Lists=", work.join("lists")),
        ("Dir::Cache=", work.join("cache")),
        // The directories belong to this user: apt's own could not write them.
        ("APT::Sandbox::User=", PathBuf::from("root")),
        // Mirrors of the newer suite lag, and snapshots of it never become fresh again. The
        // release file's signature is checked all the same.
        ("Acquire::Check-Valid-Until=", PathBuf::from("false")),
    ];
    let mut options = Vec::new();
    for (name, value) in settings {
        let mut setting = OsString::from(name);
        setting.push(value);
        options.push("-o".into());
        options.push(setting);
    }
    options
}

fn system_mirror() -> Option<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten();
    let mut files: Vec<PathBuf> = parts.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files.insert(0, "/etc/apt/sources.list".into());
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| mirror_in(&text))
}

/// The first Debian mirror in a sources file, of either of apt's formats.
fn mirror_in(sources: &str) -> Option<String> {
    sources
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
        .flat_map(str::split_whitespace)
        .map(|word| word.trim_end_matches('/'))
        .find(|word| word.contains("://") && word.ends_with("/debian"))
        .map(str::to_owned)
}

fn is_library(file: &str) -> bool {
    // The empty crate that drove the build is in the same folder.
    file.starts_with("lib") && file.ends_with(".rlib") && !file.starts_with("libempty-")
}

fn version() -> Option<String> {
    if !Path::new(RUSTC).is_file() {
        return None;
    }
    version_in(&output_of(Command::new(RUSTC).arg("--version"))?)
}

/// The version in what `rustc --version` prints.
fn version_in(text: &str) -> Option<String> {
    let version = text.strip_prefix("rustc ")?.split_whitespace().next()?;
    Some(version.to_owned())
}

fn sysroot_name(version: &str) -> String {
    format!("guest-sysroot-{version}")
}

fn cache_dir() -> Option<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from(env::var_os("HOME").filter(|home| !home.is_empty())?).join(".cache"),
    };
    Some(base.join("fumehood"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_formats_of_apt() {
        let one_line =
            "# deb http://old/debian sid main\ndeb [arch=amd64] http://mirror.example/debian/ bookworm main\n";
        assert_eq!(mirror_in(one_line).as_deref(), Some("http://mirror.example/debian"));
        let deb822 = "Types: deb\nURIs: https://mirror.example/debian\nSuites: bookworm\n";
        assert_eq!(mirror_in(deb822).as_deref(), Some("https://mirror.example/debian"));
    }

    #[test]
    fn a_source_of_something_else_is_not_the_mirror() {
        assert_eq!(
            mirror_in("deb https://deb.nodesource.com/node_20.x nodistro main\n"),
            None
        );
        assert_eq!(mirror_in("URIs: http://deb.debian.org/debian-security\n"), None);
    }

    #[test]
    fn apt_is_pointed_at_private_files_only() {
        let options = private_apt_options(Path::new("/w"));
        assert_eq!(
            options,
            [
                "-o",
                "Dir::Etc::SourceList=/w/sources.list",
                "-o",
                "Dir::Etc::SourceParts=-",
                "-o",
                "Dir::State::Lists=/w/lists",
                "-o",
                "Dir::Cache=/w/cache",
                "-o",
                "APT::Sandbox::User=root",
                "-o",
                "Acquire::Check-Valid-Until=false",
            ]
        );
    }

    #[test]
    fn the_standard_library_is_built_with_debians_compiler_and_bitcode() {
        let workspace = Workspace::locate().unwrap();
        let command = build_std_command(&workspace, Path::new("/w/empty"));
        assert_eq!(
            crate::process::line(&command),
            "cargo build --release --target wasm32-wasip2 -Zbuild-std=std,panic_abort"
        );
        let variable = |name: &str| {
            command
                .get_envs()
                .find(|(key, _)| *key == name)
                .and_then(|(_, value)| value)
                .map(|value| value.to_string_lossy().into_owned())
        };
        assert_eq!(variable("RUSTC").as_deref(), Some("/usr/bin/rustc"));
        assert_eq!(variable("RUSTFLAGS").as_deref(), Some("-Cembed-bitcode=yes"));
    }

    #[test]
    fn guests_are_built_against_the_kept_sysroot_with_the_new_linker() {
        let compiler = Compiler {
            version: "1.96.0".into(),
            sysroot: "/c/sysroot".into(),
        };
        let mut command = Command::new("cargo");
        compiler.configure(&mut command);
        let flags = command
            .get_envs()
            .find(|(key, _)| *key == "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS")
            .and_then(|(_, value)| value)
            .unwrap();
        assert_eq!(
            flags,
            "--sysroot=/c/sysroot -Clink-arg=--wasm-ld-path=/usr/bin/wasm-ld-22"
        );
    }

    #[test]
    fn the_sysroot_is_kept_by_compiler_version() {
        let version = version_in("rustc 1.96.0 (abc 2026-05-01) (built from a source tarball)");
        assert_eq!(version.as_deref(), Some("1.96.0"));
        assert_eq!(sysroot_name("1.96.0"), "guest-sysroot-1.96.0");
    }

    #[test]
    fn what_an_interrupted_run_left_is_removed_and_a_running_one_is_left_alone() {
        let cache = env::temp_dir().join(format!("xtask-sweep-{}", std::process::id()));
        let running = cache.join(format!("{WORK}{}", std::process::id()));
        let gone = cache.join(format!("{WORK}4294967295"));
        let sysroot = cache.join("guest-sysroot-1.96.0");
        for dir in [&running, &gone, &sysroot] {
            fs::create_dir_all(dir).unwrap();
        }
        sweep(&cache);
        assert!(running.is_dir() && sysroot.is_dir());
        assert!(!gone.exists());
        fs::remove_dir_all(cache).unwrap();
    }

    #[test]
    fn only_the_libraries_of_the_build_are_kept() {
        assert!(is_library("libstd-0123.rlib"));
        assert!(!is_library("libempty-0123.rlib"));
        assert!(!is_library("libstd-0123.rmeta"));
        assert!(!is_library("std-0123.d"));
    }
}
