//! Webhooks and their deliveries, as the rest of the host sees them.

use fumehood_core::{
    Time,
    digest::Digest,
    id::{DeliveryId, EventId, SessionId, TurnId, WebhookId},
    name::{OrgName, SecretName},
};
use serde::{Deserialize, Serialize};

/// Deliveries of a webhook that may wait; what happens then is not told.
pub const MOST_PENDING: u64 = 10_000;
/// Deliveries of a webhook that are remembered once they have arrived.
pub const MOST_REMEMBERED: u64 = 1_000;
/// Deliveries of a webhook that are remembered once they were given up. Older ones are only counted.
pub const MOST_DEAD: u64 = 5_000;

/// Families of events that a webhook may be told.
const FAMILIES: [&str; 5] = ["turn", "session", "approval", "budget", "job"];

/// Whether webhooks may be told of events of this type.
#[must_use]
pub fn is_told(kind: &str) -> bool {
    // A piece of another session's conversation, which its webhooks were told of.
    kind != "session.copied"
        && kind
            .split_once('.')
            .is_some_and(|(family, _)| FAMILIES.contains(&family))
}

/// What a webhook is told: a type of event, `family.*`, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Told(String);

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing that webhooks are told; use `*`, `turn.*`, `session.*`, `approval.*`, `budget.*`, `job.*` or the type of one such event"
)]
pub struct NotTold(String);

impl Told {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it names events of this type.
    #[must_use]
    pub fn covers(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => kind.starts_with(start),
            None => self.0 == kind,
        }
    }
}

impl TryFrom<String> for Told {
    type Error = NotTold;

    fn try_from(text: String) -> Result<Self, NotTold> {
        let is_type =
            |rest: &str| (1..=40).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let known = match text.split_once('.') {
            None => text == "*",
            Some((family, rest)) => {
                FAMILIES.contains(&family) && (rest == "*" || is_type(rest)) && text != "session.copied"
            }
        };
        if known {
            Ok(Self(text))
        } else {
            Err(NotTold(text.chars().take(64).flat_map(char::escape_debug).collect()))
        }
    }
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Where a webhook's requests go, and how they are signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Where they go.
    pub url: String,
    /// The org's secret that signs them.
    pub key: SecretName,
    /// The one before, which signs them as well until it is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_before: Option<KeyBefore>,
    /// Those before that, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older_keys: Vec<KeyBefore>,
}

impl Settings {
    /// The keys that others have taken the place of, the latest first, whether or not they still sign.
    pub fn keys_before(&self) -> impl Iterator<Item = &KeyBefore> {
        self.key_before.iter().chain(&self.older_keys)
    }
}

/// A key that another has taken the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBefore {
    /// The org's secret.
    pub key: SecretName,
    /// Until when it signs.
    pub until: Time,
}

/// Whether a webhook is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// It is.
    Active,
    /// Somebody has paused it: what happens is not told, and what waits goes on waiting.
    Paused,
    /// Its server said that it is gone.
    Disabled,
}

/// A webhook to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWebhook {
    /// Its id, made by the caller.
    pub id: WebhookId,
    /// Its org.
    pub org: OrgName,
    /// Where, and how.
    pub settings: Settings,
    /// What it is told.
    pub events: Vec<Told>,
    /// The client's `Idempotency-Key` and the digest of the request it came with.
    pub idempotency: Option<(String, Digest)>,
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Its org.
    pub org: OrgName,
    /// Where, and how.
    pub settings: Settings,
    /// What it is told.
    pub events: Vec<Told>,
    /// Whether it is.
    pub state: WebhookState,
    /// Deliveries that wait.
    pub pending: u64,
    /// Events that were not told because too many waited.
    pub dropped: u64,
    /// Deliveries that were given up and are not remembered any more, because too many were.
    pub forgotten: u64,
    /// Counts its changes.
    pub revision: u64,
    /// When it was made.
    pub created: Time,
    /// When it last changed.
    pub updated: Time,
}

/// A webhook for which something waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToTell {
    /// Which.
    pub id: WebhookId,
    /// Its org.
    pub org: OrgName,
    /// Where it is told.
    pub url: String,
    /// From when on it may be sent.
    pub at: Time,
}

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is sent at this time, or again.
    Pending(Time),
    /// It arrived.
    Delivered,
    /// It did not, and is not sent any more.
    Dead,
}

/// An event that a webhook is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// To which webhook.
    pub webhook: WebhookId,
    /// Its org.
    pub org: OrgName,
    /// The event's session.
    pub session: SessionId,
    /// The event's place there.
    pub seq: u64,
    /// The event, and the message's id for the one who receives it.
    pub event: EventId,
    /// Its type.
    pub kind: String,
    /// Its turn.
    pub turn: Option<TurnId>,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it was sent.
    pub attempts: u32,
    /// The status of the last answer.
    pub status: Option<u16>,
    /// What was wrong with the last attempt.
    pub message: Option<String>,
    /// When it was made.
    pub created: Time,
    /// When it last changed.
    pub updated: Time,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The delivery, as it was sent.
    pub delivery: Delivery,
    /// Where it is now.
    pub state: DeliveryState,
    /// The status of the answer.
    pub status: Option<u16>,
    /// What was wrong.
    pub message: Option<String>,
    /// Whether anything was sent: what was not counts as no attempt.
    pub was_sent: bool,
    /// The address whose server said that it is gone: the webhook is not told any more, unless it has another address by now.
    pub gone: Option<String>,
}

/// Which deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// All.
    #[default]
    All,
    /// Those that wait.
    Pending,
    /// Those that arrived.
    Delivered,
    /// Those that did not and are not sent any more.
    Dead,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_a_family_or_everything_is_told() {
        let told = |text: &str| Told::try_from(text.to_owned());
        for (text, kind, covers) in [
            ("*", "turn.completed", true),
            ("turn.*", "turn.completed", true),
            ("turn.*", "session.created", false),
            ("turn.completed", "turn.completed", true),
            ("turn.completed", "turn.failed", false),
        ] {
            assert_eq!(told(text).unwrap().covers(kind), covers, "{text} {kind}");
        }
        for text in [
            "",
            "turn",
            "turn.",
            "tool.completed",
            "text.delta",
            "turn.**",
            "t*",
            "session.copied",
        ] {
            assert!(told(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_tools_and_models_say_is_told_to_nobody() {
        for kind in [
            "turn.queued",
            "session.rewound",
            "approval.requested",
            "budget.exhausted",
        ] {
            assert!(is_told(kind), "{kind}");
        }
        for kind in [
            "tool.completed",
            "text.completed",
            "session.copied",
            "egress.allowed",
            "turn",
        ] {
            assert!(!is_told(kind), "{kind}");
        }
    }
}
