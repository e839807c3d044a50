//! Signatures in the bundles of Sigstore, as cosign writes them since its version 3: JSON with the signature of a file, or with a statement
//! about an artifact and its signature. Only reads them. What stands in one beside that, such as the entry of a public log, is passed over: a
//! key that the operator trusts is asked of a signature, and nothing else.

use super::{
    artifact::{Descriptor, NoComponent, read_any},
    signature::{MOST, Signature},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::digest::Digest;
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the media types of bundles begin with, before their version.
pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// The largest one that is read: with an entry of a public log, which is passed over, they have a few KiB.
pub(super) const LARGEST: u64 = 64 << 10;

const STATEMENT: &str = "application/vnd.in-toto+json";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/";
/// What `cosign sign` says of an artifact: that it is signed. What else may be stated of one is no such thing.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    message_signature: Option<MessageSignature>,
    dsse_envelope: Option<Envelope>,
}

#[derive(Deserialize)]
struct MessageSignature {
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

fn read(text: &[u8]) -> Option<Bundle> {
    let bundle: Bundle = serde_json::from_slice(text).ok()?;
    bundle.media_type.starts_with(BUNDLE).then_some(bundle)
}

/// The signature in the bundle of a file.
pub(super) fn of_file(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(read(text)?.message_signature?.signature).ok()
}

/// The signatures in the bundle of an artifact.
pub(super) fn of_artifact(text: &[u8]) -> Vec<Signature> {
    let Some(envelope) = read(text).and_then(|bundle| bundle.dsse_envelope) else {
        return Vec::new();
    };
    let Ok(payload) = STANDARD.decode(&envelope.payload) else {
        return Vec::new();
    };
    let message = encoded(&envelope.payload_type, &payload);
    let signatures = envelope.signatures.iter().take(MOST);
    let signatures = signatures.filter_map(|own| STANDARD.decode(&own.sig).ok());
    signatures
        .map(|signature| Signature {
            message: message.clone(),
            signature,
        })
        .collect()
}

/// Whether what was signed is a statement that the artifact is signed.
// THREAT[T-supply-key-confusion]: a statement of another kind about it, such as what it is made of, signs nothing.
pub(super) fn is_about(message: &[u8], artifact: &Digest) -> bool {
    let Some(payload) = decoded(STATEMENT, message) else {
        return false;
    };
    let statement: Result<Statement, _> = serde_json::from_slice(payload);
    let hex = artifact.to_hex();
    statement.is_ok_and(|statement| {
        let names = |subject: &Subject| subject.digest.get("sha256") == Some(&hex);
        statement.kind.starts_with(STATEMENT_TYPE)
            && statement.predicate_type == SIGNED
            && statement.subject.iter().any(names)
    })
}

/// What is signed of a payload: the pre-authentication encoding of DSSE, which says where each part of it ends.
fn encoded(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// The payload of this kind in what is signed of it.
fn decoded<'a>(kind: &str, message: &'a [u8]) -> Option<&'a [u8]> {
    let head = format!("DSSEv1 {} {kind} ", kind.len());
    let rest = message.strip_prefix(head.as_bytes())?;
    let end = rest.iter().position(|byte| *byte == b' ')?;
    let payload = rest.get(end + 1..)?;
    let length: usize = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    (payload.len() == length).then_some(payload)
}

/// Which of an artifact's referrers may be bundles, by the list of them. Where a registry keeps no such list, it is made by whoever signs, and
/// not every one says there what it is.
pub(super) fn among(list: &[u8]) -> Vec<Digest> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        manifests: Vec<Referrer>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Referrer {
        digest: Digest,
        #[serde(default)]
        artifact_type: Option<String>,
    }
    let unsaid = [None, Some("application/vnd.oci.empty.v1+json")];
    let Ok(List { manifests }) = serde_json::from_slice(list) else {
        return Vec::new();
    };
    let may_be = |referrer: &Referrer| {
        let kind = referrer.artifact_type.as_deref();
        unsaid.contains(&kind) || kind.is_some_and(|kind| kind.starts_with(BUNDLE))
    };
    let bundles = manifests.into_iter().filter(may_be);
    bundles.map(|referrer| referrer.digest).take(MOST).collect()
}

/// The bundle that the manifest of a referrer names, if it is one.
pub(super) fn named(bytes: &[u8], content_type: &str) -> Result<Option<Descriptor>, NoComponent> {
    let manifest = read_any(bytes, content_type)?;
    let mut layers = manifest.layers.into_iter();
    Ok(layers.find(|layer| layer.media_type.starts_with(BUNDLE)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::keys::{PrivateKey, PublicKey};
    use serde_json::json;

    /// What cosign 3.1.1 made with this key, of an artifact and of a file.
    const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE5TxpXufj7AU76iDQcADatlhC92KR
J4YJMg689+JDwWTBx6MRsW42B/IISs2ZO4GCwphOZIBfHjdRYoju8ljvcw==
-----END PUBLIC KEY-----
";
    const ARTIFACT: &str = "sha256:17e94344708e0b1b764ed777884bad7bfb6517f2bd35a41b0ed77429b3039c7e";
    const OF_ARTIFACT: &str = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"Jvd0v5DKPUnX7IwhuTRkWKDK+T0vX7vTYuLgabdYqaw="}},"dsseEnvelope":{"payload":"eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2IjoiMTdlOTQzNDQ3MDhlMGIxYjc2NGVkNzc3ODg0YmFkN2JmYjY1MTdmMmJkMzVhNDFiMGVkNzc0MjliMzAzOWM3ZSJ9LCJhbm5vdGF0aW9ucyI6e319XSwicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIiwicHJlZGljYXRlIjp7fX0=","payloadType":"application/vnd.in-toto+json","signatures":[{"sig":"MEUCIQDcW38czWqloT4LXYDO/XCQHqdxdnOEZMI6E1myRaf4aAIgUKacArMDSF/gay9qG6p/X/cUfMW19zjQdQBPMvEVtFs="}]}}"#;
    const OF_FILE: &str = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey":{"hint":"Jvd0v5DKPUnX7IwhuTRkWKDK+T0vX7vTYuLgabdYqaw="}},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"aYXKH02qWlhKKOrgQ6I5y5ZomvEzfqE6+2PgDCv1Evo="},"signature":"MEUCIQDIFtTdgX24CBsSHgWJ1enXtqeJgROA8alQ8OSh9oGamQIgOLz1EZ6SZihf5kp2T89+rJ5cOpPW8tNjYQhCuJwB4/M="}}"#;

    #[test]
    fn a_bundle_that_cosign_made_is_good_for_its_artifact_and_no_other() {
        let (key, artifact) = (PublicKey::from_pem(KEY).unwrap(), ARTIFACT.parse().unwrap());
        let signatures = of_artifact(OF_ARTIFACT.as_bytes());
        assert_eq!(signatures.len(), 1);
        assert!(signatures[0].vouches(&key, &artifact));
        assert!(!signatures[0].vouches(&key, &Digest::of(b"")));
        let other = PrivateKey::generate().unwrap().public().unwrap();
        assert!(!signatures[0].vouches(&other, &artifact));
        assert_eq!(of_file(OF_ARTIFACT.as_bytes()), None);
    }

    #[test]
    fn a_bundle_that_cosign_made_of_a_file_has_its_signature() {
        let key = PublicKey::from_pem(KEY).unwrap();
        let signature = of_file(OF_FILE.as_bytes()).unwrap();
        assert!(key.signed(b"component", &signature));
        assert!(!key.signed(b"another", &signature));
        assert!(of_artifact(OF_FILE.as_bytes()).is_empty());
    }

    #[test]
    fn a_statement_of_another_kind_or_about_something_else_signs_no_artifact() {
        let artifact: Digest = ARTIFACT.parse().unwrap();
        let statement = |kind: &str, predicate: &str, hex: &str| {
            let statement = json!({
                "_type": kind, "predicateType": predicate, "predicate": {},
                "subject": [{"digest": {"sha1": hex}}, {"digest": {"sha256": hex}}],
            });
            statement.to_string()
        };
        let (v1, hex) = ("https://in-toto.io/Statement/v1", artifact.to_hex());
        let good = statement(v1, SIGNED, &hex);
        assert!(is_about(&encoded(STATEMENT, good.as_bytes()), &artifact));
        for (kind, text) in [
            (STATEMENT, statement(v1, "https://spdx.dev/Document", &hex)),
            (STATEMENT, statement("https://example.com/Statement/v1", SIGNED, &hex)),
            (STATEMENT, statement(v1, SIGNED, &Digest::of(b"").to_hex())),
            ("application/json", good.clone()),
        ] {
            assert!(!is_about(&encoded(kind, text.as_bytes()), &artifact), "{kind} {text}");
        }
        assert!(!is_about(good.as_bytes(), &artifact), "not what would be signed of it");
        let longer = [encoded(STATEMENT, good.as_bytes()), b" ".to_vec()].concat();
        assert!(!is_about(&longer, &artifact));
    }

    #[test]
    fn what_is_no_bundle_has_no_signatures() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"mediaType":"application/json","messageSignature":{"signature":"AAAA"}}"#,
            r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","messageSignature":{"signature":"?"}}"#,
        ] {
            assert_eq!(of_file(text.as_bytes()), None, "{text}");
            assert!(of_artifact(text.as_bytes()).is_empty(), "{text}");
            assert!(among(text.as_bytes()).is_empty(), "{text}");
        }
    }

    #[test]
    fn referrers_of_other_kinds_are_no_bundles() {
        let digest = |n: u8| Digest::of(&[n]).to_string();
        let list = json!({"manifests": [
            {"digest": digest(0), "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"},
            {"digest": digest(1), "artifactType": "application/spdx+json"},
            {"digest": digest(2), "artifactType": "application/vnd.oci.empty.v1+json"},
            {"digest": digest(3)},
        ]});
        let found = among(list.to_string().as_bytes());
        assert_eq!(found, [Digest::of(&[0]), Digest::of(&[2]), Digest::of(&[3])]);
    }
}
