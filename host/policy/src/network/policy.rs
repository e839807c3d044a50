//! The decision: a request passes when every layer lets it through, and no layer's `deny` refuses it.

use super::{
    rule::{NetworkRule, least_rule},
    target::Target,
};
use crate::{
    address::embedded_ipv4,
    refusal::{Capability, Setting, advice, lacks, removal},
};
use fumehood_core::name::AgentName;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// One layer's rules. `deny` wins over `allow`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkList {
    /// What the layer lets through. Absent: it does not narrow. Empty: nothing.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bounded::some_entries"
    )]
    pub allow: Option<Vec<NetworkRule>>,
    /// What the layer refuses, whatever `allow` says.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "crate::bounded::entries"
    )]
    pub deny: Vec<NetworkRule>,
}

impl NetworkList {
    /// A list that allows nothing.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            allow: Some(Vec::new()),
            deny: Vec::new(),
        }
    }

    /// Whether the list neither narrows nor refuses.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }
}

/// Who a list belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// The component's manifest.
    Request,
    /// The org's grant.
    Grant,
    /// An agent of the chain.
    Agent(AgentName),
    /// The session.
    Session,
    /// The operator's host-wide list.
    Host,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => f.write_str("request"),
            Self::Grant => f.write_str("grant"),
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Session => f.write_str("session"),
            Self::Host => f.write_str("host"),
        }
    }
}

/// All layers, from the broadest claim to the narrowest: request, grant, agents root to leaf, session; the
/// host's own list may stand anywhere. Without a grant's `allow` nothing passes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// The layers.
    pub layers: Vec<(Layer, NetworkList)>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every layer lets it through.
    Allowed {
        /// The narrowest layer's rule that did, for the ledger: `grant: https://api.example.com/v1`.
        rule: String,
    },
    /// A layer said no.
    Denied(Denial),
}

/// Why a request may not leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denial {
    /// The layer that decided.
    pub layer: Layer,
    /// The `deny` rule that decided; absent when no `allow` rule matched.
    pub rule: Option<String>,
    /// What happened, why, and what to do. Names no rule but the one that decided.
    pub message: String,
}

impl Denial {
    /// What the ledger keeps as the rule: `session: deny https://example.com`, or `grant: no rule allows it`.
    #[must_use]
    pub fn ledger_rule(&self) -> String {
        match &self.rule {
            Some(rule) => format!("{}: deny {rule}", self.layer),
            None => format!("{}: no rule allows it", self.layer),
        }
    }
}

/// What no layer refuses.
struct Passed<'p> {
    /// Whether a grant was among those asked.
    granted: bool,
    /// The narrowest layer's rule, apart from the host's.
    narrowest: Option<(&'p Layer, &'p NetworkRule)>,
}

impl NetworkPolicy {
    /// A policy that lets nothing through.
    #[must_use]
    pub const fn deny_all() -> Self {
        Self { layers: Vec::new() }
    }

    /// Decides on one request. Allocates nothing but the text it returns.
    #[must_use]
    pub fn decide(&self, target: &Target) -> Verdict {
        match self.pass(target) {
            Err(denial) => Verdict::Denied(denial),
            Ok(Passed {
                narrowest: Some((layer, rule)),
                granted: true,
            }) => Verdict::Allowed {
                rule: format!("{layer}: {rule}"),
            },
            Ok(_) => Verdict::Denied(not_allowed(&Layer::Grant, target)),
        }
    }

    /// Decides whether the layers there are would let a request through, if one had been asked for and granted. Not a
    /// decision that a request may leave on.
    #[must_use]
    pub fn decide_narrowing(&self, target: &Target) -> Verdict {
        match self.pass(target) {
            Err(denial) => Verdict::Denied(denial),
            Ok(Passed {
                narrowest: Some((layer, rule)),
                ..
            }) => Verdict::Allowed {
                rule: format!("{layer}: {rule}"),
            },
            Ok(_) => Verdict::Allowed {
                rule: "every list: none narrows it".to_owned(),
            },
        }
    }

    fn pass(&self, target: &Target) -> Result<Passed<'_>, Denial> {
        // THREAT[T-net-rule-bypass]: each layer is asked by itself; lists are never merged, so no list can
        // reopen what another closed.
        for (layer, list) in &self.layers {
            if let Some(rule) = list.deny.iter().find(|rule| rule.denies(target)) {
                return Err(denied_by_rule(layer, rule, target));
            }
        }
        let mut passed = Passed {
            granted: false,
            narrowest: None,
        };
        for (layer, list) in &self.layers {
            let must_ask = matches!(layer, Layer::Request | Layer::Grant);
            match &list.allow {
                Some(allow) => {
                    let Some(rule) = allow.iter().find(|rule| rule.allows(target)) else {
                        return Err(not_allowed(layer, target));
                    };
                    passed.granted |= *layer == Layer::Grant;
                    if *layer != Layer::Host {
                        passed.narrowest = Some((layer, rule));
                    }
                }
                // THREAT[T-supply-wide-request]: silence of a manifest or a grant is a no.
                None if must_ask => return Err(not_allowed(layer, target)),
                None => {}
            }
        }
        Ok(passed)
    }

    /// Decides once more when the address is known: a `deny` of an address holds for names that resolve to it.
    ///
    /// # Errors
    /// When a layer denies the address for this request.
    pub fn check_resolved(&self, target: &Target, address: IpAddr) -> Result<(), Denial> {
        let embedded = match address {
            IpAddr::V6(ip) => embedded_ipv4(ip).map(IpAddr::V4),
            IpAddr::V4(_) => None,
        };
        for (layer, list) in &self.layers {
            for address in [Some(address), embedded].into_iter().flatten() {
                if let Some(rule) = list.deny.iter().find(|rule| rule.denies_at(target, address)) {
                    return Err(denied_by_rule(layer, rule, target));
                }
            }
        }
        Ok(())
    }

    /// Whether no request at all could pass, so that the network need not be offered.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let mut granted = false;
        for (layer, list) in &self.layers {
            let must_ask = matches!(layer, Layer::Request | Layer::Grant);
            granted |= *layer == Layer::Grant;
            match &list.allow {
                Some(allow) if allow.is_empty() => return true,
                None if must_ask => return true,
                _ => {}
            }
        }
        !granted
    }
}

fn denied_by_rule(layer: &Layer, rule: &NetworkRule, target: &Target) -> Denial {
    let rule = rule.to_string();
    let message = format!(
        "{} is denied by the rule `{rule}` {}; {}",
        request(target),
        whose(layer),
        removal(layer),
    );
    Denial {
        layer: layer.clone(),
        rule: Some(rule),
        message,
    }
}

fn whose(layer: &Layer) -> String {
    match layer {
        Layer::Request => "of the component's own manifest".to_owned(),
        Layer::Grant => "of the component's grant".to_owned(),
        Layer::Agent(name) => format!("of the agent `{name}`"),
        Layer::Session => "of the session".to_owned(),
        Layer::Host => "of the host-wide list".to_owned(),
    }
}

fn not_allowed(layer: &Layer, target: &Target) -> Denial {
    Denial {
        layer: layer.clone(),
        rule: None,
        message: format!(
            "{} is not allowed: {}; {}",
            request(target),
            lacks(layer, Capability::Network),
            advice(layer, &Setting::Network(&least_rule(target)))
        ),
    }
}

/// Method, origin and the beginning of the path; never the query, which may hold a secret.
fn request(target: &Target) -> String {
    const SHOWN: usize = 80;
    let path = target.path();
    let (path, more) = match path.get(..SHOWN) {
        Some(start) if path.len() > SHOWN => (start, "…"),
        _ => (path, ""),
    };
    format!("{} {}{path}{more}", target.method(), target.origin())
}
