//! Turns: accepting them once, and finding them.

use super::{BoxFuture, SqliteStore, decode, failed, insert_failed, journal, sessions};
use crate::{
    api::{Result, StoreError, Turns},
    faults::Point,
    record::{Accepted, Added, Addition, CancelAt, IfBusy, MAX_QUEUED, NewRewind, NewTurn, Rewound, Seen, Turn},
};
use async_trait::async_trait;
use fumehood_core::{
    Time,
    digest::Digest,
    event::{Event, EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    name::OrgName,
    now,
    rewind::PassedOver,
    turn::TurnStatus,
};
use sqlx::sqlite::SqliteConnection;

/// How long an idempotency key is remembered after its turn has ended.
const REMEMBERED: i64 = 24 * 60 * 60 * 1_000_000_000;

/// By those of the session that have not ended, which are few; `+` keeps the org's turns from being gone through instead.
const NEXT: &str = "SELECT id, org, session, status, first_seq, created, ended FROM turns \
                    WHERE +org = ?1 AND session = ?2 AND ended IS NULL \
                    AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?2) \
                    ORDER BY status = 'queued', first_seq LIMIT 1";

pub(super) type Row = (Vec<u8>, String, Vec<u8>, String, i64, i64, Option<i64>);

pub(super) fn turn((id, org, session, status, first_seq, created, ended): Row) -> Result<Turn> {
    Ok(Turn {
        id: TurnId::from_uuid(decode::uuid(&id, "a turn's id")?),
        org: decode::name(org, "a turn's org")?,
        session: SessionId::from_uuid(decode::uuid(&session, "a turn's session")?),
        status: decode::status(&status)?,
        first_seq: decode::seq(first_seq)?,
        created: decode::from_nanos(created),
        ended: ended.map(decode::from_nanos),
    })
}

const fn cancel_text(at: CancelAt) -> &'static str {
    match at {
        CancelAt::Now => "now",
        CancelAt::Boundary => "boundary",
    }
}

pub(super) fn cancel_at(text: &str) -> Result<CancelAt> {
    match text {
        "now" => Ok(CancelAt::Now),
        "boundary" => Ok(CancelAt::Boundary),
        _ => Err(decode::corrupt("when a turn is cancelled")),
    }
}

/// A turn that asks to be accepted, with its `turn.queued`.
pub(super) struct Candidate {
    org: OrgName,
    session: SessionId,
    turn: TurnId,
    idempotency: Option<(String, Digest)>,
    replaces: Option<GoingBack>,
    ends: Option<(Seen, journal::Prepared)>,
    if_busy: IfBusy,
    queued: journal::Prepared,
}

impl Candidate {
    pub(super) fn new(org: &OrgName, session: SessionId, new: &NewTurn, source: Source) -> Result<Self> {
        let queued = journal::Prepared::new(&[NewEvent {
            turn: Some(new.id),
            source,
            body: EventBody::TurnQueued {
                input: new.input.clone(),
                system: new.system.clone(),
                budget: new.budget,
                output_schema: new.output_schema.clone(),
                tools: new.tools.clone(),
                record: new.record,
            },
        }])?;
        Ok(Self {
            org: org.clone(),
            session,
            turn: new.id,
            idempotency: new.idempotency.clone(),
            replaces: new
                .replaces
                .as_ref()
                .map(|rewind| GoingBack::new(org, session, rewind))
                .transpose()?,
            ends: match &new.ends {
                Some(ending) => Some((ending.seen, journal::Prepared::new(&ending.events)?)),
                None => None,
            },
            if_busy: new.if_busy,
            queued,
        })
    }

    pub(super) const fn session(&self) -> SessionId {
        self.session
    }

    pub(super) const fn if_busy(&self) -> IfBusy {
        self.if_busy
    }

    /// Decides and, for a new turn, writes all of it, inside a transaction.
    pub(super) async fn accept(mut self, connection: &mut SqliteConnection) -> Result<Option<Accepted>> {
        let Some(standing) = sessions::standing(connection, &self.org, self.session).await? else {
            return Ok(None);
        };
        let created = decode::to_nanos(now())?;
        if let Some((key, request)) = &self.idempotency {
            let before = created - REMEMBERED;
            forget(connection, before).await?;
            if let Some(earlier) = earlier(connection, self.session, key, request, before).await? {
                return Ok(Some(earlier));
            }
        }
        // What it led to before is told of an archived session as well.
        standing.refuse_archived()?;
        // THREAT[T-api-busy]: a session works one turn at a time, decided where turns are accepted.
        let mut ending = None;
        if let Some(open) = open_turn(connection, self.session).await? {
            ending = self.gives_way(connection, open).await?;
            match self.if_busy {
                _ if ending.is_some() => {}
                IfBusy::Refuse => return Ok(Some(Accepted::Busy(open))),
                IfBusy::Queue if not_ended(connection, self.session).await? > i64::from(MAX_QUEUED) => {
                    return Ok(Some(Accepted::QueueFull));
                }
                IfBusy::Queue => {}
            }
        }
        if let Some(back) = &self.replaces
            && !back.still_holds(connection).await?
        {
            return Ok(Some(Accepted::Stale));
        }
        // Decided: nothing was appended so far, and what is from here on stays whole or goes with an error.
        let recorded = match ending {
            Some(ending) => self.end(connection, ending).await?,
            None => Vec::new(),
        };
        self.insert(connection, created, recorded).await.map(Some)
    }

    /// The open turn with what ends it, if it is the one that ends for this, is as it was seen, and no other waits behind it.
    async fn gives_way(
        &mut self,
        connection: &mut SqliteConnection,
        open: TurnId,
    ) -> Result<Option<(TurnId, journal::Prepared)>> {
        match self.ends.take() {
            Some((seen, ending))
                if seen.turn == open
                    && not_ended(connection, self.session).await? == 1
                    && journal::is_unchanged(connection, self.session, seen).await? =>
            {
                Ok(Some((open, ending)))
            }
            _ => Ok(None),
        }
    }

    async fn end(
        &self,
        connection: &mut SqliteConnection,
        (open, ending): (TurnId, journal::Prepared),
    ) -> Result<Vec<Event>> {
        let ended = journal::append(connection, &self.org, self.session, ending).await?;
        if open_turn(connection, self.session).await? == Some(open) {
            return Err(StoreError::Invalid {
                reason: "what is to end the turn for another does not end it".into(),
            });
        }
        Ok(ended)
    }

    /// Writes the turn; `recorded` is what the journal got for it already.
    async fn insert(
        self,
        connection: &mut SqliteConnection,
        created: i64,
        mut recorded: Vec<Event>,
    ) -> Result<Accepted> {
        if let Some(back) = self.replaces {
            recorded.push(back.record(connection).await?);
        }
        sqlx::query(
            "INSERT INTO turns (id, org, session, status, first_seq, created) \
             SELECT ?1, ?2, ?3, 'queued', last_seq + 1, ?4 FROM sessions WHERE id = ?3",
        )
        .bind(&self.turn.uuid().as_bytes()[..])
        .bind(self.org.as_str())
        .bind(&self.session.uuid().as_bytes()[..])
        .bind(created)
        .execute(&mut *connection)
        .await
        .map_err(|error| insert_failed(error, "session", || format!("the turn {}", self.turn)))?;
        if let Some(idempotency) = &self.idempotency {
            remember(connection, self.session, idempotency, self.turn, created).await?;
        }
        let queued = record(connection, &self.org, self.session, self.queued).await?;
        let turn = Turn {
            id: self.turn,
            org: self.org,
            session: self.session,
            status: TurnStatus::Queued,
            first_seq: queued.seq.unwrap_or_default(),
            created: decode::from_nanos(created),
            ended: None,
        };
        recorded.push(queued);
        Ok(Accepted::New(turn, recorded))
    }
}

/// A session that asks to go back, with its `session.rewound`.
struct GoingBack {
    org: OrgName,
    session: SessionId,
    after: u64,
    turns: Vec<TurnId>,
    rewound: journal::Prepared,
}

impl GoingBack {
    fn new(org: &OrgName, session: SessionId, rewind: &NewRewind) -> Result<Self> {
        Ok(Self {
            org: org.clone(),
            session,
            after: rewind.after,
            turns: rewind.turns.clone(),
            rewound: journal::Prepared::with_id(rewind.id, &rewind.event())?,
        })
    }

    /// Decides and, if it goes back, writes it, inside a transaction.
    async fn go(self, connection: &mut SqliteConnection) -> Result<Option<Rewound>> {
        match sessions::standing(connection, &self.org, self.session).await? {
            Some(standing) => standing.refuse_archived()?,
            None => return Ok(None),
        }
        if let Some(open) = open_turn(connection, self.session).await? {
            return Ok(Some(Rewound::Busy(open)));
        }
        if !self.still_holds(connection).await? {
            return Ok(Some(Rewound::Stale));
        }
        Ok(Some(Rewound::Done(self.record(connection).await?)))
    }

    /// Whether the turns to be undone are those that there are to undo.
    async fn still_holds(&self, connection: &mut SqliteConnection) -> Result<bool> {
        let Ok(after) = i64::try_from(self.after) else {
            return Ok(false);
        };
        let rewinds = journal::rewinds(&mut *connection, &self.org, self.session).await?;
        let passed = PassedOver::by(rewinds);
        let later: Vec<(Vec<u8>, i64)> =
            sqlx::query_as("SELECT id, first_seq FROM turns WHERE session = ?1 AND first_seq > ?2 ORDER BY first_seq")
                .bind(&self.session.uuid().as_bytes()[..])
                .bind(after)
                .fetch_all(connection)
                .await
                .map_err(failed)?;
        let mut there = Vec::new();
        for (id, first_seq) in later {
            if !passed.covers(decode::seq(first_seq)?) {
                there.push(TurnId::from_uuid(decode::uuid(&id, "a turn's id")?));
            }
        }
        Ok(!there.is_empty() && there == self.turns && !passed.covers(self.after))
    }

    async fn record(self, connection: &mut SqliteConnection) -> Result<Event> {
        record(connection, &self.org, self.session, self.rewound).await
    }
}

/// Appends one event.
async fn record(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    event: journal::Prepared,
) -> Result<Event> {
    let mut events = journal::append(connection, org, session, event).await?;
    events.pop().ok_or(StoreError::Gone { what: "session" })
}

/// The session's turn that is worked, or the first of those that wait.
pub(super) async fn open_turn(connection: &mut SqliteConnection, session: SessionId) -> Result<Option<TurnId>> {
    let oldest =
        "SELECT id FROM turns WHERE session = ?1 AND ended IS NULL ORDER BY status = 'queued', first_seq LIMIT 1";
    let id: Option<Vec<u8>> = sqlx::query_scalar(oldest)
        .bind(&session.uuid().as_bytes()[..])
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    id.map(|id| decode::uuid(&id, "a turn's id").map(TurnId::from_uuid))
        .transpose()
}

/// Appends what a client adds to a turn, inside a transaction.
async fn add(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
    addition: &Addition,
    steered: journal::Prepared,
) -> Result<Added> {
    if sessions::standing(connection, org, session).await?.is_none() {
        return Err(StoreError::Gone { what: "turn" });
    }
    let time = decode::to_nanos(now())?;
    if let Some((key, request)) = &addition.idempotency {
        let before = time - REMEMBERED;
        forget(connection, before).await?;
        match earlier(connection, session, key, request, before).await? {
            Some(Accepted::Repeated(turn)) => return Ok(Added::Repeated(turn)),
            Some(_) => return Ok(Added::KeyReused),
            None => {}
        }
    }
    let event = journal::append_held(connection, org, session, addition.fence, steered)
        .await?
        .pop();
    let event = event.ok_or(StoreError::Gone { what: "session" })?;
    if let Some(idempotency) = &addition.idempotency {
        remember(connection, session, idempotency, addition.fence.turn(), time).await?;
    }
    Ok(Added::Recorded(event))
}

async fn remember(
    connection: &mut SqliteConnection,
    session: SessionId,
    (key, request): &(String, Digest),
    turn: TurnId,
    time: i64,
) -> Result<()> {
    sqlx::query("INSERT INTO idempotency (session, key, request, turn, created) VALUES (?1, ?2, ?3, ?4, ?5)")
        .bind(&session.uuid().as_bytes()[..])
        .bind(key.as_str())
        .bind(&request.as_bytes()[..])
        .bind(&turn.uuid().as_bytes()[..])
        .bind(time)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

async fn not_ended(connection: &mut SqliteConnection, session: SessionId) -> Result<i64> {
    sqlx::query_scalar("SELECT count(*) FROM turns WHERE session = ?1 AND ended IS NULL")
        .bind(&session.uuid().as_bytes()[..])
        .fetch_one(connection)
        .await
        .map_err(failed)
}

/// What the same idempotency key led to, unless its turn ended before.
async fn earlier(
    connection: &mut SqliteConnection,
    session: SessionId,
    key: &str,
    request: &Digest,
    before: i64,
) -> Result<Option<Accepted>> {
    // The opposite of what is forgotten.
    let known = "SELECT i.request, i.turn FROM idempotency i JOIN turns t ON t.id = i.turn \
                 WHERE i.session = ?1 AND i.key = ?2 AND (i.created > ?3 OR t.ended IS NULL OR t.ended > ?3)";
    let row: Option<(Vec<u8>, Vec<u8>)> = sqlx::query_as(known)
        .bind(&session.uuid().as_bytes()[..])
        .bind(key)
        .bind(before)
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    match row {
        None => Ok(None),
        Some((earlier, _)) if earlier != request.as_bytes() => Ok(Some(Accepted::KeyReused)),
        Some((_, id)) => {
            let row: Row =
                sqlx::query_as("SELECT id, org, session, status, first_seq, created, ended FROM turns WHERE id = ?1")
                    .bind(id)
                    .fetch_one(connection)
                    .await
                    .map_err(failed)?;
            Ok(Some(Accepted::Repeated(turn(row)?)))
        }
    }
}

/// Forgets the keys of turns that ended before. One that waits, for a person for weeks, would begin again.
async fn forget(connection: &mut SqliteConnection, before: i64) -> Result<()> {
    let ended_before = "DELETE FROM idempotency WHERE created <= ?1 \
                        AND (SELECT ended <= ?1 FROM turns WHERE turns.id = idempotency.turn)";
    sqlx::query(ended_before)
        .bind(before)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

#[async_trait]
impl Turns for SqliteStore {
    async fn accept_turn(&self, org: &OrgName, session: SessionId, new: &NewTurn) -> Result<Option<Accepted>> {
        let candidate = Candidate::new(org, session, new, Source::Client)?;
        self.write(Point::TurnAccept, move |connection| {
            Box::pin(candidate.accept(connection))
        })
        .await
    }

    async fn repeated_turn(
        &self,
        org: &OrgName,
        session: SessionId,
        key: &str,
        request: &Digest,
    ) -> Result<Option<Accepted>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        if sessions::standing(&mut connection, org, session).await?.is_some() {
            let before = decode::to_nanos(now())? - REMEMBERED;
            earlier(&mut connection, session, key, request, before).await
        } else {
            Ok(None)
        }
    }

    async fn add_to_turn(&self, org: &OrgName, session: SessionId, addition: &Addition) -> Result<Added> {
        let steered = journal::Prepared::new(&[NewEvent {
            turn: Some(addition.fence.turn()),
            source: Source::Client,
            body: EventBody::TurnSteered {
                input: addition.input.clone(),
            },
        }])?;
        let (org, addition) = (org.clone(), addition.clone());
        self.write(Point::TurnAdd, move |connection| -> BoxFuture<'_, Result<Added>> {
            Box::pin(async move { add(connection, &org, session, &addition, steered).await })
        })
        .await
    }

    async fn next_turn(&self, org: &OrgName, session: SessionId) -> Result<Option<Turn>> {
        let row: Option<Row> = sqlx::query_as(NEXT)
            .bind(org.as_str())
            .bind(&session.uuid().as_bytes()[..])
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        row.map(turn).transpose()
    }

    async fn turn(&self, org: &OrgName, id: TurnId) -> Result<Option<Turn>> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT id, org, session, status, first_seq, created, ended FROM turns WHERE org = ?1 AND id = ?2 \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session)",
        )
        .bind(org.as_str())
        .bind(&id.uuid().as_bytes()[..])
        .fetch_optional(self.readers())
        .await
        .map_err(failed)?;
        row.map(turn).transpose()
    }

    async fn turns(&self, org: &OrgName, session: SessionId) -> Result<Vec<Turn>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, org, session, status, first_seq, created, ended FROM turns \
             WHERE org = ?1 AND session = ?2 AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?2) ORDER BY first_seq",
        )
        .bind(org.as_str())
        .bind(&session.uuid().as_bytes()[..])
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter().map(turn).collect()
    }

    async fn turns_waiting(&self, after: Option<(Time, TurnId)>, limit: u32) -> Result<Vec<(Turn, Time)>> {
        let (until, id) = match after {
            Some((until, turn)) => (decode::to_nanos(until)?, turn.uuid().as_bytes().to_vec()),
            None => (i64::MIN, Vec::new()),
        };
        type Waiting = (Vec<u8>, String, Vec<u8>, String, i64, i64, Option<i64>, i64);
        let rows: Vec<Waiting> = sqlx::query_as(
            "SELECT id, org, session, status, first_seq, created, ended, waits_until FROM turns \
             WHERE waits_until IS NOT NULL AND status IN ('awaiting_approval', 'awaiting_results') AND (waits_until, id) > (?2, ?3) \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session) ORDER BY waits_until, id LIMIT ?1",
        )
        .bind(i64::from(limit))
        .bind(until)
        .bind(id)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(id, org, session, status, first_seq, created, ended, until)| {
                let waiting = turn((id, org, session, status, first_seq, created, ended))?;
                Ok((waiting, decode::from_nanos(until)))
            })
            .collect()
    }

    async fn keep_cancel(&self, org: &OrgName, id: TurnId, at: CancelAt) -> Result<bool> {
        let org = org.clone();
        self.write(Point::TurnCancel, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move {
                let kept = sqlx::query(
                    "UPDATE turns SET cancel = CASE cancel WHEN 'now' THEN cancel ELSE ?3 END \
                     WHERE org = ?1 AND id = ?2 AND ended IS NULL \
                     AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session)",
                )
                .bind(org.as_str())
                .bind(&id.uuid().as_bytes()[..])
                .bind(cancel_text(at))
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(kept.rows_affected() > 0)
            })
        })
        .await
    }

    async fn turns_to_cancel(&self, after: Option<TurnId>, limit: u32) -> Result<Vec<(Turn, CancelAt)>> {
        type ToCancel = (Vec<u8>, String, Vec<u8>, String, i64, i64, Option<i64>, String);
        let rows: Vec<ToCancel> = sqlx::query_as(
            "SELECT id, org, session, status, first_seq, created, ended, cancel FROM turns INDEXED BY turns_to_cancel \
             WHERE cancel IS NOT NULL AND ended IS NULL AND id > ?1 \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session) ORDER BY id LIMIT ?2",
        )
        .bind(after.map_or_else(Vec::new, |turn| turn.uuid().as_bytes().to_vec()))
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter()
            .map(|(id, org, session, status, first_seq, created, ended, at)| {
                let row = (id, org, session, status, first_seq, created, ended);
                Ok((turn(row)?, cancel_at(&at)?))
            })
            .collect()
    }

    async fn turns_in(&self, states: &[TurnStatus]) -> Result<Vec<Turn>> {
        let states: Vec<_> = states.iter().map(|status| decode::status_text(*status)).collect();
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, org, session, status, first_seq, created, ended FROM turns \
             WHERE status IN (SELECT value FROM json_each(?1)) \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session) ORDER BY created, id",
        )
        .bind(decode::to_json(&states, "the states")?)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter().map(turn).collect()
    }

    async fn rewind(&self, org: &OrgName, session: SessionId, rewind: &NewRewind) -> Result<Option<Rewound>> {
        let back = GoingBack::new(org, session, rewind)?;
        self.write(Point::Rewind, move |connection| Box::pin(back.go(connection)))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataDir, MasterKey, StoreUrl};

    #[tokio::test]
    async fn the_next_turn_is_found_among_those_that_have_not_ended() {
        let place = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(place.path()).await.unwrap();
        let master = MasterKey::random().unwrap();
        let store = SqliteStore::open(&data_dir, &StoreUrl::InDataDir, &master)
            .await
            .unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {NEXT}");
        let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(plan))
            .bind("org")
            .bind(vec![0_u8; 16])
            .fetch_all(store.readers())
            .await
            .unwrap();
        assert!(
            plan.iter().any(|(.., step)| step.contains("turns_not_ended")),
            "{plan:?}"
        );
        assert!(!plan.iter().any(|(.., step)| step.contains("SCAN")), "{plan:?}");
    }
}
