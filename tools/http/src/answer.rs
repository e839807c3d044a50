//! From an answer to a result: the head in one line, the body as text, JSON as a value.

use crate::html;
use fumehood::{Failure, Output};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Headers that say nothing to a model.
const NOISE: [&str; 14] = [
    "alt-svc",
    "connection",
    "content-security-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "keep-alive",
    "nel",
    "permissions-policy",
    "report-to",
    "reporting-endpoints",
    "strict-transport-security",
    "transfer-encoding",
    "x-content-type-options",
    "x-frame-options",
];

/// What comes before the body.
pub(crate) struct Head {
    pub(crate) status: u16,
    /// After redirects.
    pub(crate) url: String,
    pub(crate) content_type: String,
    pub(crate) headers: Map<String, Value>,
}

/// A body that a model can read.
#[derive(Debug, PartialEq)]
pub(crate) struct Body {
    text: String,
    json: Option<Value>,
    /// There is more than `text` shows.
    truncated: bool,
}

/// The headers as an object; several of one name are joined.
pub(crate) fn headers<'a>(headers: impl Iterator<Item = (&'a str, Cow<'a, str>)>) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if NOISE.contains(&name.as_str()) {
            continue;
        }
        match object.get_mut(&name) {
            Some(Value::String(before)) => {
                before.push_str(", ");
                before.push_str(&value);
            }
            _ => {
                object.insert(name, Value::String(value.into_owned()));
            }
        }
    }
    object
}

/// Whether a media type is that of a web page.
pub(crate) fn is_html(content_type: &str) -> bool {
    matches!(essence(content_type).as_str(), "text/html" | "application/xhtml+xml")
}

/// A web page as readable text.
pub(crate) fn page(bytes: &[u8], complete: bool, most: usize) -> Body {
    let text = html::to_text(&String::from_utf8_lossy(bytes));
    let shown = prefix(&text, most);
    Body {
        truncated: !complete || shown.len() < text.len(),
        text: shown.to_owned(),
        json: None,
    }
}

/// Any other body.
pub(crate) fn body(content_type: &str, bytes: &[u8], complete: bool, most: usize) -> Body {
    let bytes = &bytes[..bytes.len().min(most)];
    let essence = essence(content_type);
    if bytes.contains(&0) || !is_textual(&essence, bytes) {
        let size = if complete {
            bytes.len().to_string()
        } else {
            format!("more than {}", bytes.len())
        };
        let what = if essence.is_empty() { "unknown type" } else { &essence };
        return Body {
            text: format!("[binary body of {size} bytes, {what}]"),
            json: None,
            truncated: !complete,
        };
    }
    let text = String::from_utf8_lossy(bytes);
    let is_json = essence == "application/json" || essence.ends_with("+json") || essence == "text/json";
    let json = (is_json && complete)
        .then(|| serde_json::from_str(&text).ok())
        .flatten();
    // A character that the limit cut in two would look like a mistake of the page.
    let text = if complete {
        text.into_owned()
    } else {
        text.trim_end_matches('\u{fffd}').to_owned()
    };
    Body {
        text,
        json,
        truncated: !complete,
    }
}

/// The result: an answer that is not a success is marked as an error.
pub(crate) fn output(head: &Head, body: Body) -> Result<Output, Failure> {
    let mut first = format!("{} {}", head.status, head.url);
    if !head.content_type.is_empty() {
        first.push_str(&format!(" ({})", head.content_type));
    }
    let mut structured = json!({
        "status": head.status,
        "url": head.url,
        "headers": head.headers,
        "truncated": body.truncated,
    });
    if let (Some(json), Some(object)) = (body.json, structured.as_object_mut()) {
        object.insert("json".to_owned(), json);
    }
    let mut text = format!("{first}\n\n{}", body.text);
    if body.truncated {
        text.push_str("\n[the body is longer: give a larger `max_bytes` for more]");
    }
    let output = Output::new(text.trim_end()).with_structured(&structured)?;
    Ok(if head.status >= 400 { output.as_error() } else { output })
}

fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn is_textual(essence: &str, bytes: &[u8]) -> bool {
    let (kind, of) = essence.split_once('/').unwrap_or((essence, ""));
    match kind {
        "text" => true,
        "image" => of == "svg+xml",
        "audio" | "video" | "font" => false,
        _ => {
            // A cut at the limit may leave half a character.
            match std::str::from_utf8(bytes) {
                Ok(_) => true,
                Err(error) => error.error_len().is_none(),
            }
        }
    }
}

fn prefix(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16) -> Head {
        Head {
            status,
            url: "https://h/".into(),
            content_type: "text/plain".into(),
            headers: Map::new(),
        }
    }

    #[test]
    fn json_is_text_and_a_value() {
        let it = body("application/problem+json; charset=utf-8", br#"{"a":1}"#, true, 100);
        assert_eq!(it.json, Some(json!({"a": 1})));
        let output = output(&head(200), it).unwrap();
        assert!(output.structured.unwrap().contains(r#""json":{"a":1}"#));
        assert_eq!(body("application/json", b"{", true, 100).json, None);
    }

    #[test]
    fn binary_bodies_are_described() {
        assert!(
            body("image/png", b"\x89PNG", true, 100)
                .text
                .contains("4 bytes, image/png")
        );
        assert!(body("", b"a\0b", false, 100).text.contains("more than 3 bytes"));
        assert_eq!(body("", b"plain", true, 100).text, "plain");
    }

    #[test]
    fn a_long_body_is_cut_and_says_so() {
        let it = body("text/plain", "aaé".as_bytes(), false, 3);
        assert_eq!((it.text.as_str(), it.truncated), ("aa", true));
        assert!(output(&head(200), it).unwrap().text().contains("max_bytes"));
        assert_eq!(page("<p>aé".as_bytes(), true, 2).text, "a");
    }

    #[test]
    fn an_answer_that_is_no_success_is_marked() {
        assert!(
            output(&head(404), body("text/plain", b"gone", true, 9))
                .unwrap()
                .is_error
        );
        assert!(
            !output(&head(200), body("text/plain", b"here", true, 9))
                .unwrap()
                .is_error
        );
    }

    #[test]
    fn headers_are_joined_and_noise_is_left_out() {
        let given = [("Link", "a"), ("link", "b"), ("Strict-Transport-Security", "x")];
        let object = headers(given.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))));
        assert_eq!(Value::Object(object), json!({"link": "a, b"}));
    }
}
