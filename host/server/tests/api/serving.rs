//! Real connections.

use crate::house::{House, KEY, OTHER_KEY};
use fumehood_server::{ServerConfig, serve};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) struct Serving {
    pub(crate) house: House,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) server: JoinHandle<()>,
}

async fn start(config: ServerConfig) -> Serving {
    start_with(House::new().await, config).await
}

/// Serves the house's host.
pub(crate) async fn start_with(house: House, config: ServerConfig) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve(listener, house.host.clone(), config, shutdown.clone()));
    Serving {
        house,
        address,
        shutdown,
        server,
    }
}

impl Serving {
    async fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

async fn all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset tells the same as an end.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut piece = [0; 1024];
        let count = stream.read(&mut piece).await.unwrap();
        assert_ne!(count, 0, "no {text} in {seen}");
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    seen
}

#[tokio::test]
async fn a_request_is_answered_over_a_connection() {
    let serving = start(ServerConfig::default()).await;
    let stream = serving
        .connect("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    assert!(all(stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let serving = start(ServerConfig {
        head_time: Duration::from_millis(20),
        ..ServerConfig::default()
    })
    .await;
    for request in ["", "GET /healthz HTTP/1.1\r\nHost: x\r\n"] {
        let stream = serving.connect(request).await;
        assert!(!all(stream).await.contains("200 OK"), "{request:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let serving = start(ServerConfig::default()).await;
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n",
        "x".repeat(100_000)
    );
    let stream = serving.connect(&request).await;
    // Over a real connection the answer may be lost with the rest of the request.
    assert!(!all(stream).await.contains("200 OK"));
}

#[tokio::test]
async fn more_connections_than_places_wait_for_one() {
    let serving = start(ServerConfig {
        connections: 1,
        ..ServerConfig::default()
    })
    .await;
    let mut first = serving.connect("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until(&mut first, "200 OK").await;
    let second = serving
        .connect("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    let second = tokio::spawn(all(second));
    drop(first);
    assert!(second.await.unwrap().contains("200 OK"));
}

#[tokio::test]
async fn a_shutdown_ends_streams_and_idle_connections() {
    let serving = start(ServerConfig::default()).await;
    let mut idle = serving.connect("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until(&mut idle, "200 OK").await;
    let path = serving.house.session().await;
    let request = format!("GET {path}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    let mut stream = serving.connect(&request).await;
    until(&mut stream, "session.created").await;
    serving.shutdown.cancel();
    assert!(all(stream).await.contains("shutting down"));
    all(idle).await;
    serving.server.await.unwrap();
    assert!(TcpStream::connect(serving.address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_does_not_wait_without_end() {
    let serving = start(ServerConfig {
        drain_time: Duration::from_millis(20),
        ..ServerConfig::default()
    })
    .await;
    let request = format!(
        "PUT /v1/secrets/A HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    );
    let mut stream = serving.connect(&request).await;
    // The handler waits for a body that never comes.
    until(&mut stream, "100 Continue").await;
    serving.shutdown.cancel();
    serving.server.await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_end_its_turn() {
    let serving = start(ServerConfig::default()).await;
    let path = serving.house.session().await;
    let model = serving.house.next_answer();
    let request = format!(
        "POST {path}/turns HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{{\"input\":\"hi\"}}"
    );
    let mut stream = serving.connect(&request).await;
    until(&mut stream, "step.started").await;
    drop(stream);
    model.say("Hi.");
    model.done();
    let mut events = serving.house.get(&format!("{path}/events")).stream().await;
    events.until("turn.completed").await;
}

#[tokio::test]
async fn connections_without_a_key_leave_places_to_others_and_those_of_an_org_are_its_own() {
    let serving = start(ServerConfig {
        connections_of_stranger: 1,
        connections_of_org: 1,
        ..ServerConfig::default()
    })
    .await;
    let silent = serving.connect("").await;
    assert_eq!(
        all(serving.connect("").await).await,
        "",
        "a second one is closed at once"
    );
    drop(silent);
    let asking = format!("GET /v1/sessions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n");
    let mut first = ask_when_there_is_a_place(&serving, &asking).await;
    // It is the org's now, and no stranger's.
    let second = serving.connect(&asking).await;
    let refused = all(second).await;
    assert!(
        refused.starts_with("HTTP/1.1 429") && refused.contains("rate_limited"),
        "{refused}"
    );
    let asking_other = asking.replace(KEY, OTHER_KEY);
    ask_when_there_is_a_place(&serving, &asking_other).await;
    first.write_all(asking.as_bytes()).await.unwrap();
    until(&mut first, "200 OK").await;
}

/// Connects again until the server has seen that an earlier connection is gone.
async fn ask_when_there_is_a_place(serving: &Serving, request: &str) -> TcpStream {
    loop {
        let mut stream = serving.connect(request).await;
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(count) if piece[..count].starts_with(b"HTTP/1.1 200") => return stream,
            Ok(0) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(count) => panic!("{}", String::from_utf8_lossy(&piece[..count])),
        }
    }
}
