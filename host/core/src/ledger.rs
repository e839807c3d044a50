//! The ledger of the one door out: one entry per egress decision, never a query, header value or body.

use crate::{
    Time,
    id::{CallId, LedgerId, SessionId, TurnId},
    name::{ComponentName, OrgName, SecretName, ToolName},
};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// On whose behalf a request leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressScope {
    /// The org that pays and answers for it.
    pub org: OrgName,
    /// The session, if the call has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The turn, if the call is part of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// The call.
    pub call: CallId,
    /// The tool.
    pub tool: ToolName,
    /// Its component.
    pub component: ComponentName,
}

/// One decision and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// This entry.
    pub id: LedgerId,
    /// When it was decided.
    pub time: Time,
    /// For whom.
    #[serde(flatten)]
    pub scope: EgressScope,
    /// Upper case, as sent.
    pub method: String,
    /// `https` or `http`.
    pub scheme: String,
    /// Lower case, without port.
    pub host: String,
    /// The port asked for.
    pub port: u16,
    /// The normalised path, without query.
    pub path: String,
    /// How many bytes of query there were.
    pub query_bytes: u64,
    /// The rule that decided, and its layer: `grant: https://api.example.com/v1`.
    pub rule: String,
    /// The address connected to, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Names of the secrets that were injected.
    pub secrets: Vec<SecretName>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: EgressOutcome,
    /// Body bytes sent.
    pub bytes_sent: u64,
    /// Body bytes received.
    pub bytes_received: u64,
    /// From decision to outcome, in milliseconds.
    pub duration_ms: u64,
    /// What looked like a key of a known kind. Nothing was done about it, and nothing of it is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<ShapeSeen>,
}

/// A text that looks like somebody's key, seen in passing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeSeen {
    /// What it looks like.
    pub kind: ShapeKind,
    /// Where it stood.
    pub place: ShapePlace,
}

/// Kinds of keys that can be told by their shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapeKind {
    /// `ghp_…` and its siblings, `github_pat_…`.
    GithubToken,
    /// `AKIA…`, `ASIA…`.
    AwsAccessKey,
    /// `sk-…`, as several model providers give them.
    SkKey,
    /// `xoxb-…`, `xoxp-…` and its siblings.
    SlackToken,
    /// `AIza…`.
    GoogleApiKey,
    /// `eyJ….eyJ….…` (RFC 7519).
    JsonWebToken,
    /// `-----BEGIN … PRIVATE KEY-----` (RFC 7468).
    PrivateKey,
}

impl ShapeKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::GithubToken,
        Self::AwsAccessKey,
        Self::SkKey,
        Self::SlackToken,
        Self::GoogleApiKey,
        Self::JsonWebToken,
        Self::PrivateKey,
    ];
}

/// A part of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapePlace {
    /// The URL as the tool wrote it.
    RequestUrl,
    /// The headers as the tool set them, before anything was injected.
    RequestHeaders,
    /// The body that the tool sent.
    RequestBody,
    /// The headers that the tool got.
    ResponseHeaders,
    /// The body that the tool got.
    ResponseBody,
}

impl ShapePlace {
    /// Every place.
    pub const ALL: [Self; 5] = [
        Self::RequestUrl,
        Self::RequestHeaders,
        Self::RequestBody,
        Self::ResponseHeaders,
        Self::ResponseBody,
    ];
}

/// What came of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum EgressOutcome {
    /// Allowed and on its way. An entry left in this state outlived its process.
    Started,
    /// Allowed and answered, body included.
    Completed {
        /// The HTTP status.
        status: u16,
    },
    /// Refused before a byte left.
    Denied {
        /// Why, in words.
        reason: String,
    },
    /// Allowed, but the exchange broke or passed a limit.
    Failed {
        /// Why, in words.
        reason: String,
    },
}
