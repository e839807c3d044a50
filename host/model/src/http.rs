//! One request to a provider over HTTP, and its answer as a stream of events.
//!
//! A state that is polled, not a task: dropping the stream drops the connection.

use crate::{
    config::ModelConfigError,
    error::{ModelError, ModelErrorKind, Wait},
    event::{ModelEvent, ModelInfo, ModelStream, Provider},
    media::Media,
    request::ModelRequest,
    sse::{Decoder, Frame, Limits},
    wire::{
        Parser, Sink, Wire,
        fault::{Fault, seconds},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE, DATE, RETRY_AFTER},
};
use reqwest::{Client, Response, redirect};
use secrecy::{ExposeSecret, SecretString};
use std::{borrow::Cow, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

/// The most of a refusal's body that is read.
const MAX_REFUSAL: usize = 64 << 10;
/// How long a refusal's body may take.
const REFUSAL_TIME: Duration = Duration::from_secs(5);
/// How long the end of the connection's answer is waited for, so that the connection can be used again. It is mostly
/// there already; a new connection costs more than this.
const END_OF_BODY: Duration = Duration::from_millis(20);

/// Where a provider is, and how it is talked to.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) base: Url,
    /// Whether the base URL is this machine, which no proxy can reach.
    pub(crate) loopback: bool,
    /// The variable the key came from, and the key.
    pub(crate) key: Option<(String, SecretString)>,
    pub(crate) timeouts: Timeouts,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) first_byte: Duration,
    pub(crate) idle: Duration,
}

/// A provider over HTTP.
pub(crate) struct HttpProvider {
    client: Client,
    url: Url,
    headers: HeaderMap,
    wire: Arc<dyn Wire>,
    media: Media,
    account: Arc<Account>,
}

/// What a call and its answer both need to know.
struct Account {
    info: ModelInfo,
    key: Option<SecretString>,
    timeouts: Timeouts,
}

impl Account {
    /// Takes the key out of what the provider said, and shows that to the operator: the one place that does.
    fn failed(&self, error: ModelError) -> ModelError {
        let error = match (&self.key, error.detail()) {
            // THREAT[T-sec-log]: providers repeat the key in their refusals.
            (Some(key), Some(detail)) => {
                let detail = detail.replace(key.expose_secret().trim(), "[key]");
                error.with_detail(&detail)
            }
            _ => error,
        };
        tracing::warn!(
            provider = self.info.provider.as_str(),
            model = %self.info.model,
            %error,
            detail = error.detail().unwrap_or_default(),
            "a model call failed",
        );
        error
    }
}

impl HttpProvider {
    pub(crate) fn new(wire: Arc<dyn Wire>, endpoint: Endpoint, info: ModelInfo) -> Result<Self, ModelConfigError> {
        let mut client = Client::builder()
            // THREAT[T-net-redirect]: a redirect would carry the key and the conversation elsewhere.
            .redirect(redirect::Policy::none())
            .connect_timeout(endpoint.timeouts.connect)
            .user_agent(concat!("fumehood/", env!("CARGO_PKG_VERSION")));
        if endpoint.loopback {
            client = client.no_proxy();
        }
        let client = client
            .build()
            .map_err(|error| ModelConfigError::Client(error.to_string()))?;
        let mut url = endpoint.base;
        let path = format!("{}/{}", url.path().trim_end_matches('/'), wire.path(url.path()));
        url.set_path(&path);
        let mut headers = wire.headers();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let mut kept = None;
        if let Some((variable, key)) = endpoint.key {
            let (name, prefix) = wire.key_header();
            let mut value = HeaderValue::from_str(&format!("{prefix}{}", key.expose_secret().trim()))
                .map_err(|_| ModelConfigError::UnusableKey { variable })?;
            // THREAT[T-sec-log]: `{:?}` of the headers shows `Sensitive` in its place.
            value.set_sensitive(true);
            headers.insert(name, value);
            kept = Some(key);
        }
        let account = Account {
            info,
            key: kept,
            timeouts: endpoint.timeouts,
        };
        Ok(Self {
            client,
            url,
            headers,
            wire,
            media: Media::default(),
            account: Arc::new(account),
        })
    }

    async fn send(&self, body: Bytes, deadline: Instant) -> Result<Response, Refusal> {
        let request = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .body(body)
            .send();
        let response = match timeout_at(deadline, request).await {
            Err(_) => {
                return Err(ModelError::new(ModelErrorKind::Timeout {
                    waiting_for: Wait::FirstByte,
                })
                .into());
            }
            Ok(Err(error)) => return Err(unreachable(error).into()),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if !status.is_success() {
            // Read first: the body may break off, and the hint would be lost with it.
            let hint = retry_hint(response.headers());
            let body = refusal_body(response).await;
            let fault = Fault::from_body(&body);
            let error = fault.to_error(Some(status.as_u16()), hint);
            return Err(Refusal { error, fault });
        }
        match response
            .headers()
            .get(CONTENT_TYPE)
            .map(|value| value.as_bytes().to_ascii_lowercase())
        {
            Some(kind) if !kind.starts_with(b"text/event-stream") => Err(ModelError::protocol(
                "it is not an event stream; check `base_url` and `wire`",
            )
            .with_detail(&String::from_utf8_lossy(&kind))
            .into()),
            _ => Ok(response),
        }
    }
}

#[async_trait]
impl Provider for HttpProvider {
    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        let mut request = self.media.fit(request);
        let mut state = PastReasoning::Sent;
        loop {
            let sent = match state {
                PastReasoning::Sent => self.wire.body(&request),
                PastReasoning::LeftOut => self.wire.body_without_state(&request),
            };
            let body =
                serde_json::to_vec(&sent).map_err(|_| ModelError::protocol("the request could not be written"))?;
            let deadline = Instant::now() + self.account.timeouts.first_byte;
            let refusal = match self.send(body.into(), deadline).await {
                Ok(response) => {
                    let reading = Reading::new(response, self.wire.parser(), Arc::clone(&self.account), deadline);
                    return Ok(reading.into_stream());
                }
                Err(refusal) => refusal,
            };
            let model = &self.account.info.model;
            let kind = refusal.error.kind();
            let is_invalid = *kind == ModelErrorKind::InvalidRequest;
            if is_invalid
                && state == PastReasoning::Sent
                && refusal.fault.refuses_state()
                && self.wire.body_without_state(&request) != sent
            {
                // Not remembered: what is refused of one conversation says nothing of others.
                tracing::info!(%model, "the provider does not take past reasoning back; going on without it");
                state = PastReasoning::LeftOut;
            } else if is_invalid && self.wire.adapts_to(&refusal.fault, &sent) {
                tracing::info!(%model, "the model does not take a parameter; going on without it");
            } else if let Some(without) = self.media.instead_of(&request, kind, &refusal.fault) {
                tracing::info!(%model, "the model does not take a picture or sound; going on with a text in its place");
                request = Cow::Owned(without);
            } else {
                return Err(self.account.failed(refusal.error));
            }
        }
    }

    fn describe(&self) -> ModelInfo {
        self.account.info.clone()
    }
}

/// Whether what the provider needs back of past reasoning goes with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PastReasoning {
    Sent,
    LeftOut,
}

/// A refusal, with what the wire may learn from it.
struct Refusal {
    error: ModelError,
    fault: Fault,
}

impl From<ModelError> for Refusal {
    fn from(error: ModelError) -> Self {
        Self {
            error,
            fault: Fault::default(),
        }
    }
}

fn unreachable(error: reqwest::Error) -> ModelError {
    let kind = match (error.is_timeout(), error.is_connect()) {
        (true, true) => ModelErrorKind::Timeout {
            waiting_for: Wait::Connect,
        },
        (true, false) => ModelErrorKind::Timeout {
            waiting_for: Wait::FirstByte,
        },
        (false, _) => ModelErrorKind::Unavailable { retry_after: None },
    };
    ModelError::new(kind).with_detail(&causes(&error.without_url()))
}

/// An error with its causes on one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn refusal_body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    // THREAT[T-net-body-flood]: neither long nor slow bodies of refusals are read to their end.
    let reading = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            let room = MAX_REFUSAL - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == MAX_REFUSAL {
                break;
            }
        }
    };
    // What came until then is as good as there is.
    let _ = timeout(REFUSAL_TIME, reading).await;
    body
}

/// When a refusal says to try again: `retry-after-ms`, or `retry-after` in seconds or as a date.
fn retry_hint(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &http::HeaderName| headers.get(name)?.to_str().ok();
    if let Some(after) = text(&http::HeaderName::from_static("retry-after-ms")).and_then(seconds_of_millis) {
        return Some(after);
    }
    let after = text(&RETRY_AFTER)?;
    seconds(after).or_else(|| {
        // Against the provider's own clock, if it says what that shows.
        let now = text(&DATE).and_then(http_date).unwrap_or_else(fumehood_core::now);
        let wait = (http_date(after)? - now).to_std().unwrap_or_default();
        Some(wait.min(Duration::from_hours(24)))
    })
}

fn seconds_of_millis(text: &str) -> Option<Duration> {
    let millis: f64 = text.trim().parse().ok()?;
    seconds(&(millis / 1000.0).to_string())
}

fn http_date(text: &str) -> Option<fumehood_core::Time> {
    chrono::DateTime::parse_from_rfc2822(text.trim()).ok().map(Into::into)
}

/// An answer that is being read.
struct Reading {
    response: Response,
    decoder: Decoder,
    parser: Box<dyn Parser>,
    sink: Sink,
    account: Arc<Account>,
    deadline: Instant,
    waiting_for: Wait,
    /// Comes after the events that were read before it.
    failed: Option<ModelError>,
    ended: bool,
}

impl Reading {
    fn new(response: Response, parser: Box<dyn Parser>, account: Arc<Account>, deadline: Instant) -> Self {
        Self {
            response,
            decoder: Decoder::new(Limits::default()),
            parser,
            sink: Sink::default(),
            account,
            deadline,
            waiting_for: Wait::FirstByte,
            failed: None,
            ended: false,
        }
    }

    fn into_stream(self) -> ModelStream {
        futures::stream::unfold(
            self,
            |mut reading| async move { Some((reading.next().await?, reading)) },
        )
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        while !self.ended {
            if self.sink.is_done() || self.failed.is_some() {
                match self.sink.pop() {
                    Some(done @ ModelEvent::Done { .. }) => {
                        self.ended = true;
                        self.finish_body().await;
                        return Some(Ok(done));
                    }
                    Some(event) => return Some(Ok(event)),
                    None => {
                        self.ended = true;
                        return self.failed.take().map(Err);
                    }
                }
            }
            if let Some(event) = self.sink.pop() {
                return Some(Ok(event));
            }
            if let Err(error) = self.read().await {
                self.failed = Some(self.account.failed(error));
            }
        }
        None
    }

    /// Takes one frame, waiting for it if need be.
    async fn read(&mut self) -> Result<(), ModelError> {
        while !self.sink.has_events() {
            match self.decoder.next() {
                Some(frame) => {
                    // THREAT[T-net-slow-drip]: whole events keep the stream alive, single bytes don't.
                    self.deadline = Instant::now() + self.account.timeouts.idle;
                    self.waiting_for = Wait::NextEvent;
                    if let Frame::Event { name, data } = frame {
                        return self.parser.event(&name, &data, &mut self.sink);
                    }
                }
                None => self.fill().await?,
            }
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), ModelError> {
        match timeout_at(self.deadline, self.response.chunk()).await {
            Err(_) => Err(ModelErrorKind::Timeout {
                waiting_for: self.waiting_for,
            }
            .into()),
            Ok(Err(error)) => {
                Err(ModelError::new(ModelErrorKind::Incomplete).with_detail(&causes(&error.without_url())))
            }
            Ok(Ok(None)) => Err(ModelErrorKind::Incomplete.into()),
            Ok(Ok(Some(bytes))) => self
                .decoder
                .push(&bytes)
                .map_err(|_| ModelErrorKind::AnswerTooLarge.into()),
        }
    }

    /// Reads the end of the body if it is there, so that the connection can be used again.
    async fn finish_body(&mut self) {
        let ends = async { while let Ok(Some(_)) = self.response.chunk().await {} };
        let _ = timeout(END_OF_BODY, ends).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        let headers = pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        retry_hint(&headers)
    }

    #[test]
    fn a_hint_is_read_in_every_form() {
        assert_eq!(hint(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(hint(&[("retry-after", "0.5")]), Some(Duration::from_millis(500)));
        assert_eq!(
            hint(&[("retry-after-ms", "150"), ("retry-after", "1")]),
            Some(Duration::from_millis(150))
        );
        let dates = [
            ("date", "Wed, 21 Oct 2026 07:28:00 GMT"),
            ("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"),
        ];
        assert_eq!(hint(&dates), Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_date_that_has_passed_means_now_and_nonsense_means_no_hint() {
        let dates = [
            ("date", "Wed, 21 Oct 2026 07:28:00 GMT"),
            ("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT"),
        ];
        assert_eq!(hint(&dates), Some(Duration::ZERO));
        assert_eq!(hint(&[("retry-after", "soon")]), None);
        assert_eq!(hint(&[("retry-after-ms", "-5")]), None);
        assert_eq!(hint(&[]), None);
    }

    #[test]
    fn a_hint_is_at_most_a_day() {
        assert_eq!(
            hint(&[("retry-after", "99999999999999999999")]),
            Some(Duration::from_hours(24))
        );
        let dates = [
            ("date", "Wed, 21 Oct 2026 07:28:00 GMT"),
            ("retry-after", "Mon, 21 Oct 2126 07:28:00 GMT"),
        ];
        assert_eq!(hint(&dates), Some(Duration::from_hours(24)));
    }
}
