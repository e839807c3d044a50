//! `[retention]` and `[org.NAME.retention]`: how long things are kept.

use anyhow::bail;
use fumehood_policy::{
    quantity::Span,
    retention::{Kind, Retention},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{collections::BTreeMap, str::FromStr as _};

/// What says that something is kept until somebody deletes it.
pub(super) const FOREVER: &str = "forever";

/// How long something is kept, or for ever.
#[derive(Debug, Clone, Copy)]
enum Setting {
    Forever,
    For(Span),
}

impl Setting {
    const fn span(self) -> Option<Span> {
        match self {
            Self::Forever => None,
            Self::For(span) => Some(span),
        }
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == FOREVER {
            return Ok(Self::Forever);
        }
        let span = Span::from_str(&text).map_err(|error| D::Error::custom(format!("{error}, or `{FOREVER}`")))?;
        Ok(Self::For(span))
    }
}

/// A section; what is absent is as in the section above, or by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionSection {
    #[serde(default)]
    sessions: Option<Setting>,
    #[serde(default)]
    archived_sessions: Option<Setting>,
    #[serde(default)]
    ledger: Option<Setting>,
    #[serde(default)]
    deliveries: Option<Setting>,
    #[serde(default)]
    dead_deliveries: Option<Setting>,
    #[serde(default)]
    schedule_runs: Option<Setting>,
    #[serde(default)]
    usage: Option<Setting>,
    #[serde(default)]
    recordings: Option<Setting>,
}

impl RetentionSection {
    const fn setting(&self, kind: Kind) -> Option<Setting> {
        match kind {
            Kind::Sessions => self.sessions,
            Kind::ArchivedSessions => self.archived_sessions,
            Kind::Ledger => self.ledger,
            Kind::Deliveries => self.deliveries,
            Kind::DeadDeliveries => self.dead_deliveries,
            Kind::ScheduleRuns => self.schedule_runs,
            Kind::Usage => self.usage,
            Kind::Recordings => self.recordings,
        }
    }

    /// What holds where this section says nothing is as in `above`.
    pub(super) fn within(&self, above: Retention) -> Retention {
        Kind::ALL
            .into_iter()
            .filter_map(|kind| Some((kind, self.setting(kind)?.span())))
            .fold(above, |kept, (kind, span)| kept.with(kind, span))
    }

    /// Refuses to forget what is needed now.
    pub(super) fn check(&self, section: &str) -> anyhow::Result<()> {
        for kind in Kind::ALL {
            let (name, least) = (kind.as_str(), kind.shortest());
            if let Some(Setting::For(span)) = self.setting(kind)
                && span < least
            {
                bail!("[{section}]: {name} = \"{span}\" is shorter than {least}; raise it, or write \"{FOREVER}\"");
            }
        }
        Ok(())
    }
}

/// In words, for `config show`.
pub(super) fn shown(retention: Retention) -> BTreeMap<&'static str, String> {
    let words = |kind| {
        retention
            .of(kind)
            .map_or_else(|| FOREVER.to_owned(), |span| span.to_string())
    };
    Kind::ALL.into_iter().map(|kind| (kind.as_str(), words(kind))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> RetentionSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_section_says_what_is_other_than_in_the_one_above() {
        let usual = section("sessions = \"90d\"\nledger = \"forever\"").within(Retention::default());
        assert_eq!(usual.of(Kind::Sessions), Some(Span::from_secs(90 * 86_400)));
        assert_eq!(usual.of(Kind::Ledger), None);
        assert_eq!(usual.of(Kind::Deliveries), Kind::Deliveries.by_default());
        let own = section("sessions = \"forever\"").within(usual);
        assert_eq!((own.of(Kind::Sessions), own.of(Kind::Ledger)), (None, None));
        assert_eq!(shown(own)["sessions"], "forever");
    }

    #[test]
    fn what_is_needed_now_is_not_forgotten() {
        assert!(section("sessions = \"1h\"").check("retention").is_ok());
        for (text, said) in [("sessions = \"59m\"", "1h"), ("usage = \"61d\"", "62d")] {
            let refused = section(text).check("org.acme.retention").unwrap_err().to_string();
            assert!(
                refused.contains("[org.acme.retention]") && refused.contains(said) && refused.contains("raise it"),
                "{refused}"
            );
        }
        for text in ["session = \"1d\"", "sessions = 5", "sessions = \"never\""] {
            assert!(toml::from_str::<RetentionSection>(text).is_err(), "{text}");
        }
    }
}
