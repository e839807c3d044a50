//! Going back in a session, and going on from one in another.

use crate::{
    app::App,
    auth::Client,
    input::{At, MaybeJson, session_id},
    problem::{Answer, Problem, ProblemCode},
    routes::sessions::Session,
    schema,
};
use axum::{Json, extract::State, response::IntoResponse};
use fumehood_agent::{
    fork::{ForkRequest, ForkedFiles, TakeFiles},
    history::{BackTo, FilesToo, Undone},
};
use fumehood_core::{
    id::TurnId,
    rewind::{FilesRewound, ForkedFrom, OutsideEffect},
};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(undo)).routes(routes!(fork))
}

/// How far to go back: over the last turn, unless it says otherwise.
#[derive(Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Undo {
    /// How many turns to undo.
    #[schema(minimum = 1, default = 1)]
    turns: Option<u64>,
    /// The first turn to undo, in the place of `turns`: the session is then as it was before that one.
    #[schema(value_type = Option<String>, example = "trn_018f3c5b7d2a7c3e9f00112233445566")]
    to: Option<TurnId>,
    /// Whether the files are put back as the first undone turn found them.
    #[schema(default = true)]
    files: bool,
}

impl Default for Undo {
    fn default() -> Self {
        Self {
            turns: None,
            to: None,
            files: true,
        }
    }
}

impl Undo {
    fn back(&self) -> Answer<BackTo> {
        match (self.turns, self.to) {
            (Some(_), Some(_)) => Err(Problem::new(
                ProblemCode::InvalidRequest,
                "say either how many `turns` to undo, or which one to go back `to`",
            )),
            (None, Some(turn)) => Ok(BackTo::Before(turn)),
            (count, None) => Ok(BackTo::Turns(count.unwrap_or(1))),
        }
    }
}

/// What was undone, and what was not.
#[derive(Serialize, ToSchema)]
struct UndoneBody {
    /// The turns that are undone, oldest first.
    #[schema(value_type = Vec<String>)]
    turns: Vec<TurnId>,
    /// The `seq` of the `session.rewound` that says so.
    seq: u64,
    /// What became of the files.
    #[schema(value_type = schema::FilesRewound)]
    files: FilesRewound,
    /// How many paths of the workspace changed.
    files_changed: usize,
    /// Files that changed last while none of the turns ran, by a client or a call outside of turns, and whose bytes are lost; the
    /// first hundred.
    files_lost: Vec<String>,
    /// How many more of them there are.
    files_lost_more: usize,
    /// What the turns did outside of the session, which is not undone; the first hundred.
    #[schema(value_type = Vec<schema::OutsideEffect>)]
    outside: Vec<OutsideEffect>,
    /// How much more of it there was.
    outside_more: u64,
    /// Always `kept`: the session's key-values are as the undone turns left them.
    #[schema(value_type = String, example = "kept")]
    key_values: &'static str,
}

impl From<Undone> for UndoneBody {
    fn from(undone: Undone) -> Self {
        Self {
            turns: undone.turns,
            seq: undone.seq,
            files: undone.files,
            files_changed: undone.changed,
            files_lost: undone.lost,
            files_lost_more: undone.lost_more,
            outside: undone.outside,
            outside_more: undone.outside_more,
            key_values: "kept",
        }
    }
}

/// Undo the last turns
///
/// The conversation is as it was before them, and so are the files, where that is kept. The journal keeps what happened. Refused
/// while a turn has not ended. What was done outside of the session can't be undone, and is named in the answer.
#[utoipa::path(post, path = "/v1/sessions/{session}/undo", tag = "sessions", request_body = Option<Undo>,
    params(("session" = String, Path, description = "`ses_…`")),
    responses((status = 200, body = UndoneBody, description = "What was undone, and what was not")))]
async fn undo(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    MaybeJson(body): MaybeJson<Undo>,
) -> Answer<Json<UndoneBody>> {
    let session = session_id(&session)?;
    let files = if body.files { FilesToo::PutBack } else { FilesToo::Stay };
    let undone = app.host.undo(&client.org, session, body.back()?, files).await?;
    Ok(Json(undone.into()))
}

/// What the new session takes from the old one.
#[derive(Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct Fork {
    /// The last turn to take along; all that have ended when absent.
    #[schema(value_type = Option<String>, example = "trn_018f3c5b7d2a7c3e9f00112233445566")]
    after: Option<TurnId>,
    /// For people; that of the old session when absent.
    title: Option<String>,
    /// Anything of the client's; that of the old session when absent.
    metadata: Option<Map<String, Value>>,
    /// Whether it has the files, too, as they were after that turn.
    #[schema(default = true)]
    files: bool,
}

impl Default for Fork {
    fn default() -> Self {
        Self {
            after: None,
            title: None,
            metadata: None,
            files: true,
        }
    }
}

/// The new session, and what it has of the old one.
#[derive(Serialize, ToSchema)]
struct ForkedBody {
    #[serde(flatten)]
    session: Session,
    /// Where it comes from.
    #[schema(value_type = schema::ForkedFrom)]
    forked_from: ForkedFrom,
    /// What became of the files: `copied`, `empty` (there were none), `left` (as asked) or `unavailable` (what they were is not kept).
    #[schema(value_type = String, example = "copied")]
    workspace: &'static str,
}

/// Fork a session
///
/// The new session has the agent, the narrowing and the conversation of the old one, up to a turn, and its files. It has none of
/// its key-values and secrets. What the old one does from then on does not touch it. A turn that has not ended is not taken along.
#[utoipa::path(post, path = "/v1/sessions/{session}/fork", tag = "sessions", request_body = Option<Fork>,
    params(("session" = String, Path, description = "`ses_…`")),
    responses((status = 201, body = ForkedBody, description = "The new session", headers(("Location" = String, description = "Its path")))))]
async fn fork(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    MaybeJson(body): MaybeJson<Fork>,
) -> Answer<impl IntoResponse> {
    let session = session_id(&session)?;
    let request = ForkRequest {
        after: body.after,
        title: body.title,
        metadata: body.metadata.map(Value::Object),
        files: if body.files { TakeFiles::Along } else { TakeFiles::Not },
    };
    let forked = app.host.fork(&client.org, session, request).await?;
    let location = format!("/v1/sessions/{}", forked.session.id);
    let workspace = match forked.files {
        ForkedFiles::Copied => "copied",
        ForkedFiles::Empty => "empty",
        ForkedFiles::Left => "left",
        ForkedFiles::Unavailable => "unavailable",
    };
    let body = ForkedBody {
        session: forked.session.into(),
        forked_from: forked.from,
        workspace,
    };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)))
}
