//! Hooks over HTTP: a server that a test tells what to answer, and what it was asked.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::LOCATION},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::{net::TcpListener, sync::watch};

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Came {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn data(&self) -> Value {
        self.json()["data"].clone()
    }
}

type Answers = dyn Fn(&Came) -> Option<Response> + Send + Sync;

/// The server. It ends with the test's runtime.
pub(crate) struct Outside {
    pub(crate) base: String,
    came: watch::Sender<Vec<Came>>,
}

impl Outside {
    /// A server that answers with `answers`; where that is nothing, never.
    pub(crate) async fn new(answers: impl Fn(&Came) -> Option<Response> + Send + Sync + 'static) -> Self {
        let came = watch::Sender::<Vec<Came>>::default();
        let state = (came.clone(), Arc::new(answers) as Arc<Answers>);
        let router = Router::new().fallback(answer).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base, came }
    }

    pub(crate) fn came(&self) -> Vec<Came> {
        self.came.borrow().clone()
    }

    /// Waits until what came is so.
    pub(crate) async fn until(&self, mut seen: impl FnMut(&[Came]) -> bool) {
        self.came.subscribe().wait_for(|came| seen(came)).await.unwrap();
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.came().into_iter().map(|came| came.path).collect()
    }
}

type Shared = (watch::Sender<Vec<Came>>, Arc<Answers>);

async fn answer(
    State((all, answers)): State<Shared>,
    uri: axum::http::Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let came = Came {
        path: uri.path().to_owned(),
        headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    all.send_modify(|all| all.push(came.clone()));
    match answers(&came) {
        Some(response) => response,
        None => std::future::pending().await,
    }
}

pub(crate) fn allow() -> Option<Response> {
    Some(json!({"decision": "allow"}).to_string().into_response())
}

pub(crate) fn deny(reason: &str) -> Option<Response> {
    Some(
        json!({"decision": "deny", "reason": reason})
            .to_string()
            .into_response(),
    )
}

pub(crate) fn change(arguments: &Value) -> Option<Response> {
    Some(
        json!({"decision": "allow", "arguments": arguments})
            .to_string()
            .into_response(),
    )
}

pub(crate) fn status(status: u16) -> Option<Response> {
    Some(StatusCode::from_u16(status).unwrap().into_response())
}

pub(crate) fn redirect(to: &str) -> Option<Response> {
    Some((StatusCode::TEMPORARY_REDIRECT, [(LOCATION, to.to_owned())]).into_response())
}
