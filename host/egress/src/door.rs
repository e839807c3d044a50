//! The door: the one way a tenant-chosen request leaves.

use crate::{
    body::{RequestBody, ResponseBody, ResponseLimits},
    config::EgressConfig,
    connect::{Connector, SetupError},
    decision::{self, Allowed},
    error::{Body, Direction, EgressError, Wait},
    grant::{EgressGrant, Taken},
    headers,
    ledger::{Exchange, Ledger, OpenEntry, Recorder},
    pool::{Lease, Pool},
    telemetry,
};
use bytes::Bytes;
use fumehood_core::ledger::{EgressOutcome, ShapePlace};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header::HOST};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use std::{
    error::Error as _,
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument as _, field};

/// The one door out. Cloning is cheap and shares connections and ledger.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    recorder: Recorder,
    first_byte: Duration,
    idle: Duration,
    total: Duration,
}

impl Egress {
    /// Sets the door up. Starts two small tasks, which end with the last clone and the last exchange; call it within
    /// a Tokio runtime.
    ///
    /// # Errors
    /// When an extra root is no certificate.
    pub fn new(config: &EgressConfig, ledger: Arc<dyn Ledger>) -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Inner {
            pool: Pool::new(Connector::new(config)?, config),
            recorder: Recorder::start(ledger, config.max_in_flight),
            first_byte: config.first_byte_timeout,
            idle: config.idle_timeout,
            total: config.total_timeout,
        })))
    }

    /// Sends a request if the grant allows it, and returns the answer with its body still streaming.
    ///
    /// The URL must be absolute. A redirect is returned like any answer; following it is a request of its own. The
    /// answer's body fails with an error of its own when a limit is passed or the connection breaks; dropping it
    /// ends the exchange.
    ///
    /// Cancel-safe: dropping the future closes the connection and settles the ledger.
    ///
    /// # Errors
    /// When the request is refused, or the exchange fails before the head of the answer is there.
    pub async fn send(&self, grant: &EgressGrant, request: Request<Body>) -> Result<Response<Body>, EgressError> {
        let (head, body) = request.into_parts();
        let budget = grant.limits.requests.take();
        if budget != Taken::Within {
            let refused = decision::beyond_limit(grant, &head);
            if budget == Taken::FirstBeyond {
                self.0.recorder.record_refusal(&refused.entry(grant, &head)).await;
            }
            return Err(refused.error);
        }
        let allowed = match decision::decide(grant, &head) {
            Ok(allowed) => allowed,
            Err(refused) => {
                telemetry::stopped(&refused.error);
                self.0.recorder.record_refusal(&refused.entry(grant, &head)).await;
                return Err(refused.error);
            }
        };
        let exchange = Arc::new(Exchange {
            shapes: decision::shapes_in(&head),
            ..Exchange::default()
        });
        let entry = allowed.entry(grant, &exchange.shapes);
        let (id, method, host, port) = (entry.id, &entry.method, &entry.host, entry.port);
        // THREAT[T-sec-log]: no path, query, header or body.
        let span =
            tracing::debug_span!("egress", %id, %method, %host, port, http_status = field::Empty, error = field::Empty);
        // The decision is durable before a byte leaves, a name server's query included.
        // THREAT[T-net-ledger-bypass]
        let open = self.0.recorder.open(&entry, exchange.clone(), &grant.guard).await?;
        let declared = allowed.declared.or_else(|| body.size_hint().exact());
        let outgoing = Outgoing {
            grant,
            allowed,
            headers: head.headers,
            declared,
            exchange,
        };
        self.0.exchange(open, outgoing, body).instrument(span).await
    }

    /// Refuses a request for a limit that is not the door's, and records it like any refusal. It counts against the call's
    /// requests, so a loop of refused ones ends in a refusal that is recorded once.
    // THREAT[T-net-ledger-bypass]: whoever says no, the ledger says so.
    pub async fn refuse(
        &self,
        grant: &EgressGrant,
        request: Request<Body>,
        limit: &str,
        reason: String,
    ) -> EgressError {
        let head = request.into_parts().0;
        let budget = grant.limits.requests.take();
        let refused = match budget {
            Taken::Within => decision::by_limit(&head, limit, reason),
            Taken::FirstBeyond | Taken::Beyond => decision::beyond_limit(grant, &head),
        };
        if budget != Taken::Beyond {
            self.0.recorder.record_refusal(&refused.entry(grant, &head)).await;
        }
        refused.error
    }

    /// Waits until the outcome of every exchange that is over is in the ledger. For a process that is about to end.
    pub async fn flush(&self) {
        self.0.recorder.flush().await;
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Egress")
    }
}

/// A request that is allowed and recorded.
struct Outgoing<'g> {
    grant: &'g EgressGrant,
    allowed: Allowed<'g>,
    headers: HeaderMap,
    declared: Option<u64>,
    exchange: Arc<Exchange>,
}

impl Inner {
    async fn exchange(
        &self,
        mut entry: OpenEntry,
        outgoing: Outgoing<'_>,
        body: Body,
    ) -> Result<Response<Body>, EgressError> {
        let deadline = Instant::now() + self.total;
        let failed = |entry: OpenEntry, error: EgressError| {
            // THREAT[T-sec-log]: a text that others had a part in may hold a value.
            let reason = outgoing.grant.guard.redact_str(&error.to_string()).into_owned();
            tracing::Span::current().record("error", "exchange_failed");
            tracing::debug!(%reason, "the exchange failed");
            entry.finish(
                if error.is_refusal() && !matches!(error, EgressError::LeakBlocked { .. }) {
                    EgressOutcome::Denied { reason }
                } else {
                    EgressOutcome::Failed { reason }
                },
            );
            error
        };
        let answered = timeout_at(deadline, self.round_trip(&mut entry, &outgoing, body)).await;
        let answered = answered.unwrap_or(Err(EgressError::Timeout {
            wait: Wait::Total,
            limit: self.total,
        }));
        let (lease, response) = match answered {
            Ok(answered) => answered,
            Err(error) => return Err(failed(entry, error)),
        };
        let limits = ResponseLimits {
            bytes: outgoing.grant.limits.body_in,
            idle: self.idle,
            total: self.total,
            deadline,
        };
        match take_head(response, &outgoing, limits) {
            Ok((head, incoming)) => {
                tracing::Span::current().record("http_status", head.status().as_u16());
                let open = (entry, lease);
                let parts = (incoming, head.status().as_u16());
                let body = ResponseBody::new(parts, &outgoing.grant.guard, limits, outgoing.exchange, open);
                Ok(head.map(|()| body.boxed_unsync()))
            }
            Err(error) => Err(failed(entry, error)),
        }
    }

    /// Connects, injects, sends, and waits for the head of the answer.
    async fn round_trip(
        &self,
        entry: &mut OpenEntry,
        outgoing: &Outgoing<'_>,
        body: Body,
    ) -> Result<(Lease, Response<Incoming>), EgressError> {
        let Outgoing {
            grant,
            allowed,
            exchange,
            ..
        } = outgoing;
        let too_large = EgressError::BodyTooLarge {
            direction: Direction::Request,
            limit: grant.limits.body_out,
        };
        if outgoing.declared.is_some_and(|length| length > grant.limits.body_out) {
            return Err(too_large);
        }
        // Known to be wrong before a connection is made. THREAT[T-net-header-smuggling]
        if body
            .size_hint()
            .exact()
            .is_some_and(|length| outgoing.declared != Some(length))
        {
            return Err(EgressError::LengthMismatch);
        }
        let mut lease = self.lease(grant, entry, allowed).await?;
        let body = RequestBody::new(
            body,
            &grant.guard,
            grant.limits.body_out,
            outgoing.declared,
            exchange.clone(),
        );
        let mut request = outgoing.request(body)?;
        loop {
            let sending = lease.link.sender.try_send_request(request);
            let mut unsent = match self.first_byte(exchange, sending).await? {
                Ok(response) => return Ok((lease, response)),
                Err(unsent) => unsent,
            };
            match unsent.take_message() {
                // A kept connection was closed by the server, and nothing of this request was written to it.
                Some(message) if lease.reused => request = message,
                _ => {
                    return Err(exchange
                        .request_failure
                        .get()
                        .cloned()
                        .unwrap_or_else(|| exchange_error(unsent.error())));
                }
            }
            drop(lease);
            lease = self.lease(grant, entry, allowed).await?;
        }
    }

    /// A connection that may carry the secrets of the request.
    async fn lease(
        &self,
        grant: &EgressGrant,
        entry: &mut OpenEntry,
        allowed: &Allowed<'_>,
    ) -> Result<Lease, EgressError> {
        let pool = &self.pool;
        let lease = pool.lease(&grant.scope.org, &allowed.target, &grant.policy).await?;
        entry.address = Some(lease.link.address);
        let listed = pool.connector().is_listed_loopback(lease.link.address);
        allowed.plan.check_transport(allowed.target.scheme(), listed)?;
        Ok(lease)
    }

    /// Waits for `sending`, as long as the request's body makes progress or the limit isn't over.
    async fn first_byte<T>(&self, exchange: &Exchange, sending: impl Future<Output = T>) -> Result<T, EgressError> {
        tokio::pin!(sending);
        let mut sent_before = 0;
        loop {
            tokio::select! {
                biased;
                answer = &mut sending => return Ok(answer),
                () = sleep(self.first_byte) => {
                    let sent = exchange.sent.load(Ordering::Relaxed);
                    if sent == sent_before {
                        return Err(EgressError::Timeout { wait: Wait::FirstByte, limit: self.first_byte });
                    }
                    sent_before = sent;
                }
            }
        }
    }
}

impl Outgoing<'_> {
    /// The request as it is sent, the secrets in their places.
    fn request(&self, body: RequestBody) -> Result<Request<RequestBody>, EgressError> {
        let target = &self.allowed.target;
        let mut headers = self.headers.clone();
        headers::strip_request(&mut headers);
        let path_and_query = self.allowed.plan.carry_out(target, &mut headers)?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(target.method().as_bytes()).map_err(|_| unsendable())?;
        *request.uri_mut() = Uri::try_from(path_and_query.as_str()).map_err(|_| unsendable())?;
        headers.insert(
            HOST,
            HeaderValue::try_from(target.authority()).map_err(|_| unsendable())?,
        );
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn unsendable() -> EgressError {
    EgressError::InvalidUrl {
        reason: "it can't be written as a request line".to_owned(),
    }
}

/// Checks the head of an answer and takes what a tool may see of it.
fn take_head(
    response: Response<Incoming>,
    outgoing: &Outgoing<'_>,
    limits: ResponseLimits,
) -> Result<(Response<()>, Incoming), EgressError> {
    let (head, incoming) = response.into_parts();
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(EgressError::Protocol {
            reason: "the server switched protocols unasked".to_owned(),
        });
    }
    if incoming.size_hint().lower() > limits.bytes {
        return Err(EgressError::BodyTooLarge {
            direction: Direction::Response,
            limit: limits.bytes,
        });
    }
    let mut taken = Response::new(());
    *taken.status_mut() = head.status;
    *taken.headers_mut() = head.headers;
    headers::take_response(taken.headers_mut(), &outgoing.grant.guard, !incoming.is_end_stream())?;
    for value in taken.headers().values() {
        outgoing
            .exchange
            .shapes
            .note(ShapePlace::ResponseHeaders, value.as_bytes());
    }
    Ok((taken, incoming))
}

/// What broke an exchange, in words. An error of the request's own body is returned as it is.
pub(crate) fn exchange_error(error: &hyper::Error) -> EgressError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref::<EgressError>() {
            return own.clone();
        }
        source = cause.source();
    }
    let reason = if error.is_parse_too_large() {
        "the head of the answer is too large"
    } else if error.is_parse() {
        "the answer is not valid HTTP"
    } else if error.is_incomplete_message() {
        "the connection closed before the answer was complete"
    } else {
        "the connection broke"
    };
    EgressError::Protocol {
        reason: reason.to_owned(),
    }
}

/// An empty body.
#[must_use]
pub fn empty_body() -> Body {
    Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
}
