//! Why a request did not work.

use crate::{Failure, bindings::wasi::http::types::ErrorCode};
use std::fmt;

/// Why a request did not work. `host` is the authority of the request's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be made as it is: its URL, its method or a header is not valid.
    Invalid(String),
    /// A network rule, or the address of the host, does not allow the request.
    Denied {
        /// Where the request went.
        host: String,
        /// Why, in words. Empty where a rule decided: the host adds which, and what would allow it, to the result of the call.
        why: String,
    },
    /// The host did not answer in time.
    TimedOut {
        /// Where the request went.
        host: String,
        /// What took too long.
        what: &'static str,
    },
    /// The host cannot be reached now.
    Unavailable {
        /// Where the request went.
        host: String,
        /// Why, in words.
        why: String,
    },
    /// The body is larger than the limit that the caller set.
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The answer is not a success; see [`Response::ok`](super::Response::ok).
    Status {
        /// Where the request went.
        host: String,
        /// The status.
        status: u16,
        /// When to try again, in seconds, if the host said so.
        retry_after: Option<u64>,
        /// The beginning of the answer's body.
        body: String,
    },
    /// Anything else: the answer breaks the protocol, the certificate is not valid, and so on.
    Failed {
        /// Where the request went.
        host: String,
        /// Why, in words.
        why: String,
    },
}

impl Error {
    pub(super) fn from_wit(code: ErrorCode, host: &str) -> Self {
        let host = host.to_owned();
        let why = |text: &str| text.to_owned();
        match code {
            // Which rule decides is the host's to say: it says so itself with a result that is a failure.
            ErrorCode::HttpRequestDenied => Self::Denied {
                host,
                why: String::new(),
            },
            ErrorCode::DestinationIpProhibited => Self::Denied {
                host,
                why: why("its address is not a public one"),
            },
            ErrorCode::HttpRequestBodySize(_) => Self::Denied {
                host,
                why: why("the request's body is larger than allowed"),
            },
            ErrorCode::DnsTimeout => Self::TimedOut {
                host,
                what: "finding its address",
            },
            ErrorCode::ConnectionTimeout => Self::TimedOut {
                host,
                what: "connecting",
            },
            ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout => Self::TimedOut {
                host,
                what: "its answer",
            },
            ErrorCode::ConnectionWriteTimeout => Self::TimedOut {
                host,
                what: "sending the request",
            },
            ErrorCode::DnsError(payload) => {
                let code = payload.rcode.unwrap_or_else(|| "no answer".to_owned());
                Self::Unavailable {
                    host,
                    why: format!("its name cannot be resolved ({code})"),
                }
            }
            ErrorCode::DestinationNotFound => Self::Unavailable {
                host,
                why: why("there is no such host"),
            },
            ErrorCode::DestinationUnavailable | ErrorCode::DestinationIpUnroutable => Self::Unavailable {
                host,
                why: why("it cannot be reached"),
            },
            ErrorCode::ConnectionRefused => Self::Unavailable {
                host,
                why: why("it refused the connection"),
            },
            ErrorCode::ConnectionTerminated => Self::Unavailable {
                host,
                why: why("it closed the connection"),
            },
            ErrorCode::ConnectionLimitReached => Self::Unavailable {
                host,
                why: why("there are too many connections or requests"),
            },
            ErrorCode::HttpRequestMethodInvalid => Self::Invalid(why("the request's method is not valid")),
            ErrorCode::HttpRequestUriInvalid => Self::Invalid(why("the request's URL is not valid")),
            ErrorCode::HttpRequestUriTooLong => Self::Invalid(why("the request's URL is too long")),
            ErrorCode::HttpRequestHeaderSectionSize(_) | ErrorCode::HttpRequestHeaderSize(_) => {
                Self::Invalid(why("the request's headers are too large"))
            }
            ErrorCode::HttpResponseBodySize(_) => Self::Failed {
                host,
                why: why("its answer is larger than allowed"),
            },
            ErrorCode::HttpResponseIncomplete => Self::Failed {
                host,
                why: why("its answer breaks off"),
            },
            ErrorCode::HttpProtocolError => Self::Failed {
                host,
                why: why("the connection broke, or its answer is not HTTP"),
            },
            ErrorCode::TlsCertificateError => Self::Failed {
                host,
                why: why("its certificate is not valid"),
            },
            ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => Self::Failed {
                host,
                why: why("no secure connection could be made"),
            },
            ErrorCode::InternalError(Some(message)) => Self::Failed { host, why: message },
            other => Self::Failed {
                host,
                why: format!("{other:?}"),
            },
        }
    }

    pub(crate) fn to_failure(&self) -> Failure {
        let message = self.to_string();
        match self {
            Self::Invalid(_) => Failure::invalid_arguments(message),
            Self::Denied { .. } | Self::Status { status: 401 | 403, .. } => Failure::denied(message),
            Self::TimedOut { .. } | Self::Unavailable { .. } => Failure::unavailable(message, None),
            Self::Status { status: 404 | 410, .. } => Failure::not_found(message),
            Self::Status {
                status: 408 | 425 | 429 | 500 | 502..=504,
                retry_after,
                ..
            } => Failure::unavailable(message, retry_after.map(std::time::Duration::from_secs)),
            Self::TooLarge { .. } | Self::Status { .. } | Self::Failed { .. } => Failure::failed(message),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::Denied { host, why } if why.is_empty() => write!(f, "the request to {host} was denied"),
            Self::Denied { host, why } => write!(f, "the request to {host} was denied: {why}"),
            Self::TimedOut { host, what } => write!(f, "{host} took too long: timed out at {what}"),
            Self::Unavailable { host, why } => write!(f, "{host} is not available: {why}"),
            Self::TooLarge { limit } => write!(f, "the answer's body is larger than {limit} bytes"),
            Self::Status { host, status, body, .. } if body.is_empty() => {
                write!(f, "{host} answered with status {status}")
            }
            Self::Status { host, status, body, .. } => write!(f, "{host} answered with status {status}: {body}"),
            Self::Failed { host, why } => write!(f, "the request to {host} failed: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Denied { .. } => std::io::ErrorKind::PermissionDenied,
            Error::TimedOut { .. } => std::io::ErrorKind::TimedOut,
            Error::Invalid(_) => std::io::ErrorKind::InvalidInput,
            _ => std::io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: ErrorCode) -> Failure {
        Failure::from(Error::from_wit(code, "example.com"))
    }

    #[test]
    fn a_refusal_is_denied_and_names_the_host() {
        for code in [ErrorCode::HttpRequestDenied, ErrorCode::DestinationIpProhibited] {
            let Failure::Denied(message) = failure(code) else {
                panic!("must be denied")
            };
            assert!(message.contains("example.com"), "{message}");
        }
    }

    #[test]
    fn the_words_for_a_rule_that_decided_are_left_to_the_host() {
        let said = failure(ErrorCode::HttpRequestDenied).to_string();
        assert_eq!(said, "the request to example.com was denied");
    }

    #[test]
    fn a_timeout_is_unavailable() {
        for code in [
            ErrorCode::DnsTimeout,
            ErrorCode::ConnectionTimeout,
            ErrorCode::ConnectionReadTimeout,
        ] {
            assert!(matches!(failure(code), Failure::Unavailable { .. }));
        }
    }

    #[test]
    fn a_broken_connection_is_told_in_words() {
        let message = failure(ErrorCode::HttpProtocolError).to_string();
        assert!(message.contains("the connection broke"), "{message}");
    }

    #[test]
    fn a_body_read_as_io_keeps_its_meaning() {
        let io = std::io::Error::from(Error::Unavailable {
            host: "h".into(),
            why: "gone".into(),
        });
        assert!(matches!(Failure::from(io), Failure::Unavailable { .. }));
    }

    #[test]
    fn a_status_becomes_the_failure_it_stands_for() {
        let of = |status| {
            Failure::from(Error::Status {
                host: "h".into(),
                status,
                retry_after: Some(3),
                body: String::new(),
            })
        };
        assert!(matches!(of(403), Failure::Denied(_)));
        assert!(matches!(of(404), Failure::NotFound(_)));
        assert!(matches!(of(429), Failure::Unavailable { after: Some(after), .. } if after.as_secs() == 3));
        assert!(matches!(of(418), Failure::Failed(_)));
    }
}
