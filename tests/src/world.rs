//! The outside, as far as tests need one: a small HTTP server that notes who asked for what.

use crate::{PATIENCE, tls::Authority};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
    serve::Listener,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Method and path with query.
    pub line: String,
    /// Its headers.
    pub headers: HeaderMap,
}

/// What the requests see and leave.
#[derive(Clone)]
struct Outside {
    arrived: Arc<watch::Sender<Vec<Arrived>>>,
    released: Arc<Semaphore>,
    /// Held requests that were broken off.
    broken_off: Arc<watch::Sender<usize>>,
}

/// A server on loopback.
pub struct World {
    /// Its port.
    pub port: u16,
    outside: Outside,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    /// Starts it. `/echo` gives the request's headers back, `/redirect?to` answers 302, `/slow` never answers, `/held` not
    /// before it is released, `/big` sends 8 MiB, `/appends` is a hook that appends `!` to what a call is to `say`.
    pub async fn start() -> Self {
        Self::on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap())
    }

    /// The same over TLS, with a certificate by this authority.
    pub async fn secured_by(authority: &Authority) -> Self {
        Self::on(authority.listen().await)
    }

    fn on<L: Listener<Addr = SocketAddr>>(listener: L) -> Self {
        let outside = Outside {
            arrived: Arc::new(watch::Sender::new(Vec::new())),
            released: Arc::new(Semaphore::new(0)),
            broken_off: Arc::new(watch::Sender::new(0)),
        };
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/{*path}", any(answer)).with_state(outside.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, outside, task }
    }

    /// The URL of a path, without TLS.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What arrived so far.
    #[must_use]
    pub fn arrived(&self) -> Vec<Arrived> {
        self.outside.arrived.borrow().clone()
    }

    /// Waits until so many have arrived.
    pub async fn has_seen(&self, requests: usize) {
        let mut arrived = self.outside.arrived.subscribe();
        arrived.wait_for(|arrived| arrived.len() >= requests).await.unwrap();
    }

    /// Waits until so many requests that were held are broken off by who made them.
    pub async fn has_lost(&self, requests: usize) {
        let mut broken_off = self.outside.broken_off.subscribe();
        let lost = broken_off.wait_for(|count| *count >= requests);
        let lost = tokio::time::timeout(PATIENCE, lost).await;
        lost.expect("the request was never broken off").unwrap();
    }

    /// Answers one request that is held, or the next one that is.
    pub fn release(&self) {
        self.outside.released.add_permits(1);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request that waits for its answer; dropped with it when its connection is closed.
struct Held<'a>(&'a Outside);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.broken_off.send_modify(|count| *count += 1);
    }
}

async fn answer(State(outside): State<Outside>, request: Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    let headers = request.headers().clone();
    outside
        .arrived
        .send_modify(|arrived| arrived.push(Arrived { line, headers }));
    match request.uri().path() {
        "/echo" => format!("{:?}", request.headers()).into_response(),
        "/redirect" => {
            let to = request.uri().query().unwrap_or_default().to_owned();
            (StatusCode::FOUND, [(header::LOCATION, to)]).into_response()
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            StatusCode::OK.into_response()
        }
        "/held" => {
            let held = Held(&outside);
            outside.released.acquire().await.unwrap().forget();
            std::mem::forget(held);
            "released".into_response()
        }
        "/appends" => appends(request.into_body()).await.into_response(),
        "/big" => Body::from(vec![b'x'; 8 << 20]).into_response(),
        _ => "hello".into_response(),
    }
}

async fn appends(question: Body) -> String {
    let question = axum::body::to_bytes(question, usize::MAX).await.unwrap();
    let question: Value = serde_json::from_slice(&question).unwrap();
    let mut arguments = question["data"]["about"]["arguments"].clone();
    arguments["say"] = format!("{}!", arguments["say"].as_str().unwrap()).into();
    json!({"decision": "allow", "arguments": arguments}).to_string()
}
