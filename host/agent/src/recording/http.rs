//! What a call exchanged over HTTP, taken down for whoever writes tests of its component.
//!
//! As the component saw it: requests before a credential is injected, answers after the door took secrets out. Nothing of it is kept by
//! the host, and what is done with it is up to who has it.

use super::{
    Answered, Asked, Blob, BodyEnd, Exchange, Piece,
    tape::{Bodies, Tape},
};
use bytes::{Bytes, BytesMut};
use fumehood_sandbox::ports::DoorError;
use std::sync::Arc;

/// Takes down the exchanges of one call and of the calls that it makes.
#[derive(Clone)]
pub struct HttpTape(pub(crate) Arc<Tape>);

/// A request and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSeen {
    /// Its method.
    pub method: String,
    /// Its absolute URL, as the component wrote it.
    pub url: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body, if it was sent to its end.
    pub body: Option<Bytes>,
    /// What came of it.
    pub answer: HttpAnswer,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum HttpAnswer {
    /// An answer, with as much of its body as the component read.
    Came {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Vec<(String, Bytes)>,
        /// Its body.
        body: Bytes,
    },
    /// An answer whose body broke off.
    Broken(DoorError),
    /// None: the request was refused, or got lost.
    Failed(DoorError),
    /// None before the call ended.
    None,
}

/// A call exchanged more than its tape may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call exchanged more over HTTP than is taken down")]
pub struct TooMuch;

impl HttpTape {
    /// An empty one that may take `most` bytes.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self(Arc::new(Tape::keeping(Bodies::Whole, most, false)))
    }

    /// What there was, in the order in which it was asked. Leaves the tape empty.
    ///
    /// # Errors
    /// When there was more than it may take.
    pub fn take(&self) -> Result<Vec<HttpSeen>, TooMuch> {
        let (exchanges, mut bodies) = self.0.take().ok_or(TooMuch)?;
        let seen = exchanges.into_iter().enumerate().filter_map(|(place, exchange)| {
            let Exchange {
                asked: Asked::Http(request),
                answered,
            } = exchange
            else {
                return None;
            };
            let sent = bodies.remove(&place).unwrap_or_default();
            Some(HttpSeen {
                method: request.method,
                url: request.url,
                headers: request.headers,
                body: request.body.map(|_| sent.into()),
                answer: HttpAnswer::from(answered),
            })
        });
        Ok(seen.collect())
    }
}

impl From<Answered> for HttpAnswer {
    fn from(answered: Answered) -> Self {
        match answered {
            Answered::Http(Ok(response)) => match response.end {
                BodyEnd::Broken(error) => Self::Broken(error),
                BodyEnd::Unread | BodyEnd::Complete => Self::Came {
                    status: response.status,
                    headers: response
                        .headers
                        .into_iter()
                        .map(|(name, Blob(value))| (name, value))
                        .collect(),
                    body: joined(response.body),
                },
            },
            Answered::Http(Err(error)) => Self::Failed(error),
            _ => Self::None,
        }
    }
}

fn joined(pieces: Vec<Piece>) -> Bytes {
    let mut whole = BytesMut::new();
    for piece in pieces {
        if let Piece::Data(Blob(bytes)) = piece {
            whole.extend_from_slice(&bytes);
        }
    }
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{HttpRequest, HttpResponse, Summary};

    fn asked(tape: &HttpTape, url: &str) -> usize {
        tape.0.ask(Asked::Http(HttpRequest {
            method: "POST".into(),
            url: url.into(),
            headers: Vec::new(),
            body: None,
        }))
    }

    #[test]
    fn what_was_asked_comes_with_its_body_and_its_answer_in_order() {
        let tape = HttpTape::new(10_000);
        let (first, second) = (asked(&tape, "https://a.example/1"), asked(&tape, "https://a.example/2"));
        for piece in [&b"one "[..], b"two"] {
            tape.0.sending(second, piece);
        }
        tape.0.sent(second, Summary::of(b"one two"));
        let response = HttpResponse {
            status: 201,
            headers: Vec::new(),
            body: Vec::new(),
            end: BodyEnd::Unread,
        };
        tape.0.answer(second, 0, Answered::Http(Ok(response)));
        for piece in [&b"an "[..], b"answer"] {
            tape.0
                .piece(second, piece.len(), Piece::Data(Blob(Bytes::copy_from_slice(piece))));
        }
        tape.0
            .answer(first, 0, Answered::Http(Err(DoorError::ConnectionRefused)));
        let seen = tape.take().unwrap();
        assert_eq!((&*seen[0].url, &seen[0].body), ("https://a.example/1", &None));
        assert_eq!(seen[0].answer, HttpAnswer::Failed(DoorError::ConnectionRefused));
        assert_eq!(seen[1].body.as_deref(), Some(&b"one two"[..]));
        let came = HttpAnswer::Came {
            status: 201,
            headers: Vec::new(),
            body: Bytes::from_static(b"an answer"),
        };
        assert_eq!(seen[1].answer, came);
    }

    #[test]
    fn what_is_too_much_is_given_up() {
        let tape = HttpTape::new(1000);
        let place = asked(&tape, "https://a.example/");
        tape.0.sending(place, &[b'x'; 1000]);
        assert!(tape.take() == Err(TooMuch));
    }
}
