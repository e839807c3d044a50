//! The ledger of the door.

use super::{SqliteStore, cursor, cursor::List, decode, failed, insert_failed};
use crate::{
    api::{Ledger, Result, Settlement, StoreError},
    faults::Point,
    record::{Page, PageRequest},
};
use async_trait::async_trait;
use fumehood_core::{
    id::{LedgerId, SessionId},
    ledger::{EgressOutcome, LedgerEntry},
    name::OrgName,
};
use sqlx::sqlite::SqliteConnection;

/// Writes the settlement of an entry that has none yet, inside a transaction.
async fn settle(connection: &mut SqliteConnection, id: LedgerId, settlement: Settlement) -> Result<()> {
    let row: Option<String> = sqlx::query_scalar("SELECT entry FROM ledger WHERE id = ?1 AND settled = 0")
        .bind(&id.uuid().as_bytes()[..])
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed)?;
    let Some(text) = row else {
        return Ok(());
    };
    let mut entry: LedgerEntry = decode::from_json(&text, "a ledger entry")?;
    entry.outcome = settlement.outcome;
    entry.address = settlement.address.or(entry.address);
    entry.bytes_sent = settlement.bytes_sent;
    entry.bytes_received = settlement.bytes_received;
    entry.duration_ms = settlement.duration_ms;
    entry.shapes = settlement.shapes;
    sqlx::query("UPDATE ledger SET entry = ?2, settled = ?3 WHERE id = ?1")
        .bind(&id.uuid().as_bytes()[..])
        .bind(decode::to_json(&entry, "a ledger entry")?)
        .bind(entry.outcome != EgressOutcome::Started)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

#[async_trait]
impl Ledger for SqliteStore {
    async fn ledger_open(&self, entry: &LedgerEntry) -> Result<()> {
        let text = decode::to_json(entry, "a ledger entry")?;
        let time = decode::to_nanos(entry.time)?;
        let settled = entry.outcome != EgressOutcome::Started;
        let (id, org, session) = (entry.id, entry.scope.org.clone(), entry.scope.session);
        self.write(Point::LedgerOpen, move |connection| {
            Box::pin(async move {
                let session = session.map(SessionId::uuid);
                let opened = sqlx::query(
                    "INSERT INTO ledger (id, org, session, time, settled, entry) SELECT ?1, ?2, ?3, ?4, ?5, ?6 \
                     WHERE ?3 IS NULL OR (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?3)",
                )
                .bind(&id.uuid().as_bytes()[..])
                .bind(org.as_str())
                .bind(session.as_ref().map(|id| &id.as_bytes()[..]))
                .bind(time)
                .bind(settled)
                .bind(text)
                .execute(connection)
                .await
                .map_err(|error| insert_failed(error, "session", || format!("the ledger entry {id}")))?;
                match opened.rows_affected() {
                    0 => Err(StoreError::Gone { what: "session" }),
                    _ => Ok(()),
                }
            })
        })
        .await
    }

    async fn ledger_settle(&self, id: LedgerId, settlement: &Settlement) -> Result<()> {
        let settlement = settlement.clone();
        self.write(Point::LedgerSettle, move |connection| {
            Box::pin(settle(connection, id, settlement))
        })
        .await
    }

    async fn ledger(&self, org: &OrgName, session: SessionId, page: &PageRequest) -> Result<Page<LedgerEntry>> {
        let limit = cursor::limit(page);
        let (after, id): (i64, Option<LedgerId>) = match cursor::place(page, List::Ledger)? {
            Some((after, id)) => (after, Some(id)),
            None => (i64::MIN, None),
        };
        let rows: Vec<String> = sqlx::query_scalar(
            "SELECT entry FROM ledger WHERE org = ?1 AND session = ?2 AND (time, id) > (?3, ?4) \
             AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = ?2) ORDER BY time, id LIMIT ?5",
        )
        .bind(org.as_str())
        .bind(&session.uuid().as_bytes()[..])
        .bind(after)
        .bind(id.map(|id| id.uuid().as_bytes().to_vec()).unwrap_or_default())
        .bind(i64::from(limit) + 1)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        let items = rows
            .iter()
            .map(|text| decode::from_json(text, "a ledger entry"))
            .collect::<Result<_>>()?;
        cursor::page(items, limit, List::Ledger, |last: &LedgerEntry| {
            // What was written to the column fits it.
            (last.time.timestamp_nanos_opt().unwrap_or(i64::MAX), last.id)
        })
    }
}
