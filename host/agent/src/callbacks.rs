//! What a call may be that a tool hands on, and the tokens that end one.

use aws_lc_rs::constant_time;
use fumehood_core::digest::Digest;
use fumehood_policy::quantity::Span;
use secrecy::{ExposeSecret as _, SecretString};
use std::time::Duration;
use zeroize::Zeroizing;

/// What every token begins with: found in a text, it says what it is.
const PREFIX: &str = "fhcb_";
/// Of a token.
const RANDOM_BYTES: usize = 32;
/// The shortest that a call waits.
const SHORTEST: Span = Span::from_secs(1);

/// What the operator sets for calls that are handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackLimits {
    /// How the host is reached from outside: what stands before `/v1/callbacks/`. Where that is not known, no tool is told an address.
    pub url: Option<String>,
    /// How long a call waits whose tool says nothing of it.
    pub time: Span,
    /// The longest that a call waits.
    pub longest: Span,
}

impl Default for CallbackLimits {
    fn default() -> Self {
        Self {
            url: None,
            time: Span::from_secs(60 * 60),
            longest: Span::from_secs(7 * 24 * 60 * 60),
        }
    }
}

impl CallbackLimits {
    /// How long a call waits whose tool asks for so much.
    pub(crate) fn waits(&self, within: Option<Duration>) -> Duration {
        let asked = within.unwrap_or_else(|| self.time.as_duration());
        asked.max(SHORTEST.as_duration()).min(self.longest.as_duration())
    }
}

/// What ends one call.
pub(crate) struct Token(SecretString);

impl Token {
    /// One that nobody guesses; `None` where the system has no randomness.
    // THREAT[T-callback-guess]: 256 random bits; the host keeps only their digest.
    pub(crate) fn random() -> Option<Self> {
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        getrandom::fill(&mut *random).ok()?;
        Some(Self(SecretString::from(format!("{PREFIX}{}", hex::encode(*random)))))
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.0.expose_secret().as_bytes())
    }

    /// For whoever hands the call on, and for nobody else.
    pub(crate) const fn secret(&self) -> &SecretString {
        &self.0
    }
}

/// Whether what somebody shows is the token of this digest. Takes as long whatever they show of one length.
// THREAT[T-callback-guess]: digests are compared, and in constant time.
pub(crate) fn is_token(shown: &[u8], token: &Digest) -> bool {
    let shown = Digest::of(shown);
    constant_time::verify_slices_are_equal(shown.as_bytes(), token.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_waits_as_long_as_its_tool_says_within_what_the_operator_allows() {
        let limits = CallbackLimits {
            time: Span::from_secs(60),
            longest: Span::from_secs(600),
            ..CallbackLimits::default()
        };
        let waits = |within: Option<u64>| limits.waits(within.map(Duration::from_millis)).as_millis();
        assert_eq!(waits(None), 60_000);
        assert_eq!(waits(Some(30_000)), 30_000);
        assert_eq!(waits(Some(0)), 1000);
        assert_eq!(waits(Some(u64::MAX)), 600_000);
        let short = CallbackLimits {
            longest: Span::from_secs(5),
            ..limits
        };
        assert_eq!(short.waits(None), Duration::from_secs(5));
    }

    #[test]
    fn a_token_is_known_by_its_digest_and_no_other_is() {
        let (one, other) = (Token::random().unwrap(), Token::random().unwrap());
        let shown = one.secret().expose_secret().as_bytes();
        assert!(is_token(shown, &one.digest()));
        assert!(!is_token(shown, &other.digest()));
        assert!(!is_token(&shown[1..], &one.digest()));
        assert!(!is_token(b"", &one.digest()));
        assert_eq!(shown.len(), PREFIX.len() + 2 * RANDOM_BYTES);
    }
}
