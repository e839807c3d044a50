//! Which host works which turn. One process at a time has the database, so a lease of an earlier one counts for nothing.

use super::{
    BoxFuture, SqliteStore,
    batch::{Batch, Statement},
    decode, failed, turns,
};
use crate::{
    api::{Leases, Result, StoreError},
    faults::Point,
    lease::{Fence, HostId, Lease, Taken},
    record::Turn,
};
use async_trait::async_trait;
use fumehood_core::{
    Time,
    id::{SessionId, TurnId},
    name::OrgName,
};
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

/// Those whose turn it is, and that nobody works; in the order in which they came.
const TO_TAKE: &str = "SELECT id, org, session, status, first_seq, created, ended FROM turns t INDEXED BY turns_to_work \
     WHERE t.status IN ('queued', 'running') AND t.id > ?2 \
       AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = t.session) \
       AND (t.owner IS NULL OR t.opening IS NOT ?3 OR t.leased_until <= ?1) \
       AND NOT EXISTS (SELECT 1 FROM turns o WHERE o.session = t.session AND o.ended IS NULL AND o.id <> t.id \
           AND (o.status <> 'queued' OR (t.status = 'queued' AND o.first_seq < t.first_seq))) \
     ORDER BY t.id LIMIT ?4";

/// What shows that a turn came further since a place in the journal: not what a recovery itself writes.
const CAME_FURTHER: &str = "SELECT EXISTS (SELECT 1 FROM events WHERE session = ?1 AND turn = ?2 AND seq > ?3 AND ( \
         json_extract(body, '$.type') IN ('turn.started', 'turn.resumed', 'turn.steered', 'step.completed', \
             'compaction.completed') \
         OR (json_extract(body, '$.type') = 'tool.completed' AND json_extract(body, '$.data.status') <> 'interrupted')))";

const HELD: Statement = Statement::new("SELECT epoch = ? FROM turns WHERE session = ? AND id = ?").checked(|answer| {
    match answer.value()? {
        Some(true) => Ok(()),
        Some(false) => Err(StoreError::Lost),
        None => Err(StoreError::Gone { what: "turn" }),
    }
});

/// Refuses what is written under an earlier taking than the last, in the transaction of what follows in the batch.
// THREAT[T-turn-two-owners]: looked at by the one writer, in the transaction of what is written.
pub(super) fn hold(batch: &mut Batch, session: SessionId, fence: Fence) {
    batch.add(HELD);
    batch
        .bind(fence.epoch().cast_signed())
        .bind(&session.uuid().as_bytes()[..])
        .bind(&fence.turn().uuid().as_bytes()[..]);
}

/// A turn as far as taking it goes.
#[derive(sqlx::FromRow)]
struct Row {
    session: Vec<u8>,
    has_ended: bool,
    owner: Option<Vec<u8>>,
    opening: Option<Vec<u8>>,
    leased_until: Option<i64>,
    epoch: i64,
    recoveries: u32,
    recovered_after: i64,
    cancel: Option<String>,
}

/// A wish to work a turn.
struct Taking {
    org: OrgName,
    turn: TurnId,
    lease: Lease,
    opening: Uuid,
}

impl Taking {
    /// Decides and, if the turn is to be had, writes who has it now, inside a transaction.
    async fn take(self, connection: &mut SqliteConnection) -> Result<Option<Taken>> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT session, ended IS NOT NULL AS has_ended, owner, opening, leased_until, epoch, recoveries, recovered_after, \
                 cancel FROM turns WHERE org = ?1 AND id = ?2 \
                 AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session)",
        )
        .bind(self.org.as_str())
        .bind(&self.turn.uuid().as_bytes()[..])
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        if row.has_ended {
            return Ok(Some(Taken::Ended));
        }
        if self.is_held(&row)? {
            return Ok(Some(Taken::Held));
        }
        let (recoveries, after) = self.recoveries(connection, &row).await?;
        let epoch = row.epoch + 1;
        sqlx::query(
            "UPDATE turns SET owner = ?2, opening = ?3, leased_until = ?4, epoch = ?5, recoveries = ?6, recovered_after = ?7 \
             WHERE id = ?1",
        )
        .bind(&self.turn.uuid().as_bytes()[..])
        .bind(&self.lease.host.uuid().as_bytes()[..])
        .bind(&self.opening.as_bytes()[..])
        .bind(decode::to_nanos(self.lease.until)?)
        .bind(epoch)
        .bind(recoveries)
        .bind(after)
        .execute(connection)
        .await
        .map_err(failed)?;
        let fence = Fence::new(self.turn, epoch.cast_unsigned());
        Ok(Some(Taken::Mine {
            fence,
            recoveries,
            cancel: row.cancel.as_deref().map(turns::cancel_at).transpose()?,
        }))
    }

    /// Whether another host that may still be there works it.
    fn is_held(&self, row: &Row) -> Result<bool> {
        let own = row.owner.as_deref() == Some(&self.lease.host.uuid().as_bytes()[..]);
        let counts = row.opening.as_deref() == Some(&self.opening.as_bytes()[..]);
        let at = decode::to_nanos(self.lease.at)?;
        Ok(row.owner.is_some() && !own && counts && row.leased_until.is_some_and(|until| until > at))
    }

    /// How often in a row it was recovered by now, and where the journal was the last time.
    async fn recoveries(&self, connection: &mut SqliteConnection, row: &Row) -> Result<(u32, i64)> {
        let was_let_go = row.owner.is_none();
        if was_let_go && row.recoveries == 0 {
            return Ok((0, row.recovered_after));
        }
        let came_further: bool = sqlx::query_scalar(CAME_FURTHER)
            .bind(&row.session)
            .bind(&self.turn.uuid().as_bytes()[..])
            .bind(row.recovered_after)
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        let before = if came_further { 0 } else { row.recoveries };
        if was_let_go {
            return Ok((before, row.recovered_after));
        }
        let last: i64 = sqlx::query_scalar("SELECT last_seq FROM sessions WHERE id = ?1")
            .bind(&row.session)
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        Ok((before.saturating_add(1), last))
    }
}

#[async_trait]
impl Leases for SqliteStore {
    async fn take_turn(&self, org: &OrgName, turn: TurnId, lease: Lease) -> Result<Option<Taken>> {
        let taking = Taking {
            org: org.clone(),
            turn,
            lease,
            opening: self.inner.opening,
        };
        self.write(
            Point::TurnLease,
            move |connection| -> BoxFuture<'_, Result<Option<Taken>>> { Box::pin(taking.take(connection)) },
        )
        .await
    }

    async fn renew(&self, turns: &[TurnId], lease: Lease) -> Result<()> {
        let ids: Vec<_> = turns.iter().map(|turn| hex::encode_upper(turn.uuid())).collect();
        let (ids, until) = (decode::to_json(&ids, "turns")?, decode::to_nanos(lease.until)?);
        let opening = self.inner.opening;
        self.write(Point::TurnLease, move |connection| -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE turns INDEXED BY turns_to_work SET leased_until = ?3, opening = ?4 \
                     WHERE status IN ('queued', 'running') AND owner = ?1 AND hex(id) IN (SELECT value FROM json_each(?2))",
                )
                .bind(&lease.host.uuid().as_bytes()[..])
                .bind(ids)
                .bind(until)
                .bind(&opening.as_bytes()[..])
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }

    async fn let_go(&self, fence: Fence) -> Result<()> {
        self.write(Point::TurnLease, move |connection| -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE turns SET owner = NULL, opening = NULL, leased_until = NULL WHERE id = ?1 AND epoch = ?2",
                )
                .bind(&fence.turn().uuid().as_bytes()[..])
                .bind(fence.epoch().cast_signed())
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }

    async fn let_go_of_all(&self, host: HostId) -> Result<()> {
        self.write(Point::TurnLease, move |connection| -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE turns INDEXED BY turns_to_work SET owner = NULL, opening = NULL, leased_until = NULL \
                     WHERE status IN ('queued', 'running') AND owner = ?1",
                )
                .bind(&host.uuid().as_bytes()[..])
                .execute(connection)
                .await
                .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }

    async fn turns_to_take(&self, at: Time, after: Option<TurnId>, limit: u32) -> Result<Vec<Turn>> {
        let after = after.map_or_else(Vec::new, |turn| turn.uuid().as_bytes().to_vec());
        let rows: Vec<turns::Row> = sqlx::query_as(TO_TAKE)
            .bind(decode::to_nanos(at)?)
            .bind(after)
            .bind(&self.inner.opening.as_bytes()[..])
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        rows.into_iter().map(turns::turn).collect()
    }
}
