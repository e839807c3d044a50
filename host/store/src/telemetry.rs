//! What the store counts and measures.

use fumehood_core::metric;
use metrics::{Counter, Histogram, counter, histogram};
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

static COMMITS: LazyLock<Commits> = LazyLock::new(|| Commits {
    duration: histogram!(metric::STORE_COMMIT_DURATION.name),
    batch: histogram!(metric::STORE_COMMIT_BATCH.name),
    failures: counter!(metric::STORE_COMMIT_FAILURES.name),
});
static JOURNAL_ROWS: LazyLock<Counter> = LazyLock::new(|| counter!(metric::JOURNAL_ROWS.name));
static WORKSPACE_WRITTEN: LazyLock<Counter> = LazyLock::new(|| counter!(metric::WORKSPACE_WRITTEN.name));

struct Commits {
    duration: Histogram,
    batch: Histogram,
    failures: Counter,
}

/// A transaction ended.
#[expect(clippy::cast_precision_loss, reason = "a batch has hundreds of writes at most")]
pub(crate) fn committed<E>(begun: Instant, writes: usize, outcome: &Result<(), E>) {
    let took: Duration = begun.elapsed();
    COMMITS.duration.record(took);
    COMMITS.batch.record(writes as f64);
    if outcome.is_err() {
        COMMITS.failures.increment(1);
    }
}

/// A row was written to a journal.
pub(crate) fn journal_row() {
    JOURNAL_ROWS.increment(1);
}

/// A file was written through the API.
pub(crate) fn workspace_written(bytes: usize) {
    WORKSPACE_WRITTEN.increment(bytes as u64);
}
