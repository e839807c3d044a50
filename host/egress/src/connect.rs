//! A connection to a checked address: resolve once, check every address, connect to one of those, TLS by the name.
//!
//! No proxy is supported, so no proxy variable is read. TLS sessions are not resumed: a ticket would link orgs.

use crate::{
    body::RequestBody,
    config::{EgressConfig, Resolver, Wire},
    error::{EgressError, Wait},
    resolve::{Resolve, SystemResolver},
};
use async_trait::async_trait;
use fumehood_policy::{
    address::{PrivateNetworks, check_address},
    network::{Host, NetworkPolicy, Scheme, Target},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 8;
/// How long one attempt has before the next address is tried beside it (RFC 8305).
const HEAD_START: Duration = Duration::from_millis(250);
/// The largest head of an answer, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Stands where a stream was given and there is no address.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Why the door could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the door can't be set up: {0}")]
pub struct SetupError(#[from] rustls::Error);

/// A stream of bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for S {}

/// Gives the streams that stand for connections, where no network is to be used.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// A stream that speaks HTTP/1.1 for `target`, as after TLS where its scheme has it. The door bounds the wait, and
    /// dropping the future gives it up.
    ///
    /// # Errors
    /// As a connection fails: the kind of the error is what the tool is told.
    async fn dial(&self, target: &Target) -> io::Result<Box<dyn Duplex>>;
}

/// A connection that carries one exchange at a time. Dropping it closes it.
pub(crate) struct Link {
    pub(crate) sender: SendRequest<RequestBody>,
    pub(crate) address: IpAddr,
    /// Drives the connection; ends with it.
    driver: AbortHandle,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Makes connections.
pub(crate) struct Connector {
    resolver: Arc<dyn Resolve>,
    wire: Wire,
    private: PrivateNetworks,
    tls: TlsConnector,
    dns_timeout: Duration,
    connect_timeout: Duration,
}

impl Connector {
    pub(crate) fn new(config: &EgressConfig) -> Result<Self, SetupError> {
        let resolver = match &config.resolver {
            Resolver::System => Arc::new(SystemResolver::new()),
            Resolver::Custom(resolver) => resolver.clone(),
        };
        Ok(Self {
            resolver,
            wire: config.wire.clone(),
            private: config.private_networks.clone(),
            tls: TlsConnector::from(Arc::new(tls_config(&config.extra_roots)?)),
            dns_timeout: config.dns_timeout,
            connect_timeout: config.connect_timeout,
        })
    }

    /// Whether the address is this very machine's, and the operator listed it: a test host.
    pub(crate) fn is_listed_loopback(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback() && check_address(address, &self.private).is_ok()
    }

    /// Connects to an address of the target's host that is checked, and that no layer of the policy denies. Cancel-safe.
    // THREAT[T-net-proxy-env]: the only way to a connection; no environment variable is read on it.
    pub(crate) async fn connect(&self, target: &Target, policy: &NetworkPolicy) -> Result<Link, EgressError> {
        let addresses = self.checked_addresses(target.host()).await?;
        // THREAT[T-net-rule-bypass]: a denied address is denied under every name.
        for address in &addresses {
            let checked = policy.check_resolved(target, *address);
            checked.map_err(|denial| EgressError::Denied { reason: denial.message })?;
        }
        let limit = self.connect_timeout;
        timeout(limit, self.dial(target, &addresses))
            .await
            .unwrap_or(Err(EgressError::Timeout {
                wait: Wait::Connect,
                limit,
            }))
    }

    // THREAT[T-net-ssrf] THREAT[T-net-rebinding]: the name is resolved here and nowhere else, each of its
    // addresses is checked, and the connection goes to one of the very addresses that were checked.
    async fn checked_addresses(&self, host: &Host) -> Result<Vec<IpAddr>, EgressError> {
        let unresolved = |reason: String| EgressError::Resolve {
            host: host.to_string(),
            reason,
        };
        let addresses = match host {
            Host::Ip(address) => vec![*address],
            Host::Name(name) => {
                let limit = self.dns_timeout;
                timeout(limit, self.resolver.resolve(name.as_str()))
                    .await
                    .map_err(|_| EgressError::Timeout {
                        wait: Wait::Resolve,
                        limit,
                    })?
                    .map_err(|error| unresolved(error.to_string()))?
            }
        };
        if addresses.is_empty() {
            return Err(unresolved("it has no addresses".to_owned()));
        }
        for address in &addresses {
            // One address that is refused refuses the name: a mixed answer is how rebinding looks.
            check_address(*address, &self.private).map_err(|refusal| {
                tracing::debug!(%host, %address, kind = refusal.kind, "an address was refused");
                EgressError::PrivateAddress {
                    host: host.to_string(),
                    kind: refusal.kind,
                }
            })?;
        }
        Ok(addresses)
    }

    async fn dial(&self, target: &Target, addresses: &[IpAddr]) -> Result<Link, EgressError> {
        let refused = |error: io::Error| EgressError::Connect {
            host: target.host().to_string(),
            port: target.port(),
            reason: io_reason(&error),
        };
        if let Wire::Given(dial) = &self.wire {
            let stream = dial.dial(target).await.map_err(refused)?;
            return drive(stream, addresses.first().copied().unwrap_or(NO_ADDRESS)).await;
        }
        let stream = first_to_connect(addresses, target.port()).await.map_err(refused)?;
        let address = stream.peer_addr().map_err(|error| protocol(&error))?.ip();
        // Small requests must not wait for the acknowledgement of the previous segment.
        stream.set_nodelay(true).map_err(|error| protocol(&error))?;
        match target.scheme() {
            Scheme::Http => drive(stream, address).await,
            Scheme::Https => {
                let name = match target.host() {
                    Host::Ip(address) => ServerName::from(*address),
                    Host::Name(name) => {
                        ServerName::try_from(name.as_str().to_owned()).map_err(|_| EgressError::Certificate {
                            host: target.host().to_string(),
                            reason: "the name can't stand in a certificate".to_owned(),
                        })?
                    }
                };
                let stream = self.tls.connect(name, stream).await;
                drive(stream.map_err(|error| tls_failure(target, &error))?, address).await
            }
        }
    }
}

fn tls_config(extra_roots: &[CertificateDer<'static>]) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    for root in extra_roots {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The first connection that any address takes. Each address gets a head start on the next; a failure starts the
/// next at once.
async fn first_to_connect(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().take(MAX_ADDRESSES);
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(TcpStream::connect(SocketAddr::new(*address, port)));
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        let more = waiting.len() > 0;
        tokio::select! {
            Some(done) = attempts.next() => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => last_error = error,
            },
            () = sleep(HEAD_START), if more => {}
        }
    }
}

async fn drive<S>(stream: S, address: IpAddr) -> Result<Link, EgressError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .max_buf_size(2 * MAX_HEAD)
        .handshake(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(|_| EgressError::Protocol {
        reason: "the connection broke".to_owned(),
    })?;
    let driver = tokio::spawn(async move {
        // What breaks a connection is told to the exchange it carries; between exchanges nobody needs to know.
        let _ = connection.await;
    });
    Ok(Link {
        sender,
        address,
        driver: driver.abort_handle(),
    })
}

fn protocol(error: &io::Error) -> EgressError {
    EgressError::Protocol {
        reason: io_reason(error),
    }
}

/// The kind of an I/O error in words; its full text may hold an address.
fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "the connection was refused".to_owned(),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "it can't be reached".to_owned(),
        kind => kind.to_string(),
    }
}

fn tls_failure(target: &Target, error: &io::Error) -> EgressError {
    let host = target.host().to_string();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => EgressError::Certificate {
            host,
            reason: "its certificate is by an authority that this host does not know; the operator can name one of their own under \
                     `certificate_authorities` in [network]"
                .to_owned(),
        },
        Some(rustls::Error::InvalidCertificate(kind)) => EgressError::Certificate {
            host,
            reason: format!("its certificate is not valid: {kind}"),
        },
        Some(other) => EgressError::Tls {
            host,
            reason: other.to_string(),
        },
        None => EgressError::Tls {
            host,
            reason: io_reason(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loopback_address_that_is_listed_is_a_test_host() {
        let connector = Connector::new(&EgressConfig {
            private_networks: PrivateNetworks(vec!["10.0.0.0/8".parse().unwrap(), "127.0.0.0/16".parse().unwrap()]),
            ..EgressConfig::default()
        })
        .unwrap();
        let listed = |address: &str| connector.is_listed_loopback(address.parse().unwrap());
        assert!(listed("127.0.0.1"));
        assert!(listed("::ffff:127.0.0.1"));
        // The operator's own network, where others may listen.
        assert!(!listed("10.1.2.3"));
        assert!(!listed("127.1.0.1"));
        assert!(!listed("1.1.1.1"));
    }
}
