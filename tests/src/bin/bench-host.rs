//! `cargo xtask bench`: what the whole host costs, measured from outside: calls per second over loopback, the time to be
//! ready, idle memory, and what many waiting calls and many open streams cost.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

use fumehood_tests::{Host, Place, guest, world::World};
use serde_json::json;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// Connections that call at the same time.
const CLIENTS: usize = 16;
/// How long calls are counted, after a warm-up of a quarter of it.
const COUNTED: Duration = Duration::from_secs(5);
/// Calls that wait on a slow service at the same time.
const WAITING: usize = 1000;
/// Streams of events that are open at the same time.
const STREAMS: usize = 2000;
/// What keeps an org from being held back where something else is measured.
const UNLIMITED: &str =
    "[org.default.limits]\ntool_calls = \"unlimited\"\negress_requests = \"unlimited\"\nconcurrent_calls = 1250\n";
/// Calls whose times are taken, in each of a few rounds.
const TIMED: usize = 2000;
/// Rounds of the comparison of a quiet host with a crowded one.
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    println!("| what | measured |\n|---|---|");
    if "calls".contains(&wanted) {
        calls().await;
    }
    if "ready".contains(&wanted) {
        ready().await;
    }
    if "waiting".contains(&wanted) {
        waiting().await;
    }
    if "streams".contains(&wanted) {
        streams().await;
    }
    if "shares".contains(&wanted) {
        shares().await;
    }
}

/// `POST /v1/tools/{tool}/call` of the echo tool with 100 bytes.
async fn calls() {
    let place = Place::new(UNLIMITED);
    let host = place.serve().await;
    host.add_guest(
        "hostile",
        Some("name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"Echoes.\"\n"),
    )
    .await;
    let body = json!({"arguments": {"text": "x".repeat(100)}}).to_string();
    let call = request(&host, "POST /v1/tools/echo/call", &body);
    let health = request(&host, "GET /healthz", "");
    let alone = rate(&host, &health).await;
    let calls = rate(&host, &call).await;
    println!("| `GET /healthz`, {CLIENTS} connections | {alone:.0}/s |");
    println!("| `POST /v1/tools/echo/call`, 100 bytes, {CLIENTS} connections | {calls:.0}/s |");
    let times = Times::of(&host, &call).await;
    println!(
        "| the same, one connection, median / p99 | {} / {} µs |",
        times.median.as_micros(),
        times.p99.as_micros()
    );
    host.stop().await;
}

/// What calls take over one connection, one after the other.
struct Times {
    median: Duration,
    p99: Duration,
}

impl Times {
    async fn of(host: &Host, call: &[u8]) -> Self {
        let mut times = Vec::with_capacity(TIMED);
        let mut stream = connect(host).await;
        for _ in 0..TIMED {
            let start = Instant::now();
            exchange(&mut stream, call).await;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        Self {
            median: times[TIMED / 2],
            p99: times[TIMED * 99 / 100],
        }
    }
}

/// What one org's calls take on a quiet host, and while another org is at its cap of 64 calls: half of them endless loops, half requests
/// that hang, each begun anew when it ends.
async fn shares() {
    let world = World::start().await;
    let config = "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n[org.acme.limits]\ntool_calls = \"unlimited\"\n\
        [org.default.limits]\ntool_calls = \"unlimited\"\negress_requests = \"unlimited\"\nconcurrent_calls = 64\n";
    let place = Place::new(config);
    let acme = place.json(&["org", "create", "acme"]).await["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let host = place.serve().await;
    let grant = json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}});
    host.add_component(&guest("hostile"), None, grant).await;
    let installed = host
        .anonymous(reqwest::Method::POST, "/v1/tools?grant=requested")
        .bearer_auth(&acme)
        .header("content-type", "application/wasm")
        .body(guest("hostile"));
    assert!(installed.send().await.unwrap().status().is_success());
    let body = json!({"arguments": {"text": "x".repeat(100)}}).to_string();
    let echo = request_as(&acme, "POST /v1/tools/echo/call", &body);
    let spin = request(&host, "POST /v1/tools/spin/call", "{\"arguments\": {}}");
    let hang = json!({"arguments": {"url": world.url("/slow")}}).to_string();
    let hang = request(&host, "POST /v1/tools/http_get/call", &hang);
    Times::of(&host, &echo).await;
    for _ in 0..ROUNDS {
        let quiet = Times::of(&host, &echo).await;
        let mut crowd = JoinSet::new();
        for number in 0..64 {
            let mut stream = connect(&host).await;
            let call = if number % 2 == 0 { spin.clone() } else { hang.clone() };
            crowd.spawn(async move {
                loop {
                    exchange(&mut stream, &call).await;
                }
            });
        }
        // Until every loop has had its first slice.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let crowded = Times::of(&host, &echo).await;
        crowd.shutdown().await;
        let ratio = |crowded: Duration, quiet: Duration| crowded.as_secs_f64() / quiet.as_secs_f64();
        println!(
            "| an org's call, quiet / beside an org at its cap: median | {} / {} µs = {:.2}× |",
            quiet.median.as_micros(),
            crowded.median.as_micros(),
            ratio(crowded.median, quiet.median)
        );
        println!(
            "| the same: p99 | {} / {} µs = {:.2}× |",
            quiet.p99.as_micros(),
            crowded.p99.as_micros(),
            ratio(crowded.p99, quiet.p99)
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    host.kill().await;
}

/// From exec to a good `/readyz`, with 20 components and a warm cache; then idle memory.
async fn ready() {
    let place = Place::new("");
    let host = place.serve().await;
    for number in 0..16 {
        let text = format!(
            "(component (core module $m (func (export \"f\") (result i32) (i32.const {number}))) (core instance $i (instantiate $m)) \
             (func (export \"answer-{number}\") (result s32) (canon lift (core func $i \"f\"))))"
        );
        let manifest = format!("name = \"extra-{number}\"\nversion = \"1.0.0\"\ndescription = \"Answers.\"\n");
        host.add_component(&wat::parse_str(text).unwrap(), Some(&manifest), json!("requested"))
            .await;
    }
    host.stop().await;
    let mut times = Vec::new();
    let mut memory = 0;
    for _ in 0..9 {
        let start = Instant::now();
        let host = place.serve().await;
        host.get("/readyz").await;
        times.push(start.elapsed());
        memory = status(host.pid(), "VmRSS:");
        host.stop().await;
    }
    times.sort_unstable();
    println!(
        "| from exec to `/readyz`, 20 components, warm cache, median of 9 | {} ms |",
        times[4].as_millis()
    );
    println!("| idle memory of that host | {} MiB |", memory / 1024);
}

/// Calls that wait on a slow HTTP service.
async fn waiting() {
    let world = World::start().await;
    let place = Place::new(&format!(
        "{UNLIMITED}[network]\nprivate_networks = [\"127.0.0.1/32\"]\n"
    ));
    let host = place.serve().await;
    let grant = json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}, "limits": {"time": "60s"}});
    host.add_component(&guest("hostile"), None, grant).await;
    let session = host.session(json!({})).await;
    host.call("http_get", Some(&session), json!({"url": world.url("/warm")}))
        .await;
    let (memory, threads) = (status(host.pid(), "VmRSS:"), status(host.pid(), "Threads:"));
    let body = json!({"session": session, "arguments": {"url": world.url("/slow")}}).to_string();
    let call = request(&host, "POST /v1/tools/http_get/call", &body);
    let mut streams = Vec::new();
    for _ in 0..WAITING {
        let mut stream = connect(&host).await;
        stream.write_all(&call).await.unwrap();
        streams.push(stream);
    }
    let begun = Instant::now();
    let mut arrived = 0;
    while begun.elapsed() < Duration::from_secs(25) && arrived < WAITING {
        tokio::time::sleep(Duration::from_millis(100)).await;
        arrived = world.arrived().len() - 1;
    }
    let (more, now) = (
        status(host.pid(), "VmRSS:").saturating_sub(memory),
        status(host.pid(), "Threads:"),
    );
    println!("| calls waiting on a slow service at once, of {WAITING} begun | {arrived} |");
    println!(
        "| memory of each, connection included | {} KiB |",
        more / WAITING as u64
    );
    println!("| threads of the host, before / with them waiting | {threads} / {now} |");
    drop(streams);
    host.kill().await;
}

/// Streams of as many sessions, in which nothing happens.
async fn streams() {
    let place = Place::new(&format!("[org.default.limits]\nconcurrent_streams = {STREAMS}\n"));
    let host = place.serve().await;
    let mut sessions = Vec::new();
    for _ in 0..STREAMS {
        sessions.push(host.session(json!({})).await);
    }
    let idle = status(host.pid(), "VmRSS:");
    let mut open = Vec::new();
    for session in &sessions {
        let mut stream = connect(&host).await;
        let ask = request(&host, &format!("GET /v1/sessions/{session}/events"), "");
        stream.write_all(&ask).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(15).any(|bytes| bytes == b"session.created") {
            assert_ne!(
                stream.read_buf(&mut seen).await.unwrap(),
                0,
                "no stream: {}",
                String::from_utf8_lossy(&seen)
            );
        }
        open.push(stream);
    }
    let more = status(host.pid(), "VmRSS:").saturating_sub(idle);
    println!(
        "| memory of {STREAMS} open streams of events above that of the idle host | {} MiB |",
        more / 1024
    );
    drop(open);
    host.kill().await;
}

fn request(host: &Host, line: &str, body: &str) -> Vec<u8> {
    request_as(&host.key, line, body)
}

fn request_as(key: &str, line: &str, body: &str) -> Vec<u8> {
    format!(
        "{line} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn connect(host: &Host) -> TcpStream {
    let address: SocketAddr = host.base.strip_prefix("http://").unwrap().parse().unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Requests per second over several connections, each waiting for its answer before the next.
async fn rate(host: &Host, request: &[u8]) -> f64 {
    let start = Instant::now();
    let (from, to) = (start + COUNTED / 4, start + COUNTED / 4 + COUNTED);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut stream = connect(host).await;
        let request = request.to_vec();
        clients.spawn(async move {
            let mut counted = 0_u32;
            while Instant::now() < to {
                exchange(&mut stream, &request).await;
                counted += u32::from(Instant::now() >= from);
            }
            counted
        });
    }
    let counted: u32 = clients.join_all().await.into_iter().sum();
    f64::from(counted) / COUNTED.as_secs_f64()
}

/// Sends a request and reads its answer, without the cost of a whole HTTP client on the same cores.
async fn exchange(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::with_capacity(2048);
    loop {
        assert_ne!(
            stream.read_buf(&mut answer).await.unwrap(),
            0,
            "the host closed the connection"
        );
        let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&answer[..head]).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let length = text
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length:")
                    .map(|n| n.trim().parse::<usize>().unwrap())
            })
            .expect("an answer with a length");
        if answer.len() >= head + 4 + length {
            return;
        }
    }
}

/// A number of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
