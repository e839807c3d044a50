//! What providers say when they refuse, and which kind of error it is.
//!
//! All of them send an `error` object; the names in it differ. Codes decide first, then the HTTP status, then the broad
//! types. One thing has no code at some providers, a conversation that is too long: only there are words looked for.

use crate::{
    error::{ModelError, ModelErrorKind},
    media::MediaKinds,
};
use serde_json::Value;
use std::time::Duration;

/// An error as a provider described it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    /// `code`, `type`, `status` and the reasons of details: whichever there are, lower-case.
    tags: Vec<String>,
    /// The request's field that is to blame.
    pub(crate) param: Option<String>,
    message: String,
    /// A hint in the body.
    retry_after: Option<Duration>,
}

impl Fault {
    /// From the body of a refusal. Anything is taken; what is not JSON is the message.
    pub(crate) fn from_body(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => Self::from_json(&value),
            Err(_) => Self {
                message: String::from_utf8_lossy(body).into_owned(),
                ..Self::default()
            },
        }
    }

    /// From an object with an `error`, a list of one (Gemini), or the error itself.
    pub(crate) fn from_json(value: &Value) -> Self {
        let value = value.get(0).unwrap_or(value);
        let error = value.get("error").filter(|error| !error.is_null()).unwrap_or(value);
        if let Some(message) = error.as_str() {
            return Self {
                message: message.to_owned(),
                ..Self::default()
            };
        }
        let text = |key: &str| error.get(key).and_then(Value::as_str);
        let mut tags: Vec<String> = ["code", "type", "status"]
            .into_iter()
            .filter_map(text)
            .map(str::to_ascii_lowercase)
            .collect();
        let mut retry_after = None;
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            tags.extend(
                detail
                    .get("reason")
                    .and_then(Value::as_str)
                    .map(str::to_ascii_lowercase),
            );
            let delay = detail
                .get("retryDelay")
                .and_then(Value::as_str)
                .and_then(|delay| delay.strip_suffix('s'));
            retry_after = retry_after.or_else(|| delay.and_then(seconds));
        }
        Self {
            tags,
            param: text("param").map(str::to_owned),
            message: text("message").unwrap_or_default().to_owned(),
            retry_after,
        }
    }

    /// The typed error. `status` is absent for errors within a stream, which began with success.
    pub(crate) fn to_error(&self, status: Option<u16>, hint: Option<Duration>) -> ModelError {
        let retry_after = hint.or(self.retry_after);
        ModelError::new(self.kind(status, retry_after)).with_detail(&self.message)
    }

    fn kind(&self, status: Option<u16>, retry_after: Option<Duration>) -> ModelErrorKind {
        if matches!(status, None | Some(400 | 413 | 422 | 500)) && self.says_too_long() {
            return ModelErrorKind::ContextTooLong;
        }
        self.tags
            .iter()
            .find_map(|tag| by_code(tag, retry_after))
            .or_else(|| status.and_then(|status| by_status(status, retry_after)))
            .or_else(|| self.tags.iter().find_map(|tag| by_type(tag, retry_after)))
            .unwrap_or(ModelErrorKind::Unavailable { retry_after })
    }

    /// Whether it is the wish for more or less reasoning that is refused. Few providers name the field, so words decide, but not
    /// where they are about the transcript, which may well speak of thinking.
    pub(crate) fn refuses_reasoning(&self) -> bool {
        const FIELDS: [&str; 3] = ["reasoning", "thinking", "output_config"];
        const WORDS: [&str; 8] = [
            "reasoning_effort",
            "reasoning.effort",
            "reasoning effort",
            "effort parameter",
            "support thinking",
            "adaptive thinking",
            "thinking.type",
            "thinking level",
        ];
        let begins = |text: &str| FIELDS.iter().any(|field| text.starts_with(field));
        let message = self.message.to_ascii_lowercase();
        match &self.param {
            Some(param) => begins(&param.to_ascii_lowercase()),
            None if message.starts_with("messages.") => false,
            None => begins(&message) || WORDS.iter().any(|words| message.contains(words)),
        }
    }

    /// Whether it is what goes back to the provider of past reasoning that is refused: it can't be verified any more, or is wanted where
    /// another model reasoned. One provider has a code for it.
    pub(crate) fn refuses_state(&self) -> bool {
        const WORDS: [&str; 7] = [
            "invalid `signature`",
            "expected `thinking`",
            "`redacted_thinking` blocks",
            "thought signature",
            "thought_signature",
            "item 'rs_",
            "item with id 'rs_",
        ];
        let in_transcript = |words: &str| self.message.starts_with("messages.") && self.says_one_of(&[words]);
        self.tags.iter().any(|tag| tag == "invalid_encrypted_content")
            || in_transcript("thinking")
            || self.says_one_of(&WORDS)
    }

    /// Which kinds of media it is about, if it is.
    pub(crate) fn names_media(&self) -> Option<MediaKinds> {
        let (images, audio) = (self.says_one_of(&["image"]), self.says_one_of(&["audio"]));
        match (images, audio) {
            (true, false) => Some(MediaKinds::Images),
            (false, true) => Some(MediaKinds::Audio),
            (true, true) => Some(MediaKinds::All),
            (false, false) => self.says_one_of(&["multimodal"]).then_some(MediaKinds::All),
        }
    }

    /// Which kinds of media the model does not take at all. No provider has a code for it. A format that it does not know is not all
    /// of its kind.
    pub(crate) fn refused_media(&self) -> Option<MediaKinds> {
        const FORMATS: [&str; 4] = ["image/", "audio/", "media type", "format"];
        const WORDS: [&str; 7] = [
            "not support",
            "only supported by",
            "support image",
            "not a multimodal",
            "at most 0 ",
            "unknown variant",
            "required for image input",
        ];
        let kinds = self.names_media()?;
        (self.says_one_of(&WORDS) && !self.says_one_of(&FORMATS)).then_some(kinds)
    }

    fn says_one_of(&self, words: &[&str]) -> bool {
        let message = self.message.to_ascii_lowercase();
        words.iter().any(|words| message.contains(words))
    }

    fn says_too_long(&self) -> bool {
        const WORDS: [&str; 6] = [
            "prompt is too long",
            "maximum context length",
            "exceed context limit",
            "exceeds the maximum number of tokens",
            "exceeds the available context size",
            "context length exceeded",
        ];
        self.tags.iter().any(|tag| tag == "context_length_exceeded") || self.says_one_of(&WORDS)
    }
}

/// Codes that mean one thing, whatever the status beside them.
fn by_code(code: &str, retry_after: Option<Duration>) -> Option<ModelErrorKind> {
    Some(match code {
        "insufficient_quota" | "billing_error" | "billing_hard_limit_reached" => ModelErrorKind::OutOfCredit,
        "rate_limit_exceeded" | "rate_limit_error" | "resource_exhausted" | "too_many_requests" => {
            ModelErrorKind::RateLimited { retry_after }
        }
        "overloaded_error" | "overloaded" | "server_overloaded" | "slow_down" => {
            ModelErrorKind::Overloaded { retry_after }
        }
        "invalid_api_key"
        | "authentication_error"
        | "permission_error"
        | "unauthenticated"
        | "permission_denied"
        | "api_key_invalid" => ModelErrorKind::Auth,
        "model_not_found" => ModelErrorKind::UnknownModel,
        "content_filter" | "content_policy_violation" | "invalid_prompt" => ModelErrorKind::ContentFiltered,
        "request_too_large" => ModelErrorKind::RequestTooLarge,
        _ => return None,
    })
}

fn by_status(status: u16, retry_after: Option<Duration>) -> Option<ModelErrorKind> {
    Some(match status {
        300..=399 => ModelErrorKind::Protocol("it redirects elsewhere; check `base_url`"),
        401 | 403 => ModelErrorKind::Auth,
        402 => ModelErrorKind::OutOfCredit,
        404 => ModelErrorKind::UnknownModel,
        408 | 409 | 425 => ModelErrorKind::Unavailable { retry_after },
        413 => ModelErrorKind::RequestTooLarge,
        429 => ModelErrorKind::RateLimited { retry_after },
        503 | 529 => ModelErrorKind::Overloaded { retry_after },
        500..=599 => ModelErrorKind::Unavailable { retry_after },
        400..=499 => ModelErrorKind::InvalidRequest,
        _ => return None,
    })
}

/// Broad types: they decide only where there is no status.
fn by_type(kind: &str, retry_after: Option<Duration>) -> Option<ModelErrorKind> {
    Some(match kind {
        "invalid_request_error" | "invalid_argument" | "invalid_image_format" | "failed_precondition" => {
            ModelErrorKind::InvalidRequest
        }
        "not_found_error" | "not_found" => ModelErrorKind::UnknownModel,
        "server_error" | "api_error" | "timeout_error" | "internal" | "unavailable" => {
            ModelErrorKind::Unavailable { retry_after }
        }
        _ => return None,
    })
}

/// A day: a longer hint is a mistake, and as good as none to a turn.
const LONGEST_HINT: f64 = 86_400.0;

/// A number of seconds, cut to what a hint may be. Negative and odd ones are none.
pub(crate) fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.trim().parse().ok()?;
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_HINT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(status: Option<u16>, body: &str) -> ModelErrorKind {
        Fault::from_body(body.as_bytes()).to_error(status, None).kind().clone()
    }

    #[test]
    fn each_providers_refusals_have_their_kind() {
        use ModelErrorKind::*;
        let none = None::<Duration>;
        let cases = [
            (
                Some(401),
                r#"{"error":{"message":"Incorrect API key","type":"invalid_request_error","code":"invalid_api_key"}}"#,
                Auth,
            ),
            (Some(403), "", Auth),
            (
                Some(400),
                r#"[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]"#,
                Auth,
            ),
            (
                Some(429),
                r#"{"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"quota"}}"#,
                OutOfCredit,
            ),
            (Some(402), "", OutOfCredit),
            (
                Some(429),
                r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#,
                RateLimited { retry_after: none },
            ),
            (
                Some(429),
                r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"34.5s"}]}}"#,
                RateLimited {
                    retry_after: Some(Duration::from_millis(34_500)),
                },
            ),
            (
                Some(529),
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                Overloaded { retry_after: none },
            ),
            (
                None,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                Overloaded { retry_after: none },
            ),
            (Some(503), "<html>", Overloaded { retry_after: none }),
            (Some(500), "", Unavailable { retry_after: none }),
            (
                None,
                r#"{"error":{"type":"server_error","message":"oops"}}"#,
                Unavailable { retry_after: none },
            ),
            (
                None,
                r#"{"type":"error","error":{"type":"api_error"}}"#,
                Unavailable { retry_after: none },
            ),
            (
                Some(404),
                r#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#,
                UnknownModel,
            ),
            (Some(404), r#"{"error":{"code":"model_not_found"}}"#, UnknownModel),
            (
                Some(400),
                r#"{"error":{"code":"context_length_exceeded","message":"…"}}"#,
                ContextTooLong,
            ),
            (
                Some(400),
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
                ContextTooLong,
            ),
            (
                Some(400),
                r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8).","status":"INVALID_ARGUMENT"}}]"#,
                ContextTooLong,
            ),
            (
                Some(413),
                r#"{"type":"error","error":{"type":"request_too_large"}}"#,
                RequestTooLarge,
            ),
            (Some(400), r#"{"error":{"code":"content_filter"}}"#, ContentFiltered),
            (Some(400), r#"{"error":"bad"}"#, InvalidRequest),
            (None, r#"{"error":{"type":"invalid_request_error"}}"#, InvalidRequest),
            (Some(302), "", Protocol("it redirects elsewhere; check `base_url`")),
        ];
        for (status, body, expected) in cases {
            assert_eq!(kind(status, body), expected, "{status:?} {body}");
        }
    }

    #[test]
    fn the_words_of_a_rate_limit_do_not_make_it_a_long_conversation() {
        assert!(matches!(
            kind(Some(429), r#"{"error":{"message":"maximum context length"}}"#),
            ModelErrorKind::RateLimited { .. }
        ));
    }

    #[test]
    fn a_refused_wish_for_reasoning_is_known_by_its_field_or_its_words() {
        let refuses = |message: &str, param: Option<&str>| {
            let body = serde_json::json!({"error": {"message": message, "param": param}});
            Fault::from_json(&body).refuses_reasoning()
        };
        for message in [
            "Unrecognized request argument supplied: reasoning_effort",
            "\"llama3.2\" does not support thinking",
            "adaptive thinking is not supported on this model",
            "This model does not support the effort parameter.",
            "output_config.effort: Extra inputs are not permitted",
            "Thinking level is not supported for this model.",
        ] {
            assert!(refuses(message, None), "{message}");
        }
        assert!(refuses("Unsupported value: 'low'", Some("reasoning.effort")));
        assert!(!refuses("reasoning_effort", Some("temperature")));
        assert!(!refuses(
            "messages.1.content.0: Invalid `signature` in `thinking` block",
            None
        ));
        assert!(!refuses("max_tokens: Field required", None));
    }

    #[test]
    fn refused_reasoning_of_before_is_known_by_its_code_or_its_words() {
        let fault = |message: &str, code: Option<&str>| {
            Fault::from_json(&serde_json::json!({"error": {"message": message, "code": code}}))
        };
        for message in [
            "messages.1.content.0: Invalid `signature` in `thinking` block",
            "messages.1.content.0.type: Expected `thinking` or `redacted_thinking`, but found `tool_use`. When `thinking` is enabled, a \
             final `assistant` message must start with a thinking block",
            "messages.5.content.0: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified.",
            "Item 'rs_1' of type 'reasoning' was provided without its required following item.",
            "Corrupted thought signature.",
        ] {
            assert!(fault(message, None).refuses_state(), "{message}");
            assert!(!fault(message, None).refuses_reasoning(), "{message}");
        }
        let unverified = "The encrypted content gAAA could not be verified.";
        assert!(fault(unverified, Some("invalid_encrypted_content")).refuses_state());
        for message in [
            "Encrypted content is not supported with this model.",
            "adaptive thinking is not supported on this model",
            "messages.3: all messages must have non-empty content",
        ] {
            assert!(!fault(message, None).refuses_state(), "{message}");
        }
    }

    #[test]
    fn who_reads_that_the_model_is_not_known_is_told_of_both_settings_that_may_be_wrong() {
        let error = Fault::from_body(b"<html>not found</html>").to_error(Some(404), None);
        assert_eq!(error.kind(), &ModelErrorKind::UnknownModel);
        let message = error.to_turn_error().message;
        assert!(message.contains("`model` and `base_url`"), "{message}");
    }

    #[test]
    fn a_model_that_takes_no_pictures_is_told_from_a_picture_that_it_does_not_take() {
        let fault = |message: &str| Fault::from_json(&serde_json::json!({"error": {"message": message}}));
        for (message, kinds) in [
            (
                "Invalid content type. image_url is only supported by certain models.",
                MediaKinds::Images,
            ),
            ("'claude-x' does not support image input.", MediaKinds::Images),
            ("No endpoints found that support image input", MediaKinds::Images),
            ("m is not a multimodal model", MediaKinds::All),
            ("At most 0 image(s) may be provided in one request.", MediaKinds::Images),
            (
                "messages[0]: unknown variant `image_url`, expected `text`",
                MediaKinds::Images,
            ),
            (
                "this model is missing data required for image input",
                MediaKinds::Images,
            ),
            ("This model does not support audio.", MediaKinds::Audio),
            (
                "Neither image nor audio input is supported: not supported",
                MediaKinds::All,
            ),
        ] {
            assert_eq!(fault(message).refused_media(), Some(kinds), "{message}");
        }
        for message in [
            "messages.0.content.0.image.source.base64: image exceeds 5 MB maximum",
            "Could not process image",
            "The image media type image/tiff is not supported.",
            "Unsupported image format: this model does not support it",
        ] {
            assert_eq!(fault(message).names_media(), Some(MediaKinds::Images), "{message}");
            assert_eq!(fault(message).refused_media(), None, "{message}");
        }
        assert_eq!(fault("This model does not support tools.").names_media(), None);
    }

    #[test]
    fn what_a_provider_says_stays_out_of_the_public_message() {
        let error =
            Fault::from_body(br#"{"error":{"message":"user said: my password is x"}}"#).to_error(Some(400), None);
        assert_eq!(error.detail(), Some("user said: my password is x"));
        for text in [error.to_string(), format!("{error:?}"), error.to_turn_error().message] {
            assert!(!text.contains("password"), "{text}");
        }
    }

    #[test]
    fn odd_numbers_of_seconds_are_no_hint_and_long_ones_are_cut() {
        for text in ["-1", "NaN", "", "soon"] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert_eq!(seconds("1e300"), Some(Duration::from_hours(24)));
        assert_eq!(seconds("inf"), Some(Duration::from_hours(24)));
    }
}
