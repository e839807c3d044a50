//! `[schedules]`: what schedules may be.

use anyhow::bail;
use fumehood_agent::host::ScheduleLimits;
use fumehood_policy::quantity::Span;
use serde::Deserialize;

/// A schedule has whole seconds.
const SHORTEST: Span = Span::from_secs(1);

/// `[schedules]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SchedulesSection {
    /// Schedules of an org.
    #[serde(default)]
    per_org: Option<u64>,
    /// The least time between two times of one.
    #[serde(default)]
    least_interval: Option<Span>,
}

impl SchedulesSection {
    /// The limits.
    pub(crate) fn in_effect(&self) -> ScheduleLimits {
        let default = ScheduleLimits::default();
        ScheduleLimits {
            per_org: self.per_org.unwrap_or(default.per_org),
            least_interval: self.least_interval.unwrap_or(default.least_interval),
        }
    }

    /// Refuses an interval that no schedule could keep to.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        match self.least_interval {
            Some(least) if least < SHORTEST => {
                bail!("[schedules]: least_interval = \"{least}\" is shorter than {SHORTEST}; raise it")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> SchedulesSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_absent_is_as_by_default() {
        assert_eq!(section("").in_effect(), ScheduleLimits::default());
        let all = section("per_org = 7\nleast_interval = \"5m\"").in_effect();
        assert_eq!((all.per_org, all.least_interval), (7, Span::from_secs(300)));
        assert!(toml::from_str::<SchedulesSection>("per_host = 7").is_err());
    }

    #[test]
    fn an_interval_below_a_second_is_refused() {
        assert!(section("least_interval = \"1s\"").check().is_ok());
        let refused = section("least_interval = \"999ms\"").check().unwrap_err().to_string();
        assert!(refused.contains("999ms") && refused.contains("raise it"), "{refused}");
    }
}
