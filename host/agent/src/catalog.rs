//! Which tools an org has, ready to run, and which of them a session's agents offer.
//!
//! A snapshot per org is built from the store once and replaced when a component is added, granted or removed; turns keep
//! the snapshot they began with, and with it its code; what that may do is looked up for each call, in `standing`.

use crate::{
    callable::misfit,
    changes::Changes,
    schema::Schema,
    standing::{Standing, Standings},
    telemetry::ToolMeters,
};
use fumehood_core::{
    approval::fingerprint,
    call::{Arguments, CallError, CallErrorCode, ComponentRef},
    digest::Digest,
    name::{AgentName, ComponentName, OrgName, ToolName},
    tool::ToolDefinition,
};
use fumehood_policy::{
    agent::{AgentSpec, offers},
    quantity::Span,
    tool_pattern::ToolPattern,
};
use fumehood_sandbox::{ComponentKind, LeftOut, Sandbox, ShareKey};
use fumehood_store::{Blobs, Store, StoreError, record};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// A component of an org, compiled.
pub struct InstalledComponent {
    /// What the store keeps of it.
    pub record: record::Component,
    /// Its code.
    pub code: fumehood_sandbox::Component,
    /// What it may do now, whatever the record says.
    pub(crate) standing: Arc<Standing>,
}

/// A tool of an org, ready to be called.
pub struct InstalledTool {
    /// The component it belongs to.
    pub component: Arc<InstalledComponent>,
    /// What it says of itself.
    pub definition: ToolDefinition,
    schema: Schema,
    pub(crate) meters: ToolMeters,
}

impl InstalledTool {
    /// Whether the arguments follow the tool's schema.
    ///
    /// # Errors
    /// `invalid_arguments`, with the place and the reason of the first few faults.
    pub fn check(&self, arguments: &mut Arguments) -> Result<(), CallError> {
        // The validator wants a `Value`: they are moved into one and back, since they may be large.
        let value = serde_json::Value::Object(std::mem::take(arguments));
        let checked = self.fits(&value);
        if let serde_json::Value::Object(back) = value {
            *arguments = back;
        }
        checked
    }

    fn fits(&self, arguments: &serde_json::Value) -> Result<(), CallError> {
        self.schema
            .check(arguments)
            .map_err(|why| misfit(&self.definition.name, &why))
    }

    /// Of a call of it with these arguments: what an approval is about.
    #[must_use]
    pub fn fingerprint(&self, arguments: &Arguments) -> Digest {
        fingerprint(self.definition.name.as_str(), &self.component.record.digest, arguments)
    }

    /// Which code a call of it runs.
    #[must_use]
    pub fn component_ref(&self) -> ComponentRef {
        let record = &self.component.record;
        ComponentRef {
            name: record.name.clone(),
            digest: record.digest,
        }
    }
}

/// Every tool of an org.
#[derive(Default)]
pub struct OrgTools {
    tools: BTreeMap<ToolName, Arc<InstalledTool>>,
    /// Names that more than one component offers: offered by none of them.
    collisions: BTreeMap<ToolName, Vec<ComponentName>>,
    /// Components that wait for a grant.
    waiting: BTreeMap<ToolName, ComponentName>,
    /// Components that are hooks, whether or not they wait for a grant.
    hooks: BTreeMap<ComponentName, Arc<InstalledComponent>>,
    /// Functions of components that are no tools, whether or not those wait for a grant.
    left_out: BTreeMap<ComponentName, Vec<LeftOut>>,
}

impl OrgTools {
    /// A tool by the name somebody used.
    ///
    /// # Errors
    /// `tool_not_found` where there is none or several, `denied` where its component waits for a grant.
    pub fn find(&self, name: &str) -> Result<&Arc<InstalledTool>, CallError> {
        if let Some(tool) = self.tools.get(name) {
            return Ok(tool);
        }
        if let Some(components) = self.collisions.get(name) {
            let names = components
                .iter()
                .map(|name| name.as_str())
                .collect::<Vec<_>>()
                .join(", ");
            let message = format!(
                "several components offer {name} or have that name ({names}), so it is offered by none; remove one of them"
            );
            return Err(CallError::new(CallErrorCode::ToolNotFound, message));
        }
        if let Some(component) = self.waiting.get(name) {
            let message = format!(
                "the component {component} of the tool {name} waits for a grant; the operator decides with `fumehood tool grant {component}`"
            );
            return Err(CallError::new(CallErrorCode::Denied, message));
        }
        let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        Err(CallError::new(
            CallErrorCode::ToolNotFound,
            format!("there is no tool `{shown}` here; use one of those listed"),
        ))
    }

    /// The tools of a chain of agents: those that every agent of the chain which lists tools lets through.
    #[must_use]
    pub fn offered_by(self: &Arc<Self>, chain: &[AgentSpec]) -> OfferedTools {
        let offer = if chain.iter().all(|agent| agent.tools.is_none()) {
            Offer::All
        } else {
            let listed =
                |(name, tool): &(&ToolName, &Arc<InstalledTool>)| offers(chain, &tool.component.record.name, name);
            Offer::Only(
                self.tools
                    .keys()
                    .zip(self.tools.values())
                    .filter(listed)
                    .map(|(name, _)| name.clone())
                    .collect(),
            )
        };
        let lists = chain
            .iter()
            .filter_map(|agent| Some((agent.name.clone(), agent.tools.clone()?)))
            .collect();
        OfferedTools {
            offer,
            lists,
            org: Arc::clone(self),
        }
    }

    /// A component that is a hook.
    #[must_use]
    pub fn hook(&self, name: &ComponentName) -> Option<&Arc<InstalledComponent>> {
        self.hooks.get(name)
    }

    /// The functions of a component that can't be tools, with the reason.
    #[must_use]
    pub fn left_out(&self, name: &ComponentName) -> &[LeftOut] {
        self.left_out.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a tool or a component has this name, whether or not it can be called.
    pub(crate) fn is_taken(&self, name: &str) -> bool {
        let of_component = |tool: &Arc<InstalledTool>| *tool.component.record.name == *name;
        self.tools.contains_key(name)
            || self.collisions.contains_key(name)
            || self.waiting.contains_key(name)
            || self.hooks.contains_key(name)
            || self.tools.values().any(of_component)
            || self.waiting.values().any(|component| **component == *name)
    }

    /// Every tool that can be called.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<InstalledTool>> {
        self.tools.values()
    }
}

/// The tools one session may use. Made per call where there is no turn, so it holds nothing it can look up.
pub struct OfferedTools {
    offer: Offer,
    /// The agents' own lists, root to leaf; for the words of a refusal.
    lists: Vec<(AgentName, Vec<ToolPattern>)>,
    org: Arc<OrgTools>,
}

enum Offer {
    All,
    Only(BTreeSet<ToolName>),
}

impl OfferedTools {
    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<ToolName> {
        self.offered().map(|tool| tool.definition.name.clone()).collect()
    }

    /// Each with the code it is, in order.
    pub(crate) fn components(&self) -> impl Iterator<Item = (&ToolName, ComponentRef)> {
        self.offered().map(|tool| (&tool.definition.name, tool.component_ref()))
    }

    /// What the model is told, in a stable order.
    #[must_use]
    pub fn definitions(&self) -> Arc<[ToolDefinition]> {
        self.offered().map(|tool| tool.definition.clone()).collect()
    }

    fn offered(&self) -> impl Iterator<Item = &Arc<InstalledTool>> {
        self.org
            .tools
            .values()
            .filter(|tool| self.offers(&tool.definition.name))
    }

    fn offers(&self, name: &str) -> bool {
        match &self.offer {
            Offer::All => true,
            Offer::Only(names) => names.contains(name),
        }
    }

    /// A tool by the name somebody used.
    ///
    /// # Errors
    /// As [`OrgTools::find`]; and `denied` for a tool the org has but the agent does not offer.
    pub fn get(&self, name: &str) -> Result<&Arc<InstalledTool>, CallError> {
        let tool = self.org.find(name)?;
        if self.offers(name) {
            return Ok(tool);
        }
        // The first agent of the chain whose list does not name it.
        let agent = self
            .lists
            .iter()
            .find(|(_, list)| {
                !list
                    .iter()
                    .any(|own| own.matches(&tool.component.record.name, &tool.definition.name))
            })
            .map_or("this one", |(agent, _)| agent.as_str());
        let message = format!(
            "calling {name} was denied: the `tools` list of the agent `{agent}` does not name it; \
             to allow it, add `{name}` to `tools` under `[agent.{agent}]` in fumehood.toml"
        );
        Err(CallError::new(CallErrorCode::Denied, message))
    }

    /// As [`OfferedTools::get`], for the record of the call.
    ///
    /// # Errors
    /// As [`OfferedTools::get`].
    pub fn find(&self, name: &str) -> Result<(ToolName, ComponentRef), CallError> {
        self.get(name)
            .map(|tool| (tool.definition.name.clone(), tool.component_ref()))
    }
}

/// How long calls may go on whose component was removed or replaced, unless the operator says otherwise: as long as a call that asks
/// for no time has in all.
pub const DRAIN: Span = Span::from_secs(30);

/// The snapshots of every org.
pub struct Catalog {
    store: Arc<dyn Store>,
    blobs: Blobs,
    sandbox: Sandbox,
    orgs: Mutex<HashMap<OrgName, Snapshot>>,
    standings: Standings,
    changes: Changes,
    generation: AtomicU64,
}

/// An org's tools, as they were read under a generation; none where they could not be read.
struct Snapshot {
    generation: u64,
    tools: Option<Arc<OrgTools>>,
}

impl Catalog {
    /// A catalog without snapshots. Calls whose component is removed or replaced may go on for as long as `drain`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, blobs: Blobs, sandbox: Sandbox, drain: Span) -> Self {
        Self {
            store,
            blobs,
            sandbox,
            orgs: Mutex::default(),
            standings: Standings::new(drain),
            changes: Changes::default(),
            generation: AtomicU64::new(1),
        }
    }

    /// The sandbox that runs the tools.
    #[must_use]
    pub const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// What the orgs changed.
    pub(crate) const fn changes(&self) -> &Changes {
        &self.changes
    }

    /// A version of a component that somebody still uses.
    pub(crate) fn version(&self, org: &OrgName, name: &ComponentName, digest: Digest) -> Option<Arc<Standing>> {
        self.standings.version(org, name, digest)
    }

    /// Where the components' code is kept.
    #[must_use]
    pub const fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The org's tools.
    ///
    /// # Errors
    /// When the store can't be read. A component that can't be loaded is left out, and the log says so.
    pub async fn tools(&self, org: &OrgName) -> Result<Arc<OrgTools>, StoreError> {
        if let Some(tools) = self.lock().get(org).and_then(|snapshot| snapshot.tools.clone()) {
            return Ok(tools);
        }
        self.refresh(org).await
    }

    /// Whether [`Catalog::tools`] answers from what it has.
    pub(crate) fn is_at_hand(&self, org: &OrgName) -> bool {
        self.lock().get(org).is_some_and(|snapshot| snapshot.tools.is_some())
    }

    /// Builds the org's snapshot anew, after a change.
    ///
    /// # Errors
    /// As [`Catalog::tools`].
    pub async fn refresh(&self, org: &OrgName) -> Result<Arc<OrgTools>, StoreError> {
        // THREAT[T-supply-revoked]: loading takes its time, and a narrower grant may be decided meanwhile. What was read later
        // has the higher generation and stays, whichever is ready first.
        let generation = self.generation.fetch_add(1, Ordering::SeqCst);
        let records = self.store.components(org).await.inspect_err(|_| {
            // Something changed that nobody knows: the next use reads it, and what was read before is out of date.
            self.keep(
                org,
                Snapshot {
                    generation,
                    tools: None,
                },
            );
        })?;
        let (standings, retirement) = self.standings.take(org, generation, &records);
        let mut components = Vec::new();
        for (record, standing) in records.into_iter().zip(standings) {
            match self.load(org, record.digest).await {
                Ok(code) => components.push(InstalledComponent { record, code, standing }),
                Err(error) => {
                    tracing::error!(%org, component = %record.name, digest = %record.digest, error, "a component can't be loaded; its tools are not offered");
                    self.changes.not_loaded(org, &record.name, record.digest, &error);
                }
            }
        }
        let tools = Arc::new(arrange(org, components));
        for (name, components) in &tools.collisions {
            tracing::warn!(%org, tool = %name, ?components, "a tool name is offered by several components, so by none");
        }
        let newest = Snapshot {
            generation,
            tools: Some(Arc::clone(&tools)),
        };
        let kept = self.keep(org, newest);
        drop(retirement);
        Ok(kept.unwrap_or(tools))
    }

    /// Keeps the snapshot, unless a newer one is there. Says which is.
    fn keep(&self, org: &OrgName, newest: Snapshot) -> Option<Arc<OrgTools>> {
        let mut orgs = self.lock();
        let kept = match orgs.entry(org.clone()) {
            Entry::Vacant(place) => place.insert(newest),
            Entry::Occupied(place) => {
                let kept = place.into_mut();
                if kept.generation < newest.generation {
                    *kept = newest;
                }
                kept
            }
        };
        kept.tools.clone()
    }

    async fn load(&self, org: &OrgName, digest: Digest) -> Result<fumehood_sandbox::Component, String> {
        if let Some(component) = self.sandbox.load_cached(digest).await {
            return Ok(component);
        }
        let wasm = self.blobs.get(&digest).await.map_err(|error| error.to_string())?;
        let wasm = wasm.ok_or("its code is missing from the data directory; add it again")?;
        let loaded = self.sandbox.load_for(ShareKey::of(org), wasm, digest).await;
        loaded.map_err(|error| error.to_string())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OrgName, Snapshot>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn arrange(name_of_org: &OrgName, components: Vec<InstalledComponent>) -> OrgTools {
    let mut org = OrgTools::default();
    let names: BTreeSet<ComponentName> = components
        .iter()
        .map(|component| component.record.name.clone())
        .collect();
    let mut offers: BTreeMap<ToolName, Vec<Arc<InstalledTool>>> = BTreeMap::new();
    for component in components.into_iter().map(Arc::new) {
        if component.code.kind() == ComponentKind::Hook {
            org.hooks.insert(component.record.name.clone(), component);
            continue;
        }
        if !component.code.left_out().is_empty() {
            org.left_out
                .insert(component.record.name.clone(), component.code.left_out().to_vec());
        }
        for definition in &component.record.tools {
            let name = definition.name.clone();
            // THREAT[T-supply-impersonation]: a list that names the component means its tools, and no stranger's.
            let taken = names
                .get(name.as_str())
                .filter(|taken| **taken != component.record.name);
            if let Some(taken) = taken {
                tracing::warn!(org = %name_of_org, tool = %name, component = %component.record.name, "the tool has the name of another component and is not offered");
                org.collisions
                    .insert(name, vec![component.record.name.clone(), taken.clone()]);
                continue;
            }
            if component.record.grant.is_none() {
                org.waiting.insert(name, component.record.name.clone());
                continue;
            }
            match Schema::compile(&definition.input_schema) {
                Ok(schema) => offers.entry(name).or_default().push(Arc::new(InstalledTool {
                    meters: ToolMeters::new(name_of_org, &definition.name),
                    component: Arc::clone(&component),
                    definition: definition.clone(),
                    schema,
                })),
                Err(error) => tracing::error!(tool = %name, %error, "a tool's schema can't be used; it is not offered"),
            }
        }
    }
    for (name, mut tools) in offers {
        match tools.len() {
            1 => org.tools.extend(tools.pop().map(|tool| (name, tool))),
            _ => {
                let names = tools.iter().map(|tool| tool.component.record.name.clone()).collect();
                org.collisions.insert(name, names);
            }
        }
    }
    org
}
