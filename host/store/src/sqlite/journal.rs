//! The journal, and what follows from its events in the same transaction.

use super::{
    BoxFuture, SqliteStore,
    batch::{Answer, Batch, Statement},
    callbacks, decode, failed, jobs, leases, spending, webhooks,
};
use crate::{
    api::{EVENTS_BYTES, Journal, Result, StoreError},
    faults::{Passage, Point},
    lease::Fence,
    record::Seen,
};
use async_trait::async_trait;
use fumehood_core::{
    Time,
    event::{Event, EventBody, Life, NewEvent},
    id::{EventId, SessionId, TurnId},
    name::OrgName,
    now,
    rewind::Rewind,
    turn::{TurnStatus, WaitingFor},
};
use sqlx::sqlite::{SqliteConnection, SqliteExecutor};

/// Where the page of the session ?1 after the event ?2 ends that has at most ?3 events, and no more than fit into ?4 bytes; but always one.
///
/// The lengths are read without the contents. Most pages are small: what is summed up event by event is looked for in large ones only.
macro_rules! last_of_page {
    () => {
        "(SELECT CASE WHEN sum(bytes) <= ?4 THEN max(seq) ELSE (\
           SELECT max(seq) FROM (\
             SELECT seq, bytes, sum(bytes) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) AS together FROM (\
               SELECT seq, octet_length(source) + octet_length(body) AS bytes \
               FROM events WHERE session = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3)) \
           WHERE together <= ?4 OR together = bytes) END \
         FROM (\
           SELECT seq, octet_length(source) + octet_length(body) AS bytes \
           FROM events WHERE session = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3))"
    };
}
pub(super) use last_of_page;

/// Events with their stored texts, made before the writer is asked so that it does nothing but write.
pub(super) struct Prepared {
    events: Vec<PreparedEvent>,
}

struct PreparedEvent {
    /// Made in its place where nobody made it before.
    id: Option<EventId>,
    event: NewEvent,
    source: String,
    body: String,
}

impl Prepared {
    pub(super) fn new(events: &[NewEvent]) -> Result<Self> {
        let events = events
            .iter()
            .map(|event| {
                if event.body.life() == Life::Live {
                    return Err(StoreError::Invalid {
                        reason: format!("{} is a live event: it is never recorded", event.body.type_name()),
                    });
                }
                if projected(&event.body).is_some() && event.turn.is_none() {
                    return Err(StoreError::Invalid {
                        reason: format!("{} says nothing of its turn", event.body.type_name()),
                    });
                }
                Ok(PreparedEvent {
                    id: None,
                    event: event.clone(),
                    source: decode::to_json(&event.source, "an event's source")?,
                    body: decode::to_json(&event.body, "an event")?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { events })
    }

    /// What it is to append these alone.
    pub(super) fn passage(&self) -> Passage {
        Passage::with_events(Point::Append, || {
            self.events.iter().map(|new| new.event.body.type_name())
        })
    }

    /// One event whose id is made.
    pub(super) fn with_id(id: EventId, event: &NewEvent) -> Result<Self> {
        let mut prepared = Self::new(std::slice::from_ref(event))?;
        prepared.events.iter_mut().for_each(|event| event.id = Some(id));
        Ok(prepared)
    }
}

/// The status that an event gives its turn.
pub(super) const fn projected(body: &EventBody) -> Option<TurnStatus> {
    match body {
        EventBody::TurnQueued { .. } => Some(TurnStatus::Queued),
        EventBody::TurnStarted { .. } | EventBody::TurnResumed { .. } => Some(TurnStatus::Running),
        EventBody::TurnPaused { waiting_for, .. } => Some(match waiting_for {
            WaitingFor::Approval => TurnStatus::AwaitingApproval,
            WaitingFor::Results => TurnStatus::AwaitingResults,
        }),
        EventBody::TurnCompleted { .. } => Some(TurnStatus::Completed),
        EventBody::TurnFailed { .. } => Some(TurnStatus::Failed),
        EventBody::TurnCancelled { .. } => Some(TurnStatus::Cancelled),
        _ => None,
    }
}

/// Until when an event of this time makes its turn wait for a decision. One that waits for results does so until the first of the calls
/// expires that have none.
pub(super) fn waits_until(body: &EventBody, time: Time) -> Option<Time> {
    match body {
        EventBody::ApprovalRequested { calls } => {
            let soonest = calls.iter().map(|call| call.expires).min();
            Some(soonest.unwrap_or(time))
        }
        _ => None,
    }
}

/// Appends events to a session of the org, inside a transaction.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    prepared: Prepared,
) -> Result<Vec<Event>> {
    append_behind(Batch::default(), connection, org, session, None, prepared).await
}

/// Appends events under a taking of their turn, unless another has taken it since.
pub(super) async fn append_held(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    fence: Fence,
    prepared: Prepared,
) -> Result<Vec<Event>> {
    append_behind(Batch::default(), connection, org, session, Some(fence), prepared).await
}

/// Appends events with all that follows from them, behind what is in the batch, which is run.
async fn append_behind(
    mut batch: Batch,
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    fence: Option<Fence>,
    prepared: Prepared,
) -> Result<Vec<Event>> {
    let time = now();
    let nanos = decode::to_nanos(time)?;
    let count = i64::try_from(prepared.events.len()).map_err(|_| decode::corrupt("the number of events"))?;
    // First: of a session that is not there nothing else is told.
    let places = take_places(&mut batch, org, session, count, nanos);
    if let Some(fence) = fence {
        leases::hold(&mut batch, session, fence);
    }
    let mut events = Vec::with_capacity(prepared.events.len());
    let mut charges = spending::Charges::default();
    for (behind, new) in (0..count).rev().zip(prepared.events) {
        let event = Event {
            id: new.id.unwrap_or_else(EventId::new),
            seq: None,
            time,
            org: org.clone(),
            session,
            turn: new.event.turn,
            source: new.event.source,
            body: new.event.body,
        };
        insert(&mut batch, &event, behind, nanos, (new.source, new.body));
        follow(&mut batch, &event, behind, nanos)?;
        charges.add(&event);
        events.push(event);
    }
    charges.write(&mut batch);
    let answers = batch.run(connection).await?;
    let last: Option<i64> = answers.get(places).map(Answer::value).transpose()?.flatten();
    let last = last.ok_or(StoreError::Gone { what: "session" })?;
    for (behind, event) in (0..count).rev().zip(&mut events) {
        event.seq = Some(decode::seq(last - behind)?);
        refuse_forward(event)?;
        crate::telemetry::journal_row();
    }
    webhooks::queue(connection, org, &events, nanos).await?;
    Ok(events)
}

/// One row, one writer: places are taken in order and none is left out.
const PLACES: Statement = Statement::new(
    "UPDATE sessions SET last_seq = last_seq + ?, updated = ? WHERE org = ? AND id = ? AND deleting IS NULL \
     RETURNING last_seq",
)
.checked(|answer| match answer.value::<i64>()? {
    Some(_) => Ok(()),
    None => Err(StoreError::Gone { what: "session" }),
});

/// Takes `count` places in the journal of a session. Its answer, whose place is given, is the last of them.
fn take_places(batch: &mut Batch, org: &OrgName, session: SessionId, count: i64, nanos: i64) -> usize {
    let answer = batch.add(PLACES);
    batch
        .bind(count)
        .bind(nanos)
        .bind(org.as_str())
        .bind(&session.uuid().as_bytes()[..]);
    answer
}

/// The session is there, its places were just taken.
const INSERT: Statement = Statement::new(
    "INSERT INTO events (session, seq, id, time, turn, source, body) \
     SELECT id, last_seq - ?, ?, ?, ?, ?, ? FROM sessions WHERE id = ?",
)
.or_else(|error| match error.as_database_error() {
    Some(database) if database.is_foreign_key_violation() => StoreError::Invalid {
        reason: "the event's turn is not of this session".into(),
    },
    _ => failed(error),
});

/// Writes an event, which is so many places behind the last one.
fn insert(batch: &mut Batch, event: &Event, behind: i64, nanos: i64, (source, body): (String, String)) {
    let turn = event.turn.map(TurnId::uuid);
    batch.add(INSERT);
    batch
        .bind(behind)
        .bind(&event.id.uuid().as_bytes()[..])
        .bind(nanos)
        .bind(turn.as_ref().map(|turn| &turn.as_bytes()[..]))
        .bind(source)
        .bind(body)
        .bind(&event.session.uuid().as_bytes()[..]);
}

/// What follows from an event.
fn follow(batch: &mut Batch, event: &Event, behind: i64, nanos: i64) -> Result<()> {
    let session = event.session;
    if let EventBody::SessionRewound { after, .. } = &event.body {
        batch.add(REWIND);
        batch
            .bind(behind)
            .bind(decode::from_count(*after)?)
            .bind(&session.uuid().as_bytes()[..]);
    }
    if let Some(turn) = event.turn {
        if let Some(until) = waits_until(&event.body, event.time) {
            wait_until(batch, session, turn, until)?;
        }
        if let Some(status) = projected(&event.body) {
            match (&event.body, status.is_terminal()) {
                (EventBody::TurnStarted { .. }, _) => place_waited(batch, session, turn, BEGINS_HERE, Some(behind)),
                (_, true) => place_waited(batch, session, turn, BEGAN_NOWHERE, None),
                _ => {}
            }
            project(batch, session, turn, status, nanos);
        }
    }
    callbacks::project(batch, event)?;
    jobs::project(batch, event, behind, nanos)?;
    spending::project(batch, event);
    Ok(())
}

const REWIND: Statement = Statement::new(
    "INSERT INTO rewinds (session, seq, after_seq) SELECT id, last_seq - ?, ? FROM sessions WHERE id = ?",
);

fn refuse_forward(event: &Event) -> Result<()> {
    match &event.body {
        EventBody::SessionRewound { after, .. } if Some(*after) >= event.seq => Err(StoreError::Invalid {
            reason: "a session goes back, not forward".into(),
        }),
        _ => Ok(()),
    }
}

async fn is_there(connection: &mut SqliteConnection, org: &OrgName, session: SessionId) -> Result<bool> {
    let found: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM sessions WHERE org = ?1 AND id = ?2 AND deleting IS NULL")
            .bind(org.as_str())
            .bind(&session.uuid().as_bytes()[..])
            .fetch_optional(connection)
            .await
            .map_err(failed)?;
    Ok(found.is_some())
}

/// Whether nothing happened in the turn since it was seen.
pub(super) async fn is_unchanged(connection: &mut SqliteConnection, session: SessionId, seen: Seen) -> Result<bool> {
    let last: Option<i64> = sqlx::query_scalar("SELECT max(seq) FROM events WHERE session = ?1 AND turn = ?2")
        .bind(&session.uuid().as_bytes()[..])
        .bind(&seen.turn.uuid().as_bytes()[..])
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    Ok(last.map(decode::seq).transpose()? == Some(seen.seq))
}

const WAITS_UNTIL: Statement = Statement::new("UPDATE turns SET waits_until = ? WHERE session = ? AND id = ?");

fn wait_until(batch: &mut Batch, session: SessionId, turn: TurnId, until: Time) -> Result<()> {
    batch.add(WAITS_UNTIL);
    batch
        .bind(decode::to_nanos(until)?)
        .bind(&session.uuid().as_bytes()[..])
        .bind(&turn.uuid().as_bytes()[..]);
    Ok(())
}

const REWINDS: &str = "SELECT r.after_seq, r.seq FROM sessions s JOIN rewinds r ON r.session = s.id \
     WHERE s.org = ?1 AND s.id = ?2 AND s.deleting IS NULL ORDER BY r.seq";

/// Where a session went back.
pub(super) async fn rewinds(reader: impl SqliteExecutor<'_>, org: &OrgName, session: SessionId) -> Result<Vec<Rewind>> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(REWINDS)
        .bind(org.as_str())
        .bind(&session.uuid().as_bytes()[..])
        .fetch_all(reader)
        .await
        .map_err(failed)?;
    rows.into_iter()
        .map(|(after, seq)| {
            Ok(Rewind {
                after: decode::seq(after)?,
                seq: decode::seq(seq)?,
            })
        })
        .collect()
}

/// A turn that waited for another has its place where it begins, since what lies before is the other's.
const BEGINS_HERE: Statement = Statement::new(
    "UPDATE turns SET first_seq = (SELECT last_seq - ? FROM sessions s WHERE s.id = turns.session) \
     WHERE session = ? AND id = ? AND status = 'queued' AND EXISTS \
     (SELECT 1 FROM events e WHERE e.session = turns.session AND e.seq > turns.first_seq AND e.turn <> turns.id)",
);

/// One that ends without having begun has none.
const BEGAN_NOWHERE: Statement = Statement::new(
    "UPDATE turns SET first_seq = 0 WHERE session = ? AND id = ? AND status = 'queued' AND EXISTS \
     (SELECT 1 FROM events e WHERE e.session = turns.session AND e.seq > turns.first_seq AND e.turn <> turns.id)",
);

fn place_waited(batch: &mut Batch, session: SessionId, turn: TurnId, place: Statement, behind: Option<i64>) {
    batch.add(place);
    if let Some(behind) = behind {
        batch.bind(behind);
    }
    batch
        .bind(&session.uuid().as_bytes()[..])
        .bind(&turn.uuid().as_bytes()[..]);
}

const STATUS: Statement = Statement::new(
    "UPDATE turns SET status = ?, ended = ?, waits_until = CASE WHEN ? THEN waits_until END, \
         owner = CASE WHEN ? THEN owner END, opening = CASE WHEN ? THEN opening END, \
         leased_until = CASE WHEN ? THEN leased_until END \
     WHERE session = ? AND id = ? AND ended IS NULL",
)
.or_else(|error| match error.as_database_error() {
    // THREAT[T-api-busy]
    Some(database) if database.is_unique_violation() => StoreError::Invalid {
        reason: "another turn of the session has begun and not ended".into(),
    },
    _ => failed(error),
})
.checked(|answer| match answer.affected() {
    0 => Err(StoreError::Invalid {
        reason: "the turn has ended: it neither starts nor ends again".into(),
    }),
    _ => Ok(()),
});

fn project(batch: &mut Batch, session: SessionId, turn: TurnId, status: TurnStatus, nanos: i64) {
    let waits = matches!(status, TurnStatus::AwaitingApproval | TurnStatus::AwaitingResults);
    // What has ended, or waits for somebody outside, is nobody's to work.
    let is_worked = matches!(status, TurnStatus::Queued | TurnStatus::Running);
    batch.add(STATUS);
    batch
        .bind(decode::status_text(status))
        .bind(status.is_terminal().then_some(nanos))
        .bind(waits)
        .bind(is_worked)
        .bind(is_worked)
        .bind(is_worked)
        .bind(&session.uuid().as_bytes()[..])
        .bind(&turn.uuid().as_bytes()[..]);
}

type Row = (Vec<u8>, i64, i64, Vec<u8>, Option<Vec<u8>>, String, String);

fn event((id, seq, time, session, turn, source, body): Row, org: &OrgName) -> Result<Event> {
    Ok(Event {
        id: EventId::from_uuid(decode::uuid(&id, "an event's id")?),
        seq: Some(decode::seq(seq)?),
        time: decode::from_nanos(time),
        org: org.clone(),
        session: SessionId::from_uuid(decode::uuid(&session, "an event's session")?),
        turn: turn
            .map(|turn| decode::uuid(&turn, "an event's turn").map(TurnId::from_uuid))
            .transpose()?,
        source: decode::from_json(&source, "an event's source")?,
        body: decode::from_json(&body, "an event")?,
    })
}

#[async_trait]
impl Journal for SqliteStore {
    async fn append(&self, org: &OrgName, session: SessionId, events: &[NewEvent]) -> Result<Vec<Event>> {
        let prepared = Prepared::new(events)?;
        let org = org.clone();
        self.write_batch(
            prepared.passage(),
            move |batch, connection| -> BoxFuture<'_, Result<Vec<Event>>> {
                Box::pin(async move { append_behind(batch, connection, &org, session, None, prepared).await })
            },
        )
        .await
    }

    async fn append_held(
        &self,
        org: &OrgName,
        session: SessionId,
        fence: Fence,
        events: &[NewEvent],
    ) -> Result<Vec<Event>> {
        let prepared = Prepared::new(events)?;
        let org = org.clone();
        self.write_batch(
            prepared.passage(),
            move |batch, connection| -> BoxFuture<'_, Result<Vec<Event>>> {
                Box::pin(async move { append_behind(batch, connection, &org, session, Some(fence), prepared).await })
            },
        )
        .await
    }

    async fn append_after(
        &self,
        org: &OrgName,
        session: SessionId,
        seen: Seen,
        events: &[NewEvent],
    ) -> Result<Option<Vec<Event>>> {
        let prepared = Prepared::new(events)?;
        let org = org.clone();
        self.write(
            prepared.passage(),
            move |connection| -> BoxFuture<'_, Result<Option<Vec<Event>>>> {
                Box::pin(async move {
                    // THREAT[T-appr-replay]: looked at and appended in one transaction of the one writer.
                    if !is_unchanged(connection, session, seen).await? {
                        return match is_there(connection, &org, session).await? {
                            true => Ok(None),
                            false => Err(StoreError::Gone { what: "session" }),
                        };
                    }
                    append(connection, &org, session, prepared).await.map(Some)
                })
            },
        )
        .await
    }

    async fn events(&self, org: &OrgName, session: SessionId, after: u64, limit: u32) -> Result<Vec<Event>> {
        // No journal is that long: what comes after is nothing.
        let Ok(after) = i64::try_from(after) else {
            return Ok(Vec::new());
        };
        let rows: Vec<Row> = sqlx::query_as(concat!(
            "SELECT e.id, e.seq, e.time, e.session, e.turn, e.source, e.body FROM sessions s \
             JOIN events e ON e.session = s.id AND e.seq > ?2 AND e.seq <= ",
            last_of_page!(),
            " WHERE s.org = ?5 AND s.id = ?1 AND s.deleting IS NULL ORDER BY e.seq"
        ))
        .bind(&session.uuid().as_bytes()[..])
        .bind(after)
        .bind(i64::from(limit))
        .bind(i64::from(EVENTS_BYTES))
        .bind(org.as_str())
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter().map(|row| event(row, org)).collect()
    }

    async fn last_seq(&self, org: &OrgName, session: SessionId) -> Result<Option<u64>> {
        let last: Option<i64> =
            sqlx::query_scalar("SELECT last_seq FROM sessions WHERE org = ?1 AND id = ?2 AND deleting IS NULL")
                .bind(org.as_str())
                .bind(&session.uuid().as_bytes()[..])
                .fetch_optional(self.readers())
                .await
                .map_err(failed)?;
        Ok(last.map(i64::cast_unsigned))
    }

    async fn rewinds(&self, org: &OrgName, session: SessionId) -> Result<Vec<Rewind>> {
        rewinds(self.readers(), org, session).await
    }

    async fn turn_events(&self, org: &OrgName, turn: TurnId) -> Result<Vec<Event>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT e.id, e.seq, e.time, e.session, e.turn, e.source, e.body FROM turns t \
             JOIN events e ON e.session = t.session AND e.turn = t.id \
             WHERE t.org = ?1 AND t.id = ?2 AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = t.session) \
             ORDER BY e.seq",
        )
        .bind(org.as_str())
        .bind(&turn.uuid().as_bytes()[..])
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter().map(|row| event(row, org)).collect()
    }
}

/// The time of the events that were appended together, as the session has it.
pub(super) fn time_of(events: &[Event]) -> Option<Time> {
    events.last().map(|event| event.time)
}
