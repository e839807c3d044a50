//! Envelope encryption of secrets at rest: AES-256-GCM under a random key per value, which is itself wrapped under a key
//! derived from the master key. To change the master key, only the values' keys are wrapped anew.
//!
//! Where a value lies (org, owner, name, version) is authenticated with it, so that a value moved to another row,
//! or an older value put under a newer version, does not open. Putting a whole older row back is not noticed.

use crate::{api::StoreError, master::MasterKeys};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use fumehood_core::{
    id::SessionId,
    name::{OrgName, SecretName},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Where a secret lies.
pub(crate) struct Place<'a> {
    pub(crate) org: &'a OrgName,
    pub(crate) session: Option<SessionId>,
    pub(crate) name: &'a SecretName,
    pub(crate) version: i64,
}

impl Place<'_> {
    // Every part has its length before it, so no two places have the same bytes.
    fn authenticated(&self, purpose: &str) -> Vec<u8> {
        let owner = self.session.map_or_else(|| "org".to_owned(), |id| id.to_string());
        let version = self.version.to_string();
        let parts = [purpose, self.org, &owner, self.name, &version];
        let mut bytes = Vec::with_capacity(128);
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

/// The stored form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    version: u8,
    algorithm: Algorithm,
    /// The fingerprint of the master key.
    key: String,
    #[serde(with = "base64_text")]
    wrap_nonce: [u8; NONCE_LEN],
    #[serde(with = "base64_text")]
    wrapped_key: Vec<u8>,
    #[serde(with = "base64_text")]
    nonce: [u8; NONCE_LEN],
    #[serde(with = "base64_text")]
    sealed: Vec<u8>,
}

#[derive(Serialize, Deserialize, PartialEq)]
enum Algorithm {
    #[serde(rename = "AES-256-GCM")]
    Aes256Gcm,
}

mod base64_text {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: impl AsRef<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<Vec<u8>>>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        T::try_from(bytes).map_err(|_| D::Error::custom("wrong length"))
    }
}

/// Seals secrets with the first of several keys, and opens them with any.
pub(crate) struct Vault {
    first: WrappingKey,
    others: Vec<WrappingKey>,
}

struct WrappingKey {
    key: LessSafeKey,
    fingerprint: String,
}

impl Vault {
    pub(crate) fn new(keys: &MasterKeys) -> Result<Self, StoreError> {
        let wrapping = |master: &crate::master::MasterKey| {
            Ok(WrappingKey {
                key: key(master.derive("secrets").as_slice())?,
                fingerprint: master.fingerprint(),
            })
        };
        Ok(Self {
            first: wrapping(keys.first())?,
            others: keys.others().iter().map(wrapping).collect::<Result<_, StoreError>>()?,
        })
    }

    /// Names the key that seals.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.first.fingerprint
    }

    /// Whether the key of this name is there.
    pub(crate) fn has(&self, fingerprint: &str) -> bool {
        self.by_name(fingerprint).is_some()
    }

    fn by_name(&self, fingerprint: &str) -> Option<&WrappingKey> {
        let mut all = std::iter::once(&self.first).chain(&self.others);
        all.find(|key| key.fingerprint == fingerprint)
    }

    /// The stored form of `value`, for this place only.
    pub(crate) fn seal(&self, place: &Place<'_>, value: &str) -> Result<String, StoreError> {
        let mut data_key = Zeroizing::new([0_u8; 32]);
        let (mut wrap_nonce, mut nonce) = ([0; NONCE_LEN], [0; NONCE_LEN]);
        for part in [data_key.as_mut_slice(), &mut wrap_nonce, &mut nonce] {
            getrandom::fill(part).map_err(|_| no_crypto())?;
        }
        let envelope = Envelope {
            version: 1,
            algorithm: Algorithm::Aes256Gcm,
            key: self.first.fingerprint.clone(),
            wrapped_key: seal(
                &self.first.key,
                wrap_nonce,
                &place.authenticated("key"),
                data_key.as_slice(),
            )?,
            wrap_nonce,
            sealed: seal(
                &key(data_key.as_slice())?,
                nonce,
                &place.authenticated("value"),
                value.as_bytes(),
            )?,
            nonce,
        };
        serde_json::to_string(&envelope).map_err(|_| no_crypto())
    }

    /// The value of a stored form, if it was sealed for this place with one of the keys.
    pub(crate) fn open(&self, place: &Place<'_>, stored: &str) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let envelope = parse(place, stored)?;
        // THREAT[T-sec-row-swap]
        let data_key = self.unwrap_key(place, &envelope)?;
        open(
            &key(&data_key)?,
            envelope.nonce,
            &place.authenticated("value"),
            envelope.sealed,
        )
        .ok_or_else(|| tampered(place))
    }

    /// The same stored form under the first key, or `None` if it is under that already. The value itself is opened to see that it
    /// does, and stays sealed as it is.
    pub(crate) fn rewrap(&self, place: &Place<'_>, stored: &str) -> Result<Option<String>, StoreError> {
        self.open(place, stored)?;
        let mut envelope = parse(place, stored)?;
        if envelope.key == self.first.fingerprint {
            return Ok(None);
        }
        let data_key = self.unwrap_key(place, &envelope)?;
        getrandom::fill(&mut envelope.wrap_nonce).map_err(|_| no_crypto())?;
        envelope.wrapped_key = seal(
            &self.first.key,
            envelope.wrap_nonce,
            &place.authenticated("key"),
            &data_key,
        )?;
        envelope.key.clone_from(&self.first.fingerprint);
        serde_json::to_string(&envelope).map(Some).map_err(|_| no_crypto())
    }

    fn unwrap_key(&self, place: &Place<'_>, envelope: &Envelope) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let wrapping = self.by_name(&envelope.key).ok_or_else(|| {
            let (theirs, ours) = (&envelope.key, &self.first.fingerprint);
            damaged(
                place,
                &format!("it was sealed with another master key ({theirs}; this one is {ours})"),
            )
        })?;
        let place_of_key = place.authenticated("key");
        open(
            &wrapping.key,
            envelope.wrap_nonce,
            &place_of_key,
            envelope.wrapped_key.clone(),
        )
        .ok_or_else(|| tampered(place))
    }
}

fn parse(place: &Place<'_>, stored: &str) -> Result<Envelope, StoreError> {
    let envelope: Envelope =
        serde_json::from_str(stored).map_err(|_| damaged(place, "its envelope is not of a form this version knows"))?;
    if envelope.version != 1 || envelope.algorithm != Algorithm::Aes256Gcm {
        return Err(damaged(place, "a newer version sealed it"));
    }
    Ok(envelope)
}

fn damaged(place: &Place<'_>, why: &str) -> StoreError {
    StoreError::Corrupt {
        reason: format!("the secret {} does not open: {why}", place.name),
    }
}

fn tampered(place: &Place<'_>) -> StoreError {
    damaged(place, "it was changed, or moved here from another place. Set it again")
}

fn key(bytes: &[u8]) -> Result<LessSafeKey, StoreError> {
    UnboundKey::new(&AES_256_GCM, bytes)
        .map(LessSafeKey::new)
        .map_err(|_| no_crypto())
}

fn seal(key: &LessSafeKey, nonce: [u8; NONCE_LEN], place: &[u8], plain: &[u8]) -> Result<Vec<u8>, StoreError> {
    let mut sealed = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(plain);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
        .map_err(|_| no_crypto())?;
    Ok(sealed)
}

fn open(key: &LessSafeKey, nonce: [u8; NONCE_LEN], place: &[u8], sealed: Vec<u8>) -> Option<Zeroizing<Vec<u8>>> {
    let mut plain = Zeroizing::new(sealed);
    let length = key
        .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut plain)
        .ok()?
        .len();
    plain.truncate(length);
    Some(plain)
}

fn no_crypto() -> StoreError {
    StoreError::Unavailable {
        reason: "the system's cryptography refused to work".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::MasterKey;

    fn vault() -> Vault {
        Vault::new(&MasterKey::random().unwrap().into()).unwrap()
    }

    struct Fixture {
        vault: Vault,
        org: OrgName,
        other: OrgName,
        name: SecretName,
        other_name: SecretName,
    }

    fn fixture() -> Fixture {
        Fixture {
            vault: vault(),
            org: OrgName::new("acme").unwrap(),
            other: OrgName::new("rival").unwrap(),
            name: SecretName::new("TOKEN").unwrap(),
            other_name: SecretName::new("OTHER").unwrap(),
        }
    }

    #[test]
    fn a_value_opens_where_it_was_sealed_and_its_stored_form_does_not_show_it() {
        let f = fixture();
        let place = Place {
            org: &f.org,
            session: None,
            name: &f.name,
            version: 1,
        };
        let stored = f.vault.seal(&place, "hunter2").unwrap();
        assert_eq!(f.vault.open(&place, &stored).unwrap().as_slice(), b"hunter2");
        assert!(!stored.contains("hunter2") && !stored.contains("aHVudGVyMg"));
        assert_ne!(stored, f.vault.seal(&place, "hunter2").unwrap());
    }

    #[test]
    fn a_value_moved_to_any_other_place_does_not_open() {
        let f = fixture();
        let session = Some(SessionId::new());
        let place = Place {
            org: &f.org,
            session,
            name: &f.name,
            version: 1,
        };
        let stored = f.vault.seal(&place, "hunter2").unwrap();
        for elsewhere in [
            Place {
                org: &f.other,
                session,
                name: &f.name,
                version: 1,
            },
            Place {
                org: &f.org,
                session: None,
                name: &f.name,
                version: 1,
            },
            Place {
                org: &f.org,
                session: Some(SessionId::new()),
                name: &f.name,
                version: 1,
            },
            Place {
                org: &f.org,
                session,
                name: &f.other_name,
                version: 1,
            },
            Place {
                org: &f.org,
                session,
                name: &f.name,
                version: 2,
            },
        ] {
            let error = f.vault.open(&elsewhere, &stored).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        }
    }

    #[test]
    fn a_changed_envelope_does_not_open() {
        let f = fixture();
        let place = Place {
            org: &f.org,
            session: None,
            name: &f.name,
            version: 1,
        };
        let stored = f.vault.seal(&place, "hunter2").unwrap();
        let whole: serde_json::Value = serde_json::from_str(&stored).unwrap();
        for field in ["wrap_nonce", "wrapped_key", "nonce", "sealed"] {
            let mut changed = whole.clone();
            let text = changed[field].as_str().unwrap();
            let flipped = if text.starts_with('A') { "B" } else { "A" };
            changed[field] = format!("{flipped}{}", &text[1..]).into();
            assert!(f.vault.open(&place, &changed.to_string()).is_err(), "{field}");
        }
        let mut newer = whole;
        newer["version"] = 2.into();
        assert!(f.vault.open(&place, &newer.to_string()).is_err());
        assert!(f.vault.open(&place, "{}").is_err());
        for end in 0..stored.len() {
            let error = f.vault.open(&place, &stored[..end]).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{end}: {error}");
        }
    }

    #[test]
    fn a_value_wrapped_anew_opens_with_the_new_key_alone_and_its_sealed_bytes_stay() {
        let f = fixture();
        let place = Place {
            org: &f.org,
            session: None,
            name: &f.name,
            version: 1,
        };
        let (old, new) = (MasterKey::random().unwrap(), MasterKey::random().unwrap());
        let (before, after) = (
            Vault::new(&old.clone().into()).unwrap(),
            Vault::new(&new.clone().into()).unwrap(),
        );
        let both = Vault::new(&MasterKeys::new(new, vec![old])).unwrap();
        let stored = before.seal(&place, "hunter2").unwrap();
        let wrapped = both.rewrap(&place, &stored).unwrap().unwrap();
        assert_eq!(both.rewrap(&place, &wrapped).unwrap(), None);
        assert_eq!(after.open(&place, &wrapped).unwrap().as_slice(), b"hunter2");
        assert!(before.open(&place, &wrapped).is_err());
        let sealed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["sealed"].clone();
        assert_eq!(sealed(&wrapped), sealed(&stored));
        let elsewhere = Place { version: 2, ..place };
        assert!(
            both.rewrap(&elsewhere, &stored).is_err(),
            "a moved value is not blessed"
        );
    }

    #[test]
    fn another_master_key_does_not_open_it_and_the_error_says_so() {
        let f = fixture();
        let place = Place {
            org: &f.org,
            session: None,
            name: &f.name,
            version: 1,
        };
        let stored = f.vault.seal(&place, "hunter2").unwrap();
        let other = vault();
        let error = other.open(&place, &stored).unwrap_err().to_string();
        assert!(error.contains("another master key"), "{error}");
    }
}
