//! The events of a session: streamed, or a page of the journal.

use super::own_session;
use crate::{
    app::App,
    auth::Client,
    feed::{Feed, Scope},
    input::{At, Limit, Listed, Query, turn_id},
    problem::{Answer, Problem, ProblemCode},
    schema, sse,
};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use fumehood_core::{event::Event, id::SessionId};
use http::HeaderMap;
use serde::Deserialize;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list_events))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Only events with a `seq` after this; 0 is all. `Last-Event-ID` wins over it.
    after: Option<u64>,
    /// When streaming: only the events of this turn (`trn_…`), to its end.
    turn: Option<String>,
    /// When listing: at most this many.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// When listing: the `next` of the page before; the same as `after`.
    cursor: Option<u64>,
}

/// What a client that comes back has seen.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Answer<Option<u64>> {
    match headers.get("last-event-id") {
        None => Ok(None),
        Some(value) => match value.to_str().map(str::trim) {
            // A client that has seen no id yet may send an empty one.
            Ok("") => Ok(None),
            Ok(text) => text.parse().map(Some).map_err(|_| bad_last_event_id()),
            Err(_) => Err(bad_last_event_id()),
        },
    }
}

/// Refuses to go on after an event that there is not: the stream would skip whatever comes until then, and say nothing. A session that is
/// not there is refused by whoever looks for it.
pub(crate) async fn within_journal(app: &App, client: &Client, session: SessionId, after: u64) -> Answer<()> {
    if after == 0 {
        return Ok(());
    }
    match app.host.store().last_seq(&client.org, session).await? {
        Some(last) if after > last => {
            let detail = format!(
                "the session's journal ends with {last}, and events after {after} were asked for; read the session anew, from 0"
            );
            Err(Problem::new(ProblemCode::CursorBeyondEnd, detail).with("last_seq", last))
        }
        _ => Ok(()),
    }
}

fn bad_last_event_id() -> Problem {
    Problem::new(
        ProblemCode::InvalidHeader,
        "Last-Event-ID is the `id` of an event of this session: a number",
    )
}

/// Stream or list the events of a session
///
/// A stream sends what is recorded after `Last-Event-ID` or `after`, then what happens, in order, without gap or double, and a
/// comment every 15 s of silence. Recorded events have an `id`, their `seq`; deltas are live only and have none: what they told is in
/// a recorded event later. Where deltas are missed, one `stream.truncated` says so. An event that the journal does not have can't be
/// gone on after (`cursor_beyond_end`). With `Accept: application/json` the answer is a page of the recorded events: `limit` of them, or
/// as many as fit into 4 MiB, but always one; `next` tells that there are more.
#[utoipa::path(get, path = "/v1/sessions/{session}/events", tag = "events",
    params(
        ("session" = String, Path, description = "`ses_…`"),
        ("Last-Event-ID" = Option<u64>, Header, description = "Only events after this `seq`"),
        EventsQuery,
    ),
    responses((status = 200, description = "The stream, or a page", content((schema::Event = "text/event-stream"), (Listed<schema::Event> = "application/json")))))]
async fn list_events(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Answer<Response> {
    let session = own_session(&app, &client, &session).await?;
    let after = last_event_id(&headers)?.or(query.cursor).or(query.after).unwrap_or(0);
    within_journal(&app, &client, session, after).await?;
    if sse::accepts(&headers, "application/json") && !sse::is_wanted(&headers) {
        if query.turn.is_some() {
            return Err(Problem::new(
                ProblemCode::InvalidQuery,
                "`turn` is for streams; a list has the events of the whole session",
            ));
        }
        return Ok(Json(page(&app, &client, session, after, Limit::or_default(query.limit)).await?).into_response());
    }
    let scope = match query.turn {
        None => Scope::Session,
        Some(text) => {
            let turn = app.host.store().turn(&client.org, turn_id(&text)?).await?;
            let turn = turn
                .filter(|turn| turn.session == session)
                .ok_or_else(|| Problem::not_found("turn"))?;
            Scope::Turn(turn.id)
        }
    };
    let place = app.host.listening(&client.org).await?;
    let listener = app.host.subscribe(session);
    let feed = Feed::new(app, client, session, scope, listener, after, place);
    Ok(sse::respond(feed))
}

async fn page(app: &App, client: &Client, session: SessionId, after: u64, limit: u32) -> Answer<Listed<Event>> {
    let store = app.host.store();
    let items = store.events(&client.org, session, after, limit).await?;
    // A page may end before its number is reached.
    let last = store.last_seq(&client.org, session).await?.unwrap_or_default();
    let next = items
        .last()
        .and_then(|event| event.seq)
        .filter(|seq| *seq < last)
        .map(|seq| seq.to_string());
    Ok(Listed { items, next })
}
