//! `[tools]`: where components come from.

use crate::distribution::{Place, Policy, PublicKey, Trust, TrustedKey};
use anyhow::{Context as _, bail};
use fumehood_policy::quantity::{ByteSize, Span};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// How long a registry or web server may send nothing.
pub(super) const TIMEOUT: Span = Span::from_secs(30);
/// How much of what was fetched is kept.
pub(super) const CACHE_SIZE: ByteSize = ByteSize::mib(2048);
const SHORTEST: Span = Span::from_secs(1);
const LONGEST: Span = Span::from_secs(600);

/// `[tools]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolsSection {
    /// Where components that were fetched are kept; absent: in the user's cache.
    #[serde(default)]
    pub(crate) cache: Option<PathBuf>,
    /// How much is kept there.
    #[serde(default)]
    cache_size: Option<ByteSize>,
    /// How long a registry or web server may send nothing.
    #[serde(default)]
    timeout: Option<Span>,
    /// What is asked of components before they are added.
    #[serde(default)]
    pub(super) signatures: Policy,
    /// Whose signatures count, by names of the operator's.
    #[serde(default)]
    pub(super) trusted_keys: BTreeMap<String, KeySection>,
}

/// `[tools.trusted_keys.NAME]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeySection {
    /// The public key's file, relative to the configuration file, or its text.
    key: String,
    /// What it is trusted for; absent: everything.
    #[serde(default, deserialize_with = "places")]
    pub(super) sources: Option<Vec<Place>>,
}

fn places<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Place>>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let places = texts.iter().map(|text| text.parse().map_err(D::Error::custom));
    places.collect::<Result<_, _>>().map(Some)
}

impl ToolsSection {
    /// How much of what was fetched is kept, at most.
    pub(crate) fn cache_size(&self) -> ByteSize {
        self.cache_size.unwrap_or(CACHE_SIZE)
    }

    /// How long a registry or web server may send nothing.
    pub(crate) fn timeout(&self) -> Span {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// What each key is trusted for, in words.
    pub(super) fn trusted_places(&self) -> BTreeMap<String, Vec<String>> {
        let everything = || vec!["everything".to_owned()];
        let shown = |places: &Vec<Place>| places.iter().map(ToString::to_string).collect();
        let keys = self.trusted_keys.iter();
        keys.map(|(name, section)| (name.clone(), section.sources.as_ref().map_or_else(everything, shown)))
            .collect()
    }

    /// Refuses what no server could keep to.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        if let Some(timeout) = self.timeout.filter(|timeout| !(SHORTEST..=LONGEST).contains(timeout)) {
            bail!("[tools]: timeout = \"{timeout}\" is not between {SHORTEST} and {LONGEST}");
        }
        for (name, section) in &self.trusted_keys {
            if section.sources.as_ref().is_some_and(Vec::is_empty) {
                bail!(
                    "[tools.trusted_keys.{name}]: sources = [] trusts it for nothing; name some, or leave the key out to trust it for everything"
                );
            }
        }
        Ok(())
    }

    /// Whose signatures count, with the keys read. Paths begin at `base`.
    pub(super) fn trust(&self, base: &Path) -> anyhow::Result<Trust> {
        let keys = self.trusted_keys.iter().map(|(name, section)| {
            let refused = || format!("[tools.trusted_keys.{name}]");
            let text = if section.key.contains("-----BEGIN") {
                section.key.clone()
            } else {
                let file = base.join(&section.key);
                let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()));
                text.with_context(refused)?
            };
            Ok(TrustedKey {
                name: name.clone(),
                key: PublicKey::from_pem(&text).with_context(refused)?,
                places: section.sources.clone().unwrap_or_default(),
            })
        });
        Ok(Trust {
            policy: self.signatures,
            keys: keys.collect::<anyhow::Result<_>>()?,
        })
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
