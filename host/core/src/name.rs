//! Names that people choose. Each is checked when it is made, so a value of the type is a valid name.

use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Borrow, fmt, ops::Deref, str::FromStr, sync::Arc};

/// Why a text is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind} name: {rule}")]
pub struct NameError {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// When the text breaks the rule stated on the type.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    // The text may be anything a stranger sent: keep the message short and printable.
                    let text = text.chars().take(64).flat_map(char::escape_debug).collect();
                    Err(NameError { kind: $kind, text, rule: $rule })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(&*text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

fn starts_lower_then(text: &str, max: usize, rest: fn(u8) -> bool) -> bool {
    text.len() <= max && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase()) && text.bytes().all(rest)
}

fn lower_digit_dash(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'
}

names! {
    /// An org: `[a-z][a-z0-9-]{0,62}`.
    OrgName, "org", "use 1 to 63 lower-case letters, digits and dashes, starting with a letter", |t| starts_lower_then(t, 63, lower_digit_dash);
    /// An agent: `[a-z][a-z0-9-]{0,62}`.
    AgentName, "agent", "use 1 to 63 lower-case letters, digits and dashes, starting with a letter", |t| starts_lower_then(t, 63, lower_digit_dash);
    /// A configured model: `[a-z][a-z0-9-]{0,62}`.
    ModelName, "model", "use 1 to 63 lower-case letters, digits and dashes, starting with a letter", |t| starts_lower_then(t, 63, lower_digit_dash);
    /// A component: `[a-z][a-z0-9-]{0,62}`.
    ComponentName, "component", "use 1 to 63 lower-case letters, digits and dashes, starting with a letter", |t| starts_lower_then(t, 63, lower_digit_dash);
    /// A skill: `[a-z][a-z0-9-]{0,62}`, the name of its directory.
    SkillName, "skill", "use 1 to 63 lower-case letters, digits and dashes, starting with a letter", |t| starts_lower_then(t, 63, lower_digit_dash);
    /// A hook: `[a-z][a-z0-9-]{0,62}`.
    HookName, "hook", "use 1 to 63 lower-case letters, digits and dashes, starting with a letter", |t| starts_lower_then(t, 63, lower_digit_dash);
    /// A language and region as BCP 47 writes them: `en`, `de-CH`, `zh-Hant-TW`. Checked for its form only.
    Locale, "locale", "use subtags of letters and digits with dashes between, like `en` or `de-CH`", |t| {
        t.len() <= 35
            && t.split('-').enumerate().all(|(at, subtag)| {
                let letters = at > 0 || subtag.bytes().all(|b| b.is_ascii_alphabetic());
                (1..=8).contains(&subtag.len()) && letters && subtag.bytes().all(|b| b.is_ascii_alphanumeric())
            })
            && t.find('-').unwrap_or(t.len()) >= 2
    };
    /// A tool: `[a-z0-9_]{1,64}`.
    ToolName, "tool", "use 1 to 64 lower-case letters, digits and underscores", |t| {
        (1..=64).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    /// A secret: `[A-Za-z_][A-Za-z0-9_]{0,63}`, as an environment variable would be named.
    SecretName, "secret", "use 1 to 64 letters, digits and underscores, not starting with a digit", |t| {
        (1..=64).contains(&t.len())
            && !t.as_bytes()[0].is_ascii_digit()
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
}

impl OrgName {
    /// The org that exists without any configuration.
    #[must_use]
    pub fn default_org() -> Self {
        Self(Arc::from("default"))
    }
}

impl ComponentName {
    /// What rules and hooks take the tools for that a client brings: they are of no component.
    #[must_use]
    pub fn client() -> Self {
        Self(Arc::from("client"))
    }
}

impl ModelName {
    /// The model of an agent that names none.
    #[must_use]
    pub fn main() -> Self {
        Self(Arc::from("main"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tool_names_follow_the_contract() {
        for good in ["a", "files_read", "0", &"x".repeat(64)] {
            assert!(ToolName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "Files", "files-read", "files.read", &"x".repeat(65), "é"] {
            assert!(ToolName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn component_names_start_with_a_letter() {
        assert!(ComponentName::new("github").is_ok());
        assert!(ComponentName::new("1github").is_err());
        assert!(ComponentName::new("git_hub").is_err());
        assert!(ComponentName::new("a".repeat(64)).is_err());
    }

    #[test]
    fn a_locale_has_the_form_of_bcp_47() {
        for good in ["en", "de-CH", "zh-Hant-TW", "es-419", "sl-rozaj-biske"] {
            assert!(Locale::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "e",
            "en_US",
            "en-",
            "-en",
            "12",
            "en US",
            "abcdefghi",
            &"en-".repeat(13),
        ] {
            assert!(Locale::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_name_is_an_environment_variable_name() {
        assert!(SecretName::new("GITHUB_TOKEN").is_ok());
        assert!(SecretName::new("9X").is_err());
        assert!(SecretName::new("A-B").is_err());
    }

    #[test]
    fn a_refusal_names_the_rule_and_escapes_the_text() {
        let message = ToolName::new("a\nb").unwrap_err().to_string();
        assert!(
            message.contains("a\\nb") && message.contains("underscores"),
            "{message}"
        );
    }
}
