//! Whether the host is alive and ready, and what its API is. No key is needed.

use crate::{
    app::App,
    problem::{Answer, Problem, ProblemCode},
};
use axum::{Json, extract::State, response::IntoResponse};
use fumehood_core::name::OrgName;
use http::header;
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// How long the store may take to say that it is there.
const STORE_TIME: Duration = Duration::from_secs(5);

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(openapi_json))
}

/// That it is so.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// Always `ok`.
    status: &'static str,
}

/// Whether the process is alive
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, body = Health, description = "It is")))]
async fn healthz() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether the host can work: its store answers and its tools are loaded
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses((status = 200, body = Health, description = "It can")))]
async fn readyz(State(app): State<Arc<App>>) -> Answer<Json<Health>> {
    if app.closing.is_cancelled() {
        return Err(Problem::shutting_down());
    }
    let default_org = OrgName::default_org();
    let asked = async {
        app.host.store().org(&default_org).await.map_err(Problem::from)?;
        app.host.tools(&default_org).await.map_err(Problem::from)
    };
    match tokio::time::timeout(STORE_TIME, asked).await {
        Ok(Ok(_)) => Ok(Json(Health { status: "ok" })),
        Ok(Err(problem)) => Err(problem),
        Err(_) => Err(Problem::new(
            ProblemCode::NotReady,
            format!("the store did not answer within {} s", STORE_TIME.as_secs()),
        )),
    }
}

/// The description of this API (OpenAPI 3.1)
#[utoipa::path(get, path = "/openapi.json", tag = "health", security(()),
    responses((status = 200, description = "The description", body = serde_json::Value, content_type = "application/json")))]
async fn openapi_json(State(app): State<Arc<App>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone())
}
