//! Ends requests for approval whose time is up: one task of the host's, which sleeps until the next one is due.

use super::{Host, HostError};
use fumehood_core::now;
use fumehood_store::record::Turn;
use std::time::Duration;

/// Requests that are looked at together.
const PAGE: u32 = 100;
/// The longest sleep: the clock of the wall may be set, and does not stop when the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(10 * 60);
/// How long to leave alone what could not be read or ended.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

impl Host {
    /// Runs for as long as the host does.
    pub(in crate::host) async fn end_expired_approvals(&self) {
        loop {
            let sleep = self.end_due_approvals().await;
            tokio::select! {
                () = self.inner.closing.cancelled() => return,
                // A turn began to wait, perhaps for less long than those that are known.
                () = self.inner.expiry.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Ends those that are due, and says when to look again.
    async fn end_due_approvals(&self) -> Duration {
        let mut sleep = LONGEST_SLEEP;
        let mut after = None;
        loop {
            let page = match self.store().turns_waiting(after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "requests for approval can't be read");
                    return AFTER_FAILURE;
                }
            };
            let is_last = page.len() < PAGE as usize;
            for (turn, until) in page {
                let left = (until - now()).to_std().unwrap_or_default();
                if !left.is_zero() {
                    return sleep.min(left);
                }
                // THREAT[T-org-starve]: one that can't be ended keeps none of the others.
                if let Err(error) = self.end_due_approval(&turn).await {
                    tracing::error!(turn = %turn.id, %error, "a request for approval whose time is up can't be ended");
                    sleep = AFTER_FAILURE;
                }
                after = Some((until, turn.id));
            }
            if is_last {
                return sleep;
            }
        }
    }

    async fn end_due_approval(&self, turn: &Turn) -> Result<(), HostError> {
        match self.waiting(&turn.org, turn.id).await? {
            Ok(waiting) => self.expire(waiting).await,
            // Somebody else was first.
            Err(_) => Ok(()),
        }
    }
}
