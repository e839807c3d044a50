//! Connections: accepted up to a number, each with a time for its head, for its body and for reading its answer, and all of them
//! ended when the server ends.

use crate::{
    config::ServerConfig,
    connections::{Connections, Line},
    openapi::router,
    socket::Patient,
};
use axum::Router;
use fumehood_agent::host::Host;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The most a request's head may have, in bytes; hyper answers 431 beyond.
const LARGEST_HEAD: usize = 64 << 10;
/// The wait after the system refused to give a connection, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `shutdown`, then lets requests under way end for at most `config.drain_time`, and returns when no
/// connection is left.
///
/// Streams of events and sockets end at once and say so; turns go on: end them with [`Host::shut_down`].
/// What is not HTTP any more after an upgrade counts and ends as the connection that it was. HTTP/1.1 only. Cancel-safe in that dropping it ends every connection.
pub async fn serve(listener: TcpListener, host: Host, config: ServerConfig, shutdown: CancellationToken) {
    let closing = shutdown.child_token();
    let router = router(host, config.clone(), closing.clone());
    let places = Arc::new(Semaphore::new(config.connections));
    let whose = Arc::new(Connections::new(
        config.connections_of_stranger,
        config.connections_of_org,
    ));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    let accept = async {
        // The semaphore is never closed, so there is always a place to wait for.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let (stream, address) = accept(&listener).await;
            let Some(member) = whose.admit(address) else {
                tracing::debug!(%address, "a connection is closed: its address has as many without a key as it may");
                continue;
            };
            let connection = Connection {
                router: router.clone(),
                line: Arc::new(Line::new(member, place, connections.token(), cut.clone())),
                closing: closing.clone(),
            };
            tokio::spawn(connection.run(stream, config.head_time, config.unread_time));
        }
    };
    closing.run_until_cancelled(accept).await;
    drop(listener);
    connections.close();
    if tokio::time::timeout(config.drain_time, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = connections.len(),
            "requests did not end in time; their connections are cut"
        );
        cut.cancel();
        connections.wait().await;
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Events are small, and wanted now.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection keeps its delay");
                }
                return (stream, address.ip());
            }
            // The peer was quicker; the next one may be there already.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Connection {
    router: Router,
    line: Arc<Line>,
    closing: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, head_time: Duration, unread_time: Duration) {
        let router = TowerToHyperService::new(self.router);
        let line = Arc::clone(&self.line);
        // So that who asks is found with whose connection it is, and who takes it over with what it holds.
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&line));
            router.call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            // THREAT[T-net-slow-drip]: also the time that a connection may be idle.
            .header_read_timeout(head_time)
            .max_header_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(Patient::new(stream, unread_time)), service)
            .with_upgrades();
        let mut served = std::pin::pin!(served);
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = self.line.cut() => return,
            () = self.closing.cancelled() => {
                served.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = served => ended,
                    () = self.line.cut() => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_connections_send_small_answers_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, connected) = tokio::join!(accept(&listener), TcpStream::connect(address));
        assert!(accepted.0.nodelay().unwrap());
        drop(connected);
    }
}
