//! Building the guests (the standard tools and those of the tests) for
//! `wasm32-wasip2`, once per content.
//!
//! The result is `target/guests/NAME.wasm`. A stamp beside the files records what they were
//! built from; while that has not changed nothing is started but one `rustc`.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::progress::{Outcome, Step};
use crate::toolchain::{TARGET, Toolchain};
use crate::workspace::Workspace;

/// One guest: the package that builds it and the name of its component.
struct Guest {
    package: &'static str,
    component: &'static str,
}

const GUESTS: [Guest; 8] = [
    Guest {
        package: "tool-files",
        component: "files",
    },
    Guest {
        package: "tool-http",
        component: "http",
    },
    Guest {
        package: "tool-data",
        component: "data",
    },
    Guest {
        package: "tool-clock",
        component: "clock",
    },
    Guest {
        package: "guest-hostile",
        component: "hostile",
    },
    Guest {
        package: "guest-guardian",
        component: "guardian",
    },
    Guest {
        package: "guest-echo",
        component: "echo",
    },
    Guest {
        package: "guest-echo-bare",
        component: "echo-bare",
    },
];

/// Everything a guest's bytes depend on besides the compiler.
const SOURCES: [&str; 6] = ["wit", "sdk", "tools", "tests/guests", "Cargo.toml", "Cargo.lock"];

const PROFILE: &str = "guest";
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// Builds the guests if anything they are made from has changed.
pub(crate) fn build(workspace: &Workspace, step: &mut Step, toolchain: &Toolchain) -> Result<Outcome> {
    let wanted = fingerprint(workspace.root(), toolchain)?;
    let stamp = workspace.guests().join("stamp");
    if up_to_date(&workspace.guests(), &stamp, &wanted) {
        return Ok(Outcome::Noted("nothing changed".into()));
    }

    let mut cargo = workspace.cargo(["build", "--profile", PROFILE, "--target", TARGET]);
    for guest in &GUESTS {
        cargo.args(["-p", guest.package]);
    }
    cargo.env("CARGO_TARGET_DIR", workspace.guests_build());
    toolchain.configure(&mut cargo);
    step.run(&mut cargo, BUILD_LIMIT)?;

    let built = workspace.guests_build().join(TARGET).join(PROFILE);
    for guest in &GUESTS {
        let from = built.join(format!("{}.wasm", guest.package.replace('-', "_")));
        publish(&from, &component_path(&workspace.guests(), guest))?;
    }
    // Last, so that an interrupted build is not taken for a finished one.
    write_atomically(&stamp, wanted.as_bytes())?;
    Ok(Outcome::Noted(format!(
        "{} components in {}",
        GUESTS.len(),
        workspace.shown(&workspace.guests())
    )))
}

fn up_to_date(guests: &Path, stamp: &Path, wanted: &str) -> bool {
    fs::read_to_string(stamp).is_ok_and(|found| found == wanted)
        && GUESTS.iter().all(|guest| component_path(guests, guest).is_file())
}

fn component_path(guests: &Path, guest: &Guest) -> PathBuf {
    guests.join(format!("{}.wasm", guest.component))
}

/// Puts a built component in place, unless it is there already: an unchanged file keeps its
/// time, so the host that embeds it is not built again.
fn publish(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    write_atomically(to, &bytes)
}

/// A reader sees the old bytes or the new ones, never a part.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file has a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Changes when a source of the guests or the compiler does. Good for telling whether a
/// build is stale, not for identifying a component: that is what its digest is for.
fn fingerprint(root: &Path, toolchain: &Toolchain) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    PROFILE.hash(&mut hasher);
    toolchain.identity().hash(&mut hasher);
    for source in SOURCES {
        source.hash(&mut hasher);
        hash_path(&root.join(source), &mut hasher)?;
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn hash_path(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .with_context(|| format!("cannot list {}", path.display()))?;
        entries.retain(|entry| is_source(entry));
        entries.sort();
        for entry in entries {
            entry.file_name().hash(hasher);
            hash_path(&entry, hasher)?;
        }
    } else if path.is_file() {
        fs::read(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .hash(hasher);
    }
    Ok(())
}

/// Leaves out what editors and builds drop beside sources.
fn is_source(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| !name.starts_with('.') && !name.ends_with('~') && name != "target")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("xtask-guests-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("sdk/src")).unwrap();
            fs::write(dir.join("sdk/src/lib.rs"), "one").unwrap();
            Self(dir)
        }

        fn fingerprint(&self) -> String {
            fingerprint(&self.0, &Toolchain::for_test("compiler 1")).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_fingerprint_follows_content_names_and_compiler() {
        let tree = Tree::new("fingerprint");
        let first = tree.fingerprint();
        assert_eq!(first, tree.fingerprint());

        fs::write(tree.0.join("sdk/src/lib.rs"), "two").unwrap();
        let edited = tree.fingerprint();
        assert_ne!(first, edited);

        fs::rename(tree.0.join("sdk/src/lib.rs"), tree.0.join("sdk/src/main.rs")).unwrap();
        let renamed = tree.fingerprint();
        assert_ne!(edited, renamed);

        let other = fingerprint(&tree.0, &Toolchain::for_test("compiler 2")).unwrap();
        assert_ne!(renamed, other);
    }

    #[test]
    fn what_an_editor_leaves_behind_builds_nothing() {
        let tree = Tree::new("leftovers");
        let before = tree.fingerprint();
        fs::write(tree.0.join("sdk/src/.lib.rs.swp"), "x").unwrap();
        fs::write(tree.0.join("sdk/src/lib.rs~"), "x").unwrap();
        assert_eq!(before, tree.fingerprint());
    }

    #[test]
    fn a_missing_component_is_not_up_to_date() {
        let tree = Tree::new("missing");
        let stamp = tree.0.join("stamp");
        fs::write(&stamp, "same").unwrap();
        assert!(!up_to_date(&tree.0, &stamp, "same"));
        for guest in &GUESTS {
            fs::write(component_path(&tree.0, guest), "").unwrap();
        }
        assert!(up_to_date(&tree.0, &stamp, "same"));
        assert!(!up_to_date(&tree.0, &stamp, "other"));
    }

    #[test]
    fn an_unchanged_component_keeps_its_time() {
        let tree = Tree::new("unchanged");
        let (from, to) = (tree.0.join("from.wasm"), tree.0.join("out/to.wasm"));
        fs::write(&from, "bytes").unwrap();
        publish(&from, &to).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        fs::File::options()
            .write(true)
            .open(&to)
            .unwrap()
            .set_modified(old)
            .unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), old);
        fs::write(&from, "other").unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"other");
    }
}
