//! Servers that want to break, hold or deceive the door, and tools that help them.

use crate::support::{SECRET, Server, World, answer, bytes_server, full, get, open, raw_server, text};
use fumehood_core::ledger::{EgressOutcome, ShapeKind, ShapePlace};
use fumehood_egress::{EgressError, Wait};
use fumehood_policy::credential::Injection;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;

/// An answer that lives as long as the test process.
fn raw(head: &str) -> &'static [u8] {
    Box::leak(head.to_owned().into_boxed_str()).as_bytes()
}

#[tokio::test]
async fn an_answer_in_any_encoding_is_refused_unread() {
    for header in [
        "content-encoding: gzip",
        "content-encoding: br",
        "content-encoding: deflate",
        "content-encoding: zstd",
        "content-encoding: x-own",
        "content-encoding: identity, gzip",
        "content-encoding: identity\r\ncontent-encoding: gzip",
        "Content-Encoding: GZIP",
    ] {
        let (world, bytes) = (
            World::new(),
            raw(&format!("HTTP/1.1 200 OK\r\n{header}\r\ncontent-length: 2\r\n\r\nok")),
        );
        let address = bytes_server(bytes).await;
        let refused = world
            .get(&open().make(), &format!("http://{address}/"))
            .await
            .unwrap_err();
        assert!(matches!(refused, EgressError::EncodedResponse), "{header}: {refused}");
        assert!(matches!(world.settled().await.outcome, EgressOutcome::Failed { .. }));
    }
}

#[tokio::test]
async fn an_answer_in_an_unusual_transfer_coding_is_refused() {
    for header in [
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, gzip",
    ] {
        let (world, bytes) = (
            World::new(),
            raw(&format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        );
        let address = bytes_server(bytes).await;
        let refused = world
            .get(&open().make(), &format!("http://{address}/"))
            .await
            .unwrap_err();
        let expected = matches!(refused, EgressError::EncodedResponse | EgressError::Protocol { .. });
        assert!(expected, "{header}: {refused}");
    }
}

#[tokio::test]
async fn an_answer_with_folded_or_too_many_headers_is_refused() {
    let many = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect::<String>();
    for head in [
        "x-own: one\r\n two\r\n".to_owned(),
        "x own: 1\r\n".to_owned(),
        "x-own: a\0b\r\n".to_owned(),
        many,
    ] {
        let (world, bytes) = (
            World::new(),
            raw(&format!("HTTP/1.1 200 OK\r\n{head}content-length: 2\r\n\r\nok")),
        );
        let address = bytes_server(bytes).await;
        let refused = world
            .get(&open().make(), &format!("http://{address}/"))
            .await
            .unwrap_err();
        assert!(matches!(refused, EgressError::Protocol { .. }), "{head:?}: {refused}");
    }
}

#[test]
fn a_header_value_with_a_line_break_can_not_even_be_made() {
    for value in [&b"a\r\nx-more: 1"[..], b"a\nb", b"a\rb", b"a\0b", b"a\x7fb"] {
        assert!(HeaderValue::from_bytes(value).is_err(), "{value:?}");
    }
}

#[tokio::test]
async fn a_flood_of_interim_answers_ends_at_the_limit() {
    let limit = Duration::from_millis(200);
    let world = World::with(|config| config.first_byte_timeout = limit);
    let address = raw_server(|mut stream| async move {
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let failed = world
        .get(&open().make(), &format!("http://{address}/"))
        .await
        .unwrap_err();
    let expected = matches!(
        failed,
        EgressError::Timeout {
            wait: Wait::FirstByte,
            ..
        } | EgressError::Protocol { .. }
    );
    assert!(expected, "{failed}");
}

#[tokio::test]
async fn a_head_that_drips_ends_at_the_limit() {
    let limit = Duration::from_millis(200);
    let world = World::with(|config| config.first_byte_timeout = limit);
    let address = raw_server(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-own: ").await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let failed = world
        .get(&open().make(), &format!("http://{address}/"))
        .await
        .unwrap_err();
    assert_eq!(
        failed,
        EgressError::Timeout {
            wait: Wait::FirstByte,
            limit
        }
    );
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_not_given_to_the_next_request() {
    let address = bytes_server(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
    )
    .await;
    let world = World::new();
    for _ in 0..3 {
        let answered = async { text(world.get(&open().make(), &format!("http://{address}/")).await?).await };
        // A connection that broke is an error at worst; what it broke with is nobody's answer.
        match answered.await {
            Ok(text) => assert_eq!(text, "ok"),
            Err(error) => assert!(matches!(error, EgressError::Protocol { .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn no_redirect_is_followed_and_no_credential_goes_along() {
    for status in [301, 302, 303, 307, 308] {
        let world = World::new();
        let elsewhere = Server::start(|_| answer("elsewhere")).await;
        let to = elsewhere.url_as("other.example.com", "/");
        let target = to.clone();
        let server = Server::start(move |_| {
            let response = Response::builder().status(status).header("location", &to);
            response.body(Empty::new().boxed_unsync()).unwrap()
        })
        .await;
        let grant = open().bearer().make();
        let response = world.get(&grant, &server.url_as("api.example.com", "/")).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["location"], target.as_str());
        assert_eq!(elsewhere.connections(), 0);
        world.get(&grant, &target).await.unwrap();
        assert_eq!(elsewhere.only().header("authorization"), None);
    }
}

#[tokio::test]
async fn a_credential_s_header_can_not_be_doubled_or_mixed() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let url = server.url_as("api.example.com", "/");
    let requests = [
        Request::get(&url).header("AUTHORIZATION", "Bearer mine"),
        Request::get(&url)
            .header("Authorization", "a")
            .header("aUTHORIZATION", "b"),
        Request::get(&url)
            .header("authorization", "{{secret:TOKEN}}")
            .header("authorization", "mine"),
        Request::get(&url).header("authorization", ""),
    ];
    for request in requests {
        let refused = world
            .egress
            .send(&open().bearer().make(), request.body(full("")).unwrap())
            .await
            .unwrap_err();
        assert!(matches!(refused, EgressError::ForbiddenHeader { .. }), "{refused}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn each_decision_has_one_row_and_no_row_tells_what_was_sent() {
    const MARK: &str = "marked-7f3a";
    let (world, server) = (World::new(), Server::start(|_| answer(MARK)).await);
    let request = |url: &str, header: &str| Request::post(url).header(header, MARK).body(full(MARK)).unwrap();
    let query = format!("/?q={MARK}");
    let decisions = [
        (request(&server.url(&query), "x-own"), "completed"),
        (
            request(&format!("https://elsewhere.example.com{query}"), "x-own"),
            "denied",
        ),
        (request(&server.url(&query), "upgrade"), "denied"),
        (request(&format!("http://user@127.0.0.1{query}"), "x-own"), "denied"),
        (
            request(
                &server.url_as("api.example.com", &format!("{query}&a={{{{secret:NONE}}}}")),
                "x-own",
            ),
            "denied",
        ),
        (
            request(&format!("http://nowhere.example.com{query}"), "x-own"),
            "denied",
        ),
    ];
    let grant = open().bearer().make();
    let count = decisions.len();
    for (request, expected) in decisions {
        let answered = async { text(world.egress.send(&grant, request).await?).await };
        assert_eq!(answered.await.is_ok(), expected == "completed");
    }
    let _ = world
        .get(&grant, &server.url_as("api.example.com", &format!("/?q={SECRET}")))
        .await;
    world.egress.flush().await;
    let rows = world.ledger.entries();
    assert_eq!(rows.len(), count + 1);
    let shown = format!("{rows:?}");
    assert!(!shown.contains(MARK) && !shown.contains(SECRET), "{shown}");
}

#[tokio::test]
async fn what_looks_like_a_key_is_noted_and_passes() {
    let token = format!("ghp{}{}", "_", "a1B2".repeat(9));
    let key = format!("-----BEGIN {} KEY-----", "PRIVATE");
    let (world, body) = (World::new(), key.clone());
    let server = Server::start(move |_| answer(body.clone())).await;
    let request = Request::post(server.url(&format!("/?t={token}")))
        .header("x-own", &token)
        .body(full(key.clone()))
        .unwrap();
    let response = world.egress.send(&open().make(), request).await.unwrap();
    assert_eq!(text(response).await.unwrap(), key);
    assert!(server.only().uri.contains(&token));
    let entry = world.settled().await;
    let seen: Vec<_> = entry.shapes.iter().map(|seen| (seen.kind, seen.place)).collect();
    assert_eq!(
        seen,
        [
            (ShapeKind::GithubToken, ShapePlace::RequestUrl),
            (ShapeKind::GithubToken, ShapePlace::RequestHeaders),
            (ShapeKind::PrivateKey, ShapePlace::RequestBody),
            (ShapeKind::PrivateKey, ShapePlace::ResponseBody),
        ]
    );
    assert!(!format!("{entry:?}").contains(&token));
}

#[tokio::test]
async fn a_value_that_a_credential_injects_is_no_shape_in_the_request() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let token = format!("ghp{}{}", "_", "a1B2".repeat(9));
    let inject = Injection::header("authorization", "Bearer {}").unwrap();
    let grant = open().credential("GITHUB", &token, "api.example.com", inject).make();
    let url = server.url_as("api.example.com", "/");
    text(world.egress.send(&grant, get(&url)).await.unwrap()).await.unwrap();
    assert_eq!(world.settled().await.shapes, []);
}
