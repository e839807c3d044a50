//! Why a tool has no result.

use crate::{
    bindings::fumehood::tool::types::{Failure as WitFailure, Retry},
    http, kv,
};
use std::{any::Any, error::Error, fmt, io, time::Duration};

/// Why a tool has no result. The message is for the model: what happened, why, and what to do instead.
///
/// `?` makes one of any error: an [`io::Error`] of kind `NotFound` becomes [`NotFound`](Failure::NotFound), of
/// `PermissionDenied` or `ReadOnlyFilesystem` [`Denied`](Failure::Denied), of `TimedOut`
/// [`Unavailable`](Failure::Unavailable); an [`http::Error`] or a [`kv::Error`] what it stands for; all others
/// [`Failed`](Failure::Failed), with the messages of their sources.
///
/// For that reason it does not implement [`Error`] itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The arguments break a rule that the schema could not express.
    InvalidArguments(String),
    /// A grant, a rule or a service said no.
    Denied(String),
    /// What the arguments name does not exist.
    NotFound(String),
    /// Something is not there now and may be there later.
    Unavailable {
        /// What is missing.
        message: String,
        /// When trying again may help, if known.
        after: Option<Duration>,
    },
    /// Anything else.
    Failed(String),
}

impl Failure {
    /// The arguments break a rule that the schema could not express.
    pub fn invalid_arguments(message: impl Into<String>) -> Self {
        Self::InvalidArguments(message.into())
    }

    /// A grant, a rule or a service said no.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::Denied(message.into())
    }

    /// What the arguments name does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::NotFound(message.into())
    }

    /// Something is not there now and may be there later, `after` that long if it is known.
    pub fn unavailable(message: impl Into<String>, after: Option<Duration>) -> Self {
        Self::Unavailable {
            message: message.into(),
            after,
        }
    }

    /// Anything else.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// In words.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::InvalidArguments(message)
            | Self::Denied(message)
            | Self::NotFound(message)
            | Self::Unavailable { message, .. }
            | Self::Failed(message) => message,
        }
    }

    /// The same failure with `what: ` before its message, to say what was being done.
    #[must_use]
    pub fn while_doing(self, what: impl fmt::Display) -> Self {
        let message = format!("{what}: {}", self.message());
        match self {
            Self::InvalidArguments(_) => Self::InvalidArguments(message),
            Self::Denied(_) => Self::Denied(message),
            Self::NotFound(_) => Self::NotFound(message),
            Self::Unavailable { after, .. } => Self::Unavailable { message, after },
            Self::Failed(_) => Self::Failed(message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let any: &dyn Any = &error;
        if let Some(error) = any.downcast_ref::<io::Error>() {
            return from_io(error);
        }
        if let Some(error) = any.downcast_ref::<http::Error>() {
            return error.to_failure();
        }
        if let Some(error) = any.downcast_ref::<kv::Error>() {
            return error.to_failure();
        }
        Self::Failed(with_sources(&error))
    }
}

fn from_io(error: &io::Error) -> Failure {
    // A body that is read through `io::Read` carries the HTTP error inside.
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<http::Error>()) {
        return error.to_failure();
    }
    let message = with_sources(error);
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound(message),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Failure::Denied(message),
        io::ErrorKind::TimedOut => Failure::Unavailable { message, after: None },
        _ => Failure::Failed(message),
    }
}

fn with_sources(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = error.source();
    }
    message
}

impl From<Failure> for WitFailure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::InvalidArguments(message) => Self::InvalidArguments(message),
            Failure::Denied(message) => Self::Denied(message),
            Failure::NotFound(message) => Self::NotFound(message),
            Failure::Unavailable { message, after } => Self::Unavailable(Retry {
                message,
                after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            }),
            Failure::Failed(message) => Self::Failed(message),
        }
    }
}

impl Failure {
    #[cfg_attr(not(target_family = "wasm"), allow(dead_code))]
    pub(crate) fn from_wit(failure: WitFailure) -> Self {
        match failure {
            WitFailure::InvalidArguments(message) => Self::InvalidArguments(message),
            WitFailure::Denied(message) => Self::Denied(message),
            WitFailure::NotFound(message) => Self::NotFound(message),
            WitFailure::Unavailable(Retry { message, after_ms }) => Self::Unavailable {
                message,
                after: after_ms.map(Duration::from_millis),
            },
            WitFailure::Failed(message) => Self::Failed(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_it<T, E>(result: Result<T, E>) -> Failure
    where
        Failure: From<E>,
    {
        result.map_err(Failure::from).err().expect("an error goes in")
    }

    #[test]
    fn io_errors_become_what_they_mean() {
        let of = |kind| try_it(Err::<(), _>(io::Error::new(kind, "x")));
        assert!(matches!(of(io::ErrorKind::NotFound), Failure::NotFound(_)));
        assert!(matches!(of(io::ErrorKind::PermissionDenied), Failure::Denied(_)));
        assert!(matches!(of(io::ErrorKind::ReadOnlyFilesystem), Failure::Denied(_)));
        assert!(matches!(of(io::ErrorKind::TimedOut), Failure::Unavailable { .. }));
        assert!(matches!(of(io::ErrorKind::InvalidData), Failure::Failed(_)));
    }

    #[test]
    fn other_errors_keep_their_words() {
        let failure = try_it("x".parse::<u8>());
        assert_eq!(failure, Failure::failed("invalid digit found in string"));
    }

    #[test]
    fn a_failure_says_what_was_being_done() {
        let failure = Failure::not_found("no such file").while_doing("reading a.csv");
        assert_eq!(failure, Failure::not_found("reading a.csv: no such file"));
    }

    #[test]
    fn a_failure_survives_the_boundary() {
        for failure in [
            Failure::invalid_arguments("a"),
            Failure::denied("b"),
            Failure::not_found("c"),
            Failure::unavailable("d", Some(Duration::from_millis(1500))),
            Failure::unavailable("e", None),
            Failure::failed("f"),
        ] {
            assert_eq!(Failure::from_wit(failure.clone().into()), failure);
        }
    }
}
