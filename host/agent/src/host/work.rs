//! Turns at work: each by one task of the host's, of a session one at a time, the next when one ends.

use super::{Host, HostError};
use crate::{
    driver::Driver,
    recorder::Recorder,
    reins::{Control, Reins, control},
    telemetry::{self, OneMore},
    view::TurnView,
};
use fumehood_core::{
    id::{SessionId, TurnId},
    name::OrgName,
    turn::{TurnError, TurnErrorCode, TurnStatus},
};
use fumehood_store::record;
use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::{Arc, MutexGuard, PoisonError},
};
use tracing::Instrument as _;

/// When a cancelled turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CancelAt {
    /// At once: what runs is stopped.
    #[default]
    Now,
    /// Once the model has answered, and the calls of the step have ended.
    Boundary,
}

/// What a turn is taken up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Work,
    Cancel,
}

impl Host {
    /// Cancels a turn and waits until its end is recorded. A turn that has ended stays as it is; one that waits ends at once.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn cancel_turn(&self, org: &OrgName, id: TurnId, at: CancelAt) -> Result<TurnView, HostError> {
        let turn = self.inner.store.turn(org, id).await?;
        let turn = turn.ok_or(HostError::NotFound("turn"))?;
        match (at, turn.status) {
            (_, status) if status.is_terminal() => return self.turn(org, id).await,
            // One that a failing store left undriven is taken up again, to be ended.
            (CancelAt::Boundary, TurnStatus::Running) => self.drive(&turn).stop(),
            (CancelAt::Boundary | CancelAt::Now, _) => {
                self.take_up(&turn, To::Cancel);
            }
        }
        self.wait_until(org, id, TurnStatus::is_terminal).await
    }

    /// Goes on with the turns that an earlier process left, in every session with the oldest.
    pub(super) async fn go_on(&self) -> Result<(), HostError> {
        let left = [TurnStatus::Queued, TurnStatus::Running];
        let left = self.inner.store.turns_in(&left).await?;
        let sessions: BTreeSet<_> = left.into_iter().map(|turn| (turn.org, turn.session.uuid())).collect();
        for (org, session) in sessions {
            self.drive_next(&org, SessionId::from_uuid(session)).await?;
        }
        Ok(())
    }

    /// Sees to it that the session's oldest turn that hasn't ended is worked, if it waits for nobody else. Whoever adds a turn and
    /// whoever ends one asks afterwards, so the last of them finds what there is to do.
    pub(crate) async fn drive_next(&self, org: &OrgName, session: SessionId) -> Result<(), HostError> {
        self.drive_next_but(org, session, None).await
    }

    async fn drive_next_but(&self, org: &OrgName, session: SessionId, not: Option<TurnId>) -> Result<(), HostError> {
        if self.is_closing() || self.refuse_while_summed_up(session).is_err() {
            return Ok(());
        }
        if let Some(next) = self.inner.store.next_turn(org, session).await?
            && matches!(next.status, TurnStatus::Queued | TurnStatus::Running)
            && Some(next.id) != not
        {
            self.drive(&next);
        }
        Ok(())
    }

    /// Sees to it that a turn is worked, whose turn it is.
    pub(crate) fn drive(&self, turn: &record::Turn) -> Control {
        self.take_up(turn, To::Work)
    }

    /// By one task of the host's, however often it is asked for.
    fn take_up(&self, turn: &record::Turn, to: To) -> Control {
        let (control, reins) = match self.running().entry(turn.id) {
            Entry::Occupied(working) => {
                let control = working.get().clone();
                if to == To::Cancel {
                    control.cancel();
                }
                return control;
            }
            Entry::Vacant(free) => {
                let (control, reins) = control();
                // Before anybody can see it: a turn that waits must not begin on its way to its end.
                if to == To::Cancel {
                    control.cancel();
                }
                free.insert(control.clone());
                (control, reins)
            }
        };
        let (host, turn) = (self.clone(), turn.clone());
        let span = telemetry::turn_span(&turn);
        let work = async move {
            let (org, session, id) = (turn.org.clone(), turn.session, turn.id);
            let left_turn = turn.clone();
            let running = OneMore::turn();
            // Closing drops the work where it is: the journal knows how far it came.
            let work = Box::pin(host.work(turn, reins));
            let work = host.inner.closing.run_until_cancelled(work).await;
            // One that can't be worked is not taken up again at once; one that was resumed in the moment in which it parked is.
            let mut not = None;
            let parked = matches!(work, Some(Ok(TurnStatus::AwaitingApproval)));
            if parked {
                host.inner.expiry.notify_one();
            }
            if let Some(Err(error)) = work {
                tracing::error!(turn = %id, %error, "the turn could not be worked to its end; the next start goes on with it");
                not = Some(id);
            }
            let left = host.running().remove(&id);
            drop(running);
            // Cancelled in the moment in which it parked.
            if parked && left.is_some_and(|control| control.is_cancelled()) {
                host.take_up(&left_turn, To::Cancel);
            }
            if let Err(error) = host.drive_next_but(&org, session, not).await {
                tracing::error!(%session, %error, "the session's next turn could not be begun; the next one, or the next start, does it");
            }
        };
        self.inner.tasks.spawn(work.instrument(span));
        control
    }

    async fn work(&self, turn: record::Turn, reins: Reins) -> Result<TurnStatus, HostError> {
        let inner = &self.inner;
        let (store, hub) = (Arc::clone(&inner.store), Arc::clone(&inner.hub));
        let caller = Arc::clone(&inner.caller);
        let mut recorder = Recorder::open(store, caller, hub, turn.org.clone(), turn.session, turn.id).await?;
        if recorder.machine.has_ended() {
            return Ok(recorder.machine.status());
        }
        if reins.cancel.is_cancelled() {
            let events = recorder.machine.cancellation();
            recorder.record(events).await?;
            return Ok(recorder.machine.status());
        }
        match self.plan(&turn).await.inspect(telemetry::turn_planned) {
            Ok(plan) => Ok(Driver::new(plan, Arc::clone(&inner.caller), recorder, reins)
                .run()
                .await?),
            Err(HostError::Store(error)) => Err(error.into()),
            Err(error) => {
                let error = TurnError {
                    code: TurnErrorCode::Configuration,
                    message: error.to_string(),
                };
                let events = recorder.machine.failure(error);
                recorder.record(events).await?;
                Ok(recorder.machine.status())
            }
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<TurnId, Control>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
