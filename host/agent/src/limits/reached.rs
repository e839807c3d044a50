//! A limit that was reached, for those who have to wait.

use super::gcra::Standing;
use fumehood_core::call::{CallError, CallErrorCode};
use std::{fmt, time::Duration};

/// Not now: which limit, and when to come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limited {
    /// The rate is used up for now.
    Rate {
        /// The limit, by its key in the configuration or the manifest.
        limit: &'static str,
        /// The rate, as it is configured.
        text: String,
        /// Where it stands.
        standing: Standing,
        /// When it fits.
        retry_after: Duration,
    },
    /// As many calls run, or streams are open, as may.
    Crowded {
        /// The limit, by its key in the configuration.
        limit: &'static str,
        /// How many there may be at once.
        places: u32,
        /// Why there is no place.
        crowd: Crowd,
    },
    /// The limit can't be known now, and the org is to be refused then.
    Unknown {
        /// The limit, by its key in the configuration.
        limit: &'static str,
    },
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    /// None came free in this time.
    Waited(Duration),
    /// As many as may wait for one already.
    NoneMayWait(usize),
}

impl std::error::Error for Limited {}

impl fmt::Display for Limited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait = Words(self.retry_after());
        match self {
            Self::Rate { limit, text, .. } => {
                let whose = if *limit == "rate.calls" { "component's" } else { "org's" };
                write!(
                    f,
                    "the {whose} limit `{limit} = {text}` is reached; try again in {wait}"
                )
            }
            Self::Crowded { limit, places, crowd } => {
                write!(f, "the org's limit `{limit} = {places}` is reached")?;
                match crowd {
                    Crowd::Waited(time) => write!(f, ", and no place came free within {}", Words(*time))?,
                    Crowd::NoneMayWait(0) => {}
                    Crowd::NoneMayWait(waiting) => write!(f, ", and {waiting} wait for a place already")?,
                }
                write!(f, "; end one, or try again in {wait}")
            }
            Self::Unknown { limit } => write!(
                f,
                "the org's limit `{limit}` can't be checked now, because the store of the limits does not answer; \
                 try again in {wait}"
            ),
        }
    }
}

impl Limited {
    /// The limit, by its key in the configuration or the manifest.
    #[must_use]
    pub const fn limit(&self) -> &'static str {
        match self {
            Self::Rate { limit, .. } | Self::Crowded { limit, .. } | Self::Unknown { limit } => limit,
        }
    }

    /// When to come back.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Rate { retry_after, .. } => *retry_after,
            Self::Crowded { .. } | Self::Unknown { .. } => Duration::from_secs(1),
        }
    }
}

impl From<Limited> for CallError {
    fn from(limited: Limited) -> Self {
        // Rounded up: who comes back then is not refused again.
        let millis = limited.retry_after().as_nanos().div_ceil(1_000_000);
        Self {
            retry_after_ms: u64::try_from(millis).ok(),
            ..Self::new(CallErrorCode::RateLimited, limited.to_string())
        }
    }
}

/// A wait as people say it, rounded up.
struct Words(Duration);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_nanos().div_ceil(1_000_000);
        match millis {
            0..1000 => write!(f, "{millis} ms"),
            1000..120_000 => write!(f, "{} s", millis.div_ceil(1000)),
            _ => write!(f, "{} min", millis.div_ceil(60_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_said_in_round_units_and_never_too_short() {
        let said = |nanos| Words(Duration::from_nanos(nanos)).to_string();
        assert_eq!(said(1), "1 ms");
        assert_eq!(said(999_000_001), "1 s");
        assert_eq!(said(1_000_000_001), "2 s");
        assert_eq!(said(120_000_000_000), "2 min");
        assert_eq!(said(3_599_000_000_000), "60 min");
    }

    #[test]
    fn a_crowd_is_told_with_its_number_and_what_was_waited_for() {
        let said = |crowd| {
            let (limit, places) = ("concurrent_calls", 8);
            Limited::Crowded { limit, places, crowd }.to_string()
        };
        let waited = said(Crowd::Waited(Duration::from_secs(10)));
        assert!(
            waited.contains("`concurrent_calls = 8`") && waited.contains("within 10 s"),
            "{waited}"
        );
        let full = said(Crowd::NoneMayWait(64));
        assert!(full.contains("64 wait") && !full.contains("within"), "{full}");
        assert!(!said(Crowd::NoneMayWait(0)).contains("wait for"));
    }
}
