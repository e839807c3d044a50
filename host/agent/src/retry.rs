//! When a failed model call is tried again, after how long, and which model is asked then. Pure: what is random is given.

use fumehood_model::ModelError;
use std::{fmt, time::Duration};

const INITIAL: Duration = Duration::from_millis(500);
const MAX: Duration = Duration::from_secs(30);
/// A provider that limits the rate and gives no hint is left alone for at least this long.
const RATE_LIMIT_FLOOR: Duration = Duration::from_secs(30);

/// A factor from 0.9 to 1.1, so that those who failed together don't come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Jitter(u32);

impl Jitter {
    /// What the factor is counted in.
    const UNIT: u32 = 100_000;
    const SPREAD: u32 = 10_000;

    /// Makes evenly spread numbers evenly spread factors.
    pub(crate) const fn of(random: u32) -> Self {
        Self(Self::UNIT - Self::SPREAD + random % (2 * Self::SPREAD + 1))
    }

    /// One that nobody foresees; none where the system gives no random bytes.
    pub(crate) fn random() -> Self {
        let mut random = [0; 4];
        match getrandom::fill(&mut random) {
            Ok(()) => Self::of(u32::from_le_bytes(random)),
            Err(_) => Self(Self::UNIT),
        }
    }

    pub(crate) fn times(self, wait: Duration) -> Duration {
        wait.saturating_mul(self.0) / Self::UNIT
    }
}

/// An attempt that gave no answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure<'a> {
    pub(crate) error: &'a ModelError,
    pub(crate) shown: Shown,
    /// What is left of the turn's time budget, where it has one.
    pub(crate) time_left: Option<Duration>,
}

/// What a client has seen of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Shown {
    /// No text of it: another attempt goes unnoticed.
    #[default]
    Nothing,
    /// Some of its text, which another attempt would show twice.
    Text,
}

/// What comes after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another attempt.
    Retry(Retry),
    /// None.
    GiveUp(Reason),
}

/// Another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retry {
    /// Which of the models, from 0.
    pub(crate) model: usize,
    /// Counts from 1 in the step.
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) wait: Wait,
}

/// The wait before an attempt, and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wait {
    pub(crate) computed: Duration,
    pub(crate) hint: Option<Duration>,
    pub(crate) selected: Duration,
    pub(crate) floor: Applied,
    pub(crate) budget_cap: Applied,
}

/// Whether something decided a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Applied {
    #[default]
    No,
    Yes,
}

impl From<bool> for Applied {
    fn from(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

/// Why there is no other attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The failure itself.
    Failure,
    /// The provider asks to wait for longer than the turn has time.
    HintTooLong { hint: Duration, left: Duration },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure => Ok(()),
            Self::HintTooLong { hint, left } => write!(
                f,
                "; it asks to wait {} s, and the turn's time budget has {} s left",
                hint.as_secs_f64().ceil(),
                left.as_secs()
            ),
        }
    }
}

/// The attempts of one step: at its model, then at each fallback.
#[derive(Debug, Clone)]
pub(crate) struct Attempts {
    /// How many retries each model has, in the order in which they are asked.
    retries: Vec<u32>,
    model: usize,
    /// Failures of that model.
    failures: u32,
    /// Retries so far, of all models.
    made: u32,
}

impl Attempts {
    pub(crate) fn new(retries: impl IntoIterator<Item = u32>) -> Self {
        Self {
            retries: retries.into_iter().collect(),
            model: 0,
            failures: 0,
            made: 0,
        }
    }

    /// Which of the models is asked now.
    pub(crate) const fn model(&self) -> usize {
        self.model
    }

    /// Counts a failure, and says what comes next.
    ///
    /// What won't pass by itself is not tried again at the turn's own model. A fallback that fails so, or that has no retry left, is
    /// followed by the next.
    pub(crate) fn failed(&mut self, failure: Failure<'_>, jitter: Jitter) -> Next {
        self.failures += 1;
        let own = self.model == 0;
        let passes = failure.error.is_retryable();
        if failure.shown == Shown::Text || (own && !passes) {
            return Next::GiveUp(Reason::Failure);
        }
        let is_last = self.model + 1 >= self.retries.len();
        let mut reason = Reason::Failure;
        if passes && self.failures <= self.retries_of(self.model) {
            match wait(failure.error, self.failures, jitter, failure.time_left) {
                // After a wait that takes all the time there is nobody is asked.
                Ok(wait) if wait.budget_cap == Applied::No || is_last => return self.retry(wait),
                Ok(_) => {}
                Err(too_long) => reason = too_long,
            }
        }
        if !is_last {
            self.model += 1;
            self.failures = 0;
            return self.retry(Wait::default());
        }
        Next::GiveUp(reason)
    }

    fn retry(&mut self, wait: Wait) -> Next {
        self.made += 1;
        let fallbacks = u32::try_from(self.retries.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let of_all = self
            .retries
            .iter()
            .fold(fallbacks, |sum, retries| sum.saturating_add(*retries));
        Next::Retry(Retry {
            model: self.model,
            attempt: self.made,
            max_attempts: of_all,
            wait,
        })
    }

    fn retries_of(&self, model: usize) -> u32 {
        self.retries.get(model).copied().unwrap_or(0)
    }
}

/// The wait before retry `attempt` (from 1) of one model.
fn wait(error: &ModelError, attempt: u32, jitter: Jitter, left: Option<Duration>) -> Result<Wait, Reason> {
    let doubled = INITIAL.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
    let computed = jitter.times(doubled.min(MAX * 2)).min(MAX);
    let hint = error.retry_after();
    if let (Some(hint), Some(left)) = (hint, left)
        && hint > left
    {
        return Err(Reason::HintTooLong { hint, left });
    }
    let least = match hint {
        Some(hint) => hint,
        None if error.is_rate_limit() => RATE_LIMIT_FLOOR,
        None => Duration::ZERO,
    };
    let wanted = computed.max(least);
    let selected = left.map_or(wanted, |left| wanted.min(left));
    Ok(Wait {
        computed,
        hint,
        selected,
        floor: (hint.is_none() && error.is_rate_limit() && least > computed).into(),
        budget_cap: (selected < wanted).into(),
    })
}

#[cfg(test)]
mod tests;
