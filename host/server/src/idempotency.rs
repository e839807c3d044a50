//! Requests that a client may repeat: their key, and what tells one from another.

use crate::problem::{Answer, Problem, ProblemCode};
use fumehood_core::digest::Digest;
use http::{HeaderMap, HeaderName};
use serde::Serialize;

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LONGEST_IDEMPOTENCY_KEY: usize = 255;

/// The key that came with a request, if one did.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Answer<Option<String>> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (given.next(), given.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(key) if is_idempotency_key(key) => Ok(Some(key.to_owned())),
            _ => Err(bad_idempotency_key()),
        },
        (Some(_), Some(_)) => Err(bad_idempotency_key()),
    }
}

pub(crate) fn is_idempotency_key(key: &str) -> bool {
    (1..=LONGEST_IDEMPOTENCY_KEY).contains(&key.len())
        && key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

fn bad_idempotency_key() -> Problem {
    Problem::new(
        ProblemCode::InvalidHeader,
        "Idempotency-Key is one header of 1 to 255 printable ASCII characters",
    )
}

/// What two requests have in common that are the same: what they mean, not how they are written.
pub(crate) fn digest(meaning: &impl Serialize) -> Answer<Digest> {
    let bytes = serde_json::to_vec(meaning).map_err(|error| {
        tracing::error!(%error, "a request can't be written as JSON");
        Problem::fault()
    })?;
    Ok(Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn an_idempotency_key_has_a_length() {
        let key = |value: &str| {
            idempotency_key(&HeaderMap::from_iter([(
                IDEMPOTENCY_KEY,
                HeaderValue::from_str(value).unwrap(),
            )]))
        };
        assert_eq!(key("abc").unwrap().as_deref(), Some("abc"));
        assert_eq!(key("").unwrap_err().code(), ProblemCode::InvalidHeader);
        assert_eq!(key(&"x".repeat(256)).unwrap_err().code(), ProblemCode::InvalidHeader);
    }
}
