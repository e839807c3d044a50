//! Which addresses are connected to.

use crate::support::{Server, World, answer, open, text};
use fumehood_core::ledger::EgressOutcome;
use fumehood_egress::{EgressError, Resolve, ResolveError, Resolver, Wait};
use fumehood_policy::address::PrivateNetworks;
use std::{net::IpAddr, process::Command, sync::Arc, time::Duration};

fn closed() -> World {
    World::with(|config| config.private_networks = PrivateNetworks::default())
}

#[tokio::test]
async fn a_loopback_address_is_refused_unless_it_is_listed() {
    let server = Server::start(|_| answer("no")).await;
    let world = closed();
    let refused = world.get(&open().make(), &server.url("/")).await.unwrap_err();
    assert!(matches!(refused, EgressError::PrivateAddress { .. }), "{refused}");
    assert_eq!(server.connections(), 0);
    let entry = world.settled().await;
    assert!(matches!(&entry.outcome, EgressOutcome::Denied { reason } if reason.contains("private_networks")));
    assert!(World::new().get(&open().make(), &server.url("/")).await.is_ok());
}

#[tokio::test]
async fn a_name_with_a_private_address_is_refused_whatever_the_name() {
    let server = Server::start(|_| answer("no")).await;
    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
    ] {
        let world = closed();
        world.names.set("api.example.com", &[&[address]]);
        let refused = world
            .get(&open().make(), &server.url_as("api.example.com", "/"))
            .await
            .unwrap_err();
        assert!(
            matches!(refused, EgressError::PrivateAddress { .. }),
            "{address}: {refused}"
        );
        assert!(
            !refused.to_string().contains(address),
            "the address is the operator's to know"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn one_bad_address_among_good_ones_refuses_the_name() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    world.names.set("api.example.com", &[&["127.0.0.1", "10.0.0.1"]]);
    let refused = world
        .get(&open().make(), &server.url_as("api.example.com", "/"))
        .await
        .unwrap_err();
    assert!(matches!(refused, EgressError::PrivateAddress { .. }), "{refused}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_denied_address_is_denied_under_every_name_and_on_a_kept_connection() {
    let (world, server) = (World::new(), Server::start(|_| answer("ok")).await);
    let url = server.url_as("api.example.com", "/");
    let denying = || open().deny("127.0.0.1").make();
    let refused = world.get(&denying(), &url).await.unwrap_err();
    assert!(
        matches!(&refused, EgressError::Denied { reason } if reason.contains("127.0.0.1")),
        "{refused}"
    );
    assert_eq!(server.connections(), 0);
    let entry = world.settled().await;
    assert!(matches!(&entry.outcome, EgressOutcome::Denied { reason } if reason.contains("`127.0.0.1`")));
    // Another grant of the same org may go there, and its connection is kept; it is of no use to this one.
    text(world.get(&open().make(), &url).await.unwrap()).await.unwrap();
    assert!(matches!(
        world.get(&denying(), &url).await,
        Err(EgressError::Denied { .. })
    ));
    text(world.get(&open().make(), &url).await.unwrap()).await.unwrap();
    assert_eq!((server.connections(), server.seen().len()), (1, 2));
}

#[tokio::test]
async fn one_denied_address_among_others_refuses_the_name() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    world.names.set("api.example.com", &[&["127.0.0.1", "127.0.0.9"]]);
    let denying = open().deny("127.0.0.9").make();
    let refused = world.get(&denying, &server.url_as("api.example.com", "/")).await;
    assert!(matches!(refused, Err(EgressError::Denied { .. })));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_again_for_each_connection() {
    let world = World::with(|config| config.max_idle_connections = 0);
    let server = Server::start(|_| answer("ok")).await;
    world.names.set("api.example.com", &[&["127.0.0.1"], &["192.168.1.1"]]);
    let url = server.url_as("api.example.com", "/");
    assert_eq!(
        text(world.get(&open().make(), &url).await.unwrap()).await.unwrap(),
        "ok"
    );
    assert!(matches!(
        world.get(&open().make(), &url).await,
        Err(EgressError::PrivateAddress { .. })
    ));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_name_without_addresses_is_a_failure_not_a_refusal() {
    let world = World::new();
    world.names.set("api.example.com", &[&[]]);
    let failed = world.get(&open().make(), "http://api.example.com/").await.unwrap_err();
    assert!(matches!(failed, EgressError::Resolve { .. }), "{failed}");
    assert!(matches!(world.settled().await.outcome, EgressOutcome::Failed { .. }));
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_is_not_waited_for() {
    struct Silent;
    #[async_trait::async_trait]
    impl Resolve for Silent {
        async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
            std::future::pending().await
        }
    }
    let limit = Duration::from_millis(50);
    let world = World::with(|config| {
        config.resolver = Resolver::Custom(Arc::new(Silent));
        config.dns_timeout = limit;
    });
    let failed = world.get(&open().make(), "http://api.example.com/").await.unwrap_err();
    assert_eq!(
        failed,
        EgressError::Timeout {
            wait: Wait::Resolve,
            limit
        }
    );
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_refuses_the_connection() {
    let (world, server) = (World::new(), Server::start(|_| answer("ok")).await);
    // Nothing listens on 127.0.0.9; the server listens on 127.0.0.1 alone.
    world.names.set("api.example.com", &[&["127.0.0.9", "127.0.0.1"]]);
    let response = world
        .get(&open().make(), &server.url_as("api.example.com", "/"))
        .await
        .unwrap();
    assert_eq!(text(response).await.unwrap(), "ok");
    assert_eq!(world.settled().await.address, Some("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn a_refused_connection_is_told_in_words() {
    let world = World::new();
    let failed = world.get(&open().make(), "http://127.0.0.1:1/").await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "could not connect to 127.0.0.1:1: the connection was refused"
    );
}

/// A proxy in the environment would move the address check to where nobody makes it. The environment is a process's, so
/// the request is made in a process of its own.
#[tokio::test]
async fn a_proxy_variable_is_ignored() {
    const VARIABLE: &str = "FUMEHOOD_TEST_PROXIED_URL";
    if let Ok(url) = std::env::var(VARIABLE) {
        let response = World::new().get(&open().make(), &url).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "direct");
        return;
    }
    let (server, proxy) = (
        Server::start(|_| answer("direct")).await,
        Server::start(|_| answer("proxied")).await,
    );
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "addresses::a_proxy_variable_is_ignored"])
        .env(VARIABLE, server.url("/"));
    for name in [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ] {
        child.env(name, proxy.url(""));
    }
    let status = tokio::task::spawn_blocking(move || child.output())
        .await
        .unwrap()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    assert_eq!((server.connections(), proxy.connections()), (1, 0));
}
