//! What an org changes of its components while calls run, as its operator sees it.

use crate::{
    deadlines::endless,
    house::{House, Plan, wasm},
};
use fumehood_core::name::OrgName;
use fumehood_policy::quantity::Span;
use http::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// The same component as other code: a custom section makes it another digest.
fn other(mut wasm: Vec<u8>) -> Vec<u8> {
    wasm.extend([0, 5, 4, b'n', b'o', b't', b'e']);
    wasm
}

async fn changes(house: &House) -> Vec<Value> {
    let listed = house.get("/v1/tool-changes").answer().await.json();
    listed["items"].as_array().unwrap().clone()
}

/// The operations and states of all changes, the newest first.
async fn told(house: &House) -> Vec<(String, String)> {
    let word = |change: &Value, key: &str| change[key].as_str().unwrap().to_owned();
    let changes = changes(house).await;
    changes
        .iter()
        .map(|change| (word(change, "operation"), word(change, "state")))
        .collect()
}

fn words(told: &[(&str, &str)]) -> Vec<(String, String)> {
    told.iter()
        .map(|(operation, state)| ((*operation).to_owned(), (*state).to_owned()))
        .collect()
}

#[tokio::test]
async fn each_change_is_told_with_what_came_of_it_and_to_its_org_alone() {
    let house = House::new().await;
    assert_eq!(changes(&house).await, Vec::<Value>::new());
    house.add("sums", wasm()).await;
    house.add("sums", other(wasm())).await;
    let broken = house
        .post("/v1/tools?name=sums")
        .body("application/wasm", "no component");
    assert_eq!(broken.answer().await.problem(), "component_refused");
    let shown = house.get("/v1/tools/sums").answer().await.json();
    assert_eq!(shown["change"]["state"], "failed", "{shown}");
    assert!(
        shown["change"]["reason"].to_string().contains("not WebAssembly"),
        "{shown}"
    );
    let called = house
        .post("/v1/tools/double/call")
        .json(&json!({"arguments": {"n": 21}}));
    assert_eq!(called.answer().await.json()["status"], "ok", "what serves goes on");
    let removed = house.delete("/v1/tools/sums").answer().await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(house.delete("/v1/tools/sums").answer().await.problem(), "not_found");
    assert_eq!(
        told(&house).await,
        words(&[
            ("remove", "applied"),
            ("add", "failed"),
            ("update", "applied"),
            ("add", "applied")
        ])
    );
    let others = house.get("/v1/tool-changes").by_other_org().answer().await.json();
    assert_eq!(others["items"], json!([]));
}

#[tokio::test]
async fn calls_that_begin_while_the_component_changes_all_end_well_and_nothing_goes_on_draining() {
    let house = House::new().await;
    house.add("sums", wasm()).await;
    let calling = async {
        for n in 0..40 {
            let call = house
                .post("/v1/tools/double/call")
                .json(&json!({"arguments": {"n": n}}));
            let called = call.answer().await.json();
            assert_eq!(called["status"], "ok", "{called}");
        }
    };
    let changing = async {
        for round in 0..6 {
            let version = if round % 2 == 0 { other(wasm()) } else { wasm() };
            house.add("sums", version).await;
        }
    };
    tokio::join!(calling, changing);
    for change in changes(&house).await {
        assert_eq!(
            (&change["state"], &change["calls"]),
            (&json!("applied"), &json!(0)),
            "{change}"
        );
    }
}

#[tokio::test]
async fn calls_of_one_org_are_interrupted_and_those_of_another_go_on() {
    let house = House::built(Plan {
        drain: Span::from_millis(0),
        ..Plan::default()
    })
    .await;
    let grant = json!({"limits": {"time": "60s", "cpu": "60s"}});
    let added = house.post("/v1/tools?name=endless").body("application/wasm", endless());
    assert_eq!(added.answer().await.status, StatusCode::CREATED);
    let added = house.post("/v1/tools?name=endless").body("application/wasm", endless());
    assert_eq!(added.by_other_org().answer().await.status, StatusCode::CREATED);
    house.put("/v1/tools/endless/grant").json(&grant).answer().await;
    house
        .put("/v1/tools/endless/grant")
        .json(&grant)
        .by_other_org()
        .answer()
        .await;
    let call = || house.post("/v1/tools/spin/call").json(&json!({"arguments": {"n": 1}}));
    let own = call().answer();
    let mut theirs = Box::pin(call().by_other_org().answer());
    // Whether the call began before the change or after it: it runs on the version that is replaced, or on the next one.
    let replacing = async {
        loop {
            for version in [other(endless()), endless()] {
                // It takes over the grant of the version before.
                let added = house.post("/v1/tools?name=endless").body("application/wasm", version);
                assert_eq!(added.answer().await.status, StatusCode::CREATED);
            }
        }
    };
    let own = tokio::select! {
        own = own => own.json(),
        theirs = &mut theirs => panic!("{}", theirs.text()),
        () = replacing => unreachable!(),
    };
    assert_eq!(own["status"], "interrupted", "{own}");
    assert_eq!(own["error"]["deadline"], "drain", "{own}");
    assert!(futures::poll!(&mut theirs).is_pending());
    let others = house.get("/v1/tool-changes").by_other_org().answer().await.json();
    assert_eq!(others["items"][0]["state"], "applied", "{others}");
}

#[tokio::test]
async fn a_removal_is_done_also_when_the_client_leaves_meanwhile() {
    let house = House::new().await;
    house.add("sums", wasm()).await;
    let (org, sums) = (OrgName::default_org(), "sums".parse().unwrap());
    let mut removal = Box::pin(house.host.remove_component(&org, &sums));
    assert!(futures::poll!(&mut removal).is_pending());
    drop(removal);
    let gone = async {
        while house.get("/v1/tools/sums").answer().await.status != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
        let called = || {
            let call = house
                .post("/v1/tools/double/call")
                .json(&json!({"arguments": {"n": 1}}));
            call.answer()
        };
        while called().await.status != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}
