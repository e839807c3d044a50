//! Sends what is due: one task of the host's, which sleeps until there is something, and a few attempts at a time.

use super::super::Host;
use fumehood_core::{id::WebhookId, name::OrgName, now};
use std::{collections::HashMap, time::Duration};
use tokio::task::JoinSet;

/// Attempts at the same time.
const AT_ONCE: usize = 16;
/// Of one org, so that endpoints that hang keep nobody else.
const OF_ONE_ORG: usize = 4;
/// The longest sleep: the clock of the wall may be set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How long to leave alone what could not be read or settled.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Attempts under way: one of a webhook at most.
#[derive(Default)]
struct UnderWay {
    webhooks: HashMap<WebhookId, OrgName>,
    attempts: JoinSet<WebhookId>,
}

impl UnderWay {
    // THREAT[T-webhook-stall]
    fn has_room_for(&self, org: &OrgName) -> bool {
        let of_org = self.webhooks.values().filter(|other| *other == org).count();
        self.webhooks.len() < AT_ONCE && of_org < OF_ONE_ORG
    }
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
                    Ok(webhook) => {
                        under_way.webhooks.remove(&webhook);
                    }
                    Err(error) => {
                        tracing::error!(%error, "telling a webhook broke");
                        // Which one it was is not known: all that are under way come to their end first.
                        while let Some(done) = under_way.attempts.join_next().await {
                            drop(done);
                        }
                        under_way.webhooks.clear();
                    }
                },
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Starts the attempts that are due, and says when to look again.
    async fn start_due(&self, under_way: &mut UnderWay) -> Duration {
        let waiting = match self.store().webhooks_to_tell().await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::error!(%error, "what webhooks are to be told can't be read");
                return AFTER_FAILURE;
            }
        };
        let time = now();
        let mut sleep = LONGEST_SLEEP;
        for webhook in waiting {
            if under_way.webhooks.contains_key(&webhook.id) {
                continue;
            }
            if webhook.at > time {
                return sleep.min((webhook.at - time).to_std().unwrap_or_default());
            }
            // One that ends makes room, and wakes this.
            if !under_way.has_room_for(&webhook.org) {
                continue;
            }
            let (host, id, org) = (self.clone(), webhook.id, webhook.org.clone());
            under_way.webhooks.insert(webhook.id, webhook.org);
            under_way.attempts.spawn(async move {
                if let Err(error) = host.tell_next(&org, id).await {
                    tracing::error!(webhook = %id, %error, "a webhook can't be told; it is tried again soon");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
                id
            });
            sleep = sleep.min(LONGEST_SLEEP);
        }
        sleep
    }
}
