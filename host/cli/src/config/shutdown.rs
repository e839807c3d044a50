//! `[shutdown]`: how a serving host ends.

use anyhow::bail;
use fumehood_policy::quantity::Span;
use serde::Deserialize;

/// Below the half minute that most supervisors wait before they kill.
pub(super) const DRAIN: Span = Span::from_secs(25);
/// Longer, and a host that is to be replaced looks like one that hangs.
pub(super) const LONGEST_DRAIN: Span = Span::from_secs(60 * 60);

/// `[shutdown]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShutdownSection {
    #[serde(default)]
    drain: Option<Span>,
}

impl ShutdownSection {
    /// How long requests and steps of turns that are under way may go on; zero cuts them off at once.
    pub(crate) fn drain(&self) -> Span {
        self.drain.unwrap_or(DRAIN)
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let drain = self.drain();
        if drain > LONGEST_DRAIN {
            bail!("[shutdown]: drain = \"{drain}\" is longer than {LONGEST_DRAIN}; lower it");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_drain_is_bounded() {
        let section = |text: &str| toml::from_str::<ShutdownSection>(text);
        assert_eq!(section("").unwrap().drain(), DRAIN);
        let an_hour = section("drain = \"1h\"").unwrap();
        assert_eq!(an_hour.drain(), LONGEST_DRAIN);
        assert!(an_hour.check().is_ok());
        assert!(section("drain = \"0s\"").unwrap().check().is_ok());
        let refused = section("drain = \"61m\"").unwrap().check().unwrap_err().to_string();
        assert!(refused.contains("longer than 1h"), "{refused}");
        assert!(section("time = \"1s\"").is_err());
    }
}
