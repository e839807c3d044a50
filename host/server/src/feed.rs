//! A client's view of a session's events: what the journal has, then what happens, in order, without gap or double.
//!
//! The journal is the truth; what is heard live is a shortcut. So a feed listens first and reads the journal then, and
//! whenever what it hears does not follow on what it showed (a gap, or more than it could take in time) it reads the journal
//! again. Live deltas that were missed meanwhile are not made up for: the recorded event that completes them is whole.

use crate::{app::App, auth::Client, telemetry::OpenStream};
use fumehood_agent::limits::Place;
use fumehood_core::{
    event::{Event, EventBody},
    id::{SessionId, TurnId},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::broadcast::{self, error::RecvError};

/// Events read from the journal at a time: what a client that does not read can hold in memory.
const PAGE: u32 = 32;

/// What a feed shows next.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Arc<Event>),
    /// Nothing has happened for a while.
    Quiet,
    /// Nothing more will be shown.
    End(End),
}

/// Why a feed ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The turn it follows has ended, and its end was shown or was known to the client.
    Turn,
    /// The server closes.
    Closing,
    /// The session was deleted or the key revoked.
    Gone,
    /// The journal can't be read now.
    Store,
}

/// What is followed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope {
    /// Everything in the session, for as long as it is there.
    Session,
    /// One turn, to its end.
    Turn(TurnId),
}

enum Phase {
    /// Reading the journal.
    CatchUp,
    /// The turn has ended: reading the rest of the journal.
    LastLook,
    /// Listening.
    Live,
    Ended(End),
}

/// A client's view of a session's events.
pub(crate) struct Feed {
    app: Arc<App>,
    client: Client,
    session: SessionId,
    scope: Scope,
    listener: broadcast::Receiver<Arc<Event>>,
    order: Order,
    page: VecDeque<Event>,
    phase: Phase,
    _open: OpenStream,
    _place: Place,
}

impl Feed {
    /// The events with a `seq` after `after`. The listener is older than whatever the client shall not miss live; the place is the
    /// org's, from [`Host::listening`](fumehood_agent::host::Host::listening).
    pub(crate) fn new(
        app: Arc<App>,
        client: Client,
        session: SessionId,
        scope: Scope,
        listener: broadcast::Receiver<Arc<Event>>,
        after: u64,
        place: Place,
    ) -> Self {
        let order = Order { after, settled: None };
        Self {
            app,
            client,
            session,
            scope,
            listener,
            order,
            page: VecDeque::new(),
            phase: Phase::CatchUp,
            _open: OpenStream::new(),
            _place: place,
        }
    }

    /// What comes next. After [`Next::End`], that again.
    pub(crate) async fn next(&mut self) -> Next {
        loop {
            while let Some(event) = self.page.pop_front() {
                self.order.show_recorded(&event);
                if let Some(event) = self.wanted(Arc::new(event)) {
                    return Next::Event(event);
                }
            }
            match self.phase {
                Phase::Ended(end) => return Next::End(end),
                Phase::CatchUp | Phase::LastLook => self.read_page().await,
                Phase::Live => {
                    if let Some(next) = self.listen().await {
                        return next;
                    }
                }
            }
        }
    }

    /// The event, if it is in scope. The end of the turn that is followed ends the feed.
    fn wanted(&mut self, event: Arc<Event>) -> Option<Arc<Event>> {
        match self.scope {
            Scope::Session => Some(event),
            Scope::Turn(turn) if event.turn == Some(turn) => {
                if event.body.is_terminal() {
                    self.page.clear();
                    self.phase = Phase::Ended(End::Turn);
                }
                Some(event)
            }
            Scope::Turn(_) => None,
        }
    }

    async fn read_page(&mut self) {
        let store = self.app.host.store();
        let read = store.events(&self.client.org, self.session, self.order.after, PAGE);
        let page = tokio::select! {
            page = read => page,
            () = self.app.closing.cancelled() => return self.phase = Phase::Ended(End::Closing),
        };
        match page {
            Ok(page) if !page.is_empty() => self.page = page.into(),
            Ok(_) => self.phase = self.after_the_journal().await,
            Err(error) => {
                tracing::error!(session = %self.session, %error, "a stream of events ends because the journal can't be read");
                self.phase = Phase::Ended(End::Store);
            }
        }
    }

    /// The journal is read to its end. A turn whose end is not among what was read has not ended, or ended just now, or
    /// before the client's `after`.
    async fn after_the_journal(&self) -> Phase {
        let Scope::Turn(turn) = self.scope else {
            return Phase::Live;
        };
        if matches!(self.phase, Phase::LastLook) {
            return Phase::Ended(End::Turn);
        }
        match self.app.host.store().turn(&self.client.org, turn).await {
            Ok(Some(turn)) if !turn.status.is_terminal() => Phase::Live,
            Ok(Some(_)) => Phase::LastLook,
            Ok(None) => Phase::Ended(End::Gone),
            Err(_) => Phase::Ended(End::Store),
        }
    }

    /// Waits for what happens; `None` if that is nothing to show.
    async fn listen(&mut self) -> Option<Next> {
        let heard = tokio::select! {
            heard = self.listener.recv() => heard,
            () = self.app.closing.cancelled() => {
                self.phase = Phase::Ended(End::Closing);
                return None;
            }
            () = tokio::time::sleep(self.app.config.quiet_time) => {
                self.phase = self.look_around().await;
                return matches!(self.phase, Phase::Live).then_some(Next::Quiet);
            }
        };
        match heard {
            Ok(event) => match self.order.admit(&event) {
                Admit::Show => self.wanted(event).map(Next::Event),
                Admit::Skip => None,
                Admit::Gap => {
                    self.phase = Phase::CatchUp;
                    None
                }
            },
            Err(RecvError::Lagged(_)) => {
                self.phase = Phase::CatchUp;
                None
            }
            Err(RecvError::Closed) => {
                self.listener = self.app.host.subscribe(self.session);
                self.phase = Phase::CatchUp;
                None
            }
        }
    }

    /// Whether the client may still listen, and there is something to listen to.
    // THREAT[T-org-key-theft]: a revoked key's streams end too, not only its requests.
    async fn look_around(&self) -> Phase {
        match self.client.is_still_welcome(&self.app).await {
            Ok(true) => {}
            Ok(false) => return Phase::Ended(End::Gone),
            Err(_) => return Phase::Ended(End::Store),
        }
        match self.app.host.store().session(&self.client.org, self.session).await {
            Ok(Some(_)) => Phase::Live,
            Ok(None) => Phase::Ended(End::Gone),
            Err(_) => Phase::Ended(End::Store),
        }
    }
}

/// What was shown, and so what follows on it.
#[derive(Debug)]
struct Order {
    /// The last `seq` shown.
    after: u64,
    /// The last step whose output was shown completed. Deltas of it that are heard later tell nothing new.
    settled: Option<(TurnId, u64)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Admit {
    Show,
    /// Was shown before.
    Skip,
    /// Something before it was not heard.
    Gap,
}

impl Order {
    fn admit(&mut self, event: &Event) -> Admit {
        match event.seq {
            Some(seq) if seq <= self.after => Admit::Skip,
            Some(seq) if seq > self.after + 1 => Admit::Gap,
            Some(_) => {
                self.show_recorded(event);
                Admit::Show
            }
            None if self.is_settled(event) => Admit::Skip,
            None => Admit::Show,
        }
    }

    fn show_recorded(&mut self, event: &Event) {
        self.after = event.seq.unwrap_or(self.after);
        if let (Some(turn), EventBody::TextCompleted { step, .. } | EventBody::StepCompleted { step, .. }) =
            (event.turn, &event.body)
        {
            self.settled = Some((turn, *step));
        }
    }

    fn is_settled(&self, event: &Event) -> bool {
        let (EventBody::TextDelta { step, .. } | EventBody::ReasoningDelta { step, .. }) = &event.body else {
            return false;
        };
        matches!((event.turn, self.settled), (Some(turn), Some((settled, last))) if turn == settled && *step <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{event::Source, id::EventId, name::OrgName, now};

    fn event(seq: Option<u64>, turn: TurnId, body: EventBody) -> Event {
        Event {
            id: EventId::new(),
            seq,
            time: now(),
            org: OrgName::default_org(),
            session: SessionId::new(),
            turn: Some(turn),
            source: Source::Model,
            body,
        }
    }

    fn step(seq: u64) -> Event {
        event(
            Some(seq),
            TurnId::new(),
            EventBody::StepStarted {
                step: 1,
                notes: Vec::new(),
            },
        )
    }

    fn delta(turn: TurnId, step: u64) -> Event {
        event(
            None,
            turn,
            EventBody::TextDelta {
                step,
                delta: "a".into(),
            },
        )
    }

    #[test]
    fn what_was_shown_is_not_shown_again_and_a_gap_is_noticed() {
        let mut order = Order {
            after: 3,
            settled: None,
        };
        assert_eq!(order.admit(&step(3)), Admit::Skip);
        assert_eq!(order.admit(&step(5)), Admit::Gap);
        assert_eq!(order.admit(&step(4)), Admit::Show);
        assert_eq!(order.admit(&step(5)), Admit::Show);
        assert_eq!(order.admit(&step(4)), Admit::Skip);
    }

    #[test]
    fn a_delta_after_its_completed_text_is_not_shown() {
        let turn = TurnId::new();
        let mut order = Order {
            after: 0,
            settled: None,
        };
        assert_eq!(order.admit(&delta(turn, 1)), Admit::Show);
        order.show_recorded(&event(
            Some(1),
            turn,
            EventBody::TextCompleted {
                step: 1,
                text: "aa".into(),
            },
        ));
        assert_eq!(order.admit(&delta(turn, 1)), Admit::Skip);
        assert_eq!(order.admit(&delta(turn, 2)), Admit::Show);
        assert_eq!(order.admit(&delta(TurnId::new(), 1)), Admit::Show);
    }
}
