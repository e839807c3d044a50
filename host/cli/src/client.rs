//! The commands' side of the HTTP API. Every command that reads or changes a host goes through it, so that the command
//! line can do exactly what the API can.

use crate::fault;
use anyhow::{Context as _, anyhow, bail};
use futures::{Stream, StreamExt as _};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

/// A host to talk to.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    key: SecretString,
}

impl Client {
    /// A client of the host at `base`, for example `http://127.0.0.1:7070`.
    pub(crate) fn new(base: String, key: SecretString) -> anyhow::Result<Self> {
        // The host is the operator's own: no proxy stands between.
        let http = reqwest::Client::builder()
            .no_proxy()
            .build()
            .context("cannot set up HTTP")?;
        Ok(Self { http, base, key })
    }

    /// Where the host is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// A request to the API.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(self.key.expose_secret())
    }

    /// Gets a JSON value.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        json(
            self.request(Method::GET, path)
                .header(header::ACCEPT, "application/json"),
        )
        .await
    }

    /// Gets a JSON value, if it is there.
    pub(crate) async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let request = self.request(Method::GET, path);
        let response = sent(request.header(header::ACCEPT, "application/json")).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = successful(response).await?.json().await;
        answer.map(Some).context("the host's answer is no JSON")
    }

    /// Gets every item of a list, page by page.
    pub(crate) async fn every(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let mut page = self.get(&format!("{path}?limit=100{cursor}")).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match page.get("next").and_then(Value::as_str) {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// Gets a text.
    pub(crate) async fn get_text(&self, path: &str) -> anyhow::Result<String> {
        accepted(self.request(Method::GET, path))
            .await?
            .text()
            .await
            .context("the host's answer broke off")
    }

    /// Posts a JSON value and gets one.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        json(self.request(Method::POST, path).json(body)).await
    }

    /// Puts a JSON value and gets one, or nothing.
    pub(crate) async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        json(self.request(Method::PUT, path).json(body)).await
    }

    /// Sends a request and gets a JSON value.
    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        json(request).await
    }

    /// Deletes something, and gets what there is to say of it.
    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        json(self.request(Method::DELETE, path)).await
    }

    /// Sends a request whose answer is a stream of events, and yields each event's envelope.
    pub(crate) async fn events(
        &self,
        request: RequestBuilder,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Value>> + Unpin> {
        let response = accepted(request.header(header::ACCEPT, "text/event-stream")).await?;
        let lines = Lines {
            bytes: response.bytes_stream().boxed(),
            buffer: Vec::new(),
        };
        Ok(futures::stream::unfold(lines, |mut lines| async move {
            loop {
                match lines.next().await {
                    Ok(None) => return None,
                    Ok(Some(line)) => {
                        if let Some(data) = line.strip_prefix("data:") {
                            let event =
                                serde_json::from_str(data.trim()).context("the host sent an event that is no JSON");
                            return Some((event, lines));
                        }
                    }
                    Err(error) => return Some((Err(error), lines)),
                }
            }
        })
        .boxed())
    }
}

/// The lines of a stream of events.
struct Lines {
    bytes: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
}

impl Lines {
    async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            match self.bytes.next().await {
                None => return Ok(None),
                Some(chunk) => self
                    .buffer
                    .extend_from_slice(&chunk.context("the stream of events broke")?),
            }
        }
    }
}

async fn json(request: RequestBuilder) -> anyhow::Result<Value> {
    let response = accepted(request).await?;
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    response.json().await.context("the host's answer is no JSON")
}

async fn accepted(request: RequestBuilder) -> anyhow::Result<Response> {
    successful(sent(request).await?).await
}

async fn sent(request: RequestBuilder) -> anyhow::Result<Response> {
    let sent = request.send().await;
    sent.map_err(|error| anyhow!("cannot reach the host: {}", error.without_url()))
}

async fn successful(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let problem: Value = response.json().await.unwrap_or_default();
    let text = |key: &str| problem.get(key).and_then(Value::as_str);
    match (text("detail").or_else(|| text("title")), text("code")) {
        (Some(detail), Some(code @ "budget_exhausted")) => Err(fault::budget_used_up(format!("{detail} ({code})"))),
        (Some(detail), Some(code)) => bail!("{detail} ({code})"),
        _ => bail!("the host answered {status}"),
    }
}
