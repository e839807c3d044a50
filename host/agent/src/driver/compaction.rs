//! Making room in a conversation that nears, or passes, what the model takes.

use super::{Driver, Stop};
use crate::{
    compaction::{Author, Summariser, concluded},
    context::{Counting, Cut, shortened},
    machine::Context,
};
use fumehood_core::{
    event::{CompactionReason, EventBody},
    message::Message,
};
use fumehood_model::{Assembler, ModelError};
use fumehood_store::StoreError;
use std::sync::Arc;

/// How often a step makes room for a request that the model refused, before the turn fails.
const OVERFLOWS: u32 = 2;

/// What is known of the model's tokenizer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tokenizer {
    /// There may be one.
    Perhaps,
    /// Nobody knows how the model counts.
    Unknown,
}

impl Driver {
    /// Counts what was only estimated, where estimates are too rough to go by and the model's tokenizer is known.
    pub(super) async fn count(&mut self) -> Result<(), StoreError> {
        let Some(messages) = self.recorder.whole_messages() else {
            return Ok(());
        };
        self.gauge.weigh(&messages);
        if self.tokenizer == Tokenizer::Unknown || !self.gauge.is_rough(self.window, self.recorder.reported()) {
            return Ok(());
        }
        self.recorder.settle().await?;
        let counting = Counting {
            model: self.plan.model.provider.describe().model,
            fixed: (!self.gauge.fixed_is_counted()).then(|| (self.plan.system.clone(), Arc::clone(&self.shown))),
            messages,
            from: self.gauge.counted(),
        };
        // Who interrupts it is heard by whoever asks what comes next.
        if let Ok(counted) = self.interruptible(counting.count()).await {
            match counted {
                Some(counted) => self.gauge.correct(&counted),
                None => self.tokenizer = Tokenizer::Unknown,
            }
        }
        Ok(())
    }

    /// How full the conversation is. While a step is open nobody asks.
    pub(super) fn context(&mut self) -> Context {
        let Some(messages) = self.recorder.whole_messages() else {
            return Context::Room;
        };
        self.gauge.weigh(&messages);
        self.gauge.context(&messages, self.window, self.recorder.reported())
    }

    /// The messages as the model is shown them.
    pub(super) fn shown_messages(&mut self) -> Arc<Vec<Message>> {
        let messages = self.recorder.messages();
        self.gauge.weigh(&messages);
        shortened(messages, self.gauge.weights(), self.window.largest_message())
    }

    /// Sums up the older part of the conversation, or records that it can't be done.
    pub(super) async fn compact(&mut self) -> Result<(), Stop> {
        let messages = self.recorder.messages();
        self.gauge.weigh(&messages);
        match self.gauge.cut(&messages, self.usual_tail()) {
            Some(cut) => self.sum_up(CompactionReason::NearlyFull, &messages, &cut).await,
            None => self.record_no_room(CompactionReason::NearlyFull).await,
        }
    }

    /// After the model refused the conversation as too long: makes it shorter, so that the model can be asked again. Bounded: then the
    /// refusal fails the turn, and the conversation is as short as it got.
    // THREAT[T-loop-context]
    pub(super) async fn make_room(&mut self, refusal: &ModelError) -> Result<(), Stop> {
        if self.recorder.machine.overflows() >= OVERFLOWS {
            return Err(Stop::Failed(refusal.to_turn_error()));
        }
        let messages = self.recorder.messages();
        self.gauge.weigh(&messages);
        self.window = self.window.refused(self.gauge.request(self.recorder.reported()));
        if let Some(cut) = self.gauge.cut(&messages, self.usual_tail()) {
            return self.sum_up(CompactionReason::Overflow, &messages, &cut).await;
        }
        // Nothing is older than what must stay; but a part of that may be shown.
        let largest = self.window.largest_message();
        if self.gauge.weights().iter().any(|weight| *weight > largest) {
            return self.record_no_room(CompactionReason::Overflow).await;
        }
        Err(Stop::Failed(refusal.to_turn_error()))
    }

    fn usual_tail(&self) -> u64 {
        self.gauge.usual_tail(self.window, self.recorder.reported())
    }

    async fn record_no_room(&mut self, reason: CompactionReason) -> Result<(), Stop> {
        let machine = &self.recorder.machine;
        let failed = EventBody::CompactionFailed {
            message: "there is nothing older to sum up; messages that are too large are shown shortened".into(),
            usage: None,
            cost: None,
        };
        let events = vec![
            machine.event(EventBody::CompactionStarted { reason }),
            machine.event(failed),
        ];
        Ok(self.recorder.record(events).await?)
    }

    async fn sum_up(&mut self, reason: CompactionReason, messages: &[Message], cut: &Cut) -> Result<(), Stop> {
        self.hold().await?;
        let started = self.recorder.machine.event(EventBody::CompactionStarted { reason });
        self.recorder.record(vec![started]).await?;
        let summariser = Summariser {
            model: &self.plan.model,
            session: self.plan.session,
            window: self.window,
        };
        let left_out = cut.left_out(messages);
        let mut answer = Assembler::default();
        let summing = summariser.sum_up(&left_out, None, &mut answer);
        let outcome = self.interruptible(summing).await;
        // The model can't be asked otherwise, or would silently leave out what it has no room for: an extract has to do.
        let is_pressing = reason == CompactionReason::Overflow
            || self.window.is_passed_by(self.gauge.request(self.recorder.reported()));
        let outcome = match outcome {
            Ok(Err(none)) if is_pressing => Ok(summariser.extract(&left_out, none.usage)),
            Ok(outcome) => outcome,
            Err(interruption) => {
                let failed = self.recorder.machine.event(EventBody::CompactionFailed {
                    message: "the turn ended before the summary was there".into(),
                    usage: answer.usage(),
                    cost: self.plan.model.cost(answer.usage()),
                });
                self.recorder.record(vec![failed]).await?;
                return Err(interruption.into());
            }
        };
        let by_model = outcome.as_ref().is_ok_and(|summary| summary.author == Author::Model);
        let body = concluded(&self.plan.model, outcome, cut, &self.gauge, messages);
        let event = if by_model {
            self.by_model(body)
        } else {
            self.recorder.machine.event(body)
        };
        self.recorder.record(vec![event]).await?;
        self.let_go();
        self.gauge.start_over();
        Ok(())
    }
}
