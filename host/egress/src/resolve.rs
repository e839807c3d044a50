//! From a name to its addresses, once per connection.

use async_trait::async_trait;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{LookupIpStrategy, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    system_conf::read_system_conf,
};
use std::net::IpAddr;

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(pub String);

/// Finds out the addresses of a name.
///
/// The door checks every address it gets, bounds the wait, and asks once per connection; an implementation does
/// neither. Dropping the future gives up the question.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `name` (lower case, no trailing dot, never an IP literal), in order of preference.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// The system's name servers and hosts file; its search domains are not used, so a name is only ever that name.
pub(crate) struct SystemResolver {
    /// Absent when the system's configuration can't be read; then no name resolves.
    resolver: Option<TokioResolver>,
}

impl SystemResolver {
    pub(crate) fn new() -> Self {
        let resolver = build();
        if resolver.is_none() {
            tracing::warn!(
                "the system's name server configuration can't be used: tools reach only hosts given as an address"
            );
        }
        Self { resolver }
    }
}

fn build() -> Option<TokioResolver> {
    let (config, mut options) = read_system_conf().ok()?;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let config = ResolverConfig::from_parts(None, Vec::new(), config.name_servers().to_vec());
    let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build().ok()
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let unavailable = || ResolveError("this host has no name servers configured".to_owned());
        let resolver = self.resolver.as_ref().ok_or_else(unavailable)?;
        match resolver.lookup_ip(format!("{name}.")).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Err(ResolveError("it has no addresses".to_owned())),
            Err(error) => {
                tracing::debug!(%error, "name resolution failed");
                Err(ResolveError("the name servers did not answer".to_owned()))
            }
        }
    }
}
