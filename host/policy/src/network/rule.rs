//! One network rule: `[METHOD[,METHOD] ][scheme://]host[:port][/path]`.
//!
//! What a rule leaves out is read the careful way round. To *allow*, no scheme means https and no port the
//! scheme's own; `*` is any public name. To *deny*, no scheme means either, no port any, and `*` every host.

use super::{
    host::{Host, HostPattern, ParseHostError},
    target::{Method, Scheme, Target, TargetError, decoded, normal_path, parse_port, split_port, split_scheme},
};
use crate::text_serde::{as_text, shown};
use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr, sync::Arc};

/// A network rule. Prints in one normal form, which parses to the same rule. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NetworkRule(pub(super) Arc<Parts>);

#[derive(PartialEq, Eq, Hash)]
pub(super) struct Parts {
    pub(super) methods: Methods,
    pub(super) scheme: Option<Scheme>,
    pub(super) host: HostPattern,
    pub(super) port: PortPattern,
    pub(super) path: PathPrefix,
}

/// Which methods a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Methods {
    /// Every method.
    Any,
    /// These; not empty.
    Only(BTreeSet<Method>),
}

/// Which ports a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortPattern {
    /// None was written: the scheme's own to allow, any to deny.
    SchemeDefault,
    /// This one.
    Exact(u16),
    /// `:*`
    Any,
}

/// Whole path segments that a request's path must begin with. None: every path. A slash at the end of a
/// rule means nothing: `/v1/` is `/v1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PathPrefix(pub(super) Vec<Box<str>>);

/// Why a text is not a network rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a network rule: {reason}")]
pub struct ParseRuleError {
    text: String,
    reason: RuleFault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum RuleFault {
    #[error("write `[METHOD[,METHOD] ][scheme://]host[:port][/path]`, as in `GET https://api.example.com/v1`")]
    Shape,
    #[error("only `https://` and `http://`, followed by a host, can be reached")]
    Scheme,
    #[error("methods are in capitals, separated by commas, as in `GET,HEAD`; `{0}` is not one")]
    Method(String),
    #[error("{0}")]
    ForbiddenMethod(TargetError),
    #[error("a rule has no user name or password; use a credential")]
    Userinfo,
    #[error("a rule has no query or fragment; it ends with the path")]
    Query,
    #[error("a path already covers everything beneath it; leave out the `*`")]
    PathWildcard,
    #[error("the path has an empty segment (`//`)")]
    EmptySegment,
    #[error("{0}")]
    Path(TargetError),
    #[error("the port is a number from 1 to 65535, or `*`")]
    Port,
    #[error("{0}")]
    Host(#[from] ParseHostError),
}

impl NetworkRule {
    /// Which methods it is about.
    #[must_use]
    pub fn methods(&self) -> &Methods {
        &self.0.methods
    }

    /// The scheme, if one was written.
    #[must_use]
    pub fn scheme(&self) -> Option<Scheme> {
        self.0.scheme
    }

    /// Which hosts it is about.
    #[must_use]
    pub fn host(&self) -> &HostPattern {
        &self.0.host
    }

    /// Which ports it is about.
    #[must_use]
    pub fn port(&self) -> PortPattern {
        self.0.port
    }

    /// Which paths it is about.
    #[must_use]
    pub fn path(&self) -> &PathPrefix {
        &self.0.path
    }

    /// Whether the rule, in an `allow` list, lets `target` through. Does not allocate.
    #[must_use]
    pub fn allows(&self, target: &Target) -> bool {
        let port = match self.0.port {
            PortPattern::SchemeDefault => target.port() == target.scheme().default_port(),
            PortPattern::Exact(port) => target.port() == port,
            PortPattern::Any => true,
        };
        port && self.0.scheme.unwrap_or(Scheme::Https) == target.scheme()
            && self.0.host.matches(target.host())
            && self.0.methods.contains(target.method())
            && self.0.path.allows(target.path())
    }

    /// Whether the rule, in a `deny` list, refuses `target`. Does not allocate.
    #[must_use]
    pub fn denies(&self, target: &Target) -> bool {
        (self.0.host == HostPattern::AnyPublic || self.0.host.matches(target.host())) && self.denies_except_host(target)
    }

    /// Whether the rule, in a `deny` list, refuses `target` once its host has resolved to `address`.
    #[must_use]
    pub fn denies_at(&self, target: &Target, address: IpAddr) -> bool {
        self.0.host == HostPattern::Ip(address) && self.denies_except_host(target)
    }

    fn denies_except_host(&self, target: &Target) -> bool {
        let port = match self.0.port {
            PortPattern::SchemeDefault | PortPattern::Any => true,
            PortPattern::Exact(port) => target.port() == port,
        };
        port && self.0.scheme.is_none_or(|scheme| scheme == target.scheme())
            && self.0.methods.contains(target.method())
            && self.0.path.denies(target.path())
    }

    /// Whether every request that `other` allows, this allows too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let (scheme, other_scheme) = (
            self.0.scheme.unwrap_or(Scheme::Https),
            other.0.scheme.unwrap_or(Scheme::Https),
        );
        let concrete = |port| match port {
            PortPattern::SchemeDefault => Some(scheme.default_port()),
            PortPattern::Exact(port) => Some(port),
            PortPattern::Any => None,
        };
        scheme == other_scheme
            && (self.0.port == PortPattern::Any || concrete(self.0.port) == concrete(other.0.port))
            && self.0.host.covers(&other.0.host)
            && self.0.methods.covers(&other.0.methods)
            && self.0.path.covers(&other.0.path)
    }

    /// Whether this is `*` and nothing else.
    #[must_use]
    pub fn is_bare_star(&self) -> bool {
        self.0.host == HostPattern::AnyPublic
            && self.0.scheme.is_none()
            && self.0.port == PortPattern::SchemeDefault
            && self.0.methods == Methods::Any
            && self.0.path.0.is_empty()
    }
}

impl Methods {
    fn contains(&self, method: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(methods) => methods.iter().any(|own| own.as_str() == method),
        }
    }

    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Only(own), Self::Only(others)) => own.is_superset(others),
            (Self::Only(_), Self::Any) => false,
        }
    }
}

impl PathPrefix {
    /// The segments, each normalised as a request's.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|segment| &**segment)
    }

    // THREAT[T-net-rule-bypass]: whole segments, so that `/v1` is not `/v1evil`.
    fn allows(&self, path: &str) -> bool {
        let mut segments = path.split('/').skip(1);
        self.segments().all(|own| segments.next() == Some(own))
    }

    /// Broader than `allows`: it refuses what any server might read as the rule's path.
    // THREAT[T-net-rule-bypass]
    fn denies(&self, path: &str) -> bool {
        let begins = |segments: &mut dyn Iterator<Item = LooseSegment<'_>>| {
            let mut own = self.segments().flat_map(loose_segments);
            own.all(|own| segments.next() == Some(own))
        };
        begins(&mut loose_segments(path)) || begins(&mut path.split('/').filter_map(without_parameters))
    }

    fn covers(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// A segment as a denial compares it: servers decode what they need not, so `@` and `%40` are one.
#[derive(Debug, Clone, Copy)]
pub(super) struct LooseSegment<'p>(&'p str);

impl PartialEq for LooseSegment<'_> {
    fn eq(&self, other: &Self) -> bool {
        decoded(self.0.as_bytes()).eq(decoded(other.0.as_bytes()))
    }
}

/// The segments of a path for a denial: servers merge `//`, some decode `%2F`, some cut off the parameters behind a `;`.
pub(super) fn loose_segments(path: &str) -> impl Iterator<Item = LooseSegment<'_>> {
    path.split('/')
        .flat_map(|part| part.split("%2F"))
        .flat_map(|part| part.split("%5C"))
        .filter_map(without_parameters)
}

/// A segment without the parameters behind a `;`, an encoded slash in them included. Nothing if none is left.
fn without_parameters(segment: &str) -> Option<LooseSegment<'_>> {
    let name = segment.split(';').next()?.split("%3B").next()?;
    (!name.is_empty()).then_some(LooseSegment(name))
}

impl fmt::Debug for NetworkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NetworkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Methods::Only(methods) = &self.0.methods {
            for (n, method) in methods.iter().enumerate() {
                write!(f, "{}{method}", if n == 0 { "" } else { "," })?;
            }
            f.write_str(" ")?;
        }
        if let Some(scheme) = self.0.scheme {
            write!(f, "{scheme}://")?;
        }
        write!(f, "{}", self.0.host)?;
        match self.0.port {
            PortPattern::SchemeDefault => {}
            PortPattern::Exact(port) => write!(f, ":{port}")?,
            PortPattern::Any => f.write_str(":*")?,
        }
        self.0.path.segments().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl FromStr for NetworkRule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        parse(text).map_err(|reason| ParseRuleError {
            text: shown(text),
            reason,
        })
    }
}

as_text!(
    NetworkRule,
    "a network rule: \"[METHOD[,METHOD] ][scheme://]host[:port][/path]\""
);

fn parse(text: &str) -> Result<NetworkRule, RuleFault> {
    let text = text.trim_matches(' ');
    let (methods, place) = match text.split_once(' ') {
        Some((methods, place)) => (parse_methods(methods)?, place.trim_start_matches(' ')),
        None => (Methods::Any, text),
    };
    if place.is_empty() || place.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(RuleFault::Shape);
    }
    if place.contains(['?', '#']) {
        return Err(RuleFault::Query);
    }
    let (scheme, rest) = if place.contains("://") {
        let (scheme, rest) = split_scheme(place).ok_or(RuleFault::Scheme)?;
        (Some(scheme), rest)
    } else {
        (None, place)
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // A bare scheme must not become "everything over that scheme".
    if authority.is_empty() {
        return Err(RuleFault::Shape);
    }
    if authority.contains('@') {
        return Err(RuleFault::Userinfo);
    }
    let (host, port) = split_host_port(authority)?;
    Ok(NetworkRule(Arc::new(Parts {
        methods,
        scheme,
        host: host.parse()?,
        port: parse_port_pattern(port)?,
        path: parse_path(path)?,
    })))
}

fn split_host_port(authority: &str) -> Result<(&str, Option<&str>), RuleFault> {
    if !authority.starts_with('[') && authority.matches(':').count() > 1 {
        return Err(ParseHostError::BareIpv6.into());
    }
    Ok(split_port(authority))
}

fn parse_port_pattern(port: Option<&str>) -> Result<PortPattern, RuleFault> {
    match port {
        None => Ok(PortPattern::SchemeDefault),
        Some("*") => Ok(PortPattern::Any),
        Some(port) => parse_port(port).map(PortPattern::Exact).ok_or(RuleFault::Port),
    }
}

fn parse_methods(text: &str) -> Result<Methods, RuleFault> {
    text.split(',')
        .map(|method| match Method::parse(method) {
            Ok(parsed) if parsed.as_str() == method => Ok(parsed),
            Err(error @ TargetError::ForbiddenMethod(_)) => Err(RuleFault::ForbiddenMethod(error)),
            _ => Err(RuleFault::Method(shown(method))),
        })
        .collect::<Result<_, _>>()
        .map(Methods::Only)
}

fn parse_path(path: &str) -> Result<PathPrefix, RuleFault> {
    if path.contains('*') {
        return Err(RuleFault::PathWildcard);
    }
    let path = normal_path(path).map_err(RuleFault::Path)?;
    let path = path.strip_suffix('/').unwrap_or(&path);
    let segments: Vec<Box<str>> = path.split('/').skip(1).map(Box::from).collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(RuleFault::EmptySegment);
    }
    Ok(PathPrefix(segments))
}

/// The longest path that is advised whole.
const LONGEST_ADVISED: usize = 200;

/// The rule that lets `target` through and as little else as a rule can: what a denial advises. Its method, its host and its path; of a
/// long path the segments that it begins with.
#[must_use]
pub fn least_rule(target: &Target) -> String {
    let plain = target.scheme() == Scheme::Https && target.port() == 443 && matches!(target.host(), Host::Name(_));
    let origin = if plain {
        format!("https://{}", target.host())
    } else {
        target.origin()
    };
    let path = target.path();
    let path = match path.get(..LONGEST_ADVISED).and_then(|start| start.rfind('/')) {
        Some(end) if path.len() > LONGEST_ADVISED => &path[..end],
        _ if path.len() > LONGEST_ADVISED => "",
        _ => path,
    };
    let exact = format!("{} {origin}{path}", target.method());
    match exact.parse::<NetworkRule>() {
        Ok(rule) => rule.to_string(),
        // A path that no rule can name.
        Err(_) => format!("{} {origin}", target.method()),
    }
}
