//! A door and a server on loopback, for the targets that look at what passes between them.

use async_trait::async_trait;
use bytes::Bytes;
use fumehood_core::{
    id::CallId,
    ledger::{EgressScope, LedgerEntry},
    name::{ComponentName, OrgName, SecretName, ToolName},
};
use fumehood_egress::{
    Body, BoundCredential, Egress, EgressConfig, EgressError, EgressGrant, EgressLimits, LeakGuard, Ledger,
    LedgerError, RequestBudget, Settlement,
};
use fumehood_policy::{
    address::PrivateNetworks,
    credential::{Credential, Injection},
    network::{Layer, NetworkList, NetworkPolicy},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use secrecy::SecretString;
use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::Mutex as Turns,
};

/// The value that the door injects as `x-key`.
pub(crate) const SECRET: &str = "s3cr3t/V4lue+with=odd&chars";
/// What either side may send.
pub(crate) const BODY_LIMIT: u64 = 64 << 10;
/// Longer than any exchange on loopback takes, short enough for an answer that never ends.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) static OUTSIDE: LazyLock<Outside> = LazyLock::new(Outside::start);

/// One exchange at a time.
pub(crate) struct Outside {
    runtime: Runtime,
    egress: Egress,
    grant: EgressGrant,
    /// Where the server listens, as `127.0.0.1:PORT`.
    pub(crate) authority: String,
    server: Arc<Server>,
    turns: Turns<()>,
}

#[derive(Default)]
struct Server {
    answer: Mutex<Vec<u8>>,
    got: Mutex<Vec<u8>>,
}

/// What the server got, and what came of it.
pub(crate) struct Exchanged {
    /// Every byte the server read, of all connections.
    pub(crate) got: Vec<u8>,
    /// The answer with its whole body.
    pub(crate) answer: Result<Response<Bytes>, EgressError>,
}

impl Outside {
    fn start() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let server = Arc::new(Server::default());
        let (egress, authority) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let authority = listener.local_addr().expect("an address").to_string();
            let serving = Arc::clone(&server);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&serving).serve(stream));
                }
            });
            let config = EgressConfig {
                private_networks: PrivateNetworks(vec!["127.0.0.1/32".parse().expect("a network")]),
                first_byte_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                total_timeout: 2 * PATIENCE,
                // The server answers once and closes: a kept connection would be closed under the next request.
                max_idle_connections: 0,
                ..EgressConfig::default()
            };
            (Egress::new(&config, Arc::new(NoLedger)).expect("a door"), authority)
        });
        Self {
            runtime,
            egress,
            grant: grant(&authority),
            authority,
            server,
            turns: Turns::default(),
        }
    }

    /// Sends a request through the door to the server, which answers with these bytes and closes.
    pub(crate) fn exchange(&self, request: Request<Bytes>, answer: &[u8]) -> Exchanged {
        self.runtime.block_on(async {
            let _turn = self.turns.lock().await;
            answer.clone_into(&mut self.server.answer.lock().expect("no panic holds it"));
            self.server.got.lock().expect("no panic holds it").clear();
            let request =
                request.map(|body| -> Body { Full::new(body).map_err(|never| match never {}).boxed_unsync() });
            let answer = match self.egress.send(&self.grant, request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    body.collect()
                        .await
                        .map(|body| Response::from_parts(head, body.to_bytes()))
                }
                Err(error) => Err(error),
            };
            self.egress.flush().await;
            let got = self.server.got.lock().expect("no panic holds it").clone();
            Exchanged { got, answer }
        })
    }
}

impl Server {
    /// Reads until a request is complete or the other side has no more, answers, and closes.
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut buffer = [0; 4096];
        let mut got = Vec::new();
        while !complete(&got) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => got.extend_from_slice(&buffer[..read]),
            }
        }
        self.got.lock().expect("no panic holds it").extend_from_slice(&got);
        let answer = self.answer.lock().expect("no panic holds it").clone();
        let half = answer.len() / 2;
        for part in [&answer[..half], &answer[half..]] {
            if stream.write_all(part).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = stream.shutdown().await;
    }
}

/// Whether a head is there, and as much body as it declares.
fn complete(got: &[u8]) -> bool {
    let Some(end) = got.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    got.len() >= end + 4 + length.unwrap_or(0)
}

fn grant(authority: &str) -> EgressGrant {
    let secret = SecretName::new("KEY").expect("a name");
    let value = SecretString::from(SECRET);
    let rules = [
        format!("http://{authority}/open"),
        format!("GET http://{authority}/read"),
    ];
    let list = NetworkList {
        allow: Some(rules.iter().map(|rule| rule.parse().expect("a rule")).collect()),
        deny: Vec::new(),
    };
    EgressGrant {
        scope: EgressScope {
            org: OrgName::default_org(),
            session: None,
            turn: None,
            call: CallId::new(),
            tool: ToolName::new("fetch").expect("a name"),
            component: ComponentName::new("http").expect("a name"),
        },
        policy: Arc::new(NetworkPolicy {
            layers: vec![(Layer::Grant, list)],
        }),
        guard: LeakGuard::new([(secret.clone(), &value)]),
        credentials: vec![BoundCredential {
            credential: Credential {
                secret,
                hosts: vec!["127.0.0.1".parse().expect("a host")],
                inject: Injection::header("x-key", "Key {}").expect("a place"),
            },
            value,
        }]
        .into(),
        limits: EgressLimits {
            body_in: BODY_LIMIT,
            body_out: BODY_LIMIT,
            requests: Arc::new(RequestBudget::new(u32::MAX)),
        },
    }
}

struct NoLedger;

#[async_trait]
impl Ledger for NoLedger {
    async fn open(&self, _: &LedgerEntry) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn settle(&self, _: &[Settlement]) -> Result<(), LedgerError> {
        Ok(())
    }
}
