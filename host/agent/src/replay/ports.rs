//! A call's ports, answered from its recording. Nothing leaves.
//!
//! Questions of a kind are answered in the order in which they were recorded; HTTP requests, of which several may be under way at once,
//! by what they ask. A question that was not asked then is noted as the difference and refused. Clocks show what they showed, and
//! beyond that they stand still but for a nanosecond at each look.

use super::Difference;
use crate::recording::{
    Answered, Asked, Blob, BodyEnd, Exchange, HttpRequest, HttpResponse, Piece, Recording, Summary, asked_for,
};
use async_trait::async_trait;
use bytes::Bytes;
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult},
    digest::Digesting,
    name::{SecretName, ToolName},
};
use fumehood_sandbox::ports::{
    Ambient, Body, Door, DoorError, KeyPage, KeyValueError, KeyValues, NoObserver, Peers, Ports, SignAlgorithm,
    SignError, Signer, Timeouts, Workspace,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use std::{
    collections::VecDeque,
    mem::discriminant,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::task::JoinSet;

/// How long bodies of requests may take to end that end with their call.
const BODIES_END: Duration = Duration::from_secs(5);

const NOT_RECORDED: &str = "the replay has no answer to this: it was not asked when the call was recorded";

/// What is left of a recording while its call runs again. Clones share it.
#[derive(Clone)]
pub(super) struct Answers {
    state: Arc<Mutex<State>>,
    seed: [u8; 32],
    deadline_ms: Option<u64>,
}

struct State {
    /// By their places.
    exchanges: Vec<Option<Exchange>>,
    asked: usize,
    /// Bodies of requests that were answered before they were read to their end. They end with the call, or with this.
    bodies: JoinSet<()>,
    wall_clock: Readings,
    monotonic_clock: Readings,
    difference: Option<Difference>,
}

/// What a clock showed.
struct Readings {
    left: VecDeque<u64>,
    last: u64,
}

impl Readings {
    fn new(readings: &[u64]) -> Self {
        Self {
            left: readings.iter().copied().collect(),
            last: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.last = self.left.pop_front().unwrap_or_else(|| self.last.saturating_add(1));
        self.last
    }
}

impl Answers {
    /// None if the seed is none.
    pub(super) fn new(recording: &Recording) -> Option<Self> {
        let mut seed = [0; 32];
        hex::decode_to_slice(&recording.seed, &mut seed).ok()?;
        Some(Self {
            state: Arc::new(Mutex::new(State {
                exchanges: recording.exchanges.iter().cloned().map(Some).collect(),
                asked: 0,
                bodies: JoinSet::new(),
                wall_clock: Readings::new(&recording.wall_clock),
                monotonic_clock: Readings::new(&recording.monotonic_clock),
                difference: None,
            })),
            seed,
            deadline_ms: recording.deadline_ms,
        })
    }

    /// The ports of the call.
    pub(super) fn ports(&self, env: &[(String, String)], workspace: Option<Workspace>) -> Ports {
        Ports {
            door: Arc::new(self.clone()),
            key_values: Arc::new(self.clone()),
            signer: Arc::new(self.clone()),
            peers: Arc::new(self.clone()),
            // What was handed on is not recorded, so whoever asks for it now did not then.
            jobs: Ports::denied().jobs,
            observer: Arc::new(NoObserver),
            workspace,
            env: env.into(),
            ambient: Some(Arc::new(self.clone())),
            witness: None,
        }
    }

    /// The first question that was not asked then, or that was and is not asked now. To be asked when the call is over.
    pub(super) async fn difference(&self) -> Option<Difference> {
        let bodies = std::mem::take(&mut self.lock().bodies);
        // They have ended with the call. One that has not is aborted, and was not read to its end.
        let _ = tokio::time::timeout(BODIES_END, bodies.join_all()).await;
        let mut state = self.lock();
        let unasked = state.exchanges.iter().position(Option::is_some);
        state.difference.take().or_else(|| {
            let place = unasked?;
            let exchange = state.exchanges.get(place)?.as_ref()?;
            let at = format!("request {} to the host", place + 1);
            Some(Difference::new(
                at,
                exchange.asked.to_string(),
                "nothing is asked any more",
            ))
        })
    }

    /// What a question was answered then.
    fn answer(&self, asked: &Asked) -> Option<Answered> {
        let mut state = self.lock();
        let number = state.asked + 1;
        state.asked = number;
        let is_kind = |exchange: &Exchange| discriminant(&exchange.asked) == discriminant(asked);
        let fits = |exchange: &Exchange| match (&exchange.asked, asked) {
            (Asked::Http(recorded), Asked::Http(now)) => now.is_as(recorded),
            (recorded, now) => recorded == now,
        };
        let mut left = state
            .exchanges
            .iter()
            .enumerate()
            .filter_map(|(place, left)| left.as_ref().filter(|left| is_kind(left)).map(|left| (place, left)));
        let found = match asked {
            Asked::Http(_) => left.find(|(_, exchange)| fits(exchange)),
            _ => left.next().filter(|(_, exchange)| fits(exchange)),
        };
        if let Some(place) = found.map(|(place, _)| place) {
            return state.exchanges.get_mut(place)?.take().map(|exchange| exchange.answered);
        }
        let instead = state.exchanges.iter().flatten().find(|exchange| is_kind(exchange));
        let instead = instead.or_else(|| state.exchanges.iter().flatten().next());
        let recorded = instead.map_or_else(
            || "nothing more was asked".to_owned(),
            |exchange| exchange.asked.to_string(),
        );
        let difference = Difference::new(format!("request {number} to the host"), recorded, asked.to_string());
        state.difference.get_or_insert(difference);
        None
    }

    /// The one exchange that is left whose request has this head; none where there are several, or none.
    fn only_of_head(&self, request: &HttpRequest) -> Option<(usize, Exchange)> {
        let mut state = self.lock();
        let same_head =
            |exchange: &Exchange| matches!(&exchange.asked, Asked::Http(recorded) if request.is_as(recorded));
        let mut left = (0..state.exchanges.len()).filter(|place| {
            state
                .exchanges
                .get(*place)
                .is_some_and(|left| left.as_ref().is_some_and(same_head))
        });
        let (place, None) = (left.next()?, left.next()) else {
            return None;
        };
        state.asked += 1;
        let number = state.asked;
        state
            .exchanges
            .get_mut(place)?
            .take()
            .map(|exchange| (number, exchange))
    }

    /// Reads the body of a request that is answered meanwhile, and notes where it is another than it was.
    fn follow(&self, body: Body, number: usize, (recorded, mut now): (HttpRequest, HttpRequest)) {
        let state = Arc::downgrade(&self.state);
        self.lock().bodies.spawn(async move {
            now.body = summary_of(body).await;
            let Some(state) = state.upgrade().filter(|_| !now.is_as(&recorded)) else {
                return;
            };
            let (recorded, now) = (Asked::Http(recorded).to_string(), Asked::Http(now).to_string());
            let difference = Difference::new(format!("request {number} to the host"), recorded, now);
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.difference.get_or_insert(difference);
        });
    }

    fn note(&self, difference: Difference) {
        self.lock().difference.get_or_insert(difference);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ambient for Answers {
    fn wall_clock(&self) -> Duration {
        Duration::from_nanos(self.lock().wall_clock.next())
    }

    fn monotonic_clock(&self) -> u64 {
        self.lock().monotonic_clock.next()
    }

    fn seed(&self) -> [u8; 32] {
        self.seed
    }

    fn deadline_ms(&self, own: u64) -> u64 {
        self.deadline_ms.unwrap_or(own)
    }
}

#[async_trait]
impl Door for Answers {
    async fn send(&self, request: http::Request<Body>, _: Timeouts) -> Result<http::Response<Body>, DoorError> {
        let (head, body) = request.into_parts();
        let mut request = asked_for(&head);
        // Answered while its body is still written, as a server may; only where bodies tell requests apart it is awaited.
        let answered = match self.only_of_head(&request) {
            Some((number, Exchange { asked, answered })) => {
                if let Asked::Http(recorded) = asked {
                    self.follow(body, number, (recorded, request.clone()));
                }
                Some(answered)
            }
            None => {
                request.body = summary_of(body).await;
                self.answer(&Asked::Http(request.clone()))
            }
        };
        let asked = Asked::Http(request);
        match answered {
            Some(Answered::Http(Ok(response))) => self.response(asked, response).ok_or(DoorError::Internal),
            Some(Answered::Http(Err(error))) => Err(error),
            // No answer came before the call ended, so none comes now.
            Some(Answered::Nothing) => std::future::pending().await,
            Some(_) | None => Err(DoorError::Internal),
        }
    }

    async fn refuse(&self, _: http::Request<Body>, _: &'static str, _: String) {}
}

/// What is compared of a body; none of one that breaks off, which is none that was sent to its end.
async fn summary_of(mut body: Body) -> Option<Summary> {
    let (mut bytes, mut seen) = (0, Digesting::default());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            bytes += data.len() as u64;
            seen.update(&data);
        }
    }
    let digest = seen.finish();
    Some(Summary { bytes, digest })
}

impl Answers {
    fn response(&self, asked: Asked, recorded: HttpResponse) -> Option<http::Response<Body>> {
        let mut response = http::Response::new(());
        *response.status_mut() = http::StatusCode::from_u16(recorded.status).ok()?;
        *response.headers_mut() = fields(recorded.headers)?;
        let body = Played {
            pieces: recorded.body.into(),
            end: recorded.end,
            asked,
            answers: self.clone(),
        };
        Some(response.map(|()| body.boxed_unsync()))
    }
}

fn fields(recorded: Vec<(String, Blob)>) -> Option<HeaderMap> {
    let field = |(name, Blob(value)): (String, Blob)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_maybe_shared(value).ok()?))
    };
    let mut headers = HeaderMap::new();
    for one in recorded {
        let (name, value) = field(one)?;
        headers.append(name, value);
    }
    Some(headers)
}

/// The body of a response as it came.
struct Played {
    pieces: VecDeque<Piece>,
    end: BodyEnd,
    asked: Asked,
    answers: Answers,
}

impl HttpBody for Played {
    type Data = Bytes;
    type Error = DoorError;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DoorError>>> {
        let this = self.get_mut();
        Poll::Ready(match this.pieces.pop_front() {
            Some(Piece::Data(Blob(bytes))) => Some(Ok(Frame::data(bytes))),
            Some(Piece::Trailers(trailers)) => fields(trailers).map(|trailers| Ok(Frame::trailers(trailers))),
            None => match std::mem::replace(&mut this.end, BodyEnd::Complete) {
                BodyEnd::Complete => None,
                BodyEnd::Broken(error) => Some(Err(error)),
                BodyEnd::Unread => {
                    this.answers.note(Difference::new(
                        format!("the answer to {}", this.asked),
                        "it was not read any further",
                        "it is read on",
                    ));
                    Some(Err(DoorError::ResponseIncomplete))
                }
            },
        })
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.end == BodyEnd::Complete
    }
}

fn no_value<T>() -> Result<T, KeyValueError> {
    Err(KeyValueError::Other(NOT_RECORDED.to_owned()))
}

#[async_trait]
impl KeyValues for Answers {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        match self.answer(&Asked::KvGet { key: key.to_owned() }) {
            Some(Answered::Value(value)) => value.map(|value| value.map(|Blob(bytes)| bytes.into())),
            _ => no_value(),
        }
    }

    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), KeyValueError> {
        let asked = Asked::KvSet {
            key: key.to_owned(),
            value: Summary::of(&value),
        };
        match self.answer(&asked) {
            Some(Answered::Done(done)) => done,
            _ => no_value(),
        }
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        match self.answer(&Asked::KvDelete { key: key.to_owned() }) {
            Some(Answered::Done(done)) => done,
            _ => no_value(),
        }
    }

    async fn exists(&self, key: &str) -> Result<bool, KeyValueError> {
        match self.answer(&Asked::KvExists { key: key.to_owned() }) {
            Some(Answered::Exists(exists)) => exists,
            _ => no_value(),
        }
    }

    async fn list(&self, cursor: Option<u64>) -> Result<KeyPage, KeyValueError> {
        match self.answer(&Asked::KvList { cursor }) {
            Some(Answered::Keys(page)) => page,
            _ => no_value(),
        }
    }
}

#[async_trait]
impl Signer for Answers {
    async fn available(&self, name: &SecretName) -> bool {
        let asked = Asked::SecretAvailable { name: name.clone() };
        matches!(self.answer(&asked), Some(Answered::Available(true)))
    }

    async fn sign(&self, name: &SecretName, algorithm: SignAlgorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let asked = Asked::SecretSign {
            name: name.clone(),
            algorithm,
            message: Summary::of(message),
        };
        match self.answer(&asked) {
            Some(Answered::Signed(signed)) => signed.map(|Blob(bytes)| bytes.into()),
            _ => Err(SignError::Failed(NOT_RECORDED.to_owned())),
        }
    }
}

#[async_trait]
impl Peers for Answers {
    fn may_call(&self, tool: &ToolName) -> Result<(), CallError> {
        match self.answer(&Asked::PeerAllowed { tool: tool.clone() }) {
            Some(Answered::Allowed(allowed)) => allowed,
            _ => Err(not_recorded()),
        }
    }

    async fn call(&self, tool: &ToolName, arguments: Arguments) -> CallResult {
        let asked = Asked::Peer {
            tool: tool.clone(),
            arguments,
        };
        match self.answer(&asked) {
            Some(Answered::Called(result)) => result,
            _ => Err(not_recorded()),
        }
    }
}

fn not_recorded() -> CallError {
    CallError::new(CallErrorCode::Unavailable, NOT_RECORDED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::VERSION;
    use fumehood_core::call::Output;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    fn recording(exchanges: Vec<Exchange>) -> Recording {
        Recording {
            version: VERSION,
            tool: ToolName::new("t").unwrap(),
            arguments: Arguments::new(),
            locale: None,
            deadline_ms: Some(7),
            seed: "01".repeat(32),
            wall_clock: vec![5, 9],
            monotonic_clock: Vec::new(),
            env: Vec::new(),
            exchanges,
            files: None,
            result: Ok(Output::default()),
        }
    }

    fn get(key: &str, value: &'static str) -> Exchange {
        Exchange {
            asked: Asked::KvGet { key: key.into() },
            answered: Answered::Value(Ok(Some(Blob(Bytes::from_static(value.as_bytes()))))),
        }
    }

    fn answers(exchanges: Vec<Exchange>) -> Answers {
        Answers::new(&recording(exchanges)).unwrap()
    }

    #[tokio::test]
    async fn questions_are_answered_as_they_were() {
        let answers = answers(vec![get("a", "1"), get("a", "2")]);
        assert_eq!(answers.get("a").await, Ok(Some(b"1".to_vec())));
        assert_eq!(answers.get("a").await, Ok(Some(b"2".to_vec())));
        assert_eq!(answers.difference().await, None);
    }

    #[tokio::test]
    async fn a_question_that_was_not_asked_is_the_difference_with_what_was_asked() {
        let answers = answers(vec![get("a", "1")]);
        assert!(answers.get("b").await.is_err());
        let difference = answers.difference().await.unwrap();
        assert_eq!(difference.at, "request 1 to the host");
        assert_eq!(difference.recorded, "the key-value `a`");
        assert_eq!(difference.replayed, "the key-value `b`");
    }

    #[tokio::test]
    async fn a_question_that_is_not_asked_any_more_is_the_difference() {
        let answers = answers(vec![get("a", "1"), get("b", "2")]);
        answers.get("a").await.unwrap();
        let difference = answers.difference().await.unwrap();
        assert_eq!(difference.at, "request 2 to the host");
        assert_eq!(difference.recorded, "the key-value `b`");
        assert!(difference.replayed.contains("nothing is asked"), "{difference:?}");
    }

    fn posted(body: &[u8], answer: u16) -> Exchange {
        let request = HttpRequest {
            method: "POST".into(),
            url: "https://a.example/".into(),
            headers: Vec::new(),
            body: Some(Summary::of(body)),
        };
        let response = HttpResponse {
            status: answer,
            headers: Vec::new(),
            body: Vec::new(),
            end: BodyEnd::Complete,
        };
        Exchange {
            asked: Asked::Http(request),
            answered: Answered::Http(Ok(response)),
        }
    }

    /// A request whose body is written by whoever has the other end.
    fn post() -> (http::Request<Body>, mpsc::UnboundedSender<&'static [u8]>) {
        let (sender, pieces) = mpsc::unbounded_channel::<&'static [u8]>();
        let pieces = futures::stream::unfold(pieces, |mut pieces| async {
            let piece = pieces.recv().await?;
            Some((Ok(Frame::data(Bytes::from_static(piece))), pieces))
        });
        let body = StreamBody::new(pieces).boxed_unsync();
        (http::Request::post("https://a.example/").body(body).unwrap(), sender)
    }

    #[tokio::test]
    async fn a_request_is_answered_before_its_body_has_ended_and_the_body_is_compared_all_the_same() {
        for (written, same) in [(&b"all"[..], true), (b"other", false)] {
            let answers = answers(vec![posted(b"all", 201)]);
            let (request, sender) = post();
            let answered = answers.send(request, Timeouts::default());
            let answered = tokio::time::timeout(Duration::from_secs(60), answered).await;
            assert_eq!(answered.unwrap().unwrap().status(), 201, "nothing was written so far");
            sender.send(written).unwrap();
            drop(sender);
            let difference = answers.difference().await;
            assert_eq!(difference.is_none(), same, "{difference:?}");
        }
    }

    #[tokio::test]
    async fn requests_that_only_their_bodies_tell_apart_are_told_apart_by_them() {
        let answers = answers(vec![posted(b"one", 201), posted(b"two", 202)]);
        let mut status = Vec::new();
        for written in [&b"two"[..], b"one"] {
            let (request, sender) = post();
            sender.send(written).unwrap();
            drop(sender);
            status.push(
                answers
                    .send(request, Timeouts::default())
                    .await
                    .unwrap()
                    .status()
                    .as_u16(),
            );
        }
        assert_eq!((status, answers.difference().await), (vec![202, 201], None));
    }

    #[test]
    fn clocks_show_what_they_showed_and_then_stand_nearly_still() {
        let answers = answers(Vec::new());
        let seen: Vec<_> = (0..4).map(|_| Ambient::wall_clock(&answers).as_nanos()).collect();
        assert_eq!(seen, [5, 9, 10, 11]);
        assert_eq!(answers.deadline_ms(1), 7);
    }
}
