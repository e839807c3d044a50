//! What is said on a socket: JSON texts, one message each.

use crate::{
    input::parse_value,
    problem::{Answer, Problem, ProblemCode},
    routes::{
        approvals::Decisions,
        results::Results,
        turns::{CancelTurn, SubmitTurn},
    },
};
use axum::extract::ws::{CloseFrame, Utf8Bytes, close_code};
use fumehood_core::{event::Event, id::SessionId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const LONGEST_ID: usize = 64;

/// What a client asks for.
pub(super) struct Request {
    /// The client's own, repeated in the reply.
    pub(super) id: String,
    pub(super) operation: Operation,
}

pub(super) enum Operation {
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    Turn(Box<Turn>),
    Approvals(Approvals),
    Results(GivenResults),
    Cancel(Cancel),
}

/// Listen to a session.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscribe {
    pub(super) session: String,
    #[serde(default)]
    pub(super) after: u64,
}

/// Listen to it no more.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unsubscribe {
    pub(super) session: String,
}

/// As `POST /v1/sessions/{session}/turns` with `Prefer: respond-async`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Turn {
    pub(super) session: String,
    pub(super) idempotency_key: Option<String>,
    pub(super) body: SubmitTurn,
}

/// As `POST /v1/turns/{turn}/approvals`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approvals {
    pub(super) turn: String,
    pub(super) body: Decisions,
}

/// As `POST /v1/turns/{turn}/results`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GivenResults {
    pub(super) turn: String,
    pub(super) body: Results,
}

/// As `POST /v1/turns/{turn}/cancel`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancel {
    pub(super) turn: String,
    #[serde(default)]
    pub(super) body: CancelTurn,
}

/// A message that asks for nothing the host could do.
pub(super) struct Misread {
    /// As far as the message has one.
    pub(super) id: Option<String>,
    pub(super) problem: Problem,
}

/// Reads a client's message.
pub(super) fn read(text: &str) -> Result<Request, Misread> {
    let nameless = |problem| Misread { id: None, problem };
    let mut message: Map<String, Value> = crate::input::parse_json(text.as_bytes()).map_err(nameless)?;
    let id = take_id(&mut message).map_err(nameless)?;
    match operation(message) {
        Ok(operation) => Ok(Request { id, operation }),
        Err(problem) => Err(Misread { id: Some(id), problem }),
    }
}

fn take_id(message: &mut Map<String, Value>) -> Answer<String> {
    match message.remove("id") {
        Some(Value::String(id)) if (1..=LONGEST_ID).contains(&id.len()) => Ok(id),
        _ => Err(Problem::new(
            ProblemCode::InvalidBody,
            format!("`id` is a text of 1 to {LONGEST_ID} bytes that the reply repeats; give each message its own"),
        )
        .with("field", "id")),
    }
}

fn operation(mut message: Map<String, Value>) -> Answer<Operation> {
    let name = message.remove("op");
    let rest = Value::Object(message);
    match name.as_ref().and_then(Value::as_str) {
        Some("subscribe") => parse_value(rest).map(Operation::Subscribe),
        Some("unsubscribe") => parse_value(rest).map(Operation::Unsubscribe),
        Some("turn") => parse_value(rest).map(Operation::Turn),
        Some("approvals") => parse_value(rest).map(Operation::Approvals),
        Some("results") => parse_value(rest).map(Operation::Results),
        Some("cancel") => parse_value(rest).map(Operation::Cancel),
        _ => Err(Problem::new(
            ProblemCode::InvalidBody,
            "`op` is one of `subscribe`, `unsubscribe`, `turn`, `approvals`, `results`, `cancel`",
        )
        .with("field", "op")),
    }
}

/// What a client is told.
#[derive(Serialize)]
#[serde(untagged)]
enum Told<'a> {
    Event { event: &'a Event },
    Result { reply: &'a str, result: Value },
    Problem { reply: Option<&'a str>, problem: Value },
    Ended { ended: SessionId, reason: Reason },
}

/// Why a subscription ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// The session is not there any more.
    Gone,
    /// The journal can't be read now.
    Unavailable,
}

pub(super) fn event(event: &Event) -> Utf8Bytes {
    encode(&Told::Event { event })
}

pub(super) fn ended(session: SessionId, reason: Reason) -> Utf8Bytes {
    encode(&Told::Ended { ended: session, reason })
}

pub(super) fn reply(id: &str, answer: Answer<Value>) -> Utf8Bytes {
    match answer {
        Ok(result) => encode(&Told::Result { reply: id, result }),
        Err(problem) => refusal(Some(id), &problem),
    }
}

/// The refusal of a message; without an id, that of one that has none.
pub(super) fn refusal(reply: Option<&str>, problem: &Problem) -> Utf8Bytes {
    let problem = problem.document();
    encode(&Told::Problem { reply, problem })
}

/// Everything that is told can be written as JSON; what could not would be told as nothing.
fn encode(told: &Told<'_>) -> Utf8Bytes {
    let text = serde_json::to_string(told).unwrap_or_else(|error| {
        tracing::error!(%error, "a message of a socket can't be written as JSON");
        "{}".to_owned()
    });
    text.into()
}

/// Why the host closes a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goodbye {
    Closing,
    Malformed,
    Binary,
    NotText,
    KeyGone,
    TooLarge,
    Fault,
    Slow,
}

impl Goodbye {
    pub(super) fn frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::Closing => (
                close_code::AWAY,
                "the host is shutting down; connect again and subscribe after the last seq",
            ),
            Self::Malformed => (close_code::PROTOCOL, "the message is not one of the WebSocket protocol"),
            Self::Binary => (close_code::UNSUPPORTED, "messages are JSON texts, not binary"),
            Self::NotText => (close_code::INVALID, "the text is not UTF-8"),
            Self::KeyGone => (close_code::POLICY, "the key is not a live one any more"),
            Self::TooLarge => (close_code::SIZE, "the message is larger than the host takes"),
            Self::Fault => (close_code::ERROR, "a fault of the host; its log says more"),
            Self::Slow => (
                close_code::AGAIN,
                "too little was read; connect again and subscribe after the last seq",
            ),
        };
        CloseFrame {
            code,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misread(text: &str) -> (Option<String>, ProblemCode, Value) {
        match read(text) {
            Ok(_) => panic!("{text} was read"),
            Err(Misread { id, problem }) => (id, problem.code(), problem.member("field")),
        }
    }

    #[test]
    fn a_message_that_can_not_be_read_is_told_from_one_that_makes_no_sense() {
        let body = ProblemCode::InvalidBody;
        for (text, expected) in [
            ("{", (None, ProblemCode::InvalidJson, Value::Null)),
            (r#"{"op":"cancel"}"#, (None, body, "id".into())),
            (r#"{"id":"","op":"cancel"}"#, (None, body, "id".into())),
            (r#"{"id":7,"op":"cancel"}"#, (None, body, "id".into())),
            (r#"{"id":"a"}"#, (Some("a".into()), body, "op".into())),
            (r#"{"id":"a","op":"dance"}"#, (Some("a".into()), body, "op".into())),
            (r#"{"id":"a","op":"cancel"}"#, (Some("a".into()), body, "turn".into())),
            (
                r#"{"id":"a","op":"subscribe","session":"s","from":1}"#,
                (Some("a".into()), body, "from".into()),
            ),
            (
                r#"{"id":"a","op":"turn","session":"s","body":{"input":"x","budget":{"steps":"many"}}}"#,
                (Some("a".into()), body, "body.budget.steps".into()),
            ),
        ] {
            assert_eq!(misread(text), expected, "{text}");
        }
    }

    #[test]
    fn the_reasons_fit_into_a_close_frame() {
        for goodbye in [
            Goodbye::Closing,
            Goodbye::Malformed,
            Goodbye::Binary,
            Goodbye::NotText,
            Goodbye::KeyGone,
            Goodbye::TooLarge,
            Goodbye::Fault,
            Goodbye::Slow,
        ] {
            assert!(goodbye.frame().reason.len() <= 123, "{goodbye:?}");
        }
    }
}
