//! What a call was answered from outside, kept so that the call can be made again with the same answers.
//!
//! A recording holds what the guest saw at the sandbox's ports, and nothing of what lies behind them: requests before a credential is
//! injected, answers after the door took secrets out. It is whole or it is not kept: one that grows too large, whose call was ended by
//! time, or that would hold the value of a secret is given up, and the journal says why (`tool.recorded`).
//!
//! The wire form is JSON with a version; what is read is only what this host wrote, under the digest that the journal has of it.

mod http;
mod ports;
mod tape;

pub use http::{HttpAnswer, HttpSeen, HttpTape, TooMuch};
pub(crate) use ports::{asked_for, recorded, recorded_door};
pub(crate) use tape::{Tape, Whole};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use fumehood_core::{
    call::{Arguments, CallError, CallResult},
    digest::Digest,
    name::{SecretName, ToolName},
};
use fumehood_sandbox::ports::{DoorError, KeyPage, KeyValueError, SignAlgorithm, SignError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a call may take of the store at most, unless the operator says otherwise.
pub const RECORDING_BYTES: u64 = 4 << 20;

/// The form that is written.
pub(crate) const VERSION: u32 = 1;

/// A recording, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recording {
    pub(crate) version: u32,
    pub(crate) tool: ToolName,
    pub(crate) arguments: Arguments,
    pub(crate) locale: Option<String>,
    /// What the guest was told of its deadline, where it was told.
    pub(crate) deadline_ms: Option<u64>,
    /// What its random bytes were made from: 32 bytes in hex.
    pub(crate) seed: String,
    /// What the wall clock showed, in nanoseconds since 1970.
    pub(crate) wall_clock: Vec<u64>,
    /// What the monotonic clock showed, in nanoseconds.
    pub(crate) monotonic_clock: Vec<u64>,
    /// The environment variables that it saw.
    pub(crate) env: Vec<(String, String)>,
    /// What it asked, in order, and what it was answered.
    pub(crate) exchanges: Vec<Exchange>,
    /// The session's files, where it could see them.
    pub(crate) files: Option<FilesSeen>,
    /// What it returned.
    pub(crate) result: CallResult,
}

/// The state of the session's files around a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FilesSeen {
    /// Before.
    pub(crate) before: Digest,
    /// After; absent where the call could change nothing, or the state could not be kept.
    pub(crate) after: Option<Digest>,
    /// Whether others may have changed files meanwhile: calls of the step that ran at the same time, or tools that it called.
    pub(crate) shared: bool,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exchange {
    pub(crate) asked: Asked,
    pub(crate) answered: Answered,
}

/// What a guest asks at a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "port", rename_all = "snake_case")]
pub(crate) enum Asked {
    Http(HttpRequest),
    KvGet {
        key: String,
    },
    KvSet {
        key: String,
        value: Summary,
    },
    KvDelete {
        key: String,
    },
    KvExists {
        key: String,
    },
    KvList {
        cursor: Option<u64>,
    },
    SecretAvailable {
        name: SecretName,
    },
    SecretSign {
        name: SecretName,
        algorithm: SignAlgorithm,
        message: Summary,
    },
    PeerAllowed {
        tool: ToolName,
    },
    Peer {
        tool: ToolName,
        arguments: Arguments,
    },
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answered {
    /// The call ended before the answer came.
    Nothing,
    Http(Result<HttpResponse, DoorError>),
    Value(Result<Option<Blob>, KeyValueError>),
    Done(Result<(), KeyValueError>),
    Exists(Result<bool, KeyValueError>),
    Keys(Result<KeyPage, KeyValueError>),
    Available(bool),
    Signed(Result<Blob, SignError>),
    Allowed(Result<(), CallError>),
    Called(CallResult),
}

/// Bytes that are only compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
}

impl Summary {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            digest: Digest::of(bytes),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.bytes, self.digest)
    }
}

/// A request as the guest made it, with placeholders for what the host injects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HttpRequest {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Absent where it was not read to its end: the answer came, or the exchange broke, before.
    pub(crate) body: Option<Summary>,
}

impl HttpRequest {
    /// Whether the guest that made this one could have been answered as the one that made `recorded` was.
    pub(crate) fn is_as(&self, recorded: &Self) -> bool {
        let head = |of: &'_ Self| (of.method.clone(), of.url.clone(), of.headers.clone());
        let same_body = recorded.body.is_none() || self.body.is_none() || self.body == recorded.body;
        head(self) == head(recorded) && same_body
    }
}

/// A response as the guest got it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Blob)>,
    /// Piece by piece, as it came.
    pub(crate) body: Vec<Piece>,
    pub(crate) end: BodyEnd,
}

/// A piece of a response's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Piece {
    Data(Blob),
    Trailers(Vec<(String, Blob)>),
}

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BodyEnd {
    /// Nobody read so far.
    Unread,
    Complete,
    Broken(DoorError),
}

/// Bytes, written as text where they are some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) struct Blob(pub(crate) Bytes);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Base64 { base64: String },
}

impl From<Blob> for Written {
    fn from(Blob(bytes): Blob) -> Self {
        match String::from_utf8(bytes.into()) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Base64 {
                base64: STANDARD.encode(error.as_bytes()),
            },
        }
    }
}

impl TryFrom<Written> for Blob {
    type Error = base64::DecodeError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        Ok(Self(match written {
            Written::Text(text) => text.into(),
            Written::Base64 { base64 } => STANDARD.decode(base64)?.into(),
        }))
    }
}

impl fmt::Display for Asked {
    /// In one line, bounded by whoever shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(request) => {
                write!(f, "{} {}", request.method, request.url)?;
                for (name, value) in &request.headers {
                    write!(f, ", {name}: {value}")?;
                }
                match &request.body {
                    Some(body) if body.bytes > 0 => write!(f, ", a body of {body}"),
                    _ => Ok(()),
                }
            }
            Self::KvGet { key } => write!(f, "the key-value `{key}`"),
            Self::KvSet { key, value } => write!(f, "to set the key-value `{key}` to {value}"),
            Self::KvDelete { key } => write!(f, "to delete the key-value `{key}`"),
            Self::KvExists { key } => write!(f, "whether there is a key-value `{key}`"),
            Self::KvList { cursor: None } => f.write_str("the keys"),
            Self::KvList { cursor: Some(cursor) } => write!(f, "the keys after {cursor}"),
            Self::SecretAvailable { name } => write!(f, "whether the secret {name} is available"),
            Self::SecretSign {
                name,
                algorithm,
                message,
            } => write!(f, "to sign {message} with {name} ({algorithm:?})"),
            Self::PeerAllowed { tool } => write!(f, "whether it may call {tool}"),
            Self::Peer { tool, arguments } => {
                let arguments = serde_json::to_string(arguments).unwrap_or_default();
                write!(f, "to call {tool} with {arguments}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_text_or_else_in_base64_and_read_as_they_were() {
        for bytes in [&b"text, \xc3\xbc"[..], b"", &[0, 159, 255]] {
            let blob = Blob(Bytes::copy_from_slice(bytes));
            let written = serde_json::to_string(&blob).unwrap();
            assert_eq!(serde_json::from_str::<Blob>(&written).unwrap(), blob, "{written}");
        }
        let written = serde_json::to_value(Blob(Bytes::from_static(&[255]))).unwrap();
        assert_eq!(written, serde_json::json!({"base64": "/w=="}));
    }

    #[test]
    fn a_request_whose_body_is_not_known_whole_is_compared_by_the_rest() {
        let request = |url: &str, body: Option<&[u8]>| HttpRequest {
            method: "POST".into(),
            url: url.into(),
            headers: vec![("accept".into(), "*/*".into())],
            body: body.map(Summary::of),
        };
        let recorded = request("https://a.example/", Some(b"one"));
        assert!(request("https://a.example/", Some(b"one")).is_as(&recorded));
        assert!(!request("https://a.example/", Some(b"two")).is_as(&recorded));
        assert!(!request("https://a.example/2", Some(b"one")).is_as(&recorded));
        assert!(request("https://a.example/", Some(b"two")).is_as(&request("https://a.example/", None)));
    }
}
