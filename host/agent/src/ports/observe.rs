//! From the calls of a step to who records what happens in them: what they say, what was decided, and what must be recorded before it
//! may happen, each with room of its own.

use fumehood_core::event::NewEvent;
use tokio::sync::{mpsc, oneshot};

/// Where the calls of a step report to: what tools say, and what was decided, each with room of its own.
#[derive(Clone)]
pub(crate) struct Observe {
    pub(super) said: mpsc::Sender<NewEvent>,
    pub(super) decided: mpsc::Sender<NewEvent>,
    claims: mpsc::Sender<Claim>,
}

/// Something that must be recorded before what it is about may happen.
struct Claim {
    event: NewEvent,
    recorded: oneshot::Sender<()>,
}

/// It was not recorded: what it is about must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotClaimed;

/// The other end.
pub(crate) struct Observed {
    said: mpsc::Receiver<NewEvent>,
    decided: mpsc::Receiver<NewEvent>,
    claims: mpsc::Receiver<Claim>,
    /// Those who wait until what was taken out is recorded.
    waiting: Vec<oneshot::Sender<()>>,
}

/// Room for events in each of the two.
pub(super) const ROOM: usize = 256;

pub(crate) fn observe() -> (Observe, Observed) {
    let (said, all_said) = mpsc::channel(ROOM);
    let (decided, all_decided) = mpsc::channel(ROOM);
    let (claims, all_claims) = mpsc::channel(ROOM);
    let observed = Observed {
        said: all_said,
        decided: all_decided,
        claims: all_claims,
        waiting: Vec::new(),
    };
    let observe = Observe { said, decided, claims };
    (observe, observed)
}

impl Observe {
    /// Reports a decision. Waits for room; when nobody observes any more, the turn is over.
    pub(crate) async fn decided(&self, event: NewEvent) {
        let _ = self.decided.send(event).await;
    }

    /// Reports something and waits until it is recorded.
    pub(crate) async fn claim(&self, event: NewEvent) -> Result<(), NotClaimed> {
        let (recorded, hear) = oneshot::channel();
        let claim = Claim { event, recorded };
        self.claims.send(claim).await.map_err(|_| NotClaimed)?;
        hear.await.map_err(|_| NotClaimed)
    }
}

impl Observed {
    /// The next event, decisions first. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<NewEvent> {
        tokio::select! {
            biased;
            Some(claim) = self.claims.recv() => Some(self.taken_out(claim)),
            Some(event) = self.decided.recv() => Some(event),
            event = self.said.recv() => event,
        }
    }

    /// The decisions that are there already.
    pub(crate) fn decisions(&mut self) -> impl Iterator<Item = NewEvent> {
        std::iter::from_fn(|| self.decided.try_recv().ok())
    }

    /// An event that is there already.
    pub(crate) fn ready(&mut self) -> Option<NewEvent> {
        if let Ok(claim) = self.claims.try_recv() {
            return Some(self.taken_out(claim));
        }
        self.decided.try_recv().or_else(|_| self.said.try_recv()).ok()
    }

    fn taken_out(&mut self, claim: Claim) -> NewEvent {
        self.waiting.push(claim.recorded);
        claim.event
    }

    /// Whether nobody waits until what was taken out is recorded.
    pub(crate) const fn nobody_waits(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What was taken out so far is recorded: who waits for that goes on.
    pub(crate) fn recorded(&mut self) {
        for waiting in self.waiting.drain(..) {
            // Who has gone needs no answer.
            let _ = waiting.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{
        event::{EventBody, Source},
        id::CallId,
        name::ToolName,
    };

    #[tokio::test]
    async fn who_claims_goes_on_once_that_is_recorded_and_is_told_if_it_is_not() {
        let (observe, mut observed) = observe();
        let event = || NewEvent {
            turn: None,
            source: Source::Host,
            body: EventBody::ToolCommitted {
                call: CallId::new(),
                tool: ToolName::new("send").unwrap(),
            },
        };
        let mut claim = Box::pin(observe.claim(event()));
        assert!(futures::poll!(&mut claim).is_pending());
        assert_eq!(observed.next().await.unwrap().body.type_name(), "tool.committed");
        assert!(futures::poll!(&mut claim).is_pending(), "taken out is not recorded");
        observed.recorded();
        assert_eq!(claim.await, Ok(()));
        // Taken out and never recorded, sent, and sent after the end.
        let (mut taken, mut sent) = (Box::pin(observe.claim(event())), Box::pin(observe.claim(event())));
        assert!(futures::poll!(&mut taken).is_pending());
        assert!(observed.ready().is_some());
        assert!(futures::poll!(&mut sent).is_pending());
        drop(observed);
        assert_eq!(taken.await, Err(NotClaimed));
        assert_eq!(sent.await, Err(NotClaimed));
        assert_eq!(observe.claim(event()).await, Err(NotClaimed));
    }
}
