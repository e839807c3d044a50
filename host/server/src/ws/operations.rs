//! What a client of a socket may ask for: the same as over the routes, with the same answers.

use super::frame::{Approvals, Cancel, GivenResults, Turn};
use crate::{
    app::App,
    auth::Client,
    feed::{Feed, Scope},
    idempotency::is_idempotency_key,
    input::{session_id, turn_id},
    problem::{Answer, Problem, ProblemCode},
    routes::{
        events::within_journal,
        turns::{accept, cancel},
    },
};
use fumehood_agent::view::TurnView;
use fumehood_core::id::SessionId;
use serde_json::{Value, json};
use std::sync::Arc;

/// Begins to listen to a session. The place and the listener are the feed's.
pub(super) async fn listen(app: &Arc<App>, client: &Client, session: SessionId, after: u64) -> Answer<Feed> {
    // THREAT[T-org-cross-read]: looked up in the client's org.
    app.host.session(&client.org, session).await?;
    within_journal(app, client, session, after).await?;
    // THREAT[T-org-connections]: a socket that listens to many sessions takes as many places as many streams do.
    let place = app.host.listening(&client.org).await?;
    let listener = app.host.subscribe(session);
    let (app, client) = (Arc::clone(app), client.clone());
    Ok(Feed::new(app, client, session, Scope::Session, listener, after, place))
}

/// Submits a turn, and does not wait for it.
pub(super) async fn turn(app: &App, client: &Client, asked: Turn) -> Answer<Value> {
    let session = session_id(&asked.session)?;
    if asked
        .idempotency_key
        .as_deref()
        .is_some_and(|key| !is_idempotency_key(key))
    {
        let detail = "`idempotency_key` is a text of 1 to 255 printable ASCII characters";
        return Err(Problem::new(ProblemCode::InvalidBody, detail).with("field", "idempotency_key"));
    }
    let request = asked.body.into_request(asked.idempotency_key)?;
    let (submitted, view) = accept(app, client, session, request).await?;
    Ok(json!({"turn": shown(&view)?, "replayed": submitted.repeated}))
}

/// Decides about calls.
pub(super) async fn approvals(app: &App, client: &Client, asked: Approvals) -> Answer<Value> {
    let turn = turn_id(&asked.turn)?;
    app.host.decide(&client.org, turn, asked.body.read()?).await?;
    let view = app.host.turn(&client.org, turn).await?;
    Ok(json!({"turn": shown(&view)?}))
}

/// Gives results of calls.
pub(super) async fn results(app: &App, client: &Client, asked: GivenResults) -> Answer<Value> {
    let turn = turn_id(&asked.turn)?;
    app.host.give_results(&client.org, turn, asked.body.read()).await?;
    let view = app.host.turn(&client.org, turn).await?;
    Ok(json!({"turn": shown(&view)?}))
}

/// Cancels a turn.
pub(super) async fn cancel_turn(app: &App, client: &Client, asked: Cancel) -> Answer<Value> {
    let (view, _) = cancel(app, client, turn_id(&asked.turn)?, asked.body).await?;
    Ok(json!({"turn": shown(&view)?}))
}

fn shown(view: &TurnView) -> Answer<Value> {
    serde_json::to_value(view).map_err(|error| {
        tracing::error!(%error, "a turn can't be written as JSON");
        Problem::fault()
    })
}
