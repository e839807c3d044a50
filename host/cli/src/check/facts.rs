//! What is known of a component: read from its file, and measured in the sandbox.

use super::Target;
use crate::{component_file::ComponentFile, kit::embedded_manifest};
use fumehood_agent::install::{NewGrant, inspect};
use fumehood_core::{digest::Digest, tool::ToolDefinition};
use fumehood_policy::{authority::HostPolicy, limits::Limits, manifest::Manifest};
use fumehood_sandbox::{Anatomy, ComponentKind, LeftOut, Sandbox, ShareKey, Start, anatomy};
use std::path::PathBuf;

/// How often it is started: the cheapest of them is what starting costs.
const STARTS: usize = 3;

/// What is known.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) digest: Digest,
    pub(crate) kind: ComponentKind,
    /// What it asks for, as the host takes it.
    pub(crate) manifest: Manifest,
    /// Whether the component carries that.
    pub(crate) carried: Carried,
    pub(crate) tools: Vec<ToolDefinition>,
    /// Functions that can't be tools.
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) anatomy: Anatomy,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// The largest that the host takes.
    pub(crate) largest: u64,
    pub(crate) start: Start,
    /// What a call on the host gets that asks for nothing.
    pub(crate) defaults: Limits,
    /// What no call on the host passes.
    pub(crate) ceilings: Limits,
    /// A file that was saved after the component was built.
    pub(crate) newer: Option<PathBuf>,
}

/// What the component carries as its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// The one that is in force.
    Same,
    /// Another than the one beside it.
    Other,
    /// None, while there is one beside it.
    None,
    /// None, and there is none beside it either.
    NoneAtAll,
}

/// Reads, loads and starts a component.
///
/// # Errors
/// When this host could not use it, with what to do.
pub(crate) async fn facts(
    sandbox: &Sandbox,
    file: &ComponentFile,
    target: Target,
    host: &HostPolicy,
    largest: u64,
) -> anyhow::Result<Facts> {
    let anatomy = anatomy(&file.wasm)?;
    // Held, so that inspecting it does not load it again.
    let code = sandbox.load(file.wasm.clone(), Digest::of(&file.wasm)).await?;
    let inspected = inspect(sandbox, ShareKey::default(), &file.component(NewGrant::Undecided)).await?;
    let mut start = sandbox.start(&code).await?;
    for _ in 1..STARTS {
        let again = sandbox.start(&code).await?;
        start.instance = start.instance.min(again.instance);
        start.cpu = start.cpu.min(again.cpu);
        start.memory = start.memory.min(again.memory);
    }
    Ok(Facts {
        digest: inspected.digest,
        kind: code.kind(),
        carried: carried(file),
        manifest: inspected.manifest,
        tools: inspected.tools,
        left_out: inspected.left_out,
        anatomy,
        size: file.wasm.len() as u64,
        largest,
        start,
        defaults: host.defaults,
        ceilings: host.ceilings,
        newer: target.newer,
    })
}

fn carried(file: &ComponentFile) -> Carried {
    let embedded = embedded_manifest(&file.wasm);
    match (&file.beside.manifest, embedded) {
        (None, None) => Carried::NoneAtAll,
        (None, Some(_)) => Carried::Same,
        (Some(_), None) => Carried::None,
        (Some(beside), Some(embedded)) => match Manifest::parse_toml(embedded) {
            Ok(embedded) if embedded == beside.manifest => Carried::Same,
            _ => Carried::Other,
        },
    }
}
