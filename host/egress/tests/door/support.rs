//! A world for one test: a door, a ledger in memory, names that resolve as told, servers on loopback.

use async_trait::async_trait;
use bytes::Bytes;
use fumehood_core::{
    id::{CallId, LedgerId},
    ledger::{EgressOutcome, EgressScope, LedgerEntry},
    name::{ComponentName, OrgName, SecretName, ToolName},
};
use fumehood_egress::{
    Body, BoundCredential, Egress, EgressConfig, EgressError, EgressGrant, EgressLimits, LeakGuard, Ledger,
    LedgerError, RequestBudget, Resolve, ResolveError, Resolver, Settlement, empty_body,
};
use fumehood_policy::{
    address::PrivateNetworks,
    credential::{Credential, Injection},
    network::{Layer, NetworkList, NetworkPolicy},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

pub(crate) const SECRET: &str = "s3cr3t/V4lue+with=odd&chars";

// --- the ledger ---

#[derive(Default)]
pub(crate) struct MemoryLedger {
    pub(crate) entries: Mutex<Vec<LedgerEntry>>,
    pub(crate) broken: AtomicBool,
    /// How many more times settling fails.
    pub(crate) refuse_settlements: AtomicUsize,
}

impl MemoryLedger {
    pub(crate) fn entries(&self) -> Vec<LedgerEntry> {
        self.entries.lock().unwrap().clone()
    }

    pub(crate) fn only(&self) -> LedgerEntry {
        let entries = self.entries();
        assert_eq!(entries.len(), 1, "{entries:#?}");
        entries[0].clone()
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn open(&self, entry: &LedgerEntry) -> Result<(), LedgerError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(LedgerError("the disk is full".to_owned()));
        }
        self.entries.lock().unwrap().push(entry.clone());
        Ok(())
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<(), LedgerError> {
        let left = &self.refuse_settlements;
        if left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(LedgerError("the database is locked".to_owned()));
        }
        let mut entries = self.entries.lock().unwrap();
        for settlement in settlements {
            let by_id = |id: LedgerId| move |entry: &&mut LedgerEntry| entry.id == id;
            let entry = entries.iter_mut().find(by_id(settlement.id)).unwrap();
            assert_eq!(entry.outcome, EgressOutcome::Started, "settled twice");
            entry.outcome = settlement.outcome.clone();
            entry.address = settlement.address;
            entry.bytes_sent = settlement.bytes_sent;
            entry.bytes_received = settlement.bytes_received;
            entry.duration_ms = settlement.duration_ms;
            entry.shapes.clone_from(&settlement.shapes);
        }
        Ok(())
    }
}

// --- names ---

/// Each question takes the next answer; the last one stays.
#[derive(Default)]
pub(crate) struct Names {
    answers: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    pub(crate) asked: AtomicUsize,
}

impl Names {
    pub(crate) fn set(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers
            .iter()
            .map(|answer| answer.iter().map(|a| a.parse().unwrap()).collect())
            .collect();
        self.answers.lock().unwrap().insert(name.to_owned(), answers);
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        match answers.get_mut(name) {
            Some(queue) if queue.len() > 1 => Ok(queue.remove(0)),
            Some(queue) => Ok(queue[0].clone()),
            None => Err(ResolveError("no such name".to_owned())),
        }
    }
}

// --- the world ---

pub(crate) struct World {
    pub(crate) egress: Egress,
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) names: Arc<Names>,
}

impl World {
    /// Loopback is listed in `private_networks`.
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut EgressConfig)) -> Self {
        let (ledger, names) = (Arc::new(MemoryLedger::default()), Arc::new(Names::default()));
        names.set("api.example.com", &[&["127.0.0.1"]]);
        names.set("other.example.com", &[&["127.0.0.1"]]);
        let mut config = EgressConfig {
            private_networks: PrivateNetworks(vec!["127.0.0.0/8".parse().unwrap()]),
            resolver: Resolver::Custom(names.clone()),
            ..EgressConfig::default()
        };
        change(&mut config);
        let egress = Egress::new(&config, ledger.clone()).unwrap();
        Self { egress, ledger, names }
    }

    pub(crate) async fn get(&self, grant: &EgressGrant, url: &str) -> Result<Response<Body>, EgressError> {
        self.egress.send(grant, get(url)).await
    }

    /// The ledger's only entry once all that is over is settled.
    pub(crate) async fn settled(&self) -> LedgerEntry {
        self.egress.flush().await;
        self.ledger.only()
    }
}

pub(crate) fn get(url: &str) -> Request<Body> {
    Request::get(url).body(empty_body()).unwrap()
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of these chunks, of unknown length.
pub(crate) fn chunks(chunks: Vec<Bytes>) -> Body {
    let frames = chunks.into_iter().map(|chunk| Ok(http_body::Frame::data(chunk)));
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

pub(crate) async fn text(response: Response<Body>) -> Result<String, EgressError> {
    Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec()).unwrap())
}

// --- grants ---

pub(crate) struct Grant {
    allow: Vec<String>,
    org: &'static str,
    credentials: Vec<BoundCredential>,
    secrets: Vec<(SecretName, SecretString)>,
    body_in: u64,
    body_out: u64,
    requests: u32,
    deny: Vec<String>,
}

pub(crate) fn allow(rules: &[&str]) -> Grant {
    Grant {
        allow: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        org: "default",
        credentials: Vec::new(),
        secrets: Vec::new(),
        body_in: 1 << 20,
        body_out: 1 << 20,
        requests: 100,
        deny: Vec::new(),
    }
}

/// Everything on loopback and the two example names.
pub(crate) fn open() -> Grant {
    allow(&[
        "http://127.0.0.1:*",
        "http://api.example.com:*",
        "http://other.example.com:*",
    ])
}

impl Grant {
    pub(crate) fn org(mut self, org: &'static str) -> Self {
        self.org = org;
        self
    }

    pub(crate) fn limits(mut self, body_in: u64, body_out: u64, requests: u32) -> Self {
        (self.body_in, self.body_out, self.requests) = (body_in, body_out, requests);
        self
    }

    pub(crate) fn deny(mut self, rule: &str) -> Self {
        self.deny.push(rule.to_owned());
        self
    }

    /// A secret that the call is not to see, without a credential.
    pub(crate) fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.push((SecretName::new(name).unwrap(), value.into()));
        self
    }

    /// A credential whose value the guard doesn't know.
    pub(crate) fn unguarded(mut self, secret: &str, value: &str, host: &str, inject: Injection) -> Self {
        let secret = SecretName::new(secret).unwrap();
        let credential = Credential {
            secret,
            hosts: vec![host.parse().unwrap()],
            inject,
        };
        self.credentials.push(BoundCredential {
            credential,
            value: value.into(),
        });
        self
    }

    pub(crate) fn credential(self, secret: &str, value: &str, host: &str, inject: Injection) -> Self {
        self.secret(secret, value).unguarded(secret, value, host, inject)
    }

    /// `TOKEN` = [`SECRET`] as `authorization: Bearer` towards `api.example.com`.
    pub(crate) fn bearer(self) -> Self {
        let inject = Injection::header("authorization", "Bearer {}").unwrap();
        self.credential("TOKEN", SECRET, "api.example.com", inject)
    }

    pub(crate) fn make(self) -> EgressGrant {
        let rules = self.allow.iter().map(|rule| rule.parse().unwrap()).collect();
        let list = NetworkList {
            allow: Some(rules),
            deny: self.deny.iter().map(|rule| rule.parse().unwrap()).collect(),
        };
        EgressGrant {
            scope: EgressScope {
                org: OrgName::new(self.org).unwrap(),
                session: None,
                turn: None,
                call: CallId::new(),
                tool: ToolName::new("fetch").unwrap(),
                component: ComponentName::new("http").unwrap(),
            },
            policy: Arc::new(NetworkPolicy {
                layers: vec![(Layer::Grant, list)],
            }),
            guard: LeakGuard::new(self.secrets.iter().map(|(name, value)| (name.clone(), value))),
            credentials: self.credentials.into(),
            limits: EgressLimits {
                body_in: self.body_in,
                body_out: self.body_out,
                requests: Arc::new(RequestBudget::new(self.requests)),
            },
        }
    }
}

// --- servers ---

/// What a server saw of one request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) fn answer(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).boxed_unsync())
}

/// An HTTP server on loopback; ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_async(move |seen| std::future::ready(handler(&seen))).await
    }

    pub(crate) async fn start_async<F, R>(handler: F) -> Self
    where
        F: Fn(Seen) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (handler, counted, log) = (Arc::new(handler), connections.clone(), seen.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, handler.clone(), log.clone()));
            }
        });
        Self {
            address,
            connections,
            seen,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn url_as(&self, name: &str, path: &str) -> String {
        format!("http://{name}:{}{path}", self.address.port())
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:#?}");
        seen[0].clone()
    }
}

pub(crate) async fn serve<S, F, R>(stream: S, handler: Arc<F>, log: Arc<Mutex<Vec<Seen>>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    F: Fn(Seen) -> R + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, log) = (handler.clone(), log.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let seen = Seen {
                method: head.method.to_string(),
                uri: head.uri.to_string(),
                headers: head.headers,
                body,
            };
            log.lock().unwrap().push(seen.clone());
            Ok::<_, hyper::Error>(handler(seen).await)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A server that reads one request head and then does as told with the socket.
pub(crate) async fn raw_server<F, R>(act: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            tokio::spawn(act(stream));
        }
    });
    address
}

/// A server that answers every request with these bytes and closes.
pub(crate) async fn bytes_server(bytes: &'static [u8]) -> SocketAddr {
    raw_server(move |mut stream| async move {
        let _ = stream.write_all(bytes).await;
    })
    .await
}
