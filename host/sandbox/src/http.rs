//! `wasi:http` for guests: every outgoing request is handed to the [`Door`], counted, and its bodies
//! are limited.

use crate::{
    call::Denial,
    ports::{Body, Door, DoorError, Timeouts},
    stdio::CallLog,
};
use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// What `wasi:http` calls back.
pub(crate) struct HttpHooks {
    door: Arc<dyn Door>,
    log: Arc<CallLog>,
    requests: u64,
    request_limit: u64,
    body_limit: u64,
}

type Completion = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sending = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Completion), Error>> + Send>;

impl HttpHooks {
    pub(crate) fn new(door: Arc<dyn Door>, log: Arc<CallLog>, request_limit: u64, body_limit: u64) -> Self {
        Self {
            door,
            log,
            requests: 0,
            request_limit,
            body_limit,
        }
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests
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
        self.requests += 1;
        if self.requests > self.request_limit {
            let limit = self.request_limit;
            self.log.deny(Denial::new(format!(
                "the call made more than {limit} HTTP requests, its limit; raise `http_requests` in `[limits]`"
            )));
            return Box::new(std::future::ready(Err(Error::HttpRequestDenied)));
        }
        let door = Arc::clone(&self.door);
        let log = Arc::clone(&self.log);
        let limit = self.body_limit;
        Box::new(async move {
            let options = options.unwrap_or_default();
            let timeouts = Timeouts {
                connect: options.connect_timeout,
                first_byte: options.first_byte_timeout,
                between_bytes: options.between_bytes_timeout,
            };
            let request = request.map(|body| outgoing(body, limit));
            match door.send(request, timeouts).await {
                Ok(response) => {
                    let done: Completion = Box::new(std::future::ready(Ok(())));
                    Ok((response.map(|body| incoming(body, limit)), done))
                }
                Err(error) => Err(refused(error, &log)),
            }
        })
    }
}

fn outgoing(body: WasiBody, limit: u64) -> Body {
    Capped {
        body: body.map_err(|_| DoorError::Aborted),
        left: limit,
        too_large: DoorError::RequestTooLarge(limit),
    }
    .boxed_unsync()
}

// THREAT[T-net-body-flood]: the door limits bodies, too; this holds whatever the door does.
fn incoming(body: Body, limit: u64) -> WasiBody {
    Capped {
        body,
        left: limit,
        too_large: DoorError::ResponseTooLarge(limit),
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

/// A body that fails beyond a number of bytes.
struct Capped<B> {
    body: B,
    left: u64,
    too_large: DoorError,
}

impl<B> HttpBody for Capped<B>
where
    B: HttpBody<Data = Bytes, Error = DoorError> + Unpin,
{
    type Data = Bytes;
    type Error = DoorError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DoorError>>> {
        let this = self.get_mut();
        let frame = std::task::ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match this.left.checked_sub(data.remaining() as u64) {
                Some(left) => this.left = left,
                None => return Poll::Ready(Some(Err(this.too_large.clone()))),
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    fn body(len: usize) -> Body {
        Full::new(Bytes::from(vec![0; len]))
            .map_err(|never| match never {})
            .boxed_unsync()
    }

    fn capped(len: usize, limit: u64) -> Capped<Body> {
        Capped {
            body: body(len),
            left: limit,
            too_large: DoorError::ResponseTooLarge(limit),
        }
    }

    #[tokio::test]
    async fn a_body_of_exactly_its_limit_passes() {
        assert_eq!(capped(10, 10).collect().await.unwrap().to_bytes().len(), 10);
    }

    #[tokio::test]
    async fn a_body_beyond_its_limit_fails() {
        assert_eq!(
            capped(11, 10).collect().await.unwrap_err(),
            DoorError::ResponseTooLarge(10)
        );
    }
}
