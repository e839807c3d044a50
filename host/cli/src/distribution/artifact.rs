//! The manifest of an artifact that is one component, as the wasm working group of the CNCF describes it: one layer `application/wasm`, and a
//! configuration `application/vnd.wasm.config.v0+json`. Only reads and writes it; fetches nothing.

use fumehood_core::digest::Digest;
use fumehood_sandbox::Anatomy;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The manifest of one artifact.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// A list of manifests.
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
/// What an artifact is called, and what the file of a layer is called.
pub(super) const TITLE: &str = "org.opencontainers.image.title";
/// The largest manifest that the distribution specification has registries take.
pub(super) const LARGEST_MANIFEST: u64 = 4 << 20;

/// A blob, as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Descriptor {
    #[serde(rename = "mediaType")]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// That of these bytes.
    pub(super) fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}

/// A manifest of any kind of artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u8,
    #[serde(rename = "mediaType", default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// One with these parts.
    pub(super) fn of(config: Descriptor, layers: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            config,
            layers,
            annotations,
        }
    }

    /// Its bytes, the same for the same parts.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Why an artifact is no component.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoComponent {
    #[error(
        "it is an index of several artifacts, as images for several platforms have; a component is one artifact: name it by its digest"
    )]
    Index,
    #[error(
        "it is a {0}, not a component; a component is published with `fumehood tool publish`, `wkg oci push` or the like"
    )]
    Foreign(String),
    #[error("its manifest can't be read: {0}")]
    Unreadable(String),
    #[error("it has {0} layers, and a component is one")]
    Layers(usize),
}

/// Reads a manifest that has nothing said of what it is for.
pub(super) fn read_any(bytes: &[u8], content_type: &str) -> Result<Manifest, NoComponent> {
    #[derive(Deserialize)]
    struct Kind {
        #[serde(rename = "mediaType")]
        media_type: Option<String>,
    }
    let kind: Kind = serde_json::from_slice(bytes).map_err(|error| NoComponent::Unreadable(error.to_string()))?;
    // What the bytes say counts: they are what the digest is of.
    let kind = kind.media_type.unwrap_or_else(|| content_type.to_owned());
    match kind.as_str() {
        MANIFEST => {}
        INDEX | DOCKER_INDEX => return Err(NoComponent::Index),
        other => return Err(NoComponent::Foreign(named(other))),
    }
    serde_json::from_slice(bytes).map_err(|error| NoComponent::Unreadable(error.to_string()))
}

/// The component's own blob, by the manifest of its artifact.
pub(super) fn component(bytes: &[u8], content_type: &str) -> Result<Descriptor, NoComponent> {
    let manifest = read_any(bytes, content_type)?;
    if manifest.config.media_type != CONFIG {
        return Err(NoComponent::Foreign(named(&manifest.config.media_type)));
    }
    match manifest.layers.as_slice() {
        [layer] if layer.media_type == LAYER => Ok(layer.clone()),
        [layer] => Err(NoComponent::Foreign(named(&layer.media_type))),
        layers => Err(NoComponent::Layers(layers.len())),
    }
}

/// A media type from outside, in a message.
fn named(media_type: &str) -> String {
    let plain = media_type
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .take(100)
        .collect::<String>();
    format!("`{plain}`")
}

/// A component's artifact.
pub(super) struct Artifact {
    /// The configuration's bytes.
    pub(super) config: Vec<u8>,
    /// The manifest's bytes.
    pub(super) manifest: Vec<u8>,
}

impl Artifact {
    /// That of a component. The same component and annotations make the same bytes, whenever and wherever: there is no time in it.
    pub(super) fn of(wasm: &[u8], anatomy: &Anatomy, annotations: BTreeMap<String, String>) -> Self {
        let mut layer = Descriptor::of(LAYER, wasm);
        // Clients that know nothing of components, such as oras, make a file of a layer only where it has a name.
        if let Some(title) = annotations.get(TITLE) {
            layer.annotations.insert(TITLE.to_owned(), format!("{title}.wasm"));
        }
        let config = serde_json::json!({
            "created": "1970-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [layer.digest],
            "component": {"exports": anatomy.exports, "imports": anatomy.imports},
        });
        let config = config.to_string().into_bytes();
        let manifest = Manifest::of(Descriptor::of(CONFIG, &config), vec![layer], annotations);
        Self {
            manifest: manifest.to_bytes(),
            config,
        }
    }
}

/// The descriptor of a component's configuration.
pub(super) fn config_descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::of(CONFIG, bytes)
}

/// The descriptor of a component.
pub(super) fn layer_descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::of(LAYER, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn artifact() -> Artifact {
        let anatomy = Anatomy {
            exports: vec!["fumehood:tool/tools@0.1.0".into()],
            imports: vec!["wasi:io/streams@0.2.6".into()],
            ..Anatomy::default()
        };
        let annotations = [(TITLE, "sums"), ("org.opencontainers.image.version", "1.2.0")];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Artifact::of(b"\0asm", &anatomy, annotations.into())
    }

    #[test]
    fn an_artifact_is_as_the_working_group_describes_it() {
        let artifact = artifact();
        let manifest: Value = serde_json::from_slice(&artifact.manifest).unwrap();
        let digest = Digest::of(b"\0asm").to_string();
        let config = Digest::of(&artifact.config).to_string();
        assert_eq!(
            manifest,
            json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": artifact.config.len()},
                "layers": [{
                    "mediaType": "application/wasm", "digest": digest, "size": 4,
                    "annotations": {"org.opencontainers.image.title": "sums.wasm"},
                }],
                "annotations": {"org.opencontainers.image.title": "sums", "org.opencontainers.image.version": "1.2.0"},
            })
        );
        assert_eq!(
            serde_json::from_slice::<Value>(&artifact.config).unwrap(),
            json!({
                "created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2", "layerDigests": [digest],
                "component": {"exports": ["fumehood:tool/tools@0.1.0"], "imports": ["wasi:io/streams@0.2.6"]},
            })
        );
        let read = component(&artifact.manifest, MANIFEST).unwrap();
        assert_eq!((read.digest, read.size), (Digest::of(b"\0asm"), 4));
        assert_eq!(self::artifact().manifest, artifact.manifest, "no time, no chance");
    }

    #[test]
    fn what_is_no_component_is_told_apart() {
        let own: Value = serde_json::from_slice(&artifact().manifest).unwrap();
        let read = |value: &Value| component(value.to_string().as_bytes(), MANIFEST);
        let changed = |pointer: &str, to: Value| {
            let mut value = own.clone();
            *value.pointer_mut(pointer).unwrap() = to;
            value
        };
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []});
        assert_eq!(read(&index), Err(NoComponent::Index));
        let image = changed("/config/mediaType", json!("application/vnd.oci.image.config.v1+json"));
        assert!(matches!(read(&image), Err(NoComponent::Foreign(kind)) if kind.contains("image.config")));
        let tar = changed(
            "/layers/0/mediaType",
            json!("application/vnd.oci.image.layer.v1.tar+gzip"),
        );
        assert!(matches!(read(&tar), Err(NoComponent::Foreign(_))));
        assert_eq!(read(&changed("/layers", json!([]))), Err(NoComponent::Layers(0)));
        let weak = changed("/layers/0/digest", json!("md5:00"));
        assert!(matches!(read(&weak), Err(NoComponent::Unreadable(_))));
        assert!(matches!(read(&json!([])), Err(NoComponent::Unreadable(_))));
        let page = component(b"<html>", "text/html");
        assert!(matches!(page, Err(NoComponent::Unreadable(_))));
    }
}
