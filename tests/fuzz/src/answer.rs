//! What a server answers: any bytes end the exchange, and neither the secret nor a header about the connection comes
//! back. Input: the bytes of the answer.

use crate::outside::{BODY_LIMIT, OUTSIDE, SECRET};
use bytes::Bytes;
use http::Request;

/// Headers that speak for a connection, not for an answer.
const ABOUT_THE_CONNECTION: [&str; 5] = ["connection", "keep-alive", "transfer-encoding", "upgrade", "trailer"];

pub(crate) fn run(input: &[u8]) {
    let url = format!("http://{}/open", OUTSIDE.authority);
    let request = Request::get(url).body(Bytes::new()).expect("a request");
    let Ok(answer) = OUTSIDE.exchange(request, input).answer else {
        return;
    };
    assert!(
        answer.body().len() as u64 <= BODY_LIMIT + SECRET.len() as u64,
        "a body beyond its limit"
    );
    assert!(!holds_secret(answer.body()), "the secret comes back in the body");
    assert_ne!(answer.status().as_u16(), 101, "the protocol was switched");
    for (name, value) in answer.headers() {
        assert!(!ABOUT_THE_CONNECTION.contains(&name.as_str()), "{name} comes back");
        assert!(!holds_secret(value.as_bytes()), "the secret comes back in {name}");
        assert!(
            name != "content-encoding" || value == "identity",
            "an encoded answer comes back"
        );
    }
}

fn holds_secret(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let echo = format!("HTTP/1.1 200 OK\r\nx-echo: Key {SECRET}\r\ncontent-length: 33\r\n\r\nKey {SECRET}!!");
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ns3cr3\r\n16\r\nt/V4lue+with=odd&chars\r\n0\r\nx-trailer: s3cr3t/V4lue+with=odd&chars\r\n\r\n";
    let mut seeds = crate::owned(&[
        &echo,
        chunked,
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\nconnection: keep-alive, x-a\r\nx-a: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\nabc",
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
        "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        "HTTP/1.1 999 \r\n\r\n",
        "nonsense",
    ]);
    seeds.push(Vec::new());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_seeds_are_answers_with_the_secret_taken_out() {
        for seed in &seeds()[..2] {
            let url = format!("http://{}/open", OUTSIDE.authority);
            let request = Request::get(url).body(Bytes::new()).unwrap();
            let answer = OUTSIDE.exchange(request, seed).answer.unwrap();
            assert!(
                answer.body().windows(12).any(|bytes| bytes == b"[secret:KEY]"),
                "{answer:?}"
            );
        }
    }
}
