//! Patterns that name tools: one tool, several by `*`, or all tools of a component.

use crate::text_serde::{as_text, shown};
use fumehood_core::name::{ComponentName, ToolName};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};

/// Names tools: `files_read` (that tool), `files_*` (each tool whose name fits), `files` (each tool of the
/// component `files`). `*` stands for any characters, none included. At most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToolPattern(Arc<str>);

/// Why a text is no tool pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no tools: write a tool (`files_read`), a pattern (`files_*`) or a component (`files`), in lower-case letters, digits, `_`, `-` and `*`, at most 64"
)]
pub struct ParseToolPatternError(String);

impl ToolPattern {
    /// Whether `tool` of `component` is named. Does not allocate.
    #[must_use]
    pub fn matches(&self, component: &ComponentName, tool: &ToolName) -> bool {
        glob(self.0.as_bytes(), tool.as_bytes()) || glob(self.0.as_bytes(), component.as_bytes())
    }

    /// Whether the name of a tool is named, whichever component it belongs to.
    #[must_use]
    pub fn names(&self, tool: &ToolName) -> bool {
        glob(self.0.as_bytes(), tool.as_bytes())
    }

    /// Whether every name that `other` fits, this fits too. May say no where it is so.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        // A pattern read as a name: its `*` can only be matched by a `*` of ours.
        glob(self.0.as_bytes(), other.0.as_bytes())
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ToolPattern {
    type Err = ParseToolPatternError;

    fn from_str(text: &str) -> Result<Self, ParseToolPatternError> {
        let known = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(known) {
            return Err(ParseToolPatternError(shown(text)));
        }
        Ok(Self(text.into()))
    }
}

as_text!(
    ToolPattern,
    "a tool's name, a pattern such as \"files_*\", or a component's name"
);

/// Tools that every one of several lists must name. No list: every tool. An empty list: none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ToolFilter {
    layers: Vec<Vec<ToolPattern>>,
}

impl ToolFilter {
    /// Narrowed by each of the lists.
    #[must_use]
    pub fn all_of(layers: impl IntoIterator<Item = Vec<ToolPattern>>) -> Self {
        Self {
            layers: layers.into_iter().collect(),
        }
    }

    /// One that no tool passes.
    #[must_use]
    pub fn closed() -> Self {
        Self::all_of([Vec::new()])
    }

    /// The same, and equal to every other that no tool passes if none passes this one.
    #[must_use]
    pub fn simplified(self) -> Self {
        if self.is_closed() { Self::closed() } else { self }
    }

    /// Whether every list names the tool.
    #[must_use]
    pub fn allows(&self, component: &ComponentName, tool: &ToolName) -> bool {
        self.refused_by(component, tool).is_none()
    }

    /// The first list that does not name the tool, counted from 0 in the order they were given.
    #[must_use]
    pub fn refused_by(&self, component: &ComponentName, tool: &ToolName) -> Option<usize> {
        self.layers
            .iter()
            .position(|layer| !layer.iter().any(|pattern| pattern.matches(component, tool)))
    }

    /// The first list in which no pattern names a tool of that name, counted as in [`ToolFilter::refused_by`].
    #[must_use]
    pub fn refused_name(&self, tool: &ToolName) -> Option<usize> {
        self.layers
            .iter()
            .position(|layer| !layer.iter().any(|pattern| pattern.names(tool)))
    }

    /// Whether no tool at all can pass.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed_by().is_some()
    }

    /// The first list that names nothing, counted as in [`ToolFilter::refused_by`].
    #[must_use]
    pub fn closed_by(&self) -> Option<usize> {
        self.layers.iter().position(Vec::is_empty)
    }
}

/// Matches in time proportional to the product of the lengths, without recursion: a pattern comes from outside.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match last_star {
                Some((star, from)) => {
                    last_star = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
