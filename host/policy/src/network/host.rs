//! Hosts: one normal form for names, one for addresses, and patterns over them.

use crate::{
    address::embedded_ipv4,
    text_serde::{as_text, shown},
};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    sync::Arc,
};

/// A DNS name: lower-case ASCII (IDNA-encoded), without a trailing dot, each label 1 to 63 letters,
/// digits, dashes and underscores, 253 characters in all. Never an address in disguise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// The host of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name, to be resolved.
    Name(HostName),
    /// An address, written as such. Never an IPv6 form that embeds an IPv4 address.
    Ip(IpAddr),
}

/// Which hosts a rule or a credential is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This name only.
    Exact(HostName),
    /// Subdomains of this name at any depth, not the name itself.
    Subdomains(HostName),
    /// This address, when the request writes it as an address.
    Ip(IpAddr),
    /// Any public name: not an address, not a single label, not under a name reserved for local use.
    AnyPublic,
}

/// Why a text is not a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseHostError {
    /// Nothing there, or nothing between two dots.
    #[error("the host `{0}` has an empty part; write a full name such as `api.example.com`")]
    EmptyLabel(String),
    /// Characters that no host has, or a text that IDNA refuses.
    #[error("`{0}` is not a host name; write a name such as `api.example.com`, or an IP address")]
    NotAName(String),
    /// Too long for DNS.
    #[error("the host name is too long; a part has at most 63 characters and a name 253")]
    TooLong,
    /// An IPv4 address in a short, decimal, octal or hexadecimal form.
    #[error("`{text}` is an odd way to write an address; write `{means}`")]
    OddIpv4 {
        /// As it was written.
        text: String,
        /// What it means.
        means: Ipv4Addr,
    },
    /// An IPv6 address that stands for an IPv4 address.
    #[error("`[{text}]` stands for an IPv4 address; write `{means}`")]
    EmbeddedIpv4 {
        /// As it was parsed.
        text: Ipv6Addr,
        /// The address embedded in it.
        means: Ipv4Addr,
    },
    /// An IPv6 address with a zone.
    #[error("an IPv6 zone (`%…`) names an interface of this machine and is refused; write the address without it")]
    Zone,
    /// An IPv6 address without brackets.
    #[error("write an IPv6 address in brackets, as in `[2001:db8::1]`")]
    BareIpv6,
    /// A `*` elsewhere than alone or as the first label.
    #[error("`{0}`: a `*` stands alone (any public name) or is the first label, as in `*.example.com`")]
    Wildcard(String),
}

impl HostName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a name below `parent`, at any depth.
    #[must_use]
    pub fn is_subdomain_of(&self, parent: &Self) -> bool {
        self.0.strip_suffix(&*parent.0).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether the public DNS could know this name: more than one label, and not under a name reserved for
    /// local or special use (RFC 6761, RFC 6762, RFC 8375, ICANN's `internal`, and names that routers use).
    #[must_use]
    pub fn is_public(&self) -> bool {
        const LOCAL: [&str; 13] = [
            "localhost",
            "local",
            "internal",
            "intranet",
            "private",
            "corp",
            "home",
            "lan",
            "localdomain",
            "invalid",
            "onion",
            "alt",
            "arpa",
        ];
        match self.0.rsplit_once('.') {
            None => false,
            Some((_, top)) => !LOCAL.contains(&top),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = ParseHostError;

    fn from_str(text: &str) -> Result<Self, ParseHostError> {
        match text.parse()? {
            Host::Name(name) => Ok(name),
            Host::Ip(_) => Err(ParseHostError::NotAName(shown(text))),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(ip) => write_ip(*ip, f),
        }
    }
}

impl FromStr for Host {
    type Err = ParseHostError;

    /// Takes a host as a URL writes it. IPv6 is in brackets.
    fn from_str(text: &str) -> Result<Self, ParseHostError> {
        // THREAT[T-net-rule-bypass]: one form per host, so that a rule and a request can't mean the same
        // host in different letters, nor different hosts in the same letters.
        if let Some(inner) = text.strip_prefix('[') {
            return parse_ipv6(inner.strip_suffix(']').ok_or_else(|| not_a_name(text))?);
        }
        if text.contains('%') {
            return Err(not_a_name(text));
        }
        if text.bytes().filter(|b| *b == b':').count() > 1 {
            return Err(ParseHostError::BareIpv6);
        }
        let dotless = text.strip_suffix(['.', '。', '．', '｡']).unwrap_or(text);
        match url::Host::parse(dotless) {
            Ok(url::Host::Ipv4(ip)) if ip.to_string() == dotless => Ok(Self::Ip(ip.into())),
            Ok(url::Host::Ipv4(means)) => Err(ParseHostError::OddIpv4 {
                text: shown(text),
                means,
            }),
            Ok(url::Host::Domain(name)) => checked_name(&name, text),
            Ok(url::Host::Ipv6(_)) => Err(ParseHostError::BareIpv6),
            Err(url::ParseError::EmptyHost) => Err(ParseHostError::EmptyLabel(shown(text))),
            Err(_) => Err(not_a_name(text)),
        }
    }
}

fn not_a_name(text: &str) -> ParseHostError {
    ParseHostError::NotAName(shown(text))
}

fn parse_ipv6(text: &str) -> Result<Host, ParseHostError> {
    if text.contains('%') {
        return Err(ParseHostError::Zone);
    }
    let ip: Ipv6Addr = text.parse().map_err(|_| not_a_name(text))?;
    // THREAT[T-net-rule-bypass]: else `[::ffff:192.0.2.1]` would slip past a denial of `192.0.2.1`.
    match embedded_ipv4(ip) {
        Some(means) => Err(ParseHostError::EmbeddedIpv4 { text: ip, means }),
        None => Ok(Host::Ip(ip.into())),
    }
}

fn checked_name(name: &str, text: &str) -> Result<Host, ParseHostError> {
    if name.len() > 253 {
        return Err(ParseHostError::TooLong);
    }
    for label in name.split('.') {
        match label.len() {
            0 => return Err(ParseHostError::EmptyLabel(shown(text))),
            1..=63 => {}
            _ => return Err(ParseHostError::TooLong),
        }
        if !label
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        {
            return Err(not_a_name(text));
        }
    }
    Ok(Host::Name(HostName(name.into())))
}

fn write_ip(ip: IpAddr, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match ip {
        IpAddr::V4(ip) => write!(f, "{ip}"),
        IpAddr::V6(ip) => write!(f, "[{ip}]"),
    }
}

impl HostPattern {
    /// Whether the pattern lets `host` through.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exact(own), Host::Name(name)) => own == name,
            (Self::Subdomains(parent), Host::Name(name)) => name.is_subdomain_of(parent),
            (Self::AnyPublic, Host::Name(name)) => name.is_public(),
            (Self::Ip(own), Host::Ip(ip)) => own == ip,
            _ => false,
        }
    }

    /// Whether every host that `other` lets through, this lets through too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::AnyPublic, Self::AnyPublic) => true,
            (Self::AnyPublic, Self::Exact(name) | Self::Subdomains(name)) => {
                // `*.com` is public throughout, although `com` alone is not a public name.
                name.is_public() || matches!(other, Self::Subdomains(_)) && label_below(name).is_public()
            }
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Subdomains(a), Self::Exact(b)) => b.is_subdomain_of(a),
            (Self::Subdomains(a), Self::Subdomains(b)) => a == b || b.is_subdomain_of(a),
            (Self::Ip(a), Self::Ip(b)) => a == b,
            _ => false,
        }
    }

    /// The hosts that both let through, if there can be any.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }
}

fn label_below(name: &HostName) -> HostName {
    HostName(format!("x.{name}").into())
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Subdomains(name) => write!(f, "*.{name}"),
            Self::Ip(ip) => write_ip(*ip, f),
            Self::AnyPublic => f.write_str("*"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = ParseHostError;

    fn from_str(text: &str) -> Result<Self, ParseHostError> {
        if text == "*" {
            return Ok(Self::AnyPublic);
        }
        let (name, subdomains) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        if name.contains('*') {
            return Err(ParseHostError::Wildcard(shown(text)));
        }
        match (name.parse()?, subdomains) {
            (Host::Name(name), true) => Ok(Self::Subdomains(name)),
            (Host::Name(name), false) => Ok(Self::Exact(name)),
            (Host::Ip(ip), false) => Ok(Self::Ip(ip)),
            (Host::Ip(_), true) => Err(ParseHostError::Wildcard(shown(text))),
        }
    }
}

as_text!(
    HostPattern,
    "a host: a name, `*.name` for its subdomains, or an IP address"
);
