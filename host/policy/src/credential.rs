//! Credentials: which secret the host puts where, towards which hosts. The component never sees the value.

use crate::network::{Host, HostPattern};
use fumehood_core::name::SecretName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// A secret bound to hosts and to a place in the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The secret's name in session or org.
    pub secret: SecretName,
    /// Where it may go. Never `*`.
    #[serde(deserialize_with = "bounded_hosts")]
    pub hosts: Vec<HostPattern>,
    /// In what place.
    pub inject: Injection,
}

impl Credential {
    /// Whether the credential belongs to requests towards `host`.
    #[must_use]
    pub fn applies_to(&self, host: &Host) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

/// The place of a secret in a request.
///
/// Text: `{ header = "authorization", format = "Bearer {}" }`, `{ query = "key" }` or `{ basic_user = "x" }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Injection {
    /// A header.
    Header {
        /// Its name, in lower case.
        name: String,
        /// Its value, the secret at the one `{}`.
        format: HeaderFormat,
    },
    /// A query parameter of this name, not percent-encoded.
    Query(String),
    /// HTTP Basic with this user name and the secret as password.
    BasicUser(String),
}

/// A header value with exactly one `{}` for the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFormat {
    before: String,
    after: String,
}

impl HeaderFormat {
    /// The value, with the secret in its place.
    #[must_use]
    pub fn fill(&self, secret: &str) -> String {
        [&self.before, secret, &self.after].concat()
    }
}

impl fmt::Display for HeaderFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{{}}{}", self.before, self.after)
    }
}

/// Why a place is none for a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InjectionError {
    /// Not exactly one of the three kinds.
    #[error(
        "write one place: `{{ header = \"authorization\", format = \"Bearer {{}}\" }}`, `{{ query = \"key\" }}` or `{{ basic_user = \"name\" }}`"
    )]
    OnePlace,
    /// Not a header name.
    #[error("`{0}` is not a header name")]
    HeaderName(String),
    /// A header that frames the message or names its receiver.
    #[error("the header `{0}` belongs to the connection or names the receiver; a secret can't go there")]
    ForbiddenHeader(String),
    /// Not exactly one `{}`, or characters that no header value has.
    #[error(
        "`format` must have exactly one `{{}}`, where the secret goes, and only printable ASCII; as in `Bearer {{}}`"
    )]
    Format,
    /// Empty, or with characters that need encoding.
    #[error("a query parameter's name is 1 to 64 letters, digits, `-`, `_`, `.`, `[` and `]`")]
    QueryName,
    /// Empty, or with a colon or control character.
    #[error("a Basic user name is 1 to 128 printable characters without a colon")]
    BasicUser,
}

/// Hop-by-hop headers (RFC 9110, 7.6.1), those that frame the message, and those that say who is asked.
const FORBIDDEN_HEADERS: [&str; 21] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "content-length",
    "content-type",
    "content-encoding",
    "expect",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "via",
];

impl Injection {
    /// A header with the secret at the one `{}` of `format`.
    ///
    /// # Errors
    /// When the header may not carry a secret, or the format has not exactly one `{}`.
    pub fn header(name: &str, format: &str) -> Result<Self, InjectionError> {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(token) {
            return Err(InjectionError::HeaderName(crate::text_serde::shown(name)));
        }
        let name = name.to_ascii_lowercase();
        // THREAT[T-net-header-smuggling]: these would change where a request goes or where it ends.
        if FORBIDDEN_HEADERS.contains(&&*name) || name.starts_with("sec-") {
            return Err(InjectionError::ForbiddenHeader(name));
        }
        let printable = format.len() <= 256 && format.bytes().all(|b| (b' '..=b'~').contains(&b));
        match format.split_once("{}") {
            Some((before, after)) if printable && !after.contains("{}") => Ok(Self::Header {
                name,
                format: HeaderFormat {
                    before: before.to_owned(),
                    after: after.to_owned(),
                },
            }),
            _ => Err(InjectionError::Format),
        }
    }

    /// A query parameter.
    ///
    /// # Errors
    /// When the name would need encoding.
    pub fn query(name: &str) -> Result<Self, InjectionError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.[]".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(InjectionError::QueryName);
        }
        Ok(Self::Query(name.to_owned()))
    }

    /// HTTP Basic.
    ///
    /// # Errors
    /// When the user name can't stand before the colon.
    pub fn basic_user(user: &str) -> Result<Self, InjectionError> {
        if user.is_empty() || user.len() > 128 || user.chars().any(|c| c == ':' || c.is_control()) {
            return Err(InjectionError::BasicUser);
        }
        Ok(Self::BasicUser(user.to_owned()))
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, format } => write!(f, "the header `{name}: {format}`"),
            Self::Query(name) => write!(f, "the query parameter `{name}`"),
            Self::BasicUser(user) => write!(f, "HTTP Basic as the user `{user}`"),
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectionText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    query: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    basic_user: Option<String>,
}

impl Serialize for Injection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = InjectionText::default();
        match self {
            Self::Header { name, format } => {
                text.header = Some(name.clone());
                text.format = Some(format.to_string());
            }
            Self::Query(name) => text.query = Some(name.clone()),
            Self::BasicUser(user) => text.basic_user = Some(user.clone()),
        }
        text.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Injection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = InjectionText::deserialize(deserializer)?;
        match (text.header, text.format, text.query, text.basic_user) {
            (Some(name), format, None, None) => Self::header(&name, format.as_deref().unwrap_or("{}")),
            (None, None, Some(name), None) => Self::query(&name),
            (None, None, None, Some(user)) => Self::basic_user(&user),
            _ => Err(InjectionError::OnePlace),
        }
        .map_err(D::Error::custom)
    }
}

/// At least one host, and not the one pattern that means everybody.
///
/// # Errors
/// When the list is empty or has a `*`.
pub(crate) fn bounded_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<HostPattern>, D::Error> {
    let hosts: Vec<HostPattern> = crate::bounded::entries(deserializer)?;
    if hosts.is_empty() {
        return Err(D::Error::custom("a credential needs at least one host"));
    }
    // THREAT[T-sec-exfiltration]: a secret that may go anywhere can be sent to anybody.
    if hosts.contains(&HostPattern::AnyPublic) {
        return Err(D::Error::custom(
            "a credential can't be bound to `*`: every host could read it; name the hosts",
        ));
    }
    Ok(hosts)
}
