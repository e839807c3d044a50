//! What `fumehood tool add` and `[tool.NAME]` take: the name of a place that has a component.

use super::reference::{Reference, ReferenceError};
use fumehood_core::{digest::Digest, name::ComponentName};
use reqwest::Url;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A place that has a component, and perhaps which one it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// A file of a web server.
    Web {
        /// Where. Has neither user, query nor fragment.
        url: Url,
        /// Its code.
        digest: Option<Digest>,
    },
    /// An artifact of an OCI registry.
    Oci(Reference),
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{0}")]
    Reference(#[from] ReferenceError),
    #[error("`{0}` is no URL")]
    Url(String),
    #[error(
        "a URL with a user in it would leave the password in shells and logs; leave it out, and use a registry where a login is needed"
    )]
    Login,
    #[error(
        "what stands behind the `?` of a URL is often a key to it, and would stay in fumehood.lock and in logs; download the file and add that, or \
         give a URL without"
    )]
    Query,
    #[error("what follows `@sha256:` is no digest: 64 lower-case hexadecimal digits")]
    Digest,
    #[error("`{0}://` is no source; take a file, https://… or oci://registry/repository:tag")]
    Scheme(String),
}

impl Source {
    /// The place alone, without which component it must have there.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Web { url, .. } => url.to_string(),
            Self::Oci(reference) => reference.place(),
        }
    }

    /// What it must have: a component's digest for a file, that of an artifact's manifest for a registry.
    pub(crate) fn pinned(&self) -> Option<Digest> {
        match self {
            Self::File(_) => None,
            Self::Web { digest, .. } => *digest,
            Self::Oci(reference) => reference.digest,
        }
    }

    /// The server that it is on: its host, and its port if one is written.
    pub(crate) fn server(&self) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::Web { url, .. } => Some(url.authority().to_owned()),
            Self::Oci(reference) => Some(reference.registry.clone()),
        }
    }

    /// Whether somebody else decides what is there.
    pub(crate) const fn is_remote(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// The name that the place's own name makes, for a component that carries none.
    pub(crate) fn name(&self) -> Option<ComponentName> {
        let last = match self {
            Self::File(path) => path.file_stem()?.to_str()?.to_owned(),
            Self::Web { url, .. } => Path::new(url.path()).file_stem()?.to_str()?.to_owned(),
            Self::Oci(reference) => reference.repository.rsplit('/').next()?.to_owned(),
        };
        last.replace('_', "-").parse().ok()
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::File(text.into()));
        };
        match scheme {
            "oci" => Ok(Self::Oci(rest.parse()?)),
            "https" | "http" => web(text),
            other => Err(SourceError::Scheme(other.to_owned())),
        }
    }
}

fn web(text: &str) -> Result<Source, SourceError> {
    let (url, digest) = match text.rsplit_once("@sha256:") {
        Some((url, hex)) => {
            let digest = format!("sha256:{hex}").parse().map_err(|_| SourceError::Digest)?;
            (url, Some(digest))
        }
        None => (text, None),
    };
    let mut url = Url::parse(url).map_err(|_| SourceError::Url(url.to_owned()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(SourceError::Login);
    }
    if url.query().is_some() {
        return Err(SourceError::Query);
    }
    url.set_fragment(None);
    // One name of a host, of which the dot that may end it is no part.
    if let Some(host) = url
        .host_str()
        .and_then(|host| host.strip_suffix('.'))
        .map(str::to_owned)
    {
        url.set_host(Some(&host))
            .map_err(|_| SourceError::Url(url.to_string()))?;
    }
    Ok(Source::Web { url, digest })
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        match self.pinned() {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_is_a_file_a_url_or_an_artifact() {
        let digest = Digest::of(b"");
        assert_eq!(source("dir/x.wasm"), Source::File("dir/x.wasm".into()));
        assert_eq!(source("@sha256:x.wasm"), Source::File("@sha256:x.wasm".into()));
        let web = source(&format!("https://a.example/git_hub.wasm@{digest}"));
        assert_eq!(
            (web.pinned(), web.place()),
            (Some(digest), "https://a.example/git_hub.wasm".into())
        );
        assert_eq!(web.name().unwrap().as_str(), "git-hub");
        assert_eq!(source("https://A.Example.:443/x#y"), source("https://a.example/x"));
        let oci = source(&format!("oci://ghcr.io/acme/tools/github:1.0@{digest}"));
        assert_eq!(oci.to_string(), format!("oci://ghcr.io/acme/tools/github:1.0@{digest}"));
        assert_eq!(oci.name().unwrap().as_str(), "github");
        assert!(oci.is_remote() && web.is_remote() && !source("x").is_remote());
    }

    #[test]
    fn what_names_no_place_is_refused_with_a_reason() {
        for (text, said) in [
            ("ftp://a.example/x.wasm", "no source"),
            ("https://user:pw@a.example/x.wasm", "password"),
            ("https://a.example/x.wasm?X-Amz-Signature=s3cret", "often a key"),
            ("https://a.example/x.wasm?", "often a key"),
            ("https://a.example/x.wasm@sha256:00", "hexadecimal"),
            ("https://", "no URL"),
            ("oci://ghcr.io", "repository"),
        ] {
            let refused = text.parse::<Source>().unwrap_err().to_string();
            assert!(
                refused.contains(said) && !refused.contains("s3cret"),
                "{text}: {refused}"
            );
        }
    }
}
