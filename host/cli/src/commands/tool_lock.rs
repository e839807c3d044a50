//! `fumehood tool lock`: what the configuration names at registries and web servers, fetched, checked, and pinned, so that a start needs
//! no network and finds nothing that nobody chose. Installs nothing.

use crate::{
    args::ToolLock,
    boot,
    commands::tool_add::{allowed, outside, trim},
    compiled_code::CompiledCode,
    config::{Loaded, ToolSection},
    distribution::{Cache, Endorsement, Entry, Fetched, Kept, Lock, LockFile, Outside, Replacing, locked},
    fault::of_usage,
    out::{Out, Style, printable},
};
use anyhow::{Context as _, ensure};
use fumehood_agent::install::{NewGrant, inspect};
use fumehood_core::name::ComponentName;
use fumehood_sandbox::{Sandbox, ShareKey};
use fumehood_store::Blobs;
use serde::Serialize;
use serde_json::json;

/// A component that is fetched and may be pinned. Nothing is written yet.
struct Pinning {
    wasm: Vec<u8>,
    endorsement: Option<Endorsement>,
    pin: Pin,
}

/// What becomes of a section.
#[derive(Serialize)]
struct Pin {
    #[serde(flatten)]
    entry: Entry,
    /// Whether the lock has another one, or none.
    changed: bool,
}

/// Locks what is asked for: all of it, or nothing.
pub(crate) async fn lock(out: Out, loaded: &Loaded, args: &ToolLock) -> anyhow::Result<()> {
    let wanted = wanted(loaded, args.name.as_ref())?;
    let file = LockFile::of(loaded);
    let locking = Locking {
        loaded,
        outside: outside(loaded, &args.way, None)?,
        sandbox: boot::looking(&loaded.config, CompiledCode::of_user())?,
        cache: Cache::new(&loaded.tool_cache()?),
        lock: file.read()?,
        file: &file,
        replacing: match args.replace {
            true => Replacing::Anything,
            false => Replacing::Newer,
        },
    };
    let mut pinning = Vec::with_capacity(wanted.len());
    for (name, section) in wanted {
        let refused = || format!("[tool.{name}]");
        pinning.push(locking.one(name, section).await.with_context(refused)?);
    }
    for pinning in &pinning {
        locking.cache.put(&pinning.wasm, pinning.endorsement.as_ref())?;
    }
    let pins: Vec<Pin> = pinning.into_iter().map(|pinning| pinning.pin).collect();
    for pin in pins.iter().filter(|pin| pin.changed) {
        file.record(pin.entry.clone())?;
    }
    // After they are locked, so that none of them goes.
    if let Some(pin) = pins.last() {
        trim(loaded, pin.entry.digest);
    }
    out.either(&json!({"components": pins}), |_| {
        if pins.is_empty() {
            out.line("the configuration has nothing from a registry or a web server");
        }
        pins.iter().for_each(|pin| told(out, pin));
    });
    Ok(())
}

/// The sections that name something elsewhere.
fn wanted<'c>(
    loaded: &'c Loaded,
    name: Option<&'c ComponentName>,
) -> anyhow::Result<Vec<(&'c ComponentName, &'c ToolSection)>> {
    let elsewhere = loaded
        .config
        .tool
        .iter()
        .filter(|(_, section)| section.source.is_remote());
    let Some(name) = name else {
        return Ok(elsewhere.collect());
    };
    match loaded.config.tool.get(name) {
        None => Err(of_usage(format!(
            "the configuration has no [tool.{name}]; `fumehood tool add` pins what it adds by itself"
        ))),
        Some(section) if !section.source.is_remote() => Err(of_usage(format!(
            "[tool.{name}] is a file of yours, which needs no lock; `digest` there pins it"
        ))),
        Some(section) => Ok(vec![(name, section)]),
    }
}

struct Locking<'a> {
    loaded: &'a Loaded,
    outside: Outside,
    sandbox: Sandbox,
    cache: Cache,
    lock: Lock,
    file: &'a LockFile,
    replacing: Replacing,
}

impl Locking<'_> {
    async fn one(&self, name: &ComponentName, section: &ToolSection) -> anyhow::Result<Pinning> {
        let known = locked(&self.lock, name, &section.source, section.digest);
        if let (Ok(entry), Replacing::Newer) = (known, self.replacing) {
            return self.again(entry).await;
        }
        let mut fetched = self.outside.fetch(&section.source).await?;
        fetched.file.beside.name = Some(name.clone());
        if let Some(expected) = section.digest {
            ensure!(
                fetched.digest == expected,
                "{} has {}, and the configuration asks for {expected}; check where it comes from",
                section.source,
                fetched.digest
            );
        }
        // Whoever writes a digest into the configuration has chosen that code.
        let replacing = match (self.replacing, section.digest) {
            (Replacing::Newer, Some(_)) => Replacing::Changed,
            (replacing, _) => replacing,
        };
        allowed(&fetched, &self.lock, replacing)?;
        let entry = self.inspected(name, &fetched).await?;
        Ok(Pinning {
            wasm: fetched.file.wasm,
            endorsement: fetched.file.beside.endorsement,
            pin: Pin {
                changed: self.lock.get(name) != Some(&entry),
                entry,
            },
        })
    }

    /// What is locked already, and whatever the place has now: from where it was kept, or fetched by its digest.
    async fn again(&self, entry: &Entry) -> anyhow::Result<Pinning> {
        let source = entry.source_in(self.file.dir())?;
        let kept = self.cache.get(&entry.digest);
        let installed = || {
            let wasm = Blobs::look(&self.loaded.config.data_dir, &entry.digest)?;
            Some(Kept {
                wasm,
                endorsement: None,
            })
        };
        let kept = kept.or_else(installed);
        let fetched = self.outside.again(&source, kept, entry.artifact, entry.key).await?;
        // THREAT[T-supply-moved-tag]
        ensure!(
            fetched.digest == entry.digest,
            "{} has {}, and fumehood.lock says {}: it was changed. Say so with --replace if the change is meant",
            entry.source,
            fetched.digest,
            entry.digest
        );
        // It may be signed by another key than when it was locked, which counts now.
        let again = Entry {
            key: fetched.key().or(entry.key),
            ..entry.clone()
        };
        Ok(Pinning {
            wasm: fetched.file.wasm,
            endorsement: fetched.file.beside.endorsement,
            pin: Pin {
                changed: again != *entry,
                entry: again,
            },
        })
    }

    /// How it is pinned, if a start would take it.
    async fn inspected(&self, name: &ComponentName, fetched: &Fetched) -> anyhow::Result<Entry> {
        let new = fetched.file.component(NewGrant::Undecided);
        let manifest = inspect(&self.sandbox, ShareKey::default(), &new).await?.manifest;
        ensure!(
            manifest.name == *name,
            "the component calls itself `{}`; use that name",
            manifest.name
        );
        Ok(Entry {
            name: manifest.name,
            version: Some(manifest.version).filter(|version| !version.is_empty()),
            source: fetched.source.place(),
            artifact: fetched.artifact,
            digest: fetched.digest,
            key: fetched.key(),
        })
    }
}

fn told(out: Out, pin: &Pin) {
    let entry = &pin.entry;
    let version = entry.version.as_deref().unwrap_or_default();
    let done = match pin.changed {
        true => out.style(Style::Good, "pinned"),
        false => out.style(Style::Dim, "as it was locked"),
    };
    out.line(format_args!(
        "{} {} {done}",
        out.style(Style::Bold, &entry.name),
        printable(version)
    ));
    out.line(out.style(
        Style::Dim,
        format_args!("  {} {}", printable(&entry.source), entry.digest),
    ));
}
