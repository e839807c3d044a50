//! Going on with what is left: all of it by a host that serves, one session's by a host that was started for one command.

use super::{Host, HostError, waiting::Waits};
use fumehood_core::{
    id::{SessionId, TurnId},
    name::OrgName,
    now,
    turn::TurnStatus,
};
/// Turns that are looked for at once.
const AT_ONCE: u32 = 256;
/// The states of a turn that is to be worked.
const TO_WORK: [TurnStatus; 2] = [TurnStatus::Queued, TurnStatus::Running];

impl Host {
    /// Goes on with every turn that an earlier process left unfinished, in every session with the oldest, and from now on with what
    /// comes next by itself: queued turns, turns whose holder is gone, those that have waited long enough for somebody, schedules that
    /// are due, what webhooks are to be told, and what is too old.
    ///
    /// For a host that stays, once all it works with is there: a turn is gone on with by the tools that are installed at that moment.
    ///
    /// # Errors
    /// When the store can't be read. Once it can, this may be called again.
    pub async fn recover(&self) -> Result<(), HostError> {
        if self.inner.recovers.set(()).is_ok() {
            let expiring = self.clone();
            self.tasks()
                .spawn(async move { expiring.end_long_waits(Waits::All).await });
            let firing = self.clone();
            self.tasks().spawn(async move { firing.fire_schedules().await });
            let telling = self.clone();
            self.tasks().spawn(async move { telling.tell_webhooks().await });
            let running = self.clone();
            self.tasks().spawn(async move { running.run_jobs().await });
            let keeping = self.clone();
            self.tasks().spawn(async move { keeping.keep_house().await });
        }
        self.take_up_what_is_left().await
    }

    /// Goes on with what is to be worked and held by nobody, in each session with the oldest; and ends what is to be cancelled.
    pub(super) async fn take_up_what_is_left(&self) -> Result<(), HostError> {
        self.end_what_is_to_be_cancelled().await?;
        let (at, mut after) = (now(), None);
        loop {
            let left = self.store().turns_to_take(at, after, AT_ONCE).await?;
            for turn in &left {
                self.drive_next(&turn.org, turn.session).await?;
            }
            match left.last() {
                Some(last) if left.len() == AT_ONCE as usize => after = Some(last.id),
                _ => return Ok(()),
            }
        }
    }

    /// Also what waits for somebody, or behind another turn.
    async fn end_what_is_to_be_cancelled(&self) -> Result<(), HostError> {
        let mut after = None;
        loop {
            let left = self.store().turns_to_cancel(after, AT_ONCE).await?;
            for (turn, at) in &left {
                self.end_as_asked(turn, *at);
            }
            match left.last() {
                Some((last, _)) if left.len() == AT_ONCE as usize => after = Some(last.id),
                _ => return Ok(()),
            }
        }
    }

    /// Whether it goes on with what nobody asks for just now. A host for one command ends with it, and would only cut off what it
    /// began besides.
    pub(super) fn recovers(&self) -> bool {
        self.inner.recovers.get().is_some()
    }

    /// Works what is left in one session, to its end or until it waits for somebody, and says which turns that were.
    ///
    /// # Errors
    /// [`HostError::ShuttingDown`] if the host closes first; when the store can't be read.
    pub async fn finish_session(&self, org: &OrgName, session: SessionId) -> Result<Vec<TurnId>, HostError> {
        let mut finished = Vec::new();
        while let Some(left) = self.store().next_turn(org, session).await?
            && TO_WORK.contains(&left.status)
        {
            self.drive(&left);
            self.wait_for_turn(org, left.id).await?;
            finished.push(left.id);
        }
        Ok(finished)
    }
}
