//! Streams that are given in the place of connections: nothing leaves, and whatever else the door does, it does.

use crate::support::{SECRET, World, allow, text};
use async_trait::async_trait;
use bytes::Bytes;
use fumehood_core::ledger::EgressOutcome;
use fumehood_egress::{Dial, Duplex, EgressError, Wire};
use fumehood_policy::network::Target;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

/// Answers with what it was asked for, and remembers whom it was asked to be.
#[derive(Default)]
struct Echo {
    dialed: Mutex<Vec<String>>,
}

#[async_trait]
impl Dial for Echo {
    async fn dial(&self, target: &Target) -> io::Result<Box<dyn Duplex>> {
        self.dialed.lock().unwrap().push(target.host().to_string());
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| async move {
                let key = request
                    .headers()
                    .get("authorization")
                    .map(|key| key.to_str().unwrap().to_owned());
                let said = format!("{} with {}", request.uri(), key.unwrap_or_default());
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(said))))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(far), answer)
                .await;
        });
        Ok(Box::new(near))
    }
}

struct Refuses;

#[async_trait]
impl Dial for Refuses {
    async fn dial(&self, _: &Target) -> io::Result<Box<dyn Duplex>> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

fn given(dial: Arc<dyn Dial>) -> World {
    World::with(|config| config.wire = Wire::Given(dial))
}

#[tokio::test]
async fn a_given_stream_answers_in_the_place_of_a_server_also_for_https() {
    let echo = Arc::new(Echo::default());
    let world = given(echo.clone());
    let grant = allow(&["https://api.example.com/v1"]).make();
    let answer = world.get(&grant, "https://api.example.com/v1/x?y=1").await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "/v1/x?y=1 with ");
    assert_eq!(*echo.dialed.lock().unwrap(), ["api.example.com"]);
    assert!(matches!(
        world.settled().await.outcome,
        EgressOutcome::Completed { status: 200 }
    ));
}

#[tokio::test]
async fn what_the_grant_does_not_allow_reaches_no_given_stream() {
    let echo = Arc::new(Echo::default());
    let world = given(echo.clone());
    let grant = allow(&["https://api.example.com/v1"]).make();
    let refused = world.get(&grant, "https://other.example.com/v1").await.unwrap_err();
    assert!(matches!(refused, EgressError::Denied { .. }), "{refused}");
    assert!(echo.dialed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_private_address_is_refused_before_a_stream_is_asked_for() {
    let echo = Arc::new(Echo::default());
    let world = given(echo.clone());
    world.names.set("inner.example.com", &[&["10.0.0.1"]]);
    let grant = allow(&["https://inner.example.com"]).make();
    let refused = world.get(&grant, "https://inner.example.com/").await.unwrap_err();
    assert!(matches!(refused, EgressError::PrivateAddress { .. }), "{refused}");
    assert!(echo.dialed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_credential_goes_to_a_given_stream_and_does_not_come_back() {
    let world = given(Arc::new(Echo::default()));
    let grant = allow(&["https://api.example.com"]).bearer().make();
    let answer = world.get(&grant, "https://api.example.com/").await.unwrap();
    let said = text(answer).await.unwrap();
    assert!(said.contains("[secret:") && !said.contains(SECRET), "{said}");
}

#[tokio::test]
async fn a_stream_that_is_not_given_reads_as_a_refused_connection() {
    let world = given(Arc::new(Refuses));
    let grant = allow(&["https://api.example.com"]).make();
    let refused = world.get(&grant, "https://api.example.com/").await.unwrap_err();
    assert!(refused.to_string().contains("the connection was refused"), "{refused}");
}
