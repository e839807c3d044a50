//! The two bodies of an exchange, as they pass the door: counted, capped, scanned, timed.

use crate::{
    error::{Body, Direction, EgressError, RequestPart, Wait},
    guard::{LeakGuard, Redactor},
    ledger::{Exchange, OpenEntry},
    pool::Lease,
    shapes::ShapeScan,
    telemetry,
};
use bytes::{Bytes, BytesMut};
use fumehood_core::ledger::{EgressOutcome, ShapePlace};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// A tool's request body on its way out.
///
/// A part that could be the beginning of a secret's value waits for what follows; when a value is complete, none of
/// it has left.
pub(crate) struct RequestBody {
    inner: Body,
    scan: Redactor,
    shapes: ShapeScan,
    exchange: Arc<Exchange>,
    taken: u64,
    limit: u64,
    /// What `content-length` promises.
    declared: Option<u64>,
    ended: bool,
}

impl RequestBody {
    pub(crate) fn new(
        inner: Body,
        guard: &LeakGuard,
        limit: u64,
        declared: Option<u64>,
        exchange: Arc<Exchange>,
    ) -> Self {
        let ended = inner.is_end_stream() && declared.unwrap_or(0) == 0;
        exchange.request_done.store(ended, Ordering::Release);
        Self {
            inner,
            scan: guard.redactor(),
            shapes: ShapeScan::new(ShapePlace::RequestBody),
            exchange,
            taken: 0,
            limit,
            declared,
            ended,
        }
    }

    /// Takes a chunk and returns what may leave.
    fn pass(&mut self, chunk: Bytes) -> Result<Bytes, EgressError> {
        self.taken = self.taken.saturating_add(chunk.len() as u64);
        if self.declared.is_some_and(|declared| self.taken > declared) {
            return Err(EgressError::LengthMismatch);
        }
        // THREAT[T-net-body-flood]: counted as it passes, whatever was declared.
        if self.taken > self.limit {
            return Err(EgressError::BodyTooLarge {
                direction: Direction::Request,
                limit: self.limit,
            });
        }
        self.shapes.push(&chunk, &self.exchange.shapes);
        let mut passed = self.scan.push(chunk);
        if self.inner.is_end_stream() {
            passed = join(passed, &self.end()?);
        }
        // THREAT[T-sec-exfiltration]: a tool never holds a value, so one in its body came from somewhere it
        // shouldn't have.
        match self.scan.found() {
            Some(secret) => Err(EgressError::LeakBlocked {
                secret: secret.clone(),
                part: RequestPart::Body,
            }),
            None => Ok(passed),
        }
    }

    fn end(&mut self) -> Result<Bytes, EgressError> {
        self.ended = true;
        if self.declared.is_some_and(|declared| self.taken != declared) {
            return Err(EgressError::LengthMismatch);
        }
        let rest = self.scan.finish();
        match self.scan.found() {
            Some(secret) => Err(EgressError::LeakBlocked {
                secret: secret.clone(),
                part: RequestPart::Body,
            }),
            None => Ok(rest),
        }
    }

    fn yield_out(&mut self, passed: Result<Bytes, EgressError>) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        let passed = passed.inspect_err(|error| {
            self.ended = true;
            telemetry::stopped(error);
            let _ = self.exchange.request_failure.set(error.clone());
        })?;
        self.exchange.sent.fetch_add(passed.len() as u64, Ordering::Relaxed);
        if self.ended {
            self.exchange.request_done.store(true, Ordering::Release);
        }
        Poll::Ready((!passed.is_empty()).then(|| Ok(Frame::data(passed))))
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = EgressError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        let this = &mut *self;
        while !this.ended {
            let passed = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                None => this.end(),
                Some(Err(error)) => Err(error),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => this.pass(chunk),
                    Err(_) => Err(EgressError::ForbiddenHeader {
                        name: "trailer".to_owned(),
                        reason: "trailers are not sent",
                    }),
                },
            };
            if !this.ended && passed.as_ref().is_ok_and(Bytes::is_empty) {
                continue;
            }
            return this.yield_out(passed);
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        match self.declared {
            // Of a body that is said to be empty nothing would be asked for, so nobody would learn that it is not.
            Some(0) if !self.ended => SizeHint::default(),
            Some(declared) => SizeHint::with_exact(declared.saturating_sub(self.exchange.sent.load(Ordering::Relaxed))),
            None => SizeHint::default(),
        }
    }
}

/// What an answer's body may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseLimits {
    pub(crate) bytes: u64,
    pub(crate) idle: Duration,
    pub(crate) total: Duration,
    /// When `total` is over.
    pub(crate) deadline: Instant,
}

/// A server's answer on its way in. The exchange ends, and its entry is settled, with the last frame, an error, or
/// the drop.
pub(crate) struct ResponseBody {
    inner: Incoming,
    redactor: Redactor,
    shapes: ShapeScan,
    limits: ResponseLimits,
    exchange: Arc<Exchange>,
    status: u16,
    /// Absent once the exchange is over.
    open: Option<(OpenEntry, Lease)>,
    trailers: Option<HeaderMap>,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    received: u64,
}

impl ResponseBody {
    pub(crate) fn new(
        (inner, status): (Incoming, u16),
        guard: &LeakGuard,
        limits: ResponseLimits,
        exchange: Arc<Exchange>,
        open: (OpenEntry, Lease),
    ) -> Self {
        let mut body = Self {
            inner,
            redactor: guard.redactor(),
            shapes: ShapeScan::new(ShapePlace::ResponseBody),
            limits,
            exchange,
            status,
            open: Some(open),
            trailers: None,
            timer: Box::pin(tokio::time::sleep_until(limits.deadline)),
            waiting: false,
            received: 0,
        };
        if body.inner.is_end_stream() {
            body.complete();
        }
        body
    }

    fn complete(&mut self) {
        if let Some((entry, lease)) = self.open.take() {
            self.redactor.found().inspect(|_| telemetry::leak_redacted());
            entry.finish(match self.exchange.request_failure.get() {
                // The server answered although the request was cut off.
                Some(error) => EgressOutcome::Failed {
                    reason: error.to_string(),
                },
                None => EgressOutcome::Completed { status: self.status },
            });
            if self.exchange.request_done.load(Ordering::Acquire) {
                lease.keep();
            }
        }
    }

    fn fail(&mut self, error: EgressError) -> EgressError {
        let error = self.exchange.request_failure.get().cloned().unwrap_or(error);
        if let Some((entry, _)) = self.open.take() {
            entry.finish(EgressOutcome::Failed {
                reason: error.to_string(),
            });
        }
        self.trailers = None;
        error
    }

    /// Takes a chunk and returns what the tool may see of it now.
    fn pass(&mut self, chunk: Bytes) -> Result<Bytes, EgressError> {
        self.count(chunk.len())?;
        let passed = self.redactor.push(chunk);
        self.shapes.push(&passed, &self.exchange.shapes);
        if self.inner.is_end_stream() {
            let passed = join(passed, &self.rest());
            self.complete();
            return Ok(passed);
        }
        Ok(passed)
    }

    /// What the redactor still holds, at the end.
    fn rest(&mut self) -> Bytes {
        let rest = self.redactor.finish();
        self.shapes.push(&rest, &self.exchange.shapes);
        rest
    }

    /// Ends the body with what the redactor still holds, and takes the trailers behind it.
    fn end_with(&mut self, mut trailers: HeaderMap) -> Result<Bytes, EgressError> {
        let bytes: usize = trailers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        self.count(bytes)?;
        crate::headers::take_trailers(&mut trailers, self.redactor.guard());
        for value in trailers.values() {
            self.exchange.shapes.note(ShapePlace::ResponseHeaders, value.as_bytes());
        }
        let rest = self.rest();
        self.complete();
        self.trailers = Some(trailers);
        Ok(rest)
    }

    // THREAT[T-net-body-flood]: counted as it comes, trailers included.
    fn count(&mut self, bytes: usize) -> Result<(), EgressError> {
        self.received = self.received.saturating_add(bytes as u64);
        self.exchange.received.store(self.received, Ordering::Relaxed);
        if self.received > self.limits.bytes {
            return Err(EgressError::BodyTooLarge {
                direction: Direction::Response,
                limit: self.limits.bytes,
            });
        }
        Ok(())
    }

    // THREAT[T-net-slow-drip]: neither silence nor a drip holds an exchange open for longer than its limits.
    fn check_time(&mut self, cx: &mut Context<'_>) -> Result<(), EgressError> {
        let now = Instant::now();
        let ResponseLimits {
            idle, total, deadline, ..
        } = self.limits;
        if now >= deadline {
            return Err(EgressError::Timeout {
                wait: Wait::Total,
                limit: total,
            });
        }
        if !self.waiting {
            self.waiting = true;
            self.timer.as_mut().reset((now + idle).min(deadline));
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Err(EgressError::Timeout {
                wait: Wait::NextBytes,
                limit: idle,
            }),
            Poll::Pending => Ok(()),
        }
    }

    /// The next thing the inner body has: bytes for the tool, possibly none yet, or the end.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, EgressError>> {
        let Poll::Ready(next) = Pin::new(&mut self.inner).poll_frame(cx) else {
            self.check_time(cx)?;
            return Poll::Pending;
        };
        self.waiting = false;
        Poll::Ready(match next {
            None => {
                let rest = self.rest();
                self.complete();
                Ok((!rest.is_empty()).then_some(rest))
            }
            Some(Err(error)) => Err(crate::door::exchange_error(&error)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) => self.pass(chunk).map(Some),
                Err(frame) => self.end_with(frame.into_trailers().unwrap_or_default()).map(Some),
            },
        })
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = EgressError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, EgressError>>> {
        let this = &mut *self;
        while this.open.is_some() {
            match ready!(this.poll_inner(cx)) {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(this.fail(error)))),
            }
        }
        Poll::Ready(this.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none() && self.trailers.is_none()
    }
}

fn join(first: Bytes, second: &Bytes) -> Bytes {
    if second.is_empty() {
        return first;
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(&first);
    both.extend_from_slice(second);
    both.freeze()
}
