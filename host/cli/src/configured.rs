//! `[tool.NAME]`: the components of the configuration.

use crate::{component_file::ComponentFile, config::Loaded, distribution::Source, fault::OrFault as _};
use anyhow::{Context as _, bail};
use fumehood_agent::{
    host::Host,
    install::{Inspected, NewComponent, NewGrant},
};
use fumehood_core::{
    digest::Digest,
    name::{ComponentName, OrgName},
};
use fumehood_policy::grant::Grant;

/// A component of the configuration, as its file is now.
pub(crate) struct Configured<'c> {
    pub(crate) name: &'c ComponentName,
    /// What the configuration grants it; absent: nothing is decided there.
    pub(crate) grant: Option<&'c Grant>,
    pub(crate) new: NewComponent,
}

/// Reads every component of the configuration, and refuses code that is not the one it pins.
pub(crate) fn read(loaded: &Loaded) -> anyhow::Result<Vec<Configured<'_>>> {
    let trust = loaded.trust()?;
    let sections = loaded.config.tool.iter();
    let read = sections
        .map(|(name, section)| {
            let path = loaded.base().join(&section.source);
            let file = ComponentFile::read(&path).with_context(|| format!("[tool.{name}]"))?;
            if let Some(note) = &file.note {
                tracing::warn!("[tool.{name}]: {note}");
            }
            let digest = Digest::of(&file.wasm);
            if let Some(expected) = section.digest.filter(|expected| *expected != digest) {
                bail!(
                    "[tool.{name}]: {} has the digest {digest}, not {expected}; check where it comes from",
                    path.display()
                );
            }
            // What is pinned here is the operator's own word.
            if section.digest.is_none() {
                let source = Source::File(path.clone());
                trust
                    .of_file(&source, &path, &file.wasm)
                    .with_context(|| format!("[tool.{name}]"))?;
            }
            let grant = section
                .grant
                .clone()
                .map_or(NewGrant::Undecided, |grant| NewGrant::Exactly(Box::new(grant)));
            Ok(Configured {
                name,
                grant: section.grant.as_ref(),
                new: NewComponent {
                    name: Some(name.clone()),
                    ..file.component(grant)
                },
            })
        })
        .collect::<anyhow::Result<_>>();
    read.map_err(|error| loaded.located(error)).or_fault()
}

impl Configured<'_> {
    /// Refuses a component that has another name than its section.
    pub(crate) fn check(&self, inspected: &Inspected) -> anyhow::Result<()> {
        let (name, own) = (self.name, &inspected.manifest.name);
        if own != name {
            bail!("[tool.{name}]: the component calls itself `{own}`; use that name");
        }
        Ok(())
    }
}

/// Installs what is not installed as the configuration says.
pub(crate) async fn install(host: &Host, loaded: &Loaded, org: &OrgName) -> anyhow::Result<()> {
    for configured in read(loaded)? {
        let name = configured.name;
        let refused = || format!("[tool.{name}] is refused");
        let inspected = host
            .inspect_component(org, &configured.new)
            .await
            .with_context(refused)?;
        configured.check(&inspected)?;
        let unchanged = host.store().component(org, name).await?.is_some_and(|installed| {
            installed.digest == inspected.digest
                && installed.manifest == inspected.manifest
                && (configured.grant.is_none() || installed.grant.as_ref() == configured.grant)
        });
        if !unchanged {
            host.add_component(org, configured.new).await.with_context(refused)?;
        }
    }
    Ok(())
}
