//! The ledger's contract, and the recorder that keeps it: a decision is written before a byte leaves, and settled once
//! the exchange is over, however it ends.
//!
//! Each request on its way holds a reserved place in the recorder's queue, so settling never waits, never fails for
//! want of room, and works from a destructor. When all places are taken, new requests wait: the queue bounds how
//! many requests can be on their way at once.

use crate::{error::EgressError, guard::LeakGuard, shapes::Shapes};
use async_trait::async_trait;
use fumehood_core::{
    id::LedgerId,
    ledger::{EgressOutcome, EgressScope, LedgerEntry, ShapeSeen},
};
use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// The longest wait for a decision to be written.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// How many settlements are handed over at once.
const BATCH: usize = 64;
/// Pauses between attempts to settle; after the last the settlement is given up and logged.
const RETRIES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// Why the ledger could not be written. For the log, never for a tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LedgerError(pub String);

/// What came of a decision that was opened as [`EgressOutcome::Started`].
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// The entry.
    pub id: LedgerId,
    /// On whose behalf.
    pub scope: EgressScope,
    /// Never `Started`.
    pub outcome: EgressOutcome,
    /// The address connected to.
    pub address: Option<IpAddr>,
    /// Body bytes sent.
    pub bytes_sent: u64,
    /// Body bytes received.
    pub bytes_received: u64,
    /// From decision to outcome.
    pub duration_ms: u64,
    /// What looked like a key, in the whole exchange.
    pub shapes: Vec<ShapeSeen>,
}

/// Where egress decisions are kept.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Writes a decision. Returns once it would survive a crash: the request leaves only then. An entry whose outcome
    /// is `Denied` is complete as it is.
    async fn open(&self, entry: &LedgerEntry) -> Result<(), LedgerError>;

    /// Completes entries opened before, in one transaction where possible. Called from one task, in order. Settling the
    /// same entry again changes nothing; an id without an entry (its `open` was cut off) is skipped.
    async fn settle(&self, settlements: &[Settlement]) -> Result<(), LedgerError>;
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every message is a settlement, and its place is reserved"
)]
enum Message {
    Settle(Settlement),
    Flush(oneshot::Sender<()>),
}

/// Writes entries and settles them.
pub(crate) struct Recorder {
    ledger: Arc<dyn Ledger>,
    queue: mpsc::Sender<Message>,
}

impl Recorder {
    /// Starts the settling task. It ends when the recorder and every open entry are gone.
    pub(crate) fn start(ledger: Arc<dyn Ledger>, max_in_flight: usize) -> Self {
        let (queue, messages) = mpsc::channel(max_in_flight.max(1));
        tokio::spawn(settle_all(ledger.clone(), messages));
        Self { ledger, queue }
    }

    /// Writes a refusal. There is nothing to settle.
    pub(crate) async fn record_refusal(&self, entry: &LedgerEntry) {
        match timeout(WRITE_LIMIT, self.ledger.open(entry)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(id = %entry.id, %error, "an egress refusal could not be recorded"),
            Err(_) => tracing::error!(id = %entry.id, "an egress refusal could not be recorded in time"),
        }
    }

    /// Writes a decision to let a request leave. Cancel-safe: an entry whose `open` is cut off is settled as failed.
    pub(crate) async fn open(
        &self,
        entry: &LedgerEntry,
        exchange: Arc<Exchange>,
        guard: &LeakGuard,
    ) -> Result<OpenEntry, EgressError> {
        let busy = || EgressError::Busy {
            host: entry.host.clone(),
        };
        let place = match timeout(WRITE_LIMIT, self.queue.clone().reserve_owned()).await {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(EgressError::LedgerUnavailable),
            Err(_) => return Err(busy()),
        };
        let mut open = OpenEntry {
            place: Some(place),
            id: entry.id,
            scope: entry.scope.clone(),
            address: None,
            opened: Instant::now(),
            exchange,
            guard: guard.clone(),
        };
        match timeout(WRITE_LIMIT, self.ledger.open(entry)).await {
            Ok(Ok(())) => Ok(open),
            Ok(Err(error)) => {
                tracing::error!(id = %entry.id, %error, "an egress decision could not be recorded");
                open.place = None;
                Err(EgressError::LedgerUnavailable)
            }
            Err(_) => {
                tracing::error!(id = %entry.id, "an egress decision could not be recorded in time");
                open.finish(EgressOutcome::Failed {
                    reason: EgressError::LedgerUnavailable.to_string(),
                });
                Err(EgressError::LedgerUnavailable)
            }
        }
    }

    /// Waits until everything settled so far is written or given up.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = written.await;
        }
    }
}

/// What both directions of one exchange share.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// Body bytes that left.
    pub(crate) sent: AtomicU64,
    /// Body bytes that came.
    pub(crate) received: AtomicU64,
    /// Whether the request's body has left completely.
    pub(crate) request_done: AtomicBool,
    /// Why the request's body was stopped; the connection's own error only says that it was.
    pub(crate) request_failure: OnceLock<EgressError>,
    /// What looked like a key so far.
    pub(crate) shapes: Shapes,
}

/// An entry that waits for its outcome. Dropping it settles it as failed.
pub(crate) struct OpenEntry {
    place: Option<mpsc::OwnedPermit<Message>>,
    id: LedgerId,
    scope: EgressScope,
    pub(crate) address: Option<IpAddr>,
    opened: Instant,
    exchange: Arc<Exchange>,
    guard: LeakGuard,
}

impl OpenEntry {
    /// Settles the entry. Does not wait.
    pub(crate) fn finish(mut self, outcome: EgressOutcome) {
        self.settle(outcome);
    }

    // THREAT[T-sec-log]: a reason may repeat what a server or a tool wrote.
    fn settle(&mut self, mut outcome: EgressOutcome) {
        if let Some(place) = self.place.take() {
            if let EgressOutcome::Denied { reason } | EgressOutcome::Failed { reason } = &mut outcome {
                *reason = self.guard.redact_str(reason).into_owned();
            }
            place.send(Message::Settle(Settlement {
                id: self.id,
                scope: self.scope.clone(),
                outcome,
                address: self.address,
                bytes_sent: self.exchange.sent.load(Ordering::Relaxed),
                bytes_received: self.exchange.received.load(Ordering::Relaxed),
                duration_ms: u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
                shapes: self.exchange.shapes.seen(),
            }));
        }
    }
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        let reason = match self.exchange.request_failure.get() {
            Some(error) => error.to_string(),
            None => "the caller left before the exchange was over".to_owned(),
        };
        self.settle(EgressOutcome::Failed { reason });
    }
}

async fn settle_all(ledger: Arc<dyn Ledger>, mut messages: mpsc::Receiver<Message>) {
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, BATCH).await > 0 {
        let (mut settlements, mut waiting) = (Vec::new(), Vec::new());
        for message in batch.drain(..) {
            match message {
                Message::Settle(settlement) => settlements.push(settlement),
                Message::Flush(done) => waiting.push(done),
            }
        }
        if !settlements.is_empty() {
            settle(&*ledger, &settlements).await;
        }
        for done in waiting {
            let _ = done.send(());
        }
    }
}

async fn settle(ledger: &dyn Ledger, settlements: &[Settlement]) {
    let mut pauses = RETRIES.iter();
    loop {
        let error = match timeout(WRITE_LIMIT, ledger.settle(settlements)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => LedgerError("it took too long".to_owned()),
        };
        let Some(pause) = pauses.next() else {
            let count = settlements.len();
            tracing::error!(%error, count, "egress outcomes could not be recorded; their entries stay open");
            return;
        };
        tokio::time::sleep(*pause).await;
    }
}
