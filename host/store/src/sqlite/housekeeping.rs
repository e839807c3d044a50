//! Finding and deleting what is too old.

use super::{BoxFuture, SqliteStore, decode, failed};
use crate::{
    api::{Result, StoreError},
    faults::Point,
    housekeeping::{Forgettable, Housekeeping, Idle},
};
use async_trait::async_trait;
use fumehood_core::{Time, digest::Digest, id::SessionId, name::OrgName, now, spending::Day};
use std::collections::BTreeSet;

/// In `meta`: the time by which things were too old in the last round, as nanoseconds.
const CLOCK: &str = "housekeeping_clock";

/// What keeps a session, however old it is.
macro_rules! held {
    () => {
        "deleting IS NULL \
         AND NOT EXISTS (SELECT 1 FROM turns WHERE turns.session = sessions.id AND turns.ended IS NULL) \
         AND NOT EXISTS (SELECT 1 FROM jobs WHERE jobs.session = sessions.id AND jobs.state <> 'ended') \
         AND NOT EXISTS (SELECT 1 FROM deliveries JOIN webhooks ON webhooks.id = deliveries.webhook \
             WHERE deliveries.session = sessions.id AND deliveries.state = 'pending' AND webhooks.state = 'active')"
    };
}

macro_rules! unused {
    () => {
        concat!(
            "archived IS NULL AND updated < ?2 AND created < ?2 AND NOT EXISTS \
             (SELECT 1 FROM schedules WHERE schedules.session = sessions.id AND schedules.state <> 'ended') AND ",
            held!()
        )
    };
}

macro_rules! archived {
    () => {
        concat!("archived < ?2 AND ", held!())
    };
}

const FIND_UNUSED: &str = concat!(
    "SELECT id FROM sessions WHERE org = ?1 AND id > ?3 AND ",
    unused!(),
    " ORDER BY id LIMIT ?4"
);
const FIND_ARCHIVED: &str = concat!(
    "SELECT id FROM sessions WHERE org = ?1 AND id > ?3 AND ",
    archived!(),
    " ORDER BY id LIMIT ?4"
);
const TAKE_UNUSED: &str = concat!(
    "UPDATE sessions SET deleting = ?4 WHERE org = ?1 AND id = ?3 AND ",
    unused!()
);
const TAKE_ARCHIVED: &str = concat!(
    "UPDATE sessions SET deleting = ?4 WHERE org = ?1 AND id = ?3 AND ",
    archived!()
);

impl Idle {
    const fn since(self) -> Time {
        match self {
            Self::Unused { since } | Self::Archived { since } => since,
        }
    }
}

impl Forgettable {
    /// Deletes at most `?3` rows of an org that are older.
    const fn statement(self) -> &'static str {
        match self {
            Self::Ledger => {
                "DELETE FROM ledger WHERE rowid IN (SELECT rowid FROM ledger WHERE org = ?1 AND time < ?2 ORDER BY time LIMIT ?3)"
            }
            Self::Deliveries => {
                "DELETE FROM deliveries WHERE rowid IN (SELECT d.rowid FROM webhooks w JOIN deliveries d ON d.webhook = w.id \
                 WHERE w.org = ?1 AND d.state = 'delivered' AND d.updated < ?2 LIMIT ?3)"
            }
            Self::DeadDeliveries => {
                "DELETE FROM deliveries WHERE rowid IN (SELECT d.rowid FROM webhooks w JOIN deliveries d ON d.webhook = w.id \
                 WHERE w.org = ?1 AND d.state = 'dead' AND d.updated < ?2 LIMIT ?3)"
            }
            // What is remembered of a time keeps it from being fired for again: the latest stays.
            Self::ScheduleRuns => {
                "DELETE FROM schedule_runs WHERE (schedule, fire_at) IN (SELECT r.schedule, r.fire_at \
                 FROM schedules s JOIN schedule_runs r ON r.schedule = s.id WHERE s.org = ?1 AND r.recorded < ?2 \
                 AND r.fire_at < (SELECT max(fire_at) FROM schedule_runs WHERE schedule = s.id) LIMIT ?3)"
            }
            Self::Usage => {
                "DELETE FROM usage_days WHERE (org, day, agent, model) IN \
                 (SELECT org, day, agent, model FROM usage_days WHERE org = ?1 AND day < ?2 LIMIT ?3)"
            }
            Self::Recordings => {
                "DELETE FROM recordings WHERE rowid IN (SELECT rowid FROM recordings WHERE org = ?1 AND recorded < ?2 LIMIT ?3)"
            }
        }
    }

    /// As the table has it.
    fn limit(self, before: Time) -> Result<i64> {
        match self {
            Self::Usage => Ok(Day::of(before).number()),
            _ => decode::to_nanos(before),
        }
    }
}

#[async_trait]
impl Housekeeping for SqliteStore {
    async fn housekeeping_clock(&self) -> Result<Option<Time>> {
        let nanos: Option<i64> = sqlx::query_scalar("SELECT CAST(value AS INTEGER) FROM meta WHERE key = ?1")
            .bind(CLOCK)
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        Ok(nanos.map(decode::from_nanos))
    }

    async fn set_housekeeping_clock(&self, time: Time) -> Result<()> {
        let nanos = decode::to_nanos(time)?.to_string();
        self.write(
            Point::HousekeepingClock,
            move |connection| -> BoxFuture<'_, Result<()>> {
                Box::pin(async move {
                    sqlx::query(
                        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
                    )
                    .bind(CLOCK)
                    .bind(nanos)
                    .execute(connection)
                    .await
                    .map(drop)
                    .map_err(failed)
                })
            },
        )
        .await
    }

    async fn idle_sessions(
        &self,
        org: &OrgName,
        idle: Idle,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>> {
        let query = match idle {
            Idle::Unused { .. } => FIND_UNUSED,
            Idle::Archived { .. } => FIND_ARCHIVED,
        };
        let after = after.map(|after| after.uuid().as_bytes().to_vec()).unwrap_or_default();
        let ids: Vec<Vec<u8>> = sqlx::query_scalar(query)
            .bind(org.as_str())
            .bind(decode::to_nanos(idle.since())?)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        ids.iter()
            .map(|id| decode::uuid(id, "a session's id").map(SessionId::from_uuid))
            .collect()
    }

    async fn delete_idle_session(&self, org: &OrgName, id: SessionId, idle: Idle) -> Result<bool> {
        let statement = match idle {
            Idle::Unused { .. } => TAKE_UNUSED,
            Idle::Archived { .. } => TAKE_ARCHIVED,
        };
        let (org, since, time) = (org.clone(), decode::to_nanos(idle.since())?, decode::to_nanos(now())?);
        let taken = self
            .write(Point::SessionExpire, move |connection| -> BoxFuture<'_, Result<bool>> {
                Box::pin(async move {
                    let taken = sqlx::query(statement)
                        .bind(org.as_str())
                        .bind(since)
                        .bind(&id.uuid().as_bytes()[..])
                        .bind(time)
                        .execute(connection)
                        .await
                        .map_err(failed)?;
                    Ok(taken.rows_affected() > 0)
                })
            })
            .await?;
        if taken {
            self.end_decided(id).await;
        }
        Ok(taken)
    }

    async fn forget(&self, org: &OrgName, what: Forgettable, before: Time, limit: u32) -> Result<u64> {
        let (org, before) = (org.clone(), what.limit(before)?);
        self.write(Point::Forget, move |connection| -> BoxFuture<'_, Result<u64>> {
            Box::pin(async move {
                let forgotten = sqlx::query(what.statement())
                    .bind(org.as_str())
                    .bind(before)
                    .bind(i64::from(limit))
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(forgotten.rows_affected())
            })
        })
        .await
    }

    async fn end_deletions(&self) -> Result<u64> {
        let mut ended = 0;
        for session in self.sessions_to_delete().await? {
            match self.end_session(session).await {
                Ok(()) => ended += 1,
                // One that can't be deleted keeps none of the others.
                Err(error) => tracing::warn!(%session, %error, "what is left of a deleted session can't be deleted"),
            }
        }
        Ok(ended)
    }

    async fn code_in_use(&self) -> Result<BTreeSet<Digest>> {
        let digests: std::result::Result<Vec<Vec<u8>>, _> =
            sqlx::query_scalar("SELECT DISTINCT digest FROM components")
                .fetch_all(self.readers())
                .await;
        let digests = digests.map_err(failed)?;
        let digests = digests
            .iter()
            .map(|digest| decode::digest(digest, "a component's digest"));
        digests.collect::<std::result::Result<_, StoreError>>()
    }
}
