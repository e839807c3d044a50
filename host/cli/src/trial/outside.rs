//! The outside of a test: it answers the requests that the door lets through by the exchanges of the test, over streams in
//! memory, and notes what it was asked and what it was not.

use super::case::{Answer, Exchange, Fault, RequestPattern};
use async_trait::async_trait;
use bytes::Bytes;
use fumehood_core::name::SecretName;
use fumehood_egress::{Dial, Duplex, Resolve, ResolveError};
use fumehood_policy::network::{Scheme, Target};
use futures::{StreamExt as _, stream};
use http::{Method, Request, Response, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// An address that anybody may be reached at, for names that are never looked up.
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));
/// The largest part of a body that is made at a time, in bytes.
const PIECE: u64 = 64 * 1024;
/// The largest body of a request that is compared, in bytes.
const COMPARED: usize = 16 << 20;

type Failed = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Failed>;

/// Stands in the place of names and connections; one for all tests, which set what it answers in turn.
#[derive(Clone, Default)]
pub(crate) struct Outside(Arc<Mutex<State>>);

/// What a test had of the outside.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Requests that no exchange answers, in words.
    pub(crate) unexpected: Vec<String>,
    /// Exchanges that nobody asked for, in words.
    pub(crate) unused: Vec<String>,
}

#[derive(Default)]
struct State {
    exchanges: Vec<(Exchange, bool)>,
    secrets: BTreeMap<SecretName, String>,
    /// Where the files of answers are.
    dir: PathBuf,
    unexpected: Vec<String>,
}

impl Outside {
    /// Answers by these exchanges from now on. Files of answers lie below `dir`.
    pub(crate) fn begin(&self, exchanges: Vec<Exchange>, secrets: BTreeMap<SecretName, String>, dir: PathBuf) {
        *self.state() = State {
            exchanges: exchanges.into_iter().map(|exchange| (exchange, false)).collect(),
            secrets,
            dir,
            unexpected: Vec::new(),
        };
    }

    /// What there was since it began. Answers nothing from now on.
    pub(crate) fn end(&self) -> Asked {
        let state = std::mem::take(&mut *self.state());
        let unused = state
            .exchanges
            .iter()
            .filter(|(exchange, used)| !used && !exchange.repeat);
        Asked {
            unused: unused.map(|(exchange, _)| exchange.request.in_words()).collect(),
            unexpected: state.unexpected,
        }
    }

    /// The answer to a request, whose exchange is used by it.
    fn answer(&self, request: &Seen) -> Result<(Answer, PathBuf), String> {
        let mut state = self.state();
        let State {
            exchanges,
            secrets,
            dir,
            unexpected,
        } = &mut *state;
        let mut why = None;
        for (exchange, used) in exchanges.iter_mut() {
            if *used && !exchange.repeat {
                continue;
            }
            match exchange.request.difference(request, secrets) {
                None => {
                    *used = true;
                    return Ok((exchange.response.clone(), dir.clone()));
                }
                Some(Difference::Elsewhere) => {}
                Some(Difference::Same(said)) => why = Some(said),
            }
        }
        let mut said = format!("{} {}", request.method, request.url);
        if let Some(why) = why {
            said.push_str(&format!(" ({why})"));
        }
        unexpected.push(said.clone());
        Err(format!("no exchange of this test answers {said}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Resolve for Outside {
    async fn resolve(&self, _name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(vec![SOMEWHERE])
    }
}

#[async_trait]
impl Dial for Outside {
    async fn dial(&self, target: &Target) -> io::Result<Box<dyn Duplex>> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (outside, origin) = (self.clone(), origin(target));
        // Ends with the door's side of the stream, which the door bounds in time.
        tokio::spawn(async move {
            let service = service_fn(|request| serve(&outside, &origin, request));
            // A connection that ends as a test says is no failure of the test.
            // No `date`: a kept result would differ at each run.
            let _ = hyper::server::conn::http1::Builder::new()
                .auto_date_header(false)
                .serve_connection(TokioIo::new(far), service)
                .await;
        });
        Ok(Box::new(near))
    }
}

/// Scheme, host and, where it is not the scheme's own, port of a request.
pub(super) fn origin(target: &Target) -> String {
    let (scheme, usual) = match target.scheme() {
        Scheme::Http => ("http", 80),
        Scheme::Https => ("https", 443),
    };
    match target.port() {
        port if port == usual => format!("{scheme}://{}", target.host()),
        port => format!("{scheme}://{}:{port}", target.host()),
    }
}

/// A request as it arrived.
struct Seen {
    method: Method,
    url: String,
    headers: http::HeaderMap,
    body: Bytes,
}

async fn serve(outside: &Outside, origin: &str, request: Request<Incoming>) -> Result<Response<Body>, Failed> {
    let (head, body) = request.into_parts();
    let body = http_body_util::Limited::new(body, COMPARED).collect().await?.to_bytes();
    let seen = Seen {
        url: format!("{origin}{}", head.uri),
        method: head.method,
        headers: head.headers,
        body,
    };
    match outside.answer(&seen) {
        Ok((answer, dir)) => respond(answer, &dir).await,
        Err(words) => Ok(Response::builder().status(501).body(whole(words.into()))?),
    }
}

async fn respond(answer: Answer, dir: &std::path::Path) -> Result<Response<Body>, Failed> {
    match answer.fault {
        Some(Fault::Hang) => std::future::pending::<()>().await,
        Some(Fault::Reset) => return Err("the connection ends here".into()),
        Some(Fault::Cut) | None => {}
    }
    let mut response = Response::builder().status(answer.status.unwrap_or(200));
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    if answer.json.is_some()
        && !answer
            .headers
            .keys()
            .any(|name| name.eq_ignore_ascii_case("content-type"))
    {
        response = response.header(CONTENT_TYPE, "application/json");
    }
    let body = match (answer.body, answer.json, answer.file, answer.size) {
        (Some(text), ..) => whole(text.into()),
        (_, Some(json), ..) => whole(json.to_string().into()),
        (_, _, Some(file), _) => whole(tokio::fs::read(dir.join(file)).await?.into()),
        (.., Some(size)) => of_size(size.0),
        (None, None, None, None) => whole(Bytes::new()),
    };
    let body = match answer.fault {
        Some(Fault::Cut) => cut(body).await?,
        _ => body,
    };
    Ok(response.body(body)?)
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// A body of zeros that are digits, made while it is read.
fn of_size(size: u64) -> Body {
    let pieces = stream::unfold(size, |left| async move {
        let now = left.min(PIECE);
        let piece = vec![b'0'; usize::try_from(now).unwrap_or_default()];
        (now > 0).then(|| (Ok(http_body::Frame::data(Bytes::from(piece))), left - now))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// The first half of a body, and then the end of the connection.
async fn cut(body: Body) -> Result<Body, Failed> {
    let mut bytes = body.collect().await?.to_bytes();
    bytes.truncate(bytes.len() / 2);
    let end = stream::once(async { Err::<http_body::Frame<Bytes>, Failed>("the connection ends here".into()) });
    let first = stream::once(async { Ok(http_body::Frame::data(bytes)) });
    Ok(StreamBody::new(first.chain(end)).boxed_unsync())
}

/// Why an exchange does not answer a request.
enum Difference {
    /// It is about another URL or method.
    Elsewhere,
    /// It is about this one, and something else differs.
    Same(String),
}

impl RequestPattern {
    fn in_words(&self) -> String {
        format!("{} {}", self.method.to_uppercase(), self.url)
    }

    fn difference(&self, request: &Seen, secrets: &BTreeMap<SecretName, String>) -> Option<Difference> {
        let url = with_secrets(&self.url, secrets);
        if !self.method.eq_ignore_ascii_case(request.method.as_str()) || !same_url(&url, &request.url) {
            return Some(Difference::Elsewhere);
        }
        for (name, wanted) in &self.headers {
            let wanted = with_secrets(wanted, secrets);
            let mut values = request.headers.get_all(name.as_str()).iter();
            if !values.any(|value| value.as_bytes() == wanted.as_bytes()) {
                return Some(Difference::Same(format!(
                    "its header `{name}` is not what the exchange says"
                )));
            }
        }
        let body_differs = match (&self.body, &self.json) {
            (Some(text), _) => text.as_bytes() != request.body,
            (None, Some(json)) => serde_json::from_slice::<Value>(&request.body).ok().as_ref() != Some(json),
            (None, None) => false,
        };
        body_differs.then(|| Difference::Same("its body is not what the exchange says".to_owned()))
    }
}

/// `{{secret:NAME}}` replaced by the value that the test has for NAME.
fn with_secrets(text: &str, secrets: &BTreeMap<SecretName, String>) -> String {
    secrets.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{{secret:{name}}}}}"), value)
    })
}

/// Whether two URLs ask for the same, whatever the order of their queries.
fn same_url(one: &str, other: &str) -> bool {
    match (parts(one), parts(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn parts(url: &str) -> Option<(String, String, Vec<String>)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let usual = if scheme.eq_ignore_ascii_case("http") { 80 } else { 443 };
    let authority = format!(
        "{}://{}:{}",
        scheme.to_lowercase(),
        uri.host()?.to_lowercase(),
        uri.port_u16().unwrap_or(usual)
    );
    let mut query: Vec<String> = uri.query().unwrap_or_default().split('&').map(str::to_owned).collect();
    query.sort_unstable();
    Some((authority, uri.path().to_owned(), query))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(method: &str, url: &str) -> Seen {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", "Bearer sk-1234".parse().unwrap());
        Seen {
            method: method.parse().unwrap(),
            url: url.to_owned(),
            headers,
            body: Bytes::from_static(b"{\"a\": 1}"),
        }
    }

    fn outside(exchanges: &str) -> Outside {
        #[derive(serde::Deserialize)]
        struct File {
            exchange: Vec<Exchange>,
        }
        let file: File = toml::from_str(exchanges).unwrap();
        let secrets = BTreeMap::from([("API_KEY".parse().unwrap(), "sk-1234".to_owned())]);
        let outside = Outside::default();
        outside.begin(file.exchange, secrets, PathBuf::new());
        outside
    }

    #[test]
    fn an_exchange_answers_whatever_the_order_of_the_query_and_only_once() {
        let outside = outside("[[exchange]]\nrequest = { url = \"https://api.example.com/v1?a=1&b=2\" }\n");
        let request = seen("GET", "https://api.example.com/v1?b=2&a=1");
        assert!(outside.answer(&request).is_ok());
        assert!(outside.answer(&request).is_err());
        assert_eq!(outside.end().unexpected, ["GET https://api.example.com/v1?b=2&a=1"]);
    }

    #[test]
    fn an_exchange_that_may_be_repeated_answers_as_often_as_it_is_asked() {
        let outside = outside("[[exchange]]\nrepeat = true\nrequest = { url = \"https://api.example.com/\" }\n");
        for _ in 0..3 {
            assert!(outside.answer(&seen("GET", "https://api.example.com/")).is_ok());
        }
        assert!(outside.end().unused.is_empty());
    }

    #[test]
    fn what_nobody_asked_for_is_told() {
        let outside = outside("[[exchange]]\nrequest = { url = \"https://api.example.com/\", method = \"put\" }\n");
        assert_eq!(outside.end().unused, ["PUT https://api.example.com/"]);
    }

    #[test]
    fn a_secret_in_a_header_is_compared_by_its_value() {
        let wanted = |format: &str| {
            outside(&format!(
                "[[exchange]]\nrequest = {{ url = \"https://api.example.com/\", headers = {{ authorization = \"{format}\" }} }}\n"
            ))
        };
        let request = seen("GET", "https://api.example.com:443/");
        assert!(wanted("Bearer {{secret:API_KEY}}").answer(&request).is_ok());
        let refused = wanted("Token {{secret:API_KEY}}").answer(&request).unwrap_err();
        assert!(
            refused.contains("`authorization`") && !refused.contains("sk-1234"),
            "{refused}"
        );
    }

    #[test]
    fn a_body_is_compared_as_json_whatever_its_form() {
        let wanted = |json: &str| {
            outside(&format!(
                "[[exchange]]\nrequest = {{ url = \"https://api.example.com/\", method = \"POST\", json = {json} }}\n"
            ))
        };
        let request = seen("POST", "https://api.example.com/");
        assert!(wanted("{ a = 1 }").answer(&request).is_ok());
        assert!(wanted("{ a = 2 }").answer(&request).unwrap_err().contains("its body"));
    }
}
