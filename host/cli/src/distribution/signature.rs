//! Signatures as cosign makes them with a pair of keys: of an artifact, beside it in its repository at the tag `sha256-….sig`; of a file, in
//! base64 in a file `.sig` beside it. Only reads, makes and checks them. The bundles that newer versions of cosign make are read, too.

use super::{
    artifact::{Descriptor, Manifest, NoComponent, read_any},
    bundle,
    keys::{KeyError, PrivateKey, PublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// What of somebody's signature is signed.
pub(super) const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
const KIND: &str = "cosign container image signature";
/// Signatures of one artifact that are looked at; the largest of what they are of, and of one in a file.
pub(super) const MOST: usize = 16;
pub(super) const LARGEST_PAYLOAD: u64 = 64 << 10;
pub(super) const LARGEST_DETACHED: u64 = bundle::LARGEST;

/// The tag at which the signatures of an artifact are.
pub(super) fn tag(artifact: &Digest) -> String {
    format!("sha256-{}.sig", artifact.to_hex())
}

/// A signature, and what it is of.
pub(super) struct Signature {
    pub(super) message: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

impl Signature {
    /// Whether this key says by it that it signs this artifact.
    // THREAT[T-supply-key-confusion]: a signature counts for what it is of, and not for what it lies beside.
    pub(super) fn vouches(&self, key: &PublicKey, artifact: &Digest) -> bool {
        key.signed(&self.message, &self.signature) && is_about(&self.message, artifact)
    }
}

/// The signature in a file beside what it is of: in base64, or in a bundle.
pub(super) fn detached(text: &[u8]) -> Option<Vec<u8>> {
    let bare = std::str::from_utf8(text).ok()?;
    STANDARD.decode(bare.trim()).ok().or_else(|| bundle::of_file(text))
}

#[derive(Serialize, Deserialize)]
struct Payload {
    critical: Critical,
    optional: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Serialize, Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

fn is_about(message: &[u8], artifact: &Digest) -> bool {
    let payload: Result<Payload, _> = serde_json::from_slice(message);
    match payload {
        Ok(payload) => payload.critical.kind == KIND && payload.critical.image.digest == artifact.to_string(),
        Err(_) => bundle::is_about(message, artifact),
    }
}

/// What is signed of an artifact in this repository.
pub(super) fn payload(repository: &str, artifact: &Digest) -> Vec<u8> {
    let payload = Payload {
        critical: Critical {
            identity: Identity {
                reference: repository.to_owned(),
            },
            image: Image {
                digest: artifact.to_string(),
            },
            kind: KIND.to_owned(),
        },
        optional: None,
    };
    serde_json::to_vec(&payload).unwrap_or_default()
}

/// The signatures that a manifest names: where what was signed is, and the signature of it. Layers that are something else are passed over.
pub(super) fn named(bytes: &[u8], content_type: &str) -> Result<Vec<(Descriptor, Vec<u8>)>, NoComponent> {
    let manifest = read_any(bytes, content_type)?;
    let signed = manifest.layers.into_iter().filter(|layer| layer.media_type == PAYLOAD);
    let found = signed.filter_map(|layer| {
        let signature = STANDARD.decode(layer.annotations.get(ANNOTATION)?).ok()?;
        Some((layer, signature))
    });
    Ok(found.take(MOST).collect())
}

/// A further signature of an artifact, to be put at its tag.
pub(super) struct Signing {
    /// What is signed.
    pub(super) payload: Vec<u8>,
    pub(super) config: Vec<u8>,
    pub(super) manifest: Vec<u8>,
}

/// Signs an artifact, beside those signatures that are there already.
pub(super) fn sign(
    key: &PrivateKey,
    repository: &str,
    artifact: &Digest,
    there: Vec<(Descriptor, Vec<u8>)>,
) -> Result<Signing, KeyError> {
    let payload = payload(repository, artifact);
    let signature = STANDARD.encode(key.sign(&payload)?);
    let own = Descriptor {
        annotations: BTreeMap::from([(ANNOTATION.to_owned(), signature)]),
        ..Descriptor::of(PAYLOAD, &payload)
    };
    let mut layers: Vec<Descriptor> = there.into_iter().map(|(layer, _)| layer).collect();
    layers.push(own);
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let config = json!({
        "architecture": "", "os": "", "created": "0001-01-01T00:00:00Z", "config": {}, "history": [],
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = config.to_string().into_bytes();
    let manifest = Manifest::of(Descriptor::of(CONFIG, &config), layers, BTreeMap::new()).to_bytes();
    Ok(Signing {
        payload,
        config,
        manifest,
    })
}

/// The descriptors of what is put beside a signature's manifest.
pub(super) fn config_descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::of(CONFIG, bytes)
}

/// The descriptor of what is signed.
pub(super) fn payload_descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::of(PAYLOAD, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::artifact::MANIFEST;

    /// A signature that cosign made.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAENptdY/l3nB0yqkXLBWkZWQwo6+cu
OSWS1X9vPavpiQOoTTGC0xX57OojUadxF1cdQmrsiReWg2Wn4FneJfa8xw==
-----END PUBLIC KEY-----
";
    const SIGNATURE: &str =
        "MEUCIQD6q/COgzOyW0YH1Dk+CCYSt4uAhm3FDHUwvPI55zwnlwIgE0ZK58ZOWpZw8YVmBapJhBqCfdPekIknimuO0xH8Jh8=";
    const MESSAGE: &str = r#"{"critical":{"identity":{"docker-reference":"registry-testing.svc.lan/busybox"},"image":{"docker-manifest-digest":"sha256:f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b"},"type":"cosign container image signature"},"optional":null}"#;
    const ARTIFACT: &str = "sha256:f3cfc9d0dbf931d3db4685ec659b7ac68e2a578219da4aae65427886e649b06b";

    #[test]
    fn a_signature_that_cosign_made_is_good_for_its_artifact_and_no_other() {
        let key = PublicKey::from_pem(KEY).unwrap();
        let signature = Signature {
            message: MESSAGE.into(),
            signature: STANDARD.decode(SIGNATURE).unwrap(),
        };
        let artifact = ARTIFACT.parse().unwrap();
        assert!(signature.vouches(&key, &artifact));
        assert!(!signature.vouches(&key, &Digest::of(b"")));
        let changed = Signature {
            message: MESSAGE.replace("busybox", "lazybox").into(),
            ..signature
        };
        assert!(!changed.vouches(&key, &artifact));
        // What cosign signed of this artifact is what is signed of it here.
        assert_eq!(
            payload("registry-testing.svc.lan/busybox", &artifact),
            MESSAGE.as_bytes()
        );
        assert_eq!(tag(&artifact), format!("sha256-{}.sig", &ARTIFACT["sha256:".len()..]));
    }

    #[test]
    fn a_signature_stands_beside_those_that_are_there() {
        let (one, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let artifact = Digest::of(b"artifact");
        let first = sign(&one, "ghcr.io/acme/x", &artifact, Vec::new()).unwrap();
        let there = named(&first.manifest, MANIFEST).unwrap();
        assert_eq!(there.len(), 1);
        let second = sign(&other, "ghcr.io/acme/x", &artifact, there).unwrap();
        let both = named(&second.manifest, MANIFEST).unwrap();
        for (key, (layer, signature)) in [&one, &other].into_iter().zip(both) {
            assert_eq!(layer.digest, Digest::of(&first.payload));
            let signature = Signature {
                message: first.payload.clone(),
                signature,
            };
            assert!(signature.vouches(&key.public().unwrap(), &artifact));
        }
    }

    #[test]
    fn what_is_signed_of_something_else_is_about_no_artifact() {
        let artifact = ARTIFACT.parse().unwrap();
        for text in [
            MESSAGE.replace("cosign container image signature", "atomic container signature"),
            MESSAGE.replace("f3cf", "f3ce"),
            "{}".to_owned(),
            ARTIFACT.to_owned(),
        ] {
            assert!(!is_about(text.as_bytes(), &artifact), "{text}");
        }
        assert!(is_about(MESSAGE.as_bytes(), &artifact));
    }
}
