//! What reaches a turn while it is worked: a cancel, a stop at the next boundary, what a client adds to its input, and that the host
//! is about to end.

use fumehood_core::{content::Content, digest::Digest, id::EventId};
use fumehood_store::record::{Added, CancelAt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Additions that may wait for a turn's next boundary.
const WAITING: usize = 16;

/// The end that the host holds.
#[derive(Clone)]
pub(crate) struct Control {
    cancel: CancellationToken,
    stop: CancellationToken,
    additions: mpsc::Sender<Addition>,
}

/// The end that the driver of the turn holds. With it everything goes that was not taken out.
pub(crate) struct Reins {
    pub(crate) cancel: CancellationToken,
    stop: CancellationToken,
    /// The host's: no step is begun any more.
    leave: CancellationToken,
    additions: mpsc::Receiver<Addition>,
}

/// What a client adds to the turn's input.
pub(crate) struct Addition {
    pub(crate) input: Vec<Content>,
    pub(crate) idempotency: Option<(String, Digest)>,
    /// To be told once it is recorded or denied, and only then.
    pub(crate) recorded: oneshot::Sender<Result<Added, NotAdded>>,
}

impl Addition {
    /// What tells it from others that say the same: that of a request which is repeated stays.
    pub(crate) fn name(&self) -> String {
        match &self.idempotency {
            Some((key, _)) => key.clone(),
            None => EventId::new().to_string(),
        }
    }
}

/// Why an addition was not recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAdded {
    /// As many wait as may.
    Full,
    /// A hook has denied it, in words.
    Denied(String),
    /// The turn ended, or stopped being worked, before its next boundary.
    Ended,
}

/// Both ends for one turn of a host that takes its leave with this token.
pub(crate) fn control(leave: &CancellationToken) -> (Control, Reins) {
    let (cancel, stop) = (CancellationToken::new(), CancellationToken::new());
    let (sender, receiver) = mpsc::channel(WAITING);
    let control = Control {
        cancel: cancel.clone(),
        stop: stop.clone(),
        additions: sender,
    };
    let reins = Reins {
        cancel,
        stop,
        leave: leave.clone(),
        additions: receiver,
    };
    (control, reins)
}

impl Control {
    /// Whether the turn is to end, where it is or at its next boundary.
    pub(crate) fn is_to_end(&self) -> bool {
        self.cancel.is_cancelled() || self.stop.is_cancelled()
    }

    /// Ends the turn where it is.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends the turn once the calls of its step have ended.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Adds to the turn's input, and waits until that is in the journal.
    ///
    /// When the turn ends first nothing is recorded: what was not taken out of the mailbox goes with it, and so does what guards are
    /// still asked about.
    pub(crate) async fn add(
        &self,
        input: Vec<Content>,
        idempotency: Option<(String, Digest)>,
    ) -> Result<Added, NotAdded> {
        let (recorded, hear) = oneshot::channel();
        let addition = Addition {
            input,
            idempotency,
            recorded,
        };
        self.additions.try_send(addition).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotAdded::Full,
            mpsc::error::TrySendError::Closed(_) => NotAdded::Ended,
        })?;
        hear.await.unwrap_or(Err(NotAdded::Ended))
    }
}

impl Reins {
    /// Whether the turn is to be left where its next step would begin, for the next start of the host.
    pub(crate) fn leaves(&self) -> bool {
        self.leave.is_cancelled()
    }

    /// Takes over what was asked for before anybody held the other end.
    pub(crate) fn asked_to_cancel(&self, at: Option<CancelAt>) {
        match at {
            Some(CancelAt::Now) => self.cancel.cancel(),
            Some(CancelAt::Boundary) => self.stop.cancel(),
            None => {}
        }
    }

    /// What the client asked for.
    pub(crate) fn client(&self) -> crate::machine::Client {
        use crate::machine::Client;
        if self.stop.is_cancelled() {
            Client::Stops
        } else if self.additions.is_empty() {
            Client::Waits
        } else {
            Client::Steers
        }
    }

    /// Takes out what was added, in order; not what is added meanwhile.
    pub(crate) fn additions(&mut self) -> Vec<Addition> {
        let there = self.additions.len();
        std::iter::from_fn(|| self.additions.try_recv().ok())
            .take(there)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Client;
    use fumehood_store::record::Added;

    fn hi() -> Vec<Content> {
        vec![Content::text("hi")]
    }

    #[tokio::test]
    async fn what_is_added_waits_until_it_is_recorded() {
        let (control, mut reins) = control(&CancellationToken::new());
        let mut adding = Box::pin(control.add(hi(), None));
        assert!(futures::poll!(&mut adding).is_pending());
        assert_eq!(reins.client(), Client::Steers);
        let addition = reins.additions().pop().unwrap();
        assert!(futures::poll!(&mut adding).is_pending(), "taken out is not recorded");
        addition.recorded.send(Ok(Added::KeyReused)).unwrap();
        assert_eq!(adding.await, Ok(Added::KeyReused));
        assert_eq!(reins.client(), Client::Waits);
    }

    #[tokio::test]
    async fn what_a_turn_did_not_take_before_its_end_was_not_added() {
        // Sent before the end, taken out before the end, and sent after it.
        let (control, mut reins) = control(&CancellationToken::new());
        let (mut taken, mut sent) = (Box::pin(control.add(hi(), None)), Box::pin(control.add(hi(), None)));
        assert!(futures::poll!(&mut taken).is_pending());
        let additions = reins.additions();
        assert!(futures::poll!(&mut sent).is_pending());
        drop(reins);
        assert_eq!(sent.await, Err(NotAdded::Ended));
        drop(additions);
        assert_eq!(taken.await, Err(NotAdded::Ended));
        assert_eq!(control.add(hi(), None).await, Err(NotAdded::Ended));
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let (control, _reins) = control(&CancellationToken::new());
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(control.add(hi(), None))).collect();
        for adding in &mut waiting {
            assert!(futures::poll!(adding).is_pending());
        }
        assert_eq!(control.add(hi(), None).await, Err(NotAdded::Full));
    }

    #[test]
    fn a_stop_comes_before_an_addition() {
        let (control, reins) = control(&CancellationToken::new());
        control.stop();
        assert_eq!(reins.client(), Client::Stops);
        assert!(!reins.cancel.is_cancelled());
    }
}
