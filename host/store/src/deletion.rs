//! Deleting an org with everything in it: rows, files, states, code that nobody else has. Nothing of it is left in the data directory.
//!
//! Once begun it is ended: what a crash interrupts goes on when the store is opened next, before anybody uses it. Rows go in small
//! transactions. At the end the database file is written anew, because what is deleted stays in its unused pages until something
//! else takes their place.

use crate::{Blobs, OpenError, Opened, StoreError, WorkspaceError, Workspaces, blobs::BlobError, sqlite::SqliteStore};
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
    /// The database file can't be written anew.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What was deleted with an org.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedOrg {
    /// How many sessions it had.
    pub sessions: u64,
    /// The code that other orgs still have: all other is gone.
    pub code: BTreeSet<Digest>,
}

/// Deletes an org with everything in it, and closes the store.
///
/// # Errors
/// See [`DeleteOrgError`].
pub async fn delete_org(opened: Opened, org: &OrgName) -> Result<DeletedOrg, DeleteOrgError> {
    let file = opened.database.clone();
    let deleted = rows_and_files(&opened, org).await;
    // Kept until the file is written anew.
    let data_dir = opened.lock.clone();
    opened.close().await;
    let deleted = deleted?;
    crate::sqlite::open::erase_what_was_deleted(&file).await?;
    drop(data_dir);
    Ok(deleted)
}

async fn rows_and_files(opened: &Opened, org: &OrgName) -> Result<DeletedOrg, DeleteOrgError> {
    if !opened.sqlite.begin_to_delete_org(org).await? {
        return Err(DeleteOrgError::Unknown(org.clone()));
    }
    let sessions = end(&opened.sqlite, &opened.workspaces, org).await?;
    let code = remove_code(&opened.sqlite, &opened.blobs).await?;
    Ok(DeletedOrg { sessions, code })
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
            delete_session(store, workspaces, org, session).await?;
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
    org: &OrgName,
    session: SessionId,
) -> Result<(), DeleteOrgError> {
    use crate::Sessions as _;
    workspaces.retire(session).await?;
    while store.shrink(session).await? {}
    store.delete_session(org, session).await?;
    workspaces.purge(session).await?;
    Ok(())
}

/// Removes the code that no component has; what stays. Nobody adds a component meanwhile.
async fn remove_code(store: &SqliteStore, blobs: &Blobs) -> Result<BTreeSet<Digest>, DeleteOrgError> {
    let code: BTreeSet<Digest> = store.named().await?.code.into_keys().collect();
    blobs.retain(code.clone(), Duration::ZERO).await?;
    Ok(code)
}
