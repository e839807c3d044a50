//! A client's view of a session's events: what the journal has, then what happens, in order, without gap or double.
//!
//! The journal is the truth; what is heard live is a shortcut. So a feed listens first and reads the journal then, and
//! whenever what it hears does not follow on what it showed (a gap, or more than it could take in time) it reads the journal
//! again. Live deltas that were missed meanwhile are not made up for: the client is told so (`stream.truncated`), the rest of that
//! text is not shown piece by piece, and the recorded event that completes it is whole.

mod order;

use crate::{app::App, auth::Client, telemetry::OpenStream};
use fumehood_agent::limits::Place;
use fumehood_core::{
    event::{Event, EventBody, Source, TruncationReason},
    id::{EventId, SessionId, TurnId},
    now,
};
use fumehood_store::StoreError;
use order::{Admit, Order};
use std::{collections::VecDeque, sync::Arc};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

/// Events read from the journal at a time: what a client that does not read can hold in memory.
const PAGE: u32 = 32;

/// What a feed shows next.
#[derive(Debug)]
pub(crate) enum Next {
    Event(Arc<Event>),
    /// Nothing was shown for a while.
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
    /// The client is told what it can't be shown, then the journal is read. The turn is the one whose text it is, where that is known.
    Truncated(TruncationReason, Option<TurnId>),
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
    /// When something must have been shown, be it only that the stream is still there.
    sign_due: Instant,
    /// When it is looked whether the client may still listen, whatever happens in the session.
    look_due: Instant,
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
        let due = Instant::now() + app.config.quiet_time;
        Self {
            app,
            client,
            session,
            scope,
            listener,
            order: Order::new(after),
            page: VecDeque::new(),
            phase: Phase::CatchUp,
            sign_due: due,
            look_due: due,
            _open: OpenStream::new(),
            _place: place,
        }
    }

    /// What comes next. After [`Next::End`], that again.
    ///
    /// Cancel-safe: what was not returned is returned by the next call.
    pub(crate) async fn next(&mut self) -> Next {
        let next = self.find_next().await;
        self.sign_due = self.after_quiet_time();
        next
    }

    async fn find_next(&mut self) -> Next {
        loop {
            if !matches!(self.phase, Phase::Ended(_)) && Instant::now() >= self.look_due {
                self.look_around().await;
            }
            if let Some(event) = self.page.pop_front() {
                self.order.show_recorded(&event);
                if let Some(event) = self.wanted(Arc::new(event)) {
                    return Next::Event(event);
                }
                if Instant::now() >= self.sign_due {
                    return Next::Quiet;
                }
                continue;
            }
            let found = match self.phase {
                Phase::Ended(end) => Some(Next::End(end)),
                Phase::CatchUp | Phase::LastLook => {
                    self.read_page().await;
                    None
                }
                Phase::Truncated(reason, turn) => self.truncated(reason, turn).await.map(Next::Event),
                Phase::Live => self.listen().await,
            };
            if let Some(next) = found {
                return next;
            }
        }
    }

    fn after_quiet_time(&self) -> Instant {
        Instant::now() + self.app.config.quiet_time
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
        let read = store.events(&self.client.org, self.session, self.order.after(), PAGE);
        let page = tokio::select! {
            page = read => page,
            () = self.app.closing.cancelled() => return self.phase = Phase::Ended(End::Closing),
        };
        match page {
            Ok(page) if !page.is_empty() => self.page = page.into(),
            Ok(_) => self.phase = self.after_the_journal().await,
            Err(error) => self.phase = self.unreadable(&error),
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
            biased;
            () = self.app.closing.cancelled() => {
                self.phase = Phase::Ended(End::Closing);
                return None;
            }
            heard = self.listener.recv() => heard,
            () = tokio::time::sleep_until(self.sign_due.min(self.look_due)) => return self.sign(),
        };
        match heard {
            Ok(event) => match self.order.admit(&event) {
                Admit::Show => {
                    if let Some(event) = self.wanted(event) {
                        return Some(Next::Event(event));
                    }
                }
                Admit::Skip => {}
                Admit::Gap => self.phase = Phase::CatchUp,
                Admit::Late(turn) => match self.scope {
                    Scope::Turn(own) if own != turn => {}
                    _ => self.phase = Phase::Truncated(TruncationReason::JoinedLate, Some(turn)),
                },
            },
            Err(RecvError::Lagged(_)) => self.lagged(),
            Err(RecvError::Closed) => {
                self.listener = self.app.host.subscribe(self.session);
                self.lagged();
            }
        }
        self.sign()
    }

    /// That the stream is still there, if nothing was shown for so long.
    fn sign(&self) -> Option<Next> {
        (Instant::now() >= self.sign_due).then_some(Next::Quiet)
    }

    fn lagged(&mut self) {
        let turn = match self.scope {
            Scope::Session => None,
            Scope::Turn(turn) => Some(turn),
        };
        self.phase = if self.order.lagged() {
            Phase::Truncated(TruncationReason::Lagged, turn)
        } else {
            Phase::CatchUp
        };
    }

    /// What tells the client that it is not shown everything; the journal is read from there. Without a `seq`: it is a word of this
    /// stream, not of the session.
    async fn truncated(&mut self, reason: TruncationReason, turn: Option<TurnId>) -> Option<Arc<Event>> {
        let org = &self.client.org;
        let last = match self.app.host.store().last_seq(org, self.session).await {
            Ok(Some(last)) => last,
            Ok(None) => {
                self.phase = Phase::Ended(End::Gone);
                return None;
            }
            Err(error) => {
                self.phase = self.unreadable(&error);
                return None;
            }
        };
        let after = self.order.after();
        self.phase = Phase::CatchUp;
        Some(Arc::new(Event {
            id: EventId::new(),
            seq: None,
            time: now(),
            org: org.clone(),
            session: self.session,
            turn,
            source: Source::Host,
            body: EventBody::StreamTruncated {
                after,
                until: last.max(after),
                reason,
            },
        }))
    }

    fn unreadable(&self, error: &StoreError) -> Phase {
        tracing::error!(session = %self.session, %error, "a stream of events ends because the journal can't be read");
        Phase::Ended(End::Store)
    }

    /// Ends the feed if the client may not listen any more, or there is nothing to listen to.
    // THREAT[T-org-key-theft]: a revoked key's streams end too, busy ones as well, not only its requests.
    async fn look_around(&mut self) {
        let end = match self.client.is_still_welcome(&self.app).await {
            Ok(true) => match self.app.host.store().session(&self.client.org, self.session).await {
                Ok(Some(_)) => None,
                Ok(None) => Some(End::Gone),
                Err(_) => Some(End::Store),
            },
            Ok(false) => Some(End::Gone),
            Err(_) => Some(End::Store),
        };
        self.look_due = self.after_quiet_time();
        if let Some(end) = end {
            self.page.clear();
            self.phase = Phase::Ended(end);
        }
    }
}
