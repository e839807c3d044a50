//! What an org computes while another computes as much as it may, counted end to end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::{Place, expect_json, guest};
use futures::{StreamExt as _, stream::FuturesUnordered};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

/// Counted in the calls of the one org, not in time: each ends after the same computing, so that they tell how much went by.
#[tokio::test]
async fn an_org_computes_its_part_while_another_has_calls_without_end() {
    const AT_ONCE: usize = 32;
    const CALLS: usize = 20;
    let place = Place::new("");
    let acme = place.json(&["org", "create", "acme"]).await["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let host = place.serve().await;
    // Each call is ended at its limit.
    host.add_component(
        &guest("hostile"),
        None,
        json!({"limits": {"cpu": "100ms", "time": "60s"}}),
    )
    .await;
    let component = host
        .anonymous(Method::POST, "/v1/tools")
        .bearer_auth(&acme)
        .json(&json!({
            "wasm": STANDARD.encode(guest("hostile")),
            "grant": {"limits": {"cpu": "50ms", "time": "60s"}},
        }));
    expect_json(component.send().await.unwrap()).await;
    let spin = |request: RequestBuilder| request.json(&json!({"arguments": {}})).send();
    let theirs = || spin(host.request(Method::POST, "/v1/tools/spin/call"));
    let ours = || spin(host.anonymous(Method::POST, "/v1/tools/spin/call").bearer_auth(&acme));

    let mut busy: FuturesUnordered<_> = (0..AT_ONCE).map(|_| theirs()).collect();
    busy.next().await.unwrap().unwrap();
    let mut ended = 0;
    for _ in 0..CALLS {
        let mut own = std::pin::pin!(ours());
        let answer = loop {
            tokio::select! {
                answer = &mut own => break answer.unwrap(),
                Some(answer) = busy.next() => {
                    assert!(answer.unwrap().status().is_success());
                    ended += 1;
                    busy.push(theirs());
                }
            }
        };
        let answer = expect_json(answer).await;
        assert_eq!(answer["error"]["trap"], "cpu", "{answer}");
    }
    // What is ours took a core for as long as ten of theirs take one. With an equal part for each call, theirs would be more
    // than three hundred.
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(ended <= 40 * cores, "{ended} calls of the other org ended meanwhile");
    drop(busy);
    host.kill().await;
}
