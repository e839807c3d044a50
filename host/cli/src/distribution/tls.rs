//! Whether a server speaks TLS, found out by beginning to speak it. Nothing is sent to it but that.

use anyhow::Context as _;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider, pki_types::ServerName};
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// How long a server on this machine may take to say that it speaks TLS. One that waits for the end of a line says nothing at all.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whether it does. Who it is, and whether that can be trusted, is not asked here.
///
/// # Errors
/// When TLS can't be set up on this machine.
pub(super) async fn is_spoken_by(host: &str, port: u16) -> anyhow::Result<bool> {
    // Of a server that is trusted by nobody no certificate is good, and that it has one shows what it speaks.
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let server = ServerName::try_from(name.clone()).context("the server's name can't stand in a certificate")?;
    let handshake = async {
        let stream = TcpStream::connect((name.as_str(), port)).await?;
        TlsConnector::from(Arc::new(config)).connect(server, stream).await
    };
    Ok(match timeout(PATIENCE, handshake).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => is_of_tls(&error),
        Err(_) => false,
    })
}

/// Whether a handshake failed at what the other side said in TLS, and not at that it said something else, or nothing.
fn is_of_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    !matches!(inner, None | Some(rustls::Error::InvalidMessage(_)))
}
