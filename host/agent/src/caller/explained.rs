//! What a call was refused, in the words of its result.

use fumehood_core::{call::CallResult, content::Content};
use fumehood_sandbox::Denial;

/// A failed call says what it was refused: `wasi:http` and `std::fs` have no words for it, so the tool could not. An answer that
/// says it failed gets the words as one more piece, as far as it may be that long.
pub(super) fn explain(result: CallResult, denials: &[Denial], most: u64) -> CallResult {
    match result {
        Err(mut error) => {
            for reason in denials.iter().map(reason) {
                if !error.message.contains(reason) {
                    error.message.push_str("; ");
                    error.message.push_str(reason);
                }
            }
            Err(error)
        }
        Ok(mut output) if output.is_error => {
            let said = serde_json::to_string(&output).unwrap_or_default();
            let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(said.len());
            let unsaid = denials.iter().map(reason);
            let mut words = unsaid
                .filter(|reason| !said.contains(reason))
                .collect::<Vec<_>>()
                .join("; ");
            words.truncate(words.floor_char_boundary(room));
            if !words.is_empty() {
                output.content.push(Content::text(words));
            }
            Ok(output)
        }
        Ok(output) => Ok(output),
    }
}

/// Which request and why, since the tool has said that it was denied.
fn reason(denial: &Denial) -> &str {
    denial.reason.strip_prefix("denied: ").unwrap_or(&denial.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::call::Output;

    #[test]
    fn an_answer_that_says_it_failed_says_what_was_refused_within_its_limit() {
        let refused = |most: u64, is_error: bool| {
            let output = Output {
                content: vec![Content::text("could not fetch")],
                is_error,
                ..Output::default()
            };
            // As the door and the sandbox say it.
            let denials = [Denial::from("GET https://x.example/ is not allowed".to_owned())];
            explain(Ok(output), &denials, most).unwrap().content
        };
        let words = Content::text("GET https://x.example/ is not allowed");
        assert_eq!(refused(1000, true), [Content::text("could not fetch"), words]);
        assert_eq!(refused(1000, false).len(), 1, "it went well all the same");
        assert_eq!(refused(0, true).len(), 1, "there is no room");
    }

    #[test]
    fn a_failure_says_once_that_a_request_was_denied_and_why() {
        use fumehood_core::call::{CallError, CallErrorCode};
        let denials = [Denial::from(
            "denied: GET https://x.example/ is not allowed: no rule".to_owned(),
        )];
        let said = |message: &str| {
            let failed = Err(CallError::new(CallErrorCode::Denied, message));
            explain(failed, &denials, 1000).unwrap_err().message
        };
        let once = "the request to x.example was denied; GET https://x.example/ is not allowed: no rule";
        assert_eq!(said("the request to x.example was denied"), once);
        assert_eq!(said(once), once, "a tool that was told passes it on");
    }
}
