//! What the org's model calls took, and where its budget stands.

use crate::{
    app::App,
    auth::Client,
    input::{Limit, Query},
    problem::{Answer, Problem, ProblemCode},
    schema,
};
use axum::{Json, extract::State};
use fumehood_agent::budgets::OrgStanding;
use fumehood_core::{now, spending::Day};
use fumehood_store::{
    record::PageRequest,
    spending::{Days, UsageOfDay},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(show_usage))
}

/// How many days are shown when none are asked for.
const USUAL_DAYS: u64 = 30;

/// Which days.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UsageQuery {
    /// The first day, in UTC. Absent: thirty days before the last.
    #[param(value_type = Option<String>, format = Date, example = "2026-11-01")]
    from: Option<Day>,
    /// The last day. Absent: today.
    #[param(value_type = Option<String>, format = Date, example = "2026-11-30")]
    to: Option<Day>,
    /// At most this many items.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// A page of what was used, and where the org's budget stands.
#[derive(Debug, Serialize)]
pub(crate) struct Usage {
    items: Vec<UsageOfDay>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    budget: Option<OrgStanding>,
}

/// Show what model calls took, by day, agent and model, the newest day first
///
/// Calls that gave no answer count as well. Counts that a provider did not give are absent, and `unmeasured_calls` says of how many
/// calls. `budget` says where the org's budget stands, if it has one.
#[utoipa::path(get, path = "/v1/usage", tag = "usage", params(UsageQuery),
    responses((status = 200, body = schema::UsagePage, description = "A page of usage")))]
async fn show_usage(
    State(app): State<Arc<App>>,
    client: Client,
    Query(query): Query<UsageQuery>,
) -> Answer<Json<Usage>> {
    let to = query.to.unwrap_or_else(|| Day::of(now()));
    let from = query.from.unwrap_or_else(|| to.minus(USUAL_DAYS));
    if from > to {
        return Err(Problem::new(
            ProblemCode::InvalidQuery,
            format!("`from` ({from}) is after `to` ({to}); give the first day before the last"),
        ));
    }
    let page = PageRequest {
        after: query.cursor,
        limit: Limit::or_default(query.limit),
    };
    let found = app.host.store().usage(&client.org, Days { from, to }, &page).await?;
    Ok(Json(Usage {
        items: found.items,
        next: found.next,
        budget: app.host.budget(&client.org).await?,
    }))
}
