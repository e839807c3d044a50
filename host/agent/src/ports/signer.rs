//! Signing with secrets that the guest never sees.

use super::CallEvents;
use crate::secrets::SecretsInUse;
use async_trait::async_trait;
use aws_lc_rs::{hmac, signature::Ed25519KeyPair};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::{call::CallError, name::SecretName};
use fumehood_sandbox::ports::{SignAlgorithm, SignError, Signer};
use secrecy::{ExposeSecret as _, SecretString};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Signs with the granted secrets, and knows of no other: what is granted to be injected can't sign.
///
/// # Errors
/// When one of them is set and can't be read.
pub(crate) fn signer(
    secrets: &SecretsInUse,
    granted: &[SecretName],
    events: Option<Arc<CallEvents>>,
) -> Result<Arc<dyn Signer>, CallError> {
    let mut own = Vec::with_capacity(granted.len());
    for name in granted {
        if let Some(value) = secrets.value(name)? {
            own.push((name.clone(), value.clone()));
        }
    }
    Ok(Arc::new(SecretSigner { secrets: own, events }))
}

struct SecretSigner {
    secrets: Vec<(SecretName, SecretString)>,
    events: Option<Arc<CallEvents>>,
}

impl SecretSigner {
    fn find(&self, name: &SecretName) -> Option<&SecretString> {
        self.secrets
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }
}

#[async_trait]
impl Signer for SecretSigner {
    async fn available(&self, name: &SecretName) -> bool {
        self.find(name).is_some()
    }

    async fn sign(&self, name: &SecretName, algorithm: SignAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let secret = self.find(name).ok_or_else(|| {
            SignError::NotFound(format!(
                "the secret {name} is granted but not set; set it with `fumehood secret set {name}`"
            ))
        })?;
        let value = secret.expose_secret();
        let signature = match algorithm {
            SignAlgorithm::HmacSha256 => mac(hmac::HMAC_SHA256, value, message),
            SignAlgorithm::HmacSha512 => mac(hmac::HMAC_SHA512, value, message),
            SignAlgorithm::Ed25519 => ed25519(name, value, message)?,
        };
        if let Some(events) = &self.events {
            events.secret_used(name.clone(), "sign").await;
        }
        Ok(signature)
    }
}

fn mac(algorithm: hmac::Algorithm, key: &str, message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key.as_bytes()), message)
        .as_ref()
        .to_vec()
}

fn ed25519(name: &SecretName, value: &str, message: &[u8]) -> Result<Vec<u8>, SignError> {
    let unsuitable = || {
        SignError::Unsuitable(format!(
            "the secret {name} is no Ed25519 key: it has to be a private key in PKCS #8 (PEM or base64), or its 32-byte seed (base64 or hex)"
        ))
    };
    let key = ed25519_key(value.trim()).ok_or_else(unsuitable)?;
    Ok(key.sign(message).as_ref().to_vec())
}

/// A private key in PKCS #8, or a seed of 32 bytes (RFC 8032).
fn ed25519_key(text: &str) -> Option<Ed25519KeyPair> {
    const SEED: usize = 32;
    let pem = text.strip_prefix("-----BEGIN PRIVATE KEY-----");
    let pem = pem.and_then(|rest| rest.trim_end().strip_suffix("-----END PRIVATE KEY-----"));
    // The shortest PKCS #8 in base64 has as many characters as a seed in hex, but begins with one that is no hex.
    let from_hex = if pem.is_none() { hex::decode(text).ok() } else { None };
    let bytes = match from_hex.filter(|bytes| bytes.len() == SEED) {
        Some(seed) => Zeroizing::new(seed),
        None => {
            let mut base64 = Zeroizing::new(String::with_capacity(text.len()));
            base64.extend(pem.unwrap_or(text).split_ascii_whitespace());
            Zeroizing::new(STANDARD.decode(&*base64).ok()?)
        }
    };
    if bytes.len() == SEED {
        Ed25519KeyPair::from_seed_unchecked(&bytes).ok()
    } else {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> (SecretName, SecretSigner) {
        let name = SecretName::new("KEY").unwrap();
        let secrets = vec![(name.clone(), value.into())];
        (name, SecretSigner { secrets, events: None })
    }

    #[tokio::test]
    async fn hmac_gives_the_published_answer() {
        // RFC 4231, test case 2.
        let (name, signer) = with("Jefe");
        let signed = signer
            .sign(&name, SignAlgorithm::HmacSha256, b"what do ya want for nothing?")
            .await
            .unwrap();
        assert_eq!(
            hex::encode(signed),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[tokio::test]
    async fn ed25519_gives_the_published_answer() {
        // RFC 8032, 7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let pkcs8 = hex::decode(format!("302e020100300506032b657004220420{seed}")).unwrap();
        let der = STANDARD.encode(&pkcs8);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
        let base64 = STANDARD.encode(hex::decode(seed).unwrap());
        for secret in [seed, &*base64, &*der, &*pem] {
            let (name, signer) = with(secret);
            let signed = signer.sign(&name, SignAlgorithm::Ed25519, b"").await.unwrap();
            let signed = hex::encode(signed);
            assert!(signed.starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"));
        }
    }

    #[tokio::test]
    async fn a_secret_that_is_no_key_is_refused_without_showing_it() {
        for secret in ["not-a-seed-at-all", "bm90LWEtc2VlZA==", &"not-a-seed".repeat(7)[..64]] {
            let (name, signer) = with(secret);
            let error = signer.sign(&name, SignAlgorithm::Ed25519, b"").await.unwrap_err();
            assert!(matches!(&error, SignError::Unsuitable(text) if !text.contains(&secret[..10])));
        }
    }

    #[tokio::test]
    async fn a_secret_that_is_not_set_is_not_available() {
        let signer = SecretSigner {
            secrets: Vec::new(),
            events: None,
        };
        let name = SecretName::new("KEY").unwrap();
        assert!(!signer.available(&name).await);
        assert!(matches!(
            signer.sign(&name, SignAlgorithm::HmacSha256, b"").await,
            Err(SignError::NotFound(_))
        ));
    }
}
