//! `/workspace`: the session's files.

use fumehood_core::{
    call::{CallError, CallErrorCode},
    id::SessionId,
};
use fumehood_files::Tree;
use fumehood_store::{WorkspaceError, Workspaces};
use std::sync::Arc;

/// The session's files, opened for its calls.
pub(crate) async fn files(workspaces: &Workspaces, session: SessionId) -> Result<Arc<Tree>, CallError> {
    workspaces.tree(session).await.map_err(|error| match error {
        WorkspaceError::Gone => CallError::new(
            CallErrorCode::Cancelled,
            "the session was deleted, and this call ends with it",
        ),
        error => {
            tracing::error!(%error, %session, "a workspace can't be opened");
            CallError::new(
                CallErrorCode::Unavailable,
                "the host can't open the session's files; try again later",
            )
        }
    })
}
