//! The one way a turn's facts become durable: appended to the journal first, then folded, then shown. What nobody waits for between two
//! of them is folded at once and appended with the next ([`Recorder::hold_back`]): a step costs the disk as few writes as it can.

use crate::{
    caller::Caller, context::Reported, hub::Hub, jobs, machine::TurnMachine, redact, telemetry, transcript::Transcript,
    worked::Worked,
};
use fumehood_core::{
    content::Content,
    digest::Digest,
    event::{Event, EventBody, NewEvent, Source},
    id::{EventId, SessionId, TurnId},
    message::Message,
    name::{OrgName, ToolName},
    now,
    rewind::PassedOver,
    turn::Note,
};
use fumehood_egress::LeakGuard;
use fumehood_store::{
    Store, StoreError,
    jobs::JobState,
    lease::Fence,
    record::{Added, Addition, Seen},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The journal of one turn being driven, with what is known from it.
pub(crate) struct Recorder {
    store: Arc<dyn Store>,
    caller: Arc<Caller>,
    hub: Arc<Hub>,
    org: OrgName,
    session: SessionId,
    turn: TurnId,
    /// What everything is written under.
    fence: Fence,
    pub(crate) machine: TurnMachine,
    /// The place of the turn's last event.
    seq: u64,
    transcript: Transcript,
    worked: Duration,
    /// Of that, what budgets count.
    counted: Duration,
    begun: Instant,
    /// How long what happened is held that the store can't take.
    patience: Duration,
    /// Whether something that happened was not written.
    refused: bool,
    /// What is folded, and becomes durable with what is recorded next.
    held_back: Vec<NewEvent>,
}

impl Recorder {
    /// Reads the session's journal and folds it.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        caller: Arc<Caller>,
        hub: Arc<Hub>,
        org: OrgName,
        session: SessionId,
        (fence, patience): (Fence, Duration),
    ) -> Result<Self, StoreError> {
        let turn = fence.turn();
        let mut machine = TurnMachine::new(turn);
        let (mut transcript, mut worked) = (Transcript::default(), Worked::default());
        let mut counted = 0;
        let mut seq = 0;
        for_each_page(&*store, &org, session, |events| {
            let last = events.iter().rev().find(|event| event.turn == Some(turn));
            seq = last.and_then(|event| event.seq).unwrap_or(seq);
            machine.apply_all(events);
            transcript.apply_all(events);
            for event in events.iter().filter(|event| event.turn == Some(turn)) {
                worked.apply(&event.body, event.time);
                counted = event.body.worked_ms().unwrap_or(0).max(counted);
            }
        })
        .await?;
        machine.taken_up();
        Ok(Self {
            store,
            caller,
            hub,
            org,
            session,
            turn,
            fence,
            machine,
            seq,
            transcript,
            worked: worked.so_far(),
            counted: Duration::from_millis(counted),
            begun: Instant::now(),
            patience,
            refused: false,
            held_back: Vec::new(),
        })
    }

    /// Makes events durable, after what was held back, in one; folds them and shows them, the values of secrets taken out. Nothing of a
    /// turn that another host has taken meanwhile ([`StoreError::Lost`]).
    ///
    /// Not cancel-safe: a dropped append may or may not have happened, so the driver never drops one.
    pub(crate) async fn record(&mut self, mut events: Vec<NewEvent>) -> Result<(), StoreError> {
        self.time(&mut events);
        match events.is_empty() {
            true => Ok(()),
            false => self.append(events).await,
        }
    }

    /// Says in events from which budgets count it how long the turn has been worked.
    fn time(&self, events: &mut [NewEvent]) {
        let so_far = u64::try_from(self.worked_so_far().as_millis()).unwrap_or(u64::MAX);
        for event in events.iter_mut().filter(|event| event.turn == Some(self.turn)) {
            event.body.set_worked_ms(so_far);
        }
    }

    /// Folds events that become durable with what is recorded next, in one append, and are shown then. Only for what decides by itself
    /// what comes next: whoever waits for anything has it written before ([`Recorder::settle`]).
    ///
    /// Not cancel-safe, as [`Recorder::record`].
    // THREAT[T-sec-exfiltration]
    pub(crate) async fn hold_back(&mut self, mut events: Vec<NewEvent>) -> Result<(), StoreError> {
        self.time(&mut events);
        if self.clean(&mut events).await.is_err() {
            // The store can't tell the secrets just now: writing has the patience to wait until it can.
            return self.record(events).await;
        }
        for event in events {
            self.fold(event.turn, &event.body);
            self.held_back.push(event);
        }
        Ok(())
    }

    /// Makes durable what was held back.
    ///
    /// Not cancel-safe, as [`Recorder::record`].
    pub(crate) async fn settle(&mut self) -> Result<(), StoreError> {
        match self.is_settled() {
            true => Ok(()),
            false => self.append(Vec::new()).await,
        }
    }

    /// Whether nothing is held back.
    pub(crate) const fn is_settled(&self) -> bool {
        self.held_back.is_empty()
    }

    async fn append(&mut self, new: Vec<NewEvent>) -> Result<(), StoreError> {
        let folded = self.held_back.len();
        let mut events = std::mem::take(&mut self.held_back);
        events.extend(new);
        let written = match self.write(&mut events).await {
            Ok(written) => written,
            Err(error) => {
                self.refused |= matches!(error, StoreError::Unavailable { .. });
                events.truncate(folded);
                self.held_back = events;
                return Err(error);
            }
        };
        for (place, event) in written.into_iter().enumerate() {
            if place >= folded {
                self.fold(event.turn, &event.body);
            }
            self.show_durable(event);
        }
        Ok(())
    }

    /// Makes durable, in one, that a call runs in the background and what its turn gets for now; false if the org has `most` such calls
    /// without an end.
    ///
    /// Not cancel-safe, as [`Recorder::record`].
    pub(crate) async fn record_job(&mut self, mut events: Vec<NewEvent>, most: u64) -> Result<bool, StoreError> {
        self.settle().await?;
        self.clean(&mut events).await?;
        let (org, session, fence) = (&self.org, self.session, self.fence);
        let queued = self.store.queue_job(org, session, fence, most, &events).await;
        self.refused |= matches!(queued, Err(StoreError::Unavailable { .. }));
        let queued = queued?;
        let has_room = queued.is_some();
        for event in queued.into_iter().flatten() {
            self.recorded(event);
        }
        Ok(has_room)
    }

    /// What the model is to be told of jobs that have ended, without the values of secrets.
    pub(crate) async fn ends_of_jobs(&self, most: u32) -> Result<Vec<Note>, StoreError> {
        let mut notes = Vec::new();
        for job in self.store.jobs_untold(&self.org, self.session, most).await? {
            let JobState::Ended { seq, .. } = job.state else {
                continue;
            };
            let events = self
                .store
                .events(&self.org, self.session, seq.saturating_sub(1), 1)
                .await?;
            let end = events.into_iter().next();
            if let Some((result, _)) = end.and_then(|event| event.body.into_result_of_job()) {
                notes.push(jobs::told(job.id, job.tool.as_str(), &result));
            }
        }
        Ok(notes)
    }

    /// Whether the store did not take something that happened: nobody knows it any more, and who goes on with the turn does it again.
    pub(crate) const fn was_refused(&self) -> bool {
        self.refused
    }

    /// The same, unless something has happened in the turn that is not known here: then false, and nothing is recorded.
    ///
    /// Not cancel-safe, as [`Recorder::record`].
    pub(crate) async fn record_if_unchanged(&mut self, mut events: Vec<NewEvent>) -> Result<bool, StoreError> {
        self.time(&mut events);
        self.settle().await?;
        self.clean(&mut events).await?;
        let (turn, seq) = (self.turn, self.seq);
        let seen = Seen { turn, seq };
        let appended = self.store.append_after(&self.org, self.session, seen, &events).await?;
        let is_unchanged = appended.is_some();
        for event in appended.into_iter().flatten() {
            self.recorded(event);
        }
        Ok(is_unchanged)
    }

    /// Appends, and again for a while if the store can't just now: nothing was written then, what happened is known only here, and to
    /// give up would cut off what runs beside it.
    async fn write(&self, events: &mut [NewEvent]) -> Result<Vec<Event>, StoreError> {
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.write_once(events).await {
                Err(error @ StoreError::Unavailable { .. }) if begun.elapsed() < self.patience => {
                    tracing::warn!(turn = %self.turn, %error, "what happened can't be written yet; it is tried again");
                }
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    // THREAT[T-sec-exfiltration]: what a model or a tool says is searched before it is kept, whatever came before.
    async fn write_once(&self, events: &mut [NewEvent]) -> Result<Vec<Event>, StoreError> {
        self.clean(events).await?;
        // THREAT[T-turn-two-owners]
        self.store
            .append_held(&self.org, self.session, self.fence, events)
            .await
    }

    async fn clean(&self, events: &mut [NewEvent]) -> Result<(), StoreError> {
        let guard = self.guard().await?;
        for event in events {
            redact::event(&guard, &mut event.body);
        }
        Ok(())
    }

    /// Whose journal it is.
    pub(crate) const fn whose(&self) -> (&OrgName, SessionId, TurnId) {
        (&self.org, self.session, self.turn)
    }

    /// How long the turn had been worked when its journal was read.
    pub(crate) const fn worked(&self) -> Duration {
        self.worked
    }

    fn worked_so_far(&self) -> Duration {
        self.worked.saturating_add(self.begun.elapsed())
    }

    /// For how long it has been worked that no budget counts yet.
    pub(crate) fn uncounted(&self) -> Duration {
        self.worked_so_far().saturating_sub(self.counted)
    }

    /// Makes durable what a client adds to the turn's input, unless the same request did before.
    ///
    /// Not cancel-safe, as [`Recorder::record`].
    // THREAT[T-sec-exfiltration]
    pub(crate) async fn add(
        &mut self,
        mut input: Vec<Content>,
        idempotency: Option<(String, Digest)>,
    ) -> Result<Added, StoreError> {
        self.settle().await?;
        redact::contents(&self.guard().await?, &mut input);
        let addition = Addition {
            fence: self.fence,
            input,
            idempotency,
        };
        let added = self.store.add_to_turn(&self.org, self.session, &addition).await?;
        if let Added::Recorded(event) = &added {
            self.recorded(event.clone());
        }
        Ok(added)
    }

    fn recorded(&mut self, event: Event) {
        self.fold(event.turn, &event.body);
        self.show_durable(event);
    }

    fn fold(&mut self, turn: Option<TurnId>, body: &EventBody) {
        if turn == Some(self.turn) {
            self.machine.apply(body);
            if let Some(worked_ms) = body.worked_ms() {
                self.counted = self.counted.max(Duration::from_millis(worked_ms));
            }
        }
        self.transcript.apply(turn, body);
    }

    fn show_durable(&mut self, event: Event) {
        if event.turn == Some(self.turn) {
            self.seq = event.seq.unwrap_or(self.seq);
            telemetry::turn_recorded(&self.org, &event.body, self.begun);
        }
        self.hub.publish(Arc::new(event));
    }

    /// Knows every secret that is in effect in the session now.
    pub(crate) async fn guard(&self) -> Result<LeakGuard, StoreError> {
        let secrets = self.caller.secrets().of(&self.org, Some(self.session)).await?;
        Ok(secrets.guard().clone())
    }

    /// Shows a live event to whoever listens now, as it is.
    pub(crate) fn show(&self, body: EventBody) {
        if self.hub.is_heard(self.session) {
            self.hub.publish(Arc::new(Event {
                id: EventId::new(),
                seq: None,
                time: now(),
                org: self.org.clone(),
                session: self.session,
                turn: Some(self.turn),
                source: Source::Model,
                body,
            }));
        }
    }

    /// The tools that the model has loaded in the session.
    pub(crate) fn loaded_tools(&self) -> &[ToolName] {
        self.transcript.loaded_tools()
    }

    /// The conversation, as the next model call is about it.
    pub(crate) fn messages(&self) -> Arc<Vec<Message>> {
        self.transcript.messages()
    }

    /// The input of the turn, if it has not begun.
    pub(crate) fn waiting_input(&self) -> Option<Vec<Content>> {
        self.transcript.waiting_input(self.turn).map(<[Content]>::to_vec)
    }

    /// The conversation, unless a step of it is open.
    pub(crate) fn whole_messages(&self) -> Option<Arc<Vec<Message>>> {
        self.transcript.is_whole().then(|| self.transcript.messages())
    }

    /// The tokens that the provider counted for the last request of this conversation.
    pub(crate) const fn reported(&self) -> Option<Reported> {
        self.transcript.reported()
    }
}

/// Hands the session's journal over, without what is passed over since the session went back: a page at a time.
pub(crate) async fn for_each_page(
    store: &dyn Store,
    org: &OrgName,
    session: SessionId,
    fold: impl FnMut(&[Event]),
) -> Result<(), StoreError> {
    let passed = PassedOver::by(store.rewinds(org, session).await?);
    for_each_page_between(store, org, session, (0, u64::MAX), &passed, fold).await
}

/// The same for the events after one place and up to another.
pub(crate) async fn for_each_page_between(
    store: &dyn Store,
    org: &OrgName,
    session: SessionId,
    (mut after, last): (u64, u64),
    passed: &PassedOver,
    mut fold: impl FnMut(&[Event]),
) -> Result<(), StoreError> {
    const PAGE: u32 = 1000;
    loop {
        let mut events = store.events(org, session, after, PAGE).await?;
        let Some(end) = events.last().and_then(|event| event.seq) else {
            return Ok(());
        };
        events.retain(|event| event.seq.is_some_and(|seq| seq <= last && !passed.covers(seq)));
        fold(&events);
        if end >= last {
            return Ok(());
        }
        after = end;
    }
}

#[cfg(test)]
mod tests;
