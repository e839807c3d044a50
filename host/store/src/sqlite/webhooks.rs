//! Webhooks: keeping them, what each is to be told, and what came of it.

mod outbox;

pub(super) use outbox::queue;

use super::{
    BoxFuture, SqliteStore, cursor,
    cursor::List,
    decode, failed,
    idempotency::{Made, earlier, remember},
    insert_failed,
};
use crate::{
    api::{Result, StoreError, Webhooks},
    faults::Point,
    record::{Page, PageRequest},
    webhooks::{Attempt, Delivery, NewWebhook, ToTell, Webhook, WebhookState, Which},
};
use async_trait::async_trait;
use fumehood_core::{
    Time,
    digest::Digest,
    id::{DeliveryId, WebhookId},
    name::OrgName,
    now,
};
use sqlx::sqlite::SqliteConnection;

type Row = (Vec<u8>, String, String, String, String, i64, i64, i64, i64, i64, i64);

const ONE: &str = "SELECT id, org, settings, events, state, pending, dropped, forgotten, revision, created, updated FROM webhooks \
                   WHERE org = ?1 AND id = ?2";

fn webhook(
    (id, org, settings, events, state, pending, dropped, forgotten, revision, created, updated): Row,
) -> Result<Webhook> {
    Ok(Webhook {
        id: WebhookId::from_uuid(decode::uuid(&id, "a webhook's id")?),
        org: decode::name(org, "a webhook's org")?,
        settings: decode::from_json(&settings, "a webhook's settings")?,
        events: decode::from_json(&events, "a webhook's events")?,
        state: match state.as_str() {
            "active" => WebhookState::Active,
            "paused" => WebhookState::Paused,
            "disabled" => WebhookState::Disabled,
            _ => return Err(decode::corrupt("a webhook's state")),
        },
        pending: decode::count(pending, "waiting deliveries")?,
        dropped: decode::count(dropped, "dropped deliveries")?,
        forgotten: decode::count(forgotten, "forgotten deliveries")?,
        revision: decode::count(revision, "a webhook's revision")?,
        created: decode::from_nanos(created),
        updated: decode::from_nanos(updated),
    })
}

const fn state_text(state: WebhookState) -> &'static str {
    match state {
        WebhookState::Active => "active",
        WebhookState::Paused => "paused",
        WebhookState::Disabled => "disabled",
    }
}

async fn one(connection: &mut SqliteConnection, org: &OrgName, id: WebhookId) -> Result<Option<Webhook>> {
    let row: Option<Row> = sqlx::query_as(ONE)
        .bind(org.as_str())
        .bind(&id.uuid().as_bytes()[..])
        .fetch_optional(connection)
        .await
        .map_err(failed)?;
    row.map(webhook).transpose()
}

/// The texts of a webhook.
struct Texts {
    settings: String,
    events: String,
}

async fn repeated(
    connection: &mut SqliteConnection,
    org: &OrgName,
    idempotency: (&str, &Digest),
) -> Result<Option<Webhook>> {
    match earlier(connection, Made::Webhook, org, idempotency).await? {
        None => Ok(None),
        Some(id) => {
            let id = WebhookId::from_uuid(decode::uuid(&id, "a webhook's id")?);
            one(connection, org, id).await
        }
    }
}

async fn insert(connection: &mut SqliteConnection, new: NewWebhook, texts: Texts, most: u64) -> Result<Webhook> {
    if let Some((key, request)) = &new.idempotency
        && let Some(earlier) = repeated(connection, &new.org, (key, request)).await?
    {
        return Ok(earlier);
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM webhooks WHERE org = ?1")
        .bind(new.org.as_str())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if decode::count(count, "the number of webhooks")? >= most {
        return Err(StoreError::TooMany {
            what: "webhooks",
            limit: most,
        });
    }
    sqlx::query(
        "INSERT INTO webhooks (id, org, settings, events, state, created, updated) \
         VALUES (?1, ?2, ?3, ?4, 'active', ?5, ?5)",
    )
    .bind(&new.id.uuid().as_bytes()[..])
    .bind(new.org.as_str())
    .bind(texts.settings)
    .bind(texts.events)
    .bind(decode::to_nanos(now())?)
    .execute(&mut *connection)
    .await
    .map_err(|error| insert_failed(error, "org", || format!("the webhook {}", new.id)))?;
    if let Some((key, request)) = &new.idempotency {
        let id = new.id.uuid();
        remember(connection, Made::Webhook, (&new.org, id.as_bytes()), (key, request)).await?;
    }
    let kept = one(connection, &new.org, new.id).await?;
    kept.ok_or(StoreError::Gone { what: "webhook" })
}

async fn replace(connection: &mut SqliteConnection, seen: Webhook, texts: Texts) -> Result<Option<Webhook>> {
    let done = sqlx::query(
        "UPDATE webhooks SET settings = ?4, events = ?5, state = ?6, updated = ?7, revision = revision + 1 \
         WHERE org = ?1 AND id = ?2 AND revision = ?3",
    )
    .bind(seen.org.as_str())
    .bind(&seen.id.uuid().as_bytes()[..])
    .bind(decode::from_count(seen.revision)?)
    .bind(texts.settings)
    .bind(texts.events)
    .bind(state_text(seen.state))
    .bind(decode::to_nanos(now())?)
    .execute(&mut *connection)
    .await
    .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    one(connection, &seen.org, seen.id).await
}

#[async_trait]
impl Webhooks for SqliteStore {
    async fn create_webhook(&self, webhook: &NewWebhook, most: u64) -> Result<Webhook> {
        let texts = Texts {
            settings: decode::to_json(&webhook.settings, "a webhook's settings")?,
            events: decode::to_json(&webhook.events, "a webhook's events")?,
        };
        let new = webhook.clone();
        self.write(
            Point::WebhookCreate,
            move |connection| -> BoxFuture<'_, Result<Webhook>> { Box::pin(insert(connection, new, texts, most)) },
        )
        .await
    }

    async fn repeated_webhook(&self, org: &OrgName, key: &str, request: &Digest) -> Result<Option<Webhook>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        repeated(&mut connection, org, (key, request)).await
    }

    async fn webhook(&self, org: &OrgName, id: WebhookId) -> Result<Option<Webhook>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        one(&mut connection, org, id).await
    }

    async fn webhooks(&self, org: &OrgName, page: &PageRequest) -> Result<Page<Webhook>> {
        let limit = cursor::limit(page);
        let (before, id): (i64, WebhookId) = match cursor::place(page, List::Webhooks)? {
            Some(place) => place,
            None => (i64::MAX, WebhookId::from_uuid(uuid::Uuid::max())),
        };
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, org, settings, events, state, pending, dropped, forgotten, revision, created, updated FROM webhooks \
             WHERE org = ?1 AND (created, id) < (?2, ?3) ORDER BY created DESC, id DESC LIMIT ?4",
        )
        .bind(org.as_str())
        .bind(before)
        .bind(&id.uuid().as_bytes()[..])
        .bind(i64::from(limit) + 1)
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        let items = rows.into_iter().map(webhook).collect::<Result<_>>()?;
        cursor::page(items, limit, List::Webhooks, |last: &Webhook| {
            (last.created.timestamp_nanos_opt().unwrap_or(i64::MAX), last.id)
        })
    }

    async fn change_webhook(&self, webhook: &Webhook) -> Result<Option<Webhook>> {
        let texts = Texts {
            settings: decode::to_json(&webhook.settings, "a webhook's settings")?,
            events: decode::to_json(&webhook.events, "a webhook's events")?,
        };
        let changed = webhook.clone();
        self.write(
            Point::WebhookChange,
            move |connection| -> BoxFuture<'_, Result<Option<Webhook>>> {
                Box::pin(replace(connection, changed, texts))
            },
        )
        .await
    }

    async fn delete_webhook(&self, org: &OrgName, id: WebhookId) -> Result<bool> {
        let org = org.clone();
        self.write(Point::WebhookDelete, move |connection| {
            Box::pin(async move {
                let result = sqlx::query("DELETE FROM webhooks WHERE org = ?1 AND id = ?2")
                    .bind(org.as_str())
                    .bind(&id.uuid().as_bytes()[..])
                    .execute(connection)
                    .await
                    .map_err(failed)?;
                Ok(result.rows_affected() > 0)
            })
        })
        .await
    }

    async fn webhooks_to_tell(&self) -> Result<Vec<ToTell>> {
        let rows: Vec<(Vec<u8>, String, String, Option<i64>)> = sqlx::query_as(
            "SELECT w.id, w.org, w.settings ->> '$.url', (SELECT min(d.next_at) FROM deliveries d \
                 WHERE d.webhook = w.id AND d.next_at IS NOT NULL \
                 AND (SELECT deleting IS NULL FROM sessions WHERE sessions.id = d.session)) AS at \
             FROM webhooks w WHERE w.state = 'active' AND w.pending > 0 ORDER BY at, w.id",
        )
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        rows.into_iter()
            .filter_map(|(id, org, url, at)| Some((id, org, url, at?)))
            .map(|(id, org, url, at)| {
                Ok(ToTell {
                    id: WebhookId::from_uuid(decode::uuid(&id, "a webhook's id")?),
                    org: decode::name(org, "a webhook's org")?,
                    url,
                    at: decode::from_nanos(at),
                })
            })
            .collect()
    }

    async fn next_delivery(&self, id: WebhookId, until: Time) -> Result<Option<Delivery>> {
        outbox::next(self.readers(), id, decode::to_nanos(until)?).await
    }

    async fn settle_delivery(&self, attempt: &Attempt) -> Result<bool> {
        let attempt = attempt.clone();
        self.write(
            Point::DeliverySettle,
            move |connection| -> BoxFuture<'_, Result<bool>> { Box::pin(outbox::settle(connection, attempt)) },
        )
        .await
    }

    async fn deliveries(
        &self,
        org: &OrgName,
        id: WebhookId,
        which: Which,
        page: &PageRequest,
    ) -> Result<Page<Delivery>> {
        let mut connection = self.readers().acquire().await.map_err(failed)?;
        if one(&mut connection, org, id).await?.is_none() {
            return Err(StoreError::Gone { what: "webhook" });
        }
        outbox::list(&mut connection, id, which, page).await
    }

    async fn replay_deliveries(&self, org: &OrgName, id: WebhookId, only: Option<DeliveryId>) -> Result<u64> {
        let org = org.clone();
        self.write(Point::DeliveryReplay, move |connection| -> BoxFuture<'_, Result<u64>> {
            Box::pin(async move {
                if one(connection, &org, id).await?.is_none() {
                    return Err(StoreError::Gone { what: "webhook" });
                }
                outbox::replay(connection, id, only).await
            })
        })
        .await
    }
}
