//! Access to the session's workspace files and key-values.

use crate::text_serde::{as_text, shown};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// How far an access goes. Ordered: each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// None at all.
    #[default]
    None,
    /// To look.
    Read,
    /// To look and to change.
    ReadWrite,
}

impl Access {
    /// Whether looking is allowed.
    #[must_use]
    pub const fn can_read(self) -> bool {
        matches!(self, Self::Read | Self::ReadWrite)
    }

    /// Whether changing is allowed.
    #[must_use]
    pub const fn can_write(self) -> bool {
        matches!(self, Self::ReadWrite)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        })
    }
}

/// Access to workspace files.
pub type FileAccess = Access;
/// Access to key-values.
pub type KvAccess = Access;

/// A file or folder of the workspace: `src/lib.rs` or `src`; relative, without `.`, `..`, empty or hidden-by-NUL
/// parts. A slash at the end means nothing. It stands for itself and everything beneath.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspacePath(Arc<str>);

/// Why a text is not a path of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a path in the workspace: write it relative to /workspace, with `/` between the parts and without `.` and `..`, as in `src/`"
)]
pub struct ParseWorkspacePathError(String);

impl WorkspacePath {
    /// The path as text, without a slash at either end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` (normalised, relative) is this or beneath it, by whole parts.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        path.strip_prefix(&*self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for WorkspacePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WorkspacePath {
    type Err = ParseWorkspacePathError;

    fn from_str(text: &str) -> Result<Self, ParseWorkspacePathError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let bad_part = |part: &str| part.is_empty() || part == "." || part == "..";
        if path.len() > 1024
            || path.contains('\\')
            || path.chars().any(char::is_control)
            || path.split('/').any(bad_part)
        {
            return Err(ParseWorkspacePathError(shown(text)));
        }
        Ok(Self(path.into()))
    }
}

as_text!(WorkspacePath, "a path relative to /workspace, such as \"src/\"");

/// What may be done with the workspace's files. As a request or a grant: `{ workspace, paths }`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// How far.
    #[serde(default, rename = "workspace")]
    pub access: FileAccess,
    /// Where. Absent: the whole workspace. Empty: nowhere.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bounded::some_entries"
    )]
    pub paths: Option<Vec<WorkspacePath>>,
}

impl Files {
    /// No access.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            access: Access::None,
            paths: None,
        }
    }

    /// Whether the file or folder at `path` (normalised, relative to the workspace) may be looked at.
    #[must_use]
    pub fn may_read(&self, path: &str) -> bool {
        self.access.can_read() && self.reaches(path)
    }

    /// Whether the file or folder at `path` (normalised, relative to the workspace) may be changed.
    #[must_use]
    pub fn may_write(&self, path: &str) -> bool {
        self.access.can_write() && self.reaches(path)
    }

    fn reaches(&self, path: &str) -> bool {
        match &self.paths {
            None => true,
            Some(paths) => paths.iter().any(|own| own.contains(path)),
        }
    }

    /// What both allow. Nowhere in common: no access.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let paths = match (&self.paths, &other.paths) {
            (None, paths) | (paths, None) => paths.clone(),
            (Some(own), Some(others)) => {
                let mut both: Vec<WorkspacePath> = own
                    .iter()
                    .filter(|path| others.iter().any(|o| o.contains(path.as_str())))
                    .chain(
                        others
                            .iter()
                            .filter(|path| own.iter().any(|o| o.contains(path.as_str()))),
                    )
                    .cloned()
                    .collect();
                both.sort();
                both.dedup();
                Some(both)
            }
        };
        let nowhere = paths.as_ref().is_some_and(Vec::is_empty);
        let access = if nowhere {
            Access::None
        } else {
            self.access.min(other.access)
        };
        Self {
            access,
            paths: if access == Access::None { None } else { paths },
        }
    }

    /// Whether everything that `other` allows, this allows too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let nothing = other.access == Access::None || other.paths.as_ref().is_some_and(Vec::is_empty);
        nothing
            || self.access >= other.access
                && match (&self.paths, &other.paths) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(own), Some(others)) => others.iter().all(|o| own.iter().any(|own| own.contains(o.as_str()))),
                }
    }
}
