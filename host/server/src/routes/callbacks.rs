//! What somebody outside brings for a call that a tool handed on. No API key: the call's own token is what is shown.

use super::turns::{text_or_content, text_or_content_schema};
use crate::{
    app::App,
    body::read_small,
    input::{At, is_json, media_type, parse_json, wrong_media_type},
    problem::{Answer, Problem, ProblemCode},
};
use axum::{
    Json,
    extract::{Request, State},
};
use fumehood_agent::host::{Brought, BroughtResult, HostError, LONGEST_RESULT, Took};
use fumehood_core::{content::Content, digest::Digest};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The header that has the token.
const TOKEN: &str = "fumehood-callback-token";

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(bring))
}

/// How a call ended, or how far it is: `progress`, or the rest.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Callback {
    /// For the model and for people: a text, or a list of content. May be left out where there is `structured`.
    #[serde(default, deserialize_with = "text_or_content")]
    #[schema(schema_with = text_or_content_schema)]
    content: Vec<Content>,
    /// For programs: any JSON value; follows the tool's output schema if it has one. A model is shown it where there is no `content`.
    structured: Option<Value>,
    /// Whether what the call was to do did not work.
    #[serde(default)]
    is_error: bool,
    /// How far it is: the call goes on.
    progress: Option<Progress>,
}

/// How far a call is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Progress {
    /// One line for people.
    message: String,
    /// From 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    fraction: Option<f32>,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
struct Taken {
    /// Where the call is.
    status: CallbackStatus,
}

/// Where a call is that was handed on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CallbackStatus {
    /// It waits for its result.
    Waiting,
    /// The result is kept, and counts once the turn has come as far; the turn may end before.
    Accepted,
    /// It has ended with the result.
    Completed,
}

/// End a call that a tool handed on, or say how far it is
///
/// For whoever a tool gave the ticket of its call: its id, and the token that goes into the header. No API key is needed. The same
/// request again is answered as the first was; another one for a call that has its end is 409. Whatever is wrong with id and token, the
/// answer is the same 404.
#[utoipa::path(post, path = "/v1/callbacks/{callback}", tag = "callbacks", security(()), params(
    ("callback" = String, Path, description = "`cbk_…`"),
    ("Fumehood-Callback-Token" = String, Header, description = "The token of the call's ticket")),
    request_body = Callback, responses(
        (status = 200, body = Taken, description = "It is taken"),
        (status = 202, body = Taken, description = "The result is kept; the turn has still to come as far")))]
async fn bring(
    State(app): State<Arc<App>>,
    At(callback): At<String>,
    request: Request,
) -> Answer<(StatusCode, Json<Taken>)> {
    let (parts, body) = request.into_parts();
    let callback = {
        // THREAT[T-callback-guess]: strangers who guess leave the store to others. Never closed, so there is always a place.
        let _place = app.callbacks.acquire().await.ok();
        let found = app.host.callback(&callback, token(&parts.headers)).await;
        found.map_err(|error| match error {
            HostError::NotFound(_) => unknown(),
            error => error.into(),
        })?
    };
    tracing::Span::current().record("org", tracing::field::display(&callback.org));
    if media_type(&parts.headers).is_none_or(|kind| !is_json(&kind)) {
        return Err(wrong_media_type("application/json"));
    }
    let received = read_small(&app, parts.headers, body, LONGEST_RESULT).await?;
    let request = Digest::of(&received);
    let brought = read(parse_json(&received)?)?;
    let (code, status) = match app.host.bring(callback, request, brought).await? {
        Took::Waits => (StatusCode::OK, CallbackStatus::Waiting),
        Took::Accepted => (StatusCode::ACCEPTED, CallbackStatus::Accepted),
        Took::Ended => (StatusCode::OK, CallbackStatus::Completed),
    };
    Ok((code, Json(Taken { status })))
}

/// The same whatever is wrong.
fn unknown() -> Problem {
    let detail = "no call waits, or waited, here that has this id and this token; check both, and that its session is still there";
    Problem::new(ProblemCode::NotFound, detail)
}

/// The one header's value.
fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(TOKEN).iter();
    match (given.next(), given.next()) {
        (Some(token), None) => Some(token.as_bytes()),
        _ => None,
    }
}

fn read(callback: Callback) -> Answer<Brought> {
    let Callback {
        content,
        structured,
        is_error,
        progress,
    } = callback;
    match progress {
        None => Ok(Brought::Result(BroughtResult {
            content,
            structured,
            is_error,
        })),
        Some(Progress { message, fraction }) if content.is_empty() && structured.is_none() && !is_error => {
            Ok(Brought::Progress { message, fraction })
        }
        Some(_) => Err(Problem::new(
            ProblemCode::InvalidResult,
            "`progress` stands alone: a call goes on, or it ends with a result",
        )
        .with("field", "progress")),
    }
}
