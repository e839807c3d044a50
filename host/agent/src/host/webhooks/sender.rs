//! Sends what is due: one task of the host's, which sleeps until there is something, and a few attempts at a time.

use super::{super::Host, places::Places};
use fumehood_core::{id::WebhookId, now};
use std::time::Duration;
use tokio::task::JoinSet;

/// The longest sleep: the clock of the wall may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How long to leave alone what could not be read or settled.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Attempts under way.
#[derive(Default)]
struct UnderWay {
    places: Places,
    attempts: JoinSet<WebhookId>,
}

impl Host {
    /// Runs for as long as the host does. What is under way at its end is sent again by the next.
    pub(in crate::host) async fn tell_webhooks(&self) {
        let mut under_way = UnderWay::default();
        loop {
            let sleep = self.start_due(&mut under_way).await;
            tokio::select! {
                () = self.inner.closing.cancelled() => return,
                // Something is to be told, or one was changed.
                () = self.inner.hub.is_to_be_told() => {}
                () = self.inner.webhooks.changed.notified() => {}
                Some(done) = under_way.attempts.join_next() => match done {
                    Ok(webhook) => under_way.places.free(webhook),
                    Err(error) => {
                        tracing::error!(%error, "telling a webhook broke");
                        // Which one it was is not known: all that are under way come to their end first.
                        while let Some(done) = under_way.attempts.join_next().await {
                            drop(done);
                        }
                        under_way.places.free_all();
                    }
                },
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Starts the attempts that are due, and says when to look again. One that ends makes room, and wakes this.
    async fn start_due(&self, under_way: &mut UnderWay) -> Duration {
        let waiting = match self.store().webhooks_to_tell().await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "what webhooks are to be told can't be read");
                return AFTER_FAILURE;
            }
        };
        under_way.places.forget_all_but(&waiting);
        let time = now();
        let due: Vec<_> = waiting.iter().take_while(|webhook| webhook.at <= time).collect();
        while let Some(webhook) = under_way.places.give(&due) {
            let (host, id, org) = (self.clone(), webhook.id, webhook.org.clone());
            under_way.attempts.spawn(async move {
                if let Err(error) = host.tell_next(&org, id).await {
                    tracing::error!(webhook = %id, %error, "a webhook can't be told; it is tried again soon");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
                id
            });
        }
        let next = waiting
            .iter()
            .skip(due.len())
            .find(|webhook| !under_way.places.has(webhook.id));
        next.map_or(LONGEST_SLEEP, |webhook| {
            let left = (webhook.at - time).to_std().unwrap_or_default();
            left.min(LONGEST_SLEEP)
        })
    }
}
