//! Signatures of requests by the scheme of Standard Webhooks: HMAC-SHA256 over id, time and body, so that none of them can be
//! exchanged.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_core::name::SecretName;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// The shortest key that Standard Webhooks allows, in bytes.
const SHORTEST_KEY: usize = 24;

/// Why a key can't sign. Never shows its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    /// It is not what it claims to be.
    #[error("the secret {0} begins with `whsec_`, and what follows is not base64")]
    NotBase64(SecretName),
    /// It could be guessed.
    #[error("the secret {0} is too short to sign with: use at least {SHORTEST_KEY} random bytes")]
    TooShort(SecretName),
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'m> {
    /// The same each time that it is sent.
    pub(crate) id: &'m str,
    /// When it is sent, in seconds since 1970.
    pub(crate) timestamp: i64,
    /// The bytes of its body.
    pub(crate) body: &'m [u8],
}

/// The signature, with its version: `v1,…`.
pub(crate) fn signature(name: &SecretName, value: &SecretString, message: Message<'_>) -> Result<String, KeyError> {
    let key = key(name, value)?;
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    context.update(format!("{}.{}.", message.id, message.timestamp).as_bytes());
    context.update(message.body);
    Ok(format!("v1,{}", STANDARD.encode(context.sign().as_ref())))
}

/// `whsec_` and base64, or the value's own bytes.
fn key(name: &SecretName, value: &SecretString) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let value = value.expose_secret().trim();
    let key = match value.strip_prefix("whsec_") {
        Some(encoded) => STANDARD
            .decode(encoded)
            .map_err(|_| KeyError::NotBase64(name.clone()))?,
        None => value.as_bytes().to_vec(),
    };
    let key = Zeroizing::new(key);
    if key.len() < SHORTEST_KEY {
        return Err(KeyError::TooShort(name.clone()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(key: &str, id: &str, timestamp: i64, body: &str) -> Result<String, KeyError> {
        let name = SecretName::new("HOOK_KEY").unwrap();
        let body = body.as_bytes();
        signature(&name, &key.into(), Message { id, timestamp, body })
    }

    #[test]
    fn a_signature_is_the_one_that_standard_webhooks_publishes() {
        // The example of the specification's own libraries.
        let published = signed(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(published.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_key_may_be_the_bytes_of_the_value() {
        let encoded = format!("whsec_{}", STANDARD.encode("a key of twenty-four bytes"));
        let of = |key: &str| signed(key, "hook_1", 1, "{}").unwrap();
        assert_eq!(of("a key of twenty-four bytes"), of(&encoded));
        assert_ne!(of("another key of some length"), of(&encoded));
    }

    #[test]
    fn a_key_that_is_too_short_or_not_what_it_claims_is_refused_without_showing_it() {
        for key in ["hunter2-hunter2", "whsec_aGk=", "whsec_not/base64!hunter2"] {
            let refused = signed(key, "hook_1", 1, "{}").unwrap_err().to_string();
            assert!(!refused.contains("hunter2"), "{refused}");
        }
    }
}
