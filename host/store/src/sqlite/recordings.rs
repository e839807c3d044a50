//! What calls were answered from outside.

use super::{SqliteStore, decode, failed, insert_failed};
use crate::{
    api::{Recordings, Result, StoreError},
    faults::Point,
};
use async_trait::async_trait;
use fumehood_core::{
    digest::Digest,
    id::{CallId, SessionId, TurnId},
    name::OrgName,
    now,
};

#[async_trait]
impl Recordings for SqliteStore {
    async fn keep_recording(
        &self,
        org: &OrgName,
        of: (SessionId, TurnId),
        call: CallId,
        content: Vec<u8>,
    ) -> Result<Digest> {
        let (session, turn) = of;
        let org = org.clone();
        let digest = Digest::of(&content);
        let time = decode::to_nanos(now())?;
        self.write(Point::RecordingKeep, move |connection| {
            Box::pin(async move {
                let kept = sqlx::query(
                    "INSERT INTO recordings (org, session, turn, call, digest, content, recorded) \
                     SELECT ?1, ?2, id, ?4, ?5, ?6, ?7 FROM turns WHERE org = ?1 AND session = ?2 AND id = ?3 \
                         AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?2) \
                     ON CONFLICT (session, turn, call) DO UPDATE \
                         SET digest = excluded.digest, content = excluded.content, recorded = excluded.recorded",
                )
                .bind(org.as_str())
                .bind(&session.uuid().as_bytes()[..])
                .bind(&turn.uuid().as_bytes()[..])
                .bind(&call.uuid().as_bytes()[..])
                .bind(&digest.as_bytes()[..])
                .bind(content)
                .bind(time)
                .execute(connection)
                .await
                .map_err(|error| insert_failed(error, "turn", || format!("the recording of {call}")))?;
                if kept.rows_affected() == 0 {
                    return Err(StoreError::Gone { what: "turn" });
                }
                Ok(digest)
            })
        })
        .await
    }

    async fn recording(&self, org: &OrgName, turn: TurnId, call: CallId) -> Result<Option<Vec<u8>>> {
        sqlx::query_scalar(
            "SELECT content FROM recordings WHERE turn = ?2 AND call = ?3 AND org = ?1 \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session)",
        )
        .bind(org.as_str())
        .bind(&turn.uuid().as_bytes()[..])
        .bind(&call.uuid().as_bytes()[..])
        .fetch_optional(self.readers())
        .await
        .map_err(failed)
    }
}
