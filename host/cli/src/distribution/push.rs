//! A component, published: its artifact in a registry, at a tag.

use super::{
    artifact::{Artifact, TITLE, config_descriptor, layer_descriptor},
    fetch::Outside,
    keys::PrivateKey,
    reference::Reference,
    registry::{Access, Registry},
    signature,
};
use anyhow::{Context as _, bail, ensure};
use fumehood_core::digest::Digest;
use fumehood_policy::manifest::Manifest;
use fumehood_sandbox::anatomy;
use semver::Version;
use std::collections::BTreeMap;

/// What is published.
pub(crate) struct Release<'a> {
    pub(crate) wasm: &'a [u8],
    pub(crate) manifest: &'a Manifest,
    /// Whoever signs it.
    pub(crate) key: Option<&'a PrivateKey>,
}

/// Whether a version that is already there may become another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overwrite {
    Never,
    Asked,
}

/// What was published.
pub(crate) struct Pushed {
    /// Where.
    pub(crate) reference: Reference,
    /// Its artifact.
    pub(crate) artifact: Digest,
    /// Whether it was there already.
    pub(crate) unchanged: bool,
}

/// Publishes a component. The tag is set last: whoever fetches meanwhile has what was there, or all of the new one.
pub(crate) async fn push(
    outside: &Outside,
    release: &Release<'_>,
    to: &Reference,
    overwrite: Overwrite,
) -> anyhow::Result<Pushed> {
    let tag = tag(to, &release.manifest.version)?;
    let artifact = Artifact::of(release.wasm, &anatomy(release.wasm)?, annotations(release.manifest));
    let digest = Digest::of(&artifact.manifest);
    let mut registry = Registry::new(&outside.http, to, Access::Write).await?;
    let there = registry.find(&tag).await.with_context(|| to.to_string())?;
    let unchanged = there.as_ref().is_some_and(|there| there.digest == digest);
    if let Some(there) = there.filter(|_| !unchanged && Version::parse(&tag).is_ok() && overwrite == Overwrite::Never) {
        bail!(
            "{} is already published, as {}; whoever has it pinned would be told that it was tampered with. Give the component a new version, or \
             say that you mean it with --replace",
            to.at(&tag).place(),
            there.digest
        );
    }
    let publish = async {
        if !unchanged {
            registry
                .put_blob(&config_descriptor(&artifact.config), &artifact.config)
                .await?;
            registry.put_blob(&layer_descriptor(release.wasm), release.wasm).await?;
        }
        // Before the tag, so that nobody fetches it unsigned in between.
        if let Some(key) = release.key {
            sign(&mut registry, key, to, &digest).await?;
        }
        match unchanged {
            true => Ok(()),
            false => registry.put_manifest(&tag, &artifact.manifest).await,
        }
    };
    publish.await.with_context(|| to.at(&tag).to_string())?;
    Ok(Pushed {
        reference: Reference {
            digest: Some(digest),
            ..to.at(&tag)
        },
        artifact: digest,
        unchanged,
    })
}

/// Signs an artifact, unless this key has.
async fn sign(registry: &mut Registry<'_>, key: &PrivateKey, to: &Reference, artifact: &Digest) -> anyhow::Result<()> {
    let tag = signature::tag(artifact);
    let there = match registry.find(&tag).await? {
        Some(there) => signature::named(&there.bytes, &there.content_type)
            .context("the signatures that are there can't be read")?,
        None => Vec::new(),
    };
    let repository = to.repository_place();
    let public = key.public()?;
    let payload = signature::payload(&repository, artifact);
    let own = Digest::of(&payload);
    if there
        .iter()
        .any(|(layer, signature)| layer.digest == own && public.signed(&payload, signature))
    {
        return Ok(());
    }
    // What is read of them is no more, and what is not read would be lost.
    ensure!(
        there.len() < signature::MOST,
        "it has {} signatures at the tag {tag} already, and no more are looked at: one more would count for nothing. Delete that tag and sign \
         with the keys that count, or publish a new version",
        there.len()
    );
    let signing = signature::sign(key, &repository, artifact, there)?;
    registry
        .put_blob(&signature::config_descriptor(&signing.config), &signing.config)
        .await?;
    registry
        .put_blob(&signature::payload_descriptor(&signing.payload), &signing.payload)
        .await?;
    registry.put_manifest(&tag, &signing.manifest).await
}

/// The tag that is meant: the one given, else the version.
fn tag(to: &Reference, version: &str) -> anyhow::Result<String> {
    if to.digest.is_some() {
        bail!("{to}: what is published gets its digest from its bytes; leave `@sha256:…` out");
    }
    let Some(tag) = &to.tag else {
        if !super::reference::is_tag(version) {
            bail!(
                "the version `{version}` can't be a tag; give one, as in {}:latest",
                to.repository_place()
            );
        }
        return Ok(version.to_owned());
    };
    if Version::parse(tag).is_ok() && tag != version {
        bail!(
            "the tag says {tag}, and the component calls itself {version}; set `version` in its tool.toml or Cargo.toml and build it, or give the other tag"
        );
    }
    Ok(tag.clone())
}

/// What registries show of it.
fn annotations(manifest: &Manifest) -> BTreeMap<String, String> {
    let annotations = [
        (TITLE, manifest.name.as_str()),
        ("org.opencontainers.image.version", &manifest.version),
        ("org.opencontainers.image.description", &manifest.description),
    ];
    annotations
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_version_unless_another_is_given() {
        let reference = |text: &str| text.parse::<Reference>().unwrap();
        assert_eq!(tag(&reference("ghcr.io/a/x"), "1.2.0").unwrap(), "1.2.0");
        assert_eq!(tag(&reference("ghcr.io/a/x:latest"), "1.2.0").unwrap(), "latest");
        assert_eq!(tag(&reference("ghcr.io/a/x:1.2.0"), "1.2.0").unwrap(), "1.2.0");
        for (to, version) in [
            ("ghcr.io/a/x:1.3.0", "1.2.0"),
            ("ghcr.io/a/x", "1.2.0+linux"),
            (&*format!("ghcr.io/a/x@{}", Digest::of(b"")), "1.2.0"),
        ] {
            assert!(tag(&reference(to), version).is_err(), "{to}");
        }
    }
}
