//! Servers that answer as nobody should, and what a call makes of it: an answer within its limits or an error, soon, and
//! a host that goes on.

use crate::{LOOPBACK, Process, still_serves};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::{Host, Place, guest};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A server that says what it is told to, whatever it was asked.
struct Rogue {
    port: u16,
    task: JoinHandle<()>,
}

impl Rogue {
    /// Answers each connection's first request.
    async fn start<F>(answer: impl Fn(String, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                let mut piece = [0; 4096];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut piece).await {
                        Ok(0) | Err(_) => break,
                        Ok(read) => head.extend_from_slice(&piece[..read]),
                    }
                }
                tokio::spawn(answer(String::from_utf8_lossy(&head).into_owned(), stream));
            }
        });
        Self { port, task }
    }

    /// Always says the same, and closes.
    async fn saying(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Vec<u8> = bytes.into();
        Self::start(move |_, mut stream| {
            let bytes = bytes.clone();
            async move {
                // Whoever does not want to hear it hangs up.
                let _ = stream.write_all(&bytes).await;
            }
        })
        .await
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Rogue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn host(place: &Place, more: Value) -> Host {
    let host = place.serve().await;
    let mut grant = json!({"network": {"allow": ["http://127.0.0.1:*"]}});
    for (key, value) in more.as_object().unwrap() {
        grant[key] = value.clone();
    }
    host.add_component(&guest("hostile"), None, grant).await;
    host
}

async fn fetch(host: &Host, url: &str) -> Value {
    host.call("http_get", None, json!({"url": url})).await
}

#[tokio::test]
async fn a_server_that_drips_holds_a_call_no_longer_than_its_time() {
    let rogue = Rogue::start(|_, mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
            .await;
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let place = Place::new(LOOPBACK);
    let host = host(&place, json!({"limits": {"time": "1s"}})).await;
    let result = fetch(&host, &rogue.url()).await;
    assert_eq!(result["error"]["code"], "timeout", "{result}");
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_not_kept() {
    let rogue = Rogue::start(|_, mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let mut chunk = b"10000\r\n".to_vec();
        chunk.extend_from_slice(&[b'x'; 0x10000]);
        chunk.extend_from_slice(b"\r\n");
        while stream.write_all(&chunk).await.is_ok() {}
    })
    .await;
    let place = Place::new(LOOPBACK);
    let host = host(&place, json!({"limits": {"http_body": "64MiB", "http_bytes": "1MiB"}})).await;
    let before = Process::of(&host).status("VmHWM");
    for _ in 0..5 {
        let result = fetch(&host, &rogue.url()).await;
        assert_ne!(result["status"], "ok", "{result}");
    }
    let grown = Process::of(&host).status("VmHWM") - before;
    assert!(grown < 32 << 10, "the host took {grown} KiB");
    host.stop().await;
}

#[tokio::test]
async fn answers_that_are_no_answers_are_errors() {
    let flood: String = (0..20_000).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let long = "y".repeat(1 << 20);
    let answers: [(&str, String); 7] = [
        ("closes at once", String::new()),
        ("breaks off in its head", "HTTP/1.1 200 OK\r\ncontent-len".into()),
        (
            "breaks off in its body",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".into(),
        ),
        ("is not HTTP", "SSH-2.0-OpenSSH_9.9\r\n".into()),
        ("has very many headers", format!("HTTP/1.1 200 OK\r\n{flood}\r\n")),
        (
            "has a very long header",
            format!("HTTP/1.1 200 OK\r\nx: {long}\r\n\r\n"),
        ),
        (
            "has two lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc".into(),
        ),
    ];
    let place = Place::new(LOOPBACK);
    let host = host(&place, json!({})).await;
    for (what, answer) in answers {
        let rogue = Rogue::saying(answer).await;
        let result = fetch(&host, &rogue.url()).await;
        assert_ne!(result["status"], "ok", "a server that {what}: {result}");
        assert_ne!(result["status"], "timeout", "a server that {what}: {result}");
    }
    still_serves(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn a_redirect_leads_nowhere_by_itself() {
    let place = Place::new(LOOPBACK);
    let host = host(&place, json!({})).await;
    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]:22/",
        "file:///etc/passwd",
        "//10.0.0.1/",
        "https://example.com/",
    ] {
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        let rogue = Rogue::saying(answer).await;
        let result = fetch(&host, &rogue.url()).await;
        assert_eq!(result["output"]["structured"]["status"], 302, "{to}: {result}");
        let followed = fetch(&host, to).await;
        assert_ne!(followed["status"], "ok", "{to}: {followed}");
    }
    host.stop().await;
}

const TOKEN: &str = "tok-3e91c07d5ab84f26";

/// A host whose tool has a credential that the tool may not see.
async fn with_credential(place: &Place) -> (Host, String) {
    let host = host(place, json!({"credential": [{"secret": "HOSTILE_TOKEN"}]})).await;
    let session = host.session(json!({"secrets": {"HOSTILE_TOKEN": TOKEN}})).await;
    (host, session)
}

#[tokio::test]
async fn an_echo_of_the_credential_comes_back_without_it_in_every_encoding() {
    let hex: String = TOKEN.bytes().map(|byte| format!("{byte:02x}")).collect();
    let percent: String = TOKEN.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let json: String = TOKEN.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    let reversed: String = TOKEN.chars().rev().collect();
    let base64 = STANDARD.encode(TOKEN);
    let shifted = STANDARD.encode(format!("x{TOKEN}y"));
    let shifted_more = STANDARD.encode(format!("xx{TOKEN}yy"));
    let upper = hex.to_uppercase();
    let spoken = [
        TOKEN,
        &hex,
        &upper,
        &percent,
        &json,
        &reversed,
        &base64,
        &shifted,
        &shifted_more,
    ];
    let place = Place::new(LOOPBACK);
    let (host, session) = with_credential(&place).await;
    for form in spoken {
        let body = format!("<{form}>");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nx-echo: {form}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let rogue = Rogue::saying(answer).await;
        let result = host
            .call("http_get", Some(&session), json!({"url": rogue.url()}))
            .await
            .to_string();
        assert!(!result.contains(form), "{form}: {result}");
        assert!(!result.contains(TOKEN), "{form}: {result}");
    }
    let events = json!(host.events(&session).await).to_string();
    assert!(!events.contains(TOKEN));
    assert!(!host.stop().await.contains(TOKEN));
}

#[tokio::test]
async fn a_compressed_echo_of_the_credential_does_not_come_back() {
    let place = Place::new(LOOPBACK);
    let (host, session) = with_credential(&place).await;
    for encoding in ["gzip", "deflate", "br", "zstd", "compress", "gzip, gzip"] {
        // Whoever does not look inside sees only bytes, and whoever decodes them later sees the value.
        let body = gzip(format!("Bearer {TOKEN}").as_bytes());
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(&body);
        let rogue = Rogue::saying(answer).await;
        let result = host.call("http_get", Some(&session), json!({"url": rogue.url()})).await;
        let text = result.to_string();
        assert!(!text.contains(TOKEN), "{encoding}: {text}");
        // Decoded and cleaned, or refused; never handed on as it came.
        if result["status"] == "ok" {
            assert!(text.contains("[secret:HOSTILE_TOKEN]"), "{encoding}: {text}");
        }
    }
    host.stop().await;
}

/// A gzip member of one block with the fixed Huffman codes of RFC 1951 (3.2.6): no byte of the data shows in it.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut count) = (0_u32, 0);
    let mut put = |out: &mut Vec<u8>, value: u32, width: u32| {
        bits |= value << count;
        count += width;
        while count >= 8 {
            out.push((bits & 0xff) as u8);
            bits >>= 8;
            count -= 8;
        }
    };
    // The last block, fixed codes.
    put(&mut out, 0b011, 3);
    for byte in data {
        assert!(*byte < 144, "only the eight-bit codes");
        let code = (u32::from(*byte) + 0x30).reverse_bits() >> 24;
        put(&mut out, code, 8);
    }
    // The end, and the rest of its byte.
    put(&mut out, 0, 7);
    put(&mut out, 0, 7);
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    out.extend_from_slice(&(!crc).to_le_bytes());
    out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    out
}
