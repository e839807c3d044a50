//! Housekeeping: what is too old is deleted, and code that nobody needs, by one task of a host that stays.
//!
//! One process has the database at a time (its lock sees to that), so no two keep house in it. Everything goes in small steps that keep
//! nobody waiting, and a round that is broken off is gone on with by the next.

use super::{Host, HostError};
use crate::{retry::Jitter, telemetry};
use fumehood_core::{Time, id::SessionId, name::OrgName, now};
use fumehood_policy::retention::{Followed, Kind, Retention, follow};
use fumehood_store::housekeeping::{Forgettable, Idle};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// When the first round begins: a start has other things to do.
const FIRST: Duration = Duration::from_secs(60);
/// Between two rounds.
const ROUND: Duration = Duration::from_secs(60 * 60);
/// Sessions that are looked for together.
const SESSIONS: u32 = 100;
/// Code that was put less long ago is perhaps being added.
const CODE_GRACE: Duration = Duration::from_secs(60 * 60);

/// How long things are kept.
#[derive(Debug, Clone, Default)]
pub struct RetentionRules {
    /// Of orgs that have none of their own.
    pub usual: Retention,
    /// Of these orgs.
    pub orgs: BTreeMap<OrgName, Retention>,
}

impl RetentionRules {
    fn of(&self, org: &OrgName) -> Retention {
        self.orgs.get(org).copied().unwrap_or(self.usual)
    }
}

/// What a round deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Housekept {
    /// How much of each kind.
    pub removed: BTreeMap<&'static str, u64>,
    /// How far the clock is ahead of the time by which things were too old.
    pub ahead: Duration,
}

impl Housekept {
    fn add(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.removed.entry(kind).or_default() += count;
            telemetry::removed(kind, count);
        }
    }
}

/// Of code in [`Housekept::removed`].
const CODE: &str = "code";
/// Of what was left of deleted sessions.
const DELETIONS: &str = "deletions";

impl Host {
    /// Runs for as long as the host does.
    pub(super) async fn keep_house(&self) {
        let mut wait = FIRST;
        loop {
            tokio::select! {
                () = self.inner.draining.cancelled() => return,
                () = tokio::time::sleep(Jitter::random().times(wait)) => {}
            }
            match self.keep_house_at(now()).await {
                Ok(kept) if kept.removed.is_empty() => {}
                Ok(kept) => tracing::info!(removed = ?kept.removed, "what was too old is deleted"),
                Err(error) => {
                    tracing::error!(%error, "what is too old could not be deleted; it is tried again in an hour");
                }
            }
            wait = ROUND;
        }
    }

    /// One round, by a clock that shows this time. Broken off, the next goes on with it.
    ///
    /// # Errors
    /// When the store can't be read or written: what was deleted before stays so.
    pub async fn keep_house_at(&self, clock: Time) -> Result<Housekept, HostError> {
        let store = self.store();
        let before = store.housekeeping_clock().await?.unwrap_or(clock);
        let Followed { time, seen, ahead } = follow(clock, before);
        telemetry::housekeeping_behind(ahead);
        if !ahead.is_zero() {
            tracing::warn!(
                clock = %clock, counts = %time,
                "the clock is more than a day ahead of the last housekeeping: what is too old is told by a time that follows it a day in each round; set the clock if it is wrong"
            );
        }
        // THREAT[T-keep-clock]: before anything is deleted by it.
        store.set_housekeeping_clock(seen).await?;
        let mut kept = Housekept {
            ahead,
            ..Housekept::default()
        };
        kept.add(DELETIONS, store.end_deletions().await?);
        for org in store.orgs().await? {
            // What can't be deleted of one org keeps nothing of the others.
            if let Err(error) = self.keep_org(&org.name, time, &mut kept).await {
                tracing::error!(org = %org.name, %error, "what is too old of an org could not be deleted; it is tried again in an hour");
            }
        }
        let code = store.code_in_use().await?;
        match self.catalog().blobs().retain(code, CODE_GRACE).await {
            Ok(removed) => kept.add(CODE, removed.len() as u64),
            Err(error) => tracing::error!(%error, "code that no component has can't be removed"),
        }
        Ok(kept)
    }

    async fn keep_org(&self, org: &OrgName, time: Time, kept: &mut Housekept) -> Result<(), HostError> {
        let rules = self.inner.retention.of(org);
        for kind in Kind::ALL {
            let Some(since) = rules.limit(kind, time) else { continue };
            let count = match kind {
                Kind::Sessions => self.delete_idle(org, Idle::Unused { since }).await?,
                Kind::ArchivedSessions => self.delete_idle(org, Idle::Archived { since }).await?,
                Kind::Ledger => self.forget(org, Forgettable::Ledger, since).await?,
                Kind::Deliveries => self.forget(org, Forgettable::Deliveries, since).await?,
                Kind::DeadDeliveries => self.forget(org, Forgettable::DeadDeliveries, since).await?,
                Kind::ScheduleRuns => self.forget(org, Forgettable::ScheduleRuns, since).await?,
                Kind::Usage => self.forget(org, Forgettable::Usage, since).await?,
                Kind::Recordings => self.forget(org, Forgettable::Recordings, since).await?,
            };
            kept.add(kind.as_str(), count);
        }
        Ok(())
    }

    async fn forget(&self, org: &OrgName, what: Forgettable, before: Time) -> Result<u64, HostError> {
        let (mut count, rows) = (0, what.at_once());
        while !self.is_draining() {
            let forgotten = self.store().forget(org, what, before, rows).await?;
            count += forgotten;
            if forgotten < u64::from(rows) {
                break;
            }
        }
        Ok(count)
    }

    async fn delete_idle(&self, org: &OrgName, idle: Idle) -> Result<u64, HostError> {
        let (mut count, mut after) = (0, None);
        while !self.is_draining() {
            let sessions = self.store().idle_sessions(org, idle, after, SESSIONS).await?;
            let Some(last) = sessions.last() else { break };
            after = Some(*last);
            for session in sessions {
                if self.is_draining() {
                    break;
                }
                let (host, org) = (self.clone(), org.clone());
                let deleted = self
                    .to_the_end(async move { host.delete_if_idle(&org, session, idle).await })
                    .await;
                match deleted {
                    Ok(deleted) => count += u64::from(deleted),
                    // One that can't be deleted keeps none of the others.
                    Err(error) => tracing::error!(%session, %error, "a session that is too old can't be deleted"),
                }
            }
        }
        Ok(count)
    }

    /// Whether it was deleted: it may be in use again since it was found.
    async fn delete_if_idle(&self, org: &OrgName, session: SessionId, idle: Idle) -> Result<bool, HostError> {
        let _in_order = self.in_order(session).await;
        if self.refuse_while_summed_up(session).is_err() {
            return Ok(false);
        }
        let (store, owner) = (Arc::clone(self.store()), org.clone());
        self.delete_with_files(org, session, async move {
            Ok(store.delete_idle_session(&owner, session, idle).await?)
        })
        .await
    }
}
