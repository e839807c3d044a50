//! Turns at work: each by one task of the host's, of a session one at a time, the next when one ends.

use super::{
    Host, HostError,
    leases::{Alone, Company, Hold, led_nowhere},
};
use crate::{
    driver::{CutOff, Driver, Setback},
    machine::TurnMachine,
    recorder::Recorder,
    reins::{Control, Reins, control},
    telemetry::{self, OneMore},
    view::TurnView,
};
use fumehood_core::{
    event::{EventBody, NewEvent, Source},
    id::{SessionId, TurnId},
    name::OrgName,
    turn::{TurnError, TurnErrorCode, TurnStatus},
};
use fumehood_store::{
    StoreError,
    lease::Fence,
    record::{self, CancelAt},
};
use futures::FutureExt as _;
use std::{
    collections::{HashMap, hash_map::Entry},
    panic::AssertUnwindSafe,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};
use tracing::Instrument as _;

/// How a host bears with a store that takes nothing for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long what happened in a turn is held that the store can't take, before the work on the turn is given up.
    pub held: Duration,
    /// When a turn is taken up again that could not be worked on.
    pub again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            held: Duration::from_secs(60),
            again: Duration::from_secs(5),
        }
    }
}

/// Why a turn was left that has neither ended nor waits.
struct Left {
    error: HostError,
    setback: Setback,
}

impl From<HostError> for Left {
    fn from(error: HostError) -> Self {
        Self {
            error,
            setback: Setback::Stopped,
        }
    }
}

impl From<StoreError> for Left {
    fn from(error: StoreError) -> Self {
        HostError::from(error).into()
    }
}

impl From<CutOff> for Left {
    fn from(cut_off: CutOff) -> Self {
        Self {
            error: cut_off.error.into(),
            setback: cut_off.setback,
        }
    }
}

/// What a turn is taken up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Work,
    Cancel,
}

impl Host {
    /// Cancels a turn and waits until its end is recorded. A turn that has ended stays as it is; one that waits ends at once. Dropped
    /// before its end, what was asked for is known also to who goes on with the turn after a stop of this host.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; when the store can't keep it: then the turn ends all the same, unless this host does first.
    pub async fn cancel_turn(&self, org: &OrgName, id: TurnId, at: CancelAt) -> Result<TurnView, HostError> {
        let turn = self.inner.store.turn(org, id).await?;
        let turn = turn.ok_or(HostError::NotFound("turn"))?;
        if turn.status.is_terminal() {
            return self.turn(org, id).await;
        }
        let at = match turn.status {
            TurnStatus::Running => at,
            _ => CancelAt::Now,
        };
        let kept = self.inner.store.keep_cancel(org, id, at).await;
        self.end_as_asked(&turn, at);
        kept?;
        self.wait_until(org, id, TurnStatus::is_terminal).await
    }

    /// Sees to it that a turn ends that is to be cancelled. One that nobody works is taken up, to be ended.
    pub(super) fn end_as_asked(&self, turn: &record::Turn, at: CancelAt) {
        match (at, turn.status) {
            (CancelAt::Boundary, TurnStatus::Running) => self.drive(turn).stop(),
            (CancelAt::Boundary | CancelAt::Now, _) => {
                self.take_up(turn, To::Cancel);
            }
        }
    }

    /// Sees to it that the session's oldest turn that hasn't ended is worked, if it waits for nobody else. Whoever adds a turn and
    /// whoever ends one asks afterwards, so the last of them finds what there is to do.
    pub(crate) async fn drive_next(&self, org: &OrgName, session: SessionId) -> Result<(), HostError> {
        self.drive_next_but(org, session, None).await
    }

    /// The same for what comes after something that was done, where the host goes on by itself.
    pub(crate) async fn drive_following(
        &self,
        org: &OrgName,
        session: SessionId,
        not: Option<TurnId>,
    ) -> Result<(), HostError> {
        if self.recovers() {
            self.drive_next_but(org, session, not).await
        } else {
            Ok(())
        }
    }

    async fn drive_next_but(&self, org: &OrgName, session: SessionId, not: Option<TurnId>) -> Result<(), HostError> {
        if self.is_draining() || self.refuse_while_summed_up(session).is_err() {
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
        self.take_up_after(Setback::Stopped, turn, to)
    }

    /// The same after what kept it from coming any further.
    fn take_up_after(&self, setback: Setback, turn: &record::Turn, to: To) -> Control {
        let (control, reins) = match self.running().entry(turn.id) {
            Entry::Occupied(working) => {
                let control = working.get().clone();
                if to == To::Cancel {
                    control.cancel();
                }
                return control;
            }
            Entry::Vacant(free) => {
                let (control, reins) = control(&self.inner.draining);
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
        let at_work = AtWork::new(self, turn.id);
        let counted = self.inner.working.token();
        let work = async move {
            host.work_and_go_on(turn, setback, reins, at_work).await;
            drop(counted);
        };
        self.inner.tasks.spawn(work.instrument(span));
        control
    }

    /// Works the turn, and sees to what comes after it in its session.
    async fn work_and_go_on(self, turn: record::Turn, setback: Setback, reins: Reins, at_work: AtWork) {
        let (org, session, id) = (turn.org.clone(), turn.session, turn.id);
        let running = OneMore::turn();
        // Closing drops the work where it is: the journal knows how far it came.
        let work = Box::pin(AssertUnwindSafe(self.work(&turn, setback, reins)).catch_unwind());
        let work = self.inner.closing.run_until_cancelled(work).await;
        // What broke is dropped. It is gone on with as after a stop of the host, by whatever clock, and counted as that.
        let work = work.map(|unbroken| unbroken.unwrap_or_else(|_| Err(HostError::Fault.into())));
        let parked = matches!(
            work,
            Some(Ok(TurnStatus::AwaitingApproval | TurnStatus::AwaitingResults))
        );
        if parked {
            self.inner.expiry.notify_one();
        }
        let to_end = at_work.leave().is_some_and(|control| control.is_to_end());
        drop(running);
        let mut not = None;
        let work = work.map(|work| work.map_err(|left| (left.error, left.setback)));
        match work {
            // To be ended since the moment in which it parked.
            Some(Ok(_)) if parked && to_end => {
                self.take_up(&turn, To::Cancel);
            }
            // The session was deleted, and the turn with it.
            Some(Err((HostError::Store(error @ StoreError::Gone { .. }), _))) => {
                tracing::debug!(turn = %id, %error, "the turn is gone");
                not = Some(id);
            }
            Some(Err((HostError::Store(error @ StoreError::Lost), _))) => {
                tracing::warn!(turn = %id, %error, "another host works the turn");
                not = Some(id);
            }
            Some(Err((error @ HostError::Store(StoreError::Corrupt { .. }), _))) => {
                tracing::error!(turn = %id, %error, "the turn can't be worked on");
                not = Some(id);
            }
            Some(Err((error, setback))) => {
                tracing::error!(turn = %id, %error, "the turn could not be worked on; it is tried again soon");
                let to = if to_end { To::Cancel } else { To::Work };
                self.try_again(turn, to, setback);
                // Not before that.
                not = Some(id);
            }
            _ => {}
        }
        if let Err(error) = self.drive_following(&org, session, not).await {
            tracing::error!(%session, %error, "the session's next turn could not be begun; the next one, or the next start, does it");
        }
    }

    /// Takes a turn up again that could not be worked on: most likely the store could not be written, and will be soon.
    fn try_again(&self, turn: record::Turn, to: To, setback: Setback) {
        let host = self.clone();
        let later = async move {
            let wait = tokio::time::sleep(host.inner.patience.again);
            if host.inner.closing.run_until_cancelled(wait).await.is_some() {
                host.take_up_after(setback, &turn, to);
            }
        };
        self.inner.tasks.spawn(later.in_current_span());
    }

    /// Takes the turn and works it. What comes of it is in the journal, or was lost to another host.
    async fn work(&self, turn: &record::Turn, setback: Setback, reins: Reins) -> Result<TurnStatus, Left> {
        if reins.leaves() && !reins.cancel.is_cancelled() {
            return Ok(turn.status);
        }
        let Some((hold, alone)) = self.hold_in_turn(turn, &reins).await? else {
            return Ok(turn.status);
        };
        let (fence, seal) = match hold {
            Hold::Work(fence, cancel, _) => {
                reins.asked_to_cancel(cancel);
                (fence, None)
            }
            Hold::Seal(fence) => (fence, Some(led_nowhere(setback))),
            Hold::Ended => {
                let ended = self.inner.store.turn(&turn.org, turn.id).await?;
                return Ok(ended.map_or(turn.status, |turn| turn.status));
            }
        };
        let recorder = self.record_for(turn, fence).await;
        let worked = match (recorder, seal) {
            (Err(StoreError::Corrupt { reason }), _) => self.end_unread(turn, fence, &reason).await.map_err(Left::from),
            (Err(error), _) => Err(error.into()),
            (Ok(recorder), _) if recorder.machine.has_ended() => Ok(recorder.machine.status()),
            (Ok(recorder), _) if reins.cancel.is_cancelled() => {
                self.cancel_held(turn, fence, recorder).await.map_err(Left::from)
            }
            (Ok(recorder), Some((error, why))) => {
                tracing::error!(turn = %turn.id, "a turn is given up: {}", error.message);
                let end = |machine: &TurnMachine| machine.failure_of_calls(error, &why);
                self.end_without_work(recorder, end).await.map_err(Left::from)
            }
            (Ok(recorder), None) => match alone {
                None => self.work_held(turn, reins, recorder).await,
                Some(alone) => tokio::select! {
                    worked = self.work_held(turn, reins, recorder) => worked,
                    never = alone.for_a_while() => match never {},
                },
            },
        };
        if let Err(left) = &worked
            && matches!(left.error, HostError::Store(StoreError::Unavailable { .. }))
            && left.setback == Setback::Stopped
        {
            // That is not the turn's doing. One of which the store took less than its taking counts: what it did is done again.
            self.let_go(fence).await;
        }
        worked
    }

    /// Takes the turn, with the right to work it alone where it needs that. None where the host is to end first.
    // THREAT[T-org-starve]: one that ends its host each time would take those with it that are worked beside it.
    async fn hold_in_turn(
        &self,
        turn: &record::Turn,
        reins: &Reins,
    ) -> Result<Option<(Hold, Option<Alone>)>, StoreError> {
        let mut alone = None;
        loop {
            let hold = self.hold(turn).await?;
            let Hold::Work(fence, _, Company::NoSuspect) = hold else {
                return Ok(Some((hold, alone)));
            };
            alone = alone.or_else(|| self.alone());
            if alone.is_some() || reins.cancel.is_cancelled() {
                return Ok(Some((hold, alone)));
            }
            // Not held while it waits, so that a stop of the host meanwhile does not count against it.
            self.let_go(fence).await;
            tokio::select! {
                in_turn = self.alone_in_turn() => alone = in_turn,
                () = reins.cancel.cancelled() => {}
                () = self.inner.draining.cancelled() => return Ok(None),
            }
        }
    }

    /// Ends a turn whose journal can't be read: nothing is known of it, so nothing is said but that.
    async fn end_unread(&self, turn: &record::Turn, fence: Fence, why: &str) -> Result<TurnStatus, StoreError> {
        tracing::error!(turn = %turn.id, why, "a turn ends because its journal can't be read; `fumehood doctor --store` looks at all of it");
        let failed = NewEvent {
            turn: Some(turn.id),
            source: Source::Host,
            body: EventBody::TurnFailed {
                error: unreadable(),
                usage: None,
                cost: None,
                worked_ms: None,
            },
        };
        let store = &self.inner.store;
        let ended = store.append_held(&turn.org, turn.session, fence, &[failed]).await?;
        self.publish(ended);
        Ok(TurnStatus::Failed)
    }

    /// Ends a turn that nobody works if it is its journal that can't be read; else it stays, for this reason.
    ///
    /// # Errors
    /// The reason; when the end can't be written.
    pub(super) async fn end_if_unread(&self, turn: &record::Turn, reason: StoreError) -> Result<(), HostError> {
        let (Hold::Work(fence, ..) | Hold::Seal(fence)) = self.hold(turn).await? else {
            return Ok(());
        };
        match self.record_for(turn, fence).await {
            Err(StoreError::Corrupt { reason }) => {
                self.end_unread(turn, fence, &reason).await?;
                self.drive_following(&turn.org, turn.session, Some(turn.id)).await
            }
            _ => {
                self.let_go(fence).await;
                Err(reason.into())
            }
        }
    }

    async fn record_for(&self, turn: &record::Turn, fence: Fence) -> Result<Recorder, StoreError> {
        let inner = &self.inner;
        let (store, hub) = (Arc::clone(&inner.store), Arc::clone(&inner.hub));
        let caller = Arc::clone(&inner.caller);
        let written = (fence, inner.patience.held);
        Recorder::open(store, caller, hub, turn.org.clone(), turn.session, written).await
    }

    /// Cancels a turn, which may wait: what it waits for may come in the same moment, and then it is cancelled as it is after that.
    async fn cancel_held(
        &self,
        turn: &record::Turn,
        fence: Fence,
        mut recorder: Recorder,
    ) -> Result<TurnStatus, HostError> {
        while !recorder.machine.has_ended() {
            let events = recorder.machine.cancellation();
            if recorder.record_if_unchanged(events).await? {
                self.tell_end(&turn.org, turn.session, turn.id).await;
            } else {
                recorder = self.record_for(turn, fence).await?;
            }
        }
        Ok(recorder.machine.status())
    }

    async fn end_without_work(
        &self,
        mut recorder: Recorder,
        end: impl FnOnce(&TurnMachine) -> Vec<NewEvent>,
    ) -> Result<TurnStatus, HostError> {
        let events = end(&recorder.machine);
        recorder.record(events).await?;
        let (org, session, turn) = recorder.whose();
        self.tell_end(org, session, turn).await;
        Ok(recorder.machine.status())
    }

    async fn work_held(&self, turn: &record::Turn, reins: Reins, recorder: Recorder) -> Result<TurnStatus, Left> {
        let plan = self.plan(turn, recorder.machine.agent()).await;
        match plan.inspect(telemetry::turn_planned) {
            Ok(plan) => Ok(Driver::new(plan, Arc::clone(&self.inner.caller), recorder, reins)
                .run()
                .await?),
            Err(HostError::Store(error)) => Err(error.into()),
            Err(error) => {
                let error = TurnError {
                    code: TurnErrorCode::Configuration,
                    message: error.to_string(),
                };
                let end = |machine: &TurnMachine| machine.failure(error);
                self.end_without_work(recorder, end).await.map_err(Left::from)
            }
        }
    }

    pub(super) fn running(&self) -> MutexGuard<'_, HashMap<TurnId, Control>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a turn failed of which nothing is known but that.
pub(super) fn unreadable() -> TurnError {
    TurnError {
        code: TurnErrorCode::JournalUnreadable,
        message: "the session's journal can't be read, so the host can't tell how far the turn came; calls of it may have taken effect. \
                  The operator finds what is damaged with `fumehood doctor --store`"
            .into(),
    }
}

/// The place of a turn among those at work; given up in any case, also when working it breaks.
struct AtWork {
    host: Host,
    turn: Option<TurnId>,
}

impl AtWork {
    fn new(host: &Host, turn: TurnId) -> Self {
        Self {
            host: host.clone(),
            turn: Some(turn),
        }
    }

    /// Gives the place up, and says what was asked of the turn.
    fn leave(mut self) -> Option<Control> {
        let turn = self.turn.take()?;
        self.host.running().remove(&turn)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.host.running().remove(&turn);
        }
    }
}
