//! Calls that run on in the background: which there are follows from the journal; who has taken one is kept beside it.

use super::{
    BoxFuture, SqliteStore,
    batch::{Batch, Statement},
    cursor,
    cursor::List,
    decode, failed, insert_failed, journal,
};
use crate::{
    api::{Jobs, Result, StoreError},
    faults::Point,
    jobs::{Job, JobProgress, JobState, LOG_LENGTH, MOST_ATTEMPTS},
    lease::Fence,
    record::{Page, PageRequest},
};
use async_trait::async_trait;
use fumehood_core::{
    call::CallStatus,
    event::{Event, EventBody, NewEvent, OutputChannel},
    id::{CallId, JobId, SessionId, TurnId},
    name::OrgName,
    tool::Effect,
};
use sqlx::{FromRow, sqlite::SqliteConnection};

/// What is read of a job.
macro_rules! columns {
    () => {
        "id, org, session, turn, call, tool, state, status, attempts, stopping, queued_seq, ended_seq, created, started, ended, \
         message, fraction"
    };
}

/// Those of sessions that are not being deleted.
macro_rules! there {
    () => {
        "(SELECT deleting IS NULL FROM sessions s WHERE s.id = jobs.session)"
    };
}

/// Whether a job that an earlier opening left behind runs once more.
macro_rules! again {
    () => {
        "(repeats AND NOT stopping AND attempts < ?1)"
    };
}

/// The oldest that waits for a place, or runs again, of an org of which not as many run as may.
const TO_TAKE: &str = concat!(
    "UPDATE jobs SET state = 'running', opening = ?2, attempts = attempts + 1 WHERE id = ( \
         SELECT id FROM jobs INDEXED BY jobs_at_work WHERE state <> 'ended' AND NOT stopping \
           AND (state = 'queued' OR (opening IS NOT ?2 AND ",
    again!(),
    ")) AND (SELECT count(*) FROM jobs o WHERE o.org = jobs.org AND o.state <> 'ended' AND o.state = 'running' AND o.opening IS ?2) < ?3 AND ",
    there!(),
    " ORDER BY id LIMIT 1) RETURNING ",
    columns!()
);
/// Whether one may be to take.
const ANY: &str = "SELECT 1 FROM jobs INDEXED BY jobs_at_work WHERE state <> 'ended' AND NOT stopping \
     AND (state = 'queued' OR opening IS NOT ?1) LIMIT 1";
/// Those that nobody works, and that are to end.
const TO_END: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM jobs INDEXED BY jobs_at_work WHERE state <> 'ended' AND ((state = 'queued' AND stopping) OR (state = 'running' AND opening IS NOT ?2 AND NOT ",
    again!(),
    ")) AND ",
    there!(),
    " ORDER BY id LIMIT ?3"
);
const ONE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM jobs WHERE org = ?1 AND id = ?2 AND ",
    there!()
);
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM jobs WHERE org = ?1 AND session = ?2 AND id < ?3 AND ",
    there!(),
    " ORDER BY id DESC LIMIT ?4"
);
const UNTOLD: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM jobs WHERE session = ?2 AND state = 'ended' AND told_seq IS NULL AND org = ?1 AND ",
    there!(),
    " ORDER BY ended_seq LIMIT ?3"
);

#[derive(FromRow)]
struct Row {
    id: Vec<u8>,
    org: String,
    session: Vec<u8>,
    turn: Vec<u8>,
    call: Vec<u8>,
    tool: String,
    state: String,
    status: Option<String>,
    attempts: u32,
    stopping: bool,
    queued_seq: i64,
    ended_seq: Option<i64>,
    created: i64,
    started: Option<i64>,
    ended: Option<i64>,
    message: Option<String>,
    fraction: Option<f64>,
}

fn job(row: Row) -> Result<Job> {
    Ok(Job {
        id: JobId::from_uuid(decode::uuid(&row.id, "a job's id")?),
        org: decode::name(row.org, "a job's org")?,
        session: SessionId::from_uuid(decode::uuid(&row.session, "a job's session")?),
        turn: TurnId::from_uuid(decode::uuid(&row.turn, "a job's turn")?),
        call: CallId::from_uuid(decode::uuid(&row.call, "a job's call")?),
        tool: decode::name(row.tool, "a job's tool")?,
        state: match (row.state.as_str(), row.status, row.ended, row.ended_seq) {
            ("queued", ..) => JobState::Queued,
            ("running", ..) => JobState::Running,
            ("ended", Some(status), Some(at), Some(seq)) => JobState::Ended {
                status: decode::from_json(&format!("\"{status}\""), "a job's status")?,
                at: decode::from_nanos(at),
                seq: decode::seq(seq)?,
            },
            _ => return Err(decode::corrupt("a job's state")),
        },
        attempts: row.attempts,
        stopping: row.stopping,
        queued_seq: decode::seq(row.queued_seq)?,
        created: decode::from_nanos(row.created),
        started: row.started.map(decode::from_nanos),
        progress: row.message.map(|message| JobProgress {
            message,
            fraction: row.fraction,
        }),
    })
}

/// A status as it is kept: the word of its wire form.
pub(super) fn status_text(status: CallStatus) -> Result<String> {
    Ok(decode::to_json(&status, "a job's status")?.trim_matches('"').to_owned())
}

/// What an event says of jobs, in the transaction of the event, which is so many places behind the last one. `nanos` is its time.
pub(super) fn project(batch: &mut Batch, event: &Event, behind: i64, nanos: i64) -> Result<()> {
    match &event.body {
        EventBody::JobQueued {
            job,
            call,
            tool,
            effect,
            ..
        } => {
            let turn = event.turn.ok_or_else(|| StoreError::Invalid {
                reason: "job.queued says nothing of its turn".into(),
            })?;
            batch.add(QUEUED);
            batch
                .bind(&job.uuid().as_bytes()[..])
                .bind(event.org.as_str())
                .bind(&turn.uuid().as_bytes()[..])
                .bind(&call.uuid().as_bytes()[..])
                .bind(tool.as_str())
                .bind(*effect != Effect::AtMostOnce)
                .bind(behind)
                .bind(nanos)
                .bind(&event.session.uuid().as_bytes()[..]);
        }
        EventBody::JobStarted { job, .. } => {
            batch.add(STARTED);
            batch.bind(nanos).bind(&job.uuid().as_bytes()[..]);
        }
        EventBody::JobCompleted { job, status, .. } => {
            batch.add(ENDED);
            batch
                .bind(status_text(*status)?)
                .bind(behind)
                .bind(nanos)
                .bind(&job.uuid().as_bytes()[..]);
        }
        EventBody::StepStarted { notes, .. } => {
            for job in notes.iter().filter_map(|note| note.job) {
                batch.add(TOLD);
                batch
                    .bind(behind)
                    .bind(&job.uuid().as_bytes()[..])
                    .bind(&event.session.uuid().as_bytes()[..]);
            }
        }
        EventBody::SessionRewound { after, .. } => {
            let after = decode::from_count(*after)?;
            batch.add(UNDONE);
            batch
                .bind(after)
                .bind(behind)
                .bind(&event.session.uuid().as_bytes()[..])
                .bind(after)
                .bind(after);
        }
        _ if event.turn.is_none() => say(batch, event)?,
        _ => {}
    }
    Ok(())
}

const QUEUED: Statement = Statement::new(
    "INSERT INTO jobs (id, org, session, turn, call, tool, state, repeats, queued_seq, created) \
     SELECT ?, ?, id, ?, ?, ?, 'queued', ?, last_seq - ?, ? FROM sessions WHERE id = ?",
)
.or_else(|error| insert_failed(error, "turn", || "the job of the call".to_owned()));

const STARTED: Statement = Statement::new("UPDATE jobs SET started = ifnull(started, ?) WHERE id = ?");

/// An end is told once: of one that has its end there is no other.
const ENDED: Statement = Statement::new(
    "UPDATE jobs SET state = 'ended', status = ?, ended_seq = (SELECT last_seq - ? FROM sessions s WHERE s.id = jobs.session), \
         ended = ?, opening = NULL WHERE id = ? AND state <> 'ended'",
)
.checked(|answer| match answer.affected() {
    0 => Err(StoreError::Invalid {
        reason: "the job has its end, or is none".into(),
    }),
    _ => Ok(()),
});

const TOLD: Statement = Statement::new(
    "UPDATE jobs SET told_seq = (SELECT last_seq - ? FROM sessions s WHERE s.id = jobs.session) \
     WHERE id = ? AND session = ? AND told_seq IS NULL",
);

/// What is undone was told to nobody; and of what was asked for there, nobody is told.
const UNDONE: Statement = Statement::new(
    "UPDATE jobs SET told_seq = CASE WHEN queued_seq > ? THEN (SELECT last_seq - ? FROM sessions s WHERE s.id = jobs.session) END \
     WHERE session = ? AND (told_seq > ? OR queued_seq > ?)",
);

/// What a job says and does meanwhile.
fn say(batch: &mut Batch, event: &Event) -> Result<()> {
    match &event.body {
        EventBody::ToolProgress {
            call,
            message,
            fraction,
        } => {
            batch.add(PROGRESS);
            batch
                .bind(message.as_str())
                .bind(*fraction)
                .bind(&call.uuid().as_bytes()[..]);
        }
        EventBody::ToolOutput {
            call, channel, chunk, ..
        } => {
            let name = match channel {
                OutputChannel::Stdout | OutputChannel::Named(_) => "",
                OutputChannel::Stderr => "stderr: ",
            };
            let most = decode::from_count(LOG_LENGTH)?;
            batch.add(WROTE);
            batch
                // The database takes it for the end of a text.
                .bind(format!("{name}{chunk}").replace('\0', "\u{fffd}"))
                .bind(most)
                .bind(&call.uuid().as_bytes()[..])
                .bind(most);
        }
        EventBody::ToolCommitted { call, .. } => {
            batch.add(ONCE);
            batch.bind(&call.uuid().as_bytes()[..]);
        }
        _ => {}
    }
    Ok(())
}

const PROGRESS: Statement = Statement::new("UPDATE jobs SET message = ?, fraction = ? WHERE call = ?");

const WROTE: Statement =
    Statement::new("UPDATE jobs SET log = substr(log || ?, 1, ?) WHERE call = ? AND length(log) < ?");

/// From here on it may have taken effect.
const ONCE: Statement = Statement::new("UPDATE jobs SET repeats = 0 WHERE call = ?");

/// The oldest job of a session that has not ended.
pub(super) async fn unfinished(connection: &mut SqliteConnection, session: SessionId) -> Result<Option<JobId>> {
    let oldest = "SELECT id FROM jobs WHERE session = ?1 AND state <> 'ended' ORDER BY id LIMIT 1";
    let id: Option<Vec<u8>> = sqlx::query_scalar(oldest)
        .bind(&session.uuid().as_bytes()[..])
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    id.map(|id| decode::uuid(&id, "a job's id").map(JobId::from_uuid))
        .transpose()
}

/// Events of a job, if the condition holds on its row.
async fn append_if(
    connection: &mut SqliteConnection,
    job: JobId,
    condition: Condition,
    events: journal::Prepared,
) -> Result<Option<Vec<Event>>> {
    let (query, attempt) = match condition {
        Condition::Mine { attempt, .. } => (
            "SELECT org, session FROM jobs WHERE id = ?1 AND state = 'running' AND opening IS ?2 AND attempts = ?3",
            attempt,
        ),
        Condition::Nobodys { .. } => (
            "SELECT org, session FROM jobs WHERE id = ?1 AND ?3 = 0 \
               AND (state = 'queued' OR (state = 'running' AND opening IS NOT ?2))",
            0,
        ),
    };
    let found: Option<(String, Vec<u8>)> = sqlx::query_as(query)
        .bind(&job.uuid().as_bytes()[..])
        .bind(&condition.opening().as_bytes()[..])
        .bind(attempt)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    let Some((org, session)) = found else { return Ok(None) };
    let org = decode::name(org, "a job's org")?;
    let session = SessionId::from_uuid(decode::uuid(&session, "a job's session")?);
    journal::append(connection, &org, session, events).await.map(Some)
}

/// What has to hold of a job for its events to be appended.
#[derive(Clone, Copy)]
enum Condition {
    /// It was taken by this opening, for the last time.
    Mine { opening: uuid::Uuid, attempt: u32 },
    /// It has no end, and this opening has not taken it.
    Nobodys { opening: uuid::Uuid },
}

impl Condition {
    const fn opening(&self) -> &uuid::Uuid {
        match self {
            Self::Mine { opening, .. } | Self::Nobodys { opening } => opening,
        }
    }
}

#[async_trait]
impl Jobs for SqliteStore {
    async fn queue_job(
        &self,
        org: &OrgName,
        session: SessionId,
        fence: Fence,
        most: u64,
        events: &[NewEvent],
    ) -> Result<Option<Vec<Event>>> {
        let prepared = journal::Prepared::new(events)?;
        let passage = prepared.passage();
        let org = org.clone();
        self.write(
            passage,
            move |connection| -> BoxFuture<'_, Result<Option<Vec<Event>>>> {
                Box::pin(async move {
                    // THREAT[T-job-flood]: counted by the one writer, in the transaction of what is kept.
                    let unfinished: i64 =
                        sqlx::query_scalar("SELECT count(*) FROM jobs WHERE org = ?1 AND state <> 'ended'")
                            .bind(org.as_str())
                            .fetch_one(&mut *connection)
                            .await
                            .map_err(failed)?;
                    if decode::count(unfinished, "the number of jobs")? >= most {
                        return Ok(None);
                    }
                    let appended = journal::append_held(connection, &org, session, fence, prepared);
                    appended.await.map(Some)
                })
            },
        )
        .await
    }

    async fn take_job(&self, per_org: u32) -> Result<Option<Job>> {
        let opening = self.inner.opening;
        let any: Option<i64> = sqlx::query_scalar(ANY)
            .bind(&opening.as_bytes()[..])
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        // Nobody who writes waits for who finds nothing.
        if any.is_none() {
            return Ok(None);
        }
        self.write(
            Point::JobTake,
            move |connection| -> BoxFuture<'_, Result<Option<Job>>> {
                Box::pin(async move {
                    let row: Option<Row> = sqlx::query_as(TO_TAKE)
                        .bind(MOST_ATTEMPTS)
                        .bind(&opening.as_bytes()[..])
                        .bind(per_org)
                        .fetch_optional(connection)
                        .await
                        .map_err(failed)?;
                    row.map(job).transpose()
                })
            },
        )
        .await
    }

    async fn append_to_job(&self, job: JobId, attempt: u32, events: &[NewEvent]) -> Result<Vec<Event>> {
        let prepared = journal::Prepared::new(events)?;
        let opening = self.inner.opening;
        let appended = self.write(
            prepared.passage(),
            move |connection| -> BoxFuture<'_, Result<Option<Vec<Event>>>> {
                Box::pin(append_if(
                    connection,
                    job,
                    Condition::Mine { opening, attempt },
                    prepared,
                ))
            },
        );
        // THREAT[T-turn-two-owners]: what an earlier taking tells of it counts no more.
        appended.await?.ok_or(StoreError::Lost)
    }

    async fn end_job(&self, job: JobId, event: &NewEvent) -> Result<Option<Vec<Event>>> {
        let prepared = journal::Prepared::new(std::slice::from_ref(event))?;
        let opening = self.inner.opening;
        self.write(
            prepared.passage(),
            move |connection| -> BoxFuture<'_, Result<Option<Vec<Event>>>> {
                Box::pin(append_if(connection, job, Condition::Nobodys { opening }, prepared))
            },
        )
        .await
    }

    async fn stop_job(&self, org: &OrgName, job: JobId) -> Result<Option<Job>> {
        let org = org.clone();
        self.write(
            Point::JobStop,
            move |connection| -> BoxFuture<'_, Result<Option<Job>>> {
                Box::pin(async move {
                    sqlx::query("UPDATE jobs SET stopping = 1 WHERE org = ?1 AND id = ?2 AND state <> 'ended'")
                        .bind(org.as_str())
                        .bind(&job.uuid().as_bytes()[..])
                        .execute(&mut *connection)
                        .await
                        .map_err(failed)?;
                    let row: Option<Row> = sqlx::query_as(ONE)
                        .bind(org.as_str())
                        .bind(&job.uuid().as_bytes()[..])
                        .fetch_optional(connection)
                        .await
                        .map_err(failed)?;
                    row.map(self::job).transpose()
                })
            },
        )
        .await
    }

    async fn jobs_to_end(&self, limit: u32) -> Result<Vec<Job>> {
        let rows: Vec<Row> = sqlx::query_as(TO_END)
            .bind(MOST_ATTEMPTS)
            .bind(&self.inner.opening.as_bytes()[..])
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        rows.into_iter().map(job).collect()
    }

    async fn job(&self, org: &OrgName, id: JobId) -> Result<Option<Job>> {
        let row: Option<Row> = sqlx::query_as(ONE)
            .bind(org.as_str())
            .bind(&id.uuid().as_bytes()[..])
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        row.map(job).transpose()
    }

    async fn job_log(&self, org: &OrgName, id: JobId) -> Result<Option<String>> {
        sqlx::query_scalar(concat!(
            "SELECT log FROM jobs WHERE org = ?1 AND id = ?2 AND ",
            there!()
        ))
        .bind(org.as_str())
        .bind(&id.uuid().as_bytes()[..])
        .fetch_optional(self.readers())
        .await
        .map_err(failed)
    }

    async fn jobs(&self, org: &OrgName, session: SessionId, page: &PageRequest) -> Result<Page<Job>> {
        let limit = cursor::limit(page);
        let before: Option<JobId> = cursor::place(page, List::Jobs)?;
        let before = before.map_or_else(|| vec![0xff; 16], |id| id.uuid().as_bytes().to_vec());
        let rows: Vec<Row> = sqlx::query_as(LIST)
            .bind(org.as_str())
            .bind(&session.uuid().as_bytes()[..])
            .bind(before)
            .bind(i64::from(limit) + 1)
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        let items = rows.into_iter().map(job).collect::<Result<_>>()?;
        cursor::page(items, limit, List::Jobs, |last: &Job| last.id)
    }

    async fn jobs_untold(&self, org: &OrgName, session: SessionId, limit: u32) -> Result<Vec<Job>> {
        let rows: Vec<Row> = sqlx::query_as(UNTOLD)
            .bind(org.as_str())
            .bind(&session.uuid().as_bytes()[..])
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        rows.into_iter().map(job).collect()
    }
}
