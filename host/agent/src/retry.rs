//! When a failed model call is tried again, and after how long.

use fumehood_model::ModelError;
use std::time::Duration;

/// Retries of one model call.
pub(crate) const MAX_RETRIES: u32 = 3;
const INITIAL: Duration = Duration::from_millis(500);
const MAX: Duration = Duration::from_secs(30);
/// A provider that limits the rate and gives no hint is left alone for at least this long.
const RATE_LIMIT_FLOOR: Duration = Duration::from_secs(30);
/// A hint longer than this is not waited for: the turn fails, and the client knows when to come back.
const LONGEST_HINT: Duration = Duration::from_secs(120);

/// The wait before retry `attempt` (from 1), or `None` when the call must not be tried again: the error won't pass, the
/// retries are used up, or text of the answer was shown already and would be shown twice.
pub(crate) fn delay(error: &ModelError, attempt: u32, shown: bool) -> Option<Duration> {
    if shown || attempt > MAX_RETRIES || !error.is_retryable() {
        return None;
    }
    let computed = INITIAL.saturating_mul(2_u32.saturating_pow(attempt - 1)).min(MAX);
    match error.retry_after() {
        Some(hint) if hint > LONGEST_HINT => None,
        Some(hint) => Some(computed.max(hint)),
        None if error.is_rate_limit() => Some(computed.max(RATE_LIMIT_FLOOR)),
        None => Some(computed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_model::ModelErrorKind;

    fn limited(retry_after: Option<Duration>) -> ModelError {
        ModelErrorKind::RateLimited { retry_after }.into()
    }

    #[test]
    fn a_hint_is_obeyed_and_a_missing_one_keeps_the_floor() {
        assert_eq!(
            delay(&limited(Some(Duration::from_secs(3))), 1, false),
            Some(Duration::from_secs(3))
        );
        assert_eq!(delay(&limited(Some(Duration::from_millis(1))), 1, false), Some(INITIAL));
        assert_eq!(delay(&limited(None), 1, false), Some(RATE_LIMIT_FLOOR));
    }

    #[test]
    fn waits_double() {
        let broken = ModelError::from(ModelErrorKind::Incomplete);
        let waits: Vec<_> = (1..=3).filter_map(|n| delay(&broken, n, false)).collect();
        assert_eq!(waits, [INITIAL, INITIAL * 2, INITIAL * 4]);
    }

    #[test]
    fn what_would_not_pass_or_would_show_twice_is_not_tried_again() {
        assert_eq!(delay(&ModelErrorKind::Auth.into(), 1, false), None);
        assert_eq!(delay(&ModelErrorKind::Incomplete.into(), 1, true), None);
        assert_eq!(delay(&ModelErrorKind::Incomplete.into(), MAX_RETRIES + 1, false), None);
        assert_eq!(delay(&limited(Some(Duration::from_secs(3600))), 1, false), None);
    }
}
