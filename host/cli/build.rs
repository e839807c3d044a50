//! Embeds the standard tools and the templates of `tool new` into the binary.
//!
//! The standard tools are the components in the directory that `FUMEHOOD_STANDARD_TOOLS` names, or in `target/guests` of the
//! workspace. Where they are missing, the binary has none, so that building the host never needs the WebAssembly target. The
//! templates are the folders below `sdk/templates`, each named after its language.

use std::{
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

const STANDARD_TOOLS: [&str; 4] = ["clock", "data", "files", "http"];

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("standard_tools.rs"), standard_tools(&here, &out)?)?;
    fs::write(out.join("templates.rs"), templates(&here.join("../.."), &out)?)?;
    Ok(())
}

fn standard_tools(here: &Path, out: &Path) -> Fallible<String> {
    println!("cargo::rerun-if-env-changed=FUMEHOOD_STANDARD_TOOLS");
    let dir = match env::var("FUMEHOOD_STANDARD_TOOLS").ok().filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => here.join("../../target/guests"),
    };
    let mut table = String::from("pub(crate) const STANDARD_TOOLS: &[(&str, &[u8])] = &[\n");
    for name in STANDARD_TOOLS {
        let file = dir.join(format!("{name}.wasm"));
        println!("cargo::rerun-if-changed={}", file.display());
        if file.exists() {
            fs::copy(&file, out.join(format!("{name}.wasm")))?;
            writeln!(
                table,
                "    (\"{name}\", include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.wasm\"))),"
            )?;
        }
    }
    table.push_str("];\n");
    Ok(table)
}

/// What a template's own build or an editor leaves behind is no part of it.
const LEFT_BEHIND: [&str; 5] = ["Cargo.lock", ".venv", "__pycache__", "node_modules", "target"];

/// The one whose SDK has the contract in it. Templates in other languages come with the contract itself.
const WITH_SDK: &str = "rust";

/// A table of every template's files.
fn templates(repository: &Path, out: &Path) -> Fallible<String> {
    let (from, wit) = (repository.join("sdk/templates"), repository.join("wit"));
    for watched in [&from, &wit] {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    let mut table = String::from("pub(super) const TEMPLATES: &[Template] = &[\n");
    for dir in sorted(&from)? {
        // What lies beside the templates is for several of them.
        if !dir.join("tool.toml").is_file() {
            continue;
        }
        let language = name_of(&dir);
        let mut files = Vec::new();
        collect(&dir, Path::new(""), &mut files)?;
        if language != WITH_SDK {
            let mut shared = Vec::new();
            collect(&from.join("wit"), Path::new("wit"), &mut shared)?;
            collect(&wit.join("deps"), Path::new("wit/deps"), &mut shared)?;
            for file in sorted(&wit)?.into_iter().filter(|file| file.is_file()) {
                let inside = Path::new("wit/deps/fumehood-tool").join(name_of(&file));
                shared.push((file, inside));
            }
            // A template may have its own instead.
            shared.retain(|(_, inside)| files.iter().all(|(_, own)| own != inside));
            files.extend(shared);
        }
        let copies = out.join("templates").join(&language);
        writeln!(table, "    Template {{ language: {language:?}, files: &[")?;
        for (file, inside) in files {
            // What is embedded is what was listed.
            let copy = copies.join(&inside);
            fs::create_dir_all(copy.parent().unwrap_or(&copies))?;
            fs::copy(&file, &copy)?;
            let (path, bytes) = (inside.display().to_string(), copy.display().to_string());
            let path = path.strip_suffix(".template").unwrap_or(&path);
            let executable = is_executable(&file)?;
            writeln!(
                table,
                "        File {{ path: {path:?}, bytes: include_bytes!({bytes:?}), executable: {executable} }},"
            )?;
        }
        table.push_str("    ] },\n");
    }
    table.push_str("];\n");
    Ok(table)
}

/// The files below `dir`, and where they go below `inside`.
fn collect(dir: &Path, inside: &Path, files: &mut Vec<(PathBuf, PathBuf)>) -> Fallible<()> {
    for entry in sorted(dir)? {
        let name = name_of(&entry);
        let inside = inside.join(&name);
        if LEFT_BEHIND.contains(&&*name) || name.ends_with('~') || name.ends_with(".wasm") || name.ends_with(".partial")
        {
            continue;
        }
        if entry.is_dir() {
            collect(&entry, &inside, files)?;
        } else {
            files.push((entry, inside));
        }
    }
    Ok(())
}

fn sorted(dir: &Path) -> Fallible<Vec<PathBuf>> {
    let entries: Result<Vec<PathBuf>, _> = fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect();
    let mut entries = entries?;
    entries.sort();
    Ok(entries)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(unix)]
fn is_executable(file: &Path) -> Fallible<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(file)?.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(_: &Path) -> Fallible<bool> {
    Ok(false)
}
