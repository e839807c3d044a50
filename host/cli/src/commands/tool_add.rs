//! `fumehood tool add`: a component from wherever it is, fetched, checked against what was pinned, installed, and pinned.

use crate::{
    args::{ToolAdd, Way},
    client::Client,
    commands::tool::{self, Decision},
    config::Loaded,
    distribution::{Cache, Candidate, Entry, Fetched, Lock, LockFile, Outside, Replacing, Source, place_from},
    out::{Out, Style, printable, text},
};
use anyhow::{Context as _, bail, ensure};
use fumehood_core::{digest::Digest, name::ComponentName};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};

/// A component that is here, and what was decided about it. Nothing is changed yet.
pub(crate) struct Adding {
    fetched: Fetched,
    decision: Decision,
    /// Where it is to be pinned; none where it is.
    lock: Option<LockFile>,
    /// Its name, where the lock does not say where one of this name may come from.
    unpinned: Option<ComponentName>,
}

/// Whatever is to be added, fetched.
pub(crate) async fn fetch(loaded: &Loaded, args: &ToolAdd) -> anyhow::Result<Vec<Adding>> {
    match &args.source {
        _ if args.locked => locked(loaded, args).await,
        Some(source) => Ok(vec![Adding::fetch(loaded, args, source).await?]),
        // The command line requires one.
        None => Ok(Vec::new()),
    }
}

/// What the lock has, and nothing else.
async fn locked(loaded: &Loaded, args: &ToolAdd) -> anyhow::Result<Vec<Adding>> {
    let file = LockFile::of(loaded);
    let lock = file.read()?;
    let wanted: Vec<&Entry> = match &args.source {
        None => lock.entries().iter().collect(),
        Some(source) => {
            let place = place_from(source, file.dir());
            let entry = lock.at(&place);
            vec![entry.with_context(|| {
                format!("fumehood.lock has nothing from {place}; add it without --locked, which pins it")
            })?]
        }
    };
    ensure!(
        !wanted.is_empty(),
        "fumehood.lock has nothing; `fumehood tool add SOURCE` pins what it adds"
    );
    let (outside, cache) = (
        outside(loaded, &args.way, own(args).as_deref())?,
        loaded.tool_cache().map(|dir| Cache::new(&dir)),
    );
    let mut adding = Vec::new();
    for entry in wanted {
        let source = entry.source_in(file.dir())?;
        let kept = cache.as_ref().ok().and_then(|cache| cache.get(&entry.digest));
        let kept = kept.filter(|_| source.is_remote());
        let fetched = outside.again(&source, kept, entry.artifact, entry.key).await;
        let fetched = fetched.with_context(|| entry.name.to_string())?;
        // THREAT[T-supply-moved-tag]
        ensure!(
            fetched.digest == entry.digest,
            "{}: {} has {}, and fumehood.lock says {}: it was changed; nothing was added. Add it without --locked if the change is meant",
            entry.name,
            entry.source,
            fetched.digest,
            entry.digest
        );
        adding.push(Adding {
            fetched,
            decision: Decision::read(args.grant.as_deref(), args.yes)?,
            lock: None,
            unpinned: None,
        });
    }
    Ok(adding)
}

/// The server of what is to be added.
fn own(args: &ToolAdd) -> Option<String> {
    args.source.as_ref().and_then(Source::server)
}

/// The way out, as it is configured and asked for.
/// `own` is the server of the command's own URL.
pub(crate) fn outside(loaded: &Loaded, way: &Way, own: Option<&str>) -> anyhow::Result<Outside> {
    let config = &loaded.config;
    let largest = config.call_limits().install.component_size.bytes();
    Outside::new(
        way.plain(own)?,
        config.tools.timeout().as_duration(),
        largest,
        loaded.trust()?,
    )
}

impl Adding {
    /// Fetches it, and refuses what may not take the place of what is locked.
    async fn fetch(loaded: &Loaded, args: &ToolAdd, source: &Source) -> anyhow::Result<Self> {
        let decision = Decision::read(args.grant.as_deref(), args.yes)?;
        let lock = LockFile::of(loaded);
        let fetched = outside(loaded, &args.way, own(args).as_deref())?.fetch(source).await?;
        fetched.file.beside.tell();
        // What no host could take needs none started for it.
        fumehood_sandbox::anatomy(&fetched.file.wasm)?;
        let replacing = match args.replace {
            true => Replacing::Anything,
            false => Replacing::Newer,
        };
        let locked = lock.read()?;
        allowed(&fetched, &locked, replacing)?;
        let mut unpinned = None;
        if fetched.source.is_remote() {
            lock.check_writable()?;
            unpinned = named(&fetched)?.filter(|name| !args.replace && locked.get(name).is_none());
        }
        Ok(Self {
            fetched,
            decision,
            lock: Some(lock),
            unpinned,
        })
    }

    /// Installs it, keeps what was fetched, and pins it.
    pub(crate) async fn add(self, out: Out, loaded: &Loaded, client: &Client) -> anyhow::Result<()> {
        if let Some(name) = &self.unpinned {
            self.takes_no_place(client, name).await?;
        }
        if self.fetched.source.is_remote() {
            keep(loaded, &self.fetched);
        }
        let mut component = tool::post(client, &self.fetched.file, &self.decision).await?;
        let Some(lock) = &self.lock else {
            tool::added(out, &component, &self.decision);
            return Ok(());
        };
        let entry = entry(&self.fetched, &component, lock)?;
        component["locked"] = json!(entry);
        tool::added(out, &component, &self.decision);
        let source = entry.source.clone();
        match lock.record(entry) {
            Ok(()) if out.json || !self.fetched.source.is_remote() => Ok(()),
            Ok(()) => {
                out.line(out.style(
                    Style::Dim,
                    format_args!("\npinned in fumehood.lock: {}", printable(&source)),
                ));
                Ok(())
            }
            Err(error) if !self.fetched.source.is_remote() => {
                // Pinning one's own file is worth something where it can be had.
                eprintln!("warning: the component is added, but not pinned: {error:#}");
                Ok(())
            }
            Err(error) => Err(error.context("the component is added, but not pinned")),
        }
    }

    /// Refuses another component in the place of one that is installed and not pinned: a standard one, one that the configuration names,
    /// one that was added over the API.
    // THREAT[T-supply-moved-tag]: a name gives nobody what another one of that name was granted.
    async fn takes_no_place(&self, client: &Client, name: &ComponentName) -> anyhow::Result<()> {
        let there = client.find(&format!("/v1/tools/{name}")).await?;
        match there {
            Some(there) if text(&there, "digest") != self.fetched.digest.to_string() => bail!(
                "{name} is installed, and fumehood.lock does not say from where; {} could be another one of the same name, and would take over \
                 what that one was granted. If it is the same, say so with --replace; if not, `fumehood tool remove {name}` first",
                self.fetched.source
            ),
            _ => Ok(()),
        }
    }
}

/// A component as it is pinned, from the host's answer.
pub(crate) fn entry(fetched: &Fetched, component: &Value, lock: &LockFile) -> anyhow::Result<Entry> {
    let name = text(component, "name").parse();
    let version = Some(text(component, "version")).filter(|version| !version.is_empty());
    Ok(Entry {
        name: name.context("the host's answer has no name")?,
        version: version.map(str::to_owned),
        source: place_from(&fetched.source, lock.dir()),
        artifact: fetched.artifact,
        digest: fetched.digest,
        key: fetched.key(),
    })
}

/// Refuses a file that has no signature where one is required.
pub(crate) fn check_signature(loaded: &Loaded, file: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    loaded.trust()?.of_file(&Source::File(file.to_owned()), file, &bytes)?;
    Ok(())
}

/// What the host will call it.
fn named(fetched: &Fetched) -> anyhow::Result<Option<ComponentName>> {
    let manifest = fetched.file.manifest_in_force()?;
    let named = manifest.map(|manifest| manifest.name);
    Ok(named.or_else(|| fetched.file.beside.name.clone()))
}

/// Refuses what the lock stands against.
pub(crate) fn allowed(fetched: &Fetched, lock: &Lock, replacing: Replacing) -> anyhow::Result<()> {
    let manifest = fetched.file.manifest_in_force()?;
    // The host says what is the matter with one that has no name.
    let Some(name) = named(fetched)? else { return Ok(()) };
    let candidate = Candidate {
        name: &name,
        version: manifest.as_ref().map(|manifest| manifest.version.as_str()),
        source: &fetched.source,
        digest: fetched.digest,
        signed: fetched.signed,
    };
    Ok(lock.decide(&candidate, replacing)?)
}

/// Keeps it for the time when it can't be fetched. Where that is not possible it is installed all the same.
pub(crate) fn keep(loaded: &Loaded, fetched: &Fetched) {
    let kept = loaded
        .tool_cache()
        .and_then(|dir| Cache::new(&dir).put(&fetched.file.wasm, fetched.file.beside.endorsement.as_ref()));
    trim(loaded, fetched.digest);
    if let Err(error) = kept {
        eprintln!("warning: it can't be installed again without a network: {error:#}");
    }
}

/// Keeps the cache within its size, but for what is locked and what was fetched just now. That it can't be hurts nobody today.
pub(crate) fn trim(loaded: &Loaded, fetched: Digest) {
    let Ok(lock) = LockFile::of(loaded).read() else { return };
    let mut needed: BTreeSet<Digest> = lock.entries().iter().map(|entry| entry.digest).collect();
    needed.insert(fetched);
    let most = loaded.config.tools.cache_size().bytes();
    if let Ok(dir) = loaded.tool_cache()
        && let Err(error) = Cache::new(&dir).trim(most, &needed)
    {
        tracing::debug!(%error, "the cache of components could not be trimmed");
    }
}
