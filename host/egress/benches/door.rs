//! What the door costs: a request over loopback through it and through a bare HTTP client, the scan of an answer, the
//! making of a guard, and the memory of requests that wait.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fumehood_core::{
    id::CallId,
    ledger::{EgressScope, LedgerEntry},
    name::{ComponentName, OrgName, SecretName, ToolName},
};
use fumehood_egress::{
    Egress, EgressConfig, EgressGrant, EgressLimits, LeakGuard, Ledger, LedgerError, RequestBudget, Settlement,
    empty_body,
};
use fumehood_policy::{
    address::PrivateNetworks,
    network::{Layer, NetworkList, NetworkPolicy},
};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use std::{convert::Infallible, hint::black_box, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};

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

fn secrets(count: usize) -> Vec<(SecretName, SecretString)> {
    let value = |index: usize| format!("ghp_{:032x}/{index}", 0x1234_5678_9abc_def0_u128 * (index as u128 + 77));
    (0..count)
        .map(|index| (SecretName::new(format!("KEY_{index}")).unwrap(), value(index).into()))
        .collect()
}

fn guard(secrets: &[(SecretName, SecretString)]) -> LeakGuard {
    LeakGuard::new(secrets.iter().map(|(name, value)| (name.clone(), value)))
}

fn grant(guard: LeakGuard) -> EgressGrant {
    let list = NetworkList {
        allow: Some(vec!["http://127.0.0.1:*".parse().unwrap()]),
        deny: Vec::new(),
    };
    EgressGrant {
        scope: EgressScope {
            org: OrgName::new("default").unwrap(),
            session: None,
            turn: None,
            call: CallId::new(),
            tool: ToolName::new("fetch").unwrap(),
            component: ComponentName::new("http").unwrap(),
        },
        policy: Arc::new(NetworkPolicy {
            layers: vec![(Layer::Grant, list)],
        }),
        credentials: Arc::new([]),
        guard,
        limits: EgressLimits {
            body_in: 1 << 20,
            body_out: 1 << 20,
            requests: Arc::new(RequestBudget::new(u32::MAX)),
        },
    }
}

/// Answers `/` with a kilobyte, and `/slow` never.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
                if request.uri().path() == "/slow" {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(&[b'x'; 1024]))))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn door() -> Egress {
    let config = EgressConfig {
        private_networks: PrivateNetworks(vec!["127.0.0.0/8".parse().unwrap()]),
        max_connections_per_host: 4096,
        ..EgressConfig::default()
    };
    Egress::new(&config, Arc::new(NoLedger)).unwrap()
}

fn requests(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = runtime.block_on(server());
    let mut group = criterion.benchmark_group("request over loopback, 1 KB answer");
    let mut bare = runtime.block_on(async {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    });
    group.bench_function("bare hyper", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                bare.ready().await.unwrap();
                let request = Request::get("/")
                    .header("host", "x")
                    .body(Empty::<Bytes>::new())
                    .unwrap();
                bare.send_request(request)
                    .await
                    .unwrap()
                    .into_body()
                    .collect()
                    .await
                    .unwrap()
                    .to_bytes()
            })
        });
    });
    for count in [0, 4] {
        let (egress, grant) = (runtime.block_on(async { door() }), grant(guard(&secrets(count))));
        group.bench_function(format!("door, {count} secrets"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let request = Request::get(format!("http://{address}/")).body(empty_body()).unwrap();
                    egress
                        .send(&grant, request)
                        .await
                        .unwrap()
                        .into_body()
                        .collect()
                        .await
                        .unwrap()
                        .to_bytes()
                })
            });
        });
    }
    group.finish();
    runtime.block_on(waiting_memory(address));
}

/// How much memory a waiting request takes, server side included: both ends live in this process.
async fn waiting_memory(address: SocketAddr) {
    const COUNT: usize = 1000;
    let (egress, grant) = (door(), grant(guard(&secrets(4))));
    let before = resident();
    let all: Vec<_> = (0..COUNT)
        .map(|_| {
            let (egress, grant) = (egress.clone(), grant.clone());
            let request = Request::get(format!("http://{address}/slow"))
                .body(empty_body())
                .unwrap();
            tokio::spawn(async move { egress.send(&grant, request).await.map(|_| ()) })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!(
        "{COUNT} waiting requests: {} KiB each, server side included",
        (resident() - before) / COUNT / 1024
    );
    for one in all {
        one.abort();
    }
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok())
        .unwrap_or(0)
        * 4096
}

fn scan(criterion: &mut Criterion) {
    let text: Bytes = (0..20_000)
        .map(|n| format!("{{\"id\":{n},\"text\":\"an ordinary line of JSON\"}}\n"))
        .collect::<String>()
        .into();
    let mut group = criterion.benchmark_group("scan of an answer in chunks of 16 KiB");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("copied only", |bencher| bencher.iter(|| black_box(text.to_vec())));
    for count in [1, 10, 100] {
        let guard = guard(&secrets(count));
        group.bench_function(format!("{count} secrets"), |bencher| {
            bencher.iter(|| {
                let mut redactor = guard.redactor();
                for start in (0..text.len()).step_by(16 * 1024) {
                    black_box(redactor.push(text.slice(start..text.len().min(start + 16 * 1024))));
                }
                redactor.finish()
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("making a guard");
    for count in [1, 10, 100] {
        let secrets = secrets(count);
        group.bench_function(format!("{count} secrets"), |bencher| bencher.iter(|| guard(&secrets)));
    }
    group.finish();
}

criterion_group!(benches, requests, scan);
criterion_main!(benches);
