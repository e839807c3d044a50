//! Parts of schedules, for the API's description.

use utoipa::ToSchema;

/// When something recurs: exactly one of `cron`, `every` and `at`.
#[derive(ToSchema)]
#[schema(title = "When")]
#[expect(dead_code, reason = "described only")]
pub(crate) struct When {
    /// A cron line: minute, hour, day of the month, month and day of the week, with the second before them or without. If both days
    /// are restricted, either will do.
    #[schema(example = "30 9 * * 1-5")]
    cron: Option<String>,
    /// The zone whose clock the line is about, by its IANA name; UTC when absent.
    #[schema(example = "Europe/Zurich")]
    time_zone: Option<String>,
    /// An interval.
    #[schema(example = "6h")]
    every: Option<String>,
    /// The first time of the interval; the end of the first interval when absent.
    #[schema(format = DateTime)]
    from: Option<String>,
    /// The only time.
    #[schema(format = DateTime)]
    at: Option<String>,
}

/// What becomes of times that were missed: passed over, the last of them made up for, or each, the last 16 at most.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "described only")]
pub(crate) enum Misfire {
    Skip,
    Once,
    All,
}

/// What becomes of a time while the session, or the turn before in a session of its own, is at work: the turn waits for its turn, if the
/// one before does not wait itself; or it is skipped. In a session of its own, one that may wait waits for nobody.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "described only")]
pub(crate) enum IfBusy {
    Queue,
    Skip,
}
