//! The routes, one file per thing they are about. A handler takes a request apart, asks the host, and shapes the answer.

pub(crate) mod approvals;
pub(crate) mod callbacks;
pub(crate) mod calls;
pub(crate) mod compaction;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod jobs;
pub(crate) mod kv;
pub(crate) mod ledger;
pub(crate) mod metrics;
pub(crate) mod results;
pub(crate) mod schedules;
pub(crate) mod secrets;
pub(crate) mod sessions;
mod starter;
pub(crate) mod tool_changes;
pub(crate) mod tools;
pub(crate) mod turns;
pub(crate) mod usage;
pub(crate) mod webhooks;

use crate::{app::App, auth::Client, input::session_id, problem::Answer};
use fumehood_core::id::SessionId;

/// The session that a path names, if the client's org has it and its files may be changed: it counts as used.
pub(crate) async fn own_session_in_use(app: &App, client: &Client, text: &str) -> Answer<SessionId> {
    let id = session_id(text)?;
    app.host.use_session(&client.org, id).await?;
    Ok(id)
}

/// The session that a path names, if the client's org has it.
pub(crate) async fn own_session(app: &App, client: &Client, text: &str) -> Answer<SessionId> {
    // THREAT[T-org-cross-read]: looked up in the client's org; what another org has is not there.
    let id = session_id(text)?;
    app.host.session(&client.org, id).await?;
    Ok(id)
}
