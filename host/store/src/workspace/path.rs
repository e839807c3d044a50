//! The paths of a workspace.

use std::{fmt, str::FromStr, sync::Arc};

const LONGEST: usize = 1024;

/// A path below a workspace: relative, `/` between its parts, no part empty, `.` or `..`, no NUL, 1 to 1024 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspacePath(Arc<str>);

/// Why a text is not a path of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a path in the workspace: {rule}")]
pub struct WorkspacePathError {
    rule: &'static str,
}

impl WorkspacePath {
    /// Checks and takes a path.
    ///
    /// # Errors
    /// When it breaks a rule stated on the type.
    pub fn new(text: impl AsRef<str>) -> Result<Self, WorkspacePathError> {
        let text = text.as_ref();
        // THREAT[T-box-escape-files]
        let rule = if text.is_empty() {
            "it is empty"
        } else if text.len() > LONGEST {
            "it is longer than 1024 bytes"
        } else if text.contains('\0') {
            "it contains a NUL"
        } else if text.starts_with('/') {
            "it must be relative, without a leading slash"
        } else if text.split('/').any(str::is_empty) {
            "two slashes follow each other, or it ends with one"
        } else if text.split('/').any(|part| part == "." || part == "..") {
            "`.` and `..` are not used here"
        } else if text.split('/').any(|part| part.len() > 255) {
            "a name in it is longer than 255 bytes"
        } else {
            return Ok(Self(text.into()));
        };
        Err(WorkspacePathError { rule })
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that it is in; `None` at the top.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.into()))
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for WorkspacePath {
    type Err = WorkspacePathError;

    fn from_str(text: &str) -> Result<Self, WorkspacePathError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_paths_are_taken_as_they_are() {
        for text in [
            "a",
            "a/b.txt",
            "ä/…/x",
            ".hidden",
            "a\\b",
            "...",
            &"x/".repeat(511).add_end(),
        ] {
            assert_eq!(WorkspacePath::new(text).unwrap().as_str(), text);
        }
    }

    trait AddEnd {
        fn add_end(&self) -> String;
    }

    impl AddEnd for str {
        fn add_end(&self) -> String {
            format!("{self}x")
        }
    }

    #[test]
    fn each_rule_refuses() {
        let (long, long_part) = ("x/".repeat(512) + "x", "x".repeat(256));
        for text in [
            "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "a\0b", &long, &long_part,
        ] {
            assert!(WorkspacePath::new(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_accepted_path_leaves_the_workspace(text in "[a./\\\\\u{0}]{0,12}") {
            if let Ok(path) = WorkspacePath::new(&text) {
                let joined = std::path::Path::new("/root").join(path.as_str());
                prop_assert!(joined.components().all(|part| part != std::path::Component::ParentDir));
                prop_assert!(joined.starts_with("/root") && joined != std::path::Path::new("/root"));
            }
        }
    }
}
