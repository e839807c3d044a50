//! Deleting an org with everything in it: rows, files, states, code that nobody else has. Nothing of it is left in the data directory.
//! And ending the deletion of a session that an earlier process decided.
//!
//! Once begun it is ended: what a crash interrupts goes on when the store is opened next, before anybody uses it. Rows go in small
//! transactions. At the end the database file is written anew, because what is deleted stays in its unused pages until something
//! else takes their place.

use crate::{Blobs, Opened, StoreError, WorkspaceError, Workspaces, blobs::BlobError, sqlite::SqliteStore};
use fumehood_core::{digest::Digest, id::SessionId, name::OrgName};
use std::{collections::BTreeSet, time::Duration};

/// Why an org is not deleted, or not to its end. What was begun is ended when the store is opened next.
#[derive(Debug, thiserror::Error)]
pub enum DeleteOrgError {
    /// There is none of that name.
    #[error("there is no org `{0}`")]
    Unknown(OrgName),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files can't be removed.
    #[error(transparent)]
    Files(#[from] WorkspaceError),
    /// The code can't be removed.
    #[error(transparent)]
    Code(#[from] BlobError),
}

/// What was deleted with an org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedOrg {
    /// How many sessions it had.
    pub sessions: u64,
    /// The code that other orgs still have: all other is gone.
    pub code: BTreeSet<Digest>,
    /// Why the database file was not written anew, so that bytes of the org are left in its unused pages. Each start tries again.
    pub not_erased: Option<String>,
}

/// Deletes an org with everything in it, and closes the store. That the database file can't be written anew, for want of space, is
/// no error: it says so.
///
/// # Errors
/// See [`DeleteOrgError`].
pub async fn delete_org(opened: Opened, org: &OrgName) -> Result<DeletedOrg, DeleteOrgError> {
    let file = opened.database.clone();
    let deleted = rows_and_files(&opened, org).await;
    // Kept until the file is written anew.
    let data_dir = opened.lock.clone();
    opened.close().await;
    let mut deleted = deleted?;
    let erased = crate::sqlite::open::erase_what_was_deleted(&file).await;
    deleted.not_erased = erased.err().map(|error| error.to_string());
    drop(data_dir);
    Ok(deleted)
}

async fn rows_and_files(opened: &Opened, org: &OrgName) -> Result<DeletedOrg, DeleteOrgError> {
    if !opened.sqlite.begin_to_delete_org(org).await? {
        return Err(DeleteOrgError::Unknown(org.clone()));
    }
    let sessions = end(&opened.sqlite, &opened.workspaces, org).await?;
    let code = remove_code(&opened.sqlite, &opened.blobs).await?;
    Ok(DeletedOrg {
        sessions,
        code,
        not_erased: None,
    })
}

/// What is left to do of deletions that were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// The database file is to be written anew.
    Erase,
}

/// Ends the deletions that an earlier process began.
pub(crate) async fn finish(
    store: &SqliteStore,
    workspaces: &Workspaces,
    blobs: &Blobs,
) -> Result<Left, DeleteOrgError> {
    for session in store.sessions_to_delete().await? {
        tracing::warn!(%session, "the session was not deleted to the end; that is done now");
        // It reads as not there in any case: nobody has to wait for the rest.
        if let Err(error) = delete_session(store, workspaces, session).await {
            tracing::warn!(%session, %error, "what is left of a deleted session can't be deleted now; the next start tries again");
        }
    }
    let orgs = store.orgs_to_delete().await?;
    for org in &orgs {
        tracing::warn!(%org, "the org was not deleted to the end; that is done now");
        end(store, workspaces, org).await?;
    }
    if orgs.is_empty() {
        return Ok(Left::Nothing);
    }
    remove_code(store, blobs).await?;
    Ok(Left::Erase)
}

/// Deletes what is left of an org whose deletion was begun; how many sessions that were.
async fn end(store: &SqliteStore, workspaces: &Workspaces, org: &OrgName) -> Result<u64, DeleteOrgError> {
    let mut count = 0;
    loop {
        let sessions = store.some_sessions(org).await?;
        if sessions.is_empty() {
            break;
        }
        for session in sessions {
            delete_session(store, workspaces, session).await?;
            count += 1;
        }
    }
    while store.shrink_org(org).await? {}
    store.end_org(org).await?;
    Ok(count)
}

async fn delete_session(
    store: &SqliteStore,
    workspaces: &Workspaces,
    session: SessionId,
) -> Result<(), DeleteOrgError> {
    workspaces.retire(session).await?;
    store.end_session(session).await?;
    workspaces.purge(session).await?;
    Ok(())
}

/// Removes the code that no component has; what stays. Nobody adds a component meanwhile.
async fn remove_code(store: &SqliteStore, blobs: &Blobs) -> Result<BTreeSet<Digest>, DeleteOrgError> {
    let code: BTreeSet<Digest> = store.named().await?.code.into_keys().collect();
    blobs.retain(code.clone(), Duration::ZERO).await?;
    Ok(code)
}
