//! `[callbacks]`: calls that tools hand on to somebody outside.

use anyhow::bail;
use fumehood_agent::callbacks::CallbackLimits;
use fumehood_policy::quantity::Span;
use serde::Deserialize;

/// The shortest that a call waits.
const SHORTEST: Span = Span::from_secs(1);
/// The longest: a year.
const LONGEST: Span = Span::from_secs(366 * 24 * 60 * 60);

/// `[callbacks]`; what is absent is as by default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallbacksSection {
    /// How the host is reached from outside.
    #[serde(default)]
    url: Option<String>,
    /// How long a call waits whose tool says nothing of it.
    #[serde(default)]
    time: Option<Span>,
    /// The longest that a call waits.
    #[serde(default)]
    longest: Option<Span>,
}

impl CallbacksSection {
    /// The limits.
    pub(crate) fn in_effect(&self) -> CallbackLimits {
        let default = CallbackLimits::default();
        let longest = self.longest.unwrap_or(default.longest);
        CallbackLimits {
            url: self.url.clone().filter(|url| !url.is_empty()),
            time: self.time.unwrap_or(default.time).min(longest),
            longest,
        }
    }

    /// Refuses what no call could keep to, and what nobody could send a request to.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for (key, value) in [("time", self.time), ("longest", self.longest)] {
            if let Some(value) = value.filter(|value| !(SHORTEST..=LONGEST).contains(value)) {
                bail!("[callbacks]: {key} = \"{value}\" is not between {SHORTEST} and {LONGEST}")
            }
        }
        match self.url.as_deref() {
            None | Some("") => Ok(()),
            Some(url) if is_base(url) => Ok(()),
            Some(_) => bail!(
                "[callbacks]: `url` is where the host is reached from outside, such as `https://agents.example.com`: with http:// or \
                 https://, and without user, query and fragment"
            ),
        }
    }
}

fn is_base(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '@' | '"' | '\\' | '<' | '>');
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> CallbacksSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_absent_is_as_by_default() {
        assert_eq!(section("").in_effect(), CallbackLimits::default());
        let all = section("url = \"https://a.example/x\"\ntime = \"5m\"\nlongest = \"2m\"").in_effect();
        assert_eq!(all.url.as_deref(), Some("https://a.example/x"));
        assert_eq!((all.time, all.longest), (Span::from_secs(120), Span::from_secs(120)));
        assert!(toml::from_str::<CallbacksSection>("shortest = \"1s\"").is_err());
    }

    #[test]
    fn times_that_no_call_could_keep_to_and_addresses_that_are_none_are_refused() {
        for text in [
            "time = \"999ms\"",
            "longest = \"0s\"",
            "longest = \"10000d\"",
            "url = \"agents.example.com\"",
            "url = \"https:///v1\"",
            "url = \"https://user@a.example\"",
            "url = \"https://a.example/?x\"",
            "url = \"ftp://a.example\"",
        ] {
            assert!(section(text).check().is_err(), "{text}");
        }
        assert!(
            section("url = \"http://127.0.0.1:7070\"\ntime = \"1s\"")
                .check()
                .is_ok()
        );
        assert!(section("url = \"\"").check().is_ok());
    }
}
