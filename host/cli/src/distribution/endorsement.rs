//! What vouches for a component, in a form that goes along with it: to a host that asks for signatures, and into the cache. Whoever has it can
//! check it without a registry.

use super::{
    artifact::{self, MANIFEST},
    keys::PublicKey,
    signature::{self, Signature},
    trust::{Policy, Trust},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::digest::Digest;
use fumehood_server::{ComponentSignature, SignatureCheck, SignedBytes};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A signature and what it is of. As `POST /v1/tools` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endorsement {
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    signature: Vec<u8>,
    /// The artifact that it is of; none: it is of the component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact: Option<Endorsed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Endorsed {
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    payload: Vec<u8>,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    manifest: Vec<u8>,
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD
        .decode(String::deserialize(deserializer)?)
        .map_err(D::Error::custom)
}

impl Endorsement {
    /// That of a file's signature, as it lies beside it.
    pub(crate) fn detached(text: &[u8]) -> Option<Self> {
        Some(Self {
            signature: signature::detached(text)?,
            artifact: None,
        })
    }

    /// That of an artifact.
    pub(super) fn of_artifact(signature: Signature, manifest: Vec<u8>) -> Self {
        Self {
            signature: signature.signature,
            artifact: Some(Endorsed {
                payload: signature.message,
                manifest,
            }),
        }
    }

    /// Whether the holder of this key vouches for this component by it.
    // THREAT[T-supply-key-confusion]: from the signature to the component by digests alone.
    fn vouches(&self, key: &PublicKey, component: &[u8]) -> bool {
        let Some(of) = &self.artifact else {
            return key.signed(component, &self.signature);
        };
        let signature = Signature {
            message: of.payload.clone(),
            signature: self.signature.clone(),
        };
        let layer = artifact::component(&of.manifest, MANIFEST);
        signature.vouches(key, &Digest::of(&of.manifest))
            && layer.is_ok_and(|layer| layer.digest == Digest::of(component))
    }
}

impl From<&ComponentSignature> for Endorsement {
    fn from(sent: &ComponentSignature) -> Self {
        let artifact = match &sent.of {
            SignedBytes::Component => None,
            SignedBytes::Artifact { payload, manifest } => Some(Endorsed {
                payload: payload.clone(),
                manifest: manifest.clone(),
            }),
        };
        Self {
            signature: sent.signature.clone(),
            artifact,
        }
    }
}

/// What the API of a host asks of components, by what its operator trusts.
///
/// Whoever uploads a component names no place that could be believed, so every trusted key counts, whatever its `sources`.
pub(crate) struct Uploads(Trust);

impl Uploads {
    /// None where nothing is asked.
    pub(crate) fn of(trust: Trust) -> Option<Self> {
        (trust.policy == Policy::Required).then_some(Self(trust))
    }
}

impl SignatureCheck for Uploads {
    // THREAT[T-supply-unsigned]
    fn check(&self, component: &[u8], signature: Option<&ComponentSignature>) -> Result<(), String> {
        let keys = &self.0.keys;
        let names: Vec<&str> = keys.iter().map(|trusted| trusted.name.as_str()).collect();
        let names = names.join(" or ");
        if keys.is_empty() {
            return Err(
                "this host takes only signed components, and no key is trusted; its operator puts keys into [tools.trusted_keys]".to_owned(),
            );
        }
        let Some(signature) = signature else {
            return Err(format!(
                "this host takes only components that are signed by {names}, and this one came without a signature: send it in `signature` of the \
                 JSON, or beside a wasm body in the header Fumehood-Signature, as `fumehood tool sign` writes it; `fumehood tool add` sends what it \
                 finds"
            ));
        };
        let endorsement = Endorsement::from(signature);
        if keys.iter().any(|trusted| endorsement.vouches(&trusted.key, component)) {
            return Ok(());
        }
        Err(format!(
            "the signature is not by {names}, whose signatures count on this host, or is of something else than this component; ask whoever \
             publishes it"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{artifact::Artifact, keys::PrivateKey, trust::TrustedKey};
    use std::collections::BTreeMap;

    fn uploads(key: &PrivateKey) -> Uploads {
        Uploads::of(Trust {
            policy: Policy::Required,
            keys: vec![TrustedKey {
                name: "acme".to_owned(),
                key: key.public().unwrap(),
                places: vec!["oci://ghcr.io/acme/".parse().unwrap()],
            }],
        })
        .unwrap()
    }

    fn sent(endorsement: &Endorsement) -> ComponentSignature {
        let of = match &endorsement.artifact {
            None => SignedBytes::Component,
            Some(of) => SignedBytes::Artifact {
                payload: of.payload.clone(),
                manifest: of.manifest.clone(),
            },
        };
        ComponentSignature {
            signature: endorsement.signature.clone(),
            of,
        }
    }

    #[test]
    fn a_signature_of_the_component_or_of_an_artifact_with_it_counts_for_that_component_alone() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let (one, two) = (b"\0asm one".as_slice(), b"\0asm two".as_slice());
        let detached =
            |key: &PrivateKey| Endorsement::detached(STANDARD.encode(key.sign(one).unwrap()).as_bytes()).unwrap();
        let of_artifact = |key: &PrivateKey, manifest: Vec<u8>| {
            let payload = signature::payload("ghcr.io/acme/one", &Digest::of(&manifest));
            let signature = Signature {
                signature: key.sign(&payload).unwrap(),
                message: payload,
            };
            Endorsement::of_artifact(signature, manifest)
        };
        let manifest =
            |wasm: &[u8]| Artifact::of(wasm, &fumehood_sandbox::Anatomy::default(), BTreeMap::new()).manifest;
        let uploads = uploads(&key);
        for endorsement in [detached(&key), of_artifact(&key, manifest(one))] {
            let signature = sent(&endorsement);
            assert_eq!(uploads.check(one, Some(&signature)), Ok(()));
            assert!(
                uploads
                    .check(two, Some(&signature))
                    .unwrap_err()
                    .contains("of something else")
            );
            let text = serde_json::to_string(&endorsement).unwrap();
            assert_eq!(serde_json::from_str::<Endorsement>(&text).unwrap(), endorsement);
        }
        for endorsement in [
            detached(&other),
            of_artifact(&other, manifest(one)),
            of_artifact(&key, manifest(two)),
        ] {
            assert!(uploads.check(one, Some(&sent(&endorsement))).is_err());
        }
        // The payload of one artifact beside the manifest of another.
        let mut mixed = of_artifact(&key, manifest(two));
        if let Some(of) = &mut mixed.artifact {
            of.manifest = manifest(one);
        }
        assert!(uploads.check(one, Some(&sent(&mixed))).is_err());
        assert!(uploads.check(one, None).unwrap_err().contains("Fumehood-Signature"));
    }

    #[test]
    fn nothing_is_asked_of_uploads_unless_signatures_are_required_and_without_keys_nothing_is_taken() {
        for policy in [Policy::Off, Policy::WhenKnown] {
            assert!(
                Uploads::of(Trust {
                    policy,
                    keys: Vec::new()
                })
                .is_none()
            );
        }
        let nobody = Uploads::of(Trust {
            policy: Policy::Required,
            keys: Vec::new(),
        });
        assert!(
            nobody
                .unwrap()
                .check(b"", None)
                .unwrap_err()
                .contains("no key is trusted")
        );
    }
}
