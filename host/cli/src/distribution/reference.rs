//! `oci://registry/repository:tag@sha256:…`: an artifact of a registry.

use super::http::is_loopback;
use fumehood_core::digest::Digest;
use std::{fmt, str::FromStr};

/// What the distribution specification allows.
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;
/// Docker Hub, by the name that everybody writes.
pub(super) const DOCKER_HUB: &str = "docker.io";
/// What is meant where no tag is given, as everywhere.
const USUAL_TAG: &str = "latest";

/// An artifact of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Its host, perhaps with a port; spelled one way, as [`registry`] does.
    pub(crate) registry: String,
    /// Its path there.
    pub(crate) repository: String,
    /// The tag, if one was given.
    pub(crate) tag: Option<String>,
    /// The artifact that it must be.
    pub(crate) digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReferenceError {
    #[error("`{0}` names no repository; write oci://registry/repository:tag, as in oci://ghcr.io/acme/github:1.2.0")]
    NoRepository(String),
    #[error("`{0}` is no registry: a host with a dot in its name or a port, as in ghcr.io or localhost:5000")]
    Registry(String),
    #[error(
        "`{0}` is no repository: lower-case letters, digits and `.`, `_`, `-` between them, in parts with `/` between"
    )]
    Repository(String),
    #[error("`{0}` is no tag: up to 128 letters, digits and `.`, `_`, `-`")]
    Tag(String),
    #[error("`{0}` is no digest: `sha256:` and 64 lower-case hexadecimal digits")]
    Digest(String),
}

impl Reference {
    /// The tag, or the usual one.
    pub(crate) fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(USUAL_TAG)
    }

    /// Registry and repository: `ghcr.io/acme/github`.
    pub(crate) fn repository_place(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Where it is, without which one it must be. One that is named by its digest alone is at no tag.
    pub(crate) fn place(&self) -> String {
        match (&self.tag, self.digest) {
            (None, Some(_)) => format!("oci://{}", self.repository_place()),
            _ => format!("oci://{}:{}", self.repository_place(), self.tag()),
        }
    }

    /// The same repository, without which of its artifacts.
    pub(crate) fn bare(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// The same repository's artifact of another tag.
    pub(crate) fn at(&self, tag: &str) -> Self {
        Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        match self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let text = text.strip_prefix("oci://").unwrap_or(text);
        let (place, digest) = match text.split_once('@') {
            Some((place, digest)) => {
                let parsed = digest.parse().map_err(|_| ReferenceError::Digest(digest.to_owned()))?;
                (place, Some(parsed))
            }
            None => (text, None),
        };
        let Some((host, path)) = place.split_once('/').filter(|(_, path)| !path.is_empty()) else {
            return Err(ReferenceError::NoRepository(text.to_owned()));
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        let registry = registry(host).ok_or_else(|| ReferenceError::Registry(host.to_owned()))?;
        if repository.len() > LONGEST_REPOSITORY || !repository.split('/').all(is_part) {
            return Err(ReferenceError::Repository(repository.to_owned()));
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        Ok(Self {
            registry,
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

/// A registry's name, in the one spelling in which it is compared, or none for what is no such name.
pub(super) fn registry(text: &str) -> Option<String> {
    if !is_registry(text) {
        return None;
    }
    let name = text.to_ascii_lowercase();
    let name = match name.strip_suffix(":443") {
        // To this machine it may be http, whose usual port is another.
        Some(host) if !is_loopback(host) => host.to_owned(),
        _ => name,
    };
    Some(match name.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        _ => name,
    })
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let host_is_one = host
        .split('.')
        .all(|label| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    let port_is_one = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    // `acme/github` is more likely meant as a repository of a registry that is not named.
    host_is_one && port_is_one && (host.contains('.') || port.is_some() || host == "localhost")
}

fn is_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    bytes.first().is_some_and(|b| inner(*b))
        && bytes.last().is_some_and(|b| inner(*b))
        && bytes.iter().all(|b| inner(*b) || matches!(b, b'.' | b'_' | b'-'))
        && !part.contains("..")
}

/// Whether a text can be a tag.
pub(super) fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    let first = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    (1..=LONGEST_TAG).contains(&bytes.len())
        && bytes.first().is_some_and(first)
        && bytes.iter().all(|b| first(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_registry_repository_tag_and_digest() {
        let digest = Digest::of(b"");
        let text = format!("oci://localhost:5000/acme/git_hub:1.2.0-rc.1@{digest}");
        let reference: Reference = text.parse().unwrap();
        assert_eq!(
            (reference.registry.as_str(), reference.tag()),
            ("localhost:5000", "1.2.0-rc.1")
        );
        assert_eq!(reference.repository, "acme/git_hub");
        assert_eq!(reference.to_string(), text);
        assert_eq!(
            reference.at("2.0.0").to_string(),
            "oci://localhost:5000/acme/git_hub:2.0.0"
        );
        let usual: Reference = "GHCR.io/acme/x".parse().unwrap();
        assert_eq!(usual.place(), "oci://ghcr.io/acme/x:latest");
        let pinned: Reference = format!("ghcr.io/acme/x@{digest}").parse().unwrap();
        assert_eq!(pinned.place(), "oci://ghcr.io/acme/x");
    }

    #[test]
    fn a_registry_has_one_name_however_it_is_spelled() {
        for (spelled, name) in [
            ("GHCR.io", Some("ghcr.io")),
            ("ghcr.io:443", Some("ghcr.io")),
            ("ghcr.io:5000", Some("ghcr.io:5000")),
            ("localhost:443", Some("localhost:443")),
            ("index.docker.io", Some("docker.io")),
            ("Registry-1.docker.io:443", Some("docker.io")),
            ("docker.io", Some("docker.io")),
            ("acme", None),
        ] {
            assert_eq!(registry(spelled).as_deref(), name, "{spelled}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "ghcr.io",
            "ghcr.io/",
            "acme/github:1",
            "ghcr.io/Acme/x",
            "ghcr.io/../x",
            "ghcr.io/a//x",
            "ghcr.io/x:",
            "ghcr.io/x:-a",
            "ghcr.io/x:a b",
            "ghcr.io:0/x",
            "ghcr.io:99999/x",
            "ghcr.io/x@sha256:00",
            "ghcr.io/x@md5:00",
            "user@ghcr.io/x",
            "ghcr.io/x?y",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
