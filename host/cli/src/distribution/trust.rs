//! Whose signatures count, for what, and what becomes of a component that has none.

use super::{
    keys::PublicKey,
    reference::{Reference, registry},
    signature,
    source::Source,
};
use anyhow::Context as _;
use fumehood_core::digest::Digest;
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
};

/// What is asked of a component before it is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Policy {
    /// A signature by a trusted key, wherever it comes from.
    Required,
    /// A signature by a trusted key, where it comes from a place that one is trusted for.
    #[default]
    WhenKnown,
    /// Nothing: signatures are not looked at.
    Off,
}

/// A key, and what it is trusted for.
#[derive(Debug, Clone)]
pub(crate) struct TrustedKey {
    pub(crate) name: String,
    pub(crate) key: PublicKey,
    /// The places; none: everywhere.
    pub(crate) places: Vec<Place>,
}

/// The begin of sources, by whole parts: `oci://ghcr.io/acme`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place(String);

/// Why a text is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place; write the begin of sources, as in oci://ghcr.io/acme/ or https://tools.example.com/")]
pub(crate) struct NoPlace(String);

impl std::str::FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        // Spelled as sources are, or what is the same place would be taken for another, and asked for no signature.
        let place = match text.split_once("://") {
            Some(_) if text.contains(['@', '?', '#', '*']) => None,
            Some(("oci", rest)) => artifacts(rest.trim_end_matches('/')),
            Some(("https" | "http", rest)) if !rest.starts_with('/') => {
                text.parse().ok().map(|source: Source| source.place())
            }
            _ => None,
        };
        let place = place.ok_or_else(|| NoPlace(text.to_owned()))?;
        Ok(Self(place.trim_end_matches('/').to_owned()))
    }
}

/// A registry, or what is below one: a folder of repositories, a repository, or one tag of it.
fn artifacts(text: &str) -> Option<String> {
    if !text.contains('/') {
        return registry(text).map(|registry| format!("oci://{registry}"));
    }
    let reference: Reference = text.parse().ok()?;
    let below = format!("oci://{}", reference.repository_place());
    Some(match &reference.tag {
        Some(tag) => format!("{below}:{tag}"),
        None => below,
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Place {
    fn covers(&self, place: &str) -> bool {
        let rest = place.strip_prefix(self.0.as_str());
        // A host's name and a path go on with other signs than these.
        rest.is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(['/', '@']) || rest.starts_with(':') && self.0.matches('/').count() > 2
        })
    }
}

/// Whose signatures count, and how much.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    pub(crate) policy: Policy,
    pub(crate) keys: Vec<TrustedKey>,
}

/// What is known of who signed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signed {
    /// Signatures are not looked at.
    NotAsked,
    /// Nobody whose signature would count.
    Nobody,
    /// The holder of the key with this id.
    By(Digest),
}

/// Why a component is not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Distrusted {
    #[error(
        "{place} is not signed, and what comes from there has to be, by {names}. If it was signed before, somebody may have put another in its place; \
         ask whoever publishes it"
    )]
    Unsigned { place: String, names: String },
    #[error(
        "{file} is not signed, and signatures are required, by {names}; whoever has the key signs it with `fumehood tool sign {file} --key …`, which \
         writes {file}.sig beside it"
    )]
    UnsignedFile { file: String, names: String },
    #[error(
        "{place} is signed, but not by {names}, whose signature counts there. If its publisher has a new key, get it from them and put it into \
         [tools.trusted_keys]"
    )]
    OtherKey { place: String, names: String },
    #[error(
        "signatures are required, and no key is trusted for {place}; get that of whoever publishes it and put it into [tools.trusted_keys], or have \
         `signatures = \"when-known\"` in [tools]"
    )]
    NoKey { place: String },
}

impl Trust {
    /// Whether the signatures of a component need be looked at.
    pub(crate) fn asks(&self, source: &Source) -> bool {
        match self.policy {
            Policy::Off => false,
            Policy::Required => true,
            Policy::WhenKnown => self.counting(source).next().is_some(),
        }
    }

    /// Whose signature counts for it.
    // THREAT[T-supply-key-confusion]: a key is good for what it is trusted for; others' components it can't vouch for.
    pub(crate) fn counting(&self, source: &Source) -> impl Iterator<Item = &TrustedKey> {
        let place = source.place();
        // One's own file is nobody's place; where signatures are required, those of the keys that count everywhere do.
        let remote = source.is_remote();
        let required = self.policy == Policy::Required;
        self.keys.iter().filter(move |trusted| match trusted.places.as_slice() {
            [] => remote || required,
            places => remote && places.iter().any(|own| own.covers(&place)),
        })
    }

    /// What follows from a signature that lies beside what it is of.
    pub(super) fn of_detached(&self, source: &Source, message: &[u8], text: &[u8]) -> Result<Signed, Distrusted> {
        let signature = signature::detached(text).unwrap_or_default();
        let by = self
            .counting(source)
            .find(|trusted| trusted.key.signed(message, &signature));
        self.decide(source, 1, by)
    }

    /// What follows from the signature of a file, which lies beside it.
    pub(crate) fn of_file(&self, source: &Source, path: &Path, bytes: &[u8]) -> anyhow::Result<Signed> {
        if !self.asks(source) {
            return Ok(self.decide(source, 0, None)?);
        }
        let beside = beside(path);
        match fs::read(&beside) {
            Ok(text) => Ok(self.of_detached(source, bytes, &text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(self.decide(source, 0, None)?),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", beside.display())),
        }
    }

    /// What follows from the key that signed what was locked: whether its signature still counts.
    pub(crate) fn of_locked(&self, source: &Source, key: Option<Digest>) -> Result<Signed, Distrusted> {
        let by = key.and_then(|key| self.counting(source).find(|trusted| trusted.key.id() == key));
        self.decide(source, usize::from(key.is_some()), by)
    }

    /// What follows from the signatures: `signatures` is how many there are, `by` which of the keys that count made one.
    pub(crate) fn decide(
        &self,
        source: &Source,
        signatures: usize,
        by: Option<&TrustedKey>,
    ) -> Result<Signed, Distrusted> {
        if !self.asks(source) {
            return Ok(match self.policy {
                Policy::Off => Signed::NotAsked,
                Policy::Required | Policy::WhenKnown => Signed::Nobody,
            });
        }
        if let Some(trusted) = by {
            return Ok(Signed::By(trusted.key.id()));
        }
        let place = source.place();
        let names: Vec<&str> = self.counting(source).map(|trusted| trusted.name.as_str()).collect();
        let names = names.join(" or ");
        Err(match (names.is_empty(), signatures) {
            (true, _) => Distrusted::NoKey { place },
            (false, 0) if !source.is_remote() => Distrusted::UnsignedFile { file: place, names },
            (false, 0) => Distrusted::Unsigned { place, names },
            (false, _) => Distrusted::OtherKey { place, names },
        })
    }
}

/// Where the signature of a file is.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".sig");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::keys::PrivateKey;

    fn key(name: &str, places: &[&str]) -> TrustedKey {
        TrustedKey {
            name: name.to_owned(),
            key: PrivateKey::generate().unwrap().public().unwrap(),
            places: places.iter().map(|place| place.parse().unwrap()).collect(),
        }
    }

    fn trust(policy: Policy, keys: Vec<TrustedKey>) -> Trust {
        Trust { policy, keys }
    }

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_counts_where_it_is_trusted_by_whole_parts_of_names() {
        let trust = trust(
            Policy::WhenKnown,
            vec![
                key("acme", &["oci://ghcr.io/acme/", "https://tools.acme.example"]),
                key("one", &["oci://ghcr.io/other/one"]),
                key(
                    "spelled",
                    &[
                        "oci://R.Example:443/acme//",
                        "oci://index.docker.io",
                        "https://Web.Example:443/t",
                    ],
                ),
            ],
        );
        let names = |text: &str| {
            trust
                .counting(&source(text))
                .map(|key| key.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("oci://ghcr.io/acme/github:1"), ["acme"]);
        assert_eq!(names("https://tools.acme.example/x.wasm"), ["acme"]);
        assert_eq!(names("oci://ghcr.io/other/one:1"), ["one"]);
        for same in [
            "oci://r.example/acme/x:1",
            "oci://R.EXAMPLE:443/acme/x:1",
            "oci://docker.io/acme/x:1",
            "oci://registry-1.docker.io/acme/x:1",
            "https://web.example/t/x.wasm",
            "https://WEB.example.:443/t/x.wasm",
        ] {
            assert_eq!(names(same), ["spelled"], "{same}");
        }
        for other in [
            "oci://r.example:5000/acme/x:1",
            "http://web.example/t/x.wasm",
            "oci://ghcr.io/acme-evil/github:1",
            "oci://ghcr.io/acmegithub:1",
            "oci://ghcr.io/other/one-more:1",
            "https://tools.acme.example.evil.example/x.wasm",
            "https://tools.acme.example:8443/x.wasm",
            "x.wasm",
        ] {
            assert!(names(other).is_empty(), "{other}");
        }
        for text in [
            "",
            "ghcr.io/acme",
            "oci://",
            "oci:///acme",
            "https://a@b/",
            "oci://ghcr.io/*",
            "oci://acme/",
            "oci://ghcr.io/Acme",
            "oci://ghcr.io//acme",
            "https://a.example/x?y",
            "https:///a.example",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_has_no_signature_that_counts_is_refused_where_one_is_asked_for() {
        let acme = key("acme", &["oci://ghcr.io/acme/"]);
        let (there, elsewhere, file) = (
            source("oci://ghcr.io/acme/x:1"),
            source("oci://ghcr.io/b/x:1"),
            source("x.wasm"),
        );
        let known = trust(Policy::WhenKnown, vec![acme.clone()]);
        assert!(matches!(known.decide(&there, 0, None), Err(Distrusted::Unsigned { names, .. }) if names == "acme"));
        assert!(matches!(
            known.decide(&there, 2, None),
            Err(Distrusted::OtherKey { .. })
        ));
        assert_eq!(known.decide(&there, 1, Some(&acme)), Ok(Signed::By(acme.key.id())));
        assert_eq!(known.decide(&elsewhere, 0, None), Ok(Signed::Nobody));
        assert_eq!(known.decide(&file, 0, None), Ok(Signed::Nobody));
        let required = trust(Policy::Required, vec![acme.clone()]);
        for unknown in [&elsewhere, &file] {
            assert!(matches!(
                required.decide(unknown, 1, None),
                Err(Distrusted::NoKey { .. })
            ));
        }
        let everywhere = trust(Policy::Required, vec![key("own", &[])]);
        assert!(matches!(
            everywhere.decide(&file, 0, None),
            Err(Distrusted::UnsignedFile { .. })
        ));
        let off = trust(Policy::Off, vec![acme]);
        assert_eq!(off.decide(&there, 0, None), Ok(Signed::NotAsked));
        let nobody = trust(Policy::WhenKnown, Vec::new());
        assert_eq!(nobody.decide(&there, 0, None), Ok(Signed::Nobody));
    }
}
