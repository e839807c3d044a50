//! The outside, as far as tests need one: a small HTTP server that notes who asked for what.

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpListener;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Method and path with query.
    pub line: String,
    /// Its headers.
    pub headers: HeaderMap,
}

/// A server on loopback.
pub struct World {
    /// Its port.
    pub port: u16,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    /// Starts it. `/echo` gives the request's headers back, `/redirect?to` answers 302, `/slow` never answers, `/big` sends 8 MiB.
    pub async fn start() -> Self {
        let arrived = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new()
            .route("/{*path}", any(answer))
            .with_state(Arc::clone(&arrived));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, arrived, task }
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What arrived so far.
    #[must_use]
    pub fn arrived(&self) -> Vec<Arrived> {
        self.arrived.lock().unwrap().clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(arrived): State<Arc<Mutex<Vec<Arrived>>>>, request: Request) -> Response {
    let line = format!("{} {}", request.method(), request.uri());
    arrived.lock().unwrap().push(Arrived {
        line,
        headers: request.headers().clone(),
    });
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
        "/big" => Body::from(vec![b'x'; 8 << 20]).into_response(),
        _ => "hello".into_response(),
    }
}
