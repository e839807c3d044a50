//! What tells a database from every other, also after it was restored from a backup.

use super::{SqliteStore, decode, failed};
use crate::{api::Result, faults::Point};
use uuid::Uuid;

const KEY: &str = "database";

impl SqliteStore {
    /// The database's id, which it has from its first use on and keeps.
    pub(crate) async fn id(&self) -> Result<Uuid> {
        let found: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = ?1")
            .bind(KEY)
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        if let Some(id) = found {
            return Uuid::parse_str(&id).map_err(|_| decode::corrupt("the database's id"));
        }
        let id = Uuid::now_v7();
        self.write(Point::DatabaseId, move |connection| {
            Box::pin(async move {
                let kept = "INSERT INTO meta (key, value) VALUES (?1, ?2)";
                sqlx::query(kept)
                    .bind(KEY)
                    .bind(id.to_string())
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(id)
            })
        })
        .await
    }
}
