//! `/v1/webhooks`: URLs of the org that are told what happens in its sessions, and what came of it.

use crate::{
    app::App,
    auth::Client,
    idempotency::{digest, idempotency_key},
    input::{At, JsonBody, Limit, Listed, PageQuery, Query},
    problem::{Answer, Problem},
    routes::sessions::present,
};
use axum::{Json, extract::State, response::IntoResponse};
use fumehood_agent::host::{BeTold, WebhookChange, WebhookRequest};
use fumehood_core::{
    Time,
    id::{DeliveryId, EventId, SessionId, TurnId, WebhookId},
    name::SecretName,
};
use fumehood_store::{
    record::PageRequest,
    webhooks::{self, DeliveryState, Told, WebhookState, Which},
};
use http::{HeaderMap, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create_webhook, list_webhooks))
        .routes(routes!(show_webhook, change_webhook, delete_webhook))
        .routes(routes!(rotate_secret))
        .routes(routes!(list_deliveries))
        .routes(routes!(replay_dead))
        .routes(routes!(replay_delivery))
}

/// What can't be an id reads as not there, as an unknown one does.
fn webhook_id(text: &str) -> Answer<WebhookId> {
    text.parse().map_err(|_| Problem::not_found("webhook"))
}

/// A URL that is told what happens.
#[derive(Debug, Serialize, ToSchema)]
struct Webhook {
    #[schema(value_type = String, example = "whk_018f3c5b7d2a7c3e9f00112233445566")]
    id: WebhookId,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    url: String,
    /// What it is told.
    #[schema(value_type = Vec<String>)]
    events: Vec<Told>,
    status: WebhookStatus,
    /// Deliveries that wait.
    pending: u64,
    /// Events that it was not told, since too many waited.
    dropped: u64,
    /// Deliveries that were given up and are not remembered any more, since too many were.
    forgotten: u64,
    /// The secret of the org that signs its requests.
    #[schema(value_type = String)]
    key: SecretName,
    /// Until when the secret before signs them as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    key_before_until: Option<Time>,
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    updated: Time,
}

/// Whether a webhook is told.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum WebhookStatus {
    /// It is.
    Active,
    /// Somebody has paused it: what happens is not told, and what waits goes on waiting.
    Paused,
    /// Its server said that it is gone (410).
    Disabled,
}

/// A webhook and the secret that verifies its requests. The secret is shown here and never again.
#[derive(Serialize, ToSchema)]
struct WebhookWithSecret {
    #[serde(flatten)]
    webhook: Webhook,
    /// As libraries of Standard Webhooks take it.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
}

impl WebhookWithSecret {
    fn new((webhook, secret): (webhooks::Webhook, SecretString)) -> Self {
        Self {
            webhook: webhook.into(),
            secret: secret.expose_secret().to_owned(),
        }
    }
}

impl From<webhooks::Webhook> for Webhook {
    fn from(webhook: webhooks::Webhook) -> Self {
        let settings = webhook.settings;
        Self {
            id: webhook.id,
            title: settings.title,
            url: settings.url,
            events: webhook.events,
            status: match webhook.state {
                WebhookState::Active => WebhookStatus::Active,
                WebhookState::Paused => WebhookStatus::Paused,
                WebhookState::Disabled => WebhookStatus::Disabled,
            },
            pending: webhook.pending,
            dropped: webhook.dropped,
            forgotten: webhook.forgotten,
            key: settings.key,
            key_before_until: settings.key_before.map(|before| before.until),
            created: webhook.created,
            updated: webhook.updated,
        }
    }
}

/// A webhook to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateWebhook {
    /// For people.
    title: Option<String>,
    /// Where it is told. The address must be a public one, unless the operator lists it.
    url: String,
    /// What it is told: types of events, `turn.*`, `session.*`, `approval.*`, `budget.*`, `job.*` or `*`.
    #[serde(default = "turns")]
    #[schema(value_type = Vec<String>, default = json!(["turn.*"]))]
    events: Vec<Told>,
}

fn turns() -> Vec<Told> {
    Told::try_from("turn.*".to_owned()).into_iter().collect()
}

/// What to change; what is absent stays. `null` removes a title.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeWebhook {
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    title: Option<Option<String>>,
    url: Option<String>,
    #[schema(value_type = Option<Vec<String>>)]
    events: Option<Vec<Told>>,
    /// `paused`, or `active` for one that was paused or disabled.
    status: Option<NewStatus>,
}

/// Whether a webhook is to be told.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum NewStatus {
    Active,
    Paused,
}

/// Make a webhook
///
/// It is told of events from now on: by POST, signed by the scheme of Standard Webhooks, again and again for three days until its server
/// answers with a 2xx. The answer has the secret that verifies the signatures; it is not shown again, but to the same request.
///
/// For a day the same `Idempotency-Key` and request are the same webhook, as it is by now; the same key with another request is refused.
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", request_body = CreateWebhook,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters")),
    responses((status = 201, body = WebhookWithSecret, description = "The webhook", headers(("Location" = String, description = "Its path")))))]
async fn create_webhook(
    State(app): State<Arc<App>>,
    client: Client,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateWebhook>,
) -> Answer<impl IntoResponse> {
    let idempotency = match idempotency_key(&headers)? {
        None => None,
        Some(key) => Some((key, digest(&(&body.title, &body.url, &body.events))?)),
    };
    let request = WebhookRequest {
        idempotency,
        title: body.title,
        url: body.url,
        events: body.events,
    };
    let made = WebhookWithSecret::new(app.host.create_webhook(&client.org, request).await?);
    let location = format!("/v1/webhooks/{}", made.webhook.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(made)))
}

/// List the webhooks, newest first
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", params(PageQuery),
    responses((status = 200, body = Listed<Webhook>, description = "A page of webhooks")))]
async fn list_webhooks(
    State(app): State<Arc<App>>,
    client: Client,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<Webhook>>> {
    let page = app.host.store().webhooks(&client.org, &page.into()).await?;
    Ok(Json(Listed {
        items: page.items.into_iter().map(Into::into).collect(),
        next: page.next,
    }))
}

/// Show a webhook
#[utoipa::path(get, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path, description = "`whk_…`")),
    responses((status = 200, body = Webhook, description = "The webhook")))]
async fn show_webhook(State(app): State<Arc<App>>, client: Client, At(webhook): At<String>) -> Answer<Json<Webhook>> {
    let webhook = app.host.webhook(&client.org, webhook_id(&webhook)?).await?;
    Ok(Json(webhook.into()))
}

/// Change a webhook, from its next request on
#[utoipa::path(patch, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path, description = "`whk_…`")),
    request_body = ChangeWebhook, responses((status = 200, body = Webhook, description = "The webhook as it is now")))]
async fn change_webhook(
    State(app): State<Arc<App>>,
    client: Client,
    At(webhook): At<String>,
    JsonBody(body): JsonBody<ChangeWebhook>,
) -> Answer<Json<Webhook>> {
    let id = webhook_id(&webhook)?;
    let change = WebhookChange {
        title: body.title,
        url: body.url,
        events: body.events,
        told: body.status.map(|status| match status {
            NewStatus::Active => BeTold::Yes,
            NewStatus::Paused => BeTold::Paused,
        }),
    };
    let webhook = app.host.change_webhook(&client.org, id, change).await?;
    Ok(Json(webhook.into()))
}

/// Delete a webhook with its deliveries and its secret
#[utoipa::path(delete, path = "/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path, description = "`whk_…`")),
    responses((status = 204, description = "It is gone")))]
async fn delete_webhook(State(app): State<Arc<App>>, client: Client, At(webhook): At<String>) -> Answer<StatusCode> {
    app.host.delete_webhook(&client.org, webhook_id(&webhook)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a webhook another secret
///
/// For a day its requests have the signatures of both, so that its server can change in between; after four within a day another is
/// refused. The answer has the new one; it is not shown again.
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/secret", tag = "webhooks", params(("webhook" = String, Path, description = "`whk_…`")),
    responses((status = 200, body = WebhookWithSecret, description = "The webhook as it is now")))]
async fn rotate_secret(
    State(app): State<Arc<App>>,
    client: Client,
    At(webhook): At<String>,
) -> Answer<Json<WebhookWithSecret>> {
    let id = webhook_id(&webhook)?;
    let rotated = app.host.rotate_webhook_key(&client.org, id).await?;
    Ok(Json(WebhookWithSecret::new(rotated)))
}

/// An event that a webhook is told.
#[derive(Debug, Serialize, ToSchema)]
struct Delivery {
    #[schema(value_type = String, example = "dlv_018f3c5b7d2a7c3e9f00112233445566")]
    id: DeliveryId,
    /// The event; also the `webhook-id` of each request that tells it.
    #[schema(value_type = String)]
    event: EventId,
    #[serde(rename = "type")]
    kind: String,
    #[schema(value_type = String)]
    session: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    turn: Option<TurnId>,
    /// Its place in the session's journal.
    seq: u64,
    status: DeliveryStatus,
    /// When it is sent next; absent once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    next_attempt: Option<Time>,
    /// How often it was sent.
    attempts: u32,
    /// The HTTP status of the last answer, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<u16>,
    /// What was wrong with the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// When it was last sent or replayed.
    #[schema(value_type = String, format = DateTime)]
    updated: Time,
}

/// Where a delivery is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DeliveryStatus {
    /// It is sent, or sent again.
    Pending,
    /// Its server answered with a 2xx.
    Delivered,
    /// It did not, and it is not sent any more unless it is replayed.
    Dead,
}

impl From<webhooks::Delivery> for Delivery {
    fn from(delivery: webhooks::Delivery) -> Self {
        let (status, next_attempt) = match delivery.state {
            DeliveryState::Pending(next) => (DeliveryStatus::Pending, Some(next)),
            DeliveryState::Delivered => (DeliveryStatus::Delivered, None),
            DeliveryState::Dead => (DeliveryStatus::Dead, None),
        };
        Self {
            id: delivery.id,
            event: delivery.event,
            kind: delivery.kind,
            session: delivery.session,
            turn: delivery.turn,
            seq: delivery.seq,
            status,
            next_attempt,
            attempts: delivery.attempts,
            response_status: delivery.status,
            message: delivery.message,
            created: delivery.created,
            updated: delivery.updated,
        }
    }
}

/// Which deliveries, and which page of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeliveryQuery {
    /// Only those that are here.
    #[param(value_type = Option<String>)]
    status: Option<DeliveryStatus>,
    /// At most this many items.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// List what a webhook is told, the latest first
///
/// The last thousand that are over are remembered. A deleted session takes its deliveries along.
#[utoipa::path(get, path = "/v1/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(("webhook" = String, Path, description = "`whk_…`"), DeliveryQuery),
    responses((status = 200, body = Listed<Delivery>, description = "A page of deliveries")))]
async fn list_deliveries(
    State(app): State<Arc<App>>,
    client: Client,
    At(webhook): At<String>,
    Query(query): Query<DeliveryQuery>,
) -> Answer<Json<Listed<Delivery>>> {
    let which = match query.status {
        None => Which::All,
        Some(DeliveryStatus::Pending) => Which::Pending,
        Some(DeliveryStatus::Delivered) => Which::Delivered,
        Some(DeliveryStatus::Dead) => Which::Dead,
    };
    let page = PageRequest {
        after: query.cursor,
        limit: Limit::or_default(query.limit),
    };
    let id = webhook_id(&webhook)?;
    let page = app.host.store().deliveries(&client.org, id, which, &page).await?;
    Ok(Json(Listed {
        items: page.items.into_iter().map(Into::into).collect(),
        next: page.next,
    }))
}

/// How many deliveries are sent again.
#[derive(Debug, Serialize, ToSchema)]
struct Replayed {
    deliveries: u64,
}

/// Send everything again that did not arrive
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/replay", tag = "webhooks", params(("webhook" = String, Path, description = "`whk_…`")),
    responses((status = 200, body = Replayed, description = "How many deliveries are sent again")))]
async fn replay_dead(State(app): State<Arc<App>>, client: Client, At(webhook): At<String>) -> Answer<Json<Replayed>> {
    let id = webhook_id(&webhook)?;
    let deliveries = app.host.replay_deliveries(&client.org, id, None).await?;
    Ok(Json(Replayed { deliveries }))
}

/// Send a delivery again
///
/// Also one that arrived. Its `webhook-id` is the same.
#[utoipa::path(post, path = "/v1/webhooks/{webhook}/deliveries/{delivery}/replay", tag = "webhooks",
    params(("webhook" = String, Path, description = "`whk_…`"), ("delivery" = String, Path, description = "`dlv_…`")),
    responses((status = 200, body = Replayed, description = "It is sent again")))]
async fn replay_delivery(
    State(app): State<Arc<App>>,
    client: Client,
    At((webhook, delivery)): At<(String, String)>,
) -> Answer<Json<Replayed>> {
    let id = webhook_id(&webhook)?;
    let delivery: DeliveryId = delivery.parse().map_err(|_| Problem::not_found("delivery"))?;
    let deliveries = app.host.replay_deliveries(&client.org, id, Some(delivery)).await?;
    Ok(Json(Replayed { deliveries }))
}
