//! How a model call fails: a closed set of kinds, with what is known about trying again.

use fumehood_core::turn::{TurnError, TurnErrorCode};
use std::{fmt, time::Duration};

/// Why a model call failed.
///
/// `Display` is the public message: it holds no provider text, no secret and no address. What the provider said is in
/// [`ModelError::detail`], for the log only.
#[derive(Clone, thiserror::Error)]
#[error("{kind}")]
pub struct ModelError {
    kind: ModelErrorKind,
    detail: Option<Box<str>>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelErrorKind {
    /// Too many requests or tokens in a window.
    #[error("the model provider limits the rate of requests")]
    RateLimited {
        /// When the provider says that trying again makes sense.
        retry_after: Option<Duration>,
    },
    /// The provider has too much to do.
    #[error("the model provider is overloaded")]
    Overloaded {
        /// When the provider says that trying again makes sense.
        retry_after: Option<Duration>,
    },
    /// The provider could not be reached or reports a fault of its own.
    #[error("the model provider is not available")]
    Unavailable {
        /// When the provider says that trying again makes sense.
        retry_after: Option<Duration>,
    },
    /// Nothing came in time.
    #[error("the model provider did not {waiting_for} in time")]
    Timeout {
        /// What was waited for.
        waiting_for: Wait,
    },
    /// The stream ended before the provider said that the answer is whole.
    #[error("the model's answer broke off before its end")]
    Incomplete,
    /// The answer came whole, and there is nothing in it.
    #[error("the model answered with neither text nor a call")]
    Empty,
    /// The key is missing, wrong, or may not use this model.
    #[error("the model provider refused the key; the operator has to check the model's `api_key_env`")]
    Auth,
    /// The account has no credit left.
    #[error("the model provider's account is out of credit; the operator has to look at the account")]
    OutOfCredit,
    /// The provider refused the request as wrong.
    #[error("the model provider refused the request as invalid; the host's log has what it said")]
    InvalidRequest,
    /// The request has more bytes than the provider takes.
    #[error("the request is larger than the model provider takes; the conversation or its images have to be shortened")]
    RequestTooLarge,
    /// The conversation has more tokens than the model takes.
    #[error("the conversation is longer than the model takes; compact it or begin a new session")]
    ContextTooLong,
    /// The provider has no such model, the key may not use it, or there is nothing at the address.
    #[error("the model provider does not know the configured model; the operator has to check `model` and `base_url`")]
    UnknownModel,
    /// The provider's filter refused the request.
    #[error("the model provider's content filter refused the request")]
    ContentFiltered,
    /// The provider answered with something other than its protocol.
    #[error("the model provider's answer is not what its protocol says: {0}")]
    Protocol(&'static str),
    /// The answer is larger than the host takes.
    #[error("the model's answer is larger than the host takes")]
    AnswerTooLarge,
    /// The script of the scripted model does not fit what happened. The text is the operator's own.
    #[error("the model script does not fit: {0}")]
    Script(String),
}

/// What a timeout waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A connection.
    Connect,
    /// The first byte of the answer.
    FirstByte,
    /// The next event of the answer.
    NextEvent,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "accept a connection",
            Self::FirstByte => "begin to answer",
            Self::NextEvent => "go on with its answer",
        })
    }
}

/// The most of a provider's text that is kept for the log, in bytes.
const DETAIL_LIMIT: usize = 2048;

impl ModelError {
    /// An error of a kind, without detail.
    #[must_use]
    pub const fn new(kind: ModelErrorKind) -> Self {
        Self { kind, detail: None }
    }

    /// The same with what the provider said, cut to a bounded length. The caller has taken secrets out.
    #[must_use]
    pub fn with_detail(mut self, detail: &str) -> Self {
        let mut end = detail.len().min(DETAIL_LIMIT);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        self.detail = (end > 0).then(|| detail[..end].into());
        self
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self::new(ModelErrorKind::Protocol(what))
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> &ModelErrorKind {
        &self.kind
    }

    /// What the provider said, for the log only. A stranger's text.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self.kind {
            ModelErrorKind::RateLimited { .. }
            | ModelErrorKind::Overloaded { .. }
            | ModelErrorKind::Unavailable { .. }
            | ModelErrorKind::Timeout { .. }
            | ModelErrorKind::Incomplete
            | ModelErrorKind::Empty => true,
            ModelErrorKind::Auth
            | ModelErrorKind::OutOfCredit
            | ModelErrorKind::InvalidRequest
            | ModelErrorKind::RequestTooLarge
            | ModelErrorKind::ContextTooLong
            | ModelErrorKind::UnknownModel
            | ModelErrorKind::ContentFiltered
            | ModelErrorKind::Protocol(_)
            | ModelErrorKind::AnswerTooLarge
            | ModelErrorKind::Script(_) => false,
        }
    }

    /// How long the provider asks to wait, at most a day.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self.kind {
            ModelErrorKind::RateLimited { retry_after }
            | ModelErrorKind::Overloaded { retry_after }
            | ModelErrorKind::Unavailable { retry_after } => retry_after,
            _ => None,
        }
    }

    /// Whether the provider limits the rate: retries of such errors keep a longer distance when there is no hint.
    #[must_use]
    pub const fn is_rate_limit(&self) -> bool {
        matches!(self.kind, ModelErrorKind::RateLimited { .. })
    }

    /// What a client can do about a turn that ended so. No part of the message: it would be wrong of an attempt that is followed by
    /// another, and of a request that is no turn's.
    const fn advice(&self) -> Option<&'static str> {
        match self.kind {
            ModelErrorKind::RateLimited { .. }
            | ModelErrorKind::Overloaded { .. }
            | ModelErrorKind::Unavailable { .. } => Some("the turn can be tried again later"),
            ModelErrorKind::Timeout { .. } | ModelErrorKind::Incomplete => Some("the turn can be tried again"),
            ModelErrorKind::Empty => Some("try the turn again, or another model"),
            ModelErrorKind::Auth
            | ModelErrorKind::OutOfCredit
            | ModelErrorKind::InvalidRequest
            | ModelErrorKind::RequestTooLarge
            | ModelErrorKind::ContextTooLong
            | ModelErrorKind::UnknownModel
            | ModelErrorKind::ContentFiltered
            | ModelErrorKind::Protocol(_)
            | ModelErrorKind::AnswerTooLarge
            | ModelErrorKind::Script(_) => None,
        }
    }

    /// The error a turn ends with when no retry is left: with what its client can do.
    #[must_use]
    pub fn to_turn_error(&self) -> TurnError {
        let mut error = self.to_attempt_error();
        if let Some(advice) = self.advice() {
            error.message.push_str("; ");
            error.message.push_str(advice);
        }
        error
    }

    /// The error of an attempt that is followed by another.
    #[must_use]
    pub fn to_attempt_error(&self) -> TurnError {
        let code = match self.kind {
            ModelErrorKind::RateLimited { .. } => TurnErrorCode::ModelRateLimited,
            ModelErrorKind::Overloaded { .. }
            | ModelErrorKind::Unavailable { .. }
            | ModelErrorKind::Timeout { .. }
            | ModelErrorKind::Incomplete => TurnErrorCode::ModelUnavailable,
            ModelErrorKind::Empty => TurnErrorCode::EmptyAnswer,
            ModelErrorKind::Auth => TurnErrorCode::ModelAuth,
            ModelErrorKind::ContextTooLong => TurnErrorCode::ContextTooLong,
            ModelErrorKind::Protocol(_) | ModelErrorKind::AnswerTooLarge => TurnErrorCode::ModelProtocol,
            ModelErrorKind::OutOfCredit
            | ModelErrorKind::InvalidRequest
            | ModelErrorKind::RequestTooLarge
            | ModelErrorKind::UnknownModel
            | ModelErrorKind::ContentFiltered
            | ModelErrorKind::Script(_) => TurnErrorCode::ModelRejected,
        };
        TurnError {
            code,
            message: self.to_string(),
        }
    }
}

impl From<ModelErrorKind> for ModelError {
    fn from(kind: ModelErrorKind) -> Self {
        Self::new(kind)
    }
}

/// Without the detail: a `{:?}` in some log line must not print a stranger's text.
impl fmt::Debug for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelError").field(&self.kind).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_reads_that_the_turn_has_ended_is_told_to_try_it_again() {
        for kind in [
            ModelErrorKind::RateLimited { retry_after: None },
            ModelErrorKind::Overloaded { retry_after: None },
            ModelErrorKind::Unavailable { retry_after: None },
            ModelErrorKind::Timeout {
                waiting_for: Wait::Connect,
            },
            ModelErrorKind::Incomplete,
            ModelErrorKind::Empty,
        ] {
            let error = ModelError::new(kind);
            assert!(error.is_retryable());
            let (said, ended) = (error.to_string(), error.to_turn_error());
            assert_eq!(error.to_attempt_error().message, said);
            assert!(!said.contains("turn") && !said.contains("again"), "{said}");
            let advice = ended.message.strip_prefix(&said).unwrap();
            assert!(
                advice.starts_with("; ") && advice.contains("again"),
                "{}",
                ended.message
            );
        }
        let refused = ModelError::new(ModelErrorKind::Auth);
        assert_eq!(refused.to_turn_error(), refused.to_attempt_error());
    }
}
