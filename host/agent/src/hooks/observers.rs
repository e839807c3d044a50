//! Hooks that are told, and never waited for: a queue of a bounded length, and a bounded number told at the same time.

use super::{Asker, Journal, Occasion, Whose};
use fumehood_core::event::EventBody;
use fumehood_policy::hook::HookSpec;
use futures::{StreamExt as _, stream};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What waits to be told. With what one is shown at most, 16 MiB.
pub(super) const WAITING: usize = 256;
/// Told at the same time.
const AT_ONCE: usize = 16;

/// Something to tell one hook.
pub(super) struct Told {
    pub(super) whose: Whose,
    pub(super) hook: HookSpec,
    pub(super) occasion: Arc<Occasion>,
}

/// Tells what comes, until nobody can send any more.
pub(super) async fn tell(asker: Arc<Asker>, journal: Journal, queue: mpsc::Receiver<Told>) {
    let told = stream::unfold(queue, |mut queue| async {
        queue.recv().await.map(|told| (told, queue))
    });
    told.for_each_concurrent(AT_ONCE, |told| tell_one(&asker, &journal, told))
        .await;
}

async fn tell_one(asker: &Asker, journal: &Journal, told: Told) {
    let Told { whose, hook, occasion } = told;
    // What an observer answers changes nothing.
    let Err(failure) = asker.ask(&whose, &hook, &occasion).await else {
        return;
    };
    let failed = EventBody::HookFailed {
        hook: hook.name.clone(),
        point: occasion.point,
        mode: hook.mode,
        call: occasion.call,
        failure: failure.kind,
        message: failure.message,
    };
    match asker.caller.secrets().of(&whose.org, Some(whose.session)).await {
        Ok(secrets) => journal.record(&whose, secrets.guard(), vec![failed]).await,
        Err(error) => tracing::error!(%error, "the secrets in use can't be read"),
    }
}
