//! The call that a tool answers.

use crate::bindings::fumehood::tool::types::ToolCall;
use std::time::{Duration, SystemTime};

/// The call that is being answered: take it as the first parameter, `call: &Call`, to ask about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    id: String,
    idempotency_key: String,
    deadline: SystemTime,
    locale: Option<String>,
}

impl Call {
    /// This call, unique on the host. For logs.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same for every run of what is the same call to the outside, a re-run after a crash
    /// included. Give it to services that deduplicate requests.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.idempotency_key
    }

    /// When the host stops the call without notice.
    #[must_use]
    pub fn deadline(&self) -> SystemTime {
        self.deadline
    }

    /// How long there is until the deadline; zero if it has passed.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.deadline.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// The language and region of the person who asked, as a BCP 47 tag such as `de-CH`, if known.
    #[must_use]
    pub fn locale(&self) -> Option<&str> {
        self.locale.as_deref()
    }

    /// Takes the tool's name and the arguments off a request.
    pub(crate) fn split(request: ToolCall) -> (Self, String, String) {
        let ToolCall {
            id,
            tool,
            arguments,
            idempotency_key,
            deadline_ms,
            locale,
        } = request;
        let deadline = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(deadline_ms));
        // A deadline that does not fit a clock is as good as none.
        let deadline = deadline.unwrap_or_else(|| SystemTime::now() + Duration::from_secs(86_400));
        (
            Self {
                id,
                idempotency_key,
                deadline,
                locale,
            },
            tool,
            arguments,
        )
    }

    /// A call for tests: a made-up id, a minute of time, no locale.
    pub(crate) fn example() -> Self {
        Self {
            id: "call_test".to_owned(),
            idempotency_key: "test".to_owned(),
            deadline: SystemTime::now() + Duration::from_secs(60),
            locale: None,
        }
    }

    /// The same call with a locale, for tests.
    #[must_use]
    pub fn with_locale(self, locale: &str) -> Self {
        Self {
            locale: Some(locale.to_owned()),
            ..self
        }
    }
}
