//! What a call reaches outside the sandbox, as traits that the crates above implement.
//!
//! Every trait has a `Denied…` implementation, which is what a call without that authority gets.
//! Implementations are called from the guest's own task: the async ones may wait (the guest waits
//! with them, without counting CPU time), and must be cancel-safe, because a call that is stopped
//! drops the future. [`Observer`] must not block.

use crate::witness::Witness;
use async_trait::async_trait;
use bytes::Bytes;
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult},
    name::{SecretName, ToolName},
};
use fumehood_files::Tree;
use http_body_util::combinators::UnsyncBoxBody;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};

/// A body that streams, in either direction.
pub type Body = UnsyncBoxBody<Bytes, DoorError>;

/// How long to wait at each stage of a request; what the guest asked for, not longer than the call.
/// `None` leaves the choice to the door.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// To connect.
    pub connect: Option<Duration>,
    /// From sent request to the response's head.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the response's body.
    pub between_bytes: Option<Duration>,
}

/// Why a request did not go through, or its body broke off. Becomes the `wasi:http` error code of
/// the same meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "error", content = "detail")]
pub enum DoorError {
    /// A rule said no. The reason says which, and what would allow it; it is reported with the call,
    /// since `wasi:http` has no place for it.
    #[error("{0}")]
    Denied(String),
    /// The name resolves to an address that may not be reached. The reason is reported as above.
    #[error("{0}")]
    AddressProhibited(String),
    /// The URL is malformed or carries something that URLs may not carry.
    #[error("the URL is invalid")]
    UriInvalid,
    /// The method is not allowed at all.
    #[error("the method is invalid")]
    MethodInvalid,
    /// No answer from the resolver.
    #[error("the name was not resolved in time")]
    DnsTimeout,
    /// There is no such name, or the resolver failed.
    #[error("the name does not resolve")]
    DnsFailed,
    /// Nothing listens there.
    #[error("the connection was refused")]
    ConnectionRefused,
    /// The connection did not come up in time.
    #[error("connecting took too long")]
    ConnectTimeout,
    /// The connection broke.
    #[error("the connection broke")]
    ConnectionTerminated,
    /// Too many connections at once.
    #[error("too many connections")]
    ConnectionLimit,
    /// The TLS handshake failed.
    #[error("TLS failed")]
    Tls,
    /// The peer's certificate is not trusted.
    #[error("the certificate is not trusted")]
    TlsCertificate,
    /// The request's body is larger than its limit, in bytes.
    #[error("the request body is larger than {0} bytes")]
    RequestTooLarge(u64),
    /// The response's head is larger than the host takes.
    #[error("the response head is too large")]
    ResponseHeadTooLarge,
    /// The response's body is larger than its limit, in bytes.
    #[error("the response body is larger than {0} bytes")]
    ResponseTooLarge(u64),
    /// No response in time.
    #[error("no response in time")]
    ResponseTimeout,
    /// The response broke off or dripped too slowly.
    #[error("reading the response took too long")]
    ReadTimeout,
    /// The response ended before it was complete.
    #[error("the response is incomplete")]
    ResponseIncomplete,
    /// Not HTTP, or HTTP that is refused.
    #[error("HTTP protocol error")]
    Protocol,
    /// The side that produces the body gave up.
    #[error("the body was aborted")]
    Aborted,
    /// The host failed; the details are in its log.
    #[error("the host failed to send the request")]
    Internal,
}

/// The one way out: every request of a guest goes through here.
#[async_trait]
pub trait Door: Send + Sync + 'static {
    /// Sends one request and returns the response's head, its body streaming behind.
    ///
    /// The request has an absolute URL and no `host` header: the door sets it from the URL that it
    /// checked. The timeouts are the door's to keep; the call's own time limit holds in any case.
    ///
    /// Cancel-safe: dropping the future or the body ends the exchange.
    async fn send(
        &self,
        request: ::http::Request<Body>,
        timeouts: Timeouts,
    ) -> Result<::http::Response<Body>, DoorError>;

    /// Takes note of a request that the sandbox refuses itself, by a limit of the call.
    async fn refuse(&self, request: ::http::Request<Body>, limit: &'static str, reason: String);
}

/// Why a key-value operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "error", content = "detail")]
pub enum KeyValueError {
    /// The grant does not allow it.
    #[error("access denied")]
    Denied,
    /// A quota, an invalid key, or the store failed; in words for the guest.
    #[error("{0}")]
    Other(String),
}

/// One page of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPage {
    /// Some keys, in an order that does not change between pages.
    pub keys: Vec<String>,
    /// Hand back to get the next page; absent on the last.
    pub cursor: Option<u64>,
}

/// The session's key-values.
#[async_trait]
pub trait KeyValues: Send + Sync + 'static {
    /// The value of `key`.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError>;
    /// Sets `key`.
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError>;
    /// Removes `key`; a missing one is no error.
    async fn delete(&self, key: &str) -> Result<(), KeyValueError>;
    /// Whether `key` has a value.
    async fn exists(&self, key: &str) -> Result<bool, KeyValueError>;
    /// A page of keys.
    async fn list(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError>;
}

/// How to sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignAlgorithm {
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-512.
    HmacSha512,
    /// Ed25519.
    Ed25519,
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "error", content = "detail")]
pub enum SignError {
    /// The grant does not allow it.
    #[error("{0}")]
    Denied(String),
    /// Granted, but not set.
    #[error("{0}")]
    NotFound(String),
    /// The secret is no key for the algorithm.
    #[error("{0}")]
    Unsuitable(String),
    /// The host failed.
    #[error("{0}")]
    Failed(String),
}

/// Signs with secrets that the guest never sees.
#[async_trait]
pub trait Signer: Send + Sync + 'static {
    /// Whether this call could use the secret at all; a secret that is not granted looks like one
    /// that does not exist.
    async fn available(&self, name: &SecretName) -> bool;
    /// Signs `message`. The grant's `sign` list was checked before.
    async fn sign(&self, name: &SecretName, algorithm: SignAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// Calls other tools of the same session.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Whether there is such a tool and the caller's `call_tools` list has it, which takes knowing whose tool it is; here
    /// it was only checked that the list is not closed. Asked before the arguments are looked at.
    fn may_call(&self, tool: &ToolName) -> Result<(), CallError>;

    /// Runs another tool, which the caller may call, to its end, under its own grant.
    async fn call(&self, tool: &ToolName, arguments: Arguments) -> CallResult;
}

/// What somebody outside needs to end a call.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Names the call.
    pub id: String,
    /// What whoever ends it has to show.
    pub token: String,
    /// Where, if that is known.
    pub url: Option<String>,
    /// Until when, in milliseconds since 1970.
    pub expires_ms: u64,
}

impl fmt::Debug for Ticket {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Hands the call on to somebody outside, who ends it.
#[async_trait]
pub trait Jobs: Send + Sync + 'static {
    /// Writes down that the call waits for somebody outside, and then says by what that is ended: after so long, or by default. The
    /// grant was checked before.
    async fn detach(&self, within: Option<Duration>, note: Option<String>) -> Result<Ticket, CallError>;
}

/// Hears what a call says while it runs. Called on the guest's task: must not block, and should do
/// no more than push into a bounded queue.
pub trait Observer: Send + Sync + 'static {
    /// How far the call is; `fraction` lies between 0 and 1.
    fn progress(&self, message: &str, fraction: Option<f32>);
    /// Partial output. What goes to the standard streams is in the report as well, whole.
    fn output(&self, channel: Channel<'_>, chunk: &str);
}

/// What a call writes to beside its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel<'n> {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// One that the tool named.
    Named(&'n str),
}

/// The session's files.
#[derive(Clone)]
pub struct Workspace {
    /// What the guest sees as `/workspace`, as far as its authority goes. All calls of a session, and whoever else writes
    /// there, share one: what they write is charged to one account.
    pub tree: Arc<Tree>,
}

impl fmt::Debug for Workspace {
    /// Leaves the path out: host paths stay in the host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workspace")
    }
}

/// What a call takes for the time and for chance. Called on the guest's task: must not block.
///
/// With it a call can be made to see again what it saw before: the engine's own clocks and its own generator are asked for nothing then.
pub trait Ambient: Send + Sync + 'static {
    /// The wall clock: the time since 1970, UTC.
    fn wall_clock(&self) -> Duration;
    /// The monotonic clock, in nanoseconds from any beginning.
    fn monotonic_clock(&self) -> u64;
    /// What the monotonic clock shows when a wait that begins now and takes so long is over; `None` where it goes by itself.
    fn after(&self, _wait: Duration) -> Option<u64> {
        None
    }
    /// A wait is over: from now on the monotonic clock shows this at least, and the wall clock has gone on as far.
    fn reached(&self, _monotonic: u64) {}
    /// What all random bytes of the call are made from. Asked for once.
    fn seed(&self) -> [u8; 32];
    /// What the guest is told of its deadline, in milliseconds since 1970, where the host computed `own`. Asked for once; it does not
    /// change when the call must be done.
    fn deadline_ms(&self, own: u64) -> u64;
}

/// Everything one call reaches.
#[derive(Clone)]
pub struct Ports {
    /// HTTP.
    pub door: Arc<dyn Door>,
    /// Key-values.
    pub key_values: Arc<dyn KeyValues>,
    /// Secrets.
    pub signer: Arc<dyn Signer>,
    /// Other tools.
    pub peers: Arc<dyn Peers>,
    /// Whoever ends the call later.
    pub jobs: Arc<dyn Jobs>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Files; `None` when the session has none.
    pub workspace: Option<Workspace>,
    /// Environment variables that the host has for this call. The guest sees those that its
    /// authority names.
    pub env: Arc<[(String, String)]>,
    /// Time and chance; `None`: the system's.
    pub ambient: Option<Arc<dyn Ambient>>,
    /// Who takes down what the call asks of its host; `None`: nobody explains it.
    pub witness: Option<Arc<Witness>>,
}

impl Ports {
    /// Nothing at all: every port answers "denied".
    #[must_use]
    pub fn denied() -> Self {
        // One allocation each per process, not per call: the unit types share nothing.
        static PORTS: std::sync::LazyLock<Ports> = std::sync::LazyLock::new(|| Ports {
            door: Arc::new(DeniedDoor),
            key_values: Arc::new(DeniedKeyValues),
            signer: Arc::new(DeniedSigner),
            peers: Arc::new(DeniedPeers),
            jobs: Arc::new(DeniedJobs),
            observer: Arc::new(NoObserver),
            workspace: None,
            env: Arc::new([]),
            ambient: None,
            witness: None,
        });
        PORTS.clone()
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports")
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

/// Refuses every request.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeniedDoor;

#[async_trait]
impl Door for DeniedDoor {
    async fn send(&self, request: ::http::Request<Body>, _: Timeouts) -> Result<::http::Response<Body>, DoorError> {
        let host = request.uri().host().unwrap_or("an unnamed host");
        Err(DoorError::Denied(format!(
            "the request to {host} was denied: this tool was granted no network; add a rule for it to `[network] allow` \
             in the manifest and in the grant"
        )))
    }

    async fn refuse(&self, _: ::http::Request<Body>, _: &'static str, _: String) {}
}

/// Refuses every key-value operation.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeniedKeyValues;

#[async_trait]
impl KeyValues for DeniedKeyValues {
    async fn get(&self, _: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Err(KeyValueError::Denied)
    }
    async fn set(&self, _: &str, _: Vec<u8>) -> Result<(), KeyValueError> {
        Err(KeyValueError::Denied)
    }
    async fn delete(&self, _: &str) -> Result<(), KeyValueError> {
        Err(KeyValueError::Denied)
    }
    async fn exists(&self, _: &str) -> Result<bool, KeyValueError> {
        Err(KeyValueError::Denied)
    }
    async fn list(&self, _: Option<u64>) -> Result<KeyPage, KeyValueError> {
        Err(KeyValueError::Denied)
    }
}

/// Knows no secret.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeniedSigner;

#[async_trait]
impl Signer for DeniedSigner {
    async fn available(&self, _: &SecretName) -> bool {
        false
    }
    async fn sign(&self, name: &SecretName, _: SignAlgorithm, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError::Denied(format!(
            "signing with {name} was denied: this call has no secrets"
        )))
    }
}

/// Knows no other tool.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeniedPeers;

fn denied_peer(tool: &ToolName) -> CallError {
    CallError::new(
        CallErrorCode::Denied,
        format!("calling {tool} was denied: this call may call no other tools"),
    )
}

#[async_trait]
impl Peers for DeniedPeers {
    fn may_call(&self, tool: &ToolName) -> Result<(), CallError> {
        Err(denied_peer(tool))
    }

    async fn call(&self, tool: &ToolName, _: Arguments) -> CallResult {
        Err(denied_peer(tool))
    }
}

/// Hands nothing on.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeniedJobs;

#[async_trait]
impl Jobs for DeniedJobs {
    async fn detach(&self, _: Option<Duration>, _: Option<String>) -> Result<Ticket, CallError> {
        Err(CallError::new(
            CallErrorCode::Denied,
            "handing this call on was denied: nothing waits for its result",
        ))
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn progress(&self, _: &str, _: Option<f32>) {}
    fn output(&self, _: Channel<'_>, _: &str) {}
}
