//! Deleting an org, row by row: in small transactions, begun once and ended by whoever opens the database next.

use super::{BoxFuture, SqliteStore, decode, failed};
use crate::{api::Result, faults::Point};
use fumehood_core::{id::SessionId, name::OrgName, now};
use sqlx::{AssertSqlSafe, sqlite::SqliteConnection};
use std::collections::BTreeSet;

/// Rows of one transaction.
const BATCH: i64 = 500;
/// In `meta`: what was deleted is still to be overwritten in the file.
pub(super) const ERASE: &str = "erase";

impl SqliteStore {
    /// Begins: from here on nobody is let in for the org, and the deletion is ended whatever happens. False if there is no such org.
    pub(crate) async fn begin_to_delete_org(&self, org: &OrgName) -> Result<bool> {
        let org = org.clone();
        let nanos = decode::to_nanos(now())?;
        self.write(Point::OrgDelete, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move {
                let marked = sqlx::query("UPDATE orgs SET deleting = ifnull(deleting, ?2) WHERE name = ?1")
                    .bind(org.as_str())
                    .bind(nanos)
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                sqlx::query("DELETE FROM keys WHERE org = ?1")
                    .bind(org.as_str())
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(marked.rows_affected() > 0)
            })
        })
        .await
    }

    /// Orgs whose deletion was begun.
    pub(crate) async fn orgs_to_delete(&self) -> Result<Vec<OrgName>> {
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM orgs WHERE deleting IS NOT NULL ORDER BY name")
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        names
            .into_iter()
            .map(|name| decode::name(name, "an org's name"))
            .collect()
    }

    /// Some sessions of the org.
    pub(crate) async fn some_sessions(&self, org: &OrgName) -> Result<Vec<SessionId>> {
        let ids: Vec<Vec<u8>> = sqlx::query_scalar("SELECT id FROM sessions WHERE org = ?1 LIMIT ?2")
            .bind(org.as_str())
            .bind(BATCH)
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        ids.iter()
            .map(|id| decode::uuid(id, "a session's id").map(SessionId::from_uuid))
            .collect()
    }

    /// Deletes a batch of whatever else names the org. True if there may be more.
    pub(crate) async fn shrink_org(&self, org: &OrgName) -> Result<bool> {
        let org = org.clone();
        self.write(Point::OrgShrink, move |connection| -> BoxFuture<'_, Result<bool>> {
            Box::pin(async move {
                for table in tables_of_orgs(connection).await? {
                    if delete_some(connection, &table, &org).await? {
                        return Ok(true);
                    }
                }
                Ok(false)
            })
        })
        .await
    }

    /// Deletes the org itself, of which nothing else is left, and notes that the file is to be cleared of it.
    pub(crate) async fn end_org(&self, org: &OrgName) -> Result<()> {
        let org = org.clone();
        self.write(Point::OrgEnd, move |connection| -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                sqlx::query("DELETE FROM orgs WHERE name = ?1")
                    .bind(org.as_str())
                    .execute(&mut *connection)
                    .await
                    .map_err(failed)?;
                sqlx::query("INSERT INTO meta (key, value) VALUES (?1, '') ON CONFLICT (key) DO NOTHING")
                    .bind(ERASE)
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(())
            })
        })
        .await
    }
}

/// A table that names the org of its rows.
struct Table {
    name: String,
    has_rowid: bool,
}

/// Every table that names the org of its rows, those that others refer to after those.
async fn tables_of_orgs(connection: &mut SqliteConnection) -> Result<Vec<Table>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT t.name, t.wr FROM pragma_table_list AS t JOIN pragma_table_info(t.name) AS c ON c.name = 'org' \
         WHERE t.schema = 'main' AND t.type = 'table' ORDER BY t.name",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let references: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.name, f.\"table\" FROM pragma_table_list AS t JOIN pragma_foreign_key_list(t.name) AS f \
         WHERE t.schema = 'main' AND t.type = 'table'",
    )
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let mut left: Vec<Table> = rows
        .into_iter()
        .map(|(name, without_rowid)| Table {
            name,
            has_rowid: without_rowid == 0,
        })
        .collect();
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let names: BTreeSet<&str> = left.iter().map(|table| table.name.as_str()).collect();
        let is_referred_to = |table: &Table| {
            let to_it =
                |(from, to): &&(String, String)| *to == table.name && from != to && names.contains(from.as_str());
            references.iter().any(|reference| to_it(&reference))
        };
        // Where all refer to one another, the order is what it is.
        let next = left.iter().position(|table| !is_referred_to(table)).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    Ok(ordered)
}

async fn delete_some(connection: &mut SqliteConnection, table: &Table, org: &OrgName) -> Result<bool> {
    let name = table.name.replace('"', "\"\"");
    let statement = if table.has_rowid {
        format!("DELETE FROM \"{name}\" WHERE rowid IN (SELECT rowid FROM \"{name}\" WHERE org = ?1 LIMIT {BATCH})")
    } else {
        format!("DELETE FROM \"{name}\" WHERE org = ?1")
    };
    // The name is that of a table of ours.
    let deleted = sqlx::query(AssertSqlSafe(statement))
        .bind(org.as_str())
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(deleted.rows_affected() > 0)
}
