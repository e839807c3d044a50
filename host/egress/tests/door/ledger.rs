//! What is recorded, and that nothing leaves unrecorded.

use crate::support::{Server, World, answer, full, get, open, text};
use fumehood_core::ledger::EgressOutcome;
use fumehood_egress::EgressError;
use http::Request;
use http_body_util::BodyExt as _;
use std::{sync::Arc, sync::atomic::Ordering};
use tokio::sync::Notify;

#[tokio::test]
async fn an_exchange_is_recorded_from_decision_to_end() {
    let (world, server) = (World::new(), Server::start(|_| answer("0123456789")).await);
    let request = Request::post(server.url("/a/b?token=x")).body(full("abc")).unwrap();
    let response = world.egress.send(&open().make(), request).await.unwrap();
    assert_eq!(
        world.settled().await.outcome,
        EgressOutcome::Started,
        "the body is still to come"
    );
    text(response).await.unwrap();
    let entry = world.settled().await;
    assert_eq!(entry.outcome, EgressOutcome::Completed { status: 200 });
    assert_eq!((entry.bytes_sent, entry.bytes_received, entry.query_bytes), (3, 10, 7));
    assert_eq!(
        (entry.method.as_str(), entry.scheme.as_str(), entry.host.as_str()),
        ("POST", "http", "127.0.0.1")
    );
    assert_eq!((entry.port, entry.path.as_str()), (server.address.port(), "/a/b"));
    assert_eq!(entry.rule, "grant: http://127.0.0.1:*");
    assert_eq!(entry.address, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(entry.scope.tool.as_str(), "fetch");
}

#[tokio::test]
async fn a_refusal_is_recorded_with_its_rule() {
    let world = World::new();
    world
        .get(&open().make(), "https://elsewhere.example.com/x?y")
        .await
        .unwrap_err();
    let entry = world.ledger.only();
    assert!(matches!(entry.outcome, EgressOutcome::Denied { .. }));
    assert_eq!(
        (entry.rule.as_str(), entry.host.as_str()),
        ("grant: no rule allows it", "elsewhere.example.com")
    );
}

#[tokio::test]
async fn nothing_is_sent_when_the_ledger_can_not_be_written() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    world.ledger.broken.store(true, Ordering::SeqCst);
    let refused = world
        .get(&open().make(), &server.url_as("api.example.com", "/"))
        .await
        .unwrap_err();
    assert_eq!(refused, EgressError::LedgerUnavailable);
    assert_eq!(server.connections(), 0);
    assert_eq!(
        world.names.asked.load(Ordering::SeqCst),
        0,
        "not even the name was asked for"
    );
}

#[tokio::test]
async fn dropping_the_answer_settles_its_entry() {
    let (world, server) = (World::new(), Server::start(|_| answer(vec![b'x'; 900_000])).await);
    let mut response = world.get(&open().make(), &server.url("/")).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    let entry = world.settled().await;
    assert!(matches!(entry.outcome, EgressOutcome::Failed { .. }), "{entry:?}");
    assert!(entry.bytes_received > 0);
}

#[tokio::test]
async fn dropping_the_request_settles_its_entry() {
    let arrived = Arc::new(Notify::new());
    let seen = arrived.clone();
    let server = Server::start_async(move |_| {
        seen.notify_one();
        std::future::pending()
    })
    .await;
    let world = World::new();
    let (egress, grant, request) = (world.egress.clone(), open().make(), get(&server.url("/")));
    let sending = tokio::spawn(async move { egress.send(&grant, request).await.map(|_| ()) });
    arrived.notified().await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    assert!(matches!(world.settled().await.outcome, EgressOutcome::Failed { .. }));
}

#[tokio::test]
async fn an_answer_without_a_body_is_settled_at_once() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let _response = world.get(&open().make(), &server.url("/")).await.unwrap();
    assert_eq!(world.settled().await.outcome, EgressOutcome::Completed { status: 200 });
}

#[tokio::test]
async fn settling_is_tried_again_when_the_ledger_is_busy() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    world.ledger.refuse_settlements.store(1, Ordering::SeqCst);
    text(world.get(&open().make(), &server.url("/")).await.unwrap())
        .await
        .unwrap();
    assert_eq!(world.settled().await.outcome, EgressOutcome::Completed { status: 200 });
}

#[tokio::test]
async fn all_that_ended_at_once_is_settled() {
    let (world, server) = (World::new(), Server::start(|_| answer("ok")).await);
    let grant = open().limits(10, 10, 300).make();
    let url = server.url("/");
    let all = (0..300).map(|_| async { text(world.get(&grant, &url).await?).await });
    let texts = futures::future::try_join_all(all).await.unwrap();
    assert_eq!(texts.len(), 300);
    world.egress.flush().await;
    let open = world
        .ledger
        .entries()
        .into_iter()
        .filter(|entry| entry.outcome == EgressOutcome::Started);
    assert_eq!(open.count(), 0);
}

#[tokio::test]
async fn a_refusal_by_another_limit_is_recorded_and_counts() {
    let world = World::new();
    let grant = open().limits(10, 10, 2).make();
    for _ in 0..4 {
        let request = get("http://api.example.com/x?token=1");
        let refused = world
            .egress
            .refuse(&grant, request, "egress_requests", "too many".to_owned())
            .await;
        assert!(refused.is_refusal());
    }
    let rules: Vec<_> = world.ledger.entries().into_iter().map(|entry| entry.rule).collect();
    assert_eq!(
        rules,
        [
            "limit: egress_requests",
            "limit: egress_requests",
            "limit: http_requests = 2"
        ]
    );
}
