//! Every way a request can be refused or fail, in words a tool author and a model can act on.

use bytes::Bytes;
use fumehood_core::name::SecretName;
use http_body_util::combinators::UnsyncBoxBody;
use std::{fmt, time::Duration};

/// A body that streams, of a request or an answer.
pub type Body = UnsyncBoxBody<Bytes, EgressError>;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The request's body.
    Request,
    /// The answer's body.
    Response,
}

/// Where in a request something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestPart {
    /// Its URL.
    Url,
    /// Its headers.
    Headers,
    /// Its body.
    Body,
}

/// What a time limit was waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wait {
    /// The addresses of the host's name.
    Resolve,
    /// A connection, TLS included.
    Connect,
    /// The head of the answer.
    FirstByte,
    /// The next bytes of the answer.
    NextBytes,
    /// The end of the whole exchange.
    Total,
}

/// Why a request was refused or failed.
///
/// The text holds no secret value, no query and nothing of a body. It may hold the host's name as the tool wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The call made as many requests as it may.
    #[error("denied: this call may make {limit} HTTP requests (limit http_requests) and made them all")]
    RequestLimit {
        /// The limit.
        limit: u32,
    },
    /// Method and URL are not ones that a rule could be applied to.
    #[error("invalid request: {reason}")]
    InvalidUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// A header that is the host's to set.
    #[error("the header `{name}` can't be set by a tool: {reason}; remove it")]
    ForbiddenHeader {
        /// Its name.
        name: String,
        /// Whose it is.
        reason: &'static str,
    },
    /// A query parameter that is the host's to set.
    #[error("the query parameter `{name}` can't be set by a tool: the host sets it from a credential; remove it")]
    ForbiddenParameter {
        /// Its name.
        name: String,
    },
    /// A rule said no.
    #[error("denied: {reason}")]
    Denied {
        /// The rule and its layer, in words.
        reason: String,
    },
    /// A secret's value stands in the request.
    #[error(
        "denied: the request's {part} contains the value of the secret {secret}; \
         write {{{{secret:{secret}}}}} in a header or query towards a host it is bound to, or leave it to the host"
    )]
    LeakBlocked {
        /// Whose value.
        secret: SecretName,
        /// Where.
        part: RequestPart,
    },
    /// A placeholder names a secret that isn't bound to the host.
    #[error("denied: no secret `{secret}` is bound to {host}; a credential must list this host")]
    UnboundSecret {
        /// The name in the placeholder, shortened.
        secret: String,
        /// The host asked for.
        host: String,
    },
    /// A secret would have left in the clear.
    #[error(
        "denied: the secret {secret} is sent over https only, or over http to a loopback address in private_networks"
    )]
    PlainHttpSecret {
        /// Which.
        secret: SecretName,
    },
    /// A secret the guard can't find must not be sent: an echo of it would pass.
    #[error(
        "denied: the value of the secret {secret} is too short to be kept out of answers; use one of at least 8 bytes"
    )]
    UnguardedSecret {
        /// Which.
        secret: SecretName,
    },
    /// A secret's value doesn't fit the place it is injected into.
    #[error("the value of the secret {secret} can't stand in a header: it has line breaks or control characters")]
    UnusableSecret {
        /// Which.
        secret: SecretName,
    },
    /// The decision could not be recorded, so nothing was sent.
    #[error("unavailable: the egress ledger can't be written, and nothing leaves unrecorded; try again later")]
    LedgerUnavailable,
    /// Too many requests are on their way already.
    #[error("unavailable: too many requests to {host} are on their way; try again later")]
    Busy {
        /// The host asked for.
        host: String,
    },
    /// The name has no addresses, or they couldn't be found out.
    #[error("the name {host} could not be resolved: {reason}")]
    Resolve {
        /// The host asked for.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// An address of the host is not a public one.
    #[error(
        "denied: {host} has an address that is not public ({kind}); \
         the operator can list its network under private_networks in fumehood.toml"
    )]
    PrivateAddress {
        /// The host asked for.
        host: String,
        /// What kind of address. The address itself is the operator's to know: it is in the debug log.
        kind: &'static str,
    },
    /// No address took the connection.
    #[error("could not connect to {host}:{port}: {reason}")]
    Connect {
        /// The host asked for.
        host: String,
        /// The port asked for.
        port: u16,
        /// What the network said.
        reason: String,
    },
    /// The certificate is not valid: by an unknown authority, for another name, or out of its time.
    #[error("no secure connection to {host}: {reason}")]
    Certificate {
        /// The host asked for.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS failed otherwise.
    #[error("no secure connection to {host}: {reason}")]
    Tls {
        /// The host asked for.
        host: String,
        /// What TLS said.
        reason: String,
    },
    /// A time limit passed.
    #[error("timed out after {} ms waiting for {wait}", limit.as_millis())]
    Timeout {
        /// For what.
        wait: Wait,
        /// The limit.
        limit: Duration,
    },
    /// A body is larger than the call's limit.
    #[error("the {direction} body is larger than {limit} bytes (limit http_body)")]
    BodyTooLarge {
        /// Which body.
        direction: Direction,
        /// The limit in bytes.
        limit: u64,
    },
    /// The request's body is not as long as its `content-length` says.
    #[error("the request's body is not as long as its content-length header says")]
    LengthMismatch,
    /// The answer is compressed although that was not asked for; the guard can't look into it.
    #[error("the server sent its answer in an encoding although only identity was accepted; it was refused")]
    EncodedResponse,
    /// The server broke HTTP, or the connection broke.
    #[error("the exchange with the server broke: {reason}")]
    Protocol {
        /// How.
        reason: String,
    },
    /// The tool's own body stream broke off.
    #[error("the request's body broke off: {reason}")]
    RequestBody {
        /// Why, as its producer said.
        reason: String,
    },
}

impl EgressError {
    /// Whether policy refused the request before a byte left, as opposed to an exchange that failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::RequestLimit { .. }
            | Self::InvalidUrl { .. }
            | Self::ForbiddenHeader { .. }
            | Self::ForbiddenParameter { .. }
            | Self::Denied { .. }
            | Self::LeakBlocked { .. }
            | Self::UnboundSecret { .. }
            | Self::PlainHttpSecret { .. }
            | Self::UnguardedSecret { .. }
            | Self::UnusableSecret { .. }
            | Self::PrivateAddress { .. } => true,
            Self::LedgerUnavailable
            | Self::Busy { .. }
            | Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Certificate { .. }
            | Self::Tls { .. }
            | Self::Timeout { .. }
            | Self::BodyTooLarge { .. }
            | Self::LengthMismatch
            | Self::EncodedResponse
            | Self::Protocol { .. }
            | Self::RequestBody { .. } => false,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request's",
            Self::Response => "response's",
        })
    }
}

impl fmt::Display for RequestPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "URL",
            Self::Headers => "headers",
            Self::Body => "body",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "the host's name to be resolved",
            Self::Connect => "a connection",
            Self::FirstByte => "the head of the answer",
            Self::NextBytes => "the next bytes of the answer",
            Self::Total => "the exchange to end",
        })
    }
}
