//! Writing a session whose files are there already: both, or neither.

use super::{Host, HostError};
use fumehood_core::event::NewEvent;
use fumehood_store::{StoreError, record::Session, workspace::Starter};

impl Host {
    /// Makes a session with the files it begins with.
    pub(super) async fn begin_session(
        &self,
        session: Session,
        starter: Vec<Starter>,
        created: NewEvent,
    ) -> Result<Session, HostError> {
        // Placed before anybody can find the session: a tool may rely on them.
        if !starter.is_empty() {
            self.inner.workspaces.start_with(session.id, starter).await?;
        }
        self.write_session(&session, &[created]).await?;
        Ok(session)
    }

    /// Writes a session; if that fails, the files that were made for it go. What a crash leaves of them goes at the next start.
    pub(crate) async fn write_session(&self, session: &Session, events: &[NewEvent]) -> Result<(), HostError> {
        let files = &self.inner.workspaces;
        // THREAT[T-org-sessions]: whichever way one is made.
        let most = self.caller().limits().sessions(&session.org);
        match self.inner.store.create_session_within(session, most, events).await {
            Ok(events) => {
                self.publish(events);
                files.settle(session.id).await;
                Ok(())
            }
            Err(error) => {
                if let Err(error) = files.remove(session.id).await {
                    tracing::error!(%error, session = %session.id, "the files of a session that could not be made are left");
                }
                Err(match error {
                    StoreError::TooMany { limit, .. } => HostError::TooManySessions(limit),
                    error => error.into(),
                })
            }
        }
    }
}
