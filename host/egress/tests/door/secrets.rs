//! Secrets: where they go, and that they don't come back.

use crate::support::{SECRET, Server, World, allow, answer, bytes_server, chunks, full, get, open, text};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fumehood_core::{
    ledger::{EgressOutcome, ShapePlace},
    name::SecretName,
};
use fumehood_egress::{EgressError, RequestPart};
use fumehood_policy::credential::Injection;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::convert::Infallible;

fn token() -> SecretName {
    SecretName::new("TOKEN").unwrap()
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn a_credential_goes_to_its_host_and_no_other() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let grant = open().bearer().make();
    for name in ["api.example.com", "other.example.com", "127.0.0.1"] {
        text(world.get(&grant, &server.url_as(name, "/")).await.unwrap())
            .await
            .unwrap();
    }
    let authorization: Vec<_> = server
        .seen()
        .iter()
        .map(|seen| seen.header("authorization").map(str::to_owned))
        .collect();
    assert_eq!(authorization, [Some(format!("Bearer {SECRET}")), None, None]);
    let named: Vec<_> = world.ledger.entries().into_iter().map(|entry| entry.secrets).collect();
    assert_eq!(named, [vec![token()], vec![], vec![]]);
}

#[tokio::test]
async fn a_credential_can_be_a_query_parameter_or_basic() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let query = open()
        .credential("TOKEN", SECRET, "api.example.com", Injection::query("key").unwrap())
        .make();
    let basic = open()
        .credential("TOKEN", SECRET, "api.example.com", Injection::basic_user("me").unwrap())
        .make();
    world
        .get(&query, &server.url_as("api.example.com", "/a?b=1"))
        .await
        .unwrap();
    world
        .get(&query, &server.url_as("api.example.com", "/a"))
        .await
        .unwrap();
    world.get(&basic, &server.url_as("api.example.com", "/")).await.unwrap();
    let encoded = "s3cr3t%2FV4lue%2Bwith%3Dodd%26chars";
    let seen = server.seen();
    assert_eq!(seen[0].uri, format!("/a?b=1&key={encoded}"));
    assert_eq!(seen[1].uri, format!("/a?key={encoded}"));
    let expected = format!("Basic {}", STANDARD.encode(format!("me:{SECRET}")));
    assert_eq!(seen[2].header("authorization"), Some(&*expected));
    assert!(
        world.ledger.entries().iter().all(|entry| entry.path.len() <= 2),
        "the ledger keeps no query"
    );
}

#[tokio::test]
async fn a_place_that_a_credential_fills_is_not_the_tools_to_fill() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let request = Request::get(server.url_as("api.example.com", "/")).header("authorization", "Bearer other");
    let refused = world
        .egress
        .send(&open().bearer().make(), request.body(full("")).unwrap())
        .await
        .unwrap_err();
    assert!(matches!(refused, EgressError::ForbiddenHeader { .. }), "{refused}");
    // A server that reads headers from environment variables takes `_` for `-`.
    let key = open()
        .credential(
            "TOKEN",
            SECRET,
            "api.example.com",
            Injection::header("x-api-key", "{}").unwrap(),
        )
        .make();
    let request = Request::get(server.url_as("api.example.com", "/")).header("x_api_key", "other");
    let refused = world
        .egress
        .send(&key, request.body(full("")).unwrap())
        .await
        .unwrap_err();
    assert!(matches!(refused, EgressError::ForbiddenHeader { .. }), "{refused}");
    let query = open()
        .credential("TOKEN", SECRET, "api.example.com", Injection::query("key").unwrap())
        .make();
    for path in ["/?key=1", "/?a=1&k%65y=2", "/?a;key=3"] {
        let refused = world
            .get(&query, &server.url_as("api.example.com", path))
            .await
            .unwrap_err();
        assert_eq!(
            refused,
            EgressError::ForbiddenParameter { name: "key".to_owned() },
            "{path}"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_placeholder_is_replaced_towards_its_host() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let url = server.url_as(
        "api.example.com",
        "/?a={{secret:TOKEN}}&b=%7B%7Bsecret%3ATOKEN%7D%7D&c=1",
    );
    let request = Request::get(url)
        .header("x-key", "k {{secret:TOKEN}}")
        .header("authorization", "token {{secret:TOKEN}}");
    world
        .egress
        .send(&open().bearer().make(), request.body(full("{{secret:TOKEN}}")).unwrap())
        .await
        .unwrap();
    let (seen, encoded) = (server.only(), "s3cr3t%2FV4lue%2Bwith%3Dodd%26chars");
    assert_eq!(seen.uri, format!("/?a={encoded}&b={encoded}&c=1"));
    assert_eq!(seen.header("x-key"), Some(&*format!("k {SECRET}")));
    assert_eq!(
        seen.header("authorization"),
        Some(&*format!("token {SECRET}")),
        "the tool chose the format"
    );
    assert_eq!(&*seen.body, b"{{secret:TOKEN}}", "a body is the tool's own");
    assert_eq!(world.ledger.only().secrets, [token()]);
}

#[tokio::test]
async fn a_placeholder_towards_another_host_is_refused() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let grant = open().bearer().secret("LOOSE", "a value without a host").make();
    let headers = |host, value| {
        Request::get(server.url_as(host, "/"))
            .header("x-key", value)
            .body(full(""))
            .unwrap()
    };
    for request in [
        headers("other.example.com", "{{secret:TOKEN}}"),
        headers("api.example.com", "{{secret:LOOSE}}"),
        headers("api.example.com", "{{secret:NEVER_HEARD_OF}}"),
        get(&server.url_as("other.example.com", "/?k={{secret:TOKEN}}")),
        get(&server.url_as("other.example.com", "/?k=%7b%7bsecret%3aTOKEN%7d%7d")),
    ] {
        let refused = world.egress.send(&grant, request).await.unwrap_err();
        assert!(matches!(refused, EgressError::UnboundSecret { .. }), "{refused}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_value_that_the_guard_can_not_find_is_not_sent() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let header = || Injection::header("x-key", "{}").unwrap();
    for grant in [
        open().credential("PIN", "123", "api.example.com", header()).make(),
        open().credential("PIN", " \n", "api.example.com", header()).make(),
        // Found as it is, but not in base64.
        open().credential("PIN", "pin1234", "api.example.com", header()).make(),
        open()
            .unguarded("PIN", "long enough but not told", "api.example.com", header())
            .make(),
    ] {
        let refused = world
            .get(&grant, &server.url_as("api.example.com", "/"))
            .await
            .unwrap_err();
        assert!(matches!(refused, EgressError::UnguardedSecret { .. }), "{refused}");
    }
    let broken = open()
        .credential("PIN", "line one\nline two", "api.example.com", header())
        .make();
    let refused = world
        .get(&broken, &server.url_as("api.example.com", "/"))
        .await
        .unwrap_err();
    assert!(matches!(refused, EgressError::UnusableSecret { .. }), "{refused}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn an_echo_comes_back_without_the_value_in_any_encoding() {
    let world = World::new();
    let server = Server::start(|seen| {
        let value = seen
            .header("authorization")
            .unwrap()
            .strip_prefix("Bearer ")
            .unwrap()
            .to_owned();
        let forms = [
            value.clone(),
            STANDARD.encode(&value),
            STANDARD.encode(format!("u:{value}")),
            STANDARD.encode(format!("us:{value}")),
            hex(&value),
            hex(&value).to_uppercase(),
            utf8_percent_encode(&value, NON_ALPHANUMERIC).to_string(),
            value.chars().rev().collect(),
            serde_like_json(&value),
        ];
        let mut response = answer(forms.join("\n"));
        response
            .headers_mut()
            .insert("x-echo", format!("<{value}>").parse().unwrap());
        response
    })
    .await;
    let response = world
        .get(&open().bearer().make(), &server.url_as("api.example.com", "/"))
        .await
        .unwrap();
    assert_eq!(response.headers()["x-echo"], "<[secret:TOKEN]>");
    assert!(!response.headers().contains_key("content-length"));
    let text = text(response).await.unwrap();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines {
        assert!(line.contains("[secret:TOKEN]"), "{line}");
        assert!(line.len() < "[secret:TOKEN]".len() + 12, "{line}");
    }
    assert_eq!(lines.len(), 9);
}

/// As PHP and others write it: the slash escaped.
fn serde_like_json(value: &str) -> String {
    format!("\"{}\"", value.replace('/', "\\/"))
}

#[tokio::test]
async fn a_value_split_over_chunks_is_found() {
    let world = World::new();
    let server = Server::start(|_| {
        let frames = format!("before {SECRET} after").into_bytes().into_iter();
        let frames = frames.map(|b| Ok::<_, Infallible>(http_body::Frame::data(Bytes::from(vec![b]))));
        Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync())
    })
    .await;
    let response = world.get(&open().bearer().make(), &server.url("/")).await.unwrap();
    assert_eq!(text(response).await.unwrap(), "before [secret:TOKEN] after");
}

#[tokio::test]
async fn a_value_in_trailers_is_found() {
    let address = bytes_server(
        b"HTTP/1.1 200 OK\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n\
          4\r\nbody\r\n0\r\nx-end: s3cr3t/V4lue+with=odd&chars\r\n\r\n",
    )
    .await;
    let world = World::new();
    let response = world
        .get(&open().bearer().make(), &format!("http://{address}/"))
        .await
        .unwrap();
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-end"], "[secret:TOKEN]");
    assert_eq!(collected.to_bytes(), "body");
    assert_eq!(world.settled().await.outcome, EgressOutcome::Completed { status: 200 });
}

#[tokio::test]
async fn trailers_count_as_part_of_the_answer_and_tell_nothing_about_the_connection() {
    let address = bytes_server(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\
          x-end: 1\r\nconnection: close\r\nproxy-authenticate: x\r\ncontent-length: 9\r\n\r\n",
    )
    .await;
    let world = World::new();
    let (url, grant) = (format!("http://{address}/"), |limit| open().limits(limit, 1, 9).make());
    let response = world.get(&grant(1000), &url).await.unwrap();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().unwrap();
    assert_eq!((trailers.len(), &trailers["x-end"]), (1, &"1".parse().unwrap()));
    let response = world.get(&grant(20), &url).await.unwrap();
    let failed = response.into_body().collect().await.unwrap_err();
    assert!(matches!(failed, EgressError::BodyTooLarge { .. }), "{failed}");
}

#[tokio::test]
async fn a_key_in_the_trailers_is_noted_in_the_ledger() {
    let key = format!("ghp{}{}", "_", "a1B2".repeat(9));
    let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-end: {key}\r\n\r\n");
    let address = bytes_server(Box::leak(answer.into_boxed_str()).as_bytes()).await;
    let world = World::new();
    let response = world.get(&open().make(), &format!("http://{address}/")).await.unwrap();
    response.into_body().collect().await.unwrap();
    let shapes = world.settled().await.shapes;
    assert!(
        shapes.iter().any(|seen| seen.place == ShapePlace::ResponseHeaders),
        "{shapes:?}"
    );
}

#[tokio::test]
async fn a_value_that_is_echoed_where_only_words_are_expected_is_told_to_nobody() {
    const TOKEN: &str = "Sh0rtTokenInMixedCase";
    let inject = || Injection::header("x-key", "{}").unwrap();
    let grant = || open().credential("TOKEN", TOKEN, "api.example.com", inject()).make();
    for head in [
        format!("content-encoding: {TOKEN}"),
        format!("transfer-encoding: {TOKEN}, chunked"),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        let address = bytes_server(Box::leak(answer.into_boxed_str()).as_bytes()).await;
        let world = World::new();
        let url = format!("http://api.example.com:{}/", address.port());
        let failed = world.get(&grant(), &url).await.unwrap_err().to_string();
        let entry = format!("{:?}", world.settled().await);
        for shown in [failed, entry] {
            assert!(!shown.contains("Sh0rt"), "{shown}");
        }
    }
    // A header's name arrives in lower case, whatever the server wrote.
    let answer = format!("HTTP/1.1 200 OK\r\n{TOKEN}: 1\r\nx-{TOKEN}-x: 2\r\nx-ok: 3\r\ncontent-length: 0\r\n\r\n");
    let address = bytes_server(Box::leak(answer.into_boxed_str()).as_bytes()).await;
    let url = format!("http://api.example.com:{}/", address.port());
    let response = World::new().get(&grant(), &url).await.unwrap();
    let names: Vec<_> = response.headers().keys().map(http::HeaderName::as_str).collect();
    assert!(!names.iter().any(|name| name.contains("sh0rt")), "{names:?}");
    assert!(names.contains(&"x-ok"));
}

#[tokio::test]
async fn a_value_in_what_is_no_url_or_method_is_not_repeated_in_part() {
    let value = "long-enough-to-be-cut-".repeat(8);
    let grant = open().secret("LONG", &value).make();
    let world = World::new();
    let method = http::Method::from_bytes(value.as_bytes()).unwrap();
    let by_method = Request::builder().method(method).uri("http://127.0.0.1:1/");
    let by_scheme = Request::get(format!("http://user:{value}@127.0.0.1:1/"));
    for request in [by_method, by_scheme] {
        let refused = world
            .egress
            .send(&grant, request.body(full("")).unwrap())
            .await
            .unwrap_err();
        assert!(matches!(refused, EgressError::LeakBlocked { .. }), "{refused}");
    }
    let shown = format!("{:?}", world.ledger.entries());
    assert!(!shown.contains("long-enough"), "{shown}");
}

#[tokio::test]
async fn a_request_that_holds_a_value_is_blocked_and_the_ledger_says_whose() {
    let server = Server::start(|_| answer("no")).await;
    let encoded = STANDARD.encode(SECRET);
    let blocked = |part| EgressError::LeakBlocked { secret: token(), part };
    let post = |body| Request::post(server.url("/")).body(body).unwrap();
    let header = Request::get(server.url("/"))
        .header("x-note", SECRET)
        .body(full(""))
        .unwrap();
    let percent = utf8_percent_encode(SECRET, NON_ALPHANUMERIC);
    let split = SECRET.split_at(5);
    let cases = [
        (get(&server.url(&format!("/?q={percent}"))), RequestPart::Url),
        (get(&server.url(&format!("/{percent}"))), RequestPart::Url),
        (get(&server.url(&format!("/?q={encoded}"))), RequestPart::Url),
        (get(&server.url(&format!("/{}", hex(SECRET)))), RequestPart::Url),
        (header, RequestPart::Headers),
        (post(full(format!("{{\"x\":\"{SECRET}\"}}"))), RequestPart::Body),
        (post(chunks(vec![split.0.into(), split.1.into()])), RequestPart::Body),
        (post(full(encoded)), RequestPart::Body),
    ];
    for (request, part) in cases {
        let world = World::new();
        let grant = open().bearer().make();
        assert_eq!(world.egress.send(&grant, request).await.unwrap_err(), blocked(part));
        let entry = world.settled().await;
        let (EgressOutcome::Denied { reason } | EgressOutcome::Failed { reason }) = &entry.outcome else {
            panic!("{entry:?}");
        };
        assert!(reason.contains("TOKEN"), "{reason}");
        let record = format!("{entry:?}");
        for form in [SECRET, &*percent.to_string(), &*hex(SECRET)] {
            assert!(!record.contains(form), "{record}");
        }
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn nothing_of_a_value_in_a_streamed_body_leaves() {
    let world = World::new();
    let received = std::sync::Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let (log, done) = (received.clone(), std::sync::Arc::new(tokio::sync::Notify::new()));
    let notify = done.clone();
    let address = crate::support::raw_server(move |mut stream| {
        let (log, notify) = (log.clone(), notify.clone());
        async move {
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut *log.lock().await).await;
            notify.notify_one();
        }
    })
    .await;
    let body = chunks(vec![
        "public ".into(),
        SECRET[..9].to_owned().into(),
        SECRET[9..].to_owned().into(),
    ]);
    let request = Request::post(format!("http://{address}/")).body(body).unwrap();
    world.egress.send(&open().bearer().make(), request).await.unwrap_err();
    done.notified().await;
    let received = String::from_utf8(received.lock().await.clone()).unwrap();
    assert!(!received.contains("s3"), "{received}");
}

#[tokio::test]
async fn what_is_shown_of_a_grant_or_an_error_holds_no_value() {
    let (world, server) = (World::new(), Server::start(|_| answer("")).await);
    let grant = allow(&["http://127.0.0.1:*"]).bearer().make();
    let error = world
        .get(&grant, &server.url(&format!("/?q={}", hex(SECRET))))
        .await
        .unwrap_err();
    for text in [format!("{grant:?}"), format!("{error:?} {error}")] {
        assert!(!text.contains("s3cr3t") && !text.contains(&hex(SECRET)), "{text}");
    }
}
