//! Deleting a session with everything in it.

use super::{CancelAt, Host, HostError};
use fumehood_core::{id::SessionId, name::OrgName};

impl Host {
    /// Deletes a session with everything in it. A turn that runs is cancelled.
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
            self.cancel_turn(org, turn.id, CancelAt::Now).await?;
        }
        self.delete_now(org, id).await
    }

    /// The files go out of reach first: a call that still runs must not write into what nobody owns any more. After a crash in
    /// between, they are put back at the next start, and the session is there to delete again.
    async fn delete_now(&self, org: &OrgName, id: SessionId) -> Result<(), HostError> {
        let files = &self.inner.workspaces;
        files.retire(id).await?;
        match self.inner.store.delete_session(org, id).await {
            Ok(true) => self.inner.caller.narrowings().forget(org, id),
            Ok(false) => return Err(HostError::NotFound("session")),
            Err(error) => {
                if let Err(error) = files.restore(id).await {
                    tracing::error!(%error, session = %id, "the files of a session that could not be deleted can't be put back");
                }
                return Err(error.into());
            }
        }
        files.purge(id).await?;
        Ok(())
    }
}
