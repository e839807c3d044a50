//! What a tool asks for: whatever it writes into its request, a server gets one request, the one that was decided on, or
//! none. Input: method, authority (`.`: the server's), path, headers as `name: value` one a line, an empty line, the body.

use crate::outside::{OUTSIDE, SECRET};
use bytes::Bytes;
use http::Request;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

pub(crate) fn run(input: &[u8]) {
    let Some(request) = request(input) else { return };
    let (method, body) = (request.method().clone(), request.body().clone());
    let exchanged = OUTSIDE.exchange(request, ANSWER);
    if exchanged.answer.is_err() {
        // Refused, or cut off: what left of it is at most a beginning of the one request.
        assert!(heads(&exchanged.got) <= 1, "more than one request left");
        return;
    }
    let end = exchanged
        .got
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .expect("a head");
    // Values may hold bytes above 0x7f.
    let head = String::from_utf8_lossy(&exchanged.got[..end]).into_owned();
    assert_eq!(
        exchanged.got[end + 4..],
        body[..],
        "another body arrived, or something behind it"
    );
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let (got_method, rest) = first.split_once(' ').expect("a request line");
    let (got_path, version) = rest.split_once(' ').expect("a request line");
    // Decided on and sent in capitals: no rule distinguishes `post` from `POST`, and some servers do not.
    let method = method.as_str().to_ascii_uppercase();
    assert_eq!((got_method, version), (&*method, "HTTP/1.1"), "{first}");
    decided_on(&method, got_path);
    assert!(got_path.starts_with('/'), "{first}");
    headers(lines);
}

/// What arrived is something that the rules allow.
fn decided_on(method: &str, path: &str) {
    let path = path.split('?').next().unwrap_or_default();
    let below = |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    assert!(below("/open") || (method == "GET" && below("/read")), "{method} {path}");
    assert!(
        !path.split('/').any(|segment| segment == ".." || segment == "."),
        "{path}"
    );
}

fn headers<'a>(lines: impl Iterator<Item = &'a str>) {
    let mut hosts = 0;
    for line in lines {
        assert!(
            !line.contains(['\r', '\n']) && !line.starts_with([' ', '\t']),
            "{line:?}"
        );
        let (name, value) = line.split_once(':').expect("a header");
        match name {
            "host" => {
                hosts += 1;
                assert_eq!(value.trim(), OUTSIDE.authority);
            }
            "transfer-encoding" | "connection" | "upgrade" | "te" | "proxy-connection" | "proxy-authorization" => {
                panic!("{line} left");
            }
            // In the host's format, or in the tool's around a placeholder.
            "x-key" => assert!(value.contains(SECRET), "the tool's own value left: {value}"),
            _ => {}
        }
    }
    assert_eq!(hosts, 1, "a request names its host once");
}

fn heads(got: &[u8]) -> usize {
    got.windows(9).filter(|window| *window == b" HTTP/1.1").count()
}

fn request(input: &[u8]) -> Option<Request<Bytes>> {
    let (head, body) = match input.windows(2).position(|bytes| bytes == b"\n\n") {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let method = lines.next()?;
    let authority = std::str::from_utf8(lines.next()?).ok()?;
    let authority = if authority == "." {
        &OUTSIDE.authority
    } else {
        authority
    };
    let path = std::str::from_utf8(lines.next()?).ok()?;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://{authority}{path}"));
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..]);
        request = request.header(&line[..colon], value);
    }
    // A body says " HTTP/1.1" only where the harness could not tell it from a request.
    (heads(body) == 0).then_some(())?;
    request.body(Bytes::copy_from_slice(body)).ok()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    crate::owned(&[
        "GET\n.\n/open/a?x=1\naccept: text/plain\n\n",
        "GET\n.\n/open\nx-key: mine: {{secret:KEY}}\n\n",
        "GET\n.\n/open\nx-key: mine\n\n",
        "POST\n.\n/open\ncontent-length: 5\ncontent-type: text/plain\n\nhello",
        "POST\n.\n/open\ncontent-length: 4\n\nhello",
        "POST\n.\n/open\ntransfer-encoding: chunked\n\n0\r\n\r\nGET /x",
        "GET\n.\n/read/../open/%2e%2e/read\nhost: example.com\n\n",
        "POST\n.\n/read\nx-key: mine\n\n",
        "GET\n127.0.0.1:80@127.0.0.1\n/open\n\n",
        "GET\n.\n/open/{{secret:KEY}}\nx-other: {{secret:KEY}}\n\n",
        "CONNECT\n.\n/open\n\n",
        "GET\n.\n/open\nconnection: x-key\nupgrade: h2c\nhttp2-settings: a\n\n",
        "GET\n.\n/open\nx-fold: a\tb\nexpect: 100-continue\n\n",
        "GET\n.\n/openevil\n\n",
        "OPTIONS\n.\n*\n\n",
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_seeds_reach_the_server() {
        for seed in &seeds()[..2] {
            let exchanged = OUTSIDE.exchange(request(seed).unwrap(), ANSWER);
            assert!(exchanged.answer.is_ok(), "{:?}", exchanged.answer);
            assert_eq!(heads(&exchanged.got), 1);
        }
    }
}
