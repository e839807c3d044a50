//! Paths: from what the model wrote to a place below the workspace, and back.

use fumehood::Failure;
use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

/// The root of all paths.
pub(crate) struct Workspace {
    root: PathBuf,
}

/// A place in the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where it is for the operating system.
    pub(crate) full: PathBuf,
    /// What the model calls it: relative to the workspace, `.` for itself.
    pub(crate) name: String,
}

impl Workspace {
    /// The workspace of the session.
    pub(crate) fn session() -> Self {
        Self {
            root: PathBuf::from("/workspace"),
        }
    }

    /// Another directory, for tests.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The place that a path names. Takes `..` apart by its text, and refuses what leads out.
    // THREAT[T-box-escape-files]: the host's preopened directory is the wall; this explains it.
    pub(crate) fn place(&self, path: &str) -> Result<Place, Failure> {
        let refused = |why: &str| {
            let shown: String = path.chars().take(200).flat_map(char::escape_debug).collect();
            Failure::invalid_arguments(format!(
                "`{shown}` {why}: give a path in the workspace, such as `src/main.rs`"
            ))
        };
        if path.contains('\0') {
            return Err(refused("holds a zero byte"));
        }
        let inside = match path.strip_prefix("/workspace") {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => rest.trim_start_matches('/'),
            _ if path.starts_with('/') => return Err(refused("is outside of the workspace")),
            _ => path,
        };
        let mut names: Vec<&str> = Vec::new();
        for component in Path::new(inside).components() {
            match component {
                Component::Normal(name) => names.push(name.to_str().ok_or_else(|| refused("is not text"))?),
                Component::ParentDir => {
                    names.pop().ok_or_else(|| refused("leads out of the workspace"))?;
                }
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Err(refused("is outside of the workspace")),
            }
        }
        let name = if names.is_empty() {
            ".".to_owned()
        } else {
            names.join("/")
        };
        Ok(Place {
            full: names.iter().fold(self.root.clone(), |path, name| path.join(name)),
            name,
        })
    }
}

impl Place {
    /// What the place is, or the failure that says what is wrong with it.
    pub(crate) fn metadata(&self) -> Result<fs::Metadata, Failure> {
        fs::metadata(&self.full).map_err(|error| self.failure("cannot be opened", &error))
    }

    /// A place below this one.
    pub(crate) fn child(&self, name: &str) -> Self {
        let full = self.full.join(name);
        let name = if self.name == "." {
            name.to_owned()
        } else {
            format!("{}/{name}", self.name)
        };
        Self { full, name }
    }

    /// A failure in the model's words: the host's paths and error numbers help nobody.
    pub(crate) fn failure(&self, what: &str, error: &io::Error) -> Failure {
        let name = &self.name;
        match error.kind() {
            io::ErrorKind::NotFound => Failure::not_found(format!(
                "`{name}` {what}: there is no such file or directory in the workspace (files_list and files_glob show what there is)"
            )),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Failure::denied(format!(
                "`{name}` {what}: this session's grant does not allow it (`[files] workspace` and `paths` decide)"
            )),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Failure::failed(
                format!("`{name}` {what}: the workspace is full or the file is too large"),
            ),
            io::ErrorKind::IsADirectory => Failure::invalid_arguments(format!("`{name}` {what}: it is a directory")),
            io::ErrorKind::NotADirectory => Failure::invalid_arguments(format!(
                "`{name}` {what}: a part of the path is a file, not a directory"
            )),
            _ => Failure::failed(format!("`{name}` {what}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Result<String, Failure> {
        Workspace::session().place(path).map(|place| place.name)
    }

    #[test]
    fn paths_are_relative_to_the_workspace_or_begin_with_it() {
        for (path, expected) in [
            ("a.txt", "a.txt"),
            ("./a/../b", "b"),
            ("/workspace/a/b", "a/b"),
            ("/workspace", "."),
            ("/workspace//a", "a"),
            ("", "."),
            (".", "."),
        ] {
            assert_eq!(name(path).unwrap(), expected, "{path}");
        }
        assert_eq!(
            Workspace::session().place("a/b").unwrap().full,
            Path::new("/workspace/a/b")
        );
    }

    #[test]
    fn a_path_out_of_the_workspace_is_refused() {
        for path in [
            "..",
            "a/../../b",
            "/etc/passwd",
            "/workspaces/a",
            "/workspace/../etc",
            "a\0b",
            "/tmp/x",
        ] {
            assert!(matches!(name(path), Err(Failure::InvalidArguments(_))), "{path}");
        }
    }
}
