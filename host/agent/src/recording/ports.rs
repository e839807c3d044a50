//! A call's ports, with all they answer taken down.

use super::{
    Answered, Asked, Blob, BodyEnd, HttpRequest, HttpResponse, Piece, Summary,
    tape::{Place, Tape},
};
use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use fumehood_core::{
    call::{Arguments, CallError, CallResult},
    digest::Digesting,
    name::{SecretName, ToolName},
};
use fumehood_sandbox::ports::{
    Body, Door, DoorError, Jobs, KeyPage, KeyValueError, KeyValues, Peers, Ports, SignAlgorithm, SignError, Signer,
    Ticket, Timeouts,
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

/// The same ports, with a tape that runs.
pub(crate) fn recorded(ports: Ports, tape: &Arc<Tape>) -> Ports {
    Ports {
        door: recorded_door(ports.door, tape),
        key_values: Arc::new(Recorded::new(ports.key_values, tape)),
        signer: Arc::new(Recorded::new(ports.signer, tape)),
        peers: Arc::new(Recorded::new(ports.peers, tape)),
        jobs: Arc::new(Recorded::new(ports.jobs, tape)),
        ambient: Some(Arc::clone(tape) as _),
        ..ports
    }
}

/// The same door, with a tape that runs.
pub(crate) fn recorded_door(door: Arc<dyn Door>, tape: &Arc<Tape>) -> Arc<dyn Door> {
    Arc::new(Recorded::new(door, tape))
}

/// A request as it is kept; nothing is known of its body yet.
pub(crate) fn asked_for(head: &http::request::Parts) -> HttpRequest {
    HttpRequest {
        method: head.method.to_string(),
        url: head.uri.to_string(),
        headers: texts(&head.headers),
        body: None,
    }
}

fn texts(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

fn fields(headers: &http::HeaderMap) -> Vec<(String, Blob)> {
    let blob = |value: &http::HeaderValue| Blob(Bytes::copy_from_slice(value.as_bytes()));
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), blob(value)))
        .collect()
}

fn size(fields: &[(String, Blob)]) -> usize {
    fields.iter().map(|(name, Blob(value))| name.len() + value.len()).sum()
}

struct Recorded<P: ?Sized> {
    port: Arc<P>,
    tape: Arc<Tape>,
}

impl<P: ?Sized> Recorded<P> {
    fn new(port: Arc<P>, tape: &Arc<Tape>) -> Self {
        Self {
            port,
            tape: Arc::clone(tape),
        }
    }
}

#[async_trait]
impl Door for Recorded<dyn Door> {
    async fn send(&self, request: http::Request<Body>, timeouts: Timeouts) -> Result<http::Response<Body>, DoorError> {
        let (head, body) = request.into_parts();
        let place = self.tape.ask(Asked::Http(asked_for(&head)));
        let body = Sending::new(body, &self.tape, place);
        let request = http::Request::from_parts(head, body.boxed_unsync());
        match self.port.send(request, timeouts).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let headers = fields(&head.headers);
                let end = if body.is_end_stream() {
                    BodyEnd::Complete
                } else {
                    BodyEnd::Unread
                };
                let bytes = size(&headers);
                let kept = HttpResponse {
                    status: head.status.as_u16(),
                    headers,
                    body: Vec::new(),
                    end,
                };
                self.tape.answer(place, bytes, Answered::Http(Ok(kept)));
                let body = Receiving {
                    body,
                    tape: Arc::clone(&self.tape),
                    place,
                };
                Ok(http::Response::from_parts(head, body.boxed_unsync()))
            }
            Err(error) => {
                let bytes = error.to_string().len();
                self.tape.answer(place, bytes, Answered::Http(Err(error.clone())));
                Err(error)
            }
        }
    }

    /// The sandbox refuses it again, whoever asks.
    async fn refuse(&self, request: http::Request<Body>, limit: &'static str, reason: String) {
        self.port.refuse(request, limit, reason).await;
    }
}

#[async_trait]
impl Jobs for Recorded<dyn Jobs> {
    // THREAT[T-sec-recording]: before the component has what ends the call, and may send it somewhere.
    async fn detach(&self, within: Option<Duration>, note: Option<String>) -> Result<Ticket, CallError> {
        let ticket = self.port.detach(within, note).await;
        // Also where it was refused: a replay, which asks nobody, would be refused in other words.
        self.tape.handed_on();
        ticket
    }
}

/// The body of a request: what is compared of it is known when it was read to its end.
struct Sending {
    body: Body,
    tape: Arc<Tape>,
    place: Place,
    bytes: u64,
    seen: Option<Digesting>,
}

impl Sending {
    fn new(body: Body, tape: &Arc<Tape>, place: Place) -> Self {
        let mut sending = Self {
            body,
            tape: Arc::clone(tape),
            place,
            bytes: 0,
            seen: Some(Digesting::default()),
        };
        sending.note_end();
        sending
    }

    /// Nobody asks a body for more that says it has ended.
    fn note_end(&mut self) {
        if self.body.is_end_stream() {
            self.ended();
        }
    }

    fn ended(&mut self) {
        if let Some(seen) = self.seen.take() {
            let sent = Summary {
                bytes: self.bytes,
                digest: seen.finish(),
            };
            self.tape.sent(self.place, sent);
        }
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = DoorError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DoorError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            None => this.ended(),
            Some(Ok(piece)) => {
                if let (Some(data), Some(seen)) = (piece.data_ref(), &mut this.seen) {
                    this.bytes += data.remaining() as u64;
                    seen.update(data);
                    this.tape.sending(this.place, data);
                }
                this.note_end();
            }
            Some(Err(_)) => this.seen = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response.
struct Receiving {
    body: Body,
    tape: Arc<Tape>,
    place: Place,
}

impl HttpBody for Receiving {
    type Data = Bytes;
    type Error = DoorError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DoorError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            None => this.tape.ends(this.place, BodyEnd::Complete),
            Some(Err(error)) => this.tape.ends(this.place, BodyEnd::Broken(error.clone())),
            Some(Ok(piece)) => {
                if let Some(data) = piece.data_ref() {
                    this.tape.piece(this.place, data.len(), Piece::Data(Blob(data.clone())));
                } else if let Some(trailers) = piece.trailers_ref() {
                    let trailers = fields(trailers);
                    this.tape.piece(this.place, size(&trailers), Piece::Trailers(trailers));
                }
                if this.body.is_end_stream() {
                    this.tape.ends(this.place, BodyEnd::Complete);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[async_trait]
impl KeyValues for Recorded<dyn KeyValues> {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        let place = self.tape.ask(Asked::KvGet { key: key.to_owned() });
        let value = self.port.get(key).await;
        let kept = value.clone().map(|value| value.map(|bytes| Blob(bytes.into())));
        let bytes = kept
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .map_or(0, |Blob(bytes)| bytes.len());
        self.tape.answer(place, bytes, Answered::Value(kept));
        value
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let place = self.tape.ask(Asked::KvSet {
            key: key.to_owned(),
            value: Summary::of(&value),
        });
        let done = self.port.set(key, value).await;
        self.tape.answer(place, 0, Answered::Done(done.clone()));
        done
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        let place = self.tape.ask(Asked::KvDelete { key: key.to_owned() });
        let done = self.port.delete(key).await;
        self.tape.answer(place, 0, Answered::Done(done.clone()));
        done
    }

    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        let place = self.tape.ask(Asked::KvExists { key: key.to_owned() });
        let exists = self.port.exists(key).await;
        self.tape.answer(place, 0, Answered::Exists(exists.clone()));
        exists
    }

    async fn list(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        let place = self.tape.ask(Asked::KvList { cursor });
        let page = self.port.list(cursor).await;
        let bytes = page.as_ref().map_or(0, |page| page.keys.iter().map(String::len).sum());
        self.tape.answer(place, bytes, Answered::Keys(page.clone()));
        page
    }
}

#[async_trait]
impl Signer for Recorded<dyn Signer> {
    async fn available(&self, name: &SecretName) -> bool {
        let place = self.tape.ask(Asked::SecretAvailable { name: name.clone() });
        let available = self.port.available(name).await;
        self.tape.answer(place, 0, Answered::Available(available));
        available
    }

    async fn sign(&self, name: &SecretName, algorithm: SignAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let place = self.tape.ask(Asked::SecretSign {
            name: name.clone(),
            algorithm,
            message: Summary::of(message),
        });
        let signed = self.port.sign(name, algorithm, message).await;
        let kept = signed.clone().map(|bytes| Blob(bytes.into()));
        let bytes = kept.as_ref().map_or(0, |Blob(bytes)| bytes.len());
        self.tape.answer(place, bytes, Answered::Signed(kept));
        signed
    }
}

#[async_trait]
impl Peers for Recorded<dyn Peers> {
    fn may_call(&self, tool: &ToolName) -> Result<(), CallError> {
        let place = self.tape.ask(Asked::PeerAllowed { tool: tool.clone() });
        let allowed = self.port.may_call(tool);
        self.tape.answer(place, 0, Answered::Allowed(allowed.clone()));
        allowed
    }

    async fn call(&self, tool: &ToolName, arguments: Arguments) -> CallResult {
        let place = self.tape.ask(Asked::Peer {
            tool: tool.clone(),
            arguments: arguments.clone(),
        });
        let result = self.port.call(tool, arguments).await;
        let bytes = serde_json::to_vec(&result).map_or(0, |written| written.len());
        self.tape.answer(place, bytes, Answered::Called(result.clone()));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{Recording, Whole};
    use fumehood_core::event::EventBody;
    use fumehood_core::{call::Output, id::CallId};
    use fumehood_egress::LeakGuard;
    use http_body_util::Full;

    /// Answers every request with these bytes.
    struct Echo(&'static [u8]);

    #[async_trait]
    impl Door for Echo {
        async fn send(&self, request: http::Request<Body>, _: Timeouts) -> Result<http::Response<Body>, DoorError> {
            request.into_body().collect().await?;
            Ok(http::Response::builder()
                .header("x-from", "echo")
                .body(body(self.0))
                .unwrap())
        }

        async fn refuse(&self, _: http::Request<Body>, _: &'static str, _: String) {}
    }

    fn body(bytes: &'static [u8]) -> Body {
        Full::new(Bytes::from_static(bytes))
            .map_err(|never| match never {})
            .boxed_unsync()
    }

    fn ports(answer: &'static [u8], tape: &Arc<Tape>) -> Ports {
        let ports = Ports {
            door: Arc::new(Echo(answer)),
            ..Ports::denied()
        };
        recorded(ports, tape)
    }

    async fn fetch(ports: &Ports) -> Bytes {
        let request = http::Request::post("https://a.example/x").header("accept", "*/*");
        let request = request.body(body(b"sent")).unwrap();
        let response = ports.door.send(request, Timeouts::default()).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    }

    fn whole(result: CallResult) -> Whole {
        Whole {
            tool: ToolName::new("fetch").unwrap(),
            arguments: Arguments::new(),
            locale: None,
            env: Vec::new(),
            files: None,
            result,
        }
    }

    fn missing(tape: &Tape) -> Option<String> {
        match tape.event(CallId::new()) {
            Some(EventBody::ToolRecorded { missing, .. }) => missing,
            other => panic!("{other:?}"),
        }
    }

    struct HandsOn;

    #[async_trait]
    impl Jobs for HandsOn {
        async fn detach(&self, _: Option<Duration>, _: Option<String>) -> Result<Ticket, CallError> {
            Ok(Ticket {
                id: "cbk_1".into(),
                token: "token".into(),
                url: None,
                expires_ms: 0,
            })
        }
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_call_that_is_handed_on_neither_from_before_nor_from_after() {
        let tape = Arc::new(Tape::new(10_000, false));
        let ports = Ports {
            door: Arc::new(Echo(b"an answer")),
            jobs: Arc::new(HandsOn),
            ..Ports::denied()
        };
        let ports = recorded(ports, &tape);
        fetch(&ports).await;
        ports.jobs.detach(None, None).await.unwrap();
        fetch(&ports).await;
        let kept = tape.finish(whole(Ok(Output::default())), &LeakGuard::default());
        assert!(kept.is_none());
        let why = missing(&tape).unwrap();
        assert!(why.contains("handed on"), "{why}");
    }

    #[tokio::test]
    async fn what_a_door_answers_is_taken_down_and_passed_on() {
        let tape = Arc::new(Tape::new(10_000, false));
        assert_eq!(fetch(&ports(b"an answer", &tape)).await, "an answer");
        let bytes = tape
            .finish(whole(Ok(Output::default())), &LeakGuard::default())
            .unwrap();
        let recording: Recording = serde_json::from_slice(&bytes).unwrap();
        let [exchange] = &recording.exchanges[..] else {
            panic!("{recording:?}")
        };
        let Asked::Http(request) = &exchange.asked else {
            panic!("{exchange:?}")
        };
        assert_eq!(
            (&*request.method, &*request.url, request.body),
            ("POST", "https://a.example/x", Some(Summary::of(b"sent")))
        );
        let Answered::Http(Ok(response)) = &exchange.answered else {
            panic!("{exchange:?}")
        };
        let answer = Piece::Data(Blob(Bytes::from_static(b"an answer")));
        assert_eq!((response.status, &response.end), (200, &BodyEnd::Complete));
        assert_eq!(response.body, [answer]);
    }

    #[tokio::test]
    async fn what_grows_too_large_is_given_up_and_the_call_goes_on() {
        let tape = Arc::new(Tape::new(300, false));
        let large = [b'a'; 400];
        let answer: &'static [u8] = Box::leak(Box::new(large));
        assert_eq!(fetch(&ports(answer, &tape)).await.len(), 400);
        assert!(
            tape.finish(whole(Ok(Output::default())), &LeakGuard::default())
                .is_none()
        );
        let why = missing(&tape).unwrap();
        assert!(why.contains("300 bytes") && why.contains("[recordings]"), "{why}");
    }

    #[tokio::test]
    async fn what_would_hold_the_value_of_a_secret_is_not_kept() {
        let name = fumehood_core::name::SecretName::new("TOKEN").unwrap();
        let value = secrecy::SecretString::from("tok-8D7f2a91C3e45b60");
        let guard = LeakGuard::new([(name, &value)]);
        for answer in [&b"it is tok-8D7f2a91C3e45b60"[..], b"\xff tok-8D7f2a91C3e45b60"] {
            let tape = Arc::new(Tape::new(10_000, false));
            fetch(&ports(answer, &tape)).await;
            assert!(tape.finish(whole(Ok(Output::default())), &guard).is_none());
            assert_eq!(missing(&tape).unwrap(), "it would hold the value of a secret");
        }
    }

    #[test]
    fn what_was_ended_by_time_is_not_kept() {
        use fumehood_core::call::{CallErrorCode, TrapKind};
        for error in [
            CallError::new(CallErrorCode::Timeout, "late"),
            CallError::trapped(TrapKind::Cpu, "busy"),
        ] {
            let tape = Tape::new(10_000, false);
            assert!(tape.finish(whole(Err(error)), &LeakGuard::default()).is_none());
            assert!(missing(&tape).unwrap().contains("ended by time"));
        }
    }
}
