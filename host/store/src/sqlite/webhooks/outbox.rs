//! What is to be told: written with the event, taken by who sends it, and settled by what came of it.

use super::super::{cursor, cursor::List, decode, failed};
use crate::{
    api::{Result, StoreError},
    record::{Page, PageRequest},
    webhooks::{Attempt, Delivery, DeliveryState, MOST_DEAD, MOST_PENDING, MOST_REMEMBERED, Told, Which, is_told},
};
use fumehood_core::{
    event::Event,
    id::{DeliveryId, EventId, SessionId, TurnId, WebhookId},
    name::OrgName,
    now,
};
use sqlx::sqlite::{SqliteConnection, SqliteExecutor};

type Row = (
    Vec<u8>,
    Vec<u8>,
    String,
    Vec<u8>,
    i64,
    Vec<u8>,
    String,
    Option<Vec<u8>>,
    String,
    Option<i64>,
    i64,
    Option<i64>,
    Option<String>,
    i64,
    i64,
);

fn delivery(row: Row) -> Result<Delivery> {
    let (
        id,
        webhook,
        org,
        session,
        seq,
        event,
        kind,
        turn,
        state,
        next_at,
        attempts,
        status,
        message,
        created,
        updated,
    ) = row;
    Ok(Delivery {
        id: DeliveryId::from_uuid(decode::uuid(&id, "a delivery's id")?),
        webhook: WebhookId::from_uuid(decode::uuid(&webhook, "a delivery's webhook")?),
        org: decode::name(org, "a delivery's org")?,
        session: SessionId::from_uuid(decode::uuid(&session, "a delivery's session")?),
        seq: decode::seq(seq)?,
        event: EventId::from_uuid(decode::uuid(&event, "a delivery's event")?),
        kind,
        turn: turn
            .map(|turn| decode::uuid(&turn, "a delivery's turn").map(TurnId::from_uuid))
            .transpose()?,
        state: match (state.as_str(), next_at) {
            ("pending", Some(next)) => DeliveryState::Pending(decode::from_nanos(next)),
            ("delivered", None) => DeliveryState::Delivered,
            ("dead", None) => DeliveryState::Dead,
            _ => return Err(decode::corrupt("a delivery's state")),
        },
        attempts: u32::try_from(attempts).map_err(|_| decode::corrupt("a delivery's attempts"))?,
        status: status.and_then(|status| u16::try_from(status).ok()),
        message,
        created: decode::from_nanos(created),
        updated: decode::from_nanos(updated),
    })
}

/// Writes what the org's webhooks are to be told of events that were appended together, in their transaction.
// THREAT[T-webhook-lost]: whoever sees the event in the journal knows that its webhooks are told.
pub(in crate::sqlite) async fn queue(
    connection: &mut SqliteConnection,
    org: &OrgName,
    events: &[Event],
    nanos: i64,
) -> Result<()> {
    let told_of = || events.iter().filter(|event| is_told(event.body.type_name()));
    if told_of().next().is_none() {
        return Ok(());
    }
    let webhooks: Vec<(Vec<u8>, String, i64)> =
        sqlx::query_as("SELECT id, events, pending FROM webhooks WHERE org = ?1 AND state = 'active'")
            .bind(org.as_str())
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
    for (webhook, subscribed, pending) in webhooks {
        let told: Vec<Told> = decode::from_json(&subscribed, "a webhook's events")?;
        let mut pending = decode::count(pending, "waiting deliveries")?;
        for event in told_of().filter(|event| told.iter().any(|told| told.covers(event.body.type_name()))) {
            // THREAT[T-webhook-flood]: an endpoint that takes nothing does not fill the disk.
            if pending >= MOST_PENDING {
                dropped(connection, &webhook).await?;
            } else {
                insert(connection, &webhook, event, nanos).await?;
                pending += 1;
            }
        }
    }
    Ok(())
}

async fn dropped(connection: &mut SqliteConnection, webhook: &[u8]) -> Result<()> {
    sqlx::query("UPDATE webhooks SET dropped = dropped + 1 WHERE id = ?1")
        .bind(webhook)
        .execute(connection)
        .await
        .map_err(failed)?;
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, webhook: &[u8], event: &Event, nanos: i64) -> Result<()> {
    let turn = event.turn.map(TurnId::uuid);
    sqlx::query(
        "INSERT INTO deliveries (id, webhook, org, session, seq, event, type, turn, state, next_at, created, updated) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', ?9, ?9, ?9)",
    )
    .bind(&DeliveryId::new().uuid().as_bytes()[..])
    .bind(webhook)
    .bind(event.org.as_str())
    .bind(&event.session.uuid().as_bytes()[..])
    .bind(decode::from_count(event.seq.unwrap_or_default())?)
    .bind(&event.id.uuid().as_bytes()[..])
    .bind(event.body.type_name())
    .bind(turn.as_ref().map(|turn| &turn.as_bytes()[..]))
    .bind(nanos)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(())
}

/// The delivery of a webhook that is due for longest.
pub(super) async fn next(reader: impl SqliteExecutor<'_>, webhook: WebhookId, until: i64) -> Result<Option<Delivery>> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT id, webhook, org, session, seq, event, type, turn, state, next_at, attempts, status, message, created, updated \
         FROM deliveries WHERE webhook = ?1 AND next_at IS NOT NULL AND next_at <= ?2 \
         AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session) ORDER BY next_at, id LIMIT 1",
    )
    .bind(&webhook.uuid().as_bytes()[..])
    .bind(until)
    .fetch_optional(reader)
    .await
    .map_err(failed)?;
    row.map(delivery).transpose()
}

/// Records what came of an attempt, unless the delivery was replayed or has gone meanwhile.
pub(super) async fn settle(connection: &mut SqliteConnection, attempt: Attempt) -> Result<bool> {
    let Attempt {
        delivery,
        state,
        status,
        message,
        was_sent,
        gone,
    } = attempt;
    let time = decode::to_nanos(now())?;
    let disables = match &gone {
        Some(url) => is_told_at(connection, delivery.webhook, url).await?,
        None => false,
    };
    let (text, next_at) = match state {
        _ if gone.is_some() && !disables => ("pending", Some(time)),
        DeliveryState::Pending(next) => ("pending", Some(decode::to_nanos(next)?)),
        DeliveryState::Delivered => ("delivered", None),
        DeliveryState::Dead => ("dead", None),
    };
    let settled = sqlx::query(
        "UPDATE deliveries SET state = ?3, next_at = ?4, attempts = attempts + ?8, status = ?5, message = ?6, updated = ?7 \
         WHERE id = ?1 AND state = 'pending' AND attempts = ?2 \
         AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session)",
    )
    .bind(&delivery.id.uuid().as_bytes()[..])
    .bind(i64::from(delivery.attempts))
    .bind(text)
    .bind(next_at)
    .bind(status.map(i64::from))
    .bind(message)
    .bind(time)
    .bind(i64::from(was_sent))
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    if disables {
        disable(connection, delivery.webhook, time).await?;
    }
    if disables || state == DeliveryState::Dead {
        forget_dead(connection, delivery.webhook).await?;
    }
    if state == DeliveryState::Delivered {
        forget_but(connection, delivery.webhook, ("delivered", MOST_REMEMBERED)).await?;
    }
    Ok(settled.rows_affected() > 0)
}

/// Whether that is still its address.
async fn is_told_at(connection: &mut SqliteConnection, webhook: WebhookId, url: &str) -> Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM webhooks WHERE id = ?1 AND settings ->> '$.url' = ?2)")
        .bind(&webhook.uuid().as_bytes()[..])
        .bind(url)
        .fetch_one(connection)
        .await
        .map_err(failed)
}

/// Nobody is there any more: what waits is not sent.
async fn disable(connection: &mut SqliteConnection, webhook: WebhookId, time: i64) -> Result<()> {
    let disabled = "UPDATE webhooks SET state = 'disabled', revision = revision + 1, updated = ?2 WHERE id = ?1";
    let dead = "UPDATE deliveries SET state = 'dead', next_at = NULL, updated = ?2, message = 'the server of the webhook is gone' \
                WHERE webhook = ?1 AND next_at IS NOT NULL";
    for query in [disabled, dead] {
        sqlx::query(query)
            .bind(&webhook.uuid().as_bytes()[..])
            .bind(time)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Forgets those that were given up, but for the last ones, and counts them.
async fn forget_dead(connection: &mut SqliteConnection, webhook: WebhookId) -> Result<()> {
    let dead = forget_but(connection, webhook, ("dead", MOST_DEAD)).await?;
    if dead > 0 {
        sqlx::query("UPDATE webhooks SET forgotten = forgotten + ?2 WHERE id = ?1")
            .bind(&webhook.uuid().as_bytes()[..])
            .bind(decode::from_count(dead)?)
            .execute(connection)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// Forgets those in a state but for the last so many, and says how many those were.
async fn forget_but(
    connection: &mut SqliteConnection,
    webhook: WebhookId,
    (state, most): (&'static str, u64),
) -> Result<u64> {
    let forgotten = sqlx::query(
        "DELETE FROM deliveries WHERE webhook = ?1 AND state = ?3 AND next_at IS NULL AND id < (SELECT id FROM deliveries \
         WHERE webhook = ?1 AND state = ?3 AND next_at IS NULL ORDER BY id DESC LIMIT 1 OFFSET ?2)",
    )
    .bind(&webhook.uuid().as_bytes()[..])
    .bind(decode::from_count(most - 1)?)
    .bind(state)
    .execute(connection)
    .await
    .map_err(failed)?;
    Ok(forgotten.rows_affected())
}

pub(super) async fn list(
    connection: &mut SqliteConnection,
    webhook: WebhookId,
    which: Which,
    page: &PageRequest,
) -> Result<Page<Delivery>> {
    let limit = cursor::limit(page);
    let before: DeliveryId =
        cursor::place(page, List::Deliveries)?.unwrap_or_else(|| DeliveryId::from_uuid(uuid::Uuid::max()));
    let state = match which {
        Which::All => None,
        Which::Pending => Some("pending"),
        Which::Delivered => Some("delivered"),
        Which::Dead => Some("dead"),
    };
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT id, webhook, org, session, seq, event, type, turn, state, next_at, attempts, status, message, created, updated \
         FROM deliveries WHERE webhook = ?1 AND id < ?2 AND (?3 IS NULL OR state = ?3) \
         AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session) ORDER BY id DESC LIMIT ?4",
    )
    .bind(&webhook.uuid().as_bytes()[..])
    .bind(&before.uuid().as_bytes()[..])
    .bind(state)
    .bind(i64::from(limit) + 1)
    .fetch_all(connection)
    .await
    .map_err(failed)?;
    let items = rows.into_iter().map(delivery).collect::<Result<_>>()?;
    cursor::page(items, limit, List::Deliveries, |last: &Delivery| last.id)
}

/// Sends one again, or all that did not arrive.
pub(super) async fn replay(
    connection: &mut SqliteConnection,
    webhook: WebhookId,
    only: Option<DeliveryId>,
) -> Result<u64> {
    let time = decode::to_nanos(now())?;
    let only = only.map(DeliveryId::uuid);
    let done = sqlx::query(
        "UPDATE deliveries SET state = 'pending', next_at = ?2, attempts = 0, updated = ?2 \
         WHERE webhook = ?1 AND ((?3 IS NULL AND state = 'dead') OR id = ?3) \
         AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = session)",
    )
    .bind(&webhook.uuid().as_bytes()[..])
    .bind(time)
    .bind(only.as_ref().map(|id| &id.as_bytes()[..]))
    .execute(connection)
    .await
    .map_err(failed)?;
    if only.is_some() && done.rows_affected() == 0 {
        return Err(StoreError::Gone { what: "delivery" });
    }
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DataDir, Journal as _, MasterKey, Orgs as _, Sessions as _, SqliteStore, StoreUrl, Webhooks as _,
        record::Session,
        webhooks::{NewWebhook, Settings},
    };
    use fumehood_core::{
        event::{EventBody, NewEvent, Source},
        name::{AgentName, OrgName, SecretName},
    };
    use fumehood_policy::authority::SessionNarrowing;

    #[tokio::test]
    async fn a_webhook_whose_server_takes_nothing_has_only_so_much_that_waits() {
        let place = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(place.path()).await.unwrap();
        let master = MasterKey::random().unwrap();
        let store = SqliteStore::open(&data_dir, &StoreUrl::InDataDir, &master)
            .await
            .unwrap();
        let org = OrgName::default_org();
        store.create_org(&org).await.unwrap();
        let new = NewWebhook {
            id: WebhookId::new(),
            org: org.clone(),
            settings: Settings {
                title: None,
                url: "https://example.com/".into(),
                key: SecretName::new("KEY").unwrap(),
                key_before: None,
                older_keys: Vec::new(),
            },
            events: vec![Told::try_from("*".to_owned()).unwrap()],
            idempotency: None,
        };
        let webhook = store.create_webhook(&new, 1).await.unwrap();
        let time = now();
        let session = Session {
            id: SessionId::new(),
            org: org.clone(),
            agent: AgentName::new("assistant").unwrap(),
            title: None,
            metadata: serde_json::json!({}),
            narrowing: SessionNarrowing::default(),
            created: time,
            updated: time,
            archived: None,
        };
        store.create_session(&session, &[]).await.unwrap();
        let updated = NewEvent {
            turn: None,
            source: Source::Client,
            body: EventBody::SessionUpdated { changed: Vec::new() },
        };
        let most = usize::try_from(MOST_PENDING).unwrap();
        store.append(&org, session.id, &vec![updated; most + 3]).await.unwrap();
        let kept = store.webhook(&org, webhook.id).await.unwrap().unwrap();
        assert_eq!((kept.pending, kept.dropped), (MOST_PENDING, 3));
    }
}
