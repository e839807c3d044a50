//! A component as a file: the `.wasm`, and the `tool.toml` beside it if that is its own. Read the same way whether it is
//! checked, called, added or configured.

use crate::{
    distribution::{Endorsement, beside as beside_it},
    kit::{Written, embedded_manifest},
    out::{printable, tell},
};
use anyhow::Context as _;
use fumehood_agent::install::{LoadedComponent, NewComponent, NewGrant};
use fumehood_core::name::ComponentName;
use fumehood_policy::manifest::Manifest;
use fumehood_sandbox::Component;
use std::path::Path;

/// What is there.
pub(crate) struct ComponentFile {
    /// The code.
    pub(crate) wasm: Vec<u8>,
    pub(crate) beside: Beside,
}

/// What is known of a component file without reading it.
pub(crate) struct Beside {
    /// The name that the file's own name makes, for a component without a manifest.
    pub(crate) name: Option<ComponentName>,
    /// The manifest beside it, which takes the place of an embedded one.
    pub(crate) manifest: Option<ManifestFile>,
    /// Who vouches for it, as far as that is known.
    pub(crate) endorsement: Option<Endorsement>,
    /// Why the `tool.toml` beside it is not its manifest.
    pub(crate) note: Option<String>,
}

/// A manifest and the file it was read from.
pub(crate) struct ManifestFile {
    pub(crate) manifest: Manifest,
    pub(crate) file: String,
    /// What stands in the file.
    pub(crate) text: String,
    /// The same, with who the component is: it stands alone.
    pub(crate) whole: String,
}

impl ComponentFile {
    /// Reads it.
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let wasm = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let beside = Beside::of(file)?;
        Ok(Self { wasm, beside })
    }

    /// What it asks for: the manifest beside it, or the embedded one. None for a component that has neither, and for what is none.
    pub(crate) fn manifest_in_force(&self) -> anyhow::Result<Option<Manifest>> {
        self.beside.manifest_in_force(embedded_manifest(&self.wasm))
    }

    /// To be added, with this decision about it.
    pub(crate) fn component(&self, grant: NewGrant) -> NewComponent {
        NewComponent {
            wasm: self.wasm.clone(),
            manifest: self.beside.own_manifest(),
            name: self.beside.name.clone(),
            grant,
        }
    }
}

impl Beside {
    /// Looks around a component file.
    pub(crate) fn of(file: &Path) -> anyhow::Result<Self> {
        let stem = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .map(|stem| stem.replace('_', "-"));
        let beside = file.with_file_name("tool.toml");
        let text = match std::fs::read_to_string(&beside) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", beside.display())),
        };
        // One that names another component lies there for that one.
        let written = text.map(|text| Written::new(text, &beside)).transpose()?;
        let named = written.as_ref().and_then(|written| name_in(&written.whole()));
        let (written, note) = match (written, named) {
            (Some(_), Some(named)) if Some(&named) != stem.as_ref() => {
                let note = format!(
                    "{} is for the component `{named}`, so it is not the manifest of {}; rename one of them if it should be",
                    beside.display(),
                    file.display()
                );
                (None, Some(note))
            }
            (written, _) => (written, None),
        };
        let manifest = written
            .map(|written| {
                let manifest = written
                    .manifest()
                    .with_context(|| format!("{} is not a manifest", beside.display()))?;
                anyhow::Ok(ManifestFile {
                    manifest,
                    file: beside.display().to_string(),
                    whole: written.whole(),
                    text: written.text,
                })
            })
            .transpose()?;
        Ok(Self {
            name: stem.and_then(|stem| stem.parse().ok()),
            manifest,
            endorsement: endorsement(&beside_it(file)),
            note,
        })
    }

    /// Tells the note on standard error.
    pub(crate) fn tell(&self) {
        if let Some(note) = &self.note {
            tell(&printable(&format!("note: {note}\n")));
        }
    }

    /// What the component asks for that carries this text as its manifest: the manifest beside it, else that.
    pub(crate) fn manifest_in_force(&self, embedded: Option<&str>) -> anyhow::Result<Option<Manifest>> {
        if let Some(manifest) = self.own_manifest() {
            return Ok(Some(manifest));
        }
        let embedded = embedded.map(Manifest::parse_toml).transpose();
        embedded.context("the component's manifest is not valid")
    }

    /// Loaded code, to be added with this decision about it.
    pub(crate) fn loaded(&self, code: Component, grant: NewGrant) -> LoadedComponent {
        LoadedComponent {
            code,
            manifest: self.own_manifest(),
            name: self.name.clone(),
            grant,
        }
    }

    fn own_manifest(&self) -> Option<Manifest> {
        self.manifest.as_ref().map(|beside| beside.manifest.clone())
    }
}

/// The signature in a file, if there is one. What is none counts for nothing: who asks for one says so.
fn endorsement(file: &Path) -> Option<Endorsement> {
    const LARGEST: u64 = 4 << 10;
    let metadata = std::fs::metadata(file).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    Endorsement::detached(&std::fs::read(file).ok()?)
}

fn name_in(text: &str) -> Option<String> {
    let table: toml::Table = toml::from_str(text).ok()?;
    Some(table.get("name")?.as_str()?.to_owned())
}
