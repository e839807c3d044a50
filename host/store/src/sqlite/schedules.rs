//! Schedules: keeping them, finding those that are due, and what came of their times.

mod firing;

use super::{
    BoxFuture, SqliteStore, cursor,
    cursor::List,
    decode, failed,
    idempotency::{Made, earlier, remember},
    insert_failed, sessions,
};
use crate::{
    api::{Result, Schedules, StoreError},
    faults::Point,
    record::{Page, PageRequest},
    schedules::{
        Aimed, Cause, Fired, Firing, NewSchedule, PlannedAt, RunOutcome, Schedule, ScheduleRun, SkipReason, State,
    },
};
use async_trait::async_trait;
use fumehood_core::{
    Time,
    digest::Digest,
    id::{ScheduleId, SessionId, TurnId},
    name::OrgName,
    now,
};
use sqlx::sqlite::SqliteConnection;

type Row = (Vec<u8>, String, String, String, Option<i64>, i64, i64, i64, i64);

const ONE: &str = "SELECT id, org, plan, state, next_at, runs, revision, created, updated FROM schedules \
                   WHERE org = ?1 AND id = ?2 \
                   AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = session AND deleting IS NOT NULL)";
const PLANNED: &str = "SELECT id, org, plan, state, next_at, runs, revision, created, updated FROM schedules \
                       WHERE next_at IS NOT NULL AND (next_at, id) > (?2, ?3) \
                       AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = session AND deleting IS NOT NULL) \
                       ORDER BY next_at, id LIMIT ?1";

fn schedule((id, org, plan, state, next_at, runs, revision, created, updated): Row) -> Result<Schedule> {
    Ok(Schedule {
        id: ScheduleId::from_uuid(decode::uuid(&id, "a schedule's id")?),
        org: decode::name(org, "a schedule's org")?,
        plan: decode::from_json(&plan, "a schedule's plan")?,
        state: match (state.as_str(), next_at) {
            ("active", Some(next)) => State::Active(decode::from_nanos(next)),
            ("paused", None) => State::Paused,
            ("ended", None) => State::Ended,
            _ => return Err(decode::corrupt("a schedule's state")),
        },
        runs: decode::count(runs, "a schedule's runs")?,
        revision: decode::count(revision, "a schedule's revision")?,
        created: decode::from_nanos(created),
        updated: decode::from_nanos(updated),
    })
}

const fn state_text(state: State) -> &'static str {
    match state {
        State::Active(_) => "active",
        State::Paused => "paused",
        State::Ended => "ended",
    }
}

fn next_nanos(state: State) -> Result<Option<i64>> {
    state.next().map(decode::to_nanos).transpose()
}

async fn one(connection: &mut SqliteConnection, org: &OrgName, id: ScheduleId) -> Result<Option<Schedule>> {
    let row: Option<Row> = sqlx::query_as(ONE)
        .bind(org.as_str())
        .bind(&id.uuid().as_bytes()[..])
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map(schedule).transpose()
}

async fn repeated(
    connection: &mut SqliteConnection,
    org: &OrgName,
    idempotency: (&str, &Digest),
) -> Result<Option<Schedule>> {
    match earlier(connection, Made::Schedule, org, idempotency).await? {
        None => Ok(None),
        Some(id) => {
            one(
                connection,
                org,
                ScheduleId::from_uuid(decode::uuid(&id, "a schedule's id")?),
            )
            .await
        }
    }
}

async fn insert(connection: &mut SqliteConnection, new: NewSchedule, plan: String, most: u64) -> Result<Schedule> {
    if let Some((key, request)) = &new.idempotency
        && let Some(earlier) = repeated(connection, &new.org, (key, request)).await?
    {
        return Ok(earlier);
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM schedules WHERE org = ?1")
        .bind(new.org.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    // THREAT[T-sched-flood]: counted where they are made, so that of many at once no more are kept.
    if decode::count(count, "the number of schedules")? >= most {
        return Err(StoreError::TooMany {
            what: "schedules",
            limit: most,
        });
    }
    let time = decode::to_nanos(now())?;
    let session = new.plan.place.session();
    if let Some(session) = session {
        // One of another org reads as not there.
        sessions::in_use(connection, &new.org, session).await?;
    }
    let session = session.as_ref().map(|session| session.uuid());
    sqlx::query(
        "INSERT INTO schedules (id, org, session, plan, state, next_at, created, updated) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
    )
    .bind(&new.id.uuid().as_bytes()[..])
    .bind(new.org.as_str())
    .bind(session.as_ref().map(|session| &session.as_bytes()[..]))
    .bind(plan)
    .bind(state_text(new.state))
    .bind(next_nanos(new.state)?)
    .bind(time)
    .execute(&mut *connection)
    .await
    .map_err(|error| insert_failed(error, "org", || format!("the schedule {}", new.id)))?;
    if let Some((key, request)) = &new.idempotency {
        let id = new.id.uuid();
        remember(connection, Made::Schedule, (&new.org, id.as_bytes()), (key, request)).await?;
    }
    let kept = one(connection, &new.org, new.id).await?;
    kept.ok_or(StoreError::Gone { what: "schedule" })
}

/// Writes what may change of a schedule, if it is as it was seen.
async fn replace(connection: &mut SqliteConnection, seen: &Schedule, plan: &str) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE schedules SET plan = ?4, state = ?5, next_at = ?6, runs = ?7, updated = ?8, revision = revision + 1 \
         WHERE org = ?1 AND id = ?2 AND revision = ?3 \
         AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = session AND deleting IS NOT NULL)",
    )
    .bind(seen.org.as_str())
    .bind(&seen.id.uuid().as_bytes()[..])
    .bind(decode::from_count(seen.revision)?)
    .bind(plan)
    .bind(state_text(seen.state))
    .bind(next_nanos(seen.state)?)
    .bind(decode::from_count(seen.runs)?)
    .bind(decode::to_nanos(now())?)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected() > 0)
}

fn plan_text(schedule: &Schedule) -> Result<String> {
    decode::to_json(&schedule.plan, "a schedule's plan")
}

async fn is_decided(connection: &mut SqliteConnection, id: ScheduleId, at: Time) -> Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM schedule_runs WHERE schedule = ?1 AND fire_at = ?2)")
        .bind(&id.uuid().as_bytes()[..])
        .bind(decode::to_nanos(at)?)
        .fetch_one(connection)
        .await
        .map_err(failed)
}

async fn aim(connection: &mut SqliteConnection, mut seen: Schedule, next: Time) -> Result<Aimed> {
    if is_decided(connection, seen.id, next).await? {
        return Ok(Aimed::Decided);
    }
    seen.state = State::Active(next);
    let plan = plan_text(&seen)?;
    Ok(match replace(connection, &seen, &plan).await? {
        true => Aimed::Done,
        false => Aimed::Stale,
    })
}

type RunRow = (
    i64,
    String,
    String,
    Option<String>,
    Option<String>,
    i64,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<String>,
    i64,
);

fn run(row: RunRow) -> Result<ScheduleRun> {
    let (fire_at, cause, outcome, reason, message, count, session, turn, status, recorded) = row;
    let unknown = || decode::corrupt("a schedule's run");
    let outcome = match (outcome.as_str(), session, turn) {
        ("fired", Some(session), Some(turn)) => RunOutcome::Fired {
            session: SessionId::from_uuid(decode::uuid(&session, "a run's session")?),
            turn: TurnId::from_uuid(decode::uuid(&turn, "a run's turn")?),
            status: status.as_deref().map(decode::status).transpose()?,
        },
        ("skipped", ..) => RunOutcome::Skipped {
            reason: reason.as_deref().and_then(reason_of).ok_or_else(unknown)?,
            message,
        },
        ("missed", ..) => RunOutcome::Missed {
            count: decode::count(count, "missed times")?,
        },
        ("failed", ..) => RunOutcome::Failed {
            message: message.unwrap_or_default(),
        },
        _ => return Err(unknown()),
    };
    Ok(ScheduleRun {
        fire_at: decode::from_nanos(fire_at),
        cause: match cause.as_str() {
            "due" => Cause::Due,
            "asked" => Cause::Asked,
            _ => return Err(unknown()),
        },
        outcome,
        recorded: decode::from_nanos(recorded),
    })
}

const fn reason_text(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::Busy => "busy",
        SkipReason::PreviousWaits => "previous_waits",
        SkipReason::QueueFull => "queue_full",
        SkipReason::RateLimited => "rate_limited",
        SkipReason::BudgetExhausted => "budget_exhausted",
        SkipReason::TooManySessions => "too_many_sessions",
        SkipReason::Archived => "archived",
    }
}

fn reason_of(text: &str) -> Option<SkipReason> {
    use SkipReason::{Archived, BudgetExhausted, Busy, PreviousWaits, QueueFull, RateLimited, TooManySessions};
    let all = [
        Busy,
        PreviousWaits,
        QueueFull,
        RateLimited,
        BudgetExhausted,
        TooManySessions,
        Archived,
    ];
    all.into_iter().find(|reason| reason_text(*reason) == text)
}

#[async_trait]
impl Schedules for SqliteStore {
    async fn create_schedule(&self, schedule: &NewSchedule, most: u64) -> Result<Schedule> {
        let plan = decode::to_json(&schedule.plan, "a schedule's plan")?;
        let new = schedule.clone();
        self.write(
            Point::ScheduleCreate,
            move |connection| -> BoxFuture<'_, Result<Schedule>> { Box::pin(insert(connection, new, plan, most)) },
        )
        .await
    }

    async fn repeated_schedule(&self, org: &OrgName, key: &str, request: &Digest) -> Result<Option<Schedule>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        repeated(&mut connection, org, (key, request)).await
    }

    async fn schedule(&self, org: &OrgName, id: ScheduleId) -> Result<Option<Schedule>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        one(&mut connection, org, id).await
    }

    async fn schedules(&self, org: &OrgName, page: &PageRequest) -> Result<Page<Schedule>> {
        let limit = cursor::limit(page);
        let (before, id): (i64, ScheduleId) = match cursor::place(page, List::Schedules)? {
            Some(place) => place,
            None => (i64::MAX, ScheduleId::from_uuid(uuid::Uuid::max())),
        };
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, org, plan, state, next_at, runs, revision, created, updated FROM schedules \
             WHERE org = ?1 AND (created, id) < (?2, ?3) \
             AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = session AND deleting IS NOT NULL) \
             ORDER BY created DESC, id DESC LIMIT ?4",
        )
        .bind(org.as_str())
        .bind(before)
        .bind(&id.uuid().as_bytes()[..])
        .bind(i64::from(limit) + 1)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        let items = rows.into_iter().map(schedule).collect::<Result<_>>()?;
        cursor::page(items, limit, List::Schedules, |last: &Schedule| {
            (last.created.timestamp_nanos_opt().unwrap_or(i64::MAX), last.id)
        })
    }

    async fn change_schedule(&self, schedule: &Schedule) -> Result<Option<Schedule>> {
        let plan = plan_text(schedule)?;
        let changed = schedule.clone();
        self.write(
            Point::ScheduleChange,
            move |connection| -> BoxFuture<'_, Result<Option<Schedule>>> {
                Box::pin(async move {
                    if replace(connection, &changed, &plan).await? {
                        one(connection, &changed.org, changed.id).await
                    } else {
                        Ok(None)
                    }
                })
            },
        )
        .await
    }

    async fn delete_schedule(&self, org: &OrgName, id: ScheduleId) -> Result<bool> {
        let org = org.clone();
        self.write(Point::ScheduleDelete, move |connection| {
            Box::pin(async move {
                let result = sqlx::query(
                    "DELETE FROM schedules WHERE org = ?1 AND id = ?2 \
                     AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.id = session AND deleting IS NOT NULL)",
                )
                .bind(org.as_str())
                .bind(&id.uuid().as_bytes()[..])
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(result.rows_affected() > 0)
            })
        })
        .await
    }

    async fn schedule_runs(&self, org: &OrgName, id: ScheduleId, page: &PageRequest) -> Result<Page<ScheduleRun>> {
        let limit = cursor::limit(page);
        let before: i64 = cursor::place(page, List::ScheduleRuns)?.unwrap_or(i64::MAX);
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        if one(&mut connection, org, id).await?.is_none() {
            return Err(StoreError::Gone { what: "schedule" });
        }
        let rows: Vec<RunRow> = sqlx::query_as(
            "SELECT r.fire_at, r.cause, r.outcome, r.reason, r.message, r.count, r.session, r.turn, t.status, r.recorded \
             FROM schedule_runs r LEFT JOIN turns t ON t.id = r.turn \
             WHERE r.schedule = ?1 AND r.fire_at < ?2 ORDER BY r.fire_at DESC LIMIT ?3",
        )
        .bind(&id.uuid().as_bytes()[..])
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
        let items = rows.into_iter().map(run).collect::<Result<_>>()?;
        cursor::page(items, limit, List::ScheduleRuns, |last: &ScheduleRun| {
            last.fire_at.timestamp_nanos_opt().unwrap_or(i64::MAX)
        })
    }

    async fn schedules_planned(&self, after: Option<(Time, ScheduleId)>, limit: u32) -> Result<Vec<PlannedAt>> {
        let (at, id) = match after {
            Some((at, id)) => (decode::to_nanos(at)?, id.uuid().as_bytes().to_vec()),
            None => (i64::MIN, Vec::new()),
        };
        let rows: Vec<Row> = sqlx::query_as(PLANNED)
            .bind(i64::from(limit))
            .bind(at)
            .bind(id)
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        rows.into_iter()
            .map(|row| {
                Ok(PlannedAt {
                    at: decode::from_nanos(row.4.unwrap_or_default()),
                    id: ScheduleId::from_uuid(decode::uuid(&row.0, "a schedule's id")?),
                    schedule: schedule(row),
                })
            })
            .collect()
    }

    async fn fire_schedule(&self, firing: &Firing) -> Result<Fired> {
        let firing = firing::Prepared::new(firing.clone())?;
        self.write(Point::ScheduleFire, move |connection| -> BoxFuture<'_, Result<Fired>> {
            Box::pin(firing.fire(connection))
        })
        .await
    }

    async fn aim_schedule(&self, schedule: &Schedule, next: Time) -> Result<Aimed> {
        let seen = schedule.clone();
        self.write(
            Point::ScheduleChange,
            move |connection| -> BoxFuture<'_, Result<Aimed>> { Box::pin(aim(connection, seen, next)) },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDir, MasterKey, StoreUrl};

    #[tokio::test]
    async fn those_that_are_due_are_found_without_looking_at_the_others() {
        let place = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(place.path()).await.unwrap();
        let master = MasterKey::random().unwrap();
        let store = SqliteStore::open(&data_dir, &StoreUrl::InDataDir, &master)
            .await
            .unwrap();
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {PLANNED}")))
                .bind(10)
                .bind(0)
                .bind(vec![0_u8; 16])
                .fetch_all(store.readers())
                .await
                .unwrap();
        let steps: Vec<_> = plan.iter().map(|(.., step)| step.as_str()).collect();
        assert!(steps.iter().any(|step| step.contains("schedules_planned")), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
    }
}
