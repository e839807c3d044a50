//! The ledger of a session: every egress decision.

use super::own_session;
use crate::{
    app::App,
    auth::Client,
    input::{At, Listed, PageQuery, Query},
    problem::Answer,
    schema,
};
use axum::{Json, extract::State};
use fumehood_core::ledger::LedgerEntry;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_ledger))
}

/// List a session's egress decisions, oldest first
#[utoipa::path(get, path = "/v1/sessions/{session}/ledger", tag = "ledger",
    params(("session" = String, Path, description = "`ses_…`"), PageQuery),
    responses((status = 200, body = Listed<schema::LedgerEntry>, description = "A page of decisions")))]
async fn list_ledger(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<LedgerEntry>>> {
    let session = own_session(&app, &client, &session).await?;
    let page = app.host.store().ledger(&client.org, session, &page.into()).await?;
    Ok(Json(Listed {
        items: page.items,
        next: page.next,
    }))
}
