//! What every response has: a request id, and headers that keep browsers and caches from guessing.

use crate::telemetry::{AdoptTrace, Answered, Route};
use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::Instant;
use tracing::{Instrument as _, field::Empty};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_REQUEST_ID: usize = 128;
const LONGEST_PATH: usize = 256;
/// Asked for every few seconds by machines: a line for each would hide the others.
const QUIET: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Names the request, counts and logs it, and completes the response's headers.
pub(crate) async fn observe(State(adopt): State<Option<AdoptTrace>>, request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let begun = Instant::now();
    let observed = Answered::begin(request.method());
    let quiet = QUIET.contains(&request.uri().path());
    // THREAT[T-sec-log]: the path without its query, which may hold what a log should not; no header but the id.
    let span = tracing::info_span!(
        "request",
        request = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = beginning(request.uri().path()),
        org = Empty,
        http_route = Empty,
        http_status = Empty,
    );
    if let Some(adopt) = adopt {
        adopt(&span, request.headers());
    }
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let route = response.extensions_mut().remove::<Route>();
    let template = route.as_ref().map(|Route(path)| path.as_str());
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.record("http_route", template)
        .record("http_status", status.as_u16());
    if quiet {
        tracing::debug!(parent: &span, duration_ms, "answered");
    } else {
        tracing::info!(parent: &span, duration_ms, "answered");
    }
    observed.end(route, status);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    // What a tool wrote is never taken for a page.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Tells [`observe`], which stands outside of the router, which route answered.
pub(crate) async fn tell_route(path: MatchedPath, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Route(path));
    response
}

/// As much of a path as every line of the log may repeat.
fn beginning(path: &str) -> &str {
    &path[..path.floor_char_boundary(LONGEST_PATH)]
}

/// The client's, if it is one that can be logged as it is; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|value| {
        (1..=LONGEST_REQUEST_ID).contains(&value.len())
            && value
                .as_bytes()
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b))
    });
    given.cloned().unwrap_or_else(|| {
        let mut text = uuid::Uuid::encode_buffer();
        let text = uuid::Uuid::now_v7().simple().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_that_would_forge_a_log_line_is_replaced() {
        let answer = |value: &str| {
            let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(value.as_bytes()).unwrap())]);
            request_id(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(answer("abc-1.2_3:4"), "abc-1.2_3:4");
        for bad in ["a b", "a\tb", "{}", &"x".repeat(129), ""] {
            assert_ne!(answer(bad), bad);
        }
    }
}
