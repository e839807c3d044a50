//! What a tool may ask for.

use crate::support::{Server, World, allow, answer, full, get, open, text};
use fumehood_core::ledger::EgressOutcome;
use fumehood_egress::EgressError;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn an_allowed_request_gets_its_answer() {
    let (world, server) = (World::new(), Server::start(|seen| answer(seen.body.clone())).await);
    let request = Request::post(server.url("/a/%7eb?q=1#part"))
        .header("x-own", "1")
        .body(full("hello"))
        .unwrap();
    let response = world.egress.send(&open().make(), request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(text(response).await.unwrap(), "hello");
    let seen = server.only();
    assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("POST", "/a/~b?q=1"));
    assert_eq!(seen.header("host"), Some(server.address.to_string().as_str()));
    assert_eq!(seen.header("content-length"), Some("5"));
    assert_eq!(seen.header("x-own"), Some("1"));
}

#[tokio::test]
async fn what_no_rule_allows_is_refused_before_a_connection() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    let grant = allow(&["http://127.0.0.1:*/v1"]).make();
    for path in ["/", "/v1evil", "/v1/../admin", "/v1/%2e%2e/admin"] {
        let refused = world.get(&grant, &server.url(path)).await.unwrap_err();
        assert!(matches!(refused, EgressError::Denied { .. }), "{path}: {refused}");
    }
    assert!(world.get(&grant, &server.url("/v1/x")).await.is_ok());
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn urls_that_parsers_read_differently_are_refused() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    let port = server.address.port();
    for url in [
        format!("http://api.example.com@127.0.0.1:{port}/"),
        format!("http://user:pass@127.0.0.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("ftp://127.0.0.1:{port}/"),
        "/relative".to_owned(),
    ] {
        let refused = world.get(&open().make(), &url).await.unwrap_err();
        assert!(matches!(refused, EgressError::InvalidUrl { .. }), "{url}: {refused}");
    }
    assert_eq!(server.connections(), 0);
    let reasons = world.ledger.entries();
    assert!(
        reasons
            .iter()
            .all(|entry| entry.rule == "url" && matches!(entry.outcome, EgressOutcome::Denied { .. }))
    );
}

#[tokio::test]
async fn methods_that_tunnel_or_echo_are_refused() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    for method in ["CONNECT", "TRACE", "track"] {
        let request = Request::builder()
            .method(method)
            .uri(server.url("/"))
            .body(full(""))
            .unwrap();
        assert!(matches!(
            world.egress.send(&open().make(), request).await,
            Err(EgressError::InvalidUrl { .. })
        ));
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_lower_case_method_is_decided_on_and_sent_in_upper_case() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let grant = allow(&["GET http://127.0.0.1:*"]).make();
    let request = |method: &str| {
        Request::builder()
            .method(method)
            .uri(server.url("/"))
            .body(full(""))
            .unwrap()
    };
    assert!(world.egress.send(&grant, request("get")).await.is_ok());
    assert!(world.egress.send(&grant, request("delete")).await.is_err());
    assert_eq!(server.only().method, "GET");
}

#[tokio::test]
async fn headers_that_frame_or_route_a_request_are_refused() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    for (name, value) in [
        ("host", "internal.example.com"),
        ("connection", "x-own"),
        ("keep-alive", "1"),
        ("proxy-authorization", "Basic eDp5"),
        ("proxy-connection", "close"),
        ("te", "trailers"),
        ("trailer", "x-own"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("x-http-method-override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("X-Method-Override", "DELETE"),
        ("x_http_method_override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("forwarded", "host=internal.example.com"),
        ("x-forwarded-host", "internal.example.com"),
        ("x_forwarded_proto", "https"),
        ("content-length", "+4"),
        ("content-length", "4,4"),
    ] {
        let request = Request::post(server.url("/"))
            .header(name, value)
            .body(full("body"))
            .unwrap();
        let refused = world.egress.send(&open().make(), request).await.unwrap_err();
        assert!(
            matches!(&refused, EgressError::ForbiddenHeader { name: named, .. } if named.eq_ignore_ascii_case(name)),
            "{name}: {refused}"
        );
    }
    let twice = Request::post(server.url("/"))
        .header("content-length", "4")
        .header("content-length", "5");
    let refused = world
        .egress
        .send(&open().make(), twice.body(full("body")).unwrap())
        .await
        .unwrap_err();
    assert!(matches!(refused, EgressError::ForbiddenHeader { .. }), "{refused}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn the_urls_own_host_header_is_accepted() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let request = Request::get(server.url("/")).header("host", server.address.to_string());
    assert!(
        world
            .egress
            .send(&open().make(), request.body(full("")).unwrap())
            .await
            .is_ok()
    );
    assert_eq!(server.only().headers.get_all("host").iter().count(), 1);
}

#[tokio::test]
async fn a_redirect_is_returned_and_the_next_request_decided_on_its_own() {
    let world = World::new();
    let server = Server::start(|_| {
        let to = "http://127.0.0.2:1/latest/meta-data";
        Response::builder()
            .status(302)
            .header("location", to)
            .body(Empty::new().boxed_unsync())
            .unwrap()
    })
    .await;
    let grant = open().make();
    let response = world.get(&grant, &server.url("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(server.seen().len(), 1);
    assert!(matches!(
        world.get(&grant, &location).await,
        Err(EgressError::Denied { .. })
    ));
}

#[tokio::test]
async fn a_call_makes_no_more_requests_than_it_may() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let grant = open().limits(10, 10, 2).make();
    for _ in 0..2 {
        assert!(world.get(&grant, &server.url("/")).await.is_ok());
    }
    for _ in 0..3 {
        let refused = world
            .egress
            .send(&grant.clone(), get(&server.url("/")))
            .await
            .unwrap_err();
        assert_eq!(refused, EgressError::RequestLimit { limit: 2 });
    }
    assert_eq!(server.seen().len(), 2);
    assert_eq!(grant.limits.requests.asked(), 5);
    // One entry shows that the limit was reached; an endless loop doesn't fill the ledger.
    assert_eq!(world.ledger.entries().len(), 3);
}

#[tokio::test]
async fn set_cookie_and_status_pass_and_connection_headers_do_not() {
    let world = World::new();
    let server = Server::start(|_| {
        let response = Response::builder()
            .status(418)
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2");
        let response = response
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5");
        response.body(Empty::new().boxed_unsync()).unwrap()
    })
    .await;
    let response = world.get(&open().make(), &server.url("/")).await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.headers().get_all("set-cookie").iter().count(), 2);
    for name in ["connection", "x-hop", "keep-alive"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn names_are_resolved_once_for_a_connection() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let url = server.url_as("api.example.com", "/");
    text(world.get(&open().make(), &url).await.unwrap()).await.unwrap();
    assert_eq!(world.names.asked.load(Ordering::SeqCst), 1);
    assert_eq!(
        server.only().header("host"),
        url.strip_prefix("http://").and_then(|u| u.strip_suffix('/'))
    );
}
