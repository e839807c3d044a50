//! Sessions.

use super::{BoxFuture, SqliteStore, cursor, cursor::List, decode, failed, insert_failed, jobs, journal, turns};
use crate::{
    api::{Result, Sessions, StoreError},
    faults::Point,
    record::{Page, PageRequest, Session, SessionChange, WhichSessions},
};
use async_trait::async_trait;
use fumehood_core::{
    event::{Event, NewEvent},
    id::{EventId, SessionId},
    name::OrgName,
    now,
};
use sqlx::sqlite::SqliteConnection;
use std::collections::HashSet;

type Row = (
    Vec<u8>,
    String,
    String,
    Option<String>,
    String,
    String,
    i64,
    i64,
    Option<i64>,
);

/// One that is being deleted reads as not there.
const ONE: &str = "SELECT id, org, agent, title, metadata, narrowing, created, updated, archived FROM sessions \
     WHERE org = ?1 AND id = ?2 AND deleting IS NULL";

/// A page of those of an org; each text is for an index of its own.
const IN_USE: &str = "SELECT id, org, agent, title, metadata, narrowing, created, updated, archived FROM sessions \
     WHERE org = ?1 AND (created, id) < (?2, ?3) AND archived IS NULL AND deleting IS NULL \
     ORDER BY created DESC, id DESC LIMIT ?4";
const ARCHIVED: &str = "SELECT id, org, agent, title, metadata, narrowing, created, updated, archived FROM sessions \
     WHERE org = ?1 AND (created, id) < (?2, ?3) AND archived IS NOT NULL AND deleting IS NULL \
     ORDER BY created DESC, id DESC LIMIT ?4";
const ALL: &str = "SELECT id, org, agent, title, metadata, narrowing, created, updated, archived FROM sessions \
     WHERE org = ?1 AND (created, id) < (?2, ?3) AND deleting IS NULL ORDER BY created DESC, id DESC LIMIT ?4";

fn session((id, org, agent, title, metadata, narrowing, created, updated, archived): Row) -> Result<Session> {
    Ok(Session {
        id: SessionId::from_uuid(decode::uuid(&id, "a session's id")?),
        org: decode::name(org, "a session's org")?,
        agent: decode::name(agent, "a session's agent")?,
        title,
        metadata: decode::from_json(&metadata, "a session's metadata")?,
        narrowing: decode::from_json(&narrowing, "a session's narrowing")?,
        created: decode::from_nanos(created),
        updated: decode::from_nanos(updated),
        archived: archived.map(decode::from_nanos),
    })
}

/// Whether a session takes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    InUse,
    Archived,
}

impl Standing {
    pub(super) const fn refuse_archived(self) -> Result<()> {
        match self {
            Self::InUse => Ok(()),
            Self::Archived => Err(StoreError::Archived),
        }
    }
}

/// How a session of the org stands; `None` if there is none.
pub(super) async fn standing(
    connection: &mut SqliteConnection,
    org: &OrgName,
    session: SessionId,
) -> Result<Option<Standing>> {
    let archived: Option<bool> =
        sqlx::query_scalar("SELECT archived IS NOT NULL FROM sessions WHERE org = ?1 AND id = ?2 AND deleting IS NULL")
            .bind(org.as_str())
            .bind(&session.uuid().as_bytes()[..])
            .fetch_optional(connection)
            .await
            .map_err(failed)?;
    Ok(archived.map(|archived| if archived { Standing::Archived } else { Standing::InUse }))
}

/// Refuses a session that is not there, or is archived.
pub(super) async fn in_use(connection: &mut SqliteConnection, org: &OrgName, session: SessionId) -> Result<()> {
    let standing = standing(connection, org, session).await?;
    standing.ok_or(StoreError::Gone { what: "session" })?.refuse_archived()
}

/// Notes that a session is used, inside a transaction. `false`: the org has none of that id.
pub(super) async fn touch(connection: &mut SqliteConnection, org: &OrgName, session: SessionId) -> Result<bool> {
    let touched =
        sqlx::query("UPDATE sessions SET updated = max(updated, ?3) WHERE org = ?1 AND id = ?2 AND deleting IS NULL")
            .bind(org.as_str())
            .bind(&session.uuid().as_bytes()[..])
            .bind(decode::to_nanos(now())?)
            .execute(connection)
            .await
            .map_err(failed)?;
    Ok(touched.rows_affected() > 0)
}

/// A session with its stored texts.
pub(super) struct Prepared {
    session: Session,
    metadata: String,
    narrowing: String,
    created: i64,
    updated: i64,
    archived: Option<i64>,
}

impl Prepared {
    pub(super) fn new(session: Session) -> Result<Self> {
        Ok(Self {
            metadata: decode::to_json(&session.metadata, "a session's metadata")?,
            narrowing: decode::to_json(&session.narrowing, "a session's narrowing")?,
            created: decode::to_nanos(session.created)?,
            updated: decode::to_nanos(session.updated)?,
            archived: session.archived.map(decode::to_nanos).transpose()?,
            session,
        })
    }
}

pub(super) async fn insert(connection: &mut SqliteConnection, row: &Prepared) -> Result<()> {
    sqlx::query(
        "INSERT INTO sessions (id, org, agent, title, metadata, narrowing, created, updated, archived) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )
    .bind(&row.session.id.uuid().as_bytes()[..])
    .bind(row.session.org.as_str())
    .bind(row.session.agent.as_str())
    .bind(row.session.title.as_deref())
    .bind(row.metadata.as_str())
    .bind(row.narrowing.as_str())
    .bind(row.created)
    .bind(row.updated)
    .bind(row.archived)
    .execute(connection)
    .await
    .map_err(|error| insert_failed(error, "org", || format!("the session {}", row.session.id)))?;
    Ok(())
}

/// Whether the org has as many sessions as `most`, at least.
// THREAT[T-org-sessions]: counted where they are made, so that of many at once no more are kept.
pub(super) async fn has_as_many(connection: &mut SqliteConnection, org: &OrgName, most: u64) -> Result<bool> {
    // More than can be counted is no bound, and costs no look.
    let Ok(most) = i64::try_from(most) else {
        return Ok(false);
    };
    // All by an index alone, without the few that are being deleted: a look into each row would keep the one writer.
    let count: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM sessions WHERE org = ?1) \
              - (SELECT count(*) FROM sessions INDEXED BY sessions_going WHERE org = ?1 AND deleting IS NOT NULL)",
    )
    .bind(org.as_str())
    .fetch_one(connection)
    .await
    .map_err(failed)?;
    Ok(count >= most)
}

/// Refuses a session in which something goes on.
async fn refuse_busy(connection: &mut SqliteConnection, session: SessionId) -> Result<()> {
    if let Some(open) = turns::open_turn(connection, session).await? {
        return Err(StoreError::Busy(open));
    }
    match jobs::unfinished(connection, session).await? {
        Some(job) => Err(StoreError::BusyWithJob(job)),
        None => Ok(()),
    }
}

async fn change(
    connection: &mut SqliteConnection,
    org: &OrgName,
    id: SessionId,
    change: SessionChange,
    events: journal::Prepared,
) -> Result<Option<(Session, Vec<Event>)>> {
    let row: Option<Row> = sqlx::query_as(ONE)
        .bind(org.as_str())
        .bind(&id.uuid().as_bytes()[..])
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    let Some(mut changed) = row.map(session).transpose()? else {
        return Ok(None);
    };
    let SessionChange {
        agent,
        title,
        metadata,
        network,
        files,
        background,
        archived,
    } = change;
    if archived == Some(true) && changed.archived.is_none() {
        refuse_busy(connection, id).await?;
    }
    changed.agent = agent.unwrap_or(changed.agent);
    changed.title = title.unwrap_or(changed.title);
    changed.metadata = metadata.unwrap_or(changed.metadata);
    // Each part by itself: of two changes at once neither undoes the other's.
    changed.narrowing.network = network.unwrap_or(changed.narrowing.network);
    changed.narrowing.files = files.unwrap_or(changed.narrowing.files);
    changed.narrowing.background = background.unwrap_or(changed.narrowing.background);
    let events = journal::append(connection, org, id, events).await?;
    changed.updated = journal::time_of(&events).unwrap_or_else(fumehood_core::now);
    changed.archived = match archived {
        None => changed.archived,
        Some(true) => changed.archived.or(Some(changed.updated)),
        Some(false) => None,
    };
    let row = Prepared::new(changed)?;
    sqlx::query(
        "UPDATE sessions SET agent = ?3, title = ?4, metadata = ?5, narrowing = ?6, updated = ?7, archived = ?8 \
         WHERE org = ?1 AND id = ?2",
    )
    .bind(org.as_str())
    .bind(&id.uuid().as_bytes()[..])
    .bind(row.session.agent.as_str())
    .bind(row.session.title.as_deref())
    .bind(row.metadata.as_str())
    .bind(row.narrowing.as_str())
    .bind(row.updated)
    .bind(row.archived)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(Some((row.session, events)))
}

impl SqliteStore {
    /// Whether a session's journal has this event, by which it went back.
    pub(crate) async fn went_back(&self, session: SessionId, event: EventId) -> Result<bool> {
        // In turn with those who write: one of them may be about to.
        self.in_turn(move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move {
                let there = "SELECT EXISTS (SELECT 1 FROM rewinds r JOIN events e ON e.session = r.session AND e.seq = r.seq \
                             WHERE r.session = ?1 AND e.id = ?2)";
                sqlx::query_scalar(there)
                    .bind(&session.uuid().as_bytes()[..])
                    .bind(&event.uuid().as_bytes()[..])
                    .fetch_one(connection)
                    .await
                    .map_err(failed)
            })
        })
        .await
    }

    /// All sessions, of all orgs.
    pub(crate) async fn all_sessions(&self) -> Result<HashSet<SessionId>> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar("SELECT id FROM sessions")
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        ids.iter()
            .map(|id| decode::uuid(id, "a session's id").map(SessionId::from_uuid))
            .collect()
    }
}

#[async_trait]
impl Sessions for SqliteStore {
    async fn create_session_within(&self, session: &Session, most: u64, events: &[NewEvent]) -> Result<Vec<Event>> {
        let row = Prepared::new(session.clone())?;
        let events = journal::Prepared::new(events)?;
        self.write(Point::SessionCreate, move |connection| {
            Box::pin(async move {
                if has_as_many(connection, &row.session.org, most).await? {
                    return Err(StoreError::TooMany {
                        what: "sessions",
                        limit: most,
                    });
                }
                insert(connection, &row).await?;
                journal::append(connection, &row.session.org, row.session.id, events).await
            })
        })
        .await
    }

    async fn session(&self, org: &OrgName, id: SessionId) -> Result<Option<Session>> {
        let row: Option<Row> = sqlx::query_as(ONE)
            .bind(org.as_str())
            .bind(&id.uuid().as_bytes()[..])
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        row.map(session).transpose()
    }

    async fn sessions(&self, org: &OrgName, which: WhichSessions, page: &PageRequest) -> Result<Page<Session>> {
        let limit = cursor::limit(page);
        let (before, id): (i64, SessionId) = match cursor::place(page, List::Sessions)? {
            Some(place) => place,
            None => (i64::MAX, SessionId::from_uuid(uuid::Uuid::max())),
        };
        let query = match which {
            WhichSessions::InUse => IN_USE,
            WhichSessions::Archived => ARCHIVED,
            WhichSessions::All => ALL,
        };
        let rows: Vec<Row> = sqlx::query_as(query)
            .bind(org.as_str())
            .bind(before)
            .bind(&id.uuid().as_bytes()[..])
            .bind(i64::from(limit) + 1)
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        let items = rows.into_iter().map(session).collect::<Result<_>>()?;
        cursor::page(items, limit, List::Sessions, |last: &Session| {
            // What was read from the column fits it.
            (last.created.timestamp_nanos_opt().unwrap_or(i64::MAX), last.id)
        })
    }

    async fn update_session(
        &self,
        org: &OrgName,
        id: SessionId,
        what: &SessionChange,
        events: &[NewEvent],
    ) -> Result<Option<(Session, Vec<Event>)>> {
        let events = journal::Prepared::new(events)?;
        let (org, what) = (org.clone(), what.clone());
        self.write(Point::SessionUpdate, move |connection| {
            Box::pin(async move { change(connection, &org, id, what, events).await })
        })
        .await
    }

    async fn touch_session(&self, org: &OrgName, id: SessionId) -> Result<bool> {
        let org = org.clone();
        self.write(Point::SessionTouch, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move { touch(connection, &org, id).await })
        })
        .await
    }

    async fn delete_session(&self, org: &OrgName, id: SessionId) -> Result<bool> {
        if !self.begin_to_delete_session(org, id).await? {
            return Ok(false);
        }
        self.end_decided(id).await;
        Ok(true)
    }
}
