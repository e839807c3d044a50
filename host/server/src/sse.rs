//! A feed as server-sent events: `id: seq`, `event: type`, `data:` the envelope. Live events have no `id` line, so a client
//! resumes after the last recorded one.

use crate::feed::{End, Feed, Next};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use fumehood_core::event::Event;
use futures::stream;
use http::{HeaderMap, HeaderValue, header};
use std::{convert::Infallible, io::Write as _};

/// The first bytes: how long a client waits before it connects again, in milliseconds.
const HELLO: &[u8] = b"retry: 1000\n\n";
const STILL_HERE: &[u8] = b": still here\n\n";

/// Streams a feed to its end. The feed ends with the response: a client that goes away ends it.
pub(crate) fn respond(feed: Feed) -> Response {
    let hello = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(HELLO)) });
    let rest = stream::unfold(Some(feed), |feed| async {
        let mut feed = feed?;
        match feed.next().await {
            Next::Event(event) => Some((Ok(encode(&event)), Some(feed))),
            Next::Quiet => Some((Ok(Bytes::from_static(STILL_HERE)), Some(feed))),
            Next::End(end) => farewell(end).map(|text| (Ok(Bytes::from_static(text)), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(futures::StreamExt::chain(hello, rest)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that would hold events back until they have enough of them.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Why a stream ends that has no last event to say so.
const fn farewell(end: End) -> Option<&'static [u8]> {
    match end {
        End::Turn => None,
        End::Closing => Some(b": the host is shutting down; connect again with Last-Event-ID\n\n"),
        End::Gone => Some(b": the session or the key is gone\n\n"),
        End::Store => Some(b": the journal can't be read now; connect again with Last-Event-ID\n\n"),
    }
}

fn encode(event: &Event) -> Bytes {
    let mut text = Vec::with_capacity(512);
    // Writing to memory can't fail; an event that can't be written as JSON (none is known) is left out whole.
    if let Some(seq) = event.seq {
        let _ = writeln!(text, "id: {seq}");
    }
    let _ = write!(text, "event: {}\ndata: ", event.body.type_name());
    if serde_json::to_writer(&mut text, event).is_err() {
        return Bytes::new();
    }
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// Whether the client asks for a stream of events.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    accepts(headers, "text/event-stream")
}

/// Whether the client names a media type among those it accepts, and does not refuse it.
pub(crate) fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let values = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|own| own.eq_ignore_ascii_case(kind));
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            quality.is_some_and(|quality| quality.trim().parse::<f32>().is_ok_and(|quality| quality <= 0.0))
        });
        named && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::{
        event::{EventBody, Source},
        id::{EventId, SessionId},
        name::OrgName,
        now,
    };

    fn event(seq: Option<u64>, text: &str) -> Event {
        Event {
            id: EventId::new(),
            seq,
            time: now(),
            org: OrgName::default_org(),
            session: SessionId::new(),
            turn: None,
            source: Source::Model,
            body: EventBody::TextDelta {
                step: 1,
                index: 0,
                delta: text.into(),
            },
        }
    }

    #[test]
    fn an_event_is_one_frame_whatever_its_text_holds() {
        let text = String::from_utf8(encode(&event(Some(7), "a\n\nid: 9\r\n")).to_vec()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(&lines[..2], ["id: 7", "event: text.delta"]);
        assert!(lines[2].starts_with("data: {"));
        assert_eq!(&lines[3..], [""]);
    }

    #[test]
    fn a_live_event_has_no_id_line() {
        assert!(encode(&event(None, "a")).starts_with(b"event: text.delta\n"));
    }

    #[test]
    fn accept_is_read_with_its_parameters() {
        let accepts = |value: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))]);
            is_wanted(&headers)
        };
        assert!(accepts("text/event-stream"));
        assert!(accepts("application/json;q=0.5, Text/Event-Stream;charset=utf-8"));
        assert!(!accepts("text/event-stream;q=0"));
        assert!(!accepts("*/*"));
    }
}
