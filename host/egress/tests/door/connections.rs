//! Connections: kept, bounded, never shared between orgs.

use crate::support::{Server, World, answer, get, open, raw_server, text};
use fumehood_core::ledger::EgressOutcome;
use fumehood_egress::EgressError;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt as _, sync::Semaphore};

#[tokio::test]
async fn a_connection_is_used_again_by_the_same_org() {
    let (world, server) = (World::new(), Server::start(|_| answer("ok")).await);
    for _ in 0..5 {
        text(world.get(&open().make(), &server.url("/")).await.unwrap())
            .await
            .unwrap();
    }
    assert_eq!((server.connections(), server.seen().len()), (1, 5));
}

#[tokio::test]
async fn orgs_do_not_share_connections() {
    let (world, server) = (World::new(), Server::start(|_| answer("ok")).await);
    for org in ["one", "two", "one", "two"] {
        text(world.get(&open().org(org).make(), &server.url("/")).await.unwrap())
            .await
            .unwrap();
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn names_do_not_share_connections() {
    let (world, server) = (World::new(), Server::start(|_| answer("ok")).await);
    for name in ["api.example.com", "other.example.com", "127.0.0.1"] {
        text(world.get(&open().make(), &server.url_as(name, "/")).await.unwrap())
            .await
            .unwrap();
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_connection_whose_answer_was_dropped_is_not_used_again() {
    let (world, server) = (World::new(), Server::start(|_| answer(vec![b'x'; 900_000])).await);
    drop(world.get(&open().make(), &server.url("/")).await.unwrap());
    text(world.get(&open().make(), &server.url("/")).await.unwrap())
        .await
        .unwrap();
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_replaced() {
    // Promises to keep the connection, and closes it.
    let served = Arc::new(AtomicUsize::new(0));
    let counted = served.clone();
    let address = raw_server(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let world = World::new();
    for _ in 0..3 {
        let url = format!("http://{address}/");
        let answered = async { text(world.get(&open().make(), &url).await?).await };
        match answered.await {
            Ok(text) => assert_eq!(text, "ok"),
            // The close may cross a request that is already written; such a one is never sent again on its own.
            Err(error) => assert!(matches!(error, EgressError::Protocol { .. }), "{error}"),
        }
    }
    assert!(served.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn concurrent_requests_to_one_host_are_bounded() {
    let (running, most, gate) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Semaphore::new(0)),
    );
    let (now, peak, wait) = (running.clone(), most.clone(), gate.clone());
    let server = Server::start_async(move |_| {
        let (now, peak, wait) = (now.clone(), peak.clone(), wait.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            wait.acquire().await.unwrap().forget();
            now.fetch_sub(1, Ordering::SeqCst);
            answer("ok")
        }
    })
    .await;
    let world = World::with(|config| config.max_connections_per_host = 3);
    let all: Vec<_> = (0..12)
        .map(|_| {
            let (egress, grant, request) = (world.egress.clone(), open().make(), get(&server.url("/")));
            tokio::spawn(async move { text(egress.send(&grant, request).await?).await })
        })
        .collect();
    gate.add_permits(12);
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), "ok");
    }
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?}");
    assert!(server.connections() <= 3);
}

#[tokio::test]
async fn a_request_that_finds_no_free_slot_in_time_is_told_so() {
    let server = Server::start_async(|_| std::future::pending()).await;
    let world = World::with(|config| {
        config.max_connections_per_host = 1;
        config.connect_timeout = Duration::from_secs(1);
    });
    let (egress, grant, request) = (world.egress.clone(), open().make(), get(&server.url("/")));
    let first = tokio::spawn(async move { egress.send(&grant, request).await.map(|_| ()) });
    while server.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    let refused = world.get(&open().make(), &server.url("/")).await.unwrap_err();
    assert!(matches!(refused, EgressError::Busy { .. }), "{refused}");
    first.abort();
    let _ = first.await;
    world.egress.flush().await;
    assert!(
        world
            .ledger
            .entries()
            .iter()
            .all(|entry| matches!(entry.outcome, EgressOutcome::Failed { .. }))
    );
}

#[tokio::test]
async fn a_thousand_slow_requests_run_on_one_thread() {
    let gate = Arc::new(Semaphore::new(0));
    let wait = gate.clone();
    let server = Server::start_async(move |_| {
        let wait = wait.clone();
        async move {
            wait.acquire().await.unwrap().forget();
            answer("ok")
        }
    })
    .await;
    let world = World::with(|config| config.max_connections_per_host = 1000);
    let grant = open().limits(10, 10, 1000).make();
    let all: Vec<_> = (0..1000)
        .map(|_| {
            let (egress, grant, request) = (world.egress.clone(), grant.clone(), get(&server.url("/")));
            tokio::spawn(async move { text(egress.send(&grant, request).await?).await })
        })
        .collect();
    while server.seen().len() < 1000 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1000);
    for one in all {
        assert_eq!(one.await.unwrap().unwrap(), "ok");
    }
    world.egress.flush().await;
    assert!(
        world
            .ledger
            .entries()
            .iter()
            .all(|entry| entry.outcome == EgressOutcome::Completed { status: 200 })
    );
}
