//! Results that are too long for a model: it gets their beginning and their end, and the whole is kept as a file of the session.
//!
//! A call has one result of its own, and its file is named by the call. From outside several may be brought at the same time, of which
//! one counts: each has a file of its own, and those of the others go again.

use fumehood_core::{
    call::{CallResult, Output},
    content::Content,
    id::{CallId, EventId, SessionId},
};
use fumehood_store::{
    Workspaces,
    workspace::{Precondition, WorkspaceError, WorkspacePath},
};

/// Where whole results are kept, below `/workspace`.
const KEPT_IN: &str = "tool-outputs";

/// A result that somebody outside brings, as a model is to have it if it counts.
pub(crate) struct Fitted {
    pub(crate) result: CallResult,
    /// The file that has the whole of it, where there is one.
    pub(crate) whole: Option<WorkspacePath>,
}

/// The result of a tool as a model is to have it: whole, if its text is not longer than `most` bytes; else an excerpt that says where
/// the whole is. Pictures and sounds are not text, and stay.
///
/// Cancel-safe: a dropped future may leave the file behind.
pub(crate) async fn fitting(
    workspaces: &Workspaces,
    session: SessionId,
    call: CallId,
    result: CallResult,
    most: usize,
) -> CallResult {
    fitted(workspaces, session, &call.to_string(), result, most)
        .await
        .result
}

/// The same of a result from outside. Where it turns out to count for nothing, its file is to be [taken away](discard).
///
/// Cancel-safe as the other.
pub(crate) async fn fitting_brought(
    workspaces: &Workspaces,
    session: SessionId,
    call: CallId,
    result: CallResult,
    most: usize,
) -> Fitted {
    let stem = format!("{call}-{}", EventId::new().uuid().simple());
    fitted(workspaces, session, &stem, result, most).await
}

/// Takes away the file of a result that counts for nothing.
pub(crate) async fn discard(workspaces: &Workspaces, session: SessionId, whole: &WorkspacePath) {
    if let Err(error) = workspaces.delete(session, whole, Precondition::Any).await {
        tracing::warn!(%session, %error, "the file of a result that counts for nothing stays");
    }
}

async fn fitted(workspaces: &Workspaces, session: SessionId, stem: &str, result: CallResult, most: usize) -> Fitted {
    let as_it_is = |result| Fitted { result, whole: None };
    let output = match result {
        Ok(output) => output,
        Err(error) => return as_it_is(Err(error)),
    };
    let Some(text) = text_of(&output).filter(|text| text.len() > most) else {
        return as_it_is(Ok(output));
    };
    let (whole, kept) = keep(workspaces, session, stem, &text).await;
    Fitted {
        result: Ok(excerpt(output, &text, most, &kept)),
        whole,
    }
}

/// What a model reads of an output: its texts and values, or its structured value where it has no content.
fn text_of(output: &Output) -> Option<String> {
    let mut texts = output.content.iter().filter_map(|piece| match piece {
        Content::Text { text } => Some(text.clone()),
        Content::Json { json } => Some(json.to_string()),
        Content::Image { .. } | Content::Audio { .. } | Content::File { .. } => None,
    });
    match (texts.next(), &output.structured) {
        (Some(first), _) => Some(texts.fold(first, |all, text| all + "\n" + &text)),
        (None, Some(structured)) if output.content.is_empty() => Some(structured.to_string()),
        (None, _) => None,
    }
}

/// Keeps the whole text, and says where, or why not.
async fn keep(workspaces: &Workspaces, session: SessionId, stem: &str, text: &str) -> (Option<WorkspacePath>, String) {
    let name = format!("{KEPT_IN}/{stem}.txt");
    let written = match WorkspacePath::new(&name) {
        Ok(path) => {
            let bytes = text.as_bytes().to_vec();
            let written = workspaces.write(session, &path, bytes, Precondition::Any).await;
            written.map(|_| path)
        }
        Err(error) => Err(WorkspaceError::BadRequest {
            reason: error.to_string(),
        }),
    };
    match written {
        Ok(path) => (Some(path), format!("the whole is in the file /workspace/{name}")),
        Err(WorkspaceError::Quota { of, limit }) => {
            let why = format!("the whole could not be kept: the session may have {limit} {of}");
            (None, why)
        }
        Err(error) => {
            tracing::warn!(%session, stem, %error, "a long result could not be kept as a file");
            (None, "the whole could not be kept as a file".to_owned())
        }
    }
}

fn excerpt(mut output: Output, whole: &str, most: usize, kept: &str) -> Output {
    // The beginning tells more than the end.
    let head = &whole[..whole.floor_char_boundary(most / 3 * 2)];
    let tail = &whole[whole.ceil_char_boundary(whole.len() - most / 3)..];
    let left_out = whole.len() - head.len() - tail.len();
    let text = format!("{head}\n\n[{left_out} bytes are left out here; {kept}]\n\n{tail}");
    output
        .content
        .retain(|piece| !matches!(piece, Content::Text { .. } | Content::Json { .. }));
    output.content.insert(0, Content::text(text));
    let is_long = |value: &serde_json::Value| value.to_string().len() > most;
    if output.structured.as_ref().is_some_and(is_long) {
        output.structured = None;
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn image() -> Content {
        Content::Image {
            media_type: "image/png".into(),
            data: vec![0; 5000],
        }
    }

    proptest! {
        #[test]
        fn an_excerpt_has_the_beginning_and_the_end_cut_between_characters(text in "\\PC{100,400}", most in 30_usize..90) {
            let output = Output { content: vec![Content::text(&text), image()], ..Output::default() };
            let cut = excerpt(output, &text, most, "kept");
            let Content::Text { text: shown } = &cut.content[0] else { panic!("no text") };
            let (head, rest) = shown.split_once("\n\n[").unwrap();
            let (marker, tail) = rest.split_once("]\n\n").unwrap();
            prop_assert!(text.starts_with(head) && text.ends_with(tail));
            prop_assert!(head.len() + tail.len() <= most);
            let left_out = text.len() - head.len() - tail.len();
            prop_assert_eq!(marker, format!("{left_out} bytes are left out here; kept"));
            prop_assert_eq!(&cut.content[1..], &[image()]);
        }
    }

    #[test]
    fn a_long_value_is_text_as_well_and_a_short_one_stays() {
        let long = json!({"rows": vec![1; 500]});
        let output = Output {
            structured: Some(long.clone()),
            ..Output::default()
        };
        let text = text_of(&output).unwrap();
        assert_eq!(text, long.to_string());
        assert_eq!(excerpt(output, &text, 90, "kept").structured, None);
        let output = Output {
            content: vec![Content::text("x".repeat(500))],
            structured: Some(json!(1)),
            ..Output::default()
        };
        let text = text_of(&output).unwrap();
        assert_eq!(excerpt(output, &text, 90, "kept").structured, Some(json!(1)));
    }

    #[test]
    fn what_is_no_text_is_not_counted() {
        let output = Output {
            content: vec![image()],
            ..Output::default()
        };
        assert_eq!(text_of(&output), None);
    }
}
