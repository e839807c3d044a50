//! Ends requests for approval whose time is up: one task of the host's, which sleeps until the next one is due.

use super::Host;
use fumehood_core::now;
use std::time::Duration;

/// Requests that are looked at together.
const PAGE: u32 = 100;
/// The longest sleep: the clock of the wall may be set, and does not stop when the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(10 * 60);
/// How long to leave a store alone that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

impl Host {
    /// Runs for as long as the host does.
    pub(in crate::host) async fn end_expired_approvals(&self) {
        loop {
            let sleep = match self.end_due_approvals().await {
                Some(sleep) => sleep.min(LONGEST_SLEEP),
                None => AFTER_FAILURE,
            };
            tokio::select! {
                () = self.inner.closing.cancelled() => return,
                // A turn began to wait, perhaps for less long than those that are known.
                () = self.inner.expiry.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Ends those that are due, and says when the next one is; `None` if one could not be ended.
    async fn end_due_approvals(&self) -> Option<Duration> {
        loop {
            let page = self.store().turns_waiting(PAGE).await;
            let page = page
                .inspect_err(|error| tracing::error!(%error, "requests for approval can't be read"))
                .ok()?;
            let whole = page.len() < PAGE as usize;
            for (turn, until) in page {
                let left = (until - now()).to_std().unwrap_or_default();
                if !left.is_zero() {
                    return Some(left);
                }
                let expired = match self.waiting(&turn.org, turn.id).await {
                    Ok(Ok(waiting)) => self.expire(waiting).await,
                    // Somebody else was first.
                    Ok(Err(_)) => Ok(()),
                    Err(error) => Err(error),
                };
                if let Err(error) = expired {
                    tracing::error!(turn = %turn.id, %error, "a request for approval whose time is up can't be ended");
                    return None;
                }
            }
            if whole {
                return Some(LONGEST_SLEEP);
            }
        }
    }
}
