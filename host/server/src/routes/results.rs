//! Results of calls that the client runs.

use super::turns::{text_or_content, text_or_content_schema};
use crate::{
    app::App,
    auth::Client,
    input::{At, JsonBody, turn_id},
    problem::Answer,
    schema,
};
use axum::{Json, extract::State};
use fumehood_agent::{host::GivenResult, view::TurnView};
use fumehood_core::{content::Content, id::CallId};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(give))
}

/// Results of the calls that a turn waits for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Results {
    /// One for each call that has run; the turn waits for the others.
    results: Vec<CallOutcome>,
}

/// What a tool of the client returned.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CallOutcome {
    /// The call, as `awaited` of the turn names it.
    #[schema(value_type = String)]
    call_id: CallId,
    /// For the model and for people: a text, or a list of content. May be left out where there is `structured`.
    #[serde(default, deserialize_with = "text_or_content")]
    #[schema(schema_with = text_or_content_schema)]
    content: Vec<Content>,
    /// For programs: any JSON value. A model is shown it where there is no `content`.
    structured: Option<Value>,
    /// Whether the tool ran, and what it was asked to do did not work.
    #[serde(default)]
    is_error: bool,
}

impl Results {
    pub(crate) fn read(self) -> Vec<GivenResult> {
        let read = |one: CallOutcome| GivenResult {
            call: one.call_id,
            content: one.content,
            structured: one.structured,
            is_error: one.is_error,
        };
        self.results.into_iter().map(read).collect()
    }
}

/// Give results of calls that the client runs
///
/// For the tools that came with the turn. Results may come together or one by one, each once; the turn goes on with the last of them.
/// If any result makes no sense, none is taken (422). A call that has its result, and a turn that waits for none, is 409.
#[utoipa::path(post, path = "/v1/turns/{turn}/results", tag = "turns", params(("turn" = String, Path, description = "`trn_…`")),
    request_body = Results, responses((status = 200, body = schema::Turn, description = "The turn, which goes on when it has all results")))]
async fn give(
    State(app): State<Arc<App>>,
    client: Client,
    At(turn): At<String>,
    JsonBody(body): JsonBody<Results>,
) -> Answer<Json<TurnView>> {
    let turn = turn_id(&turn)?;
    app.host.give_results(&client.org, turn, body.read()).await?;
    Ok(Json(app.host.turn(&client.org, turn).await?))
}
