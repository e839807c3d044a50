//! The shape of the house, checked: who may import whom, which library belongs to which
//! crate, where unsafe code may be, and how long a file may get.
//!
//! When a test here fails, the change is in the wrong place far more often than the rule
//! is wrong. Whoever changes a rule changes `docs/contributors/architecture.md` with it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The host, from the ground up. A crate may depend on crates of the floors below its own,
/// never on a neighbour.
const FLOORS: [&[&str]; 6] = [
    &["fumehood-core"],
    &["fumehood-policy", "fumehood-files"],
    &[
        "fumehood-egress",
        "fumehood-model",
        "fumehood-sandbox",
        "fumehood-store",
    ],
    &["fumehood-agent"],
    &["fumehood-server"],
    &["fumehood-cli"],
];

/// A kind of library and the only crates that may depend on it.
struct Reserved {
    what: &'static str,
    /// A trailing `*` stands for any ending.
    libraries: &'static [&'static str],
    owners: &'static [&'static str],
}

const RESERVED: [Reserved; 6] = [
    Reserved {
        what: "the WebAssembly engine",
        libraries: &["wasmtime*", "cranelift*"],
        owners: &["fumehood-sandbox"],
    },
    Reserved {
        // Egress is the one door for addresses that tenants choose. Models are reached at
        // addresses that the operator configured; the command line talks to its own host, and
        // to where its user has it fetch components.
        what: "an HTTP client",
        libraries: &["reqwest", "ureq", "isahc", "curl", "hyper-rustls", "tokio-rustls"],
        owners: &["fumehood-egress", "fumehood-model", "fumehood-cli", "fumehood-tests"],
    },
    Reserved {
        what: "the HTTP protocol",
        libraries: &["hyper", "hyper-util"],
        owners: &[
            "fumehood-egress",
            "fumehood-model",
            "fumehood-server",
            "fumehood-cli",
            "fumehood-tests",
        ],
    },
    Reserved {
        what: "name resolution",
        libraries: &["hickory-*"],
        owners: &["fumehood-egress"],
    },
    Reserved {
        what: "the database",
        libraries: &["sqlx*", "rusqlite", "tokio-postgres"],
        owners: &["fumehood-store"],
    },
    Reserved {
        what: "the HTTP server",
        libraries: &["axum*", "utoipa*"],
        owners: &["fumehood-server", "fumehood-cli", "fumehood-tests"],
    },
];

/// Crates that only decide: no I/O, no async.
const PURE: [&str; 2] = ["fumehood-core", "fumehood-policy"];
const EFFECTFUL: [&str; 7] = ["tokio*", "futures*", "async-*", "mio", "socket2", "fs4", "cap-std"];

/// The only crate with a file that allows unsafe code: the one that loads precompiled
/// components.
const UNSAFE_OWNER: &str = "fumehood-sandbox";

const LONG_FILE: usize = 600;
const TOO_LONG_FILE: usize = 700;

struct Package {
    name: String,
    dir: PathBuf,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    for_tests: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The packages of the workspace as cargo understands them.
fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let manifest = Path::new(value["manifest_path"].as_str().unwrap());
    Package {
        name: value["name"].as_str().unwrap().to_owned(),
        dir: manifest.parent().unwrap().to_path_buf(),
        dependencies: value["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|dependency| Dependency {
                name: dependency["name"].as_str().unwrap().to_owned(),
                for_tests: dependency["kind"] == "dev",
            })
            .collect(),
    }
}

fn host_packages() -> Vec<Package> {
    let host = root().join("host");
    packages()
        .into_iter()
        .filter(|package| package.dir.starts_with(&host))
        .collect()
}

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&name))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// What is wrong with the dependencies of a package of the host.
fn misplaced_imports(package: &Package) -> Vec<String> {
    let Some(own) = floor(&package.name) else {
        return vec![format!("{} has no floor: add it to FLOORS", package.name)];
    };
    package
        .dependencies
        .iter()
        // A crate may depend on itself for tests, to switch a feature on.
        .filter(|dependency| dependency.name != package.name)
        .filter_map(|dependency| {
            let below = floor(&dependency.name)?;
            (below >= own).then(|| format!("{} imports {}, which is not below it", package.name, dependency.name))
        })
        .collect()
}

/// Libraries that a package may not have outside its tests.
fn misplaced_libraries(package: &Package) -> Vec<String> {
    let mut found = Vec::new();
    for dependency in package.dependencies.iter().filter(|dependency| !dependency.for_tests) {
        for reserved in &RESERVED {
            if reserved
                .libraries
                .iter()
                .any(|pattern| matches(pattern, &dependency.name))
                && !reserved.owners.contains(&package.name.as_str())
            {
                found.push(format!(
                    "{} depends on {}: {} belongs to {}",
                    package.name,
                    dependency.name,
                    reserved.what,
                    reserved.owners.join(", ")
                ));
            }
        }
        if PURE.contains(&package.name.as_str()) && EFFECTFUL.iter().any(|pattern| matches(pattern, &dependency.name)) {
            found.push(format!("{} is pure and depends on {}", package.name, dependency.name));
        }
    }
    found
}

#[test]
fn imports_point_down_the_house() {
    let found: Vec<String> = host_packages().iter().flat_map(misplaced_imports).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_floor_is_a_package_of_the_host() {
    let names: Vec<String> = host_packages().into_iter().map(|package| package.name).collect();
    for name in FLOORS.concat() {
        assert!(names.iter().any(|known| known == name), "{name} is gone");
    }
}

#[test]
fn a_library_that_has_an_owner_is_used_by_nobody_else() {
    let found: Vec<String> = packages().iter().flat_map(misplaced_libraries).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_rules_refuse_what_they_are_for() {
    let wrong = |name: &str, dependency: &str| {
        let package = Package {
            name: name.to_owned(),
            dir: PathBuf::new(),
            dependencies: vec![Dependency {
                name: dependency.to_owned(),
                for_tests: false,
            }],
        };
        !misplaced_imports(&package).is_empty() || !misplaced_libraries(&package).is_empty()
    };
    assert!(wrong("fumehood-core", "fumehood-policy"));
    assert!(wrong("fumehood-sandbox", "fumehood-egress"));
    assert!(wrong("fumehood-server", "fumehood-cli"));
    assert!(wrong("fumehood-agent", "wasmtime-wasi"));
    assert!(wrong("fumehood-agent", "reqwest"));
    assert!(wrong("fumehood-policy", "tokio"));
    assert!(!wrong("fumehood-agent", "fumehood-egress"));
    assert!(!wrong("fumehood-egress", "hyper"));
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_but_for_one_file() {
    let mut problems = Vec::new();
    for package in host_packages() {
        let crate_root = ["src/lib.rs", "src/main.rs"]
            .map(|file| package.dir.join(file))
            .into_iter()
            .find(|file| file.is_file())
            .unwrap_or_else(|| panic!("{} has no crate root", package.name));
        let text = fs::read_to_string(&crate_root).unwrap();
        let wanted = if package.name == UNSAFE_OWNER {
            "#![deny(unsafe_code)]"
        } else {
            "#![forbid(unsafe_code)]"
        };
        if !text.lines().any(|line| line.trim() == wanted) {
            problems.push(format!("{} lacks {wanted}", crate_root.display()));
        }
        let mut files = Vec::new();
        rust_files(&package.dir.join("src"), &mut files);
        let allowing: Vec<_> = files
            .iter()
            .filter(|file| fs::read_to_string(file).unwrap().contains("allow(unsafe_code)"))
            .collect();
        if allowing.len() > usize::from(package.name == UNSAFE_OWNER) {
            problems.push(format!("{} allows unsafe code in {allowing:?}", package.name));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_server_speaks_http_as_a_server_only() {
    let mut files = Vec::new();
    rust_files(&root().join("host/server"), &mut files);
    let clients = ["hyper::client", "hyper_util::client", "client::legacy", "client::conn"];
    files.retain(|file| {
        let text = fs::read_to_string(file).unwrap();
        clients.iter().any(|client| text.contains(client))
    });
    assert!(
        files.is_empty(),
        "these use a client of the library that they serve with: {files:#?}"
    );
}

#[test]
fn no_file_of_the_host_is_two_files_in_one() {
    let mut files = Vec::new();
    rust_files(&root().join("host"), &mut files);
    let mut long: Vec<(usize, PathBuf)> = files
        .into_iter()
        .map(|file| (fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > LONG_FILE)
        .collect();
    long.sort();
    for (lines, file) in &long {
        println!("{lines} lines: {}", file.display());
    }
    long.retain(|(lines, _)| *lines > TOO_LONG_FILE);
    assert!(
        long.is_empty(),
        "split these files, each is more than one thing: {long:#?}"
    );
}
