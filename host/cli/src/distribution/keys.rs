//! Keys for signatures: ECDSA on P-256 with SHA-256, in files as cosign makes and reads them.
//!
//! A private key lies in its file sealed with a passphrase. Elsewhere it is only in memory.

use super::pem;
use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use crypto_secretbox::{KeyInit as _, XSalsa20Poly1305, aead::Aead as _};
use fumehood_core::digest::Digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const PUBLIC: &str = "PUBLIC KEY";
const SEALED: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
/// What older ones of cosign wrote.
const SEALED_BEFORE: &str = "ENCRYPTED COSIGN PRIVATE KEY";
const OPEN: &str = "PRIVATE KEY";
/// What comes before the point in the DER of every public key of this kind.
const HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT: usize = 65;
/// What cosign takes: 64 MiB and a quarter of a second.
const WORK: Work = Work { n: 65536, r: 8, p: 1 };
/// The most memory that opening a key may take, in bytes.
const MOST_MEMORY: u64 = 1 << 30;
const SALT: usize = 32;
const NONCE: usize = 24;

/// Why a text is no key that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("it is no public key in PEM; one begins with `-----BEGIN PUBLIC KEY-----`")]
    NotPublic,
    #[error(
        "it is a public key of another kind; signatures are by ECDSA on P-256, as `fumehood tool key` and `cosign generate-key-pair` make them"
    )]
    Kind,
    #[error("it is no private key in PEM; `fumehood tool key` and `cosign generate-key-pair` make one")]
    NotPrivate,
    #[error("it is a private key of another kind, or damaged; signatures are by ECDSA on P-256")]
    PrivateKind,
    #[error("it is sealed in a way that is not known here")]
    Sealed,
    #[error("the passphrase is not the one that it is sealed with")]
    Passphrase,
    #[error("there is no randomness to be had")]
    Random,
}

/// A key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    der: Vec<u8>,
}

impl PublicKey {
    /// From a PEM file.
    pub(crate) fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = pem::read(text, &[PUBLIC]).ok_or(KeyError::NotPublic)?;
        if der.len() != HEAD.len() + POINT || !der.starts_with(&HEAD) {
            return Err(KeyError::Kind);
        }
        Ok(Self { der: der.to_vec() })
    }

    /// As a PEM file.
    pub(crate) fn to_pem(&self) -> String {
        pem::write(PUBLIC, &self.der)
    }

    /// What names it: the digest of its DER.
    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.der)
    }

    /// Whether a signature in DER is one of this message.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let point = self.der.get(HEAD.len()..).unwrap_or_default();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
        key.verify(message, signature).is_ok()
    }
}

/// A key that signs.
pub(crate) struct PrivateKey {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// A new one.
    pub(crate) fn generate() -> Result<Self, KeyError> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        Self::from_pkcs8(made.map_err(|_| KeyError::Random)?.as_ref())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| KeyError::PrivateKind)?;
        Ok(Self {
            pair,
            pkcs8: Zeroizing::new(der.to_vec()),
        })
    }

    /// Whether a PEM file is sealed, so that a passphrase is needed to open it.
    pub(crate) fn is_sealed(text: &str) -> bool {
        pem::read(text, &[SEALED, SEALED_BEFORE]).is_some()
    }

    /// From a PEM file: of cosign's, or open in PKCS #8. The passphrase is looked at where it is sealed.
    pub(crate) fn from_pem(text: &str, passphrase: &str) -> Result<Self, KeyError> {
        if let Some(sealed) = pem::read(text, &[SEALED, SEALED_BEFORE]) {
            return Self::from_pkcs8(&open(&sealed, passphrase)?);
        }
        Self::from_pkcs8(&pem::read(text, &[OPEN]).ok_or(KeyError::NotPrivate)?)
    }

    /// As a PEM file, sealed as cosign does it.
    pub(crate) fn to_sealed_pem(&self, passphrase: &str) -> Result<Zeroizing<String>, KeyError> {
        Ok(Zeroizing::new(pem::write(SEALED, &seal(&self.pkcs8, passphrase)?)))
    }

    /// The key that checks what this one signs.
    pub(crate) fn public(&self) -> Result<PublicKey, KeyError> {
        let der = self.pair.public_key().as_der().map_err(|_| KeyError::PrivateKind)?;
        Ok(PublicKey {
            der: der.as_ref().to_vec(),
        })
    }

    /// A signature of a message, in DER.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        Ok(signature.map_err(|_| KeyError::Random)?.as_ref().to_vec())
    }
}

/// A sealed key: JSON, as `securesystemslib` has it.
#[derive(Serialize, Deserialize)]
struct Sealed {
    kdf: Derivation,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
struct Derivation {
    name: String,
    params: Work,
    salt: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Work {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

const SCRYPT: &str = "scrypt";
const SECRETBOX: &str = "nacl/secretbox";

impl Work {
    /// The cipher that a passphrase makes.
    fn cipher(self, passphrase: &str, salt: &[u8]) -> Result<XSalsa20Poly1305, KeyError> {
        let memory = self.n.saturating_mul(128).saturating_mul(u64::from(self.r));
        let log_n = u8::try_from(self.n.max(1).ilog2()).map_err(|_| KeyError::Sealed)?;
        if !self.n.is_power_of_two() || memory > MOST_MEMORY || self.p > 16 {
            return Err(KeyError::Sealed);
        }
        let mut key = Zeroizing::new([0; 32]);
        let params = scrypt::Params::new(log_n, self.r, self.p, key.len()).map_err(|_| KeyError::Sealed)?;
        scrypt::scrypt(passphrase.as_bytes(), salt, &params, &mut *key).map_err(|_| KeyError::Sealed)?;
        Ok(XSalsa20Poly1305::new((&*key).into()))
    }
}

fn open(json: &[u8], passphrase: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let sealed: Sealed = serde_json::from_slice(json).map_err(|_| KeyError::Sealed)?;
    if sealed.kdf.name != SCRYPT || sealed.cipher.name != SECRETBOX {
        return Err(KeyError::Sealed);
    }
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| KeyError::Sealed);
    let nonce: [u8; NONCE] = bytes(&sealed.cipher.nonce)?.try_into().map_err(|_| KeyError::Sealed)?;
    let cipher = sealed.kdf.params.cipher(passphrase, &bytes(&sealed.kdf.salt)?)?;
    let opened = cipher.decrypt(&nonce.into(), bytes(&sealed.ciphertext)?.as_slice());
    opened.map(Zeroizing::new).map_err(|_| KeyError::Passphrase)
}

fn seal(pkcs8: &[u8], passphrase: &str) -> Result<Vec<u8>, KeyError> {
    let (mut salt, mut nonce) = ([0; SALT], [0; NONCE]);
    for bytes in [&mut salt[..], &mut nonce[..]] {
        getrandom::fill(bytes).map_err(|_| KeyError::Random)?;
    }
    let ciphertext = WORK.cipher(passphrase, &salt)?.encrypt(&nonce.into(), pkcs8);
    let sealed = Sealed {
        kdf: Derivation {
            name: SCRYPT.to_owned(),
            params: WORK,
            salt: STANDARD.encode(salt),
        },
        cipher: Cipher {
            name: SECRETBOX.to_owned(),
            nonce: STANDARD.encode(nonce),
        },
        ciphertext: STANDARD.encode(ciphertext.map_err(|_| KeyError::Sealed)?),
    };
    serde_json::to_vec(&sealed).map_err(|_| KeyError::Sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cosign wrote it, with the passphrase `123`.
    const OF_COSIGN: &str = "-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----
eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjozMjc2OCwiciI6
OCwicCI6MX0sInNhbHQiOiIrRFJrTXNRZmNUNTNKNCs1Y3VkUnlnWTUyWUMrK0RW
TmxaSTN4VnlwWFlvPSJ9LCJjaXBoZXIiOnsibmFtZSI6Im5hY2wvc2VjcmV0Ym94
Iiwibm9uY2UiOiJnNTFORnBqQUxlemhvbGVWTWVjUFJUNUErMVhMcDAxeiJ9LCJj
aXBoZXJ0ZXh0Ijoib0YvN09mOGlQRDlkNlc2Mk5SWGVibEszWXZmNFFucTZORm16
Q0VyV2FTVUJOZTNXSFJiRVNYK2dJOCszejg4TDBDVXlWdm9LTHhuR0xhVnhnczVD
YUdyekcrMWxFTEI1cGRMVmZXd1VlQzlLelNab0hxZHZLaUsvUmNodVhpS0VqYmdv
ajNGd2pMcmhEYkY5a2lVWk93REpuT01kUkoxNnI3emxjRHdwT3htOXFrbWFDWDlB
VjQ4b1RXVG0rQXExOHlDZE50MDYybGdudVE9PSJ9
-----END ENCRYPTED COSIGN PRIVATE KEY-----
";

    #[test]
    fn a_key_that_cosign_sealed_is_opened_with_its_passphrase_alone() {
        let key = PrivateKey::from_pem(OF_COSIGN, "123").unwrap();
        let signature = key.sign(b"message").unwrap();
        assert!(key.public().unwrap().signed(b"message", &signature));
        assert_eq!(
            PrivateKey::from_pem(OF_COSIGN, "1234").err(),
            Some(KeyError::Passphrase)
        );
    }

    #[test]
    fn a_key_is_the_same_after_it_was_sealed() {
        let key = PrivateKey::generate().unwrap();
        let sealed = key.to_sealed_pem("open sesame").unwrap();
        assert!(
            sealed.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n") && PrivateKey::is_sealed(&sealed)
        );
        let opened = PrivateKey::from_pem(&sealed, "open sesame").unwrap();
        let public = opened.public().unwrap();
        assert_eq!(public, key.public().unwrap());
        assert_eq!(PublicKey::from_pem(&public.to_pem()), Ok(public));
    }

    #[test]
    fn a_signature_is_of_one_message_and_by_one_key() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let signature = key.sign(b"message").unwrap();
        let public = key.public().unwrap();
        assert!(public.signed(b"message", &signature));
        assert!(!public.signed(b"massage", &signature));
        assert!(!other.public().unwrap().signed(b"message", &signature));
        assert!(!public.signed(b"message", b"") && !public.signed(b"message", &[0; 72]));
        assert_ne!(public.id(), other.public().unwrap().id());
    }

    #[test]
    fn what_is_no_key_of_this_kind_is_told_apart() {
        assert_eq!(PublicKey::from_pem("ssh-ed25519 AAAA"), Err(KeyError::NotPublic));
        let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::from_pem(ed25519), Err(KeyError::Kind));
        assert_eq!(PrivateKey::from_pem(ed25519, "").err(), Some(KeyError::NotPrivate));
        let huge = br#"{"kdf":{"name":"scrypt","params":{"N":1099511627776,"r":8,"p":1},"salt":""},"cipher":{"name":"nacl/secretbox","nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"ciphertext":""}"#;
        let huge = pem::write(SEALED, huge);
        assert_eq!(PrivateKey::from_pem(&huge, "").err(), Some(KeyError::Sealed));
    }
}
