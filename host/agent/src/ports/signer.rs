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

/// The secret is the base64 of a 32-byte seed (RFC 8032).
fn ed25519(name: &SecretName, value: &str, message: &[u8]) -> Result<Vec<u8>, SignError> {
    let unsuitable = || {
        SignError::Unsuitable(format!(
            "the secret {name} is no Ed25519 key: it has to be the base64 of the 32-byte seed"
        ))
    };
    let seed = Zeroizing::new(STANDARD.decode(value.trim()).map_err(|_| unsuitable())?);
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| unsuitable())?;
    Ok(key.sign(message).as_ref().to_vec())
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
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let (name, signer) = with(&STANDARD.encode(seed));
        let signed = signer.sign(&name, SignAlgorithm::Ed25519, b"").await.unwrap();
        assert!(hex::encode(signed).starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"));
    }

    #[tokio::test]
    async fn a_secret_that_is_no_key_is_refused_without_showing_it() {
        let (name, signer) = with("not-a-seed-at-all");
        let error = signer.sign(&name, SignAlgorithm::Ed25519, b"").await.unwrap_err();
        assert!(matches!(&error, SignError::Unsuitable(text) if !text.contains("not-a-seed")));
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
