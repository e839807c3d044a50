//! The journal, and what follows from its events in the same transaction.

use super::{BoxFuture, SqliteStore, callbacks, decode, failed, leases, spending, webhooks};
use crate::{
    api::{Journal, Result, StoreError},
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
    fn passage(&self) -> Passage {
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
        EventBody::TurnPaused { waiting_for } => Some(match waiting_for {
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

/// Takes `count` places in the journal of a session and gives the first; `None` if the org has no such session.
pub(super) async fn take_places(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    count: usize,
    time: i64,
) -> Result<Option<i64>> {
    let count = i64::try_from(count).map_err(|_| decode::corrupt("the number of events"))?;
    // One row, one writer: places are taken in order and none is left out.
    let last: Option<i64> = sqlx::query_scalar(
        "UPDATE sessions SET last_seq = last_seq + ?3, updated = ?4 WHERE org = ?1 AND id = ?2 AND deleting IS NULL \
         RETURNING last_seq",
    )
    .bind(org.as_str())
    .bind(&session.uuid().as_bytes()[..])
    .bind(count)
    .bind(time)
    .fetch_optional(connection)
    .await
    .map_err(failed)?;
    Ok(last.map(|last| last - count + 1))
}

/// Appends events to a session of the org, inside a transaction. `None` if there is no such session.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    prepared: Prepared,
) -> Result<Option<Vec<Event>>> {
    let time = now();
    let nanos = decode::to_nanos(time)?;
    let Some(first) = take_places(connection, org, session, prepared.events.len(), nanos).await? else {
        return Ok(None);
    };
    let mut events = Vec::with_capacity(prepared.events.len());
    for (place, new) in (first..).zip(prepared.events) {
        let event = Event {
            id: new.id.unwrap_or_else(EventId::new),
            seq: Some(decode::seq(place)?),
            time,
            org: org.clone(),
            session,
            turn: new.event.turn,
            source: new.event.source,
            body: new.event.body,
        };
        insert(connection, &event, place, nanos, new.source, new.body).await?;
        if let EventBody::SessionRewound { after, .. } = &event.body {
            insert_rewind(connection, session, place, *after).await?;
        }
        if let (Some(until), Some(turn)) = (waits_until(&event.body, time), event.turn) {
            wait_until(connection, session, turn, until).await?;
        }
        if let (Some(status), Some(turn)) = (projected(&event.body), event.turn) {
            match (&event.body, status.is_terminal()) {
                (EventBody::TurnStarted { .. }, _) => place_waited(connection, session, turn, place).await?,
                (_, true) => place_waited(connection, session, turn, 0).await?,
                _ => {}
            }
            project(connection, session, turn, status, nanos).await?;
        }
        callbacks::project(connection, &event).await?;
        spending::project(connection, &event).await?;
        webhooks::queue(connection, &event, nanos).await?;
        events.push(event);
    }
    Ok(Some(events))
}

async fn insert(
    connection: &mut SqliteConnection,
    event: &Event,
    place: i64,
    nanos: i64,
    source: String,
    body: String,
) -> Result<()> {
    let turn = event.turn.map(TurnId::uuid);
    sqlx::query("INSERT INTO events (session, seq, id, time, turn, source, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")
        .bind(&event.session.uuid().as_bytes()[..])
        .bind(place)
        .bind(&event.id.uuid().as_bytes()[..])
        .bind(nanos)
        .bind(turn.as_ref().map(|turn| &turn.as_bytes()[..]))
        .bind(source)
        .bind(body)
        .execute(connection)
        .await
        .map_err(|error| match error.as_database_error() {
            // The session is there, we have just updated it.
            Some(database) if database.is_foreign_key_violation() => StoreError::Invalid {
                reason: "the event's turn is not of this session".into(),
            },
            _ => failed(error),
        })?;
    crate::telemetry::journal_row();
    Ok(())
}

async fn insert_rewind(connection: &mut SqliteConnection, session: SessionId, place: i64, after: u64) -> Result<()> {
    let after = i64::try_from(after).ok().filter(|after| *after < place);
    let after = after.ok_or_else(|| StoreError::Invalid {
        reason: "a session goes back, not forward".into(),
    })?;
    sqlx::query("INSERT INTO rewinds (session, seq, after_seq) VALUES (?1, ?2, ?3)")
        .bind(&session.uuid().as_bytes()[..])
        .bind(place)
        .bind(after)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
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

async fn wait_until(connection: &mut SqliteConnection, session: SessionId, turn: TurnId, until: Time) -> Result<()> {
    sqlx::query("UPDATE turns SET waits_until = ?3 WHERE session = ?1 AND id = ?2")
        .bind(&session.uuid().as_bytes()[..])
        .bind(&turn.uuid().as_bytes()[..])
        .bind(decode::to_nanos(until)?)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

const REWINDS: &str = "SELECT r.after_seq, r.seq FROM sessions s JOIN rewinds r ON r.session = s.id \
     WHERE s.org = ?1 AND s.id = ?2 ORDER BY r.seq";

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

/// A turn that waited for another has its place where it begins, since what lies before is the other's; one that ends without having
/// begun has none.
async fn place_waited(connection: &mut SqliteConnection, session: SessionId, turn: TurnId, place: i64) -> Result<()> {
    sqlx::query(
        "UPDATE turns SET first_seq = ?3 WHERE session = ?1 AND id = ?2 AND status = 'queued' AND EXISTS \
         (SELECT 1 FROM events e WHERE e.session = ?1 AND e.seq > turns.first_seq AND e.turn <> ?2)",
    )
    .bind(&session.uuid().as_bytes()[..])
    .bind(&turn.uuid().as_bytes()[..])
    .bind(place)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn project(
    connection: &mut SqliteConnection,
    session: SessionId,
    turn: TurnId,
    status: TurnStatus,
    nanos: i64,
) -> Result<()> {
    let updated = sqlx::query(
        "UPDATE turns SET status = ?3, ended = ?4, waits_until = CASE WHEN ?5 THEN waits_until END, \
             owner = CASE WHEN ?6 THEN owner END, opening = CASE WHEN ?6 THEN opening END, \
             leased_until = CASE WHEN ?6 THEN leased_until END \
         WHERE session = ?1 AND id = ?2 AND ended IS NULL",
    )
    .bind(&session.uuid().as_bytes()[..])
    .bind(&turn.uuid().as_bytes()[..])
    .bind(decode::status_text(status))
    .bind(status.is_terminal().then_some(nanos))
    .bind(matches!(
        status,
        TurnStatus::AwaitingApproval | TurnStatus::AwaitingResults
    ))
    // What has ended, or waits for somebody outside, is nobody's to work.
    .bind(matches!(status, TurnStatus::Queued | TurnStatus::Running))
    .execute(connection)
    .await
    .map_err(|error| match error.as_database_error() {
        // THREAT[T-api-busy]
        Some(database) if database.is_unique_violation() => StoreError::Invalid {
            reason: "another turn of the session has begun and not ended".into(),
        },
        _ => failed(error),
    })?;
    if updated.rows_affected() == 0 {
        return Err(StoreError::Invalid {
            reason: "the turn has ended: it neither starts nor ends again".into(),
        });
    }
    Ok(())
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
        self.write(
            prepared.passage(),
            move |connection| -> BoxFuture<'_, Result<Vec<Event>>> {
                Box::pin(async move {
                    append(connection, &org, session, prepared)
                        .await?
                        .ok_or(StoreError::Gone { what: "session" })
                })
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
        self.write(
            prepared.passage(),
            move |connection| -> BoxFuture<'_, Result<Vec<Event>>> {
                Box::pin(async move {
                    leases::holds(connection, session, fence).await?;
                    append(connection, &org, session, prepared)
                        .await?
                        .ok_or(StoreError::Gone { what: "session" })
                })
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
                        return Ok(None);
                    }
                    let appended = append(connection, &org, session, prepared).await?;
                    appended.map(Some).ok_or(StoreError::Gone { what: "session" })
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
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT e.id, e.seq, e.time, e.session, e.turn, e.source, e.body FROM sessions s \
             JOIN events e ON e.session = s.id AND e.seq > ?3 \
             WHERE s.org = ?1 AND s.id = ?2 ORDER BY e.seq LIMIT ?4",
        )
        .bind(org.as_str())
        .bind(&session.uuid().as_bytes()[..])
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter().map(|row| event(row, org)).collect()
    }

    async fn last_seq(&self, org: &OrgName, session: SessionId) -> Result<Option<u64>> {
        let last: Option<i64> = sqlx::query_scalar("SELECT last_seq FROM sessions WHERE org = ?1 AND id = ?2")
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
             WHERE t.org = ?1 AND t.id = ?2 ORDER BY e.seq",
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
