//! Ids of things the host makes: a prefix that names the kind, and a UUIDv7.
//!
//! An id sorts by its time of creation. Its text form is `ses_018f…` (32 lower-case hex
//! digits, no dashes); anything else does not parse, so an id of one kind can't be taken for another.

use crate::digest::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind} id: expected `{prefix}` followed by 32 hexadecimal digits")]
pub struct ParseIdError {
    kind: &'static str,
    prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id, later than every earlier one of this process.
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id made from a given UUID; for tests and for ids derived from others.
            #[must_use]
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID behind the prefix.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = Uuid::encode_buffer();
                f.write_str($prefix)?;
                f.write_str(self.0.simple().encode_lower(&mut buffer))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .filter(|hex| hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
                    .and_then(|hex| Uuid::try_parse(hex).ok())
                    .map(Self)
                    .ok_or(ParseIdError { kind: $kind, prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// One conversation.
    SessionId, "session", "ses_";
    /// One input worked to an end.
    TurnId, "turn", "trn_";
    /// One execution of one tool.
    CallId, "call", "call_";
    /// One journal entry.
    EventId, "event", "evt_";
    /// One API key (not its secret).
    KeyId, "key", "key_";
    /// One egress decision.
    LedgerId, "ledger", "led_";
    /// One schedule.
    ScheduleId, "schedule", "sch_";
    /// A call that somebody outside ends.
    CallbackId, "callback", "cbk_";
    /// A call that runs on in the background.
    JobId, "job", "job_";
    /// One webhook.
    WebhookId, "webhook", "whk_";
    /// One event that a webhook is told.
    DeliveryId, "delivery", "dlv_";
}

impl CallId {
    /// The id of a call that this one makes for the `times`th time: the same whenever it is asked for, of the form and with the time of
    /// this one.
    #[must_use]
    pub fn derived(self, what: &Digest, times: u64) -> Self {
        let mut whole = self.0.as_bytes().to_vec();
        whole.extend(what.as_bytes());
        whole.extend(times.to_be_bytes());
        let mut bytes = *self.0.as_bytes();
        bytes[6..].copy_from_slice(&Digest::of(&whole).as_bytes()[..10]);
        bytes[6] = 0x70 | (bytes[6] & 0x0f);
        bytes[8] = 0x80 | (bytes[8] & 0x3f);
        Self(Uuid::from_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_derives_from_another_is_the_same_each_time_and_of_the_same_form() {
        let (from, what) = (CallId::new(), Digest::of(b"send"));
        let id = from.derived(&what, 1);
        assert_eq!(id, from.derived(&what, 1));
        assert_eq!(id.uuid().get_version_num(), 7);
        assert_eq!(id.uuid().as_bytes()[..6], from.uuid().as_bytes()[..6], "its time");
        for other in [
            from.derived(&what, 2),
            from.derived(&Digest::of(b"sent"), 1),
            CallId::new().derived(&what, 1),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn an_id_survives_its_text_form() {
        let id = SessionId::new();
        assert_eq!(id.to_string().parse::<SessionId>(), Ok(id));
        assert!(id.to_string().starts_with("ses_"));
    }

    #[test]
    fn an_id_of_another_kind_does_not_parse() {
        assert!(TurnId::new().to_string().parse::<SessionId>().is_err());
    }

    #[test]
    fn dashes_upper_case_and_short_forms_do_not_parse() {
        for text in [
            "ses_",
            "ses_018F0000000070008000000000000000",
            "ses_018f0000-0000-7000-8000-000000000000",
            "ses_18f",
        ] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
    }
}
