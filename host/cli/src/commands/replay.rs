//! `fumehood replay TURN`: a turn that has ended, worked again on what is kept of it.

use crate::{
    args::Replay,
    boot,
    component_file::ComponentFile,
    config::{Config, Loaded},
    fault::OrFault as _,
    out::{Out, Style, count, plain},
};
use anyhow::{Context as _, bail};
use fumehood_agent::replay::{
    Difference, Replacement, ReplayError, ReplayParts, Replayed, Verdict, replay as replay_turn,
};
use fumehood_core::{digest::Digest, id::TurnId, name::OrgName};
use fumehood_policy::manifest::Manifest;
use fumehood_sandbox::{CacheKey, Sandbox, SandboxConfig};
use fumehood_store::{OpenError, Opened};
use serde_json::json;
use std::{path::Path, sync::Arc};

/// Whether nothing differs.
pub(crate) async fn replay(out: Out, loaded: &Loaded, args: &Replay) -> anyhow::Result<bool> {
    let config = &loaded.config;
    if !config.data_dir.exists() {
        bail!(
            "{} does not exist: there is nothing to replay",
            config.data_dir.display()
        );
    }
    let opened = match boot::open(config).await {
        Err(error @ OpenError::InUse { .. }) => {
            return Err(error).context(
                "a turn is replayed while no host serves from this data directory; or make a backup, restore it elsewhere, and replay \
                 there",
            );
        }
        opened => opened?,
    };
    let replayed = replay_on(config, &opened, args).await;
    opened.close().await;
    let replayed = replayed?;
    tell(out, &replayed);
    Ok(replayed.is_identical())
}

async fn replay_on(config: &Config, opened: &Opened, args: &Replay) -> anyhow::Result<Replayed> {
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let sandbox = sandbox(config, opened)?;
    let with = match &args.with_component {
        Some(file) => Some(replacement(&sandbox, file).await?),
        None => None,
    };
    let parts = ReplayParts {
        store: Arc::clone(&opened.store),
        workspaces: opened.workspaces.clone(),
        blobs: opened.blobs.clone(),
        sandbox,
        scratch: scratch.path().to_owned(),
        quota: config.quotas().files,
    };
    let org = org_of(opened, args.turn).await?;
    let replayed = replay_turn(&parts, &org, args.turn, with.as_ref()).await;
    Ok(match replayed {
        Err(error @ ReplayError::NotCalled { .. }) => Err(error).or_fault()?,
        replayed => replayed?,
    })
}

/// The org of a turn. Whoever may read the data directory may read all of them.
async fn org_of(opened: &Opened, turn: TurnId) -> anyhow::Result<OrgName> {
    for org in opened.store.orgs().await? {
        if opened.store.turn(&org.name, turn).await?.is_some() {
            return Ok(org.name);
        }
    }
    Err(ReplayError::NotFound(turn).into())
}

fn sandbox(config: &Config, opened: &Opened) -> anyhow::Result<Sandbox> {
    Ok(Sandbox::new(&SandboxConfig {
        cache_dir: Some(opened.lock.path().join("compiled")),
        cache_key: CacheKey::new(*opened.master.derive("compiled code")),
        tmp_dir: Some(opened.lock.path().join("tmp")),
        max_concurrent_calls: 4,
        max_component_size: config.call_limits().install.component_size.bytes(),
        compiler: boot::compiler(config),
        ceilings: config.host_policy().ceilings,
    })?)
}

/// A component from a file. Its name is that of its manifest, beside it or embedded; else the file's.
async fn replacement(sandbox: &Sandbox, file: &Path) -> anyhow::Result<Replacement> {
    let read = ComponentFile::read(file).or_fault()?;
    let digest = Digest::of(&read.wasm);
    let code = sandbox.load(read.wasm, digest).await;
    let code = code
        .with_context(|| format!("{} can't be used", file.display()))
        .or_fault()?;
    let beside = read.beside.manifest.map(|beside| beside.manifest.name);
    let embedded = || {
        code.manifest()
            .and_then(|text| Manifest::parse_toml(text).ok())
            .map(|manifest| manifest.name)
    };
    let name = beside.or_else(embedded).or(read.beside.name);
    let name = name
        .with_context(|| {
            format!(
                "{} has no manifest, and its name is no component's: rename it",
                file.display()
            )
        })
        .or_fault()?;
    Ok(Replacement { name, code })
}

fn tell(out: Out, replayed: &Replayed) {
    let value = json!({
        "turn": replayed.turn,
        "identical": replayed.is_identical(),
        "decisions": replayed.decisions,
        "calls": replayed.calls,
    });
    out.either(&value, |_| {
        let decisions = count(replayed.decisions.compared, "decision");
        match &replayed.decisions.differs {
            None => out.line(format_args!(
                "{} {decisions} of the turn: identical",
                out.style(Style::Good, "✓")
            )),
            Some(difference) => {
                let bad = out.style(Style::Bad, "✗");
                out.line(format_args!("{bad} {decisions} of the turn: differs"));
                tell_difference(out, difference);
            }
        }
        for call in &replayed.calls {
            let mark = match &call.verdict {
                Verdict::Identical => out.style(Style::Good, "✓"),
                Verdict::Differs { .. } => out.style(Style::Bad, "✗"),
                Verdict::NotRecorded { .. } | Verdict::Skipped { .. } => out.style(Style::Name, "·"),
            };
            let (tool, verdict) = (plain(&call.tool), call.verdict.as_str());
            match &call.verdict {
                Verdict::Identical => out.line(format_args!("{mark} {} {tool}: {verdict}", call.call)),
                Verdict::Differs { difference } => {
                    out.line(format_args!("{mark} {} {tool}: {verdict}", call.call));
                    tell_difference(out, difference);
                }
                Verdict::NotRecorded { why } | Verdict::Skipped { why } => {
                    out.line(format_args!("{mark} {} {tool}: {verdict}: {}", call.call, plain(why)));
                }
            }
        }
        summary(out, replayed);
    });
}

fn tell_difference(out: Out, difference: &Difference) {
    out.line(format_args!("  at {}", plain(&difference.at)));
    out.line(format_args!("  recorded: {}", plain(&difference.recorded)));
    out.line(format_args!("  replayed: {}", plain(&difference.replayed)));
}

fn summary(out: Out, replayed: &Replayed) {
    let of = |word: &str| {
        let calls = replayed.calls.iter();
        calls.filter(|call| call.verdict.as_str() == word).count()
    };
    let counted = ["identical", "differs", "not recorded", "skipped"].map(|word| (of(word), word));
    let parts: Vec<_> = counted
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let calls = count(replayed.calls.len() as u64, "call");
    match parts.as_slice() {
        [] => out.line(format_args!("the turn made no calls")),
        parts => out.line(format_args!("{calls}: {}", parts.join(", "))),
    }
}
