//! How two rules relate: what both allow, and how much of what one allows the other denies.
//!
//! For explanations and for finding rules that can't have an effect. Decisions are made in
//! [`NetworkPolicy`](super::NetworkPolicy), on requests; nothing here takes part in one.

use super::{
    host::HostPattern,
    rule::{LooseSegment, Methods, NetworkRule, Parts, PathPrefix, PortPattern, loose_segments},
    target::Scheme,
};
use std::sync::Arc;

impl NetworkRule {
    /// The rule that allows what both allow, if there can be such a request.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        if self.scheme_to_allow() != other.scheme_to_allow() {
            return None;
        }
        let port = match (self.0.port, other.0.port) {
            (PortPattern::Any, port) | (port, PortPattern::Any) => port,
            (own, _) if self.port_to_allow() == other.port_to_allow() => own,
            _ => return None,
        };
        let (own, others) = (&self.0.path.0, &other.0.path.0);
        let path = if own.starts_with(others) {
            own
        } else if others.starts_with(own) {
            others
        } else {
            return None;
        };
        Some(Self(Arc::new(Parts {
            methods: self.0.methods.intersect(&other.0.methods)?,
            scheme: self.0.scheme,
            host: self.0.host.intersect(&other.0.host)?,
            port,
            path: PathPrefix(path.clone()),
        })))
    }

    /// One rule that allows what either allows, where they differ in their methods alone.
    #[must_use]
    pub fn joined(&self, other: &Self) -> Option<Self> {
        let same = self.scheme_to_allow() == other.scheme_to_allow()
            && self.port_to_allow() == other.port_to_allow()
            && self.0.host == other.0.host
            && self.0.path == other.0.path;
        same.then(|| {
            Self(Arc::new(Parts {
                methods: self.0.methods.join(&other.0.methods),
                scheme: self.0.scheme,
                host: self.0.host.clone(),
                port: self.0.port,
                path: self.0.path.clone(),
            }))
        })
    }

    /// Whether this rule, in a `deny` list, refuses every request that `allowed` lets through.
    #[must_use]
    pub fn denies_all_of(&self, allowed: &Self) -> bool {
        let host = self.0.host == HostPattern::AnyPublic || self.0.host.covers(&allowed.0.host);
        let port = match self.0.port {
            PortPattern::SchemeDefault | PortPattern::Any => true,
            PortPattern::Exact(port) => allowed.port_to_allow() == Some(port),
        };
        host && port
            && self.denies_scheme_of(allowed)
            && self.0.methods.covers(&allowed.0.methods)
            && starts_with(&loose(&allowed.0.path), &loose(&self.0.path))
    }

    /// Whether this rule, in a `deny` list, refuses a request that `allowed` lets through. A denial of an
    /// address also holds for names that resolve to it, which nobody can know beforehand: not counted here.
    #[must_use]
    pub fn denies_some_of(&self, allowed: &Self) -> bool {
        let host = self.0.host == HostPattern::AnyPublic || self.0.host.intersect(&allowed.0.host).is_some();
        let port = match (self.0.port, allowed.port_to_allow()) {
            (PortPattern::SchemeDefault | PortPattern::Any, _) | (_, None) => true,
            (PortPattern::Exact(port), Some(allowed)) => port == allowed,
        };
        let (own, others) = (loose(&self.0.path), loose(&allowed.0.path));
        host && port
            && self.denies_scheme_of(allowed)
            && self.0.methods.intersect(&allowed.0.methods).is_some()
            && (starts_with(&own, &others) || starts_with(&others, &own))
    }

    fn scheme_to_allow(&self) -> Scheme {
        self.0.scheme.unwrap_or(Scheme::Https)
    }

    /// The one port it allows; absent when it allows every port.
    fn port_to_allow(&self) -> Option<u16> {
        match self.0.port {
            PortPattern::SchemeDefault => Some(self.scheme_to_allow().default_port()),
            PortPattern::Exact(port) => Some(port),
            PortPattern::Any => None,
        }
    }

    fn denies_scheme_of(&self, allowed: &Self) -> bool {
        self.0.scheme.is_none_or(|scheme| scheme == allowed.scheme_to_allow())
    }
}

impl Methods {
    fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, methods) | (methods, Self::Any) => Some(methods.clone()),
            (Self::Only(own), Self::Only(others)) => {
                let both: std::collections::BTreeSet<_> = own.intersection(others).cloned().collect();
                (!both.is_empty()).then_some(Self::Only(both))
            }
        }
    }

    fn join(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => Self::Any,
            (Self::Only(own), Self::Only(others)) => Self::Only(own.union(others).cloned().collect()),
        }
    }
}

fn loose(path: &PathPrefix) -> Vec<LooseSegment<'_>> {
    path.segments().flat_map(loose_segments).collect()
}

fn starts_with(path: &[LooseSegment<'_>], start: &[LooseSegment<'_>]) -> bool {
    path.starts_with(start)
}
