//! Reaching for the network, the session's key-values, secrets and other tools.

use fumehood::{
    Failure, Output, http, jobs, kv, peers,
    secrets::{self, Algorithm},
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::HashMap,
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

/// The most of a body that is returned.
const BODY: usize = 1 << 20;

/// Opens a TCP connection past the host's door.
#[fumehood::tool(open_world)]
pub fn tcp_connect(
    /// `address:port`
    address: String,
) -> Result<String, Failure> {
    TcpStream::connect(address.as_str())?;
    Ok(format!("connected to {address}"))
}

/// Resolves a name past the host's door.
#[fumehood::tool(open_world, read_only)]
pub fn dns_lookup(
    /// The name.
    name: String,
) -> Result<String, Failure> {
    let addresses: Vec<String> = (name.as_str(), 80)
        .to_socket_addrs()?
        .map(|address| address.to_string())
        .collect();
    Ok(addresses.join(" "))
}

/// Requests a URL.
#[fumehood::tool(open_world)]
pub fn http_get(
    /// Where to.
    url: String,
    /// Headers to send.
    #[serde(default)]
    headers: HashMap<String, String>,
    /// `GET` if not given.
    method: Option<String>,
    /// The body to send.
    body: Option<String>,
) -> Result<serde_json::Value, Failure> {
    let mut request = http::Request::new(method.as_deref().unwrap_or("GET"), url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if let Some(body) = body {
        request = request.body(body);
    }
    let answer = request.send()?;
    let status = answer.status();
    let headers: HashMap<String, String> = answer
        .headers()
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into_owned()))
        .collect();
    let body = answer.text(BODY)?;
    Ok(serde_json::json!({"status": status, "headers": headers, "body": body}))
}

/// Requests a URL many times and counts what became of the requests.
#[fumehood::tool(open_world)]
pub fn http_get_many(
    /// Where to.
    url: String,
    /// How many times.
    n: u32,
    /// How many at a time; 1 if not given.
    parallel: Option<u32>,
) -> serde_json::Value {
    let parallel = parallel.unwrap_or(1).max(1);
    let (mut answered, mut refused, mut last_error) = (0_u32, 0_u32, None);
    let mut left = n;
    while left > 0 {
        let batch = left.min(parallel);
        left -= batch;
        let started: Vec<_> = (0..batch).map(|_| http::get(&url).start()).collect();
        for pending in started {
            match pending
                .and_then(http::Pending::wait)
                .and_then(|answer| answer.body(BODY))
            {
                Ok(_) => answered += 1,
                Err(error) => {
                    refused += 1;
                    last_error = Some(error.to_string());
                }
            }
        }
    }
    serde_json::json!({"answered": answered, "refused": refused, "last_error": last_error})
}

/// Reads a key-value.
#[fumehood::tool(effect = "pure", read_only)]
pub fn kv_get(key: String) -> Result<serde_json::Value, Failure> {
    let value = kv::open()?.get(key)?;
    Ok(serde_json::json!({"value": value.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())}))
}

/// Writes a key-value.
#[fumehood::tool(effect = "idempotent")]
pub fn kv_set(
    key: String,
    value: String,
    /// How often the value is repeated; 1 if not given.
    times: Option<u32>,
) -> Result<String, Failure> {
    kv::open()?.set(key, value.repeat(times.unwrap_or(1) as usize))?;
    Ok("set".to_owned())
}

/// Deletes a key-value.
#[fumehood::tool(effect = "idempotent", destructive)]
pub fn kv_delete(key: String) -> Result<String, Failure> {
    kv::open()?.delete(key)?;
    Ok("deleted".to_owned())
}

/// Lists the keys.
#[fumehood::tool(effect = "pure", read_only)]
pub fn kv_list() -> Result<Vec<String>, Failure> {
    let bucket = kv::open()?;
    let (mut all, mut cursor) = bucket.keys(None)?;
    while let Some(at) = cursor {
        let (page, next) = bucket.keys(Some(at))?;
        all.extend(page);
        cursor = next;
    }
    Ok(all)
}

/// Opens a bucket of another name.
#[fumehood::tool(effect = "pure", read_only)]
pub fn kv_open(name: String) -> Result<String, Failure> {
    kv::open_named(&name)?;
    Ok(format!("opened {name}"))
}

/// Says whether a secret can be used.
#[fumehood::tool(effect = "pure", read_only)]
pub fn secret_available(name: String) -> bool {
    secrets::available(name)
}

/// A way to sign.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Signing {
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-512.
    HmacSha512,
    /// Ed25519.
    Ed25519,
}

/// Has a message signed; returns the signature in hexadecimal digits.
#[fumehood::tool(effect = "pure", read_only)]
pub fn secret_sign(
    name: String,
    message: String,
    /// `hmac-sha256` if not given.
    algorithm: Option<Signing>,
) -> Result<String, Failure> {
    let algorithm = match algorithm.unwrap_or(Signing::HmacSha256) {
        Signing::HmacSha256 => Algorithm::HmacSha256,
        Signing::HmacSha512 => Algorithm::HmacSha512,
        Signing::Ed25519 => Algorithm::Ed25519,
    };
    let signature = secrets::sign(name, algorithm, message.as_bytes())?;
    Ok(signature.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Calls another tool.
#[fumehood::tool]
pub fn peer_call(
    tool: String,
    /// The other tool's arguments.
    #[serde(default)]
    arguments: serde_json::Map<String, serde_json::Value>,
) -> Result<Output, Failure> {
    peers::call(tool, &arguments)
}

/// Calls another tool, and requests a URL then. What it does itself may be done again.
#[fumehood::tool(effect = "idempotent", open_world)]
pub fn peer_again(
    tool: String,
    /// The other tool's arguments.
    #[serde(default)]
    arguments: serde_json::Map<String, serde_json::Value>,
    /// Where to; nowhere if not given.
    url: Option<String>,
) -> Result<Output, Failure> {
    let output = peers::call(tool, &arguments)?;
    if let Some(url) = url {
        http::get(url).send()?;
    }
    Ok(output)
}

/// What a tool does once it has handed its call on.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Returns well.
    Return,
    /// Returns and says that it did not work.
    ReturnError,
    /// Fails.
    Fail,
    /// Panics.
    Panic,
    /// Hands it on once more.
    Again,
    /// Returns what ends it.
    Leak,
    /// Computes for ever.
    Spin,
}

/// Hands its call on to somebody outside.
#[fumehood::tool(open_world)]
pub fn detach(
    /// How long the host waits, in milliseconds.
    within_ms: Option<u64>,
    /// What people are told.
    note: Option<String>,
    /// The workspace file that the ticket is written to; `ticket.json` if not given.
    file: Option<String>,
    /// Whom it tells what ends the call, as the last of this URL's path.
    tell: Option<String>,
    /// What comes after that; it returns if not given.
    then: Option<Then>,
) -> Result<Output, Failure> {
    let mut handing = jobs::detach();
    if let Some(within) = within_ms {
        handing = handing.within(Duration::from_millis(within));
    }
    if let Some(note) = note {
        handing = handing.note(note);
    }
    let ticket = handing.ticket()?;
    let written = serde_json::json!({
        "id": ticket.id(), "token": ticket.token(), "url": ticket.url(), "expires_ms": ticket.expires_ms(),
    });
    let file = file.unwrap_or_else(|| "ticket.json".to_owned());
    std::fs::write(format!("/workspace/{file}"), written.to_string())?;
    if let Some(url) = tell {
        http::post(format!("{url}/{}", ticket.token())).send()?;
    }
    match then.unwrap_or(Then::Return) {
        Then::Return => Ok(Output::new("handed on")),
        Then::ReturnError => Ok(Output::new("handed on, and it did not work").as_error()),
        Then::Fail => Err(Failure::failed("handed on, and failed")),
        Then::Panic => panic!("handed on, and fell"),
        Then::Again => jobs::detach().ticket().map(|_| Output::new("handed on twice")),
        Then::Leak => {
            println!("the token is {}", ticket.token());
            fumehood::progress::report(format!("the token is {}", ticket.token()), None);
            let (half, rest) = ticket.token().split_at(20);
            fumehood::progress::emit("log", half);
            fumehood::progress::emit("log", rest);
            Ok(Output::new(format!("the token is {}", ticket.token())))
        }
        Then::Spin => loop {
            std::hint::black_box(0);
        },
    }
}
