//! Summing up a session's conversation because a client asks for it, while no turn is open.

use super::{Host, HostError};
use crate::{
    budgets::{Foreseen, Hold, Purpose, Purse},
    compaction::{Author, Summariser, concluded},
    context::{Counting, Gauge, Window},
    recorder, redact,
    transcript::Transcript,
};
use fumehood_core::{
    event::{CompactionReason, EventBody, NewEvent, Source},
    id::SessionId,
    money::Money,
    name::OrgName,
    turn::Usage,
};
use fumehood_store::spending::{Amounts, Holder};
use std::{
    collections::HashSet,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tracing::Instrument as _;

/// How long all of it may take: meanwhile the session takes no turn.
const LONGEST: Duration = Duration::from_mins(2);
/// How often to look whether what others hold was let go, where another process may have held it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What summing up came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Estimated tokens of the conversation before.
    pub tokens_before: u64,
    /// Estimated tokens of it now: the same where there was nothing to sum up.
    pub tokens_after: u64,
    /// What the summary took, if the provider counted.
    pub usage: Option<Usage>,
}

/// The sessions whose conversation is being summed up for a client.
#[derive(Default)]
pub(super) struct BeingSummedUp(Mutex<HashSet<SessionId>>);

impl BeingSummedUp {
    fn set(&self) -> MutexGuard<'_, HashSet<SessionId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contains(&self, session: SessionId) -> bool {
        self.set().contains(&session)
    }
}

/// Ends with its drop, also when the work is dropped half-way.
struct Summing<'a> {
    all: &'a BeingSummedUp,
    session: SessionId,
}

impl Drop for Summing<'_> {
    fn drop(&mut self) {
        self.all.set().remove(&self.session);
    }
}

impl Host {
    /// Sums up the older part of a session's conversation.
    ///
    /// Dropped before its end, it goes on.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; the store's `Archived`; [`HostError::Busy`] while a turn is open, [`HostError::Compacting`] while the conversation is being
    /// summed up already; [`HostError::BudgetExhausted`]; [`HostError::NotCompacted`] when the model gave no summary: the conversation is as it was.
    pub async fn compact(
        &self,
        org: &OrgName,
        session: SessionId,
        focus: Option<String>,
    ) -> Result<Compacted, HostError> {
        if self.is_draining() {
            return Err(HostError::ShuttingDown);
        }
        let (host, org) = (self.clone(), org.clone());
        let counted = self.inner.working.token();
        let work = async move {
            let compacting = host.compact_now(&org, session, focus);
            // Closing drops it where it is: without an end in the journal nothing has changed.
            let closing = &host.inner.closing;
            let done = closing.run_until_cancelled(compacting).await;
            drop(counted);
            // What came meanwhile and may wait has waited for this.
            host.drive_following(&org, session, None).await?;
            done.unwrap_or(Err(HostError::ShuttingDown))
        };
        let done = self.tasks().spawn(work.in_current_span()).await;
        done.unwrap_or_else(|error| {
            tracing::error!(%error, "summing up broke");
            Err(HostError::Fault)
        })
    }

    /// No turn begins while the conversation is being summed up: what is kept is counted from its end.
    pub(crate) fn refuse_while_summed_up(&self, session: SessionId) -> Result<(), HostError> {
        if self.inner.summed_up.contains(session) {
            return Err(HostError::Compacting);
        }
        Ok(())
    }

    /// Takes the session, unless a turn is open. Turns are accepted in the same order, so none slips in between.
    async fn begin_summing(&self, org: &OrgName, session: SessionId) -> Result<Summing<'_>, HostError> {
        let _in_order = self.in_order(session).await;
        self.session_in_use(org, session).await?;
        let turns = self.inner.store.turns(org, session).await?;
        if let Some(open) = turns.iter().find(|turn| !turn.status.is_terminal()) {
            return Err(HostError::Busy(open.id));
        }
        let all = &self.inner.summed_up;
        if !all.set().insert(session) {
            return Err(HostError::Compacting);
        }
        Ok(Summing { all, session })
    }

    async fn compact_now(&self, org: &OrgName, id: SessionId, focus: Option<String>) -> Result<Compacted, HostError> {
        let session = self.session(org, id).await?;
        let chain = self.chain(org, &session.agent).await?;
        let leaf = chain.last().ok_or(HostError::NotFound("agent"))?;
        let (model, _) = self.candidates(leaf)?;
        self.admit(org, id, Purpose::Summary).await?;
        let _summing = self.begin_summing(org, id).await?;

        let mut transcript = Transcript::default();
        recorder::for_each_page(&*self.inner.store, org, id, |events| transcript.apply_all(events)).await?;
        let messages = transcript.messages();
        let window = Window::of(model.provider.describe().context_window);
        let mut gauge = Gauge::new(0);
        gauge.weigh(&messages);
        let counting = Counting {
            model: model.provider.describe().model,
            fixed: None,
            messages: Arc::clone(&messages),
            from: 0,
        };
        if let Some(counted) = counting.count().await {
            gauge.correct(&counted);
        }
        let before = gauge.conversation();
        // Who asks for it wants it shorter, though there would be room.
        let tail = gauge.usual_tail(window, transcript.reported()).min(before / 4);
        let Some(cut) = gauge.cut(&messages, tail) else {
            return Ok(Compacted {
                tokens_before: before,
                tokens_after: before,
                usage: None,
            });
        };
        let guard = self.guard(org, Some(id)).await?;
        let until = Instant::now() + LONGEST;
        let usage = Usage {
            input_tokens: Some(before),
            output_tokens: Some(window.longest_summary()),
            ..Usage::default()
        };
        let holder = Holder::Session(id);
        let mut purse = Purse::new(
            Arc::clone(&self.inner.budgets),
            org.clone(),
            holder,
            leaf.session_budget,
        );
        let foreseen = Foreseen {
            amounts: Amounts {
                tokens: usage.total(),
                cost: model.cost(Some(usage)).unwrap_or(Money::ZERO),
                ..Amounts::default()
            },
            uncounted: Duration::ZERO,
            time_left: Some(LONGEST),
        };
        self.hold_for_summary(org, id, &mut purse, foreseen, until).await?;
        let reason = CompactionReason::Requested;
        self.record_compaction(org, id, Source::Client, EventBody::CompactionStarted { reason })
            .await?;
        let focus = focus.map(|text| guard.redact_str(&text).into_owned());
        let summariser = Summariser {
            model: &model,
            session: id,
            window,
        };
        let left = until.saturating_duration_since(Instant::now());
        let outcome = summariser
            .sum_up_within(left, &cut.left_out(&messages), focus.as_deref())
            .await;
        let source = match &outcome {
            Ok(summary) if summary.author == Author::Model => Source::Model,
            _ => Source::Host,
        };
        let body = concluded(&model, outcome, &cut, &gauge, &messages);
        let told = match &body {
            EventBody::CompactionCompleted {
                tokens_before,
                tokens_after,
                usage,
                ..
            } => Ok(Compacted {
                tokens_before: *tokens_before,
                tokens_after: *tokens_after,
                usage: *usage,
            }),
            EventBody::CompactionFailed { message, .. } => Err(HostError::NotCompacted(message.clone())),
            _ => Err(HostError::Fault),
        };
        self.record_compaction(org, id, source, body).await?;
        purse.let_go();
        told
    }

    /// Holds what a summary may take, as a turn does. Waits while the rest of a budget is held for calls that run.
    async fn hold_for_summary(
        &self,
        org: &OrgName,
        session: SessionId,
        purse: &mut Purse,
        foreseen: Foreseen,
        until: Instant,
    ) -> Result<(), HostError> {
        let waiter = purse.wait();
        loop {
            // Before looking, so that nothing that is let go meanwhile is missed.
            let mut freed = pin!(waiter.something_let_go());
            freed.as_mut().enable();
            let (hold, warnings) = purse.hold(foreseen).await?;
            for warning in warnings {
                self.record_compaction(org, session, Source::Host, warning.into())
                    .await?;
            }
            match hold {
                Hold::Granted { .. } => return Ok(()),
                // Says which budget it is, and when it begins anew; unless that has just happened.
                Hold::Exhausted(_) | Hold::TimeIsUp(_) => self.admit(org, session, Purpose::Summary).await?,
                Hold::Taken => {}
            }
            if Instant::now() >= until {
                let why = "the rest of the budget is held for model calls that run; try again when they have ended";
                return Err(HostError::NotCompacted(why.into()));
            }
            // What came of waiting does not matter: it is looked at again.
            let _ = tokio::time::timeout(LOOK_AGAIN, freed).await;
        }
    }

    async fn record_compaction(
        &self,
        org: &OrgName,
        session: SessionId,
        source: Source,
        mut body: EventBody,
    ) -> Result<(), HostError> {
        // THREAT[T-sec-exfiltration]
        redact::event(&self.guard(org, Some(session)).await?, &mut body);
        let event = NewEvent {
            turn: None,
            source,
            body,
        };
        let events = self.inner.store.append(org, session, &[event]).await?;
        self.publish(events);
        Ok(())
    }
}
