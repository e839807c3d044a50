//! `/v1/sessions`, and what is read of a session as a whole.

use super::own_session;
use crate::{
    app::App,
    auth::Client,
    input::{At, JsonBody, Limit, Listed, PageQuery, Query, session_id},
    problem::{Answer, Problem, ProblemCode},
    routes::{
        secrets::{self, SecretValue},
        starter::{self, SessionFiles},
    },
    schema,
};
use axum::{Json, extract::State, response::IntoResponse};
use fumehood_agent::host::NewSession;
use fumehood_core::{
    Time,
    id::SessionId,
    message::Message,
    name::{AgentName, SecretName},
};
use fumehood_policy::{
    authority::SessionNarrowing, bounded::some_entries, files::FileAccess, network::NetworkList,
    tool_pattern::ToolPattern,
};
use fumehood_store::record::{self, Owner, PageRequest, SessionChange, WhichSessions};
use http::{StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, sync::Arc};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create_session, list_sessions))
        .routes(routes!(show_session, change_session, delete_session))
        .routes(routes!(list_messages))
}

/// A conversation with its files, key-values, secrets and journal.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Session {
    #[schema(value_type = String, example = "ses_018f3c5b7d2a7c3e9f00112233445566")]
    id: SessionId,
    /// The agent that works its turns.
    #[schema(value_type = String)]
    agent: AgentName,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// The client's own data, as it came.
    #[schema(value_type = Map<String, Value>)]
    metadata: Value,
    /// Whom its calls may reach, at most; absent: whatever the other layers allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::NetworkList>)]
    network: Option<NetworkList>,
    /// How far its calls may go with its files, at most; absent: as granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Access>)]
    files: Option<FileAccess>,
    /// Tools whose calls may run in the background, at most; absent: as granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    background: Option<Vec<ToolPattern>>,
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// When it, its journal, its key-values or its secrets last changed; or when one of its files was written by a client, or a tool called
    /// without a turn, to the minute.
    #[schema(value_type = String, format = DateTime)]
    updated: Time,
    /// Whether it is archived: it takes no turns, and its files and key-values stay as they are.
    archived: bool,
    /// Since when, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    archived_at: Option<Time>,
}

impl From<record::Session> for Session {
    fn from(session: record::Session) -> Self {
        Self {
            id: session.id,
            agent: session.agent,
            title: session.title,
            metadata: session.metadata,
            network: session.narrowing.network,
            files: session.narrowing.files,
            background: session.narrowing.background,
            created: session.created,
            updated: session.updated,
            archived: session.archived.is_some(),
            archived_at: session.archived,
        }
    }
}

/// A session to be made. Everything is optional.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateSession {
    /// The host's default agent when absent.
    #[schema(value_type = Option<String>)]
    agent: Option<AgentName>,
    /// For people.
    title: Option<String>,
    /// Anything of the client's, returned as it came.
    metadata: Option<Map<String, Value>>,
    /// Whom its calls may reach, at most.
    #[schema(value_type = Option<schema::NetworkList>)]
    network: Option<NetworkList>,
    /// How far its calls may go with its files, at most; or that and the files it begins with.
    #[schema(value_type = Option<schema::SessionFiles>)]
    files: Option<SessionFiles>,
    /// Tools whose calls may run in the background, at most: names, patterns (`crawl_*`) and components. Empty: none.
    #[serde(default, deserialize_with = "some_entries")]
    #[schema(value_type = Option<Vec<String>>, max_items = 256)]
    background: Option<Vec<ToolPattern>>,
    /// Secrets of the session, by name. They are never shown again, and shadow the org's.
    #[serde(default, deserialize_with = "secrets::by_name")]
    #[schema(value_type = BTreeMap<String, String>)]
    secrets: BTreeMap<SecretName, SecretValue>,
}

/// What to change; what is absent stays. `null` removes a title or a narrowing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeSession {
    /// From the next turn on.
    #[schema(value_type = Option<String>)]
    agent: Option<AgentName>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    title: Option<Option<String>>,
    /// Takes the place of the metadata there is.
    metadata: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<schema::NetworkList>)]
    network: Option<Option<NetworkList>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<schema::Access>)]
    files: Option<Option<FileAccess>>,
    #[serde(default, deserialize_with = "present_entries")]
    #[schema(value_type = Option<Vec<String>>, max_items = 256)]
    background: Option<Option<Vec<ToolPattern>>>,
    /// Whether it is archived. Not while a turn or a job in it has not ended.
    archived: Option<bool>,
}

/// Tells `null` from absent.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The same of a list.
pub(super) fn present_entries<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Vec<T>>>, D::Error> {
    some_entries(deserializer).map(Some)
}

/// Make a session
///
/// Either the session with all its secrets and the files it begins with is kept, or nothing is.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = CreateSession,
    responses((status = 201, body = Session, description = "The session", headers(("Location" = String, description = "Its path")))))]
async fn create_session(
    State(app): State<Arc<App>>,
    client: Client,
    JsonBody(body): JsonBody<CreateSession>,
) -> Answer<impl IntoResponse> {
    for value in body.secrets.values() {
        value.check()?;
    }
    let files = body.files.unwrap_or_default();
    let new = NewSession {
        starter: starter::files(files.starter)?,
        agent: body.agent,
        title: body.title,
        metadata: body.metadata.map(Value::Object),
        narrowing: SessionNarrowing {
            network: body.network,
            files: files.access,
            background: body.background,
        },
    };
    let session = app.host.create_session(&client.org, new).await?;
    let owner = Owner::Session(client.org.clone(), session.id);
    for (name, value) in &body.secrets {
        if let Err(error) = app.host.store().secret_set(&owner, name, value.secret()).await {
            // A session without a secret that its client believes in would fail later, and less clearly.
            if let Err(error) = app.host.delete_session(&client.org, session.id).await {
                tracing::error!(session = %session.id, %error, "a session whose secrets could not be kept can't be deleted either");
            }
            return Err(error.into());
        }
    }
    let location = format!("/v1/sessions/{}", session.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(Session::from(session)),
    ))
}

/// Which sessions, and which page of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SessionsQuery {
    /// `false`, the default: those that are not archived. `true`: only those that are. `any`: all of them.
    #[param(value_type = Option<String>)]
    archived: Option<ArchivedQuery>,
    /// At most this many items.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ArchivedQuery {
    True,
    False,
    Any,
}

/// List the sessions, newest first
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(SessionsQuery),
    responses((status = 200, body = Listed<Session>, description = "A page of sessions")))]
async fn list_sessions(
    State(app): State<Arc<App>>,
    client: Client,
    Query(query): Query<SessionsQuery>,
) -> Answer<Json<Listed<Session>>> {
    let which = match query.archived {
        None | Some(ArchivedQuery::False) => WhichSessions::InUse,
        Some(ArchivedQuery::True) => WhichSessions::Archived,
        Some(ArchivedQuery::Any) => WhichSessions::All,
    };
    let page = PageRequest {
        after: query.cursor,
        limit: Limit::or_default(query.limit),
    };
    let page = app.host.store().sessions(&client.org, which, &page).await?;
    Ok(Json(Listed {
        items: page.items.into_iter().map(Into::into).collect(),
        next: page.next,
    }))
}

/// Show a session
#[utoipa::path(get, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path, description = "`ses_…`")),
    responses((status = 200, body = Session, description = "The session")))]
async fn show_session(State(app): State<Arc<App>>, client: Client, At(session): At<String>) -> Answer<Json<Session>> {
    let session = app.host.session(&client.org, session_id(&session)?).await?;
    Ok(Json(session.into()))
}

/// Change a session, from its next turn on
///
/// One that is archived takes no turns, its schedules do not fire, and its files and key-values stay as they are; everything in it can be
/// read, and forked. It is left out of the list unless that is asked for.
#[utoipa::path(patch, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path, description = "`ses_…`")),
    request_body = ChangeSession, responses((status = 200, body = Session, description = "The session as it is now")))]
async fn change_session(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    JsonBody(body): JsonBody<ChangeSession>,
) -> Answer<Json<Session>> {
    let id = session_id(&session)?;
    let change = SessionChange {
        agent: body.agent,
        title: body.title,
        metadata: body.metadata.map(Value::Object),
        network: body.network,
        files: body.files,
        background: body.background,
        archived: body.archived,
    };
    if change == SessionChange::default() {
        return Err(Problem::new(
            ProblemCode::InvalidRequest,
            "there is nothing to change: send agent, title, metadata, network, files, background or archived",
        ));
    }
    let session = app.host.update_session(&client.org, id, change).await?;
    Ok(Json(session.into()))
}

/// Delete a session with everything in it
///
/// A turn that runs is cancelled. Files, key-values, secrets, journal and ledger go with it.
#[utoipa::path(delete, path = "/v1/sessions/{session}", tag = "sessions", params(("session" = String, Path, description = "`ses_…`")),
    responses((status = 204, description = "It is gone")))]
async fn delete_session(State(app): State<Arc<App>>, client: Client, At(session): At<String>) -> Answer<StatusCode> {
    app.host.delete_session(&client.org, session_id(&session)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List the messages: what a model is shown of the session, oldest first
#[utoipa::path(get, path = "/v1/sessions/{session}/messages", tag = "sessions",
    params(("session" = String, Path, description = "`ses_…`"), PageQuery),
    responses((status = 200, body = Listed<schema::Message>, description = "A page of messages")))]
async fn list_messages(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<Message>>> {
    let session = own_session(&app, &client, &session).await?;
    let messages = app.host.messages(&client.org, session).await?;
    Ok(Json(Listed::slice(messages, &page)?))
}
