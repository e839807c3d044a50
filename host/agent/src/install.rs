//! Adding a component: its bytes, what it asks for, and what the org grants it.

use crate::{
    changes::{Operation, ToolChange},
    host::{Host, HostError},
    schema::Schema,
};
use fumehood_core::{
    digest::Digest,
    name::{ComponentName, OrgName},
    now,
};
use fumehood_policy::{
    grant::{Difference, Grant},
    manifest::{Manifest, ManifestError},
};
pub use fumehood_sandbox::LeftOut;
use fumehood_sandbox::{LoadError, Sandbox, ShareKey};
use fumehood_store::{
    BlobError,
    record::{Component, Put},
};

/// Why a component is refused. Nothing of it is kept then.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The code can't be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What it asks for can't be read.
    #[error("the component's manifest is not valid: {0}")]
    Manifest(#[from] ManifestError),
    /// Without a manifest somebody has to name it.
    #[error("the component carries no manifest, so it has no name: give it one, or add a tool.toml beside it")]
    Unnamed,
    /// A tool's schema can't be used to check arguments or results.
    #[error("the tool {tool} has an {of} schema that can't be used: {reason}")]
    Schema {
        /// The tool.
        tool: String,
        /// Of what it is: `input` or `output`.
        of: &'static str,
        /// Why.
        reason: String,
    },
    /// The code could not be kept.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl InstallError {
    /// Whether the same may go well when other installs are done.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        matches!(self, Self::Load(LoadError::Busy))
    }
}

/// A component to be added.
#[derive(Debug, Clone)]
pub struct NewComponent {
    /// The `.wasm` file.
    pub wasm: Vec<u8>,
    /// A manifest that takes the place of the embedded one.
    pub manifest: Option<Manifest>,
    /// The name of a component that carries no manifest.
    pub name: Option<ComponentName>,
    /// What to grant.
    pub grant: NewGrant,
}

/// A component to be added whose code the host's sandbox has loaded.
///
/// Its code is not kept with it, so it is there for as long as this host runs: for one whose data goes with it.
#[derive(Debug, Clone)]
pub struct LoadedComponent {
    /// Its code.
    pub code: fumehood_sandbox::Component,
    /// A manifest that takes the place of the embedded one.
    pub manifest: Option<Manifest>,
    /// The name of a component that carries no manifest.
    pub name: Option<ComponentName>,
    /// What to grant.
    pub grant: NewGrant,
}

impl LoadedComponent {
    /// Says what it is.
    ///
    /// # Errors
    /// [`InstallError`], with what to do about it.
    pub fn inspect(&self) -> Result<Inspected, InstallError> {
        described(&self.code, self.manifest.as_ref(), self.name.as_ref())
    }
}

/// What an org decides about a component when it is added.
#[derive(Debug, Clone)]
pub enum NewGrant {
    /// Nothing yet: its tools wait for a decision, unless the same code was granted something before.
    Undecided,
    /// All that it asks for.
    Requested,
    /// This.
    Exactly(Box<Grant>),
}

/// What a component is and asks for, before it is added.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Its exact code.
    pub digest: Digest,
    /// What it asks for.
    pub manifest: Manifest,
    /// The tools it offers.
    pub tools: Vec<fumehood_core::tool::ToolDefinition>,
    /// Functions that can't be tools, with the reason.
    pub left_out: Vec<LeftOut>,
}

/// A component that was added.
#[derive(Debug, Clone)]
pub struct Added {
    /// As it is kept.
    pub component: Component,
    /// What changed, where it took the place of other code or asks differently.
    pub update: Option<Update>,
    /// How far the change has come.
    pub change: ToolChange,
}

/// How a version differs from the one whose place it took.
#[derive(Debug, Clone)]
pub struct Update {
    /// The code before.
    pub before: Digest,
    /// What it asks for in addition, and no longer.
    pub difference: Difference,
}

impl Host {
    /// Reads and compiles a component for an org and says what it is, without keeping it.
    ///
    /// # Errors
    /// [`InstallError`], with what to do about it.
    pub async fn inspect_component(&self, org: &OrgName, new: &NewComponent) -> Result<Inspected, HostError> {
        Ok(inspect(self.catalog().sandbox(), ShareKey::of(org), new).await?)
    }

    /// Adds a component, or replaces the one of the same name. A step that runs keeps the tools it began with; calls on the version
    /// before have only so much time left.
    ///
    /// Where nothing is decided about it, what was decided about this code before holds; a new version takes over the grant
    /// of the one before. Either only as long as it asks for no more: one that asks for more waits, and its tools are
    /// withheld until somebody decides.
    ///
    /// # Errors
    /// [`HostError::Install`] if it is refused: nothing of it is kept.
    pub async fn add_component(&self, org: &OrgName, new: NewComponent) -> Result<Added, HostError> {
        self.add(org, Adding::Wasm(new)).await
    }

    /// The same, with code that is loaded.
    ///
    /// # Errors
    /// As [`add_component`](Self::add_component).
    pub async fn add_loaded(&self, org: &OrgName, new: LoadedComponent) -> Result<Added, HostError> {
        self.add(org, Adding::Loaded(new)).await
    }

    async fn add(&self, org: &OrgName, new: Adding) -> Result<Added, HostError> {
        let (host, org) = (self.clone(), org.clone());
        // What is in the store is what is used.
        self.to_the_end(Box::pin(async move { host.add_now(&org, new).await }))
            .await
    }

    async fn add_now(&self, org: &OrgName, new: Adding) -> Result<Added, HostError> {
        let named = new.named();
        let pending = self.catalog().changes().begin(org, Operation::Add, named);
        // Held, so that the version before is there to be told of the change, whatever ends on it meanwhile.
        let tools_before = self.catalog().tools(org).await;
        let (component, before) = match self.put_component(org, new).await {
            Ok(put) => put,
            Err(error) => {
                pending.failed(told(&error));
                return Err(error);
            }
        };
        let replaced = before.as_ref().map(|before| before.digest);
        let change = pending.applied(&component.name, Some(component.digest), replaced);
        if let Some(digest) = replaced.filter(|digest| *digest != component.digest)
            && let Some(version) = self.catalog().version(org, &component.name, digest)
        {
            version.tell(&change);
        }
        drop(tools_before);
        // A manifest need not be part of the code: the same code may ask for something else.
        let changed = |before: &Component| before.digest != component.digest || before.manifest != component.manifest;
        let update = before.filter(changed).map(|before| Update {
            difference: Difference::between(&before.manifest, &component.manifest),
            before: before.digest,
        });
        if let Some(update) = &update
            && component.grant.is_none()
        {
            let added = &update.difference.added;
            tracing::warn!(%org, component = %component.name, ?added, "a component asks for more than before; its tools wait for a grant");
        }
        Ok(Added {
            component,
            update,
            change: change.now(),
        })
    }

    /// Compiles and keeps it, and has everybody use it from now on. Says what it took the place of.
    async fn put_component(&self, org: &OrgName, new: Adding) -> Result<(Component, Option<Component>), HostError> {
        let inspected = match &new {
            Adding::Wasm(new) => self.inspect_component(org, new).await?,
            Adding::Loaded(new) => new.inspect()?,
        };
        let Inspected {
            digest,
            manifest,
            tools,
            left_out: _,
        } = inspected;
        // Loaded code is there for as long as anybody has it, and the catalog looks for it below.
        let (grant, wasm, _held) = match new {
            Adding::Wasm(new) => (new.grant, Some(new.wasm), None),
            Adding::Loaded(new) => (new.grant, None, Some(new.code)),
        };
        let grant = match grant {
            // The store knows what was decided before, and whether that holds for this request.
            NewGrant::Undecided => None,
            NewGrant::Requested => Some(Grant::everything_requested(&manifest)),
            NewGrant::Exactly(grant) => Some(*grant),
        };
        // The code first: a row never points at code that isn't there.
        if let Some(wasm) = wasm {
            self.catalog().blobs().put(wasm).await.map_err(InstallError::Blob)?;
        }
        let component = Component {
            name: manifest.name.clone(),
            org: org.clone(),
            digest,
            manifest,
            tools,
            grant,
            added: now(),
        };
        for above in component
            .manifest
            .limits
            .above_ceilings(&self.caller().policy().ceilings)
        {
            tracing::warn!(%org, component = %component.name, "the manifest asks for {above}; its calls get the ceiling");
        }
        let Put { component, before } = self.store().put_component(&component).await?;
        self.catalog().refresh(org).await?;
        Ok((component, before))
    }
}

/// A component that is being added.
enum Adding {
    Wasm(NewComponent),
    Loaded(LoadedComponent),
}

impl Adding {
    /// Its name, as far as it is known before it is read.
    fn named(&self) -> Option<ComponentName> {
        let (manifest, name) = match self {
            Self::Wasm(new) => (&new.manifest, &new.name),
            Self::Loaded(new) => (&new.manifest, &new.name),
        };
        let named = manifest.as_ref().map(|manifest| manifest.name.clone());
        named.or_else(|| name.clone())
    }
}

/// Why nothing came of a change, for those who look at it later.
fn told(error: &HostError) -> String {
    match error {
        HostError::Install(error) if !matches!(error, InstallError::Blob(_)) => error.to_string(),
        _ => HostError::Fault.to_string(),
    }
}

/// Reads and compiles a component, on this account.
///
/// # Errors
/// [`InstallError`], with what to do about it.
pub async fn inspect(sandbox: &Sandbox, share: ShareKey, new: &NewComponent) -> Result<Inspected, InstallError> {
    // THREAT[T-supply-digest]: a component is what its bytes are; names and versions pin nothing.
    let digest = Digest::of(&new.wasm);
    let _installing = sandbox.begin_install(share)?;
    let component = sandbox.load_for(share, new.wasm.clone(), digest).await?;
    described(&component, new.manifest.as_ref(), new.name.as_ref())
}

/// What a loaded component is, with a manifest that takes the place of its own, or with the name that it has without one.
///
/// # Errors
/// [`InstallError`], with what to do about it.
fn described(
    component: &fumehood_sandbox::Component,
    manifest: Option<&Manifest>,
    name: Option<&ComponentName>,
) -> Result<Inspected, InstallError> {
    let manifest = match (manifest, component.manifest(), name) {
        (Some(manifest), _, _) => manifest.clone(),
        (None, Some(text), _) => Manifest::parse_toml(text)?,
        (None, None, Some(name)) => Manifest::without_requests(name.clone()),
        (None, None, None) => return Err(InstallError::Unnamed),
    };
    for tool in component.tools() {
        let schemas = [
            ("input", Some(&tool.input_schema)),
            ("output", tool.output_schema.as_ref()),
        ];
        for (of, schema) in schemas {
            let Some(schema) = schema else { continue };
            Schema::compile(schema).map_err(|fault| InstallError::Schema {
                tool: tool.name.to_string(),
                of,
                reason: fault.to_string(),
            })?;
        }
    }
    Ok(Inspected {
        digest: *component.digest(),
        manifest,
        tools: component.tools().to_vec(),
        left_out: component.left_out().to_vec(),
    })
}
