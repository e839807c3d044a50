//! A registry of the tests' own, which holds what is pushed to it and lies as it is told.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
    serve::Listener,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::tls::Authority;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::net::TcpListener;

/// What it does other than an honest one.
#[derive(Clone, Default)]
pub(crate) enum Lie {
    /// Nothing.
    #[default]
    Honest,
    /// Other bytes in the place of each blob, of the same length.
    OtherBlobs,
    /// Other bytes in the place of each manifest.
    OtherManifests,
    /// More bytes than there are, without an end.
    Endless,
    /// Takes each request and answers none.
    Silent,
    /// Sends who asks for a blob there.
    Redirect(String),
    /// Lets nobody in but with this user and password, by tokens.
    Login(&'static str, &'static str),
    /// Fails.
    Broken,
}

#[derive(Default)]
struct Shelves {
    /// By `repository:tag` and `repository@digest`.
    manifests: BTreeMap<String, (String, Bytes)>,
    blobs: BTreeMap<String, Bytes>,
    lie: Lie,
    requests: Vec<(String, HeaderMap)>,
}

/// The registry, on loopback.
pub(crate) struct Registry {
    pub(crate) host: String,
    shelves: Arc<Mutex<Shelves>>,
    task: tokio::task::JoinHandle<()>,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap())
    }

    /// The same over TLS, with a certificate by this authority.
    pub(crate) async fn secured_by(authority: &Authority) -> Self {
        let mut registry = Self::on(authority.listen().await);
        registry.host = registry.host.replace("127.0.0.1", "localhost");
        registry
    }

    fn on<L: Listener<Addr = SocketAddr>>(listener: L) -> Self {
        let host = listener.local_addr().unwrap().to_string();
        let shelves = Arc::<Mutex<Shelves>>::default();
        let app = Router::new()
            .route("/{*path}", any(answer))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shelves));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { host, shelves, task }
    }

    /// The source of what it has there.
    pub(crate) fn source(&self, rest: &str) -> String {
        format!("oci://{}/{rest}", self.host)
    }

    pub(crate) fn lie(&self, lie: Lie) {
        self.shelves.lock().unwrap().lie = lie;
    }

    /// What is at `repository:tag`.
    pub(crate) fn manifest(&self, at: &str) -> Value {
        serde_json::from_slice(&self.shelves.lock().unwrap().manifests[at].1).unwrap()
    }

    /// The same, as it was pushed.
    pub(crate) fn bytes(&self, at: &str) -> Bytes {
        self.shelves.lock().unwrap().manifests[at].1.clone()
    }

    /// Puts there what nobody pushed.
    pub(crate) fn put(&self, at: &str, manifest: &Value) {
        let media_type = manifest["mediaType"].as_str().unwrap_or("application/json").to_owned();
        let bytes = Bytes::from(manifest.to_string());
        let mut shelves = self.shelves.lock().unwrap();
        shelves.manifests.insert(at.to_owned(), (media_type, bytes));
    }

    /// Puts there what nobody uploaded.
    pub(crate) fn put_blob(&self, bytes: Bytes) {
        self.shelves.lock().unwrap().blobs.insert(digest(&bytes), bytes);
    }

    /// Puts what is at one tag at another.
    pub(crate) fn move_tag(&self, from: &str, to: &str) {
        let mut shelves = self.shelves.lock().unwrap();
        let moved = shelves.manifests[from].clone();
        shelves.manifests.insert(to.to_owned(), moved);
    }

    /// The requests so far: method and path, and headers.
    pub(crate) fn requests(&self) -> Vec<(String, HeaderMap)> {
        self.shelves.lock().unwrap().requests.clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shelves): State<Arc<Mutex<Shelves>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let path = parts.uri.path().to_owned();
    let lie = {
        let mut shelves = shelves.lock().unwrap();
        shelves
            .requests
            .push((format!("{} {}", parts.method, parts.uri), parts.headers.clone()));
        shelves.lie.clone()
    };
    match &lie {
        Lie::Silent => std::future::pending().await,
        Lie::Broken => return StatusCode::BAD_GATEWAY.into_response(),
        Lie::Login(user, password) => {
            if let Some(refusal) = login(&parts.headers, &path, user, password) {
                return refusal;
            }
        }
        _ => {}
    }
    let mut shelves = shelves.lock().unwrap();
    let Some((repository, kind, name)) = split(&path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match (&parts.method, kind) {
        (&Method::PUT, "manifests") => {
            let kind = parts.headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            let digest = digest(&body);
            shelves
                .manifests
                .insert(format!("{repository}@{digest}"), (kind.clone(), body.clone()));
            shelves.manifests.insert(format!("{repository}:{name}"), (kind, body));
            StatusCode::CREATED.into_response()
        }
        (_, "manifests") => {
            let mark = if name.starts_with("sha256:") { '@' } else { ':' };
            match shelves.manifests.get(&format!("{repository}{mark}{name}")) {
                None => StatusCode::NOT_FOUND.into_response(),
                Some((kind, bytes)) => {
                    let promised = digest(bytes);
                    let sent = match lie {
                        Lie::OtherManifests => Bytes::from(String::from_utf8_lossy(bytes).replace("0.1.0", "9.9.9")),
                        _ => bytes.clone(),
                    };
                    let headers = [("content-type", kind.clone()), ("docker-content-digest", promised)];
                    (headers, sent).into_response()
                }
            }
        }
        (&Method::POST, "blobs") => {
            let at = format!("/v2/{repository}/blobs/uploads/1?state=x");
            (StatusCode::ACCEPTED, [(header::LOCATION, at)]).into_response()
        }
        (&Method::PUT, "blobs") => {
            shelves.blobs.insert(digest(&body), body);
            StatusCode::CREATED.into_response()
        }
        (_, "blobs") => blob(&lie, shelves.blobs.get(name)),
        (_, "tags") => {
            let prefix = format!("{repository}:");
            let tags: Vec<_> = shelves
                .manifests
                .keys()
                .filter_map(|at| at.strip_prefix(&prefix))
                .collect();
            axum::Json(json!({"name": repository, "tags": tags})).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn blob(lie: &Lie, bytes: Option<&Bytes>) -> Response {
    let Some(bytes) = bytes.cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match lie {
        Lie::OtherBlobs => {
            let mut other = bytes.to_vec();
            other.reverse();
            other.into_response()
        }
        Lie::Endless => {
            let chunk = Bytes::from(vec![0; 64 << 10]);
            let chunks = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Body::from_stream(chunks).into_response()
        }
        Lie::Redirect(to) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to.clone())]).into_response(),
        _ => bytes.into_response(),
    }
}

/// Gives tokens to those who know the password, and takes nothing else.
fn login(headers: &HeaderMap, path: &str, user: &str, password: &str) -> Option<Response> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    if path == "/token" {
        return Some(match authorization {
            Some(given) if given == basic => axum::Json(json!({"token": "t0ken"})).into_response(),
            _ => StatusCode::UNAUTHORIZED.into_response(),
        });
    }
    if authorization == Some("Bearer t0ken") {
        return None;
    }
    let host = headers[header::HOST].to_str().unwrap();
    let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"{host}\",scope=\"repository:acme/x:pull\"");
    let challenge = HeaderValue::from_str(&challenge).unwrap();
    Some((StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response())
}

/// `/v2/REPOSITORY/KIND/NAME`
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let rest = path.strip_prefix("/v2/")?;
    ["manifests", "blobs", "tags"].into_iter().find_map(|kind| {
        let (repository, name) = rest.split_once(&format!("/{kind}/"))?;
        Some((repository, kind, name))
    })
}

fn digest(bytes: &[u8]) -> String {
    super::digest(bytes)
}
