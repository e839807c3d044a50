//! What a turn holds of its org's and session's budgets while it asks a model.

use super::{Driver, Interruption, Stop};
use crate::budgets::{Foreseen, Hold};
use fumehood_core::{money::Money, turn::Usage};
use fumehood_store::spending::Amounts;
use std::{pin::pin, time::Duration};
use tokio::time::Instant;

/// What a step took. The next one is foreseen to take as much.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastStep {
    /// Of its model call, where that was counted.
    pub(super) usage: Option<Usage>,
    /// The calls of tools that it asked for.
    pub(super) tool_calls: u64,
    /// How long the model took.
    pub(super) took: Duration,
}

/// What the first step of a turn is foreseen to take, and a model call that was not counted.
impl Default for LastStep {
    fn default() -> Self {
        Self {
            usage: None,
            tool_calls: 1,
            took: Duration::from_secs(10),
        }
    }
}

const UNCOUNTED_CALL: Usage = Usage {
    input_tokens: Some(4000),
    output_tokens: Some(1000),
    cached_input_tokens: None,
    cache_write_tokens: None,
    reasoning_tokens: None,
};

/// How often to look whether what others hold was let go, where another process may have held it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether something is held for the call that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Nothing,
    /// Since then.
    Something(Instant),
}

impl Driver {
    /// Holds what a model call may take, unless that is done. Waits while the rest of a budget is held for calls that run.
    pub(super) async fn hold(&mut self) -> Result<(), Stop> {
        if self.plan.purse.has_limits() {
            self.recorder.settle().await?;
        }
        while self.held == Held::Nothing {
            let foreseen = self.foreseen();
            let (hold, warnings) = self.plan.purse.hold(foreseen).await?;
            let machine = &self.recorder.machine;
            let told = warnings.into_iter().map(|warning| machine.warning(warning)).collect();
            self.recorder.record(told).await?;
            match hold {
                Hold::Granted { time } => {
                    self.share_time(time);
                    self.held = Held::Something(Instant::now());
                }
                Hold::TimeIsUp(time) => {
                    self.share_time(Some(time));
                    return Err(Interruption::TimeLimit.into());
                }
                Hold::Exhausted(exhausted) => {
                    self.exhaust(exhausted).await?;
                    return Err(Stop::Ended);
                }
                Hold::Taken => self.until_something_is_let_go().await?,
            }
        }
        Ok(())
    }

    fn foreseen(&self) -> Foreseen {
        let LastStep {
            usage,
            tool_calls,
            took,
        } = self.last_step;
        let usage = usage.unwrap_or(UNCOUNTED_CALL);
        let uncounted = self.recorder.uncounted();
        let time = uncounted.saturating_add(took).as_millis();
        Foreseen {
            amounts: Amounts {
                tokens: usage.total(),
                cost: self.plan.model.cost(Some(usage)).unwrap_or(Money::ZERO),
                tool_calls,
                steps: 1,
                time_ms: u64::try_from(time).unwrap_or(u64::MAX),
            },
            uncounted,
            time_left: self.time_left(),
        }
    }

    /// How long something has been held for the call.
    pub(super) fn held_for(&self) -> Duration {
        match self.held {
            Held::Nothing => Duration::ZERO,
            Held::Something(since) => since.elapsed(),
        }
    }

    /// Many may wait: they look, and only who finds something troubles the one writer.
    async fn until_something_is_let_go(&self) -> Result<(), Stop> {
        let waiter = self.plan.purse.wait();
        loop {
            // Before looking, so that nothing that is let go meanwhile is missed.
            let mut freed = pin!(waiter.something_let_go());
            freed.as_mut().enable();
            if self.plan.purse.is_worth_trying(self.foreseen()).await? {
                return Ok(());
            }
            // What came of waiting does not matter: it is looked at again.
            let waited = tokio::time::timeout(LOOK_AGAIN, freed);
            let _ = self.interruptible(waited).await?;
        }
    }

    /// The event is recorded that tells what the call took, and what was held for it is held no more.
    pub(super) fn let_go(&mut self) {
        self.held = Held::Nothing;
        self.plan.purse.let_go();
    }
}
