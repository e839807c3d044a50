//! The standard tool `http`: one request, its answer as something a model can read.
//!
//! What may be requested is not decided here: the host checks every request and every redirect.
#![forbid(unsafe_code)]

mod answer;
mod entities;
mod html;

use fumehood::{Failure, Output, http};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// How much of a body is returned if not said.
const BODY: usize = 64 * 1024;
/// The most of a body that can be asked for.
const MOST_BODY: usize = 2 << 20;
/// How much of a page is read for its text, which is much shorter than the page.
const PAGE: usize = 4 << 20;
/// How many redirects are followed.
const REDIRECTS: u32 = 5;
/// How long each part of a request may take if not said.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The method of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

/// What becomes of the body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// HTML as readable text, anything else as it is.
    #[default]
    Auto,
    /// As it is.
    Raw,
}

/// What to request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fetch {
    /// Where to: an absolute `https://` or `http://` URL.
    url: String,
    /// `GET` if not given.
    #[serde(default)]
    method: Method,
    /// Headers to send. A value may name a secret as `{{secret:NAME}}`.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The body to send, as text.
    body: Option<String>,
    /// The body to send, as JSON; sets `content-type`.
    json: Option<Value>,
    /// How much of the body to return, in bytes; 65536 if not given.
    #[schemars(range(min = 0, max = 2_097_152))]
    max_bytes: Option<usize>,
    /// `auto` turns HTML into readable text; `raw` returns the body as it is.
    #[serde(default)]
    format: Format,
    /// Whether to follow redirects, at most five; yes if not given.
    follow_redirects: Option<bool>,
    /// How long connecting, the answer, and each pause in it may take, in seconds; 30 if not given.
    #[schemars(range(min = 1, max = 300))]
    timeout_seconds: Option<u64>,
}

/// Makes an HTTP request and returns the status, the headers and the body as text.
///
/// Web pages are returned as readable text, JSON also as a structured value. An answer such as 404 is
/// a result, marked as an error.
#[fumehood::tool(effect = "at-most-once", destructive, open_world, title = "Fetch a URL")]
fn http_fetch(#[arguments] fetch: Fetch) -> Result<Output, Failure> {
    let most = fetch.max_bytes.unwrap_or(BODY).min(MOST_BODY);
    let format = fetch.format;
    let answer = request(fetch)?.send()?;
    let head = answer::Head {
        status: answer.status(),
        url: answer.url().to_string(),
        content_type: answer.header("content-type").unwrap_or_default().to_owned(),
        headers: answer::headers(answer.headers().iter()),
    };
    let as_text = format == Format::Auto && answer::is_html(&head.content_type);
    let (body, complete) = answer.body_up_to(if as_text { PAGE } else { most })?;
    let body = if as_text {
        answer::page(&body, complete, most)
    } else {
        answer::body(&head.content_type, &body, complete, most)
    };
    answer::output(&head, body)
}

fn request(fetch: Fetch) -> Result<http::Request, Failure> {
    let mut request = http::Request::new(fetch.method.name(), &fetch.url)
        .timeout(fetch.timeout_seconds.map_or(TIMEOUT, Duration::from_secs))
        .follow_redirects(if fetch.follow_redirects.unwrap_or(true) {
            REDIRECTS
        } else {
            0
        });
    let given = |name: &str| fetch.headers.keys().any(|key| key.eq_ignore_ascii_case(name));
    if !given("user-agent") {
        request = request.header("user-agent", "fumehood-http/0.1");
    }
    if !given("accept") {
        request = request.header("accept", "text/html, application/json, text/*;q=0.9, */*;q=0.5");
    }
    request = match (fetch.body, fetch.json) {
        (Some(_), Some(_)) => return Err(Failure::invalid_arguments("give `body` or `json`, not both")),
        (Some(body), None) => request.body(body),
        (None, Some(json)) if given("content-type") => request.body(json.to_string()),
        (None, Some(json)) => request.json(&json),
        (None, None) => request,
    };
    Ok(fetch
        .headers
        .into_iter()
        .fold(request, |request, (name, value)| request.header(name, value)))
}

fumehood::export!(http_fetch);

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood::testing;
    use serde_json::json;

    #[test]
    fn what_cannot_be_requested_is_refused() {
        let refused = |arguments| {
            matches!(
                testing::call::<http_fetch>(arguments),
                Err(Failure::InvalidArguments(_))
            )
        };
        assert!(refused(json!({})));
        assert!(refused(json!({"url": "ftp://example.com/"})));
        assert!(refused(json!({"url": "https://example.com/", "method": "TELEPORT"})));
        assert!(refused(json!({"url": "https://example.com/", "body": "a", "json": {}})));
        assert!(refused(json!({"url": "https://example.com/", "verb": "GET"})));
    }

    #[test]
    fn without_a_host_the_network_is_denied() {
        let failure = testing::call::<http_fetch>(json!({"url": "https://example.com/"})).unwrap_err();
        assert!(
            matches!(&failure, Failure::Denied(message) if message.contains("example.com")),
            "{failure}"
        );
    }
}
