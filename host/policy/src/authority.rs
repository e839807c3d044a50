//! The effective authority of one call: request ∩ grant ∩ agents ∩ session ∩ host.

use crate::{
    address::PrivateNetworks,
    agent::AgentSpec,
    credential::Credential,
    files::{FileAccess, Files, KvAccess},
    grant::Grant,
    limits::Limits,
    manifest::{EnvName, Manifest},
    network::{Layer, NetworkList, NetworkPolicy},
    quantity::Rate,
    tool_pattern::ToolFilter,
};
use fumehood_core::name::SecretName;
use serde::{Deserialize, Serialize};

/// What a session may narrow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionNarrowing {
    /// Whom its calls may reach, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkList>,
    /// How far its calls may go with its files, at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<FileAccess>,
}

/// What the operator sets for the whole host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPolicy {
    /// Whom any call may reach, at most. A bare `*` in `allow` means here: whomever the other layers allow.
    pub network: NetworkList,
    /// Addresses that are not public and may be reached all the same.
    pub private_networks: PrivateNetworks,
    /// What a call gets that asks for nothing.
    pub defaults: Limits,
    /// What no call passes.
    pub ceilings: Limits,
}

impl Default for HostPolicy {
    fn default() -> Self {
        Self {
            network: NetworkList::default(),
            private_networks: PrivateNetworks::default(),
            defaults: Limits::default(),
            ceilings: Limits::default_ceilings(),
        }
    }
}

impl HostPolicy {
    /// The host's layer: the configuration's default is `allow = ["*"]`, and that must not refuse a grant of
    /// `http://…` or of a port.
    fn network_layer(&self) -> NetworkList {
        let open = |allow: &Vec<_>| allow.iter().any(crate::network::NetworkRule::is_bare_star);
        NetworkList {
            allow: self.network.allow.clone().filter(|allow| !open(allow)),
            deny: self.network.deny.clone(),
        }
    }
}

/// What one call may do. Computed per call and recorded with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Authority {
    /// Whom it may reach.
    pub network: NetworkPolicy,
    /// What the host puts into its requests.
    pub credentials: Vec<Credential>,
    /// Workspace files.
    pub files: Files,
    /// Key-values.
    pub kv: KvAccess,
    /// Secrets that the host signs with on its behalf.
    pub sign: Vec<SecretName>,
    /// Other tools it may call.
    pub call_tools: ToolFilter,
    /// Environment variables it may see.
    pub env: Vec<EnvName>,
    /// Its limits.
    pub limits: Limits,
    /// How often the component's tools may be called.
    pub rate: Option<Rate>,
}

impl Authority {
    /// Intersects the layers. `agents` is the chain from root to leaf; empty when no agent is involved.
    ///
    /// A layer that says nothing does not narrow; request and grant are no such layers: what either of them
    /// does not name is not allowed.
    #[must_use]
    pub fn compute(
        request: &Manifest,
        grant: &Grant,
        agents: &[AgentSpec],
        session: &SessionNarrowing,
        host: &HostPolicy,
    ) -> Self {
        let mut files = request.files.intersect(&grant.files);
        if let Some(access) = session.files {
            files = files.intersect(&Files { access, paths: None });
        }
        Self {
            network: network(request, grant, agents, session, host),
            credentials: request
                .credentials
                .iter()
                .flat_map(|wanted| grant.credentials.iter().filter_map(|granted| granted.narrow(wanted)))
                .collect(),
            files,
            kv: request.kv.access.min(grant.kv.access),
            sign: both(&request.secrets.sign, &grant.secrets.sign),
            call_tools: call_tools(request, grant, agents),
            env: both(&request.env.names, &grant.env.names),
            limits: Limits::effective(&host.defaults, &request.limits, &grant.limits, &host.ceilings),
            rate: match (request.rate.calls, grant.rate.calls) {
                (Some(wanted), Some(granted)) => Some(wanted.stricter(granted)),
                (wanted, granted) => wanted.or(granted),
            },
        }
    }
}

fn network(
    request: &Manifest,
    grant: &Grant,
    agents: &[AgentSpec],
    session: &SessionNarrowing,
    host: &HostPolicy,
) -> NetworkPolicy {
    let mut layers = vec![
        (Layer::Request, request.network.clone()),
        (Layer::Grant, grant.network.clone()),
    ];
    for agent in agents {
        if let Some(list) = &agent.network {
            layers.push((Layer::Agent(agent.name.clone()), list.clone()));
        }
    }
    if let Some(list) = &session.network {
        layers.push((Layer::Session, list.clone()));
    }
    let host = host.network_layer();
    if !host.is_absent() {
        layers.push((Layer::Host, host));
    }
    NetworkPolicy { layers }
}

/// A tool may not be the way round the agent's own list: what the model may not call, no tool calls for it.
fn call_tools(request: &Manifest, grant: &Grant, agents: &[AgentSpec]) -> ToolFilter {
    let own = [request.tools.call.clone(), grant.tools.call.clone()];
    ToolFilter::all_of(
        own.into_iter()
            .chain(agents.iter().filter_map(|agent| agent.tools.clone())),
    )
}

fn both<T: PartialEq + Clone>(request: &[T], grant: &[T]) -> Vec<T> {
    request.iter().filter(|item| grant.contains(item)).cloned().collect()
}
