//! `[limits]`: what a call gets that asks for nothing, and what no call passes.

use anyhow::bail;
use fumehood_policy::limits::{Limits, LimitsRequest};
use serde::Deserialize;

/// `[limits]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallLimits {
    /// What a call gets that asks for nothing.
    #[serde(default)]
    default: LimitsRequest,
    /// What no call passes.
    #[serde(default)]
    ceiling: LimitsRequest,
}

impl CallLimits {
    /// What no call passes.
    pub(crate) fn ceilings(&self) -> Limits {
        Limits::default_ceilings().overridden(&self.ceiling)
    }

    /// What a call gets that asks for nothing. A lowered ceiling lowers the defaults above it.
    pub(crate) fn defaults(&self) -> Limits {
        let nothing = LimitsRequest::default();
        let defaults = Limits::default().overridden(&self.default);
        Limits::effective(&defaults, &nothing, &nothing, &self.ceilings())
    }

    /// Refuses a default that no call would get.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let above: Vec<String> = self
            .default
            .above_ceilings(&self.ceilings())
            .iter()
            .map(ToString::to_string)
            .collect();
        if above.is_empty() {
            return Ok(());
        }
        bail!(
            "[limits.default]: {}; lower it, or raise the ceiling in [limits.ceiling]",
            above.join("; ")
        );
    }
}
