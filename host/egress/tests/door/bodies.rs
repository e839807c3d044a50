//! Bodies under limits of size and time, both ways.

use crate::support::{Server, World, answer, bytes_server, chunks, full, open, raw_server, text};
use bytes::Bytes;
use fumehood_core::ledger::EgressOutcome;
use fumehood_egress::{Direction, EgressError, Wait};
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use std::{convert::Infallible, time::Duration};
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn a_request_body_over_the_limit_is_refused_by_its_length() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    let request = Request::post(server.url("/")).body(full(vec![b'x'; 101])).unwrap();
    let failed = world
        .egress
        .send(&open().limits(100, 100, 9).make(), request)
        .await
        .unwrap_err();
    assert_eq!(
        failed,
        EgressError::BodyTooLarge {
            direction: Direction::Request,
            limit: 100
        }
    );
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_streamed_request_body_over_the_limit_is_cut_off() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    let body = chunks(vec![Bytes::from_static(&[b'x'; 60]); 3]);
    let request = Request::post(server.url("/")).body(body).unwrap();
    let failed = world
        .egress
        .send(&open().limits(100, 100, 9).make(), request)
        .await
        .unwrap_err();
    assert_eq!(
        failed,
        EgressError::BodyTooLarge {
            direction: Direction::Request,
            limit: 100
        }
    );
    assert!(server.seen().is_empty(), "the server never saw a complete request");
    assert!(world.settled().await.bytes_sent <= 100);
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_declared_is_refused() {
    let (world, server) = (World::new(), Server::start(|_| answer("no")).await);
    for (declared, body) in [("0", "four"), ("3", "four"), ("5", "four")] {
        for body in [full(body), chunks(vec![body.into()])] {
            let request = Request::post(server.url("/"))
                .header("content-length", declared)
                .body(body)
                .unwrap();
            let failed = world.egress.send(&open().make(), request).await.unwrap_err();
            assert_eq!(failed, EgressError::LengthMismatch);
        }
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_declared_length_frames_a_streamed_body() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let body = chunks(vec!["ab".into(), "cd".into()]);
    let request = Request::post(server.url("/"))
        .header("content-length", "4")
        .body(body)
        .unwrap();
    world.egress.send(&open().make(), request).await.unwrap();
    let seen = server.only();
    assert_eq!(
        (seen.header("content-length"), seen.header("transfer-encoding")),
        (Some("4"), None)
    );
    assert_eq!(&*seen.body, b"abcd");
}

#[tokio::test]
async fn an_answer_over_the_limit_is_refused_by_its_length() {
    let (world, server) = (World::new(), Server::start(|_| answer(vec![b'x'; 101])).await);
    let failed = world
        .get(&open().limits(100, 100, 9).make(), &server.url("/"))
        .await
        .unwrap_err();
    assert_eq!(
        failed,
        EgressError::BodyTooLarge {
            direction: Direction::Response,
            limit: 100
        }
    );
}

#[tokio::test]
async fn a_streamed_answer_over_the_limit_is_cut_off() {
    let world = World::new();
    let server = Server::start(|_| {
        let endless = futures::stream::repeat_with(|| {
            Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(&[b'x'; 60])))
        });
        Response::new(StreamBody::new(endless).boxed_unsync())
    })
    .await;
    let response = world
        .get(&open().limits(100, 100, 9).make(), &server.url("/"))
        .await
        .unwrap();
    let failed = text(response).await.unwrap_err();
    assert_eq!(
        failed,
        EgressError::BodyTooLarge {
            direction: Direction::Response,
            limit: 100
        }
    );
    assert!(matches!(world.settled().await.outcome, EgressOutcome::Failed { .. }));
}

#[tokio::test]
async fn a_dripping_answer_ends_at_the_total_limit() {
    // Time enough for the answer's head, on a machine under load too.
    let total = Duration::from_secs(2);
    let world = World::with(|config| config.total_timeout = total);
    let address = raw_server(|mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            .await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let response = world.get(&open().make(), &format!("http://{address}/")).await.unwrap();
    assert_eq!(
        text(response).await.unwrap_err(),
        EgressError::Timeout {
            wait: Wait::Total,
            limit: total
        }
    );
}

#[tokio::test]
async fn an_answer_that_falls_silent_ends_at_the_idle_limit() {
    let idle = Duration::from_millis(100);
    let world = World::with(|config| config.idle_timeout = idle);
    let address = raw_server(|mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
            .await;
        std::future::pending::<()>().await;
    })
    .await;
    let response = world.get(&open().make(), &format!("http://{address}/")).await.unwrap();
    assert_eq!(
        text(response).await.unwrap_err(),
        EgressError::Timeout {
            wait: Wait::NextBytes,
            limit: idle
        }
    );
}

#[tokio::test]
async fn a_server_that_never_answers_is_left() {
    let limit = Duration::from_millis(100);
    let world = World::with(|config| config.first_byte_timeout = limit);
    let address = raw_server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
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
async fn an_answer_cut_short_is_an_error_not_an_end() {
    let world = World::new();
    let address = bytes_server(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc").await;
    let response = world.get(&open().make(), &format!("http://{address}/")).await.unwrap();
    assert!(matches!(text(response).await, Err(EgressError::Protocol { .. })));
}

#[tokio::test]
async fn answers_that_are_not_http_are_refused() {
    let huge: &'static [u8] =
        Box::leak(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(300_000)).into_boxed_str()).as_bytes();
    let cases: [&'static [u8]; 5] = [
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"",
        huge,
    ];
    for bytes in cases {
        let (world, address) = (World::new(), bytes_server(bytes).await);
        let failed = world
            .get(&open().make(), &format!("http://{address}/"))
            .await
            .unwrap_err();
        assert!(matches!(failed, EgressError::Protocol { .. }), "{failed}");
    }
}

#[tokio::test]
async fn an_encoded_answer_is_refused_because_identity_was_asked_for() {
    let world = World::new();
    let server = Server::start(|_| {
        let mut response = answer("\u{1f}not really gzip");
        response
            .headers_mut()
            .insert("content-encoding", "gzip".parse().unwrap());
        response
    })
    .await;
    let request = Request::get(server.url("/"))
        .header("accept-encoding", "gzip, br")
        .body(full(""))
        .unwrap();
    let failed = world.egress.send(&open().make(), request).await.unwrap_err();
    assert_eq!(failed, EgressError::EncodedResponse);
    assert_eq!(server.only().header("accept-encoding"), Some("identity"));
    let address = bytes_server(b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").await;
    let failed = world
        .get(&open().make(), &format!("http://{address}/"))
        .await
        .unwrap_err();
    assert!(matches!(failed, EgressError::EncodedResponse), "{failed}");
}

#[tokio::test]
async fn a_stream_of_events_is_passed_on_as_it_comes() {
    let world = World::new();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
    let server = Server::start(move |_| {
        let frames = futures::stream::unfold(receiver.clone(), |receiver| async {
            let chunk = receiver.lock().await.recv().await?;
            Some((Ok::<_, Infallible>(http_body::Frame::data(chunk)), receiver))
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    })
    .await;
    let mut body = world
        .get(&open().bearer().make(), &server.url("/"))
        .await
        .unwrap()
        .into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        sender.send(event.into()).await.unwrap();
        // The next event is sent only after this one arrived, although there is a secret to look for.
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}
