//! Decisions about calls that wait for a person.

use crate::{
    app::App,
    auth::Client,
    input::{At, JsonBody, turn_id},
    problem::Answer,
    schema,
};
use axum::{Json, extract::State};
use fumehood_agent::{
    host::{Decide, Decision, HostError},
    view::TurnView,
};
use fumehood_core::{call::Arguments, id::CallId};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(decide))
}

/// Decisions about the calls that a turn waits for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Decisions {
    /// One for each call; a call without one counts as rejected.
    decisions: Vec<CallDecision>,
}

/// What is decided about one call.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CallDecision {
    /// The call, as `approvals` of the turn names it.
    #[schema(value_type = String)]
    call_id: CallId,
    decision: Verdict,
    /// With `approve`: what the tool is called with instead. It must fit the tool's input schema; the model is told.
    #[schema(value_type = Option<serde_json::Map<String, serde_json::Value>>)]
    arguments: Option<Arguments>,
    /// What the model is to know, as text of at most 2,000 characters; what is longer is cut, and control characters but line breaks
    /// and tabs are taken out.
    feedback: Option<String>,
}

/// What is decided.
#[derive(Deserialize, ToSchema, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// The call runs.
    Approve,
    /// It does not.
    Reject,
}

impl Decisions {
    pub(crate) fn read(self) -> Result<Vec<Decision>, HostError> {
        let read = |(index, one): (usize, CallDecision)| {
            let decide = match (one.decision, one.arguments) {
                (Verdict::Approve, arguments) => Decide::Approve(arguments),
                (Verdict::Reject, None) => Decide::Reject,
                (Verdict::Reject, Some(_)) => {
                    return Err(HostError::Decision {
                        field: format!("decisions[{index}].arguments"),
                        reason: "a rejected call has no arguments; leave them out, or approve it".into(),
                    });
                }
            };
            Ok(Decision {
                call: one.call_id,
                decide,
                feedback: one.feedback,
            })
        };
        self.decisions.into_iter().enumerate().map(read).collect()
    }
}

/// Decide about calls that wait for approval
///
/// All calls of the turn are decided at once, and the turn goes on: a call that is not in `decisions` counts as rejected. What is
/// approved is the call as it was shown, or with the `arguments` given here. If any decision makes no sense, none counts (422).
/// A turn waits for a decision once: the second to decide, and whoever decides too late, gets 409.
#[utoipa::path(post, path = "/v1/turns/{turn}/approvals", tag = "turns", params(("turn" = String, Path, description = "`trn_…`")),
    request_body = Decisions, responses((status = 200, body = schema::Turn, description = "The turn, which goes on")))]
async fn decide(
    State(app): State<Arc<App>>,
    client: Client,
    At(turn): At<String>,
    JsonBody(body): JsonBody<Decisions>,
) -> Answer<Json<TurnView>> {
    let turn = turn_id(&turn)?;
    app.host.decide(&client.org, turn, body.read()?).await?;
    Ok(Json(app.host.turn(&client.org, turn).await?))
}
