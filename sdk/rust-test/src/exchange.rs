//! One request that the tool is to make, and its answer.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A request and its answer. It is used once, unless it may be repeated; one that nobody asks for fails the test.
#[derive(Debug, Clone, Serialize)]
pub struct Exchange {
    request: Request,
    response: Response,
    repeat: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Request {
    method: String,
    url: String,
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Response {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
}

impl Exchange {
    /// A request of this method for this URL, answered with 200 and nothing in the body unless more is said.
    #[must_use]
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            request: Request {
                method: method.to_owned(),
                url: url.to_owned(),
                headers: BTreeMap::new(),
                body: None,
            },
            response: Response::default(),
            repeat: false,
        }
    }

    /// A `GET`.
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    /// A `POST`.
    #[must_use]
    pub fn post(url: &str) -> Self {
        Self::new("POST", url)
    }

    /// The request has this header as it leaves the host; `{{secret:NAME}}` stands for a secret's value.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.request.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The request has this body, exactly.
    #[must_use]
    pub fn with_body(mut self, body: &str) -> Self {
        self.request.body = Some(body.to_owned());
        self
    }

    /// The answer's status; 200 when this is not said.
    #[must_use]
    pub const fn status(mut self, status: u16) -> Self {
        self.response.status = Some(status);
        self
    }

    /// The answer has this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.response
            .headers
            .insert(name.to_ascii_lowercase(), value.to_owned());
        self
    }

    /// The answer's body.
    #[must_use]
    pub fn body(mut self, body: &str) -> Self {
        self.response.body = Some(body.to_owned());
        self
    }

    /// The answer's body as JSON, with that media type unless [`header`](Self::header) says another.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.response.body = Some(body.to_string());
        let headers = &mut self.response.headers;
        headers
            .entry("content-type".to_owned())
            .or_insert_with(|| "application/json".to_owned());
        self
    }

    /// There is never an answer.
    #[must_use]
    pub const fn hangs(mut self) -> Self {
        self.response.fault = Some("hang");
        self
    }

    /// The connection ends before there is an answer.
    #[must_use]
    pub const fn resets(mut self) -> Self {
        self.response.fault = Some("reset");
        self
    }

    /// The connection ends in the middle of the body.
    #[must_use]
    pub const fn breaks_off(mut self) -> Self {
        self.response.fault = Some("cut");
        self
    }

    /// It answers any number of such requests, none included.
    #[must_use]
    pub const fn repeated(mut self) -> Self {
        self.repeat = true;
        self
    }
}
