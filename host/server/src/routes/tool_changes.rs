//! What the org changed of its components, and how far each change has come.

use crate::{
    app::App,
    auth::Client,
    input::{Listed, PageQuery, Query},
    problem::Answer,
};
use axum::{Json, extract::State};
use fumehood_agent::changes;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_changes))
}

/// A change of a component, and how far it has come.
#[derive(ToSchema, Serialize)]
pub(crate) struct ToolChange {
    /// Which; absent until it is known.
    component: Option<String>,
    operation: ToolOperation,
    state: ToolChangeState,
    /// The code that it puts into use: `sha256:…`
    digest: Option<String>,
    /// The code that it takes out of use.
    before: Option<String>,
    /// Calls that run on the code before.
    calls: u64,
    /// When those are interrupted.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Calls on the code before that were interrupted.
    interrupted: u64,
    /// Why nothing came of it.
    reason: Option<String>,
    /// When it was asked for.
    #[schema(format = DateTime)]
    begun: String,
}

/// What is done to a component.
#[expect(dead_code, reason = "described only")]
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToolOperation {
    Add,
    Update,
    Remove,
}

/// How far a change has come.
#[expect(dead_code, reason = "described only")]
#[derive(ToSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ToolChangeState {
    /// The component is being read and compiled.
    Pending,
    /// It holds, and nothing runs on the version before.
    Applied,
    /// It holds, and calls still run on the version before.
    Draining,
    /// It holds, and calls on the version before were interrupted.
    Forced,
    /// Nothing came of it; what was in use stays so.
    Failed,
}

/// List what was changed of the components, the newest first
///
/// The last changes since the host started, also of components that were removed since, and how far each has come: `pending` while a
/// component is compiled, `failed` if nothing came of it, else `applied`; `draining` while calls run on the version before, and `forced`
/// when any of them had to be interrupted.
#[utoipa::path(get, path = "/v1/tool-changes", tag = "tools", params(PageQuery),
    responses((status = 200, body = Listed<ToolChange>, description = "A page of changes")))]
async fn list_changes(
    State(app): State<Arc<App>>,
    client: Client,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<changes::ToolChange>>> {
    Ok(Json(Listed::slice(app.host.tool_changes(&client.org), &page)?))
}
