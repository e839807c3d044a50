//! What the layers below refuse, in the words of the API.

use crate::problem::{Problem, ProblemCode};
use fumehood_agent::{host::HostError, install::InstallError, limits::Limited};
use fumehood_store::{StoreError, WorkspaceError};
use http::{HeaderName, header};

impl From<HostError> for Problem {
    fn from(error: HostError) -> Self {
        let detail = error.to_string();
        match error {
            HostError::NotFound(what) => Self::not_found(what),
            HostError::Busy(turn) => Self::new(ProblemCode::SessionBusy, detail).with_turn(turn),
            HostError::KeyReused => Self::new(ProblemCode::IdempotencyKeyReused, detail),
            HostError::Invalid(_) => Self::new(ProblemCode::InvalidRequest, detail),
            HostError::ShuttingDown => Self::shutting_down(),
            HostError::Limited(limited) => rate_limited(&limited),
            HostError::Agents(_) => {
                tracing::error!(error = detail, "the configured agents do not fit together");
                Self::new(
                    ProblemCode::Misconfigured,
                    "the configured agents do not fit together; the operator sees why with `fumehood config check`",
                )
            }
            HostError::Install(error) => error.into(),
            HostError::Store(error) => error.into(),
        }
    }
}

impl From<InstallError> for Problem {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Blob(error) => store_unavailable(&error),
            error => Self::new(ProblemCode::ComponentRefused, error.to_string()),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { what } => Self::new(ProblemCode::Conflict, format!("{what} already exists")),
            StoreError::Gone { what } => Self::not_found(what),
            StoreError::Invalid { reason } => Self::new(ProblemCode::InvalidRequest, reason),
            StoreError::BadCursor => Self::new(
                ProblemCode::InvalidCursor,
                "the cursor is not the `next` of a page of this list; start again without it",
            ),
            error @ (StoreError::Unavailable { .. } | StoreError::Corrupt { .. }) => store_unavailable(&error),
        }
    }
}

impl From<WorkspaceError> for Problem {
    fn from(error: WorkspaceError) -> Self {
        let detail = error.to_string();
        match error {
            WorkspaceError::Precondition { current } => {
                let problem = Self::new(ProblemCode::PreconditionFailed, detail);
                match current {
                    Some(etag) => problem.with("etag", format!("\"{etag}\"")),
                    None => problem,
                }
            }
            WorkspaceError::Quota { limit, .. } => Self::new(ProblemCode::QuotaExceeded, detail).with("limit", limit),
            WorkspaceError::IsDirectory { .. } | WorkspaceError::Blocked { .. } | WorkspaceError::LeadsOut { .. } => {
                Self::new(ProblemCode::NotAFile, detail)
            }
            WorkspaceError::NotEmpty { .. } => Self::new(ProblemCode::DirectoryNotEmpty, detail),
            WorkspaceError::BadRequest { .. } => Self::new(ProblemCode::InvalidQuery, detail),
            WorkspaceError::BadCursor => StoreError::BadCursor.into(),
            error @ WorkspaceError::Unavailable { .. } => store_unavailable(&error),
        }
    }
}

fn rate_limited(limited: &Limited) -> Problem {
    // Whole seconds, rounded up: a client that comes back then is not refused again.
    let seconds = limited.retry_after.as_millis().div_ceil(1000).max(1);
    let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
    Problem::new(ProblemCode::RateLimited, limited.to_string())
        .with("limit", limited.what)
        .with_header(header::RETRY_AFTER, seconds)
        .with_header(HeaderName::from_static("ratelimit-remaining"), 0)
        .with_header(HeaderName::from_static("ratelimit-reset"), seconds)
}

/// The reason is the operator's: it may name files and say what the disk said.
pub(crate) fn store_unavailable(error: &dyn std::error::Error) -> Problem {
    tracing::error!(%error, "the store failed");
    Problem::new(
        ProblemCode::StoreUnavailable,
        "the host's store does not answer rightly now; nothing was changed; try again later",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::id::TurnId;

    #[test]
    fn a_failing_store_shows_no_detail() {
        let problem = Problem::from(StoreError::Unavailable {
            reason: "/var/lib/x.db: disk I/O error".into(),
        });
        assert_eq!(problem.code(), ProblemCode::StoreUnavailable);
        assert!(!problem.detail().contains("x.db"), "{}", problem.detail());
    }

    #[test]
    fn a_reached_limit_says_when_to_come_back() {
        let limited = Limited {
            what: "turns",
            retry_after: std::time::Duration::from_millis(1200),
        };
        let response = axum::response::IntoResponse::into_response(Problem::from(HostError::Limited(limited)));
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
    }

    #[test]
    fn a_busy_session_is_a_conflict() {
        let problem = Problem::from(HostError::Busy(TurnId::new()));
        assert_eq!(problem.code(), ProblemCode::SessionBusy);
    }

    #[test]
    fn what_went_away_reads_as_not_there() {
        assert_eq!(
            Problem::from(StoreError::Gone { what: "session" }).code(),
            ProblemCode::NotFound
        );
    }
}
