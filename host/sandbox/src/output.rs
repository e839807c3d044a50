//! What a guest returns and what it is given, between the WIT types and the core types. Nothing that
//! a guest returns is taken on trust: JSON is parsed, paths are checked, sizes are limited.

use crate::bindings::fumehood::tool::types::{Blob, Content as GuestContent, Failure, Output as GuestOutput, Retry};
use fumehood_core::{
    call::{CallError, CallErrorCode, CallResult, Output},
    content::Content,
};
use fumehood_policy::limits::Limits;
use serde_json::Value;

/// A failure's message; longer ones are cut, since nobody reads them.
const MAX_MESSAGE: usize = 8 << 10;

/// The result of a call that returned.
pub(crate) fn from_guest(result: Result<GuestOutput, Failure>, limits: &Limits) -> CallResult {
    match result {
        Ok(output) => output_from_guest(output, limits),
        Err(failure) => Err(failure_from_guest(failure)),
    }
}

fn output_from_guest(output: GuestOutput, limits: &Limits) -> CallResult {
    within_limit(size(&output), limits)?;
    let mut content = Vec::with_capacity(output.content.len());
    for piece in output.content {
        content.push(content_from_guest(piece)?);
    }
    let structured = output
        .structured
        .map(|text| json(&text, "structured result"))
        .transpose()?;
    Ok(Output {
        content,
        structured,
        is_error: output.is_error,
    })
}

/// Refuses a result of more bytes than the call may return.
// THREAT[T-box-output]
pub(crate) fn within_limit(size: u64, limits: &Limits) -> Result<(), CallError> {
    if size <= limits.output.bytes() {
        return Ok(());
    }
    Err(too_large(limits))
}

/// A result of more bytes than the call may return.
pub(crate) fn too_large(limits: &Limits) -> CallError {
    CallError::new(
        CallErrorCode::OutputTooLarge,
        format!(
            "the result is larger than the {} that this call may return; ask for less, or raise `output` in `[limits]`",
            limits.output
        ),
    )
}

fn size(output: &GuestOutput) -> u64 {
    /// So that a million empty pieces are not free.
    const PIECE: usize = 16;
    let content: usize = output
        .content
        .iter()
        .map(|piece| {
            PIECE
                + match piece {
                    GuestContent::Text(text) | GuestContent::Json(text) | GuestContent::File(text) => text.len(),
                    GuestContent::Image(blob) | GuestContent::Audio(blob) => blob.media_type.len() + blob.data.len(),
                }
        })
        .sum();
    (content + output.structured.as_ref().map_or(0, String::len)) as u64
}

fn content_from_guest(piece: GuestContent) -> Result<Content, CallError> {
    let content = match piece {
        GuestContent::Text(text) => Content::Text { text },
        GuestContent::Json(text) => Content::Json {
            json: json(&text, "JSON content")?,
        },
        GuestContent::Image(blob) => Content::Image {
            media_type: blob.media_type,
            data: blob.data,
        },
        GuestContent::Audio(blob) => Content::Audio {
            media_type: blob.media_type,
            data: blob.data,
        },
        GuestContent::File(path) => Content::File { path },
    };
    content
        .checked()
        .map_err(|fault| failed(format!("the tool returned {fault}")))
}

fn json(text: &str, what: &str) -> Result<Value, CallError> {
    serde_json::from_str(text).map_err(|error| failed(format!("the tool returned {what} that is not JSON: {error}")))
}

pub(crate) fn failed(message: impl Into<String>) -> CallError {
    CallError::new(CallErrorCode::Failed, message)
}

fn failure_from_guest(failure: Failure) -> CallError {
    let error = |code, message: String| CallError::new(code, cut(message));
    match failure {
        Failure::InvalidArguments(message) => error(CallErrorCode::InvalidArguments, message),
        Failure::Denied(message) => error(CallErrorCode::Denied, message),
        Failure::NotFound(message) | Failure::Failed(message) => error(CallErrorCode::Failed, message),
        Failure::Unavailable(retry) => CallError {
            retry_after_ms: retry.after_ms,
            ..error(CallErrorCode::Unavailable, retry.message)
        },
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}

/// What another tool returned, for the guest that called it.
pub(crate) fn to_guest(output: Output) -> GuestOutput {
    GuestOutput {
        content: output.content.into_iter().map(content_to_guest).collect(),
        structured: output.structured.map(|value| value.to_string()),
        is_error: output.is_error,
    }
}

fn content_to_guest(piece: Content) -> GuestContent {
    match piece {
        Content::Text { text } => GuestContent::Text(text),
        Content::Json { json } => GuestContent::Json(json.to_string()),
        Content::Image { media_type, data } => GuestContent::Image(Blob { media_type, data }),
        Content::Audio { media_type, data } => GuestContent::Audio(Blob { media_type, data }),
        Content::File { path } => GuestContent::File(path),
    }
}

/// Why another tool returned nothing, for the guest that called it.
pub(crate) fn failure_to_guest(error: CallError) -> Failure {
    match error.code {
        CallErrorCode::InvalidArguments => Failure::InvalidArguments(error.message),
        CallErrorCode::ToolNotFound => Failure::NotFound(error.message),
        CallErrorCode::Denied => Failure::Denied(error.message),
        CallErrorCode::RateLimited | CallErrorCode::Unavailable => Failure::Unavailable(Retry {
            message: error.message,
            after_ms: error.retry_after_ms,
        }),
        CallErrorCode::Timeout
        | CallErrorCode::Cancelled
        | CallErrorCode::Interrupted
        | CallErrorCode::Trapped
        | CallErrorCode::OutputTooLarge
        | CallErrorCode::Failed => Failure::Failed(error.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Result<Content, CallError> {
        content_from_guest(GuestContent::File(path.into()))
    }

    #[test]
    fn a_file_outside_the_workspace_is_refused() {
        for path in [
            "../x",
            "/etc/passwd",
            "a/../../b",
            "a//b",
            "",
            "/workspace/",
            "a\\b",
            "./a",
        ] {
            assert!(file(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_file_may_be_named_with_or_without_the_mount_point() {
        let named = Content::File {
            path: "out/a.md".into(),
        };
        assert_eq!(file("/workspace/out/a.md").unwrap(), named);
        assert_eq!(file("out/a.md").unwrap(), named);
    }

    #[test]
    fn an_image_of_something_else_fails_the_call() {
        let page = Blob {
            media_type: "text/html".into(),
            data: vec![1],
        };
        let error = content_from_guest(GuestContent::Image(page)).unwrap_err();
        assert_eq!(error.code, CallErrorCode::Failed);
        assert!(error.message.contains("`media_type`"), "{error}");
    }

    #[test]
    fn content_that_claims_to_be_json_and_is_not_fails_the_call() {
        let error = content_from_guest(GuestContent::Json("{".into())).unwrap_err();
        assert_eq!(error.code, CallErrorCode::Failed);
        assert!(error.message.contains("not JSON"), "{error}");
    }

    #[test]
    fn a_failure_message_is_cut_at_a_character() {
        let message = cut("é".repeat(MAX_MESSAGE));
        assert!(message.len() <= MAX_MESSAGE + '…'.len_utf8() && message.ends_with('…'));
    }
}
