//! What is to be checked: a file, or the component of a tool's folder, and whether that is what the folder's code makes.

use crate::{
    fault::{OrFault as _, of_usage},
    kit::{Language, Project, named_component, saved_since},
};
use anyhow::Context as _;
use std::path::{Path, PathBuf};

/// A component's file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) component: PathBuf,
    /// A file of its folder that was saved after it was built. Known only of a folder.
    pub(crate) newer: Option<PathBuf>,
}

/// Finds the component.
///
/// # Errors
/// When there is nothing to check, with what to do.
pub(crate) fn target(path: &Path) -> anyhow::Result<Target> {
    if !path.is_dir() {
        return Ok(Target {
            component: path.to_owned(),
            newer: None,
        });
    }
    let (component, has_code) = if Language::of(path).is_some() {
        (Project::find(path)?.component(), true)
    } else {
        let named = named_component(path).with_context(|| {
            format!(
                "{} is no folder of a tool; name a component's file, or make a folder with `fumehood tool new NAME`",
                path.display()
            )
        });
        (named.or_fault()?, false)
    };
    let built = match std::fs::metadata(&component).and_then(|metadata| metadata.modified()) {
        Ok(built) => built,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let make = if has_code {
                format!("`fumehood tool build {}` makes it", path.display())
            } else {
                "put it there, or name a file".to_owned()
            };
            return Err(of_usage(format!("there is no {}: {make}", component.display())));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", component.display())),
    };
    let newer = if has_code { saved_since(path, built)? } else { None };
    Ok(Target { component, newer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, File},
        time::{Duration, SystemTime},
    };

    fn written(file: &Path, ago: u64) {
        let file = File::create(file).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(ago)).unwrap();
    }

    #[test]
    fn a_folder_is_checked_by_the_component_that_it_builds_and_stale_is_what_was_saved_since() {
        let dir = tempfile::tempdir().unwrap();
        let told = || format!("{:#}", target(dir.path()).unwrap_err());
        assert!(told().contains("no folder of a tool"), "{}", told());
        fs::write(dir.path().join("tool.toml"), "name = \"a\"\nversion = \"1\"\n").unwrap();
        assert!(told().contains("put it there"), "{}", told());
        written(&dir.path().join("Cargo.toml"), 90);
        assert!(told().contains("fumehood tool build"), "{}", told());

        let component = dir.path().canonicalize().unwrap().join("a.wasm");
        written(&component, 60);
        fs::create_dir_all(dir.path().join("tests")).unwrap();
        fs::write(dir.path().join("tests/a.toml"), "").unwrap();
        fs::write(dir.path().join("README.md"), "").unwrap();
        written(&dir.path().join("tool.toml"), 0);
        fs::write(dir.path().join("tool.toml"), "name = \"a\"\nversion = \"1\"\n").unwrap();
        let found = target(dir.path()).unwrap();
        assert_eq!(
            (&found.component, found.newer),
            (&component, None),
            "none of it is built"
        );

        fs::create_dir(dir.path().join("src")).unwrap();
        written(&dir.path().join("src/lib.rs"), 70);
        assert_eq!(target(dir.path()).unwrap().newer, None);
        written(&dir.path().join("src/lib.rs"), 50);
        assert!(target(dir.path()).unwrap().newer.unwrap().ends_with("src/lib.rs"));
        assert_eq!(target(&component).unwrap().newer, None, "of a file nobody knows");
    }
}
