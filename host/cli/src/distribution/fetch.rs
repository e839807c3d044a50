//! A source, fetched: whole, checked, and in memory.

use super::{
    artifact, bundle,
    cache::Kept,
    endorsement::Endorsement,
    http::{Ask, Http, PlainHttp, Redirects, body, shown},
    newer::newest,
    reference::Reference,
    registry::{Access, Found, Registry},
    signature::{self, LARGEST_DETACHED, LARGEST_PAYLOAD, Signature},
    source::Source,
    trust::{Distrusted, Policy, Signed, Trust, TrustedKey},
};
use crate::component_file::{Beside, ComponentFile};
use anyhow::{Context as _, anyhow, bail, ensure};
use fumehood_core::digest::Digest;
use reqwest::StatusCode;
use std::{path::Path, time::Duration};

/// The way to what is not on this machine, and how much may come that way.
pub(crate) struct Outside {
    pub(super) http: Http,
    /// The largest component that is taken, in bytes.
    largest: u64,
    trust: Trust,
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
    /// Whose signature it has.
    pub(crate) signed: Signed,
}

impl Outside {
    /// `silence`: how long a server may send nothing.
    pub(crate) fn new(plain: PlainHttp, silence: Duration, largest: u64, trust: Trust) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::new(plain, silence)?,
            largest,
            trust,
        })
    }

    /// Fetches it. Nothing is kept anywhere; dropped in between, nothing is left.
    pub(crate) async fn fetch(&self, source: &Source) -> anyhow::Result<Fetched> {
        let (file, artifact, signed) = match source {
            Source::File(path) => {
                let file = ComponentFile::read(path).map_err(|error| in_a_registry(error, path))?;
                let signed = self.trust.of_file(source, path, &file.wasm)?;
                (file, None, signed)
            }
            Source::Web { url, digest } => {
                let wasm = self.web(url, *digest).await?;
                let (signed, endorsement) = self.signed_on_the_web(source, url, &wasm).await?;
                (alone(source, wasm, endorsement), None, signed)
            }
            Source::Oci(reference) => {
                let (file, artifact, signed) =
                    self.artifact(source, reference)
                        .await
                        .map_err(|error| match error.is::<Distrusted>() {
                            true => error,
                            false => error.context(reference.to_string()),
                        })?;
                (file, Some(artifact), signed)
            }
        };
        Ok(Fetched {
            digest: Digest::of(&file.wasm),
            source: source.clone(),
            file,
            artifact,
            signed,
        })
    }

    /// What is locked: as it was kept, if the signature that it had counts, else fetched, with the signatures that it has now.
    pub(crate) async fn again(
        &self,
        source: &Source,
        kept: Option<Kept>,
        artifact: Option<Digest>,
        key: Option<Digest>,
    ) -> anyhow::Result<Fetched> {
        // Without its signature it could not be shown to a host that asks for one.
        let kept = kept.filter(|kept| kept.endorsement.is_some() || !self.needs_endorsements());
        let distrusted = match kept.map(|kept| self.kept(source.clone(), kept, artifact, key)) {
            Some(Ok(fetched)) => return Ok(fetched),
            Some(Err(distrusted)) => Some(distrusted),
            None => None,
        };
        self.fetch(source).await.map_err(|error| match distrusted {
            // Where it can't be asked for, what is the matter is what was kept.
            Some(distrusted) if !error.chain().any(|cause| cause.is::<Distrusted>()) => {
                error.context(distrusted.to_string())
            }
            _ => error,
        })
    }

    /// What was fetched before with a signature by this key, if that still counts.
    fn kept(
        &self,
        source: Source,
        kept: Kept,
        artifact: Option<Digest>,
        key: Option<Digest>,
    ) -> anyhow::Result<Fetched> {
        let signed = self.trust.of_locked(&source, key)?;
        Ok(Fetched {
            digest: Digest::of(&kept.wasm),
            file: alone(&source, kept.wasm, kept.endorsement),
            source,
            artifact,
            signed,
        })
    }

    /// Whether a host that is configured like this asks for the signature of what is added.
    fn needs_endorsements(&self) -> bool {
        self.trust.policy == Policy::Required
    }

    async fn signed_on_the_web(
        &self,
        source: &Source,
        url: &reqwest::Url,
        wasm: &[u8],
    ) -> anyhow::Result<(Signed, Option<Endorsement>)> {
        if !self.trust.asks(source) {
            return Ok((self.trust.decide(source, 0, None)?, None));
        }
        let mut beside = url.clone();
        beside.set_path(&format!("{}.sig", url.path()));
        let response = self.http.send(Ask::get(beside.clone(), Redirects::Elsewhere)).await?;
        let text = match response.status() {
            StatusCode::OK => body(response, LARGEST_DETACHED, "the signature").await?,
            StatusCode::NOT_FOUND => return Ok((self.trust.decide(source, 0, None)?, None)),
            status => bail!("{} answered {status}", shown(&beside)),
        };
        let signed = self.trust.of_detached(source, wasm, &text)?;
        Ok((signed, Endorsement::detached(&text)))
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

    /// Who signed an artifact, of those who count.
    async fn signed_artifact(
        &self,
        source: &Source,
        registry: &mut Registry<'_>,
        manifest: &Found,
    ) -> anyhow::Result<(Signed, Option<Endorsement>)> {
        let mut count = 0;
        let forms = [Form::Tag, Form::Bundles];
        for form in forms.into_iter().filter(|_| self.trust.asks(source)) {
            for signature in signatures(registry, &manifest.digest, form).await? {
                count += 1;
                let vouches = |trusted: &&TrustedKey| signature.vouches(&trusted.key, &manifest.digest);
                if let Some(trusted) = self.trust.counting(source).find(vouches) {
                    let signed = self.trust.decide(source, count, Some(trusted))?;
                    let endorsement = Endorsement::of_artifact(signature, manifest.bytes.clone());
                    return Ok((signed, Some(endorsement)));
                }
            }
        }
        Ok((self.trust.decide(source, count, None)?, None))
    }

    async fn artifact(
        &self,
        source: &Source,
        reference: &Reference,
    ) -> anyhow::Result<(ComponentFile, Digest, Signed)> {
        let mut registry = Registry::new(&self.http, reference, Access::Read).await?;
        let wanted = match reference.digest {
            Some(digest) => digest.to_string(),
            None => reference.tag().to_owned(),
        };
        let manifest = match registry.find(&wanted).await? {
            Some(manifest) => manifest,
            // Nobody has named a tag, so nobody knows which there are.
            None if *reference == reference.bare() => bail!("{}", untagged(reference, &registry.tags().await?)),
            None => bail!("{}", registry.absent(&wanted)),
        };
        let layer = artifact::component(&manifest.bytes, &manifest.content_type)?;
        // Before its bytes: what is not trusted is not fetched.
        let (signed, endorsement) = self.signed_artifact(source, &mut registry, &manifest).await?;
        ensure!(
            layer.size <= self.largest,
            "the component has {} bytes, more than the {} that are allowed (`component_size` in [limits.install]); nothing of it was fetched",
            layer.size,
            self.largest
        );
        let wasm = registry.blob(&layer, self.largest, "the component").await?;
        Ok((alone(source, wasm, endorsement), manifest.digest, signed))
    }
}

/// Why a file can't be read; where its name is that of an artifact, which others take without the scheme, how that is written.
fn in_a_registry(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let text = path.to_str().filter(|_| !path.exists());
    match text.and_then(|text| text.parse::<Reference>().ok()) {
        Some(reference) => anyhow!(
            "there is no file {}; if it is in a registry, write {reference}",
            path.display()
        ),
        None => error,
    }
}

/// That there is nothing under the usual tag, and under which there is something.
fn untagged(reference: &Reference, tags: &[String]) -> String {
    let place = reference.repository_place();
    let absent = format!("no tag was given, and {place} has nothing under `{}`", reference.tag());
    match newest(tags) {
        versions if versions.is_empty() => {
            format!("{absent}; check the name, that your login may read it, and give the tag that is meant")
        }
        versions => format!(
            "{absent}; there are the versions {}: give the one that is meant, as in oci://{place}:{}",
            versions.join(", "),
            versions[0]
        ),
    }
}

/// How the signatures of an artifact are kept.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// At its tag for them.
    Tag,
    /// In bundles that refer to it.
    Bundles,
}

/// The signatures of an artifact in this form, whoever made them.
async fn signatures(registry: &mut Registry<'_>, artifact: &Digest, form: Form) -> anyhow::Result<Vec<Signature>> {
    match form {
        Form::Tag => at_tag(registry, artifact).await,
        Form::Bundles => in_bundles(registry, artifact).await,
    }
}

async fn in_bundles(registry: &mut Registry<'_>, artifact: &Digest) -> anyhow::Result<Vec<Signature>> {
    let Some(list) = registry.referrers(artifact).await? else {
        return Ok(Vec::new());
    };
    let mut signatures = Vec::new();
    for referrer in bundle::among(&list) {
        let manifest = registry.manifest(&referrer.to_string()).await?;
        // What else refers to it is not for here to read.
        let Ok(Some(layer)) = bundle::named(&manifest.bytes, &manifest.content_type) else {
            continue;
        };
        let text = registry.blob(&layer, bundle::LARGEST, "a signature").await?;
        signatures.extend(bundle::of_artifact(&text));
    }
    Ok(signatures)
}

async fn at_tag(registry: &mut Registry<'_>, artifact: &Digest) -> anyhow::Result<Vec<Signature>> {
    let Some(manifest) = registry.find(&signature::tag(artifact)).await? else {
        return Ok(Vec::new());
    };
    let named = signature::named(&manifest.bytes, &manifest.content_type).context("its signatures can't be read")?;
    let mut signatures = Vec::with_capacity(named.len());
    for (layer, signature) in named {
        let message = registry.blob(&layer, LARGEST_PAYLOAD, "a signature").await?;
        signatures.push(Signature { message, signature });
    }
    Ok(signatures)
}

/// A component with nothing beside it.
pub(crate) fn alone(source: &Source, wasm: Vec<u8>, endorsement: Option<Endorsement>) -> ComponentFile {
    ComponentFile {
        wasm,
        beside: Beside {
            name: source.name(),
            manifest: None,
            endorsement,
            note: None,
        },
    }
}

impl Fetched {
    /// The key that signed it, by its id.
    pub(crate) const fn key(&self) -> Option<Digest> {
        match self.signed {
            Signed::By(key) => Some(key),
            Signed::Nobody | Signed::NotAsked => None,
        }
    }
}

/// A place as it is to be written into a file in this folder. A path that lies in the folder, or in the one around it, begins at the folder: both
/// may be moved together.
pub(crate) fn place_from(source: &Source, dir: &Path) -> String {
    let Source::File(path) = source else {
        return source.place();
    };
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let (path, dir) = (whole(path), whole(dir));
    if let Ok(below) = path.strip_prefix(&dir) {
        return below.display().to_string();
    }
    // What lies in the root is beside everything.
    let around = dir.parent().filter(|around| around.parent().is_some());
    match around.and_then(|around| path.strip_prefix(around).ok()) {
        Some(beside) => Path::new("..").join(beside).display().to_string(),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_below_or_beside_a_folder_is_written_as_it_is_seen_from_there() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for dir in ["project/.fumehood", "project/tools", "other"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        for file in [
            "project/.fumehood/x.wasm",
            "project/x.wasm",
            "project/tools/x.wasm",
            "other/x.wasm",
        ] {
            fs::write(at(file), "").unwrap();
        }
        let written = |file: &str| place_from(&Source::File(at(file)), &at("project/.fumehood"));
        assert_eq!(written("project/.fumehood/x.wasm"), "x.wasm");
        assert_eq!(written("project/x.wasm"), "../x.wasm");
        assert_eq!(written("project/tools/x.wasm"), "../tools/x.wasm");
        let elsewhere = at("other/x.wasm").canonicalize().unwrap();
        assert_eq!(written("other/x.wasm"), elsewhere.display().to_string());
    }
}
