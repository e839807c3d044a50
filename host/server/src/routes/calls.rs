//! One call of one tool, under the full policy, without a turn.

use crate::{
    app::App,
    auth::Client,
    input::{At, JsonBody},
    problem::{Answer, Problem, ProblemCode},
    refusal::tell_standing,
    schema,
};
use axum::{Json, extract::State};
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallStatus, Metering, Output, parts},
    id::{CallId, SessionId},
};
use fumehood_policy::quantity::Span;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(call_tool))
}

/// What to call a tool with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CallTool {
    /// The session whose files, key-values, secrets and narrowing the call has; without one it has none.
    #[schema(value_type = Option<String>)]
    session: Option<SessionId>,
    /// An object that fits the tool's input schema.
    #[schema(value_type = serde_json::Map<String, serde_json::Value>)]
    arguments: Arguments,
    /// The longest that the client waits, such as `10s`: then the call ends. The tool's own limits hold in any case.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    time: Option<Span>,
}

/// How a call ended. A failed call is a result, too.
#[derive(Debug, Serialize, ToSchema)]
struct Called {
    /// `call_…`
    #[schema(value_type = String)]
    call: CallId,
    #[schema(value_type = schema::CallStatus)]
    status: CallStatus,
    /// What the tool returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Output>)]
    output: Option<Output>,
    /// Why there is no output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::CallError>)]
    error: Option<CallError>,
    #[schema(value_type = schema::Metering)]
    metering: Metering,
}

/// Call a tool once
///
/// The answer is 200 whether the call worked or not: `status` tells. When the org may not call now, nothing ran, and the answer is 429.
/// The call ends when the client goes away.
#[utoipa::path(post, path = "/v1/tools/{tool}/call", tag = "tools", params(("tool" = String, Path, description = "The tool's name")),
    request_body = CallTool, responses((status = 200, body = Called, description = "How the call ended")))]
async fn call_tool(
    State(app): State<Arc<App>>,
    client: Client,
    At(tool): At<String>,
    JsonBody(body): JsonBody<CallTool>,
) -> Answer<(HeaderMap, Json<Called>)> {
    // Asked first: in a result, `tool_not_found` may also be what a tool says of another one.
    if let Err(error) = app.host.tools(&client.org).await?.find(&tool)
        && error.code == CallErrorCode::ToolNotFound
    {
        return Err(Problem::new(ProblemCode::NotFound, error.message));
    }
    let called = app
        .host
        .call_tool(&client.org, body.session, &tool, body.arguments, time(body.time)?)
        .await?;
    let mut headers = HeaderMap::new();
    if let Some(counted) = &called.counted {
        tell_standing(&mut headers, counted);
    }
    let (status, output, error) = parts(called.result);
    let called = Called {
        call: called.id,
        status,
        output,
        error,
        metering: called.metering,
    };
    Ok((headers, Json(called)))
}

fn time(asked: Option<Span>) -> Answer<Option<Span>> {
    match asked {
        Some(time) if time.as_millis() == 0 => {
            let detail = "a `time` of zero leaves none for the call; use a span above zero, or leave it out";
            Err(Problem::new(ProblemCode::InvalidBody, detail).with("field", "time"))
        }
        asked => Ok(asked),
    }
}
