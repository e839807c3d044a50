//! The templates, and a folder made of one.
//!
//! A template is a project of the name `weather`. Nothing else in it is called that, so the word is replaced by the new name wherever
//! it stands.

use super::Language;
use anyhow::{Context as _, bail};
use fumehood_core::name::ComponentName;
use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

include!(concat!(env!("OUT_DIR"), "/templates.rs"));

/// A template, as it was when this program was built.
pub(super) struct Template {
    language: &'static str,
    files: &'static [File],
}

struct File {
    path: &'static str,
    bytes: &'static [u8],
    executable: bool,
}

/// The name that every template has.
const NAME: &str = "weather";
/// Where a Rust template has the SDK from.
const SDK: &str = r#"fumehood = { git = "https://github.com/fumehood/fumehood" }"#;
/// Crates that a Rust component can't be named like: it depends on some, and the rest are the language's own.
const TAKEN: [&str; 10] = [
    "alloc",
    "core",
    "fumehood",
    "fumehood-macros",
    "proc-macro",
    "schemars",
    "serde",
    "serde-json",
    "std",
    "test",
];

/// What is to be made.
pub(crate) struct New<'a> {
    pub(crate) name: &'a ComponentName,
    pub(crate) language: Language,
    /// The folder of the Rust SDK, if not the published one.
    pub(crate) sdk: Option<&'a Path>,
}

/// Makes the folder `NAME` below `parent`, whole or not at all, and returns its files.
pub(crate) fn make(new: &New<'_>, parent: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let template = template(new.language)?;
    if new.language == Language::Rust && TAKEN.contains(&new.name.as_str()) {
        bail!(
            "a Rust component can't be named `{}`: a crate that it needs has that name; take another",
            new.name
        );
    }
    let sdk = match (new.sdk, new.language) {
        (None, _) => None,
        (Some(dir), Language::Rust) => Some(sdk(dir)?),
        (Some(_), other) => bail!("--sdk is about the Rust SDK, and this is to be a tool in {other}; leave it out"),
    };
    let target = parent.join(new.name.as_str());
    match fs::read_dir(&target).map(|mut entries| entries.next().is_some()) {
        Ok(false) => {}
        Ok(true) => bail!(
            "{} is there already and has something in it; take another name, or remove it",
            target.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => bail!(
            "{} is there already, and it is no folder; take another name, or remove it",
            target.display()
        ),
        Err(error) => return Err(error).with_context(|| format!("cannot look into {}", target.display())),
    }
    // Beside its place, so that a rename puts all of it there at once. Removed in any other case.
    let scratch = tempfile::Builder::new()
        .prefix(".tool-new-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a folder in {}", parent.display()))?;
    let made = scratch.path().join(new.name.as_str());
    fs::create_dir(&made)?;
    for file in template.files {
        write(&made, file, new.name, sdk.as_deref()).with_context(|| format!("cannot write {}", file.path))?;
    }
    fs::rename(&made, &target).with_context(|| format!("cannot put {} in its place", target.display()))?;
    Ok(template.files.iter().map(|file| target.join(file.path)).collect())
}

fn template(language: Language) -> anyhow::Result<&'static Template> {
    let found = TEMPLATES.iter().find(|template| template.language == language.as_str());
    found.with_context(|| {
        let known: Vec<&str> = TEMPLATES.iter().map(|template| template.language).collect();
        format!(
            "this fumehood has no template in {language}; it has: {}",
            known.join(", ")
        )
    })
}

/// The folder of the SDK, if it is one.
fn sdk(dir: &Path) -> anyhow::Result<PathBuf> {
    let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
    let manifest: Option<toml::Table> = toml::from_str(&manifest).ok();
    let name = manifest
        .as_ref()
        .and_then(|table| table.get("package")?.get("name")?.as_str());
    if name != Some("fumehood") {
        bail!(
            "{} is not the Rust SDK: it has no Cargo.toml of a crate `fumehood`; in a checkout of Fumehood that is sdk/rust",
            dir.display()
        );
    }
    dir.canonicalize()
        .with_context(|| format!("cannot find {}", dir.display()))
}

fn write(dir: &Path, file: &File, name: &ComponentName, sdk: Option<&Path>) -> anyhow::Result<()> {
    let path = dir.join(file.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let bytes = match std::str::from_utf8(file.bytes) {
        Ok(text) => Cow::Owned(adapted(text, name, sdk)?.into_bytes()),
        Err(_) => Cow::Borrowed(file.bytes),
    };
    fs::write(&path, bytes)?;
    if file.executable {
        make_executable(&path)?;
    }
    Ok(())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut permissions = fs::metadata(path)?.permissions();
    // Where it may be read, as the umask left it, it may be run.
    permissions.set_mode(permissions.mode() | (permissions.mode() & 0o444) >> 2);
    fs::set_permissions(path, permissions)
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> io::Result<()> {
    Ok(())
}

/// A file of the template for another name, and for another place of the SDK.
fn adapted(text: &str, name: &ComponentName, sdk: Option<&Path>) -> anyhow::Result<String> {
    let text = text.replace(NAME, name);
    let Some(dir) = sdk else { return Ok(text) };
    let dir = dir
        .to_str()
        .context("the path of the SDK is not UTF-8 text; take another")?;
    Ok(text.replace(SDK, &format!("fumehood = {{ path = {} }}", toml::Value::from(dir))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::Written;
    use clap::ValueEnum as _;

    fn new(name: &ComponentName) -> New<'_> {
        New {
            name,
            language: Language::Rust,
            sdk: None,
        }
    }

    #[test]
    fn every_template_becomes_a_component_of_the_new_name() {
        let name = ComponentName::new("tide-tables").unwrap();
        for template in TEMPLATES {
            let parent = tempfile::tempdir().unwrap();
            let language = Language::from_str(template.language, false).unwrap();
            let new = New { language, ..new(&name) };
            let files = make(&new, parent.path()).unwrap();
            let dir = parent.path().join("tide-tables");
            let file = dir.join("tool.toml");
            let written = Written::new(fs::read_to_string(&file).unwrap(), &file).unwrap();
            let manifest = written.manifest().unwrap();
            let who = (&*manifest.name, &*manifest.version, &*manifest.description);
            assert_eq!(who, (&*name, "0.1.0", "Forecasts for cities."), "{language}");
            let said_twice = language == Language::Rust && written.text.contains("name =");
            assert!(!said_twice, "Cargo.toml says who it is: {}", written.text);
            assert_eq!(Language::of(&dir), Some(language));
            assert!(files.contains(&dir.join("README.md")), "{language}: {files:?}");
            for file in files {
                let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
                assert!(!text.contains(NAME), "{}", file.display());
            }
            let left: Vec<_> = fs::read_dir(parent.path()).unwrap().collect();
            assert_eq!(left.len(), 1, "nothing is left beside it: {left:?}");
        }
    }

    #[test]
    fn the_sdk_is_the_published_one_unless_a_folder_is_given() {
        let name = ComponentName::new("tides").unwrap();
        let manifest = |sdk: Option<&Path>| {
            let parent = tempfile::tempdir().unwrap();
            make(&New { sdk, ..new(&name) }, parent.path()).unwrap();
            fs::read_to_string(parent.path().join("tides/Cargo.toml")).unwrap()
        };
        assert!(manifest(None).contains(SDK), "{}", manifest(None));
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/rust");
        let shown = sdk.canonicalize().unwrap().display().to_string();
        assert!(manifest(Some(&sdk)).contains(&shown), "{}", manifest(Some(&sdk)));
        let elsewhere = tempfile::tempdir().unwrap();
        let error = make(
            &New {
                sdk: Some(elsewhere.path()),
                ..new(&name)
            },
            elsewhere.path(),
        )
        .unwrap_err();
        assert!(error.to_string().contains("is not the Rust SDK"), "{error}");
        assert!(!elsewhere.path().join("tides").exists());
    }

    #[test]
    fn a_folder_with_something_in_it_is_refused_and_stays_as_it_is() {
        let name = ComponentName::new("tides").unwrap();
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("tides")).unwrap();
        make(&new(&name), parent.path()).expect("an empty one is taken");
        fs::write(parent.path().join("tides/src/lib.rs"), "mine").unwrap();
        let error = make(&new(&name), parent.path()).unwrap_err();
        assert!(error.to_string().contains("has something in it"), "{error}");
        assert_eq!(
            fs::read_to_string(parent.path().join("tides/src/lib.rs")).unwrap(),
            "mine"
        );
        fs::write(parent.path().join("file"), "").unwrap();
        let file = ComponentName::new("file").unwrap();
        let error = make(&new(&file), parent.path()).unwrap_err();
        assert!(error.to_string().contains("no folder"), "{error}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_rust_component_is_not_named_like_a_crate_that_it_needs() {
        let parent = tempfile::tempdir().unwrap();
        for name in TAKEN {
            let name = ComponentName::new(name).unwrap();
            let error = make(&new(&name), parent.path()).unwrap_err();
            assert!(error.to_string().contains("take another"), "{error}");
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
