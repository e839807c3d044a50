//! A source, fetched: whole, checked, and in memory.

use super::{
    artifact,
    http::{Ask, Http, PlainHttp, Redirects, body, shown},
    reference::Reference,
    registry::Registry,
    source::Source,
};
use crate::component_file::ComponentFile;
use anyhow::{Context as _, bail, ensure};
use fumehood_core::digest::Digest;
use reqwest::StatusCode;
use std::{path::Path, time::Duration};

/// The way to what is not on this machine, and how much may come that way.
pub(crate) struct Outside {
    pub(super) http: Http,
    /// The largest component that is taken, in bytes.
    largest: u64,
}

/// A component, and how it was found.
pub(crate) struct Fetched {
    /// What was asked for.
    pub(crate) source: Source,
    /// The component, with what lies beside it.
    pub(crate) file: ComponentFile,
    /// Its exact code.
    pub(crate) digest: Digest,
    /// The artifact that it was in.
    pub(crate) artifact: Option<Digest>,
}

impl Outside {
    /// `silence`: how long a server may send nothing.
    pub(crate) fn new(plain: PlainHttp, silence: Duration, largest: u64) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::new(plain, silence)?,
            largest,
        })
    }

    /// Fetches it. Nothing is kept anywhere; dropped in between, nothing is left.
    pub(crate) async fn fetch(&self, source: &Source) -> anyhow::Result<Fetched> {
        let (file, artifact) = match source {
            Source::File(path) => (ComponentFile::read(path)?, None),
            Source::Web { url, digest } => {
                let wasm = self.web(url, *digest).await?;
                (alone(source, wasm), None)
            }
            Source::Oci(reference) => {
                let (wasm, artifact) = self.artifact(reference).await.with_context(|| reference.to_string())?;
                (alone(source, wasm), Some(artifact))
            }
        };
        Ok(Fetched {
            digest: Digest::of(&file.wasm),
            source: source.clone(),
            file,
            artifact,
        })
    }

    async fn web(&self, url: &reqwest::Url, digest: Option<Digest>) -> anyhow::Result<Vec<u8>> {
        let response = self.http.send(Ask::get(url.clone(), Redirects::Elsewhere)).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => bail!("there is nothing at {}; check the URL", shown(url)),
            status => bail!("{} answered {status}", shown(url)),
        }
        let wasm = body(response, self.largest, "the component").await?;
        let found = Digest::of(&wasm);
        // THREAT[T-supply-digest]
        if let Some(expected) = digest.filter(|expected| *expected != found) {
            bail!(
                "{} has {found}, not {expected}: it was changed, or is damaged; nothing of it was kept",
                shown(url)
            );
        }
        ensure!(
            wasm.starts_with(b"\0asm"),
            "what is at {} is no WebAssembly; give the URL of the .wasm file itself",
            shown(url)
        );
        Ok(wasm)
    }

    async fn artifact(&self, reference: &Reference) -> anyhow::Result<(Vec<u8>, Digest)> {
        let mut registry = Registry::new(&self.http, reference)?;
        let wanted = match reference.digest {
            Some(digest) => digest.to_string(),
            None => reference.tag().to_owned(),
        };
        let manifest = registry.manifest(&wanted).await?;
        let layer = artifact::component(&manifest.bytes, &manifest.content_type)?;
        let wasm = registry.blob(&layer, self.largest, "the component").await?;
        Ok((wasm, manifest.digest))
    }
}

/// A component with nothing beside it.
fn alone(source: &Source, wasm: Vec<u8>) -> ComponentFile {
    ComponentFile {
        wasm,
        name: source.name(),
        manifest: None,
        note: None,
    }
}

impl Fetched {
    /// A component that was fetched before.
    pub(crate) fn kept(source: Source, wasm: Vec<u8>, artifact: Option<Digest>) -> Self {
        Self {
            digest: Digest::of(&wasm),
            file: alone(&source, wasm),
            source,
            artifact,
        }
    }
}

/// A place as it is to be written into a file in this folder.
pub(crate) fn place_from(source: &Source, dir: &Path) -> String {
    let Source::File(path) = source else {
        return source.place();
    };
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (path, dir) = (whole(path), whole(dir));
    path.strip_prefix(&dir).unwrap_or(&path).display().to_string()
}
