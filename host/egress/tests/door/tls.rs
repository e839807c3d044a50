//! TLS: verified by the name that was asked for.

use crate::support::{SECRET, Seen, World, allow, answer, serve, text};
use fumehood_egress::{CertificateDer, EgressError};
use fumehood_policy::credential::Injection;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    future::ready,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct TlsServer {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl TlsServer {
    async fn start(name: &str) -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
        let certificate = cert.der().clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = config
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log) = (acceptor.clone(), log.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let echo = |seen: Seen| ready(answer(format!("{:?}", seen.header("authorization"))));
                        serve(stream, Arc::new(echo), log).await;
                    }
                });
            }
        });
        Self {
            address,
            certificate,
            seen,
        }
    }

    fn world(&self) -> World {
        let root = self.certificate.clone();
        World::with(|config| config.extra_roots = vec![root])
    }

    fn url(&self, name: &str) -> String {
        format!("https://{name}:{}/", self.address.port())
    }
}

#[tokio::test]
async fn a_credential_goes_over_https_and_its_echo_is_redacted() {
    let server = TlsServer::start("api.example.com").await;
    let inject = Injection::header("authorization", "Bearer {}").unwrap();
    let grant = allow(&["https://api.example.com:*"])
        .credential("TOKEN", SECRET, "api.example.com", inject)
        .make();
    let world = server.world();
    for _ in 0..2 {
        let response = world.get(&grant, &server.url("api.example.com")).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "Some(\"Bearer [secret:TOKEN]\")");
    }
    assert_eq!(
        server.seen.lock().unwrap()[0].header("authorization"),
        Some(&*format!("Bearer {SECRET}"))
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = TlsServer::start("other.example.com").await;
    let grant = allow(&["https://api.example.com:*"]).make();
    let failed = server
        .world()
        .get(&grant, &server.url("api.example.com"))
        .await
        .unwrap_err();
    assert!(
        matches!(&failed, EgressError::Certificate { reason, .. } if reason.contains("certificate")),
        "{failed}"
    );
    assert!(server.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_nobody_vouches_for_is_refused() {
    let server = TlsServer::start("api.example.com").await;
    let grant = allow(&["https://api.example.com:*"]).make();
    let failed = World::new()
        .get(&grant, &server.url("api.example.com"))
        .await
        .unwrap_err();
    assert!(
        matches!(&failed, EgressError::Certificate { reason, .. } if reason.contains("`certificate_authorities` in [network]")),
        "{failed}"
    );
}

#[tokio::test]
async fn an_address_in_the_url_is_verified_as_an_address() {
    let server = TlsServer::start("127.0.0.1").await;
    let grant = allow(&["https://127.0.0.1:*"]).make();
    assert!(server.world().get(&grant, &server.url("127.0.0.1")).await.is_ok());
    let other = TlsServer::start("api.example.com").await;
    assert!(matches!(
        other.world().get(&grant, &other.url("127.0.0.1")).await,
        Err(EgressError::Certificate { .. })
    ));
}
