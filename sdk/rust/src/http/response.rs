//! The answer: its head at once, its body as a stream or whole, within a limit.

use super::{Error, Url};
use crate::bindings::wasi::{
    http::types::{IncomingBody, IncomingResponse, http_error_code},
    io::streams::{InputStream, StreamError},
};
use serde::de::DeserializeOwned;
use std::io::{self, Read};

/// The most that one read asks of the host.
const CHUNK: usize = 64 * 1024;
/// How much of an unsuccessful answer's body goes into the error.
const ERROR_BODY: usize = 512;

/// The head of an answer, and its body to be read.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Headers,
    url: Url,
    reader: Reader,
}

impl Response {
    pub(super) fn new(status: u16, headers: Headers, url: Url, answer: IncomingResponse) -> Result<Self, Error> {
        let gone = || Error::Failed {
            host: url.authority().to_owned(),
            why: "its body cannot be read".to_owned(),
        };
        let body = answer.consume().map_err(|()| gone())?;
        let stream = body.stream().map_err(|()| gone())?;
        let reader = Reader {
            stream,
            _body: body,
            _answer: answer,
            host: url.authority().to_owned(),
            ended: false,
        };
        Ok(Self {
            status,
            headers,
            url,
            reader,
        })
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status code is one of success, 200 to 299.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Passes a successful answer on.
    ///
    /// # Errors
    /// [`Error::Status`] with the beginning of the body.
    pub fn ok(self) -> Result<Self, Error> {
        if self.is_success() {
            return Ok(self);
        }
        let retry_after = self
            .headers
            .get("retry-after")
            .and_then(|value| value.trim().parse().ok());
        let mut body = Vec::new();
        // What can be read of it is enough for a message.
        let _ = self.reader.take(ERROR_BODY as u64).read_to_end(&mut body);
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        Err(Error::Status {
            host: self.url.authority().to_owned(),
            status: self.status,
            retry_after,
            body,
        })
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The first header of that name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Where the answer came from, after redirects.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The body as a stream.
    #[must_use]
    pub fn into_reader(self) -> Reader {
        self.reader
    }

    /// The whole body, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; when the body breaks off.
    pub fn body(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let (bytes, complete) = self.reader.read_up_to(limit)?;
        if complete {
            Ok(bytes)
        } else {
            Err(Error::TooLarge { limit })
        }
    }

    /// The body's first `limit` bytes, and whether that is all of it.
    ///
    /// # Errors
    /// When the body breaks off.
    pub fn body_up_to(mut self, limit: usize) -> Result<(Vec<u8>, bool), Error> {
        self.reader.read_up_to(limit)
    }

    /// The whole body as text, if it has at most `limit` bytes. What is not UTF-8 is replaced.
    ///
    /// # Errors
    /// As for [`Response::body`].
    pub fn text(self, limit: usize) -> Result<String, Error> {
        let bytes = self.body(limit)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// The whole body read as JSON, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// As for [`Response::body`]; [`Error::Failed`] when it is not the JSON that was expected.
    pub fn json<T: DeserializeOwned>(self, limit: usize) -> Result<T, Error> {
        let host = self.url.authority().to_owned();
        serde_json::from_slice(&self.body(limit)?).map_err(|error| Error::Failed {
            host,
            why: format!("its answer is not the expected JSON: {error}"),
        })
    }
}

/// The headers of an answer, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

impl Headers {
    pub(super) fn new(entries: Vec<(String, Vec<u8>)>) -> Self {
        Self(entries)
    }

    /// The first value of a name, if it is text. Names compare without regard to case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of a name that are text.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(given, _)| given.eq_ignore_ascii_case(name));
        named.filter_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Names and values. What is not UTF-8 in a value is replaced.
    pub fn iter(&self) -> impl Iterator<Item = (&str, std::borrow::Cow<'_, str>)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value)))
    }
}

/// An answer's body as a stream. Reading blocks; dropping it gives the rest up.
#[derive(Debug)]
pub struct Reader {
    // The order is that of dropping: each is a part of the next.
    stream: InputStream,
    _body: IncomingBody,
    _answer: IncomingResponse,
    host: String,
    ended: bool,
}

impl Reader {
    fn read_up_to(&mut self, limit: usize) -> Result<(Vec<u8>, bool), Error> {
        let mut bytes = Vec::new();
        while bytes.len() <= limit {
            // One byte more than the limit shows whether there is more.
            let Some(chunk) = self.chunk((limit - bytes.len()).saturating_add(1))? else {
                return Ok((bytes, true));
            };
            bytes.extend_from_slice(&chunk);
        }
        bytes.truncate(limit);
        Ok((bytes, false))
    }

    /// Some bytes of the body, or none at its end.
    fn chunk(&mut self, at_most: usize) -> Result<Option<Vec<u8>>, Error> {
        while !self.ended {
            match self.stream.blocking_read(at_most.min(CHUNK) as u64) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Ok(Some(bytes)),
                Err(StreamError::Closed) => self.ended = true,
                Err(StreamError::LastOperationFailed(error)) => {
                    self.ended = true;
                    return Err(match http_error_code(&error) {
                        Some(code) => Error::from_wit(code, &self.host),
                        None => Error::Failed {
                            host: self.host.clone(),
                            why: error.to_debug_string(),
                        },
                    });
                }
            }
        }
        Ok(None)
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let Some(bytes) = self.chunk(into.len())? else {
            return Ok(0);
        };
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_whatever_their_case() {
        let headers = Headers::new(vec![
            ("Set-Cookie".into(), b"a".to_vec()),
            ("set-cookie".into(), b"b".to_vec()),
            ("x".into(), vec![0xff]),
        ]);
        assert_eq!(headers.get("SET-COOKIE"), Some("a"));
        assert_eq!(headers.all("set-cookie").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(headers.get("x"), None);
        assert_eq!(headers.iter().count(), 3);
    }
}
