//! What the operator decides about the door, for all orgs.

use crate::{connect::Dial, resolve::Resolve};
use fumehood_policy::address::PrivateNetworks;
use rustls::pki_types::CertificateDer;
use std::{fmt, sync::Arc, time::Duration};

/// How names become addresses.
#[derive(Clone, Default)]
pub enum Resolver {
    /// The system's name servers and hosts file.
    #[default]
    System,
    /// Another one.
    Custom(Arc<dyn Resolve>),
}

/// What carries a request once its address was checked.
#[derive(Clone, Default)]
pub enum Wire {
    /// TCP to that address, and TLS where the URL says `https`.
    #[default]
    Network,
    /// Streams of the caller's own, in place of connections: nothing leaves. For trying tools out against answers that are
    /// written down; whatever else the door does, it does.
    Given(Arc<dyn Dial>),
}

/// The door's settings. The defaults suit a host on the public internet.
#[derive(Debug, Clone)]
pub struct EgressConfig {
    /// Networks that are not public and may be reached all the same.
    pub private_networks: PrivateNetworks,
    /// How names become addresses.
    pub resolver: Resolver,
    /// What carries the requests.
    pub wire: Wire,
    /// Trusted beside the public certificate authorities.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// The longest wait for a name's addresses.
    pub dns_timeout: Duration,
    /// The longest wait for a connection: a free slot, then TCP and TLS over all addresses.
    pub connect_timeout: Duration,
    /// The longest wait for the head of an answer after the last byte of the request left.
    pub first_byte_timeout: Duration,
    /// The longest wait for the next bytes of an answer.
    pub idle_timeout: Duration,
    /// The longest time from the decision to the end of the answer.
    pub total_timeout: Duration,
    /// How many exchanges one org may have with one host and port at a time; more wait.
    pub max_connections_per_host: usize,
    /// How many exchanges there may be at a time in all; more wait.
    pub max_in_flight: usize,
    /// How many idle connections are kept in all.
    pub max_idle_connections: usize,
    /// How long an idle connection is kept.
    pub max_idle_time: Duration,
    /// How old a connection may be when it is used again, and so how long after a change of address the old one may
    /// still be used.
    pub max_connection_age: Duration,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            private_networks: PrivateNetworks::default(),
            resolver: Resolver::System,
            wire: Wire::Network,
            extra_roots: Vec::new(),
            dns_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(60),
            max_connections_per_host: 1024,
            max_in_flight: 4096,
            max_idle_connections: 256,
            max_idle_time: Duration::from_secs(30),
            max_connection_age: Duration::from_secs(300),
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Custom(_) => "Custom",
        })
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "Network",
            Self::Given(_) => "Given",
        })
    }
}
