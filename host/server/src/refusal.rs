//! What the layers below refuse, in the words of the API.

use crate::problem::{Problem, ProblemCode};
use fumehood_agent::{
    budgets::BudgetExhausted,
    host::{CallbackRefused, HostError, ResultsRefused},
    install::InstallError,
    limits::{Counted, Limited, Standing},
};
use fumehood_core::turn::BudgetScope;
use fumehood_store::{StoreError, WorkspaceError, spending::Part};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::Duration;

impl From<HostError> for Problem {
    fn from(error: HostError) -> Self {
        let detail = error.to_string();
        match error {
            HostError::NotFound(what) => Self::not_found(what),
            HostError::Busy(turn) => Self::new(ProblemCode::SessionBusy, detail).with_turn(turn),
            HostError::BusyWithJob(job) => Self::new(ProblemCode::SessionBusy, detail).with("job", job.to_string()),
            HostError::QueueFull => Self::new(ProblemCode::QueueFull, detail),
            HostError::HookDenied(_) => Self::new(ProblemCode::HookDenied, detail),
            HostError::Compacting => Self::new(ProblemCode::SessionBusy, detail),
            HostError::NotCompacted(_) => Self::new(ProblemCode::CompactionFailed, detail),
            HostError::KeyReused => Self::new(ProblemCode::IdempotencyKeyReused, detail),
            HostError::Changed => Self::new(ProblemCode::SessionChanged, detail),
            HostError::Invalid(_) => Self::new(ProblemCode::InvalidRequest, detail),
            HostError::NotAwaitingApproval(_) => Self::new(ProblemCode::NotAwaitingApproval, detail),
            HostError::ApprovalExpired(_) => Self::new(ProblemCode::ApprovalExpired, detail),
            HostError::Decision { field, .. } => Self::new(ProblemCode::InvalidDecision, detail).with("field", field),
            HostError::Results(refused) => match refused {
                ResultsRefused::NotAwaiting(_) | ResultsRefused::Given(_) => {
                    Self::new(ProblemCode::NotAwaitingResults, detail)
                }
                ResultsRefused::Expired(_) => Self::new(ProblemCode::ResultsExpired, detail),
                ResultsRefused::Senseless { field, .. } => {
                    Self::new(ProblemCode::InvalidResult, detail).with("field", field)
                }
            },
            HostError::Callback(refused) => match refused {
                CallbackRefused::Settled(why) => {
                    Self::new(ProblemCode::CallbackSettled, detail).with("reason", why.as_str())
                }
                CallbackRefused::Senseless { field, .. } => {
                    Self::new(ProblemCode::InvalidResult, detail).with("field", field)
                }
                CallbackRefused::TooManyReports => Self::new(ProblemCode::RateLimited, detail)
                    .with("limit", "callback_progress")
                    .with_header(header::RETRY_AFTER, 1),
            },
            HostError::ShuttingDown => Self::shutting_down(),
            HostError::Limited(limited) => rate_limited(&limited),
            HostError::TooManySessions(limit) => Self::new(ProblemCode::TooManySessions, detail).with("limit", limit),
            HostError::BudgetExhausted(exhausted) => budget_exhausted(&exhausted),
            HostError::Fault => Self::fault(),
            HostError::Agents(_) => {
                tracing::error!(error = detail, "the configured agents do not fit together");
                Self::new(
                    ProblemCode::Misconfigured,
                    "the configured agents do not fit together; the operator sees why with `fumehood config check`",
                )
            }
            HostError::OtherCode(_) => Self::new(ProblemCode::PreconditionFailed, detail),
            HostError::Install(error) => error.into(),
            HostError::Files(error) => error.into(),
            HostError::Store(error) => error.into(),
        }
    }
}

/// When to try an install again that found the host busy with others, in seconds.
const INSTALL_RETRY_AFTER: u64 = 10;

impl From<InstallError> for Problem {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Blob(error) => store_unavailable(&error),
            error if error.is_busy() => {
                let problem = Self::new(ProblemCode::RateLimited, error.to_string());
                // How many there may be depends on what others do: no quota is told.
                let told = Told {
                    limit: "installs",
                    quota: None,
                    remaining: 0,
                    more: Some(More::at_once(INSTALL_RETRY_AFTER)),
                };
                with_headers(problem, told.headers()).with_header(header::RETRY_AFTER, INSTALL_RETRY_AFTER)
            }
            error => Self::new(ProblemCode::ComponentRefused, error.to_string()),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists { what } => Self::new(ProblemCode::Conflict, format!("{what} already exists")),
            StoreError::Gone { what } => Self::not_found(what),
            StoreError::KeyReused => HostError::KeyReused.into(),
            error @ StoreError::Archived => Self::new(
                ProblemCode::SessionArchived,
                format!(
                    "{error}; bring it back with `PATCH /v1/sessions/{{session}}` and `{{\"archived\": false}}`, or go on in a fork of it"
                ),
            ),
            error @ StoreError::Busy(turn) => {
                Self::new(ProblemCode::SessionBusy, error.to_string()).with("turn", turn.to_string())
            }
            StoreError::BusyWithJob(job) => HostError::BusyWithJob(job).into(),
            StoreError::Invalid { reason } => Self::new(ProblemCode::InvalidRequest, reason),
            error @ (StoreError::Full { limit, .. } | StoreError::TooMany { limit, .. }) => {
                Self::new(ProblemCode::QuotaExceeded, error.to_string()).with("limit", limit)
            }
            StoreError::BadCursor => Self::new(
                ProblemCode::InvalidCursor,
                "the cursor is not the `next` of a page of this list; start again without it",
            ),
            error @ (StoreError::Unavailable { .. } | StoreError::Corrupt { .. } | StoreError::Lost) => {
                store_unavailable(&error)
            }
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
            WorkspaceError::ReadOnly { .. } => Self::new(ProblemCode::FileReadOnly, detail),
            WorkspaceError::Gone => Self::not_found("session"),
            WorkspaceError::NotEmpty { .. } => Self::new(ProblemCode::DirectoryNotEmpty, detail),
            WorkspaceError::BadRequest { .. } => Self::new(ProblemCode::InvalidQuery, detail),
            WorkspaceError::BadCursor => StoreError::BadCursor.into(),
            error @ WorkspaceError::Unavailable { .. } => store_unavailable(&error),
        }
    }
}

fn budget_exhausted(exhausted: &BudgetExhausted) -> Problem {
    let problem = Problem::new(ProblemCode::BudgetExhausted, exhausted.to_string())
        .with("scope", serde_json::to_value(exhausted.scope).unwrap_or_default())
        .with("budget", exhausted.part.as_str());
    let again = exhausted.again.map(|again| {
        let wait = (again - fumehood_core::now()).to_std().unwrap_or_default();
        whole_seconds(wait).max(1)
    });
    let problem = with_headers(problem, budget_headers(exhausted, again));
    match again {
        // No time brings more: nothing is said about any.
        None => problem,
        Some(seconds) => problem.with_header(header::RETRY_AFTER, seconds),
    }
}

/// What may be spent: nothing is left of it until it begins anew, if it does.
fn budget_headers(exhausted: &BudgetExhausted, again: Option<u64>) -> Vec<(HeaderName, HeaderValue)> {
    let limit = match exhausted.scope {
        BudgetScope::Org => "org-budget",
        BudgetScope::Session => "session-budget",
        BudgetScope::Turn => "turn-budget",
    };
    let unit = match exhausted.part {
        Part::Cost => "cost-millionths",
        Part::Time => "milliseconds",
        part => part.as_str(),
    };
    let told = Told {
        limit,
        quota: Some((exhausted.limit, format!("qu=\"{unit}\""))),
        remaining: 0,
        more: again.map(More::at_once),
    };
    told.headers()
}

pub(crate) fn rate_limited(limited: &Limited) -> Problem {
    let retry_after = whole_seconds(limited.retry_after()).max(1);
    let code = match limited {
        Limited::Rate { .. } | Limited::Crowded { .. } => ProblemCode::RateLimited,
        Limited::Unknown { .. } => ProblemCode::LimitsUnavailable,
    };
    let problem = Problem::new(code, limited.to_string())
        .with("limit", limited.limit())
        .with_header(header::RETRY_AFTER, retry_after);
    let headers = match limited {
        Limited::Rate { limit, standing, .. } => rate_headers(limit, standing, retry_after),
        Limited::Crowded { limit, places, .. } => place_headers(limit, *places, retry_after),
        Limited::Unknown { .. } => Vec::new(),
    };
    with_headers(problem, headers)
}

fn with_headers(problem: Problem, headers: Vec<(HeaderName, HeaderValue)>) -> Problem {
    headers
        .into_iter()
        .fold(problem, |problem, (name, value)| problem.with_header(name, value))
}

/// Says where the limit stands that a successful request counted towards.
pub(crate) fn tell_standing(headers: &mut HeaderMap, counted: &Counted) {
    let Counted { limit, standing } = counted;
    // One more fits at once, or as soon as a unit of the whole has drained.
    let next = match standing.remaining {
        0 => whole_seconds(standing.period / u32::try_from(standing.limit).unwrap_or(u32::MAX).max(1)).max(1),
        _ => 0,
    };
    headers.extend(rate_headers(limit, standing, next));
}

fn rate_headers(limit: &str, standing: &Standing, next: u64) -> Vec<(HeaderName, HeaderValue)> {
    let window = whole_seconds(standing.period).max(1);
    let told = Told {
        limit,
        quota: Some((standing.limit, format!("w={window}"))),
        remaining: standing.remaining,
        more: Some(More {
            whole: whole_seconds(standing.reset),
            next,
        }),
    };
    told.headers()
}

/// What is limited at one time: none is left, and nobody knows how soon one is.
fn place_headers(limit: &str, places: u32, next: u64) -> Vec<(HeaderName, HeaderValue)> {
    let told = Told {
        limit,
        quota: Some((places.into(), "qu=\"concurrent-requests\"".into())),
        remaining: 0,
        more: Some(More::at_once(next)),
    };
    told.headers()
}

/// What is told of a limit; what is not known is not told.
struct Told<'a> {
    limit: &'a str,
    /// How much there may be, and of what.
    quota: Option<(u64, String)>,
    remaining: u64,
    more: Option<More>,
}

/// When there is more, in seconds.
#[derive(Clone, Copy)]
struct More {
    /// Until the whole quota fits again.
    whole: u64,
    /// Until anything fits.
    next: u64,
}

impl More {
    const fn at_once(seconds: u64) -> Self {
        Self {
            whole: seconds,
            next: seconds,
        }
    }
}

impl Told<'_> {
    /// `RateLimit-*` as most clients know them (draft 03 of the IETF's RateLimit fields: seconds until the whole quota fits again), and
    /// the newer `RateLimit` and `RateLimit-Policy` (draft 10: seconds until more fits).
    fn headers(self) -> Vec<(HeaderName, HeaderValue)> {
        let Self {
            limit,
            quota,
            remaining,
            more,
        } = self;
        let mut headers = vec![(HeaderName::from_static("ratelimit-remaining"), remaining.into())];
        let mut newer = format!("\"{limit}\";r={remaining}");
        if let Some(more) = more {
            headers.push((HeaderName::from_static("ratelimit-reset"), more.whole.into()));
            newer = format!("{newer};t={}", more.next);
        }
        let mut texts = vec![("ratelimit", newer)];
        if let Some((quota, of)) = quota {
            headers.push((HeaderName::from_static("ratelimit-limit"), quota.into()));
            texts.push(("ratelimit-policy", format!("\"{limit}\";q={quota};{of}")));
        }
        for (name, text) in texts {
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.push((HeaderName::from_static(name), value));
            }
        }
        headers
    }
}

/// Rounded up: a client that comes back then is not refused again.
fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
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
    use fumehood_agent::limits::Crowd;
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
        let standing = Standing {
            limit: 120,
            period: Duration::from_secs(60),
            remaining: 0,
            reset: Duration::from_millis(59_100),
        };
        let limited = Limited::Rate {
            limit: "turns",
            text: "120/min".into(),
            standing,
            retry_after: Duration::from_millis(1200),
        };
        let response = axum::response::IntoResponse::into_response(Problem::from(HostError::Limited(limited)));
        assert_eq!(response.status(), 429);
        for (name, value) in [
            ("retry-after", "2"),
            ("ratelimit-limit", "120"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "60"),
            ("ratelimit-policy", "\"turns\";q=120;w=60"),
            ("ratelimit", "\"turns\";r=0;t=2"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
    }

    #[test]
    fn a_crowd_says_how_many_there_may_be_and_when_to_come_back() {
        let limited = Limited::Crowded {
            limit: "concurrent_calls",
            places: 8,
            crowd: Crowd::NoneMayWait(64),
        };
        let response = axum::response::IntoResponse::into_response(Problem::from(HostError::Limited(limited)));
        assert_eq!(response.status(), 429);
        for (name, value) in [
            ("retry-after", "1"),
            ("ratelimit-limit", "8"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "1"),
            (
                "ratelimit-policy",
                "\"concurrent_calls\";q=8;qu=\"concurrent-requests\"",
            ),
            ("ratelimit", "\"concurrent_calls\";r=0;t=1"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
    }

    #[test]
    fn a_spent_budget_says_when_it_begins_anew_if_it_does() {
        let spent = |scope, again| {
            let exhausted = BudgetExhausted {
                scope,
                part: Part::Tokens,
                used: 120,
                limit: 100,
                again,
            };
            axum::response::IntoResponse::into_response(Problem::from(HostError::BudgetExhausted(exhausted)))
        };
        let soon = fumehood_core::now() + Duration::from_secs(3600);
        let response = spent(BudgetScope::Org, Some(soon));
        assert_eq!(response.status(), 429);
        for (name, value) in [
            ("ratelimit-limit", "100"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-policy", "\"org-budget\";q=100;qu=\"tokens\""),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
        let seconds = response.headers()["retry-after"].to_str().unwrap();
        assert!((1..=3600).contains(&seconds.parse::<u64>().unwrap()));
        assert_eq!(response.headers()["ratelimit-reset"], seconds);
        assert_eq!(
            response.headers()["ratelimit"],
            format!("\"org-budget\";r=0;t={seconds}")
        );

        let response = spent(BudgetScope::Session, None);
        assert_eq!(response.headers()["ratelimit-remaining"], "0");
        assert_eq!(response.headers()["ratelimit"], "\"session-budget\";r=0");
        for name in ["retry-after", "ratelimit-reset"] {
            assert!(!response.headers().contains_key(name), "no time brings more: {name}");
        }
    }

    #[test]
    fn a_busy_host_says_when_to_try_an_install_again() {
        let busy = InstallError::Load(fumehood_sandbox::LoadError::Busy);
        let response = axum::response::IntoResponse::into_response(Problem::from(busy));
        assert_eq!(response.status(), 429);
        for (name, value) in [
            ("retry-after", "10"),
            ("ratelimit-remaining", "0"),
            ("ratelimit-reset", "10"),
            ("ratelimit", "\"installs\";r=0;t=10"),
        ] {
            assert_eq!(response.headers()[name], value, "{name}");
        }
    }

    #[test]
    fn a_limit_that_cannot_be_checked_is_no_fault_of_the_client() {
        let unknown = Limited::Unknown { limit: "turns" };
        let response = axum::response::IntoResponse::into_response(Problem::from(HostError::Limited(unknown)));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
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
