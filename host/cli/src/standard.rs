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
use fumehood_store::record::Owner;
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

/// Installs the standard tools that the org hasn't had yet, and updates those it has kept.
pub(crate) async fn install(host: &Host, org: &OrgName) -> anyhow::Result<()> {
    let owner = Owner::Org(org.clone());
    let known = host.store().kv_get(&owner, INSTALLED).await?;
    let mut installed: BTreeMap<ComponentName, Digest> = known
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let before = installed.clone();
    for (name, wasm) in STANDARD_TOOLS {
        let name = ComponentName::new(name)?;
        let digest = Digest::of(wasm);
        let had = installed.insert(name.clone(), digest);
        if had == Some(digest) {
            continue;
        }
        let current = host.store().component(org, &name).await?;
        let ours = current.as_ref().is_some_and(|current| Some(current.digest) == had);
        if had.is_some() && !ours || had.is_none() && current.is_some() {
            continue;
        }
        let new = NewComponent {
            wasm: wasm.to_vec(),
            manifest: None,
            name: None,
            grant: NewGrant::Undecided,
        };
        let manifest = host
            .inspect_component(&new)
            .await
            .with_context(|| format!("the standard tool {name} is broken"))?
            .manifest;
        // An update keeps what the org decided; it asks anew only where the tool wants more.
        let grant = match current.and_then(|current| current.grant) {
            Some(grant) => grant,
            None => grant(&manifest),
        };
        host.add_component(
            org,
            NewComponent {
                grant: NewGrant::Exactly(Box::new(grant)),
                ..new
            },
        )
        .await?;
    }
    if installed != before {
        host.store()
            .kv_set(&owner, INSTALLED, &serde_json::to_vec(&installed)?)
            .await?;
    }
    Ok(())
}
