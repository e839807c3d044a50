//! What the door counts besides its ledger.

use crate::error::EgressError;
use fumehood_core::metric;
use metrics::{Counter, counter};
use std::sync::LazyLock;

static BLOCKED: LazyLock<Counter> = LazyLock::new(|| counter!(metric::LEAKS.name, "action" => "blocked"));
static REDACTED: LazyLock<Counter> = LazyLock::new(|| counter!(metric::LEAKS.name, "action" => "redacted"));

/// A request was stopped; one that would have carried a secret out is counted.
pub(crate) fn stopped(error: &EgressError) {
    if matches!(error, EgressError::LeakBlocked { .. }) {
        BLOCKED.increment(1);
    }
}

/// A secret's value was replaced in one text or body.
pub(crate) fn leak_redacted() {
    REDACTED.increment(1);
}
