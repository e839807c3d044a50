//! The effective authority of one call: request ∩ grant ∩ agents ∩ session ∩ host.

use crate::{
    address::PrivateNetworks,
    agent::AgentSpec,
    credential::Credential,
    deadline::{Deadline, SetBy, TimeLimitBy},
    files::{FileAccess, Files, KvAccess},
    grant::Grant,
    limits::Limits,
    manifest::{EnvName, Manifest},
    network::{Layer, NetworkList, NetworkPolicy, NetworkRule},
    quantity::Rate,
    refusal::{Refusal, Setting},
    text_serde::shown,
    tool_pattern::{ToolFilter, ToolPattern},
};
use fumehood_core::name::{ComponentName, SecretName, ToolName};
use serde::{Deserialize, Serialize};
use std::time::Instant;

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
    /// Tools whose calls may run in the background, at most.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::bounded::some_entries"
    )]
    pub background: Option<Vec<ToolPattern>>,
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
    /// What may be reached where the operator's configuration names one place itself: that place, under the host-wide list.
    #[must_use]
    pub fn only(&self, place: NetworkRule) -> NetworkPolicy {
        let named = NetworkList {
            allow: Some(vec![place]),
            deny: Vec::new(),
        };
        let mut layers = vec![(Layer::Grant, named)];
        let host = self.network_layer();
        if !host.is_absent() {
            layers.push((Layer::Host, host));
        }
        NetworkPolicy { layers }
    }

    /// The host's layer: the configuration's default is `allow = ["*"]`, and that must not refuse a grant of
    /// `http://…` or of a port.
    fn network_layer(&self) -> NetworkList {
        let open = |allow: &Vec<_>| allow.iter().any(NetworkRule::is_bare_star);
        NetworkList {
            allow: self.network.allow.clone().filter(|allow| !open(allow)),
            deny: self.network.deny.clone(),
        }
    }
}

/// What one call may do. Computed per call and recorded with it; as it was recorded, it does not say who allows how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Whether it may be handed on to somebody outside, who ends it later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detach: bool,
    /// Tools of the component whose calls run in the background.
    #[serde(default = "ToolFilter::closed", skip_serializing_if = "ToolFilter::is_closed")]
    pub background: ToolFilter,
    /// Environment variables it may see.
    pub env: Vec<EnvName>,
    /// Its limits.
    pub limits: Limits,
    /// How often the component's tools may be called.
    pub rate: Option<Rate>,
    /// Who allows how much of it. Decides nothing.
    #[serde(skip)]
    pub origins: Origins,
}

/// Each layer's own part of what the authority holds only as an intersection, so that a refusal can say which
/// layer it comes from. `Default` knows nothing: then every refusal is the grant's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins {
    files: Vec<(Layer, Files)>,
    kv: Vec<(Layer, KvAccess)>,
    sign: Vec<(Layer, Vec<SecretName>)>,
    /// In the order of the filter's lists.
    call_tools: Vec<Layer>,
    detach: Vec<(Layer, bool)>,
    background: Vec<(Layer, Vec<ToolPattern>)>,
    time: TimeLimitBy,
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
            credentials: credentials(request, grant),
            files,
            kv: request.kv.access.min(grant.kv.access),
            sign: both(&request.secrets.sign, &grant.secrets.sign),
            call_tools: call_tools(request, grant, agents),
            detach: request.jobs.detach && grant.jobs.detach,
            background: background(request, grant, agents, session).simplified(),
            env: both(&request.env.names, &grant.env.names),
            limits: Limits::effective(&host.defaults, &request.limits, &grant.limits, &host.ceilings),
            rate: match (request.rate.calls, grant.rate.calls) {
                (Some(wanted), Some(granted)) => Some(wanted.stricter(granted)),
                (wanted, granted) => wanted.or(granted),
            },
            origins: Origins::new(request, grant, agents, session, host),
        }
    }

    /// When a call that begins now must be done, as far as its own limit goes.
    #[must_use]
    pub fn time_limit(&self, begun: Instant) -> Deadline {
        Deadline::after(begun, self.limits.time, SetBy::TimeLimit(self.origins.time))
    }

    /// Whether a message may be signed with the secret.
    ///
    /// # Errors
    /// Which layer says no, and how to change it.
    pub fn may_sign(&self, name: &SecretName) -> Result<(), Refusal> {
        if self.sign.contains(name) {
            return Ok(());
        }
        let layer = first(&self.origins.sign, |names| !names.contains(name));
        let what = format!("signing with {name}");
        Err(Refusal::not_allowed(&layer, &what, &Setting::Sign(name.as_str())))
    }

    /// Whether the call may be handed on to somebody outside.
    ///
    /// # Errors
    /// As [`Authority::may_sign`].
    pub fn may_detach(&self) -> Result<(), Refusal> {
        if self.detach {
            return Ok(());
        }
        let layer = first(&self.origins.detach, |allowed| !allowed);
        Err(Refusal::not_allowed(&layer, "handing this call on", &Setting::Detach))
    }

    /// Whether a call of this tool of the component runs in the background.
    ///
    /// # Errors
    /// As [`Authority::may_sign`].
    pub fn may_run_in_background(&self, component: &ComponentName, tool: &ToolName) -> Result<(), Refusal> {
        if self.background.allows(component, tool) {
            return Ok(());
        }
        let names = |list: &Vec<ToolPattern>| list.iter().any(|pattern| pattern.matches(component, tool));
        let layer = first(&self.origins.background, |list| !names(list));
        let what = format!("running {tool} in the background");
        Err(Refusal::not_allowed(&layer, &what, &Setting::Background(tool.as_str())))
    }

    /// Whether the tool of the component may be called.
    ///
    /// # Errors
    /// As [`Authority::may_sign`].
    pub fn may_call(&self, component: &ComponentName, tool: &ToolName) -> Result<(), Refusal> {
        let Some(list) = self.call_tools.refused_by(component, tool) else {
            return Ok(());
        };
        let layer = self.origins.call_tools.get(list).unwrap_or(&Layer::Grant);
        let what = format!("calling {tool}");
        Err(Refusal::not_allowed(layer, &what, &Setting::CallTools(tool.as_str())))
    }

    /// Whether a tool of that name may be called, whichever component it belongs to.
    ///
    /// # Errors
    /// As [`Authority::may_sign`].
    pub fn may_call_named(&self, tool: &ToolName) -> Result<(), Refusal> {
        let Some(list) = self.call_tools.refused_name(tool) else {
            return Ok(());
        };
        let layer = self.origins.call_tools.get(list).unwrap_or(&Layer::Grant);
        let what = format!("calling {tool}");
        Err(Refusal::not_allowed(layer, &what, &Setting::CallTools(tool.as_str())))
    }

    /// The refusal of a call to any tool, if no tool at all may be called.
    #[must_use]
    pub fn calls_nothing(&self, tool: &ToolName) -> Option<Refusal> {
        let list = self.call_tools.closed_by()?;
        let layer = self.origins.call_tools.get(list).unwrap_or(&Layer::Grant);
        let what = format!("calling {tool}");
        Some(Refusal::not_allowed(layer, &what, &Setting::CallTools(tool.as_str())))
    }

    /// Whether the session's key-values may be accessed that far.
    ///
    /// # Errors
    /// As [`Authority::may_sign`].
    pub fn may_use_key_values(&self, wanted: KvAccess) -> Result<(), Refusal> {
        if self.kv >= wanted {
            return Ok(());
        }
        let layer = first(&self.origins.kv, |access| *access < wanted);
        let what = match wanted {
            KvAccess::ReadWrite => "changing the session's key-values",
            _ => "reading the session's key-values",
        };
        Err(Refusal::not_allowed(&layer, what, &Setting::Kv(wanted)))
    }

    /// Whether the file or folder at `path` (normalised, relative to the workspace) may be accessed that far.
    ///
    /// # Errors
    /// As [`Authority::may_sign`].
    pub fn may_use_file(&self, path: &str, wanted: FileAccess) -> Result<(), Refusal> {
        let allows = |files: &Files| match wanted {
            FileAccess::None => true,
            FileAccess::Read => files.may_read(path),
            FileAccess::ReadWrite => files.may_write(path),
        };
        if allows(&self.files) {
            return Ok(());
        }
        let layer = first(&self.origins.files, |files| !allows(files));
        let far_enough = self
            .origins
            .files
            .iter()
            .any(|(own, files)| *own == layer && files.access >= wanted);
        let verb = if wanted == FileAccess::ReadWrite {
            "changing"
        } else {
            "reading"
        };
        let what = format!("{verb} {} of the workspace", shown(path));
        let setting = if far_enough {
            Setting::FilesPath(path)
        } else {
            Setting::Files(wanted)
        };
        Err(Refusal::not_allowed(&layer, &what, &setting))
    }

    /// Whether any file of the workspace may be changed.
    ///
    /// # Errors
    /// As [`Authority::may_sign`].
    pub fn may_change_files(&self) -> Result<(), Refusal> {
        if self.files.access.can_write() {
            return Ok(());
        }
        let layer = first(&self.origins.files, |files| !files.access.can_write());
        let setting = Setting::Files(FileAccess::ReadWrite);
        Err(Refusal::not_allowed(
            &layer,
            "changing files of the workspace",
            &setting,
        ))
    }

    /// Whether the environment variable may be seen.
    #[must_use]
    pub fn may_see(&self, name: &str) -> bool {
        self.env.iter().any(|granted| granted.as_str() == name)
    }
}

/// The first layer whose part refuses; the grant, where nobody knows.
fn first<T>(layers: &[(Layer, T)], refuses: impl Fn(&T) -> bool) -> Layer {
    layers
        .iter()
        .find(|(_, part)| refuses(part))
        .map_or(Layer::Grant, |(layer, _)| layer.clone())
}

impl Origins {
    fn new(
        request: &Manifest,
        grant: &Grant,
        agents: &[AgentSpec],
        session: &SessionNarrowing,
        host: &HostPolicy,
    ) -> Self {
        let mut files = vec![
            (Layer::Request, request.files.clone()),
            (Layer::Grant, grant.files.clone()),
        ];
        if let Some(access) = session.files {
            files.push((Layer::Session, Files { access, paths: None }));
        }
        let background = background_layers(request, grant, agents, session);
        let agents = agents.iter().filter(|agent| agent.tools.is_some());
        Self {
            files,
            kv: vec![(Layer::Request, request.kv.access), (Layer::Grant, grant.kv.access)],
            sign: vec![
                (Layer::Request, request.secrets.sign.clone()),
                (Layer::Grant, grant.secrets.sign.clone()),
            ],
            call_tools: [Layer::Request, Layer::Grant]
                .into_iter()
                .chain(agents.map(|agent| Layer::Agent(agent.name.clone())))
                .collect(),
            detach: vec![(Layer::Request, request.jobs.detach), (Layer::Grant, grant.jobs.detach)],
            background: background
                .into_iter()
                .map(|(layer, list)| (layer, list.to_vec()))
                .collect(),
            time: match request.limits.time.into_iter().chain(grant.limits.time).min() {
                Some(asked) if asked <= host.ceilings.time => TimeLimitBy::Component,
                None if host.defaults.time <= host.ceilings.time => TimeLimitBy::Default,
                Some(_) | None => TimeLimitBy::Ceiling,
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
    layers.extend(narrowing(agents, session, host).layers);
    NetworkPolicy { layers }
}

/// The network's layers below request and grant: they only narrow, and say nothing of what a component may do.
#[must_use]
pub fn narrowing(agents: &[AgentSpec], session: &SessionNarrowing, host: &HostPolicy) -> NetworkPolicy {
    let mut layers = Vec::new();
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

/// Each place of a secret once for each host, however often request and grant name it: the door puts in every one there is.
fn credentials(request: &Manifest, grant: &Grant) -> Vec<Credential> {
    let mut kept: Vec<Credential> = Vec::new();
    let granted = |wanted| {
        grant
            .credentials
            .iter()
            .filter_map(move |granted| granted.narrow(wanted))
    };
    for mut credential in request.credentials.iter().flat_map(granted) {
        let same = |other: &&Credential| other.secret == credential.secret && other.inject == credential.inject;
        let known: Vec<_> = kept.iter().filter(same).flat_map(|other| &other.hosts).collect();
        credential
            .hosts
            .retain(|host| !known.iter().any(|own| own.covers(host)));
        if !credential.hosts.is_empty() {
            kept.push(credential);
        }
    }
    kept
}

/// A tool may not be the way round the agent's own list: what the model may not call, no tool calls for it.
fn call_tools(request: &Manifest, grant: &Grant, agents: &[AgentSpec]) -> ToolFilter {
    let own = [request.tools.call.clone(), grant.tools.call.clone()];
    ToolFilter::all_of(
        own.into_iter()
            .chain(agents.iter().filter_map(|agent| agent.tools.clone())),
    )
}

fn background(request: &Manifest, grant: &Grant, agents: &[AgentSpec], session: &SessionNarrowing) -> ToolFilter {
    let layers = background_layers(request, grant, agents, session);
    ToolFilter::all_of(layers.into_iter().map(|(_, list)| list.to_vec()))
}

/// What the component asks for and was granted, as far as each agent and the session that says something names it as well.
pub(crate) fn background_layers<'a>(
    request: &'a Manifest,
    grant: &'a Grant,
    agents: &'a [AgentSpec],
    session: &'a SessionNarrowing,
) -> Vec<(Layer, &'a [ToolPattern])> {
    let mut layers = vec![
        (Layer::Request, &*request.jobs.background),
        (Layer::Grant, &*grant.jobs.background),
    ];
    for agent in agents {
        let own = agent.background.as_deref();
        layers.extend(own.map(|list| (Layer::Agent(agent.name.clone()), list)));
    }
    layers.extend(session.background.as_deref().map(|list| (Layer::Session, list)));
    layers
}

fn both<T: PartialEq + Clone>(request: &[T], grant: &[T]) -> Vec<T> {
    request.iter().filter(|item| grant.contains(item)).cloned().collect()
}
