//! The standard tools: embedded in the binary, installed for every org when it is made, updated with the binary.
//!
//! They get what they ask for but the network: whom a tool may reach is the operator's to say. One that an org removed or
//! granted something else stays as the org left it.

use anyhow::Context as _;
use fumehood_agent::{
    host::Host,
    install::{NewComponent, NewGrant},
};
use fumehood_core::{
    digest::Digest,
    name::{ComponentName, OrgName},
};
use fumehood_policy::{grant::Grant, manifest::Manifest, network::NetworkList};
use fumehood_store::{Store, record::Owner};
use std::collections::BTreeMap;

include!(concat!(env!("OUT_DIR"), "/standard_tools.rs"));

/// Under which org-wide key it is kept which standard tools were installed.
const INSTALLED: &str = "fumehood:standard-tools";

/// What a standard tool is granted at first.
pub(crate) fn grant(manifest: &Manifest) -> Grant {
    Grant {
        network: NetworkList::nothing(),
        credentials: Vec::new(),
        ..Grant::everything_requested(manifest)
    }
}

/// A standard tool that a start would install.
pub(crate) struct Due {
    pub(crate) new: NewComponent,
    /// Whether the org never had it. One that it has is updated, and what the org decided about it stays decided.
    pub(crate) first: bool,
}

/// Which standard tools each start has to install: those that the org hasn't had yet, and updates of those it has kept.
pub(crate) async fn due(store: &dyn Store, org: &OrgName) -> anyhow::Result<Vec<Due>> {
    let had = installed(store, org).await?;
    let mut due = Vec::new();
    for (name, wasm) in STANDARD_TOOLS {
        let name = ComponentName::new(name)?;
        let had = had.get(&name).copied();
        if had == Some(Digest::of(wasm)) {
            continue;
        }
        let current = store.component(org, &name).await?;
        let kept = match had {
            Some(had) => current.is_some_and(|current| current.digest == had),
            None => current.is_none(),
        };
        if kept {
            due.push(one(wasm, had.is_none()));
        }
    }
    Ok(due)
}

/// Every standard tool, for an org that had none.
pub(crate) fn all() -> Vec<Due> {
    STANDARD_TOOLS.iter().map(|(_, wasm)| one(wasm, true)).collect()
}

fn one(wasm: &[u8], first: bool) -> Due {
    Due {
        new: NewComponent {
            wasm: wasm.to_vec(),
            manifest: None,
            name: None,
            // An update asks anew where it wants more, as every component does.
            grant: NewGrant::Undecided,
        },
        first,
    }
}

/// Which standard tools the org has had, and which version last.
async fn installed(store: &dyn Store, org: &OrgName) -> anyhow::Result<BTreeMap<ComponentName, Digest>> {
    let Some(bytes) = store.kv_get(&Owner::Org(org.clone()), INSTALLED).await? else {
        return Ok(BTreeMap::new());
    };
    // Taken for nothing, tools that the org removed would come back with a grant.
    serde_json::from_slice(&bytes)
        .context("which standard tools were installed can't be read in the store; `fumehood doctor` looks for damage")
}

/// Installs the standard tools that the org hasn't had yet, and updates those it has kept.
pub(crate) async fn install(host: &Host, org: &OrgName) -> anyhow::Result<()> {
    let store = &**host.store();
    for Due { mut new, first } in due(store, org).await? {
        if first {
            let inspected = host
                .inspect_component(org, &new)
                .await
                .context("a standard tool is broken")?;
            new.grant = NewGrant::Exactly(Box::new(grant(&inspected.manifest)));
        }
        host.add_component(org, new).await?;
    }
    let before = installed(store, org).await?;
    let mut now = before.clone();
    for (name, wasm) in STANDARD_TOOLS {
        now.insert(ComponentName::new(name)?, Digest::of(wasm));
    }
    if now != before {
        let owner = Owner::Org(org.clone());
        store.kv_set(&owner, INSTALLED, &serde_json::to_vec(&now)?).await?;
    }
    Ok(())
}
