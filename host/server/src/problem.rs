//! Refusals: every one is a problem document (RFC 9457) with a code that programs may rely on.
//!
//! The codes are one closed list, [`ProblemCode::CATALOGUE`]; the reference page is made of it. `detail` says what happened,
//! why, and what to do; it holds no secret, no host path and nothing of the store's or the system's own words.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use fumehood_core::id::TurnId;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use utoipa::openapi::{
    RefOr, Type,
    schema::{ObjectBuilder, Schema},
};

macro_rules! problem_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident, $code:literal, $status:ident, $title:literal;)*) => {
        /// What was refused or failed, for programs. The codes never change their meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemCode {
            $($(#[doc = $doc])+ $variant,)*
        }

        impl ProblemCode {
            /// Every code, for documentation.
            pub const CATALOGUE: &'static [ProblemKind] = &[$(ProblemKind {
                code: $code,
                status: StatusCode::$status,
                title: $title,
                doc: concat!($($doc, "\n",)+),
            }),*];

            /// The wire name.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {$(Self::$variant => $code,)*}
            }

            /// The HTTP status it comes with.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {$(Self::$variant => StatusCode::$status,)*}
            }

            /// A short text for people, the same for every problem of the code.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {$(Self::$variant => $title,)*}
            }
        }
    };
}

/// One code, for documentation.
#[derive(Debug, Clone, Copy)]
pub struct ProblemKind {
    /// The wire name.
    pub code: &'static str,
    /// The HTTP status it comes with.
    pub status: StatusCode,
    /// For people.
    pub title: &'static str,
    /// What it means and what to do.
    pub doc: &'static str,
}

problem_codes! {
    /// The request has no `Authorization: Bearer KEY`, or the key is not a live one of this host.
    Unauthorized, "unauthorized", UNAUTHORIZED, "A valid key is needed";
    /// The key is a live one, but not one that may do this; `detail` says whose may.
    Forbidden, "forbidden", FORBIDDEN, "The key may not do that";
    /// There is no such session, turn, file, key, tool or component in the org of the key. What another org has reads as not there.
    NotFound, "not_found", NOT_FOUND, "There is no such thing here";
    /// The API has no such route; `/openapi.json` lists those it has.
    UnknownRoute, "unknown_route", NOT_FOUND, "There is no such route";
    /// The route exists, but not for this method; `Allow` names those it takes.
    MethodNotAllowed, "method_not_allowed", METHOD_NOT_ALLOWED, "The route does not take this method";
    /// The body is not JSON; `line` and `column` say where it ends to be.
    InvalidJson, "invalid_json", BAD_REQUEST, "The body is not JSON";
    /// The body is JSON, but not what the route takes: a field is unknown, missing, or of the wrong type. `field` names the place.
    InvalidBody, "invalid_body", UNPROCESSABLE_ENTITY, "The body is not what the route takes";
    /// The body ended before it was whole.
    BodyIncomplete, "body_incomplete", BAD_REQUEST, "The body is not complete";
    /// The body did not arrive in time.
    BodyTimeout, "body_timeout", REQUEST_TIMEOUT, "The body did not arrive in time";
    /// The body is larger than the route takes; `limit` is the number of bytes it takes.
    BodyTooLarge, "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body's `Content-Type` is not one that the route takes.
    UnsupportedMediaType, "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The route does not take this content type";
    /// A query parameter is unknown or has no usable value.
    InvalidQuery, "invalid_query", BAD_REQUEST, "The query is not what the route takes";
    /// A header has no usable value.
    InvalidHeader, "invalid_header", BAD_REQUEST, "A header has no usable value";
    /// `cursor` is not the `next` of an earlier page of this list.
    InvalidCursor, "invalid_cursor", BAD_REQUEST, "The page cursor is not valid";
    /// The client wants to go on after an event that the session's journal does not have; `last_seq` is its last. The id is that of another session, or the host was restored from a backup: read the session anew, from 0.
    CursorBeyondEnd, "cursor_beyond_end", BAD_REQUEST, "The journal ends before that event";
    /// The route is a WebSocket, and the request does not ask for one.
    UpgradeRequired, "upgrade_required", UPGRADE_REQUIRED, "The route is a WebSocket";
    /// A name or path in the URL breaks the rules for its kind.
    InvalidName, "invalid_name", UNPROCESSABLE_ENTITY, "The name is not valid";
    /// The request is well formed but makes no sense here; `detail` says why.
    InvalidRequest, "invalid_request", UNPROCESSABLE_ENTITY, "The request makes no sense here";
    /// The session has a turn that hasn't ended, which `turn` names, or its conversation is being summed up. Wait for the end, cancel the turn, or send the input with `mode` `queue` or `steer`. Archiving is also refused while a background job has not ended, which `job` names: wait for its end, or stop it.
    SessionBusy, "session_busy", CONFLICT, "The session is busy";
    /// The session is archived: it takes no turns, and its files and key-values stay as they are. Nothing was done. Bring it back with `PATCH /v1/sessions/{session}` and `{"archived": false}`, or go on in a fork of it.
    SessionArchived, "session_archived", CONFLICT, "The session is archived";
    /// Somebody else changed the session in the same moment. Nothing was done: look at it again, then repeat the request.
    SessionChanged, "session_changed", CONFLICT, "The session was changed in the same moment";
    /// In the session wait as many inputs as may. Wait until one of them is worked, or cancel one.
    QueueFull, "queue_full", CONFLICT, "As many inputs wait as may";
    /// A hook of the agent has denied the input, or gave no answer; `detail` says which and why. Nothing of it is kept.
    HookDenied, "hook_denied", FORBIDDEN, "A hook denied it";
    /// The model gave no usable summary, so the conversation is as it was; `detail` says why. Try again later.
    CompactionFailed, "compaction_failed", BAD_GATEWAY, "The conversation could not be summed up";
    /// The turn waits for no decision: it never did, somebody else was first, or it has ended. `GET /v1/turns/{turn}` shows what it does.
    NotAwaitingApproval, "not_awaiting_approval", CONFLICT, "The turn waits for no decision";
    /// The time to decide is over: the calls count as rejected, and the turn has gone on.
    ApprovalExpired, "approval_expired", CONFLICT, "The time to decide is over";
    /// A decision about a call makes no sense, and none was taken: the call does not wait for one, or its new arguments do not fit. `field` names the place.
    InvalidDecision, "invalid_decision", UNPROCESSABLE_ENTITY, "A decision makes no sense";
    /// The turn waits for no results, or the call has its result already: somebody else was first, or the turn has ended. `GET /v1/turns/{turn}` shows what it waits for. Nothing was taken.
    NotAwaitingResults, "not_awaiting_results", CONFLICT, "The turn does not wait for these results";
    /// The time for the results is over: the calls ended without them, and the turn has gone on.
    ResultsExpired, "results_expired", CONFLICT, "The time for the results is over";
    /// A result of a call makes no sense, and none was taken: the turn waits for no such call, or the result is empty or too long. `field` names the place.
    InvalidResult, "invalid_result", UNPROCESSABLE_ENTITY, "A result makes no sense";
    /// The call that a tool handed on has its end already, or was given another result; `reason` says which: `given` (another result came first), `expired`, `cancelled` (also: its turn ended otherwise), `failed` (the tool itself, after it had handed the call on). But for `given` the work can stop. Nothing was changed; who sends the same request again is answered as before.
    CallbackSettled, "callback_settled", CONFLICT, "The call has ended already";
    /// What is to be made exists already, or is in use.
    Conflict, "conflict", CONFLICT, "It exists already";
    /// The org has as many sessions as it may, which `limit` says. Nothing was made: delete one that is done, or ask the operator for more.
    TooManySessions, "too_many_sessions", CONFLICT, "The org has as many sessions as it may";
    /// The org has used what it may for now; `limit` says of what, `Retry-After` when one more fits.
    RateLimited, "rate_limited", TOO_MANY_REQUESTS, "The limit of the org is reached";
    /// The org or the session has spent its budget; `scope` and `budget` say which, `Retry-After` when the org's begins anew.
    BudgetExhausted, "budget_exhausted", TOO_MANY_REQUESTS, "The budget is used up";
    /// The org's limits can't be checked now, and its configuration says to refuse then (`fail = "closed"`). Nothing was done; try again later.
    LimitsUnavailable, "limits_unavailable", SERVICE_UNAVAILABLE, "The limits can't be checked";
    /// The `Idempotency-Key` came with another request before. Use a new key for a new request.
    IdempotencyKeyReused, "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key was used for another request";
    /// The file or component is not the version that `If-Match` names, or the file exists although `If-None-Match: *` says it must not. Nothing was changed.
    PreconditionFailed, "precondition_failed", PRECONDITION_FAILED, "It is another version";
    /// The path is a directory, leads through something that is none, or leads out of the workspace.
    NotAFile, "not_a_file", CONFLICT, "The path is not that of a file";
    /// The file came with the session and is read-only, or the directory holds such a file. It goes with the session.
    FileReadOnly, "file_read_only", FORBIDDEN, "The file is read-only";
    /// The directory still has something in it. Delete that first.
    DirectoryNotEmpty, "directory_not_empty", CONFLICT, "The directory is not empty";
    /// The session's files or key-values would use more than their quota. Nothing was changed.
    QuotaExceeded, "quota_exceeded", PAYLOAD_TOO_LARGE, "The quota is used up";
    /// The component can't be added: it is not a component, asks for what this host does not have, or its manifest is not valid.
    ComponentRefused, "component_refused", UNPROCESSABLE_ENTITY, "The component is refused";
    /// This host takes only components that are signed by a key that its operator trusts, and this one came without such a signature;
    /// `detail` says how to send one.
    SignatureRequired, "signature_required", FORBIDDEN, "A trusted signature is needed";
    /// The host's configuration does not fit together; the operator has to mend it.
    Misconfigured, "misconfigured", INTERNAL_SERVER_ERROR, "The host is not configured rightly";
    /// The host is shutting down. A turn that was accepted goes on when it is back; see `Retry-After`.
    ShuttingDown, "shutting_down", SERVICE_UNAVAILABLE, "The host is shutting down";
    /// The host's store does not answer rightly now; its log says why. Nothing was changed; try again later.
    StoreUnavailable, "store_unavailable", SERVICE_UNAVAILABLE, "The store is not available";
    /// The host has as much of such work as it takes at a time; see `Retry-After`. Nothing was changed.
    Overloaded, "overloaded", SERVICE_UNAVAILABLE, "The host is busy";
    /// The host is up but can't work yet.
    NotReady, "not_ready", SERVICE_UNAVAILABLE, "The host is not ready";
    /// A fault of the host; its log says more, under the request's `x-request-id`.
    Internal, "internal", INTERNAL_SERVER_ERROR, "A fault of the host";
}

impl utoipa::PartialSchema for ProblemCode {
    fn schema() -> RefOr<Schema> {
        let lines = Self::CATALOGUE
            .iter()
            .map(|kind| format!("- `{}` ({}): {}", kind.code, kind.status.as_u16(), kind.doc.trim()));
        let text = format!(
            "What was refused or failed, for programs.\n{}",
            lines.collect::<Vec<_>>().join("\n")
        );
        ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(Self::CATALOGUE.iter().map(|kind| kind.code)))
            .description(Some(text))
            .into()
    }
}

impl utoipa::ToSchema for ProblemCode {}

/// A refusal or failure, as a response.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    code: ProblemCode,
    detail: String,
    /// Members besides the standard ones.
    more: Vec<(&'static str, Value)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A result of a handler.
pub(crate) type Answer<T> = Result<T, Problem>;

/// When to come back after a shutdown, in seconds.
const RETRY_AFTER: &str = "5";

impl Problem {
    pub(crate) fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        let headers = match code {
            ProblemCode::Unauthorized => vec![(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))],
            ProblemCode::ShuttingDown
            | ProblemCode::StoreUnavailable
            | ProblemCode::Overloaded
            | ProblemCode::NotReady => {
                vec![(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER))]
            }
            _ => Vec::new(),
        };
        Self {
            code,
            detail: detail.into(),
            more: Vec::new(),
            headers,
        }
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.more.push((name, value.into()));
        self
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(
            ProblemCode::NotFound,
            format!("there is no such {what} here; check its id and that the key is of its org"),
        )
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(
            ProblemCode::ShuttingDown,
            "the host is shutting down; try again in a few seconds",
        )
    }

    pub(crate) fn fault() -> Self {
        Self::new(
            ProblemCode::Internal,
            "a fault of the host; its log says more, under this response's x-request-id",
        )
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn with_turn(self, turn: TurnId) -> Self {
        self.with("turn", turn.to_string())
    }

    #[cfg(test)]
    pub(crate) const fn code(&self) -> ProblemCode {
        self.code
    }

    #[cfg(test)]
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    #[cfg(test)]
    pub(crate) fn member(&self, name: &str) -> Value {
        self.more
            .iter()
            .find(|(own, _)| *own == name)
            .map_or(Value::Null, |(_, value)| value.clone())
    }

    /// The document where there are no headers: when to come back is a member of it.
    pub(crate) fn document(&self) -> Value {
        let mut members = self.members();
        let wait = self.headers.iter().find(|(name, _)| *name == header::RETRY_AFTER);
        let seconds = wait.and_then(|(_, value)| value.to_str().ok()?.parse::<u64>().ok());
        if let Some(seconds) = seconds {
            members.insert("retry_after".into(), seconds.into());
        }
        Value::Object(members)
    }

    fn members(&self) -> serde_json::Map<String, Value> {
        let mut members = serde_json::Map::new();
        members.insert(
            "type".into(),
            format!("urn:fumehood:problem:{}", self.code.code()).into(),
        );
        members.insert("title".into(), self.code.title().into());
        members.insert("status".into(), self.code.status().as_u16().into());
        members.insert("detail".into(), self.detail.clone().into());
        members.insert("code".into(), self.code.code().into());
        members.extend(
            self.more
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        members
    }

    fn body(&self) -> Vec<u8> {
        Value::Object(self.members()).to_string().into_bytes()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if self.code == ProblemCode::BodyTooLarge {
            // The rest of the body is not read, so nothing can follow it; a client that was not told would send its next
            // request into a connection that closes (RFC 9110, 15.5.14).
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers.extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_body_that_is_not_read_the_connection_closes_and_says_so() {
        let closes = |code| {
            Problem::new(code, "no")
                .into_response()
                .headers()
                .contains_key("connection")
        };
        assert!(closes(ProblemCode::BodyTooLarge));
        assert!(!closes(ProblemCode::NotFound));
    }

    #[test]
    fn every_code_has_its_own_name_an_error_status_and_a_meaning() {
        let mut codes: Vec<_> = ProblemCode::CATALOGUE.iter().map(|kind| kind.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ProblemCode::CATALOGUE.len());
        for kind in ProblemCode::CATALOGUE {
            assert!(
                kind.status.is_client_error() || kind.status.is_server_error(),
                "{}",
                kind.code
            );
            assert!(!kind.title.is_empty() && kind.doc.trim().len() > 20, "{}", kind.code);
        }
    }

    #[test]
    fn a_problem_carries_its_code_and_members() {
        let problem = Problem::new(ProblemCode::BodyTooLarge, "too large").with("limit", 10);
        assert_eq!(
            String::from_utf8(problem.body()).unwrap(),
            r#"{"type":"urn:fumehood:problem:body_too_large","title":"The body is too large","status":413,"detail":"too large","code":"body_too_large","limit":10}"#
        );
    }

    #[test]
    fn a_missing_key_says_how_to_send_one() {
        let response = Problem::new(ProblemCode::Unauthorized, "no key").into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn a_document_without_headers_says_when_to_come_back() {
        let document = Problem::shutting_down().document();
        assert_eq!(
            (&document["code"], &document["retry_after"]),
            (&"shutting_down".into(), &5.into())
        );
    }
}
