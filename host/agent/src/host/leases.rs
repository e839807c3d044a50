//! The turns that this host holds: taken before they are worked, held for as long, let go of when it ends.
//!
//! Also on one machine, where no other host can come: a turn whose work broke is found by the end of its lease, and one that breaks
//! its host each time is counted.

use super::{Host, HostError, Inner};
use crate::driver::Setback;
use fumehood_core::{
    call::{CallError, CallErrorCode},
    now,
    turn::{TurnError, TurnErrorCode},
};
use fumehood_store::{
    StoreError,
    lease::{Fence, Lease, Taken},
    record::{self, CancelAt},
};
use std::{
    convert::Infallible,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// How long a turn is held without being renewed.
const HELD: Duration = Duration::from_secs(30);
/// How often that is renewed, and looked for turns that nobody works: twice it may fail.
const RENEWED: Duration = Duration::from_secs(10);
/// How often in a row a turn is gone on with without coming any further.
const RECOVERIES: u32 = 3;
/// From so many recoveries in a row on, a turn may be what ends its hosts: those begin one after the other.
const SUSPECT: u32 = 2;
/// How long such a turn is worked before the next of them begins: what ends a host has mostly done so by then.
const ALONE: Duration = Duration::from_secs(30);

/// What a host may do with a turn that it wants to work.
pub(super) enum Hold {
    /// Work it, to its cancelled end if that was asked for.
    Work(Fence, Option<CancelAt>, Company),
    /// End it: going on with it has led nowhere.
    Seal(Fence),
    /// Nothing: it has ended.
    Ended,
}

/// Beside what a turn may be worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// Beside every other.
    Any,
    /// Not beside another that may have ended its hosts as well: of several that were worked when they ended, one did it.
    NoSuspect,
}

/// The right to work a turn that may be what ends its hosts.
pub(super) struct Alone(OwnedSemaphorePermit);

impl Alone {
    /// Leaves it to the next after a while. Never ends.
    pub(super) async fn for_a_while(self) -> Infallible {
        tokio::time::sleep(ALONE).await;
        drop(self.0);
        std::future::pending().await
    }
}

impl Host {
    /// The right to work such a turn, if nobody has it.
    pub(super) fn alone(&self) -> Option<Alone> {
        Arc::clone(&self.inner.alone).try_acquire_owned().ok().map(Alone)
    }

    /// The same once nobody has it any more. Cancel-safe.
    pub(super) async fn alone_in_turn(&self) -> Option<Alone> {
        Arc::clone(&self.inner.alone).acquire_owned().await.ok().map(Alone)
    }

    /// Takes a turn, or says that it has ended.
    ///
    /// # Errors
    /// [`StoreError::Lost`] when another host works it, [`StoreError::Gone`] when it was deleted.
    // THREAT[T-turn-two-owners]
    pub(super) async fn hold(&self, turn: &record::Turn) -> Result<Hold, StoreError> {
        let taken = self.store().take_turn(&turn.org, turn.id, self.lease()).await?;
        match taken {
            Some(Taken::Mine {
                fence,
                recoveries: 0,
                cancel,
            }) => Ok(Hold::Work(fence, cancel, Company::Any)),
            Some(Taken::Mine {
                fence,
                recoveries,
                cancel,
            }) if recoveries <= RECOVERIES => {
                tracing::warn!(turn = %turn.id, recoveries, "a turn is gone on with that a host left without letting go of it");
                let company = match recoveries {
                    SUSPECT.. => Company::NoSuspect,
                    _ => Company::Any,
                };
                Ok(Hold::Work(fence, cancel, company))
            }
            Some(Taken::Mine { fence, .. }) => Ok(Hold::Seal(fence)),
            Some(Taken::Held) => Err(StoreError::Lost),
            Some(Taken::Ended) => Ok(Hold::Ended),
            None => Err(StoreError::Gone { what: "turn" }),
        }
    }

    /// Lets go of a turn that can't be worked just now for a reason that is not its own.
    pub(super) async fn let_go(&self, fence: Fence) {
        if let Err(error) = self.store().let_go(fence).await {
            tracing::debug!(turn = %fence.turn(), %error, "a turn is held until its lease ends");
        }
    }

    /// Lets go of all that it holds: it ends.
    pub(super) async fn let_go_of_all(&self) {
        if let Err(error) = self.store().let_go_of_all(self.inner.id).await {
            tracing::warn!(%error, "what the host worked counts as recovered when the next one goes on with it");
        }
    }

    fn lease(&self) -> Lease {
        let at = now();
        Lease {
            host: self.inner.id,
            at,
            until: at + HELD,
        }
    }

    async fn renew(&self) -> Result<(), HostError> {
        let turns: Vec<_> = self.running().keys().copied().collect();
        if turns.is_empty() {
            return Ok(());
        }
        Ok(self.store().renew(&turns, self.lease()).await?)
    }
}

/// Holds what the host works, and goes on with what nobody works, until the host closes or is dropped.
pub(super) async fn keep(host: Weak<Inner>, closing: CancellationToken) {
    while closing.run_until_cancelled(tokio::time::sleep(RENEWED)).await.is_some() {
        let Some(inner) = host.upgrade() else { return };
        let host = Host { inner };
        if let Err(error) = host.renew().await {
            tracing::error!(%error, "what the host works could not be held for longer; it is tried again");
        }
        if host.recovers()
            && let Err(error) = host.take_up_what_is_left().await
        {
            tracing::error!(%error, "turns that nobody works could not be looked for; it is tried again");
        }
    }
}

impl Inner {
    /// See [`keep`].
    pub(super) fn keep_turns(inner: &Arc<Self>) {
        let work = keep(Arc::downgrade(inner), inner.closing.clone());
        inner.tasks.spawn(work);
    }
}

/// Why a turn ends that was gone on with as often as may be.
pub(super) fn led_nowhere(setback: Setback) -> (TurnError, CallError) {
    let (message, of_calls) = match setback {
        Setback::Stopped => (
            format!(
                "the host stopped while it worked this turn, and went on with it {RECOVERIES} times without it coming any further; send \
                 the input again, and see the host's log if that ends the same way"
            ),
            "the host stopped while the call ran or before it did; it may have taken effect, and is not run again",
        ),
        Setback::Refused => (
            format!(
                "the host's store refused what happened in this turn, also when the host went on with it {RECOVERIES} times: its disk \
                 may be full, and the host's log says what was wrong; send the input again once that is mended"
            ),
            "the host's store refused what came of the call or of what came before it; it may have taken effect, and is not run again",
        ),
    };
    let code = TurnErrorCode::Interrupted;
    let error = TurnError { code, message };
    (error, CallError::new(CallErrorCode::Interrupted, of_calls))
}
