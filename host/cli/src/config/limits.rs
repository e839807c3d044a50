//! `[limits]`: what a call gets that asks for nothing, what no call passes, and what a component may be.

use anyhow::bail;
use fumehood_agent::catalog::DRAIN;
use fumehood_policy::{
    limits::{Limits, LimitsRequest},
    quantity::{ByteSize, Span},
};
use fumehood_sandbox::within_engine;
use serde::Deserialize;

/// Longer than any call runs.
pub(super) const LONGEST_DRAIN: Span = Span::from_secs(24 * 60 * 60);

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
    /// What a component may be, and what it may take to compile it.
    #[serde(default)]
    pub(crate) install: InstallLimits,
    /// How long calls may go on whose component is removed or replaced.
    #[serde(default)]
    drain: Option<Span>,
}

/// `[limits.install]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct InstallLimits {
    /// The largest component that is taken.
    pub(crate) component_size: ByteSize,
    /// How long compiling one may take.
    pub(crate) compile_time: Span,
    /// How much memory compiling one may take.
    pub(crate) compile_memory: ByteSize,
}

impl Default for InstallLimits {
    fn default() -> Self {
        Self {
            component_size: ByteSize::mib(64),
            compile_time: Span::from_secs(60),
            compile_memory: ByteSize::mib(2048),
        }
    }
}

impl InstallLimits {
    /// For the reference page: key, what, default, what happens beyond it, why.
    pub(crate) fn catalogue() -> [(&'static str, &'static str, String, &'static str, &'static str); 3] {
        let Self {
            component_size,
            compile_time,
            compile_memory,
        } = Self::default();
        [
            (
                "component_size",
                "The size of a component.",
                component_size.to_string(),
                "refused, 413 over HTTP",
                "An interpreter with its libraries has 10 to 40 MiB.",
            ),
            (
                "compile_time",
                "How long compiling a component may take.",
                compile_time.to_string(),
                "refused; the compiler's process is killed",
                "Small components can keep a compiler busy for hours. Two are compiled at a time, giving way to calls.",
            ),
            (
                "compile_memory",
                "How much memory compiling a component may take.",
                compile_memory.to_string(),
                "refused; it is the compiler's process that runs out of memory",
                "The largest honest components take a few hundred megabytes.",
            ),
        ]
    }
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

    /// How long calls may go on whose component is removed or replaced.
    pub(crate) fn drain(&self) -> Span {
        self.drain.unwrap_or(DRAIN)
    }

    /// Refuses a default that no call would get, and a ceiling that no call could come near.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let above = |limits: &LimitsRequest, ceilings: &Limits| {
            let above = limits.above_ceilings(ceilings);
            above.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        let InstallLimits {
            component_size,
            compile_time,
            compile_memory,
        } = self.install;
        if component_size.bytes() == 0 || compile_time.as_millis() == 0 || compile_memory.bytes() == 0 {
            bail!("[limits.install]: zero would forbid every component; use a value above zero, or leave the key out");
        }
        if self.drain() > LONGEST_DRAIN {
            bail!(
                "[limits]: drain = \"{}\" is longer than {LONGEST_DRAIN}; lower it",
                self.drain()
            );
        }
        let impossible = above(&self.ceiling, &within_engine(self.ceilings()));
        if !impossible.is_empty() {
            bail!("[limits.ceiling]: {impossible}, which is the most that the engine has for a call; lower it");
        }
        let ungiven = above(&self.default, &self.ceilings());
        if !ungiven.is_empty() {
            bail!("[limits.default]: {ungiven}; lower it, or raise the ceiling in [limits.ceiling]");
        }
        Ok(())
    }
}
