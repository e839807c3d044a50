//! `[jobs]`: calls that run in the background.

use anyhow::bail;
use fumehood_agent::jobs::JobLimits;
use fumehood_policy::quantity::Span;
use serde::Deserialize;

/// The longest: a week.
const LONGEST: Span = Span::from_secs(7 * 24 * 60 * 60);
/// The most that may run.
const MOST: u32 = 1000;

/// `[jobs]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobsSection {
    /// The longest that one may take.
    #[serde(default)]
    time: Option<Span>,
    /// How many run at the same time.
    #[serde(default)]
    running: Option<u32>,
    /// How many of one org do.
    #[serde(default)]
    running_per_org: Option<u32>,
    /// How many of one org may have no end.
    #[serde(default)]
    unfinished_per_org: Option<u64>,
}

impl JobsSection {
    /// The limits.
    pub(crate) fn in_effect(&self) -> JobLimits {
        let default = JobLimits::default();
        JobLimits {
            time: self.time.unwrap_or(default.time),
            running: self.running.unwrap_or(default.running),
            running_per_org: self.running_per_org.unwrap_or(default.running_per_org),
            unfinished_per_org: self.unfinished_per_org.unwrap_or(default.unfinished_per_org),
        }
    }

    /// Refuses what no job could keep to.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let shortest = Span::from_secs(1);
        if let Some(time) = self.time.filter(|time| !(shortest..=LONGEST).contains(time)) {
            bail!("[jobs]: time = \"{time}\" is not between {shortest} and {LONGEST}")
        }
        for (key, value) in [("running", self.running), ("running_per_org", self.running_per_org)] {
            if let Some(value) = value.filter(|value| !(1..=MOST).contains(value)) {
                bail!("[jobs]: {key} = {value} is not between 1 and {MOST}; `unfinished_per_org = 0` takes no jobs")
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> JobsSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_absent_is_as_by_default() {
        assert_eq!(section("").in_effect(), JobLimits::default());
        let some = section("time = \"5m\"\nunfinished_per_org = 0").in_effect();
        assert_eq!((some.time, some.unfinished_per_org), (Span::from_secs(300), 0));
        assert!(toml::from_str::<JobsSection>("per_org = 1").is_err());
    }

    #[test]
    fn what_no_job_could_keep_to_is_refused() {
        for text in [
            "time = \"0s\"",
            "time = \"8d\"",
            "running = 0",
            "running_per_org = 5000",
        ] {
            assert!(section(text).check().is_err(), "{text}");
        }
        assert!(section("time = \"7d\"\nrunning = 1").check().is_ok());
    }
}
