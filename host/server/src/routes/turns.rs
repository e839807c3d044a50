//! Turns: submit, show, cancel.

use crate::{
    app::App,
    auth::Client,
    feed::{Feed, Scope},
    idempotency::{digest, idempotency_key},
    input::{At, LargeJson, MaybeJson, large_json, session_id, turn_id},
    problem::{Answer, Problem, ProblemCode},
    refusal::tell_standing,
    routes::events::{last_event_id, within_journal},
    schema, sse,
};
use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use fumehood_agent::{
    client_tools::RESULT_TIMEOUT,
    host::{CancelAt, Mode, Submitted, TurnRequest},
    view::TurnView,
};
use fumehood_core::{
    awaited::ClientTool,
    content::Content,
    id::{SessionId, TurnId},
    money::Money,
    name::ToolName,
    turn::{Budget, TurnStatus},
};
use fumehood_policy::quantity::Span;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(submit_turn))
        .routes(routes!(show_turn))
        .routes(routes!(cancel_turn))
}

/// How long a cancel waits for the turn's end; a turn that takes longer ends all the same.
const CANCEL_TIME: Duration = Duration::from_secs(10);

/// One input for the agent.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubmitTurn {
    /// A text, or a list of content.
    #[serde(deserialize_with = "text_or_content")]
    #[schema(schema_with = text_or_content_schema)]
    input: Vec<Content>,
    /// Instructions for this turn only, after the agent's.
    system: Option<String>,
    /// A JSON Schema (2020-12) that the answer must follow. The answer of a turn that ends with `end_turn` is then one piece of `json`.
    output_schema: Option<Value>,
    /// What the turn may use; it only narrows what the agent may.
    budget: Option<BudgetBody>,
    /// Tools that the client runs itself, at most 50: when the model asks for them the turn waits (`awaiting_results`), and
    /// `POST /v1/turns/{turn}/results` takes what they return.
    #[serde(default)]
    tools: Vec<ClientToolBody>,
    /// Whether it is kept what its calls are answered from outside, so that it can be replayed (`fumehood replay`); its agent may want that
    /// as well.
    #[serde(default)]
    record: bool,
    /// A turn to take the place of: that one and all after it are undone, with their files, if this one is accepted.
    #[schema(value_type = Option<String>, example = "trn_018f3c5b7d2a7c3e9f00112233445566")]
    replaces: Option<TurnId>,
    /// What becomes of the input while the session has a turn that hasn't ended: `reject` (the default) refuses it, `queue` makes it a
    /// turn that waits, `steer` adds it to the input of the turn that is worked and answers with that one.
    #[serde(default)]
    #[schema(value_type = schema::Mode, default = "reject")]
    mode: Mode,
}

/// A tool that the client runs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ClientToolBody {
    /// What the model calls it: `[a-z0-9_]{1,64}`, and not the name of a tool or component of the host.
    #[schema(value_type = String)]
    name: ToolName,
    /// What the model reads to decide when to use it.
    description: String,
    /// JSON Schema (2020-12) of the arguments, with `"type": "object"`. Only calls that follow it reach the client.
    #[schema(value_type = serde_json::Map<String, serde_json::Value>)]
    input_schema: Value,
    /// How long a call waits for its result, such as `30s` or `2h`: 5 minutes unless said otherwise, 7 days at most. What waits
    /// together waits for the longest of it.
    #[schema(value_type = Option<String>, example = "5m")]
    timeout: Option<Span>,
}

impl From<ClientToolBody> for ClientTool {
    fn from(body: ClientToolBody) -> Self {
        Self {
            name: body.name,
            description: body.description,
            input_schema: body.input_schema,
            timeout_ms: body.timeout.unwrap_or(RESULT_TIMEOUT).as_millis(),
        }
    }
}

/// What a turn may use. An absent part is as the agent has it.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetBody {
    /// Input and output tokens of all steps.
    tokens: Option<u64>,
    /// Wall time, such as `90s` or `10m`. Passing it fails the turn.
    #[schema(value_type = Option<String>, example = "10m")]
    time: Option<Span>,
    tool_calls: Option<u64>,
    /// Model calls.
    steps: Option<u64>,
    /// Money, in the currency of the operator's price tables.
    #[schema(value_type = Option<f64>, example = 0.25)]
    cost: Option<Money>,
}

impl From<BudgetBody> for Budget {
    fn from(body: BudgetBody) -> Self {
        Self {
            tokens: body.tokens,
            time_ms: body.time.map(Span::as_millis),
            tool_calls: body.tool_calls,
            steps: body.steps,
            cost: body.cost,
        }
    }
}

/// A piece of content that is what it says it is.
struct Checked(Content);

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let piece = Content::deserialize(deserializer)?;
        piece.checked().map(Self).map_err(serde::de::Error::custom)
    }
}

pub(super) fn text_or_content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Content>, D::Error> {
    struct Visitor;

    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Vec<Content>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a text or a list of content")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![Content::text(text)])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            let pieces = Vec::<Checked>::deserialize(serde::de::value::SeqAccessDeserializer::new(seq))?;
            Ok(pieces.into_iter().map(|Checked(piece)| piece).collect())
        }
    }

    deserializer.deserialize_any(Visitor)
}

pub(super) fn text_or_content_schema() -> utoipa::openapi::schema::Schema {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Ref, Type};
    OneOfBuilder::new()
        .item(ObjectBuilder::new().schema_type(Type::String))
        .item(ArrayBuilder::new().items(Ref::from_schema_name("Content")))
        .description(Some("A text, or a list of content."))
        .into()
}

impl SubmitTurn {
    /// What its images and sounds take in JSON, in bytes.
    fn media_len(&self) -> usize {
        let media = self.input.iter().map(|piece| match piece {
            Content::Image { data, .. } | Content::Audio { data, .. } => data.len().div_ceil(3).saturating_mul(4),
            _ => 0,
        });
        media.fold(0, usize::saturating_add)
    }

    /// With the key under which it may be repeated, if the client has one for it.
    pub(crate) fn into_request(mut self, key: Option<String>) -> Answer<TurnRequest> {
        let budget = Budget::from(self.budget.unwrap_or_default());
        let tools: Vec<_> = self.tools.drain(..).map(ClientTool::from).collect();
        let idempotency = match key {
            None => None,
            // What was asked for without it has the digest that it always had.
            Some(key) if self.record => Some((key, digest(&(self.meaning(&budget, &tools), "record"))?)),
            Some(key) => Some((key, digest(&self.meaning(&budget, &tools))?)),
        };
        Ok(TurnRequest {
            input: self.input,
            system: self.system,
            budget,
            output_schema: self.output_schema,
            tools,
            record: self.record,
            idempotency,
            replaces: self.replaces,
            mode: self.mode,
        })
    }

    fn meaning(&self, budget: &Budget, tools: &[ClientTool]) -> impl Serialize {
        (
            &self.input,
            &self.system,
            *budget,
            &self.output_schema,
            tools,
            &self.replaces,
            self.mode,
        )
    }
}

/// How the client wants to hear of the turn.
enum Reply {
    Stream,
    Later,
    Wait,
}

impl Reply {
    fn wanted(headers: &HeaderMap) -> Self {
        let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
        if sse::is_wanted(headers) {
            Self::Stream
        } else if preferences
            .flat_map(|value| value.split([',', ';']))
            .any(|item| item.trim().eq_ignore_ascii_case("respond-async"))
        {
            Self::Later
        } else {
            Self::Wait
        }
    }
}

/// Reads the body of a turn. Only images and sounds make it larger than other bodies of JSON may be, and only one that does not wait
/// for another turn: its place is for the time that it takes to record it.
// THREAT[T-api-oversize]
async fn read_turn(app: &App, client: &Client, request: Request) -> Answer<LargeJson<SubmitTurn>> {
    let read = large_json::<SubmitTurn>(app, client, request, app.config.turn_body).await?;
    let usual = app.config.json_body;
    if read.bytes.saturating_sub(read.body.media_len()) > usual {
        let detail = format!("the body has more than {usual} bytes besides its images and sounds");
        return Err(Problem::new(ProblemCode::BodyTooLarge, detail).with("limit", usual as u64));
    }
    if read.bytes > usual && read.body.mode == Mode::Steer {
        let detail = format!("what steers a turn has at most {usual} bytes; send it with `mode` `queue`");
        return Err(Problem::new(ProblemCode::BodyTooLarge, detail).with("limit", usual as u64));
    }
    Ok(read)
}

/// Submit a turn
///
/// The body has at most 20 MiB: images and sounds in base64, and 1 MiB of everything else; one with `mode` `steer` has at most 1 MiB.
///
/// With `Accept: text/event-stream` the answer streams the turn's events and ends after its last one; `Last-Event-ID` together
/// with the `Idempotency-Key` of an earlier request goes on where that stream broke. With `Prefer: respond-async` the answer
/// comes at once, and `Location` says where the turn is. Otherwise the answer waits for the turn's end, or until the turn waits for
/// somebody itself (`awaiting_approval`, `awaiting_results`). The turn goes on in any case when the client goes away.
///
/// A turn of the session that waits for an approval or for results is cancelled: the new input comes instead.
///
/// The same `Idempotency-Key` and request in one session are the same turn; the same key with another request is refused.
///
/// While the session has a turn that hasn't ended, `mode` says what becomes of the input. One that steers is answered once it is in the
/// journal, at the next boundary of the turn that is worked, with `Prefer: respond-async` as well; when that turn ends first, it is a
/// turn of its own.
#[utoipa::path(post, path = "/v1/sessions/{session}/turns", tag = "turns", request_body = SubmitTurn,
    params(
        ("session" = String, Path, description = "`ses_…`"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters"),
        ("Prefer" = Option<String>, Header, description = "`respond-async`: do not wait"),
        ("Last-Event-ID" = Option<u64>, Header, description = "When streaming: only events after this `seq`"),
    ),
    responses(
        (status = 200, description = "The turn, or the stream of its events", content((schema::Turn = "application/json"), (schema::Event = "text/event-stream"))),
        (status = 202, description = "The turn is accepted; one that was there before is as it is by now", body = schema::Turn, headers(("Location" = String, description = "Its path"))),
    ))]
async fn submit_turn(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    headers: HeaderMap,
    request: Request,
) -> Answer<Response> {
    let LargeJson { body, place: large, .. } = read_turn(&app, &client, request).await?;
    if app.closing.is_cancelled() {
        return Err(Problem::shutting_down());
    }
    let session = session_id(&session)?;
    let request = body.into_request(idempotency_key(&headers)?)?;
    match Reply::wanted(&headers) {
        Reply::Stream => {
            let seen = last_event_id(&headers)?;
            within_journal(&app, &client, session, seen.unwrap_or(0)).await?;
            let place = app.host.listening(&client.org).await?;
            // Before the turn begins, so that nothing of it is missed.
            let listener = app.host.subscribe(session);
            let submitted = app.host.submit_turn(&client.org, session, request).await?;
            drop(large);
            let after = seen.unwrap_or(0).max(submitted.turn.first_seq.saturating_sub(1));
            let scope = Scope::Turn(submitted.turn.id);
            let feed = Feed::new(app, client, session, scope, listener, after, place);
            Ok(told(&submitted, sse::respond(feed)))
        }
        Reply::Later => {
            let (submitted, view) = accept(&app, &client, session, request).await?;
            let applied = [("preference-applied", "respond-async")];
            Ok(told(
                &submitted,
                (StatusCode::ACCEPTED, applied, Json(view)).into_response(),
            ))
        }
        Reply::Wait => {
            let _place = app.host.listening(&client.org).await?;
            let submitted = app.host.submit_turn(&client.org, session, request).await?;
            drop(large);
            let turn = submitted.turn.id;
            let view = tokio::select! {
                view = app.host.wait_for_turn(&client.org, turn) => view.map_err(Problem::from),
                () = app.closing.cancelled() => Err(Problem::shutting_down()),
            };
            Ok(told(
                &submitted,
                Json(view.map_err(|problem| problem.with_turn(turn))?).into_response(),
            ))
        }
    }
}

/// Submits a turn, and does not wait for it: as it is by now.
pub(crate) async fn accept(
    app: &App,
    client: &Client,
    session: SessionId,
    request: TurnRequest,
) -> Answer<(Submitted, TurnView)> {
    let submitted = app.host.submit_turn(&client.org, session, request).await?;
    let turn = &submitted.turn;
    let view = if submitted.repeated || turn.status != TurnStatus::Queued {
        let now = app.host.turn(&client.org, turn.id).await;
        now.map_err(|error| Problem::from(error).with_turn(turn.id))?
    } else {
        TurnView::new(turn, &[])
    };
    Ok((submitted, view))
}

/// Says which turn an answer is about, and whether an earlier request made it.
fn told(submitted: &Submitted, mut response: Response) -> Response {
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/turns/{}", submitted.turn.id)) {
        headers.insert(header::LOCATION, location);
    }
    if let Some(counted) = &submitted.counted {
        tell_standing(headers, counted);
    }
    if submitted.repeated {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

/// Show a turn
#[utoipa::path(get, path = "/v1/turns/{turn}", tag = "turns", params(("turn" = String, Path, description = "`trn_…`")),
    responses((status = 200, body = schema::Turn, description = "The turn and what came of it so far")))]
async fn show_turn(State(app): State<Arc<App>>, client: Client, At(turn): At<String>) -> Answer<Json<TurnView>> {
    Ok(Json(app.host.turn(&client.org, turn_id(&turn)?).await?))
}

/// How to cancel a turn.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelTurn {
    /// `now` (the default) stops what runs; `boundary` lets the model answer and the calls of the step end.
    #[serde(default)]
    at: CancelWhen,
}

/// When a turn that is cancelled ends.
#[derive(Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CancelWhen {
    #[default]
    Now,
    Boundary,
}

impl From<CancelWhen> for CancelAt {
    fn from(at: CancelWhen) -> Self {
        match at {
            CancelWhen::Now => Self::Now,
            CancelWhen::Boundary => Self::Boundary,
        }
    }
}

/// Cancel a turn
///
/// Calls that run are stopped, or end first if that is asked for. What the model has said so far is kept. A turn that waits ends at once;
/// one that has ended stays as it is.
#[utoipa::path(post, path = "/v1/turns/{turn}/cancel", tag = "turns", params(("turn" = String, Path, description = "`trn_…`")),
    request_body = Option<CancelTurn>,
    responses(
        (status = 200, body = schema::Turn, description = "The turn at its end"),
        (status = 202, body = schema::Turn, description = "The turn is being cancelled"),
    ))]
async fn cancel_turn(
    State(app): State<Arc<App>>,
    client: Client,
    At(turn): At<String>,
    MaybeJson(body): MaybeJson<CancelTurn>,
) -> Answer<Response> {
    let (view, status) = cancel(&app, &client, turn_id(&turn)?, body).await?;
    Ok((status, Json(view)).into_response())
}

/// Cancels a turn and waits for its end, for a while; the status says whether it came.
pub(crate) async fn cancel(
    app: &App,
    client: &Client,
    turn: TurnId,
    how: CancelTurn,
) -> Answer<(TurnView, StatusCode)> {
    let cancelling = app.host.cancel_turn(&client.org, turn, how.at.into());
    match tokio::time::timeout(CANCEL_TIME, cancelling).await {
        Ok(view) => Ok((view?, StatusCode::OK)),
        Err(_) => Ok((app.host.turn(&client.org, turn).await?, StatusCode::ACCEPTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::parse_json;

    fn request(text: &str) -> Answer<TurnRequest> {
        parse_json::<SubmitTurn>(text.as_bytes())?.into_request(Some("k".into()))
    }

    #[test]
    fn a_text_is_one_piece_of_content() {
        assert_eq!(request(r#"{"input":"hi"}"#).unwrap().input, [Content::text("hi")]);
        assert_eq!(
            request(r#"{"input":[{"type":"text","text":"hi"}]}"#).unwrap().input,
            [Content::text("hi")]
        );
    }

    #[test]
    fn content_that_is_not_what_it_says_is_refused_at_its_place() {
        for piece in [
            r#"{"type":"image","media_type":"text/html","data":"AAAA"}"#,
            r#"{"type":"audio","media_type":"image/png","data":"AAAA"}"#,
            r#"{"type":"file","path":"../x"}"#,
            r#"{"type":"file","path":"/etc/passwd"}"#,
        ] {
            let refused = request(&format!(r#"{{"input":[{{"type":"text","text":"hi"}},{piece}]}}"#)).unwrap_err();
            assert_eq!(
                (refused.code(), refused.member("field")),
                (ProblemCode::InvalidBody, "input[1]".into()),
                "{piece}"
            );
        }
        let file = request(r#"{"input":[{"type":"file","path":"/workspace/in/a.csv"}]}"#).unwrap();
        assert_eq!(
            file.input,
            [Content::File {
                path: "in/a.csv".into()
            }]
        );
    }

    #[test]
    fn requests_that_mean_the_same_have_one_digest() {
        let digest = |text: &str| request(text).unwrap().idempotency.unwrap().1;
        let first = digest(r#"{"input":"hi","budget":{"time":"1m"}}"#);
        assert_eq!(
            first,
            digest(r#"{ "budget":{"time":"60s"}, "input":[{"text":"hi","type":"text"}] }"#)
        );
        assert_ne!(first, digest(r#"{"input":"hi"}"#));
    }

    #[test]
    fn a_budget_takes_spans_with_their_unit() {
        let budget = request(r#"{"input":"hi","budget":{"time":"10m","steps":2}}"#)
            .unwrap()
            .budget;
        assert_eq!((budget.time_ms, budget.steps), (Some(600_000), Some(2)));
        assert_eq!(
            request(r#"{"input":"hi","budget":{"time":"soon"}}"#)
                .unwrap_err()
                .code(),
            ProblemCode::InvalidBody
        );
    }
}
