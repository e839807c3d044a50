//! One repository of an OCI registry, over the distribution API: as much of it as components need.
//!
//! A registry is a stranger's server: what it sends counts only by its digest, and up to the size that was expected. A login goes to the
//! registry that it is for and to the service that this one names for tokens, over TLS.

use super::{
    artifact::{self, Descriptor},
    credentials::{self, Credentials},
    http::{Ask, Http, Redirects, body, is_private, shown},
    reference::{DOCKER_HUB, Reference},
};
use anyhow::{Context as _, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fumehood_core::digest::Digest;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

const LARGEST_TOKEN: u64 = 64 << 10;
const LARGEST_LIST: u64 = 1 << 20;
/// Pages of tags that are read.
const MOST_PAGES: usize = 20;
const PER_PAGE: usize = 500;

/// What is done there, and so what a token has to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A repository, and who asks.
pub(super) struct Registry<'h> {
    http: &'h Http,
    /// `https://ghcr.io/v2/acme/github/`
    base: Url,
    registry: String,
    repository: String,
    access: Access,
    authorization: Option<HeaderValue>,
}

/// A manifest as it came.
pub(super) struct Found {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: String,
    pub(super) digest: Digest,
}

/// A request of this registry's.
struct Wanted<'a> {
    method: Method,
    url: Url,
    accept: &'static str,
    content: Option<(&'a str, Bytes)>,
    redirects: Redirects,
}

impl<'h> Registry<'h> {
    pub(super) async fn new(http: &'h Http, reference: &Reference, access: Access) -> anyhow::Result<Self> {
        // The name that everybody writes is not that of the server.
        let server = match reference.registry.as_str() {
            DOCKER_HUB => "registry-1.docker.io",
            other => other,
        };
        let scheme = http.scheme_of(server).await?;
        let base = format!("{scheme}://{server}/v2/{}/", reference.repository);
        Ok(Self {
            http,
            base: base.parse().context("the registry's address is none")?,
            registry: reference.registry.clone(),
            repository: reference.repository.clone(),
            access,
            authorization: None,
        })
    }

    /// The manifest at a tag or of a digest, and none where there is nothing.
    pub(super) async fn find(&mut self, tag_or_digest: &str) -> anyhow::Result<Option<Found>> {
        self.find_as(tag_or_digest, artifact::MANIFEST).await
    }

    /// The list of what refers to an artifact, such as its signatures; none where there is no such list. Where the registry keeps none, it
    /// is where the specification has clients put it: at a tag.
    pub(super) async fn referrers(&mut self, artifact: &Digest) -> anyhow::Result<Option<Vec<u8>>> {
        let url = self.at(&format!("referrers/{artifact}"))?;
        let response = self.send(&Wanted::get(url, artifact::INDEX, Redirects::Within)).await?;
        let kept = !matches!(
            response.status(),
            StatusCode::NOT_FOUND
                | StatusCode::BAD_REQUEST
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::NOT_IMPLEMENTED
        );
        if kept {
            self.expect(&response, StatusCode::OK, "the list of signatures")?;
            let list = body(response, artifact::LARGEST_MANIFEST, "the list of signatures").await?;
            return Ok(Some(list));
        }
        let tag = format!("sha256-{}", artifact.to_hex());
        let found = self.find_as(&tag, artifact::INDEX).await?;
        Ok(found.map(|found| found.bytes))
    }

    async fn find_as(&mut self, tag_or_digest: &str, accept: &'static str) -> anyhow::Result<Option<Found>> {
        let url = self.at(&format!("manifests/{tag_or_digest}"))?;
        let response = self.send(&Wanted::get(url, accept, Redirects::Within)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        self.expect(&response, StatusCode::OK, "the manifest")?;
        let said = response.headers().get("docker-content-digest").cloned();
        let content_type = text_of(response.headers().get(header::CONTENT_TYPE));
        let bytes = body(response, artifact::LARGEST_MANIFEST, "the manifest").await?;
        let digest = Digest::of(&bytes);
        let promised = tag_or_digest
            .parse()
            .ok()
            .or_else(|| text_of(said.as_ref()).parse().ok());
        // THREAT[T-supply-registry]: what was asked for by its digest is that, or nothing.
        if let Some(promised) = promised.filter(|promised: &Digest| *promised != digest) {
            bail!(
                "{} promised a manifest with the digest {promised} and sent one with {digest}: it is damaged, or the registry lies; nothing \
                 of it was kept",
                self.registry
            );
        }
        Ok(Some(Found {
            bytes,
            content_type,
            digest,
        }))
    }

    /// The manifest at a tag or of a digest.
    pub(super) async fn manifest(&mut self, tag_or_digest: &str) -> anyhow::Result<Found> {
        let found = self.find(tag_or_digest).await?;
        found.with_context(|| self.absent(tag_or_digest))
    }

    /// That there is nothing.
    pub(super) fn absent(&self, tag_or_digest: &str) -> String {
        format!(
            "{} has no {} `{tag_or_digest}`; check the name, and that your login may read it",
            self.registry, self.repository
        )
    }

    /// A blob, whole.
    pub(super) async fn blob(&mut self, descriptor: &Descriptor, most: u64, what: &str) -> anyhow::Result<Vec<u8>> {
        ensure!(
            descriptor.size <= most,
            "{what} from {} has {} bytes, more than the {most} that are allowed for it; nothing of it was fetched",
            self.registry,
            descriptor.size
        );
        let url = self.at(&format!("blobs/{}", descriptor.digest))?;
        let response = self.send(&Wanted::get(url, "*/*", Redirects::Elsewhere)).await?;
        self.expect(&response, StatusCode::OK, what)?;
        let bytes = body(response, descriptor.size, what).await?;
        let digest = Digest::of(&bytes);
        // THREAT[T-supply-registry]
        ensure!(
            digest == descriptor.digest,
            "{} promised {what} with the digest {} and sent {} bytes with {digest}: it is damaged, or the registry lies; nothing of it was kept",
            self.registry,
            descriptor.digest,
            bytes.len()
        );
        Ok(bytes)
    }

    /// The tags of the repository, as far as they are read.
    pub(super) async fn tags(&mut self) -> anyhow::Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let (mut tags, mut last) = (Vec::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let mut url = self.at("tags/list")?;
            url.query_pairs_mut().append_pair("n", &PER_PAGE.to_string());
            if let Some(last) = &last {
                url.query_pairs_mut().append_pair("last", last);
            }
            let response = self
                .send(&Wanted::get(url, "application/json", Redirects::Within))
                .await?;
            if response.status() == StatusCode::NOT_FOUND {
                break;
            }
            self.expect(&response, StatusCode::OK, "the list of tags")?;
            let more = response.headers().contains_key(header::LINK);
            let page = body(response, LARGEST_LIST, "the list of tags").await?;
            let page: Page = serde_json::from_slice(&page)
                .with_context(|| format!("{} sent a list of tags that can't be read", self.registry))?;
            let page = page.tags.unwrap_or_default();
            last = page.last().cloned();
            let end = page.is_empty() || !more;
            tags.extend(page);
            if end {
                break;
            }
        }
        Ok(tags)
    }

    /// Sees to it that a blob is there.
    pub(super) async fn put_blob(&mut self, descriptor: &Descriptor, bytes: &[u8]) -> anyhow::Result<()> {
        let url = self.at(&format!("blobs/{}", descriptor.digest))?;
        let head = Wanted {
            method: Method::HEAD,
            ..Wanted::get(url, "*/*", Redirects::Elsewhere)
        };
        if self.send(&head).await?.status() == StatusCode::OK {
            return Ok(());
        }
        let begin = Wanted {
            method: Method::POST,
            content: Some(("application/octet-stream", Bytes::new())),
            ..Wanted::get(self.at("blobs/uploads/")?, "*/*", Redirects::Within)
        };
        let begun = self.send(&begin).await?;
        self.expect(&begun, StatusCode::ACCEPTED, "an upload")?;
        let mut url = begun
            .headers()
            .get(header::LOCATION)
            .and_then(|to| to.to_str().ok())
            .and_then(|to| begun.url().join(to).ok())
            .with_context(|| format!("{} did not say where to upload to", self.registry))?;
        // What is published is no secret, but the authorization that goes with it is.
        ensure!(
            url.origin() == self.base.origin(),
            "{} wants the upload at {}, which is another server",
            self.registry,
            shown(&url)
        );
        url.query_pairs_mut()
            .append_pair("digest", &descriptor.digest.to_string());
        let put = Wanted {
            method: Method::PUT,
            content: Some(("application/octet-stream", Bytes::copy_from_slice(bytes))),
            ..Wanted::get(url, "*/*", Redirects::Within)
        };
        let done = self.send(&put).await?;
        self.expect(&done, StatusCode::CREATED, "the upload")
    }

    /// Puts a manifest at a tag.
    pub(super) async fn put_manifest(&mut self, tag: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let put = Wanted {
            method: Method::PUT,
            content: Some((artifact::MANIFEST, Bytes::copy_from_slice(bytes))),
            ..Wanted::get(self.at(&format!("manifests/{tag}"))?, "*/*", Redirects::Within)
        };
        let done = self.send(&put).await?;
        self.expect(&done, StatusCode::CREATED, "the manifest")
    }

    fn at(&self, path: &str) -> anyhow::Result<Url> {
        self.base.join(path).context("the registry's address is none")
    }

    /// Sends it, and once more with a login or a token where the registry asks for one.
    async fn send(&mut self, wanted: &Wanted<'_>) -> anyhow::Result<Response> {
        let response = self.http.send(wanted.ask(self.authorization.as_ref())).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // THREAT[T-supply-registry]: a login is nobody's to read on the way, whatever else may go without TLS.
        let login = match is_private(&self.base) {
            true => credentials::find(&self.registry).await?,
            false => None,
        };
        self.authorization = Some(self.authorize(&response, login.as_ref()).await?);
        let response = self.http.send(wanted.ask(self.authorization.as_ref())).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            bail!("{}", self.refused(login.as_ref()));
        }
        Ok(response)
    }

    /// What the registry asks for, got.
    async fn authorize(&self, response: &Response, login: Option<&Credentials>) -> anyhow::Result<HeaderValue> {
        let challenge = text_of(response.headers().get(header::WWW_AUTHENTICATE));
        let challenges = http_auth::parse_challenges(&challenge).unwrap_or_default();
        for challenge in &challenges {
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let param = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                let realm =
                    param("realm").with_context(|| format!("{} does not say who gives tokens", self.registry))?;
                let token = self.token(&realm, param("service"), param("scope"), login).await?;
                return sensitive(&format!("Bearer {}", token.expose_secret()));
            }
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                let login = login.with_context(|| self.refused(None))?;
                return sensitive(&basic(login));
            }
        }
        bail!("{} asks for a login of a kind that is not known", self.registry);
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
        login: Option<&Credentials>,
    ) -> anyhow::Result<SecretString> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(alias = "access_token")]
            token: Option<String>,
        }
        let mut url: Url = realm
            .parse()
            .with_context(|| format!("{} does not say who gives tokens", self.registry))?;
        // THREAT[T-supply-registry]: a registry that is reached over TLS can't have a token asked for without, nor any one have a login sent so.
        ensure!(
            may_be_asked_for_a_token(&self.base, &url, login.is_some()),
            "{} has its tokens given out by {}, which is not https; the login was not sent there",
            self.registry,
            shown(&url)
        );
        // One token for all of it: not every registry asks for more when a first one allows too little.
        let scope = match self.access {
            Access::Read => scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository)),
            Access::Write => format!("repository:{}:pull,push", self.repository),
        };
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", &service);
        }
        let mut ask = Ask::get(url.clone(), Redirects::Within);
        if let Some(login) = login {
            ask.headers.insert(header::AUTHORIZATION, sensitive(&basic(login))?);
        }
        let response = self.http.send(ask).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => bail!("{}", self.refused(login)),
            other => bail!("{} answered {other} when it was asked for a token", shown(&url)),
        }
        let answer = body(response, LARGEST_TOKEN, "the token").await?;
        let answer: Result<Answer, _> = serde_json::from_slice(&answer);
        answer
            .ok()
            .and_then(|answer| answer.token.map(SecretString::from))
            .with_context(|| format!("{} answered with no token", shown(&url)))
    }

    /// Why nobody is let in.
    fn refused(&self, login: Option<&Credentials>) -> String {
        let registry = &self.registry;
        match login {
            Some(login) => format!(
                "{registry} refuses the login of `{}` (from {}); log in again, for example with `docker login {registry}`",
                login.user, login.from
            ),
            None if !is_private(&self.base) => format!(
                "{registry} asks for a login, and is reached without TLS, where none is sent; use https, so leave --plain-http out"
            ),
            None => format!(
                "{registry} asks for a login, and there is none; log in with `docker login {registry}` or `podman login {registry}`, or set {}",
                credentials::VARIABLE
            ),
        }
    }

    fn expect(&self, response: &Response, wanted: StatusCode, what: &str) -> anyhow::Result<()> {
        let (registry, repository) = (&self.registry, &self.repository);
        match response.status() {
            status if status == wanted => Ok(()),
            StatusCode::FORBIDDEN => {
                bail!("{registry} refuses {what} of {repository} to this login; ask whoever runs it for access")
            }
            StatusCode::NOT_FOUND => bail!("{registry} has no {repository}, or not {what} of it"),
            StatusCode::TOO_MANY_REQUESTS => {
                bail!("{registry} takes no more requests just now; try again later, or log in")
            }
            status if status.is_server_error() => {
                bail!("{registry} answered {status} when it was asked for {what}; try again later")
            }
            status => bail!("{registry} answered {status} when it was asked for {what} of {repository}"),
        }
    }
}

impl<'a> Wanted<'a> {
    fn get(url: Url, accept: &'static str, redirects: Redirects) -> Self {
        Self {
            method: Method::GET,
            url,
            accept,
            content: None,
            redirects,
        }
    }

    fn ask(&self, authorization: Option<&HeaderValue>) -> Ask {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(self.accept));
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(kind) = self
            .content
            .as_ref()
            .and_then(|(kind, _)| HeaderValue::from_str(kind).ok())
        {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        Ask {
            method: self.method.clone(),
            url: self.url.clone(),
            headers,
            body: self.content.as_ref().map(|(_, bytes)| bytes.clone()),
            redirects: self.redirects,
        }
    }
}

/// Whether whoever gives a registry's tokens may be asked for one there.
fn may_be_asked_for_a_token(registry: &Url, realm: &Url, with_login: bool) -> bool {
    match registry.scheme() {
        "http" => !with_login || is_private(realm),
        _ => realm.scheme() == "https",
    }
}

fn basic(login: &Credentials) -> String {
    let pair = format!("{}:{}", login.user, login.password.expose_secret());
    format!("Basic {}", STANDARD.encode(pair))
}

fn sensitive(value: &str) -> anyhow::Result<HeaderValue> {
    let mut value =
        HeaderValue::from_str(value).map_err(|_| anyhow::anyhow!("the login or token can't be sent in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn text_of(value: Option<&HeaderValue>) -> String {
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_sent_to_whoever_gives_tokens_only_where_nobody_reads_it_on_the_way() {
        let may = |registry: &str, realm: &str, with_login| {
            may_be_asked_for_a_token(&registry.parse().unwrap(), &realm.parse().unwrap(), with_login)
        };
        for with_login in [true, false] {
            assert!(may("https://r.example", "https://auth.example/token", with_login));
            assert!(!may("https://r.example", "http://auth.example/token", with_login));
            assert!(!may("https://r.example", "http://127.0.0.1/token", with_login));
            assert!(may("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", with_login));
            assert!(may("http://r.example", "https://auth.example/token", with_login));
        }
        for registry in ["http://127.0.0.1:5000", "http://r.example"] {
            assert!(!may(registry, "http://auth.example/token", true), "{registry}");
            assert!(may(registry, "http://auth.example/token", false), "{registry}");
        }
    }
}
