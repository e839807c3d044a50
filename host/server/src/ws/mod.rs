//! WebSockets: the events of several sessions, and operations on them, over one connection.
//!
//! A socket promises what streams and routes do: the events of a session in order without gap or double from any place in its
//! journal, and the answers and refusals of the routes. It holds a place of its org for each session it listens to, and its connection
//! counts as one until it ends: see [`Line`]. Nothing of it is unbounded: how large a message is, how many sessions, operations and
//! unsent messages there are. A client that does not read slows down no turn: its streams fall behind and are truncated, and at last it
//! is closed.
//!
//! | module | what it knows |
//! |---|---|
//! | [`frame`] | what is said on the wire |
//! | [`socket`] | one socket, from its first message to its goodbye |
//! | [`operations`] | what a client may ask for |
//! | [`writer`] | what is sent, and how long that may take |

mod frame;
mod operations;
mod socket;
mod writer;

use crate::{
    app::App,
    auth::Client,
    connections::Line,
    feed::{Feed, Scope},
    input::{At, Query},
    problem::{Answer, Problem, ProblemCode},
    routes::{events::within_journal, own_session},
};
use axum::{
    Extension,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::Response,
};
use http::{HeaderValue, header};
use serde::Deserialize;
use socket::Socket;
use std::sync::Arc;
use tracing::Instrument as _;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Bytes read from the connection at a time; an idle socket holds as many.
const READ_BUFFER: usize = 4 << 10;

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(open_socket))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SocketQuery {
    /// Only events with a `seq` after this; 0 is all.
    #[serde(default)]
    #[param(value_type = Option<u64>, default = 0)]
    after: u64,
}

/// Open a WebSocket on the events of sessions
///
/// It begins with the events of this session after `after`; messages of the client subscribe to others, and submit turns, decide about
/// calls and cancel. Every message is one JSON text. What the client sends has an `id` and an `op`: `subscribe`, `unsubscribe`, `turn`,
/// `approvals`, `results` or `cancel`. What it gets is `{"event": …}`, `{"reply": id, "result": …}`, `{"reply": id, "problem": …}` or
/// `{"ended": session, "reason": …}`.
#[utoipa::path(get, path = "/v1/sessions/{session}/ws", tag = "events",
    params(("session" = String, Path, description = "`ses_…`"), SocketQuery),
    responses((status = 101, description = "The connection is a WebSocket now")))]
async fn open_socket(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    Query(query): Query<SocketQuery>,
    line: Option<Extension<Arc<Line>>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    if app.closing.is_cancelled() {
        return Err(Problem::shutting_down());
    }
    let session = own_session(&app, &client, &session).await?;
    within_journal(&app, &client, session, query.after).await?;
    let upgrade = upgrade.map_err(|error| no_websocket(&error))?;
    let place = app.host.listening(&client.org).await?;
    let listener = app.host.subscribe(session);
    let feed = Feed::new(
        Arc::clone(&app),
        client.clone(),
        session,
        Scope::Session,
        listener,
        query.after,
        place,
    );
    // THREAT[T-api-oversize]: what is larger is not read to its end.
    let largest = app.config.json_body;
    let span = tracing::info_span!("socket", org = %client.org);
    let socket = Socket::new(app, client, line.map(|Extension(line)| line));
    Ok(upgrade
        .max_message_size(largest)
        .max_frame_size(largest)
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .on_upgrade(move |connection| socket.run(connection, session, feed).instrument(span)))
}

fn no_websocket(error: &WebSocketUpgradeRejection) -> Problem {
    Problem::new(
        ProblemCode::UpgradeRequired,
        format!("the route is a WebSocket, and the request does not ask for one as RFC 6455 wants it: {error}"),
    )
    .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
}
