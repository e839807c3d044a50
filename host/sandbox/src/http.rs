//! `wasi:http` for guests: every outgoing request is handed to the [`Door`], counted, and its bodies
//! are limited, each by itself and all together.

use crate::{
    call::Denial,
    ports::{Body, Door, DoorError, Timeouts},
    stdio::CallLog,
    witness::{Interface, Outcome, Question, Witness},
};
use bytes::{Buf, Bytes};
use fumehood_policy::{limits::Limits, quantity::ByteSize};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tracing::{Instrument as _, Span};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// How many bytes a guest's headers may have, as they lie in memory; each of its handles may be such
/// a set. More than twice what servers take.
pub(crate) const FIELDS_SIZE: usize = 64 << 10;

/// What `wasi:http` calls back.
pub(crate) struct HttpHooks {
    door: Arc<dyn Door>,
    log: Arc<CallLog>,
    witness: Option<Arc<Witness>>,
    requests: u64,
    concurrent_limit: u32,
    body_limit: u64,
    shared: Arc<Exchanges>,
    /// The call's: requests are sent on tasks of their own. Kept, because while a guest calls its host the current span may be
    /// one of the engine's, which leads nowhere.
    span: Span,
}

/// What the exchanges of one call share.
struct Exchanges {
    log: Arc<CallLog>,
    open: AtomicU32,
    bytes_left: AtomicU64,
    bytes_limit: ByteSize,
}

impl Exchanges {
    /// Takes bytes from what all bodies together may have; `false` if there is not that much left.
    fn spend(&self, bytes: u64) -> bool {
        let spent = self
            .bytes_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if spent.is_err() {
            self.log.deny(Denial::new(format!(
                "the call's HTTP bodies had more than {} together, its limit; raise `http_bytes` in `[limits]`",
                self.bytes_limit
            )));
        }
        spent.is_ok()
    }
}

/// One of the exchanges that a call may have at the same time; given back when dropped.
struct Place(Arc<Exchanges>);

impl Place {
    fn take(exchanges: &Arc<Exchanges>, limit: u32) -> Option<Self> {
        exchanges
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < limit).then_some(open + 1)
            })
            .is_ok()
            .then(|| Self(Arc::clone(exchanges)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

type Completion = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Completion), Error>> + Send>;

impl HttpHooks {
    pub(crate) fn new(door: Arc<dyn Door>, log: Arc<CallLog>, limits: &Limits) -> Self {
        Self {
            door,
            witness: None,
            requests: 0,
            concurrent_limit: limits.http_concurrent,
            body_limit: limits.http_body.bytes(),
            shared: Arc::new(Exchanges {
                log: Arc::clone(&log),
                open: AtomicU32::new(0),
                bytes_left: AtomicU64::new(limits.http_bytes.bytes()),
                bytes_limit: limits.http_bytes,
            }),
            log,
            span: Span::current(),
        }
    }

    /// The same, with who takes down what is sent.
    pub(crate) fn seen_by(self, witness: Option<Arc<Witness>>) -> Self {
        Self { witness, ..self }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Refuses a request, with a reason for the report and for the door's ledger.
    // THREAT[T-net-ledger-bypass]
    fn refuse(&self, request: http::Request<WasiBody>, limit: &'static str, reason: String, code: Error) -> Sending {
        self.log.deny(Denial::new(reason.clone()));
        let door = Arc::clone(&self.door);
        let request = request.map(|body| outgoing(body, self.body_limit, Arc::clone(&self.shared)));
        let refusing = async move {
            door.refuse(request, limit, reason).await;
            Err(code)
        };
        Box::new(refusing.instrument(self.span.clone()))
    }
}

impl WasiHttpHooks for HttpHooks {
    /// The door derives `host` from the URL that it checked, so a guest cannot name another.
    // THREAT[T-net-header-smuggling]
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Completion,
    ) -> Sending {
        // How many there may be is the door's to say: it counts, and records what it refuses.
        self.requests += 1;
        let question = Question::new(self.witness.as_ref(), Interface::Http, || (words(&request), None));
        // THREAT[T-box-host-memory]: each holds a connection, its buffers and a task.
        let Some(place) = Place::take(&self.shared, self.concurrent_limit) else {
            let limit = self.concurrent_limit;
            let reason = format!(
                "the call had more than {limit} HTTP requests at the same time, its limit; read and drop answers, or \
                 raise `http_concurrent` in `[limits]`"
            );
            question.answer(|| Outcome::Denied(reason.clone()));
            return self.refuse(request, "http_concurrent", reason, Error::ConnectionLimitReached);
        };
        let door = Arc::clone(&self.door);
        let shared = Arc::clone(&self.shared);
        let limit = self.body_limit;
        let sending = async move {
            let options = options.unwrap_or_default();
            let timeouts = Timeouts {
                connect: options.connect_timeout,
                first_byte: options.first_byte_timeout,
                between_bytes: options.between_bytes_timeout,
            };
            let request = request.map(|body| outgoing(body, limit, Arc::clone(&shared)));
            let answer = door.send(request, timeouts).await;
            question.answer(|| outcome(&answer));
            match answer {
                Ok(response) => {
                    let done: Completion = Box::new(std::future::ready(Ok(())));
                    Ok((response.map(|body| incoming(body, limit, place)), done))
                }
                Err(error) => Err(refused(error, &shared.log)),
            }
        };
        Box::new(sending.instrument(self.span.clone()))
    }
}

/// A request for who explains the call, without its query: that is the guest's own.
fn words(request: &http::Request<WasiBody>) -> String {
    let uri = request.uri();
    let (scheme, authority) = (uri.scheme_str(), uri.authority().map(http::uri::Authority::as_str));
    format!(
        "{} {}://{}{}",
        request.method(),
        scheme.unwrap_or("https"),
        authority.unwrap_or_default(),
        uri.path()
    )
}

fn outcome(answer: &Result<http::Response<Body>, DoorError>) -> Outcome {
    match answer {
        Ok(response) => Outcome::Done(format!("status {}", response.status().as_u16())),
        Err(DoorError::Denied(reason) | DoorError::AddressProhibited(reason)) => Outcome::Denied(reason.clone()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

// THREAT[T-net-body-flood]
fn outgoing(body: WasiBody, limit: u64, exchanges: Arc<Exchanges>) -> Body {
    Capped {
        body: body.map_err(|_| DoorError::Aborted),
        left: limit,
        too_large: DoorError::RequestTooLarge(limit),
        exchanges,
        place: None,
    }
    .boxed_unsync()
}

// THREAT[T-net-body-flood]: the door limits bodies, too; this holds whatever the door does.
fn incoming(body: Body, limit: u64, place: Place) -> WasiBody {
    Capped {
        left: limit,
        too_large: DoorError::ResponseTooLarge(limit),
        exchanges: Arc::clone(&place.0),
        place: (!body.is_end_stream()).then_some(place),
        body,
    }
    .map_err(|error| wasi_error(&error))
    .boxed_unsync()
}

/// The guest learns the code; the reason, which `wasi:http` has no place for, goes into the report.
fn refused(error: DoorError, log: &CallLog) -> Error {
    let code = wasi_error(&error);
    if let DoorError::Denied(reason) | DoorError::AddressProhibited(reason) = error {
        log.deny(Denial::new(reason));
    }
    code
}

fn wasi_error(error: &DoorError) -> Error {
    match error {
        DoorError::Denied(_) => Error::HttpRequestDenied,
        DoorError::AddressProhibited(_) => Error::DestinationIpProhibited,
        DoorError::UriInvalid => Error::HttpRequestUriInvalid,
        DoorError::MethodInvalid => Error::HttpRequestMethodInvalid,
        DoorError::DnsTimeout => Error::DnsTimeout,
        DoorError::DnsFailed => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        DoorError::ConnectionRefused => Error::ConnectionRefused,
        DoorError::ConnectTimeout => Error::ConnectionTimeout,
        DoorError::ConnectionTerminated => Error::ConnectionTerminated,
        DoorError::ConnectionLimit => Error::ConnectionLimitReached,
        DoorError::Tls => Error::TlsProtocolError,
        DoorError::TlsCertificate => Error::TlsCertificateError,
        DoorError::RequestTooLarge(limit) => Error::HttpRequestBodySize(Some(*limit)),
        DoorError::ResponseHeadTooLarge => Error::HttpResponseHeaderSectionSize(None),
        DoorError::ResponseTooLarge(limit) => Error::HttpResponseBodySize(Some(*limit)),
        DoorError::ResponseTimeout => Error::HttpResponseTimeout,
        DoorError::ReadTimeout => Error::ConnectionReadTimeout,
        DoorError::ResponseIncomplete => Error::HttpResponseIncomplete,
        DoorError::Protocol | DoorError::Aborted => Error::HttpProtocolError,
        DoorError::Internal => Error::InternalError(None),
    }
}

/// A body that fails beyond a number of bytes, its own or that of all bodies together.
struct Capped<B> {
    body: B,
    left: u64,
    too_large: DoorError,
    exchanges: Arc<Exchanges>,
    /// The exchange is over when its answer is.
    place: Option<Place>,
}

impl<B> HttpBody for Capped<B>
where
    B: HttpBody<Data = Bytes, Error = DoorError> + Unpin,
{
    type Data = Bytes;
    type Error = DoorError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DoorError>>> {
        let this = self.get_mut();
        let mut frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(piece)) = &frame
            && let Some(data) = piece.data_ref()
        {
            let len = data.remaining() as u64;
            match this.left.checked_sub(len) {
                Some(left) if this.exchanges.spend(len) => this.left = left,
                _ => frame = Some(Err(this.too_large.clone())),
            }
        }
        if !matches!(frame, Some(Ok(_))) {
            this.place = None;
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use std::sync::Mutex;

    fn body(len: usize) -> Body {
        Full::new(Bytes::from(vec![0; len]))
            .map_err(|never| match never {})
            .boxed_unsync()
    }

    fn hooks(limits: Limits) -> HttpHooks {
        let log = Arc::new(CallLog::new(Arc::new(crate::ports::NoObserver), &limits));
        HttpHooks::new(Arc::new(crate::ports::DeniedDoor), log, &limits)
    }

    fn capped(len: usize, limit: u64, exchanges: &Arc<Exchanges>) -> Capped<Body> {
        Capped {
            body: body(len),
            left: limit,
            too_large: DoorError::ResponseTooLarge(limit),
            exchanges: Arc::clone(exchanges),
            place: None,
        }
    }

    /// A door that keeps the names of the spans it was asked in.
    #[derive(Default)]
    struct Asked(Mutex<Vec<&'static str>>);

    impl Asked {
        fn note(&self) {
            let span = Span::current().metadata().map_or("none", tracing::Metadata::name);
            self.0.lock().unwrap().push(span);
        }
    }

    #[async_trait::async_trait]
    impl Door for Asked {
        async fn send(&self, _: http::Request<Body>, _: Timeouts) -> Result<http::Response<Body>, DoorError> {
            self.note();
            Err(DoorError::Aborted)
        }

        async fn refuse(&self, _: http::Request<Body>, _: &'static str, _: String) {
            self.note();
        }
    }

    #[tokio::test]
    async fn what_a_call_sends_is_in_its_span_wherever_the_engine_is() {
        let _logs = tracing::subscriber::set_default(tracing_subscriber::registry());
        let (door, limits) = (
            Arc::new(Asked::default()),
            Limits {
                http_concurrent: 1,
                ..Limits::default()
            },
        );
        let log = Arc::new(CallLog::new(Arc::new(crate::ports::NoObserver), &limits));
        let mut hooks = tracing::info_span!("call").in_scope(|| HttpHooks::new(door.clone(), log, &limits));
        let _engine = tracing::info_span!("engine").entered();
        let request = || http::Request::new(WasiBody::default());
        let sent = hooks.send_request(request(), None, Box::new(std::future::ready(Ok(()))));
        let beyond = hooks.send_request(request(), None, Box::new(std::future::ready(Ok(()))));
        assert!(Box::into_pin(sent).await.is_err());
        assert!(Box::into_pin(beyond).await.is_err());
        assert_eq!(*door.0.lock().unwrap(), ["call", "call"]);
    }

    #[tokio::test]
    async fn a_body_of_exactly_its_limit_passes() {
        let exchanges = hooks(Limits::default()).shared;
        let body = capped(10, 10, &exchanges).collect().await.unwrap();
        assert_eq!(body.to_bytes().len(), 10);
    }

    #[tokio::test]
    async fn a_body_beyond_its_limit_fails() {
        let exchanges = hooks(Limits::default()).shared;
        assert_eq!(
            capped(11, 10, &exchanges).collect().await.unwrap_err(),
            DoorError::ResponseTooLarge(10)
        );
    }

    #[tokio::test]
    async fn bodies_within_their_limits_share_one_and_the_report_says_which() {
        let hooks = hooks(Limits {
            http_bytes: ByteSize(25),
            ..Limits::default()
        });
        assert!(capped(10, 10, &hooks.shared).collect().await.is_ok());
        assert!(capped(10, 10, &hooks.shared).collect().await.is_ok());
        assert!(capped(10, 10, &hooks.shared).collect().await.is_err());
        assert!(capped(5, 10, &hooks.shared).collect().await.is_ok());
        let denials = hooks.log.take().denials;
        assert!(
            denials.len() == 1 && denials[0].reason.contains("`http_bytes`"),
            "{denials:?}"
        );
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_the_answer_was_read_or_dropped() {
        let exchanges = hooks(Limits::default()).shared;
        let first = Place::take(&exchanges, 1).unwrap();
        assert!(Place::take(&exchanges, 1).is_none());
        let mut answer = incoming(body(3), 10, first);
        assert!(Place::take(&exchanges, 1).is_none());
        while answer.frame().await.is_some() {}
        let second = Place::take(&exchanges, 1).unwrap();
        drop(incoming(body(3), 10, second));
        let third = Place::take(&exchanges, 1).unwrap();
        let empty = incoming(body(0), 10, third);
        assert!(Place::take(&exchanges, 1).is_some());
        drop(empty);
    }
}
