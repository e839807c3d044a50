//! `[tool.NAME]`: the components of the configuration.

use crate::{
    component_file::ComponentFile,
    config::{Loaded, ToolSection},
    distribution::{Cache, Lock, LockFile, Source, Trust, alone, locked},
    fault::OrFault as _,
};
use anyhow::{Context as _, bail, ensure};
use fumehood_agent::{
    host::Host,
    install::{Inspected, NewComponent, NewGrant},
};
use fumehood_core::{
    digest::Digest,
    name::{ComponentName, OrgName},
};
use fumehood_policy::grant::Grant;
use fumehood_store::Blobs;
use std::path::Path;

/// A component of the configuration, as it is now.
pub(crate) struct Configured<'c> {
    pub(crate) name: &'c ComponentName,
    /// What the configuration grants it; absent: nothing is decided there.
    pub(crate) grant: Option<&'c Grant>,
    pub(crate) new: NewComponent,
}

/// Reads every component of the configuration, and refuses code that is not the one it pins. Reaches no network: what is elsewhere was
/// locked and fetched before.
pub(crate) fn read(loaded: &Loaded) -> anyhow::Result<Vec<Configured<'_>>> {
    let reading = Reading {
        loaded,
        trust: loaded.trust()?,
        lock: match loaded.config.tool.values().any(|section| section.source.is_remote()) {
            true => LockFile::of(loaded).read().or_fault()?,
            false => Lock::default(),
        },
    };
    let sections = loaded.config.tool.iter();
    let read = sections
        .map(|(name, section)| {
            let file = reading.file(name, section).with_context(|| format!("[tool.{name}]"))?;
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

/// What sections are read with.
struct Reading<'c> {
    loaded: &'c Loaded,
    trust: Trust,
    lock: Lock,
}

impl Reading<'_> {
    fn file(&self, name: &ComponentName, section: &ToolSection) -> anyhow::Result<ComponentFile> {
        match &section.source {
            Source::File(path) => self.own(name, &self.loaded.base().join(path), section.digest),
            source => self.elsewhere(name, source, section.digest),
        }
    }

    /// The operator's own file.
    fn own(&self, name: &ComponentName, path: &Path, pinned: Option<Digest>) -> anyhow::Result<ComponentFile> {
        let file = ComponentFile::read(path)?;
        if let Some(note) = &file.beside.note {
            tracing::warn!("[tool.{name}]: {note}");
        }
        let digest = Digest::of(&file.wasm);
        match pinned {
            Some(expected) => ensure!(
                expected == digest,
                "{} has the digest {digest}, not {expected}; check where it comes from",
                path.display()
            ),
            // What is pinned here is the operator's own word.
            None => {
                let source = Source::File(path.to_owned());
                self.trust.of_file(&source, path, &file.wasm)?;
            }
        }
        Ok(file)
    }

    /// What somebody else has: the code that is locked, which is in the cache or installed already.
    fn elsewhere(
        &self,
        name: &ComponentName,
        source: &Source,
        pinned: Option<Digest>,
    ) -> anyhow::Result<ComponentFile> {
        let entry = locked(&self.lock, name, source, pinned)?;
        self.trust.of_locked(source, entry.key)?;
        // THREAT[T-supply-digest]: both give the bytes of the digest or none.
        let cached = self.loaded.tool_cache().ok();
        let wasm = cached
            .and_then(|dir| Cache::new(&dir).code(&entry.digest))
            .or_else(|| Blobs::look(&self.loaded.config.data_dir, &entry.digest))
            .with_context(|| {
                format!(
                    "{source} is locked, but not here: its code {} is neither in the cache nor installed; `fumehood tool lock` fetches it",
                    entry.digest
                )
            })?;
        Ok(alone(source, wasm, None))
    }
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
pub(crate) async fn install(host: &Host, components: Vec<Configured<'_>>, org: &OrgName) -> anyhow::Result<()> {
    for configured in components {
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
