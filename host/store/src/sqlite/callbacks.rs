//! Calls whose results come from outside: which there are follows from the journal; what was brought for one is kept until it is there.

use super::{
    BoxFuture, SqliteStore,
    batch::{Batch, Statement},
    decode, failed, journal, turns,
};
use crate::{
    api::{Callbacks, Result, StoreError},
    callbacks::{Callback, CallbackState, Giving, Report, Reported},
    faults::Point,
    record::Turn,
};
use async_trait::async_trait;
use fumehood_core::{
    Time,
    call::CallResult,
    digest::Digest,
    event::{Event, EventBody, Source},
    id::{CallId, CallbackId, SessionId, TurnId},
    name::OrgName,
    turn::WaitingFor,
};
use sqlx::sqlite::SqliteConnection;

/// What an event says of calls that wait for somebody outside, in the transaction of the event.
pub(super) fn project(batch: &mut Batch, event: &Event) -> Result<()> {
    let Some(turn) = event.turn else { return Ok(()) };
    match &event.body {
        EventBody::ResultsRequested { calls } => {
            for call in calls {
                insert(batch, event, (turn, call.call_id), call.expires, None)?;
            }
        }
        EventBody::ToolDetached {
            call,
            callback,
            token,
            expires,
            ..
        } => {
            let callback = Some((*callback, token));
            insert(batch, event, (turn, *call), *expires, callback)?;
        }
        EventBody::ToolCompleted { call, .. } => {
            let is_brought = matches!(event.source, Source::Callback { .. });
            batch.add(SETTLE);
            batch.bind(is_brought).bind(&call.uuid().as_bytes()[..]);
            wait_for_the_others(batch, event.session, turn, WAIT_IF_SETTLED);
        }
        EventBody::TurnPaused {
            waiting_for: WaitingFor::Results,
            ..
        } => wait_for_the_others(batch, event.session, turn, WAIT),
        _ => {}
    }
    Ok(())
}

const INSERT: Statement = Statement::new(
    "INSERT INTO awaited_calls (call, org, session, turn, expires, callback, token, state) \
     VALUES (?, ?, ?, ?, ?, ?, ?, 'open')",
)
.or_else(|error| match error.as_database_error() {
    Some(database) if database.is_unique_violation() => StoreError::Invalid {
        reason: "the call waits, or waited, for somebody outside already".into(),
    },
    _ => failed(error),
});

fn insert(
    batch: &mut Batch,
    event: &Event,
    (turn, call): (TurnId, CallId),
    expires: Time,
    callback: Option<(CallbackId, &Digest)>,
) -> Result<()> {
    let id = callback.map(|(id, _)| id.uuid());
    batch.add(INSERT);
    batch
        .bind(&call.uuid().as_bytes()[..])
        .bind(event.org.as_str())
        .bind(&event.session.uuid().as_bytes()[..])
        .bind(&turn.uuid().as_bytes()[..])
        .bind(decode::to_nanos(expires)?)
        .bind(id.as_ref().map(|id| &id.as_bytes()[..]))
        .bind(callback.map(|(_, token)| &token.as_bytes()[..]));
    Ok(())
}

/// The end of a call that waited. What somebody brought counts for nothing where the call ended in another way.
const SETTLE: Statement = Statement::new(
    "UPDATE awaited_calls SET state = 'settled', result = NULL, request = CASE WHEN ? THEN request END \
     WHERE call = ? AND state <> 'settled'",
);

/// A turn that waits does so until the first of its calls expires that have no end.
const WAIT: Statement = Statement::new(
    "UPDATE turns SET waits_until = soonest.expires FROM \
         (SELECT min(expires) AS expires FROM awaited_calls WHERE session = ? AND turn = ? AND state <> 'settled') AS soonest \
     WHERE session = ? AND id = ? AND status = 'awaiting_results' AND soonest.expires IS NOT NULL",
);

/// The same, where the statement before it settled a call.
const WAIT_IF_SETTLED: Statement = Statement::new(
    "UPDATE turns SET waits_until = soonest.expires FROM \
         (SELECT min(expires) AS expires FROM awaited_calls WHERE session = ? AND turn = ? AND state <> 'settled') AS soonest \
     WHERE changes() > 0 AND session = ? AND id = ? AND status = 'awaiting_results' AND soonest.expires IS NOT NULL",
);

fn wait_for_the_others(batch: &mut Batch, session: SessionId, turn: TurnId, wait: Statement) {
    let (session, turn) = (session.uuid(), turn.uuid());
    batch.add(wait);
    for _ in 0..2 {
        batch.bind(&session.as_bytes()[..]).bind(&turn.as_bytes()[..]);
    }
}

type Row = (
    Vec<u8>,
    Vec<u8>,
    String,
    Vec<u8>,
    Vec<u8>,
    Vec<u8>,
    i64,
    String,
    Option<Vec<u8>>,
);

fn callback((id, token, org, session, turn, call, expires, state, request): Row) -> Result<Callback> {
    let request = request
        .map(|request| decode::digest(&request, "the digest of a request"))
        .transpose()?;
    Ok(Callback {
        id: CallbackId::from_uuid(decode::uuid(&id, "a callback's id")?),
        token: decode::digest(&token, "the digest of a callback's token")?,
        org: decode::name(org, "a callback's org")?,
        session: SessionId::from_uuid(decode::uuid(&session, "a callback's session")?),
        turn: TurnId::from_uuid(decode::uuid(&turn, "a callback's turn")?),
        call: CallId::from_uuid(decode::uuid(&call, "a callback's call")?),
        expires: decode::from_nanos(expires),
        state: match (state.as_str(), request) {
            ("open", _) => CallbackState::Open,
            ("given", Some(request)) => CallbackState::Given { request },
            ("settled", request) => CallbackState::Settled { request },
            _ => return Err(decode::corrupt("a callback's state")),
        },
    })
}

async fn report(connection: &mut SqliteConnection, report: Report, event: journal::Prepared) -> Result<Reported> {
    let at = decode::to_nanos(report.at)?;
    let after = i64::try_from(report.after.as_nanos()).unwrap_or(i64::MAX);
    type Waiting = (String, Vec<u8>, i64, Option<i64>);
    let waiting: Option<Waiting> = sqlx::query_as(
        "SELECT org, session, reports, reported FROM awaited_calls WHERE callback = ?1 AND state = 'open' AND expires > ?2 \
         AND (SELECT deleting IS NULL FROM sessions WHERE id = session)",
    )
    .bind(&report.callback.uuid().as_bytes()[..])
    .bind(at)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some((org, session, reports, reported)) = waiting else {
        return Ok(Reported::Late);
    };
    // A clock that went back keeps nobody waiting for longer.
    let too_soon = reported.is_some_and(|last| last <= at && at.saturating_sub(last) < after);
    if too_soon || reports >= i64::from(report.most) {
        return Ok(Reported::TooMany);
    }
    sqlx::query("UPDATE awaited_calls SET reports = reports + 1, reported = ?2 WHERE callback = ?1")
        .bind(&report.callback.uuid().as_bytes()[..])
        .bind(at)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let org = decode::name(org, "a callback's org")?;
    let session = SessionId::from_uuid(decode::uuid(&session, "a callback's session")?);
    let mut appended = journal::append(connection, &org, session, event).await?;
    let event = appended.pop().ok_or(StoreError::Gone { what: "session" })?;
    Ok(Reported::Recorded(event))
}

#[async_trait]
impl Callbacks for SqliteStore {
    async fn callback(&self, id: CallbackId) -> Result<Option<Callback>> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT callback, token, org, session, turn, call, expires, state, request FROM awaited_calls \
             WHERE callback = ?1 AND (SELECT deleting IS NULL FROM sessions WHERE id = session)",
        )
        .bind(&id.uuid().as_bytes()[..])
        .fetch_optional(self.readers())
        .await
        .map_err(failed)?;
        row.map(callback).transpose()
    }

    async fn give(&self, giving: &Giving) -> Result<bool> {
        let (callback, request) = (giving.callback, giving.request);
        let at = decode::to_nanos(giving.at)?;
        let result = decode::to_json(&giving.result, "a result")?;
        self.write(Point::CallbackGive, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move {
                // THREAT[T-callback-replay]: looked at and kept in one statement of the one writer.
                let given = sqlx::query(
                    "UPDATE awaited_calls SET state = 'given', result = ?2, request = ?3 \
                     WHERE callback = ?1 AND state = 'open' AND expires > ?4 \
                       AND (SELECT deleting IS NULL FROM sessions WHERE id = session)",
                )
                .bind(&callback.uuid().as_bytes()[..])
                .bind(result)
                .bind(&request.as_bytes()[..])
                .bind(at)
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(given.rows_affected() > 0)
            })
        })
        .await
    }

    async fn report(&self, told: &Report) -> Result<Reported> {
        let event = journal::Prepared::new(std::slice::from_ref(&told.event))?;
        let told = told.clone();
        self.write(Point::CallbackReport, move |connection| {
            Box::pin(report(connection, told, event))
        })
        .await
    }

    async fn given(&self, org: &OrgName, turn: TurnId) -> Result<Vec<(CallId, CallbackId, CallResult)>> {
        let rows: Vec<(Vec<u8>, Vec<u8>, String)> = sqlx::query_as(
            "SELECT call, callback, result FROM awaited_calls WHERE org = ?1 AND turn = ?2 AND state = 'given' \
             AND (SELECT deleting IS NULL FROM sessions WHERE id = session) ORDER BY callback",
        )
        .bind(org.as_str())
        .bind(&turn.uuid().as_bytes()[..])
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(call, callback, result)| {
                Ok((
                    CallId::from_uuid(decode::uuid(&call, "a call's id")?),
                    CallbackId::from_uuid(decode::uuid(&callback, "a callback's id")?),
                    decode::from_json(&result, "the result of a call that was handed on")?,
                ))
            })
            .collect()
    }

    async fn turns_given(&self, after: Option<TurnId>, limit: u32) -> Result<Vec<Turn>> {
        let after = after.map_or_else(Vec::new, |turn| turn.uuid().as_bytes().to_vec());
        let rows: Vec<turns::Row> = sqlx::query_as(
            "SELECT id, org, session, status, first_seq, created, ended FROM turns \
             WHERE id IN (SELECT turn FROM awaited_calls WHERE state = 'given') AND status = 'awaiting_results' \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session) AND id > ?2 ORDER BY id LIMIT ?1",
        )
        .bind(i64::from(limit))
        .bind(after)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter().map(turns::turn).collect()
    }
}
