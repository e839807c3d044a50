//! HTTP towards registries and web servers, bounded in every direction.
//!
//! A redirect is followed only where the caller allows it, never from https to http, and never with a credential to another origin. A body
//! is read as far as it may go and no further. What stands in a URL's query is in no message.

use super::tls;
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{self, HeaderMap},
    redirect::Policy,
};
use std::{error::Error as _, net::IpAddr, time::Duration};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a whole exchange may take, with a component's bytes in it.
const WHOLE: Duration = Duration::from_secs(15 * 60);
const MOST_REDIRECTS: usize = 5;
const HTTPS: u16 = 443;
/// What the cause of a failed connection begins with where the other side is not who it says: the words of `rustls`.
const DISTRUSTED: &str = "invalid peer certificate";

/// Where requests may go without TLS: to this machine, and to the servers that somebody named for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PlainHttp {
    /// Each with its port.
    servers: Vec<String>,
}

impl PlainHttp {
    /// Also to this server: a host, perhaps with a port.
    pub(crate) fn to(mut self, server: &str) -> anyhow::Result<Self> {
        let url: Option<Url> = format!("http://{server}/").parse().ok();
        let named = url.filter(|url| url.path() == "/" && url.username().is_empty() && url.query().is_none());
        let server = named.and_then(|url| server_of(&url)).with_context(|| {
            format!("`{server}` is no server; write its host, and its port if it has one: registry.example:5000")
        })?;
        self.servers.push(server);
        Ok(self)
    }

    fn allows(&self, url: &Url) -> bool {
        url.host_str().is_some_and(is_loopback) || self.names(url)
    }

    fn names(&self, url: &Url) -> bool {
        server_of(url).is_some_and(|server| self.servers.contains(&server))
    }
}

/// Host and port.
fn server_of(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Where a redirect may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Redirects {
    /// Nowhere but within the origin.
    Within,
    /// Elsewhere, too, but with no credential.
    Elsewhere,
}

/// A request.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    /// Those for the origin; of them, `authorization` stays with it.
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    pub(super) redirects: Redirects,
}

impl Ask {
    /// A request without a body.
    pub(super) fn get(url: Url, redirects: Redirects) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: None,
            redirects,
        }
    }
}

/// Sends requests.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    /// For requests with a body: while that is on its way, a server has nothing to send.
    uploading: reqwest::Client,
    plain: PlainHttp,
}

impl Http {
    /// `silence`: how long a server may send nothing, unless something is sent to it.
    pub(super) fn new(plain: PlainHttp, silence: Duration) -> anyhow::Result<Self> {
        let client = || {
            reqwest::Client::builder()
                .redirect(Policy::none())
                .connect_timeout(CONNECT.min(silence))
                .timeout(WHOLE)
                .user_agent(concat!("fumehood/", env!("CARGO_PKG_VERSION")))
        };
        let built = |client: reqwest::ClientBuilder| client.build().context("cannot set up HTTP");
        Ok(Self {
            client: built(client().read_timeout(silence))?,
            uploading: built(client())?,
            plain,
        })
    }

    /// `https` or, where that is allowed, `http`: how a registry is reached. One on this machine, of which nobody said that it speaks plain
    /// http, is asked: it may well have TLS.
    pub(super) async fn scheme_of(&self, registry: &str) -> anyhow::Result<&'static str> {
        let address = |scheme: &str| format!("{scheme}://{registry}/").parse::<Url>();
        let (Ok(plain), Ok(secure)) = (address("http"), address("https")) else {
            return Ok("https");
        };
        if self.plain.names(&plain) {
            return Ok("http");
        }
        let Some(host) = secure.host_str().filter(|host| is_loopback(host)) else {
            return Ok("https");
        };
        let port = secure.port_or_known_default().unwrap_or(HTTPS);
        Ok(match tls::is_spoken_by(host, port).await? {
            true => "https",
            false => "http",
        })
    }

    /// Sends it, and follows where it may be redirected. Any status but a redirect is the caller's to judge.
    pub(super) async fn send(&self, ask: Ask) -> anyhow::Result<Response> {
        let Ask {
            method,
            mut url,
            mut headers,
            body,
            redirects,
        } = ask;
        for _ in 0..=MOST_REDIRECTS {
            self.check(&url)?;
            let client = match &body {
                Some(body) if !body.is_empty() => &self.uploading,
                _ => &self.client,
            };
            let mut request = client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            let response = request.send().await.map_err(|error| failed(&url, &error))?;
            if !is_redirect(response.status()) {
                return Ok(response);
            }
            let next = target(&url, &response)?;
            let same = next.origin() == url.origin();
            ensure!(
                same || redirects == Redirects::Elsewhere,
                "{} redirects to {}, which is another server; it is not asked in its place",
                shown(&url),
                shown(&next)
            );
            // THREAT[T-supply-registry]: neither does a redirect take TLS away, nor a credential along.
            ensure!(
                next.scheme() == url.scheme() || next.scheme() == "https",
                "{} redirects to {}, which is not https; what comes from there could be anybody's",
                shown(&url),
                shown(&next)
            );
            if !same {
                headers.remove(header::AUTHORIZATION);
            }
            url = next;
        }
        bail!("{} redirects more than {MOST_REDIRECTS} times", shown(&url));
    }

    fn check(&self, url: &Url) -> anyhow::Result<()> {
        // THREAT[T-supply-registry]: what was said of one server says nothing of another, also where that one redirects to it.
        match url.scheme() {
            "https" => Ok(()),
            "http" if self.plain.allows(url) => Ok(()),
            "http" => bail!(
                "{} is plain http, where anybody between can put something else in its place; use https, or say that you mean it with \
                 --plain-http={}",
                shown(url),
                url.authority()
            ),
            other => bail!("{} is neither https nor http but {other}", shown(url)),
        }
    }
}

/// A whole body.
pub(super) async fn body(mut response: Response, most: u64, what: &str) -> anyhow::Result<Vec<u8>> {
    let url = response.url().clone();
    // THREAT[T-supply-registry]: a body counts as it comes, whatever was said of its length.
    let too_large = || {
        format!(
            "{what} from {} is larger than the {most} bytes that are allowed; nothing of it was kept",
            shown(&url)
        )
    };
    ensure!(
        response.content_length().is_none_or(|length| length <= most),
        too_large()
    );
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&url, &error))? {
        ensure!((bytes.len() + chunk.len()) as u64 <= most, too_large());
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// A URL without its query, in which may be a key to what it names.
pub(super) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.into()
}

fn target(from: &Url, response: &Response) -> anyhow::Result<Url> {
    let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
    location
        .and_then(|to| from.join(to).ok())
        .with_context(|| format!("{} redirects to nowhere", shown(from)))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether nobody between can read what is sent there.
pub(super) fn is_private(url: &Url) -> bool {
    url.scheme() == "https" || url.host_str().is_some_and(is_loopback)
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What went wrong on the way, in words.
fn failed(url: &Url, error: &reqwest::Error) -> anyhow::Error {
    let place = shown(url);
    if error.is_timeout() {
        return anyhow::anyhow!(
            "{place} did not answer in time; try again, or raise `timeout` in [tools] if it is only slow"
        );
    }
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    let cause = cause.map(ToString::to_string).unwrap_or_default();
    if let Some(fault) = cause.strip_prefix(DISTRUSTED) {
        let fault = fault.trim_start_matches([':', ' ']);
        return anyhow::anyhow!(
            "{place} has a certificate that is not trusted ({fault}), and nothing was sent there. If it is by an authority of your own, add that \
             to the certificates of this machine, or have SSL_CERT_FILE name a file with all that count; else it may be somebody else's server"
        );
    }
    let why = match cause.is_empty() {
        true => String::new(),
        false => format!(" ({cause})"),
    };
    if error.is_connect() {
        anyhow::anyhow!("{place} can't be reached{why}; check its name, and that it is up")
    } else {
        anyhow::anyhow!("the connection to {place} broke{why}; try again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(plain: PlainHttp) -> Http {
        Http::new(plain, Duration::from_secs(1)).unwrap()
    }

    #[tokio::test]
    async fn plain_http_goes_to_this_machine_and_to_servers_that_were_named_only() {
        let careful = http(PlainHttp::default());
        for (url, allowed) in [
            ("https://a.example/x", true),
            ("http://127.0.0.1:5000/x", true),
            ("http://[::1]/x", true),
            ("http://localhost/x", true),
            ("http://localhost.a.example/x", false),
            ("http://10.0.0.1/x", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(careful.check(&url.parse().unwrap()).is_ok(), allowed, "{url}");
        }
        let named = PlainHttp::default().to("10.0.0.1:5000").unwrap();
        let named = http(named.to("files.example").unwrap());
        for (url, allowed) in [
            ("http://10.0.0.1:5000/x", true),
            ("http://10.0.0.1/x", false),
            ("http://files.example:80/x", true),
            ("http://files.example:5000/x", false),
            ("http://other.example/x", false),
        ] {
            assert_eq!(named.check(&url.parse().unwrap()).is_ok(), allowed, "{url}");
        }
        assert_eq!(named.scheme_of("10.0.0.1:5000").await.unwrap(), "http");
        assert_eq!(named.scheme_of("ghcr.io").await.unwrap(), "https");
        for no_server in ["", "a/b", "u:p@a.example", "a.example?x", "https://a.example"] {
            assert!(PlainHttp::default().to(no_server).is_err(), "{no_server}");
        }
        assert_eq!(careful.scheme_of("ghcr.io").await.unwrap(), "https");
    }

    /// A server that says this to everybody, however they begin, and its name.
    async fn saying(words: &'static [u8]) -> (String, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = format!("localhost:{}", listener.local_addr().unwrap().port());
        let task = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut read = [0; 4096];
                let _ = stream.read(&mut read).await;
                let _ = stream.write_all(words).await;
            }
        });
        (name, task)
    }

    #[tokio::test]
    async fn a_registry_on_this_machine_is_spoken_to_as_it_speaks() {
        let careful = http(PlainHttp::default());
        let plain = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        // An alert that the versions don't fit, as one that speaks TLS says it.
        let secure = b"\x15\x03\x03\x00\x02\x02\x46";
        for (words, scheme) in [(&plain[..], "http"), (b"", "http"), (secure, "https")] {
            let (name, task) = saying(words).await;
            assert_eq!(careful.scheme_of(&name).await.unwrap(), scheme, "{words:?}");
            task.abort();
        }
        let (name, task) = saying(secure).await;
        let named = http(PlainHttp::default().to(&name).unwrap());
        assert_eq!(named.scheme_of(&name).await.unwrap(), "http", "who says so means it");
        task.abort();
        let _ = task.await;
        assert_eq!(careful.scheme_of(&name).await.unwrap(), "http", "nobody is there");
    }

    #[test]
    fn only_tls_and_this_machine_are_private() {
        for (url, private) in [
            ("https://a.example/x", true),
            ("http://127.0.0.1:5000/x", true),
            ("http://[::1]/x", true),
            ("http://10.0.0.1/x", false),
            ("http://a.example/x", false),
        ] {
            assert_eq!(is_private(&url.parse().unwrap()), private, "{url}");
        }
    }

    #[tokio::test]
    async fn an_upload_may_take_longer_than_a_server_may_be_silent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("http://{}/x", listener.local_addr().unwrap()).parse().unwrap();
        // Takes all that comes, and answers in three times the time that it may be silent.
        let slow = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut read = [0; 4096];
                    let _ = stream.read(&mut read).await.unwrap();
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    let _ = stream
                        .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
                        .await;
                });
            }
        });
        let http = http(PlainHttp::default());
        let upload = Ask {
            method: Method::PUT,
            body: Some(Bytes::from_static(b"component")),
            ..Ask::get(url.clone(), Redirects::Within)
        };
        assert_eq!(http.send(upload).await.unwrap().status(), StatusCode::CREATED);
        let silent = http
            .send(Ask::get(url, Redirects::Within))
            .await
            .unwrap_err()
            .to_string();
        assert!(silent.contains("did not answer in time"), "{silent}");
        slow.abort();
    }

    #[tokio::test]
    async fn a_server_whose_certificate_nobody_vouches_for_is_said_to_be_that_and_gets_nothing() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = config
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/x", listener.local_addr().unwrap().port());
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.accept(stream).await.is_ok()
        });
        let ask = Ask::get(url.parse().unwrap(), Redirects::Within);
        let told = http(PlainHttp::default()).send(ask).await.unwrap_err().to_string();
        assert!(
            told.contains("a certificate that is not trusted (UnknownIssuer)"),
            "{told}"
        );
        assert!(told.contains("SSL_CERT_FILE"), "{told}");
        assert!(!server.await.unwrap(), "it was spoken to");
    }

    #[test]
    fn what_a_url_may_hide_is_in_no_message() {
        let url = "https://u:p@a.example/x?signature=secret#y".parse().unwrap();
        assert_eq!(shown(&url), "https://a.example/x#y");
    }
}
