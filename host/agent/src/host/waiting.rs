//! Turns that wait for somebody outside: for a decision, or for results. Nothing of them is held but their rows.
//!
//! One task of the host's ends those that have waited long enough; it sleeps until the next one is due: in all sessions where the host
//! serves, in one where it was started for a command. A new input ends them as well.

use super::{Host, HostError};
use fumehood_core::{
    id::{SessionId, TurnId},
    name::OrgName,
    now,
    turn::TurnStatus,
};
use fumehood_store::{
    StoreError,
    record::{Ending, Turn},
};
use std::time::Duration;

/// Turns that are looked at together.
const PAGE: u32 = 100;
/// The longest sleep: the clock of the wall may be set, and does not stop when the machine sleeps.
const LONGEST_SLEEP: Duration = Duration::from_secs(10 * 60);
/// How long to leave alone what could not be read or ended.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Whose waits a host ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waits {
    All,
    OfSession(SessionId),
}

impl Waits {
    fn include(self, turn: &Turn) -> bool {
        match self {
            Self::All => true,
            Self::OfSession(session) => turn.session == session,
        }
    }
}

impl Host {
    /// From now on ends what waits too long in one session, and goes on with its turn: for a host of one command, which leaves other
    /// sessions alone. The first session is the only one; a host that [goes on with all](Host::recover) needs none.
    pub fn end_waits_of(&self, session: SessionId) {
        if !self.recovers() && self.inner.tended.set(session).is_ok() {
            let expiring = self.clone();
            self.tasks()
                .spawn(async move { expiring.end_long_waits(Waits::OfSession(session)).await });
        }
    }

    /// Runs for as long as the host does.
    pub(super) async fn end_long_waits(&self, waits: Waits) {
        loop {
            let sleep = self.end_due(waits).await;
            tokio::select! {
                () = self.inner.closing.cancelled() => return,
                // A turn began to wait, perhaps for less long than those that are known.
                () = self.inner.expiry.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Ends those that are due, and says when to look again.
    async fn end_due(&self, waits: Waits) -> Duration {
        let mut sleep = self.take_in_what_was_brought(waits).await;
        let mut after = None;
        loop {
            let page = match self.store().turns_waiting(after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(%error, "the turns that wait can't be read");
                    return AFTER_FAILURE;
                }
            };
            let is_last = page.len() < PAGE as usize;
            for (turn, until) in page {
                after = Some((until, turn.id));
                if !waits.include(&turn) {
                    continue;
                }
                let left = (until - now()).to_std().unwrap_or_default();
                if !left.is_zero() {
                    return sleep.min(left);
                }
                // THREAT[T-org-starve]: one that can't be ended keeps none of the others.
                let ended = match self.end_wait(&turn).await {
                    // There is nothing to go on with.
                    Err(HostError::Store(error @ StoreError::Corrupt { .. })) => self.end_if_unread(&turn, error).await,
                    ended => ended,
                };
                if let Err(error) = ended {
                    tracing::error!(turn = %turn.id, %error, "a turn that has waited long enough can't go on");
                    sleep = AFTER_FAILURE;
                }
            }
            if is_last {
                return sleep;
            }
        }
    }

    /// Goes on with turns that have been brought results, which nobody has told them: because they did not wait yet, or because a host
    /// stopped in between. Says for how long there is nothing more of that.
    async fn take_in_what_was_brought(&self, waits: Waits) -> Duration {
        let (mut after, mut sleep) = (None, LONGEST_SLEEP);
        loop {
            let turns = match self.store().turns_given(after, PAGE).await {
                Ok(turns) => turns,
                Err(error) => {
                    tracing::error!(%error, "the turns that were brought results can't be read");
                    return AFTER_FAILURE;
                }
            };
            for turn in turns.iter().filter(|turn| waits.include(turn)) {
                if let Err(error) = self.take_in(turn).await {
                    tracing::error!(turn = %turn.id, %error, "a turn that was brought a result can't go on");
                    sleep = AFTER_FAILURE;
                }
            }
            after = turns.last().map(|turn| turn.id);
            if turns.len() < PAGE as usize {
                return sleep;
            }
        }
    }

    async fn end_wait(&self, turn: &Turn) -> Result<(), HostError> {
        match turn.status {
            TurnStatus::AwaitingResults => self.end_due_results(turn).await,
            _ => self.end_due_decision(turn).await,
        }
    }

    /// What ends a turn that waits when a new input comes instead; `None` for one that does not wait.
    pub(crate) async fn abandonment(&self, org: &OrgName, turn: TurnId) -> Result<Option<Ending>, HostError> {
        match self.decision_abandoned(org, turn).await? {
            Some(ending) => Ok(Some(ending)),
            None => self.results_abandoned(org, turn).await,
        }
    }
}
