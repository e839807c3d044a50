//! Deleting a session with everything in it.

use super::{CancelAt, Host, HostError};
use fumehood_core::{
    id::{SessionId, TurnId},
    name::OrgName,
};
use std::{sync::Arc, time::Duration};

/// How long a turn may take to record its end. One whose journal can't be read never does.
const PATIENCE: Duration = Duration::from_secs(5);

impl Host {
    /// Deletes a session with everything in it. A turn that runs is cancelled; one that can't even be cancelled, since its journal can't
    /// be read, goes as it is.
    ///
    /// Dropped before its end, either nothing was deleted or all is.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn delete_session(&self, org: &OrgName, id: SessionId) -> Result<(), HostError> {
        self.session(org, id).await?;
        // THREAT[T-org-deleted-session]: a client that goes away must not leave a session without its files.
        let (host, org) = (self.clone(), org.clone());
        self.to_the_end(async move { host.delete_in_order(&org, id).await })
            .await
    }

    /// No turn is accepted between the end of the last one and that of the session.
    async fn delete_in_order(&self, org: &OrgName, id: SessionId) -> Result<(), HostError> {
        let _in_order = self.in_order(id).await;
        let turns = self.inner.store.turns(org, id).await?;
        // Those that wait first, so that none of them begins.
        for turn in turns.iter().rev().filter(|turn| !turn.status.is_terminal()) {
            self.end_for_deletion(org, turn.id).await?;
        }
        let (store, owner) = (Arc::clone(self.store()), org.clone());
        let deleted = self
            .delete_with_files(org, id, async move { Ok(store.delete_session(&owner, id).await?) })
            .await?;
        if deleted {
            Ok(())
        } else {
            Err(HostError::NotFound("session"))
        }
    }

    /// Whoever follows the turn is told of its end, where there is a journal to tell it.
    async fn end_for_deletion(&self, org: &OrgName, turn: TurnId) -> Result<(), HostError> {
        let cancelling = self.cancel_turn(org, turn, CancelAt::Now);
        match tokio::time::timeout(PATIENCE, cancelling).await {
            Ok(Err(HostError::ShuttingDown)) => Err(HostError::ShuttingDown),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%turn, %error, "a turn can't be cancelled; it goes with its session");
                Ok(())
            }
            Err(_) => {
                tracing::warn!(%turn, "a turn does not come to its end; it goes with its session");
                Ok(())
            }
        }
    }

    /// The files go out of reach first: a call that still runs must not write into what nobody owns any more. After a crash in
    /// between, they are put back at the next start, and the session is there to delete again.
    ///
    /// Says whether `decide` has deleted it; if not, its files are as they were.
    pub(super) async fn delete_with_files(
        &self,
        org: &OrgName,
        id: SessionId,
        decide: impl Future<Output = Result<bool, HostError>>,
    ) -> Result<bool, HostError> {
        let files = &self.inner.workspaces;
        files.retire(id).await?;
        let decided = decide.await;
        if !matches!(decided, Ok(true)) {
            if let Err(error) = files.restore(id).await {
                tracing::error!(%error, session = %id, "the files of a session that was not deleted can't be put back");
            }
            return decided;
        }
        // Decided: none of its jobs is taken any more, and one that was taken just before sees that its session is gone.
        self.inner.jobs.stop_of(id);
        self.inner.caller.narrowings().forget(org, id);
        files.purge(id).await?;
        Ok(true)
    }
}
