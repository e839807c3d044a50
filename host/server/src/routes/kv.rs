//! Key-values of a session: bytes under a key.

use super::own_session;
use crate::{
    app::App,
    auth::Client,
    body::read_body,
    input::{At, Limit, Listed, Query, session_id},
    problem::{Answer, Problem, ProblemCode},
};
use axum::{
    Json,
    extract::{Request, State},
    response::IntoResponse,
};
use fumehood_store::record::{Owner, PageRequest};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// What the store takes as a value.
const LARGEST_VALUE: usize = 1 << 20;
const LONGEST_KEY: usize = 255;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_keys))
        .routes(routes!(show_value, set_value, delete_value))
}

/// A key of the session.
#[derive(Debug, Serialize, ToSchema)]
struct KvEntry {
    key: String,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct KeysQuery {
    /// Only keys that begin with this.
    prefix: Option<String>,
    /// At most this many items.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

fn owner(client: &Client, session: &str, key: &str) -> Answer<Owner> {
    if !(1..=LONGEST_KEY).contains(&key.len()) {
        return Err(Problem::new(
            ProblemCode::InvalidName,
            format!("a key is 1 to {LONGEST_KEY} bytes"),
        ));
    }
    Ok(Owner::Session(client.org.clone(), session_id(session)?))
}

/// List the keys, in order
#[utoipa::path(get, path = "/v1/sessions/{session}/kv", tag = "kv", params(("session" = String, Path, description = "`ses_…`"), KeysQuery),
    responses((status = 200, body = Listed<KvEntry>, description = "A page of keys")))]
async fn list_keys(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    Query(query): Query<KeysQuery>,
) -> Answer<Json<Listed<KvEntry>>> {
    let session = own_session(&app, &client, &session).await?;
    let page = PageRequest {
        after: query.cursor,
        limit: Limit::or_default(query.limit),
    };
    let owner = Owner::Session(client.org.clone(), session);
    let page = app
        .host
        .store()
        .kv_keys(&owner, query.prefix.as_deref().unwrap_or_default(), &page)
        .await?;
    // THREAT[T-sec-exfiltration]: a key is a text like any other. The cursor stays what it is.
    let guard = app.host.guard(&client.org, Some(session)).await?;
    let entry = |key: String| KvEntry {
        key: guard.redact_str(&key).into_owned(),
    };
    Ok(Json(Listed {
        items: page.items.into_iter().map(entry).collect(),
        next: page.next,
    }))
}

/// Read a value
///
/// Values of secrets in effect in the session are replaced by `[secret:NAME]`.
#[utoipa::path(get, path = "/v1/sessions/{session}/kv/{key}", tag = "kv",
    params(("session" = String, Path, description = "`ses_…`"), ("key" = String, Path, description = "1 to 255 bytes, percent-encoded")),
    responses((status = 200, description = "The bytes", body = inline(Vec<u8>), content_type = "application/octet-stream")))]
async fn show_value(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, key)): At<(String, String)>,
) -> Answer<impl IntoResponse> {
    let value = app.host.store().kv_get(&owner(&client, &session, &key)?, &key).await?;
    let value = value.ok_or_else(|| Problem::not_found("key"))?;
    // THREAT[T-sec-exfiltration]
    let guard = app.host.guard(&client.org, Some(session_id(&session)?)).await?;
    let value = guard.redact_vec(value);
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], value))
}

/// Set a value
///
/// The body is the value, as it is, whatever its content type: at most 1 MiB. Keys and values of a session have a quota.
#[utoipa::path(put, path = "/v1/sessions/{session}/kv/{key}", tag = "kv",
    params(("session" = String, Path, description = "`ses_…`"), ("key" = String, Path, description = "1 to 255 bytes, percent-encoded")),
    request_body(content = inline(Vec<u8>), content_type = "application/octet-stream"),
    responses((status = 204, description = "It is kept")))]
async fn set_value(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, key)): At<(String, String)>,
    request: Request,
) -> Answer<StatusCode> {
    let owner = owner(&client, &session, &key)?;
    let (parts, body) = request.into_parts();
    let value = read_body(&app, &client, parts.headers, body, LARGEST_VALUE).await?;
    app.host.store().kv_set(&owner, &key, &value).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Delete a value
#[utoipa::path(delete, path = "/v1/sessions/{session}/kv/{key}", tag = "kv",
    params(("session" = String, Path, description = "`ses_…`"), ("key" = String, Path, description = "1 to 255 bytes, percent-encoded")),
    responses((status = 204, description = "It is gone")))]
async fn delete_value(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, key)): At<(String, String)>,
) -> Answer<StatusCode> {
    if app
        .host
        .store()
        .kv_delete(&owner(&client, &session, &key)?, &key)
        .await?
    {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("key"))
    }
}
