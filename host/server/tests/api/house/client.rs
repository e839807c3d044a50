//! What a client sends to the host, and what it gets: whole answers, and events as they come.

use super::{House, OTHER_KEY};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

/// A request being made.
pub(crate) struct Ask<'a> {
    pub(super) house: &'a House,
    pub(super) request: Request<Body>,
}

impl Ask<'_> {
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().insert(name, value.parse().unwrap());
        self
    }

    pub(crate) fn without(mut self, name: &'static str) -> Self {
        self.request.headers_mut().remove(name);
        self
    }

    pub(crate) fn by_other_org(self) -> Self {
        self.with("authorization", &format!("Bearer {OTHER_KEY}"))
    }

    pub(crate) fn body(mut self, kind: &str, bytes: impl Into<Body>) -> Self {
        *self.request.body_mut() = bytes.into();
        self.with("content-type", kind)
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    pub(crate) async fn response(self) -> Response {
        self.house.router.clone().oneshot(self.request).await.unwrap()
    }

    pub(crate) async fn answer(self) -> Answer {
        let (parts, body) = self.response().await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    pub(crate) async fn stream(self) -> Frames {
        let response = self.with("accept", "text/event-stream").response().await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Frames {
            body: response.into_body(),
            text: String::new(),
        }
    }
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Checks that it is a problem and returns its code.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(
            self.headers[header::CONTENT_TYPE],
            "application/problem+json",
            "{}",
            self.text()
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.len() > 10),
            "{problem}"
        );
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// One server-sent event, or a comment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Frame {
    pub(crate) id: Option<u64>,
    pub(crate) event: String,
    pub(crate) data: Value,
    pub(crate) comment: String,
}

/// A stream of server-sent events, read frame by frame.
pub(crate) struct Frames {
    body: Body,
    text: String,
}

impl Frames {
    /// The next event or comment; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let frame = parse(frame);
                self.text = rest.to_owned();
                if frame != Frame::default() {
                    return Some(frame);
                }
            }
            let piece = self.body.frame().await?.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// Reads until an event of this type.
    pub(crate) async fn until(&mut self, kind: &str) -> Vec<Frame> {
        let mut seen = Vec::new();
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("no {kind} in {seen:?}"));
            seen.push(frame);
            if seen.last().unwrap().event == kind {
                return seen;
            }
        }
    }

    /// Reads to the end.
    pub(crate) async fn rest(mut self) -> Vec<Frame> {
        let mut seen = Vec::new();
        while let Some(frame) = self.next().await {
            seen.push(frame);
        }
        seen
    }
}

fn parse(text: &str) -> Frame {
    let mut frame = Frame::default();
    for line in text.lines() {
        match line.split_once(": ").unwrap_or((line, "")) {
            ("id", value) => frame.id = Some(value.parse().unwrap()),
            ("event", value) => value.clone_into(&mut frame.event),
            ("data", value) => frame.data = serde_json::from_str(value).unwrap(),
            ("", value) => value.clone_into(&mut frame.comment),
            ("retry", _) => {}
            other => panic!("not a line of an event stream: {other:?}"),
        }
    }
    frame
}

/// The `seq`s of recorded events, in the order they came.
pub(crate) fn seqs(frames: &[Frame]) -> Vec<u64> {
    frames.iter().filter_map(|frame| frame.id).collect()
}

/// The types of events, in the order they came.
pub(crate) fn kinds(frames: &[Frame]) -> Vec<&str> {
    frames
        .iter()
        .filter(|frame| !frame.event.is_empty())
        .map(|frame| frame.event.as_str())
        .collect()
}
