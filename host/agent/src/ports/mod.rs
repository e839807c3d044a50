//! What a guest reaches outside the sandbox: the sandbox's ports, each answered by the crate that owns the matter.

mod door;
mod events;
mod key_values;
mod peers;
mod signer;

pub use door::StoreLedger;
pub(crate) use door::door;
pub(crate) use events::CallEvents;
pub(crate) use key_values::key_values;
pub(crate) use peers::peers;
pub(crate) use signer::signer;

use fumehood_core::content::Content;
use fumehood_egress::LeakGuard;
use serde_json::Value;
use std::borrow::Cow;

/// Takes secrets out of one piece of content.
pub(crate) fn redact_content(guard: &LeakGuard, piece: &mut Content) {
    match piece {
        Content::Text { text } | Content::File { path: text } => redact_text(guard, text),
        Content::Json { json } => redact_json(guard, json),
        Content::Image { media_type, data } | Content::Audio { media_type, data } => {
            redact_text(guard, media_type);
            if let Cow::Owned(clean) = guard.redact(data) {
                *data = clean;
            }
        }
    }
}

/// Takes secrets out of a JSON value. One that spans more than one string of it makes the whole value a text.
pub(crate) fn redact_json(guard: &LeakGuard, value: &mut Value) {
    let text = value.to_string();
    if let Cow::Owned(clean) = guard.redact_str(&text) {
        *value = serde_json::from_str(&clean).unwrap_or(Value::String(clean));
    }
}

fn redact_text(guard: &LeakGuard, text: &mut String) {
    if let Cow::Owned(clean) = guard.redact_str(text) {
        *text = clean;
    }
}
