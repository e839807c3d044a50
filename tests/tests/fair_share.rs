//! What an org may use, end to end: refusals that say when to come back, repeats that cost nothing, a store of limits that is
//! gone, and an org that keeps its part of the host while another spins.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{Host, PATIENCE, Place, expect_json, find, guest, refused, world::World};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

const SCRIPT: &str = r#"
otherwise:
  steps:
    - tool_calls:
        - { tool: clock_now, arguments: {} }
        - { tool: clock_now, arguments: {} }
    - text: "Done."
"#;

fn turn(host: &Host, session: &str, key: &str) -> RequestBuilder {
    host.request(Method::POST, &format!("/v1/sessions/{session}/turns"))
        .header("idempotency-key", key)
        .json(&json!({"input": "go"}))
}

#[tokio::test]
async fn a_turn_beyond_the_limit_is_refused_and_a_repeated_one_costs_nothing() {
    let place = Place::scripted(SCRIPT, "[org.default.limits]\nturns = \"2/day\"\n");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    for (key, remaining) in [("a", "1"), ("b", "0")] {
        let first = turn(&host, &session, key).send().await.unwrap();
        assert!(first.status().is_success());
        assert_eq!(first.headers()["ratelimit-limit"], "2");
        assert_eq!(first.headers()["ratelimit-remaining"], remaining);
        let again = turn(&host, &session, key).send().await.unwrap();
        assert_eq!(again.headers()["idempotent-replayed"], "true");
    }
    for key in ["c", "d"] {
        let response = turn(&host, &session, key).send().await.unwrap();
        assert_eq!(response.status(), 429);
        let seconds = |name: &str| response.headers()[name].to_str().unwrap().parse::<u64>().unwrap();
        assert!((1..=43_200).contains(&seconds("retry-after")));
        assert!(seconds("ratelimit-reset") > 43_200);
        assert_eq!(response.headers()["ratelimit-remaining"], "0");
        assert_eq!(response.headers()["ratelimit-policy"], "\"turns\";q=2;w=86400");
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(
            (&problem["code"], &problem["limit"]),
            (&json!("rate_limited"), &json!("turns"))
        );
    }
    let known = turn(&host, &session, "a").send().await.unwrap();
    assert!(
        known.status().is_success(),
        "a repeat is answered whatever the limit says"
    );
    let reached = host.events(&session).await;
    let reached: Vec<_> = reached
        .iter()
        .filter(|event| event["type"] == "limit.reached")
        .collect();
    assert_eq!(reached.len(), 1, "told once per wait: {reached:?}");
    assert_eq!(reached[0]["data"]["limit"], "turns");
    host.stop().await;
}

#[tokio::test]
async fn a_call_beyond_the_limit_is_a_result_with_a_hint_for_the_model_and_a_429_for_a_client() {
    let place = Place::scripted(SCRIPT, "[org.default.limits]\ntool_calls = \"1/day\"\n");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let turn = host.turn(&session, "go").await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let events = host.events(&session).await;
    let ok = find(&events, "tool.completed", |data| data["status"] == "ok");
    assert!(ok.is_some(), "{events:?}");
    let limited = find(&events, "tool.completed", |data| data["status"] == "rate_limited").unwrap();
    let error = &limited["error"];
    assert!(error["retry_after_ms"].as_u64().unwrap() > 80_000_000, "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("tool_calls = 1/day") && message.contains("try again in"),
        "{message}"
    );
    let reached = find(&events, "limit.reached", |data| data["call"] == limited["call"]).unwrap();
    assert_eq!(reached["limit"], "tool_calls");

    let body = json!({"arguments": {}});
    let problem = refused(
        host.request(Method::POST, "/v1/tools/clock_now/call").json(&body),
        429,
        "rate_limited",
    )
    .await;
    assert_eq!(problem["limit"], "tool_calls");
    host.stop().await;
}

#[tokio::test]
async fn a_component_keeps_to_the_rate_of_its_manifest() {
    let place = Place::new("");
    let host = place.serve().await;
    let manifest = "name = \"hostile\"\nversion = \"0.1.0\"\ndescription = \"Echoes.\"\n[rate]\ncalls = \"2/day\"\n";
    host.add_guest("hostile", Some(manifest)).await;
    let body = json!({"arguments": {"text": "x"}});
    let call = || host.request(Method::POST, "/v1/tools/echo/call").json(&body);
    for _ in 0..2 {
        assert!(call().send().await.unwrap().status().is_success());
    }
    let problem = refused(call(), 429, "rate_limited").await;
    assert_eq!(problem["limit"], "rate.calls");
    host.stop().await;
}

async fn ledger(host: &Host, session: &str) -> Vec<(String, String)> {
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let ledger = host.get(&format!("/v1/sessions/{session}/ledger")).await;
    let entries = ledger["items"].as_array().unwrap().iter();
    entries
        .map(|entry| (text(entry, "outcome"), text(entry, "rule")))
        .collect()
}

/// Two requests, of which the second must be refused for a limit and stand in the ledger, once.
async fn the_second_request_meets(limit: &str, setting: &str) {
    let world = World::start().await;
    let place = Place::new(&format!(
        "[network]\nprivate_networks = [\"127.0.0.1/32\"]\n[org.default.limits]\n{limit} = \"{setting}\"\n"
    ));
    let host = place.serve().await;
    let grant =
        json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}, "limits": {"http_body": "16MiB"}});
    host.add_component(&guest("hostile"), None, grant).await;
    let session = host.session(json!({})).await;
    let arguments = json!({"url": world.url("/big")});
    host.call("http_get", Some(&session), arguments.clone()).await;
    // What passed is counted when the exchange is settled, just after its end.
    let begun = std::time::Instant::now();
    while ledger(&host, &session).await[0].0 == "started" {
        assert!(begun.elapsed() < PATIENCE, "the exchange was not settled");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let result = host.call("http_get", Some(&session), arguments).await;
    assert_eq!(result["status"], "denied", "{result}");
    let message = result["error"]["message"].as_str().unwrap();
    assert!(message.contains(limit) && message.contains("try again in"), "{message}");
    assert_eq!(world.arrived().len(), 1);
    let entries = ledger(&host, &session).await;
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert_eq!(entries[1], ("denied".to_owned(), format!("limit: {limit}")));
    host.stop().await;
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_denied_and_in_the_ledger() {
    the_second_request_meets("egress_requests", "1/day").await;
}

#[tokio::test]
async fn bytes_that_passed_keep_the_next_request_back() {
    the_second_request_meets("egress_bytes", "1KiB/day").await;
}

#[tokio::test]
async fn without_the_store_of_limits_an_org_is_admitted_or_refused_as_configured() {
    // Nothing listens on the port of a listener that is gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = |fail: &str| {
        format!(
            "[limits_store]\nurl = \"redis://:hunter2@127.0.0.1:{port}\"\n[org.default.limits]\nturns = \"120/min\"\ntool_calls = \"1000/min\"\nfail = \"{fail}\"\n"
        )
    };
    let open = Place::scripted(SCRIPT, &config("open"));
    let host = open.serve().await;
    let session = host.session(json!({})).await;
    let done = host.turn(&session, "go").await;
    assert_eq!(done["status"], "completed", "{done}");
    let log = host.stop().await;
    assert_eq!(log.matches("the limits' store does not answer").count(), 1, "{log}");
    assert!(!log.contains("hunter2"), "{log}");
    let doctor = open.run(&["doctor"]).await;
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        !doctor.status.success() && text.contains("limits") && !text.contains("hunter2"),
        "{text}"
    );

    let closed = Place::scripted(SCRIPT, &config("closed"));
    let host = closed.serve().await;
    let session = host.session(json!({})).await;
    let problem = refused(turn(&host, &session, "a"), 503, "limits_unavailable").await;
    assert_eq!(problem["limit"], "turns");
    host.stop().await;
}

#[tokio::test]
async fn an_org_is_served_while_another_spins_and_hangs_at_its_cap() {
    const EACH: usize = 32;
    let world = World::start().await;
    let place = Place::new("[network]\nprivate_networks = [\"127.0.0.1/32\"]\n");
    let acme = place.json(&["org", "create", "acme"]).await["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let host = place.serve().await;
    let grant = json!({"network": {"allow": [format!("http://127.0.0.1:{}", world.port)]}, "limits": {"cpu": "60s", "time": "10m"}});
    host.add_component(&guest("hostile"), None, grant).await;
    let installed = host
        .anonymous(Method::POST, "/v1/tools?grant=requested")
        .bearer_auth(&acme)
        .header("content-type", "application/wasm")
        .body(guest("hostile"));
    expect_json(installed.send().await.unwrap()).await;

    let mut busy = tokio::task::JoinSet::new();
    for _ in 0..EACH {
        for (tool, arguments) in [("spin", json!({})), ("http_get", json!({"url": world.url("/slow")}))] {
            let call = host.request(Method::POST, &format!("/v1/tools/{tool}/call"));
            // What is asserted of it is asserted long before.
            busy.spawn(
                call.timeout(PATIENCE * 10)
                    .json(&json!({"arguments": arguments}))
                    .send(),
            );
        }
    }
    let begun = std::time::Instant::now();
    while world.arrived().len() < EACH {
        assert!(begun.elapsed() < PATIENCE, "the calls did not begin");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    for _ in 0..20 {
        let call = host.anonymous(Method::POST, "/v1/tools/echo/call").bearer_auth(&acme);
        let answer = expect_json(call.json(&json!({"arguments": {"text": "x"}})).send().await.unwrap()).await;
        assert_eq!(answer["status"], "ok", "{answer}");
    }
    let ended = busy.try_join_next();
    assert!(ended.is_none(), "one of the busy calls has ended: {ended:?}");
    drop(busy);
    host.kill().await;
}

#[tokio::test]
async fn a_direct_call_says_where_its_limit_stands_and_its_session_is_told_when_it_is_reached() {
    let place = Place::scripted(SCRIPT, "[org.default.limits]\ntool_calls = \"1/day\"\n");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let call = || {
        host.request(Method::POST, "/v1/tools/clock_now/call")
            .json(&json!({"session": session, "arguments": {}}))
    };
    let ran = call().send().await.unwrap();
    assert_eq!(ran.status(), 200);
    assert_eq!(ran.headers()["ratelimit-policy"], "\"tool_calls\";q=1;w=86400");
    assert_eq!(ran.headers()["ratelimit-remaining"], "0");
    for _ in 0..3 {
        let problem = refused(call(), 429, "rate_limited").await;
        assert_eq!(problem["limit"], "tool_calls");
    }
    let events = host.events(&session).await;
    let told: Vec<_> = events.iter().filter(|event| event["type"] == "limit.reached").collect();
    assert_eq!(told.len(), 1, "{events:?}");
    assert_eq!(told[0]["data"]["limit"], "tool_calls");
    assert!(told[0]["data"]["call"].is_string(), "{told:?}");
    host.stop().await;
}

#[tokio::test]
async fn the_calls_of_a_turn_wait_for_each_other_at_a_small_cap() {
    let calls = "        - { tool: clock_now, arguments: {} }\n".repeat(8);
    let script = format!("\notherwise:\n  steps:\n    - tool_calls:\n{calls}    - text: \"Done.\"\n");
    let place = Place::scripted(&script, "[org.default.limits]\nconcurrent_calls = 1\n");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let done = host.turn(&session, "go").await;
    assert_eq!(done["status"], "completed", "{done}");
    let events = host.events(&session).await;
    let ended = events.iter().filter(|event| event["type"] == "tool.completed");
    let ended: Vec<_> = ended.map(|event| event["data"]["status"].as_str().unwrap()).collect();
    assert_eq!(ended, ["ok"; 8]);
    host.stop().await;
}
