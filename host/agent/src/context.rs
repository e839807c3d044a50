//! How full a conversation is, what of it is summed up when it gets too long, and what stands for a message that is too large by
//! itself. Pure decisions over messages; the model is asked elsewhere.

mod count;
mod large;
mod source;

pub(crate) use count::{Counted, Counting};
pub(crate) use large::shortened;
pub(crate) use source::{mechanical_summary, request_source};

use crate::{machine::Context, tokens::Counter, transcript};
use fumehood_core::message::Message;

/// What a model takes when nobody knows: four fifths of it are 100,000.
const USUAL_WINDOW: u64 = 125_000;
/// What is left free for an answer, at most.
const RESERVE: u64 = 16_384;
/// A summary is at most this long.
const LONGEST_SUMMARY: u64 = 8_192;
/// Summing up that would make a request smaller by less than this part of it is not worth a model call.
const WORTH: u64 = 8;

/// How many tokens a model takes, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window(u64);

impl Window {
    pub(crate) fn of(known: Option<u64>) -> Self {
        Self(known.unwrap_or(USUAL_WINDOW).max(1))
    }

    /// A request this large is too large to go on with.
    pub(crate) const fn threshold(self) -> u64 {
        self.0.saturating_mul(4) / 5
    }

    /// Whether a request of about so many tokens is more than the model takes.
    pub(crate) const fn is_passed_by(self, tokens: u64) -> bool {
        tokens >= self.0
    }

    fn reserve(self) -> u64 {
        RESERVE.min(self.0 / 10)
    }

    /// A message that is larger is shortened.
    pub(crate) const fn largest_message(self) -> u64 {
        self.0 / 2
    }

    /// The most tokens that a summary may have.
    pub(crate) fn longest_summary(self) -> u64 {
        LONGEST_SUMMARY.min(self.threshold() / 4).max(1)
    }

    /// The model refused a request of about so many tokens: it takes less than was thought.
    pub(crate) fn refused(self, tokens: u64) -> Self {
        Self((self.0.min(tokens).saturating_mul(3) / 4).max(1))
    }
}

/// The tokens that a provider counted for a request, and how many messages that one had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) tokens: u64,
    pub(crate) messages: usize,
}

/// Weighs a conversation that grows: each message once by estimate, and once more where it was counted.
pub(crate) struct Gauge {
    /// Instructions and tools, which every request has.
    fixed: u64,
    /// Whether they were counted.
    fixed_is_counted: bool,
    weights: Vec<u64>,
    /// How many of the messages, from the first on, were counted.
    counted: usize,
    sum: u64,
}

impl Gauge {
    pub(crate) const fn new(fixed: u64) -> Self {
        Self {
            fixed,
            fixed_is_counted: false,
            weights: Vec::new(),
            counted: 0,
            sum: 0,
        }
    }

    /// Instructions or tools are others now.
    pub(crate) const fn fix(&mut self, fixed: u64) {
        self.fixed = fixed;
        self.fixed_is_counted = false;
    }

    /// Forgets what was weighed: the conversation is another one.
    pub(crate) fn start_over(&mut self) {
        self.weights.clear();
        self.counted = 0;
        self.sum = 0;
    }

    /// Whether there are estimates in it that may be too far off to go by: less than half of the room is left by them.
    pub(crate) fn is_rough(&self, window: Window, reported: Option<Reported>) -> bool {
        self.counted < self.weights.len() && self.request(reported) > window.threshold() / 2
    }

    /// Whether instructions and tools were counted since they are what they are.
    pub(crate) const fn fixed_is_counted(&self) -> bool {
        self.fixed_is_counted
    }

    /// The first message that was not counted yet.
    pub(crate) const fn counted(&self) -> usize {
        self.counted
    }

    /// Puts what was counted in the place of estimates.
    pub(crate) fn correct(&mut self, counted: &Counted) {
        if let Some(fixed) = counted.fixed {
            self.fixed = fixed;
            self.fixed_is_counted = true;
        }
        for (weight, counted) in self.weights.iter_mut().skip(counted.from).zip(&counted.messages) {
            self.sum = self.sum.saturating_sub(*weight) + counted;
            *weight = *counted;
        }
        self.counted = self.weights.len().min(counted.from + counted.messages.len());
    }

    /// Weighs what was added.
    pub(crate) fn weigh(&mut self, messages: &[Message]) {
        if messages.len() < self.weights.len() {
            self.start_over();
        }
        for message in &messages[self.weights.len()..] {
            let weight = Counter::Estimate.message(message);
            self.sum += weight;
            self.weights.push(weight);
        }
    }

    /// The tokens of each message.
    pub(crate) fn weights(&self) -> &[u64] {
        &self.weights
    }

    /// The tokens of the messages.
    pub(crate) const fn conversation(&self) -> u64 {
        self.sum
    }

    /// The tokens of the next request: as estimated, or as the provider counted the last one with what came since, whichever is more.
    pub(crate) fn request(&self, reported: Option<Reported>) -> u64 {
        let counted = reported.and_then(|reported| {
            let since: u64 = self.weights.get(reported.messages..)?.iter().sum();
            Some(reported.tokens.saturating_add(since))
        });
        self.estimated().max(counted.unwrap_or(0))
    }

    const fn estimated(&self) -> u64 {
        self.fixed + self.sum
    }

    /// Whether there is room for another step, and something to sum up if there is none.
    pub(crate) fn context(&self, messages: &[Message], window: Window, reported: Option<Reported>) -> Context {
        let request = self.request(reported);
        if request.saturating_add(window.reserve()) < window.threshold() {
            return Context::Room;
        }
        match self.cut(messages, self.usual_tail(window, reported)) {
            Some(cut) if cut.weight >= self.estimated() / WORTH => Context::NearlyFull,
            _ => Context::Room,
        }
    }

    /// How much of the end is kept: half of what there is room for, in estimated tokens, of which the provider may count more.
    pub(crate) fn usual_tail(&self, window: Window, reported: Option<Reported>) -> u64 {
        let half = u128::from(window.threshold().saturating_sub(self.fixed) / 2);
        let tail = half * u128::from(self.estimated()) / u128::from(self.request(reported).max(1));
        u64::try_from(tail).unwrap_or(u64::MAX)
    }

    /// Where to cut, so that at most so many tokens of the end are kept. `None` when there is nothing to leave out.
    pub(crate) fn cut(&self, messages: &[Message], tail: u64) -> Option<Cut> {
        let mut kept = 0_u64;
        let mut from = messages.len();
        for (at, message) in messages.iter().enumerate().rev() {
            kept = kept.saturating_add(self.weights.get(at).copied().unwrap_or(0));
            if kept > tail {
                break;
            }
            // Never between a call and its result.
            if !matches!(message, Message::Tool { .. }) {
                from = at;
            }
        }
        let stays = transcript::staying(messages, from);
        let left_out: Vec<_> = (0..from).filter(|at| !stays.contains(at)).collect();
        let weight = left_out.iter().filter_map(|at| self.weights.get(*at)).sum();
        (!left_out.is_empty()).then_some(Cut { from, left_out, weight })
    }
}

/// What a summary will stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The first message that is kept.
    from: usize,
    /// The places of those before it that are left out.
    left_out: Vec<usize>,
    /// The tokens of those.
    weight: u64,
}

impl Cut {
    /// How many of the last messages are kept as they are.
    pub(crate) fn kept(&self, messages: &[Message]) -> u64 {
        (messages.len() - self.from) as u64
    }

    /// What is left out.
    pub(crate) fn left_out<'a>(&self, messages: &'a [Message]) -> Vec<&'a Message> {
        self.left_out.iter().filter_map(|at| messages.get(*at)).collect()
    }

    /// The tokens of the conversation once this summary stands for what is left out.
    pub(crate) fn after(&self, gauge: &Gauge, summary: &str) -> u64 {
        let marked = Message::Summary {
            text: transcript::marked(summary),
        };
        gauge.sum.saturating_sub(self.weight) + Counter::Estimate.message(&marked)
    }
}

#[cfg(test)]
mod tests;
