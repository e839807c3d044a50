//! Building a request and sending it.

use super::{
    Error, Headers, Response, Url,
    redirect::{self, Hop},
};
use crate::bindings::wasi::{
    http::{
        outgoing_handler,
        types::{
            Fields, FutureIncomingResponse, HeaderError, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
        },
    },
    io::streams::{OutputStream, StreamError},
};
use serde::Serialize;
use std::time::Duration;

/// A request that has not been sent. Mistakes in its parts show when it is.
#[derive(Debug, Clone)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    method: String,
    url: Result<Url, Error>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    redirects: u32,
    timeouts: Timeouts,
}

#[derive(Debug, Clone, Copy, Default)]
struct Timeouts {
    connect: Option<Duration>,
    first_byte: Option<Duration>,
    between_bytes: Option<Duration>,
}

impl Request {
    /// A request of any method.
    pub fn new(method: impl AsRef<str>, url: impl AsRef<str>) -> Self {
        Self {
            method: method.as_ref().to_ascii_uppercase(),
            url: Url::parse(url.as_ref()),
            headers: Vec::new(),
            body: Vec::new(),
            redirects: 0,
            timeouts: Timeouts::default(),
        }
    }

    /// Adds a header. `content-length` is set by itself; the host sets `host` and refuses those
    /// of the connection.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a member to the query, percent-encoded.
    pub fn query(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        if let Ok(url) = &mut self.url {
            url.push_query(name.as_ref(), value.as_ref());
        }
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a value as JSON, and `content-type` with it.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.body(body).header("content-type", "application/json"),
            Err(error) => {
                self.url = Err(Error::Invalid(format!(
                    "the request's body cannot be written as JSON: {error}"
                )));
                self
            }
        }
    }

    /// How long connecting, waiting for the answer, and each pause in its body may take. The host
    /// may allow less.
    pub fn timeout(mut self, each: Duration) -> Self {
        self.timeouts = Timeouts {
            connect: Some(each),
            first_byte: Some(each),
            between_bytes: Some(each),
        };
        self
    }

    /// How long connecting may take.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.connect = Some(limit);
        self
    }

    /// How long the host may take to begin its answer.
    pub fn first_byte_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.first_byte = Some(limit);
        self
    }

    /// How long each pause in the answer's body may take.
    pub fn between_bytes_timeout(mut self, limit: Duration) -> Self {
        self.timeouts.between_bytes = Some(limit);
        self
    }

    /// Follows at most so many redirects. Each hop needs to be allowed like any request; headers that
    /// may hold credentials don't follow to another origin. When there are more, the answer is the
    /// last redirect.
    pub fn follow_redirects(mut self, at_most: u32) -> Self {
        self.redirects = at_most;
        self
    }

    /// Sends the request and waits for the head of the answer.
    ///
    /// # Errors
    /// When the request is not valid, not allowed, or does not reach its host.
    pub fn send(self) -> Result<Response, Error> {
        self.start()?.wait()
    }

    /// Sends the request without waiting, so that several can be under way at a time.
    ///
    /// # Errors
    /// When the request is not valid or not allowed.
    pub fn start(self) -> Result<Pending, Error> {
        let url = self.url.clone()?;
        if cfg!(not(target_family = "wasm")) {
            let why = "there is no network outside a host".to_owned();
            return Err(Error::Denied {
                host: url.authority().to_owned(),
                why,
            });
        }
        let fields = fields(&self.headers)?;
        if let Some(length) = self.content_length() {
            // A host that counts by itself may refuse the header.
            let _ = fields.set("content-length", &[length.to_string().into_bytes()]);
        }
        let request = OutgoingRequest::new(fields);
        let invalid = |what: &str| Error::Invalid(format!("the request's {what} is not valid"));
        request
            .set_method(&method(&self.method))
            .map_err(|()| invalid("method"))?;
        let scheme = if url.is_secure() { Scheme::Https } else { Scheme::Http };
        request.set_scheme(Some(&scheme)).map_err(|()| invalid("scheme"))?;
        request
            .set_authority(Some(url.authority()))
            .map_err(|()| invalid("host"))?;
        request
            .set_path_with_query(Some(url.path_and_query()))
            .map_err(|()| invalid("path"))?;
        let body = request.body().map_err(|()| invalid("body"))?;
        let answer = outgoing_handler::handle(request, self.timeouts.options())
            .map_err(|code| Error::from_wit(code, url.authority()))?;
        // When the body cannot be sent, the answer says why.
        let _ = send_body(body, &self.body);
        Ok(Pending {
            request: self,
            url,
            answer,
        })
    }

    /// How long the body is, where a server expects to be told: some refuse bodies in chunks.
    fn content_length(&self) -> Option<usize> {
        let has_body = !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH");
        let given = self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        (has_body && !given).then_some(self.body.len())
    }

    fn redirected(mut self, hop: Hop) -> Self {
        if hop.drop_body {
            self.body.clear();
            self.method = "GET".to_owned();
            self.headers
                .retain(|(name, _)| !name.to_ascii_lowercase().starts_with("content-"));
        }
        if hop.drop_credentials {
            self.headers
                .retain(|(name, value)| !redirect::may_hold_credentials(name, value));
        }
        self.redirects -= 1;
        self.url = Ok(hop.url);
        self
    }
}

/// A request that was sent and whose answer was not waited for.
#[derive(Debug)]
#[must_use = "dropping a pending request cancels it"]
pub struct Pending {
    request: Request,
    url: Url,
    answer: FutureIncomingResponse,
}

impl Pending {
    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// When the request is not allowed or does not reach its host.
    pub fn wait(self) -> Result<Response, Error> {
        let mut pending = self;
        loop {
            pending.answer.subscribe().block();
            let Some(Ok(answer)) = pending.answer.get() else {
                return Err(Error::Failed {
                    host: pending.url.authority().to_owned(),
                    why: "there is no answer".to_owned(),
                });
            };
            let answer = answer.map_err(|code| Error::from_wit(code, pending.url.authority()))?;
            let headers = Headers::new(answer.headers().entries());
            let status = answer.status();
            if pending.request.redirects > 0
                && let Some(hop) =
                    redirect::hop(&pending.url, &pending.request.method, status, headers.get("location"))?
            {
                drop(answer);
                pending = pending.request.redirected(hop).start()?;
                continue;
            }
            return Response::new(status, headers, pending.url, answer);
        }
    }
}

impl Timeouts {
    fn options(self) -> Option<RequestOptions> {
        let Self {
            connect,
            first_byte,
            between_bytes,
        } = self;
        if connect.is_none() && first_byte.is_none() && between_bytes.is_none() {
            return None;
        }
        let nanoseconds = |limit: Option<Duration>| limit.map(|l| u64::try_from(l.as_nanos()).unwrap_or(u64::MAX));
        let options = RequestOptions::new();
        // A host that does not know an option has limits of its own.
        let _ = options.set_connect_timeout(nanoseconds(connect));
        let _ = options.set_first_byte_timeout(nanoseconds(first_byte));
        let _ = options.set_between_bytes_timeout(nanoseconds(between_bytes));
        Some(options)
    }
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn fields(headers: &[(String, String)]) -> Result<Fields, Error> {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|error| {
            let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
            Error::Invalid(match error {
                HeaderError::Forbidden => format!("the header `{name}` is set by the host and cannot be given"),
                HeaderError::InvalidSyntax | HeaderError::Immutable => {
                    format!("the header `{name}` has a name or a value that is not valid")
                }
            })
        })?;
    }
    Ok(fields)
}

fn send_body(body: OutgoingBody, bytes: &[u8]) -> Result<(), StreamError> {
    if !bytes.is_empty()
        && let Ok(stream) = body.write()
    {
        write_all(&stream, bytes)?;
    }
    // The answer tells what went wrong, should the host not accept the end of the body.
    let _ = OutgoingBody::finish(body, None);
    Ok(())
}

fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    let ready = stream.subscribe();
    while !bytes.is_empty() {
        ready.block();
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        stream.write(now)?;
        bytes = later;
    }
    stream.flush()?;
    ready.block();
    stream.check_write().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_told_for_methods_that_have_a_body() {
        let length = |method: &str, body: &str| Request::new(method, "https://h/").body(body).content_length();
        assert_eq!(length("get", ""), None);
        assert_eq!(length("post", ""), Some(0));
        assert_eq!(length("DELETE", "abc"), Some(3));
        assert_eq!(
            Request::new("PUT", "https://h/")
                .header("Content-Length", "7")
                .content_length(),
            None
        );
    }

    #[test]
    fn a_redirect_changes_what_is_sent() {
        let request = Request::new("POST", "https://a/x")
            .json(&[1])
            .header("Authorization", "Bearer {{secret:K}}")
            .header("accept", "text/plain")
            .follow_redirects(1);
        let hop = Hop {
            url: Url::parse("https://b/y").unwrap_or_else(|_| unreachable!()),
            drop_body: true,
            drop_credentials: true,
        };
        let next = request.redirected(hop);
        assert_eq!((next.method.as_str(), next.body.len(), next.redirects), ("GET", 0, 0));
        assert_eq!(next.headers, [("accept".to_owned(), "text/plain".to_owned())]);
    }

    #[test]
    fn mistakes_show_when_the_request_is_sent() {
        assert!(matches!(Request::new("GET", "nowhere").send(), Err(Error::Invalid(_))));
        assert!(matches!(Request::new("GET", "https://h/").send(), Err(Error::Denied { host, .. }) if host == "h"));
    }
}
