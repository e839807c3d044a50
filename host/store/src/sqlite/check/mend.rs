//! What mends the database safely: rows that follow from journals are made anew, and what nobody waits for goes. All of it in one
//! transaction.

use crate::{
    api::Result,
    faults::Point,
    sqlite::{BoxFuture, SqliteStore, decode, failed, spending::Charged},
};
use fumehood_core::{
    digest::Digest,
    id::{CallId, CallbackId, JobId, SessionId, TurnId},
    turn::TurnStatus,
};
use sqlx::sqlite::SqliteConnection;
use std::fmt;

/// A turn's row, as far as it follows from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnRow {
    pub(super) turn: TurnId,
    pub(super) status: TurnStatus,
    pub(super) first_seq: i64,
    pub(super) ended: Option<i64>,
    pub(super) waits_until: Option<i64>,
    pub(super) agent: String,
    pub(super) model: String,
    pub(super) worked_ms: i64,
}

impl fmt::Display for TurnRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from event {}", decode::status_text(self.status), self.first_seq)?;
        if let Some(ended) = self.ended {
            write!(
                f,
                ", ended {}",
                decode::from_nanos(ended).format("%Y-%m-%dT%H:%M:%S%.9fZ")
            )?;
        }
        if let Some(until) = self.waits_until {
            write!(
                f,
                ", waiting until {}",
                decode::from_nanos(until).format("%Y-%m-%dT%H:%M:%SZ")
            )?;
        }
        if !self.agent.is_empty() {
            write!(
                f,
                ", worked by {} with {}, counted for {} ms",
                self.agent, self.model, self.worked_ms
            )?;
        }
        Ok(())
    }
}

/// A call that waits, or waited, for somebody outside, as far as it follows from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AwaitedRow {
    pub(super) turn: TurnId,
    pub(super) expires: i64,
    /// Of one that a tool handed on, with the digest of its token.
    pub(super) callback: Option<(CallbackId, Digest)>,
    pub(super) is_open: bool,
}

/// A job, as far as it follows from the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobRow {
    pub(super) turn: TurnId,
    pub(super) call: CallId,
    pub(super) tool: String,
    pub(super) repeats: bool,
    pub(super) queued_seq: i64,
    pub(super) created: i64,
    pub(super) started: Option<i64>,
    /// How it ended, where the journal tells it, and when.
    pub(super) ended: Option<(String, i64, i64)>,
    /// Where the model was told of its end, or what was asked for was undone.
    pub(super) told: Option<i64>,
}

/// What mends a problem.
#[derive(Debug, Clone)]
pub(crate) enum Mend {
    /// A turn's row is made anew from the journal.
    Turn { session: SessionId, row: TurnRow },
    /// What a session's row says of its journal is made anew from it.
    Session {
        session: SessionId,
        last_seq: i64,
        charged: Charged,
    },
    /// Where a session went back is noted anew from its journal.
    Rewinds {
        session: SessionId,
        rewinds: Vec<(i64, i64)>,
    },
    /// Which calls of a session wait, or waited, for somebody outside is noted anew from its journal.
    Awaited {
        session: SessionId,
        rows: Vec<(CallId, AwaitedRow)>,
    },
    /// Which jobs a session has, and which have ended, is noted anew from its journal; with how often each began.
    Jobs {
        session: SessionId,
        rows: Vec<(JobId, JobRow, u32)>,
    },
    /// What the key-values of a session take is counted anew.
    KeyValues {
        session: SessionId,
        entries: i64,
        bytes: i64,
    },
    /// A session comes back from the archive, so that its turn is worked.
    Unarchive { session: SessionId },
    /// What is held for nobody is let go of.
    Reservation { holder: Vec<u8> },
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turn { .. } => "make its row anew from the journal",
            Self::Session { .. } => "make what its row says of the journal anew",
            Self::Rewinds { .. } => "note anew from the journal where it went back",
            Self::Awaited { .. } => "note anew from the journal which calls wait for somebody outside",
            Self::Jobs { .. } => "note its jobs anew from the journal",
            Self::KeyValues { .. } => "count them anew",
            Self::Unarchive { .. } => "bring it back from the archive",
            Self::Reservation { .. } => "let go of it",
        })
    }
}

impl SqliteStore {
    /// Mends all of these, or none.
    pub(crate) async fn mend(&self, mends: Vec<Mend>) -> Result<()> {
        self.write(Point::StoreRepair, move |connection| -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                for mend in &mends {
                    apply(connection, mend).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

async fn apply(connection: &mut SqliteConnection, mend: &Mend) -> Result<()> {
    match mend {
        Mend::Turn { session, row } => turn(connection, *session, row).await,
        Mend::Session {
            session,
            last_seq,
            charged,
        } => {
            let query = sqlx::query(
                "UPDATE sessions SET last_seq = ?2, spent_tokens = ?3, spent_cost = ?4, spent_tool_calls = ?5, spent_steps = ?6, \
                 spent_ms = ?7 WHERE id = ?1",
            )
            .bind(session.uuid().as_bytes().to_vec())
            .bind(last_seq)
            .bind(charged.tokens)
            .bind(charged.cost)
            .bind(charged.tool_calls)
            .bind(charged.steps)
            .bind(charged.time_ms);
            query.execute(connection).await.map(drop).map_err(failed)
        }
        Mend::Rewinds { session, rewinds } => note_rewinds(connection, *session, rewinds).await,
        Mend::Awaited { session, rows } => note_awaited(connection, *session, rows).await,
        Mend::Jobs { session, rows } => note_jobs(connection, *session, rows).await,
        Mend::KeyValues {
            session,
            entries,
            bytes,
        } => {
            let query = sqlx::query("UPDATE sessions SET kv_entries = ?2, kv_bytes = ?3 WHERE id = ?1")
                .bind(session.uuid().as_bytes().to_vec())
                .bind(entries)
                .bind(bytes);
            query.execute(connection).await.map(drop).map_err(failed)
        }
        Mend::Unarchive { session } => {
            let query = sqlx::query("UPDATE sessions SET archived = NULL WHERE id = ?1");
            let query = query.bind(session.uuid().as_bytes().to_vec());
            query.execute(connection).await.map(drop).map_err(failed)
        }
        Mend::Reservation { holder } => {
            let query = sqlx::query("DELETE FROM reservations WHERE holder = ?1").bind(holder);
            query.execute(connection).await.map(drop).map_err(failed)
        }
    }
}

async fn turn(connection: &mut SqliteConnection, session: SessionId, row: &TurnRow) -> Result<()> {
    sqlx::query(
        "UPDATE turns SET status = ?3, first_seq = ?4, ended = ?5, waits_until = ?6, agent = ?7, model = ?8, worked_ms = ?9 \
         WHERE session = ?1 AND id = ?2",
    )
    .bind(&session.uuid().as_bytes()[..])
    .bind(&row.turn.uuid().as_bytes()[..])
    .bind(decode::status_text(row.status))
    .bind(row.first_seq)
    .bind(row.ended)
    .bind(row.waits_until)
    .bind(&row.agent)
    .bind(&row.model)
    .bind(row.worked_ms)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn note_rewinds(connection: &mut SqliteConnection, session: SessionId, rewinds: &[(i64, i64)]) -> Result<()> {
    sqlx::query("DELETE FROM rewinds WHERE session = ?1")
        .bind(&session.uuid().as_bytes()[..])
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    for (seq, after) in rewinds {
        sqlx::query("INSERT INTO rewinds (session, seq, after_seq) VALUES (?1, ?2, ?3)")
            .bind(&session.uuid().as_bytes()[..])
            .bind(seq)
            .bind(after)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// One that has begun and not ended is as one that an earlier opening left: it runs again only if it may.
async fn note_jobs(connection: &mut SqliteConnection, session: SessionId, rows: &[(JobId, JobRow, u32)]) -> Result<()> {
    let jobs: Vec<String> = rows.iter().map(|(job, ..)| job.uuid().simple().to_string()).collect();
    sqlx::query("DELETE FROM jobs WHERE session = ?1 AND lower(hex(id)) NOT IN (SELECT value FROM json_each(?2))")
        .bind(session.uuid().as_bytes().to_vec())
        .bind(decode::to_json(&jobs, "the jobs")?)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    for (job, row, began) in rows {
        let (status, seq, at) = match &row.ended {
            Some((status, seq, at)) => (Some(status), Some(*seq), Some(*at)),
            None => (None, None, None),
        };
        sqlx::query(
            "INSERT INTO jobs (id, org, session, turn, call, tool, state, status, repeats, attempts, queued_seq, ended_seq, created, \
                 started, ended, told_seq) \
             SELECT ?1, org, id, ?3, ?4, ?5, CASE WHEN ?6 IS NOT NULL THEN 'ended' WHEN ?8 > 0 THEN 'running' ELSE 'queued' END, ?6, ?7, \
                 ?8, ?9, ?10, ?11, ?12, ?13, ?14 FROM sessions WHERE id = ?2 \
             ON CONFLICT (id) DO UPDATE SET turn = ?3, call = ?4, tool = ?5, repeats = ?7, queued_seq = ?9, ended_seq = ?10, created = ?11, \
                 started = ?12, ended = ?13, told_seq = ?14, status = ?6, opening = NULL, attempts = max(attempts, ?8), \
                 state = CASE WHEN ?6 IS NOT NULL THEN 'ended' WHEN max(attempts, ?8) > 0 THEN 'running' ELSE 'queued' END",
        )
        .bind(job.uuid().as_bytes().to_vec())
        .bind(session.uuid().as_bytes().to_vec())
        .bind(row.turn.uuid().as_bytes().to_vec())
        .bind(row.call.uuid().as_bytes().to_vec())
        .bind(&row.tool)
        .bind(status)
        .bind(row.repeats)
        .bind(began)
        .bind(row.queued_seq)
        .bind(seq)
        .bind(row.created)
        .bind(row.started)
        .bind(at)
        .bind(row.told)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    Ok(())
}

/// What somebody brought for a call that waits still stays with it.
async fn note_awaited(
    connection: &mut SqliteConnection,
    session: SessionId,
    rows: &[(CallId, AwaitedRow)],
) -> Result<()> {
    let calls: Vec<String> = rows.iter().map(|(call, _)| call.uuid().simple().to_string()).collect();
    sqlx::query(
        "DELETE FROM awaited_calls WHERE session = ?1 AND lower(hex(call)) NOT IN (SELECT value FROM json_each(?2))",
    )
    .bind(session.uuid().as_bytes().to_vec())
    .bind(decode::to_json(&calls, "the calls")?)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    for (call, row) in rows {
        let (callback, token) = match &row.callback {
            Some((callback, token)) => (
                Some(callback.uuid().as_bytes().to_vec()),
                Some(token.as_bytes().to_vec()),
            ),
            None => (None, None),
        };
        sqlx::query(
            "INSERT INTO awaited_calls (call, org, session, turn, expires, callback, token, state) \
             SELECT ?1, org, id, ?3, ?4, ?5, ?6, CASE WHEN ?7 THEN 'open' ELSE 'settled' END FROM sessions WHERE id = ?2 \
             ON CONFLICT (call) DO UPDATE SET session = ?2, turn = ?3, expires = ?4, callback = ?5, token = ?6, \
                 state = CASE WHEN NOT ?7 THEN 'settled' WHEN state = 'given' THEN 'given' ELSE 'open' END, \
                 result = CASE WHEN ?7 AND state = 'given' THEN result END",
        )
        .bind(call.uuid().as_bytes().to_vec())
        .bind(session.uuid().as_bytes().to_vec())
        .bind(row.turn.uuid().as_bytes().to_vec())
        .bind(row.expires)
        .bind(callback)
        .bind(token)
        .bind(row.is_open)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    }
    Ok(())
}
