//! Summing up a session's conversation.

use crate::{
    app::App,
    auth::Client,
    input::{At, MaybeJson, session_id},
    problem::{Answer, Problem, ProblemCode},
    schema,
};
use axum::{Json, extract::State};
use fumehood_agent::host::Compacted;
use fumehood_core::turn::Usage;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(compact_session))
}

/// The most that may be asked of a summary, in bytes.
const LONGEST_INSTRUCTIONS: usize = 4 * 1024;

/// How to sum a conversation up.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CompactSession {
    /// What the summary is to keep in mind.
    instructions: Option<String>,
}

/// A conversation that was summed up.
#[derive(Debug, Serialize, ToSchema)]
struct CompactedSession {
    /// Estimated tokens of the conversation before.
    tokens_before: u64,
    /// Estimated tokens of the conversation now; the same where there was nothing to sum up.
    tokens_after: u64,
    /// What the summary took, as far as measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Usage>)]
    usage: Option<Usage>,
}

impl From<Compacted> for CompactedSession {
    fn from(done: Compacted) -> Self {
        let Compacted {
            tokens_before,
            tokens_after,
            usage,
        } = done;
        Self {
            tokens_before,
            tokens_after,
            usage,
        }
    }
}

/// Sum up the conversation
///
/// The session's model writes a summary of the older part; from then on a model is shown the first input, the summary, and what came
/// last. The journal keeps everything. Only while no turn is open. When the model gives no usable summary, the conversation stays as
/// it is.
#[utoipa::path(post, path = "/v1/sessions/{session}/compact", tag = "sessions", params(("session" = String, Path, description = "`ses_…`")),
    request_body = Option<CompactSession>,
    responses((status = 200, body = CompactedSession, description = "It is summed up")))]
async fn compact_session(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    MaybeJson(body): MaybeJson<CompactSession>,
) -> Answer<Json<CompactedSession>> {
    let focus = body.instructions.filter(|text| !text.trim().is_empty());
    if focus.as_ref().is_some_and(|text| text.len() > LONGEST_INSTRUCTIONS) {
        return Err(Problem::new(
            ProblemCode::InvalidRequest,
            format!("`instructions` have at most {LONGEST_INSTRUCTIONS} bytes; say it in fewer words"),
        ));
    }
    let done = app.host.compact(&client.org, session_id(&session)?, focus).await?;
    Ok(Json(done.into()))
}
