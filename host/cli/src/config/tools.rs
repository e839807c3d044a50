//! `[tools]`: where components come from.

use anyhow::bail;
use fumehood_policy::quantity::Span;
use serde::Deserialize;
use std::path::PathBuf;

/// How long a registry or web server may send nothing.
pub(super) const TIMEOUT: Span = Span::from_secs(30);
const SHORTEST: Span = Span::from_secs(1);
const LONGEST: Span = Span::from_secs(600);

/// `[tools]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolsSection {
    /// Where components that were fetched are kept; absent: in the user's cache.
    #[serde(default)]
    pub(crate) cache: Option<PathBuf>,
    /// How long a registry or web server may send nothing.
    #[serde(default)]
    timeout: Option<Span>,
}

impl ToolsSection {
    /// How long a registry or web server may send nothing.
    pub(crate) fn timeout(&self) -> Span {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// Refuses what no server could keep to.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(timeout) = self.timeout.filter(|timeout| !(SHORTEST..=LONGEST).contains(timeout)) {
            bail!("[tools]: timeout = \"{timeout}\" is not between {SHORTEST} and {LONGEST}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> ToolsSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_absent_is_as_by_default_and_what_nobody_could_keep_to_is_refused() {
        assert_eq!(section("").timeout(), TIMEOUT);
        assert!(section("timeout = \"1s\"").check().is_ok());
        for text in ["timeout = \"10ms\"", "timeout = \"11m\""] {
            assert!(section(text).check().is_err(), "{text}");
        }
    }
}
