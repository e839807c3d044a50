//! Tools that the client runs: the turn waits for what they return.

mod waiting;

use crate::house::{Answer, House, Plan};
use http::StatusCode;
use serde_json::{Value, json};

/// Tells where the user is; takes the name of a room, if any.
fn locate() -> Value {
    json!({
        "name": "locate", "description": "Tells where the user is.", "timeout": "1h",
        "input_schema": {"type": "object", "properties": {"room": {"type": "string"}}, "additionalProperties": false},
    })
}

async fn submit(house: &House, session: &str, body: &Value) -> Answer {
    house.post(&format!("{session}/turns")).json(body).answer().await
}

/// A turn in which the model asks for these calls, up to where it waits.
async fn asked(house: &House, session: &str, calls: &[(&str, Value)]) -> Value {
    house.next_answer().calls(calls);
    let answer = submit(house, session, &json!({"input": "where am I?", "tools": [locate()]})).await;
    let turn = answer.json();
    assert_eq!(
        (answer.status, &turn["status"]),
        (StatusCode::OK, &json!("awaiting_results")),
        "{turn}"
    );
    turn
}

fn path(turn: &Value) -> String {
    format!("/v1/turns/{}", turn["id"].as_str().unwrap())
}

fn call(turn: &Value, nth: usize) -> &Value {
    &turn["awaited"][nth]["call_id"]
}

async fn give(house: &House, turn: &Value, results: Value) -> Answer {
    let ask = house.post(&format!("{}/results", path(turn)));
    ask.json(&json!({"results": results})).answer().await
}

/// The events of a turn, as they are now.
async fn events(house: &House, session: &str, turn: &Value) -> Vec<Value> {
    let ask = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    let answer = ask.answer().await;
    let mut events = answer.json()["items"].as_array().unwrap().clone();
    events.retain(|event| event["turn"] == turn["id"]);
    events
}

/// The same, once the turn has ended.
async fn to_the_end(house: &House, session: &str, turn: &Value) -> Vec<Value> {
    let id = turn["id"].as_str().unwrap();
    let stream = house.get(&format!("{session}/events?turn={id}")).stream().await;
    stream.rest().await;
    events(house, session, turn).await
}

fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

fn completed<'a>(events: &'a [Value], call: &Value) -> &'a Value {
    let mut ends = of_type(events, "tool.completed");
    ends.retain(|event| event["data"]["call"] == *call);
    assert_eq!(ends.len(), 1, "one end of {call}: {ends:?}");
    ends[0]
}

#[tokio::test]
async fn the_turn_waits_for_the_result_and_the_model_gets_it() {
    let house = House::new().await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({"room": "lab"}))]).await;
    let awaited = &turn["awaited"][0];
    assert_eq!(
        (&awaited["tool"], &awaited["arguments"]),
        (&json!("locate"), &json!({"room": "lab"}))
    );
    assert!(awaited["expires"].as_str().unwrap() > turn["created"].as_str().unwrap());
    let before = events(&house, &session, &turn).await;
    let types: Vec<_> = before.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types[types.len() - 2..], ["results.requested", "turn.paused"]);
    assert_eq!(before.last().unwrap()["data"]["waiting_for"], "results");
    assert_eq!(before[0]["data"]["tools"][0]["name"], "locate", "kept with the turn");
    assert!(house.asked()[0].tools.iter().any(|tool| tool.name.as_str() == "locate"));

    let results = json!([{"call_id": call(&turn, 0), "content": "bench 3", "structured": {"bench": 3}}]);
    let given = give(&house, &turn, results).await;
    assert_eq!(given.status, StatusCode::OK, "{}", given.text());
    assert_eq!(given.json()["awaited"], json!([]));
    let events = to_the_end(&house, &session, &turn).await;
    let end = completed(&events, call(&turn, 0));
    assert_eq!(end["source"], json!({"kind": "client"}), "who says so");
    assert_eq!(end["data"]["status"], "ok");
    assert_eq!(end["data"]["output"]["structured"], json!({"bench": 3}));
    assert!(of_type(&events, "tool.started").is_empty(), "nothing ran in the host");
    assert_eq!(events.last().unwrap()["type"], "turn.completed");
    let shown = serde_json::to_string(&house.asked()[1].messages).unwrap();
    assert!(shown.contains("bench 3"), "{shown}");
}

#[tokio::test]
async fn tools_of_the_host_run_first_and_results_may_come_one_by_one_in_any_order() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let calls = [
        ("locate", json!({})),
        ("double", json!({"n": 21})),
        ("locate", json!({"room": "b"})),
    ];
    let turn = asked(&house, &session, &calls).await;
    let before = events(&house, &session, &turn).await;
    assert_eq!(
        of_type(&before, "tool.completed").len(),
        1,
        "what the host runs has run"
    );
    let (first, second) = (call(&turn, 0), call(&turn, 1));

    let given = give(&house, &turn, json!([{"call_id": second, "content": "there"}])).await;
    assert_eq!(given.json()["status"], "awaiting_results");
    assert_eq!(given.json()["awaited"].as_array().unwrap().len(), 1);
    let again = give(&house, &turn, json!([{"call_id": second, "content": "elsewhere"}])).await;
    assert_eq!(
        (again.status, again.problem().as_str()),
        (StatusCode::CONFLICT, "not_awaiting_results")
    );
    let given = give(
        &house,
        &turn,
        json!([{"call_id": first, "content": "no map", "is_error": true}]),
    )
    .await;
    assert_eq!(given.status, StatusCode::OK);

    let events = to_the_end(&house, &session, &turn).await;
    assert_eq!(of_type(&events, "turn.resumed").len(), 1);
    assert_eq!(completed(&events, first)["data"]["status"], "error");
    let late = give(&house, &turn, json!([{"call_id": first, "content": "late"}])).await;
    assert_eq!(late.problem(), "not_awaiting_results");
    let results: Vec<_> = serde_json::to_value(&house.asked()[1].messages)
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .filter(|message| message["role"] == "tool")
        .map(|message| message["tool"].clone())
        .collect();
    assert_eq!(results, ["locate", "double", "locate"], "in the order of the calls");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_nothing_of_it_is_taken() {
    let house = House::new().await;
    let session = house.session().await;
    let turn = asked(&house, &session, &[("locate", json!({})), ("locate", json!({}))]).await;
    let (first, second) = (call(&turn, 0), call(&turn, 1));
    let good = json!({"call_id": first, "content": "here"});
    let stranger = "call_018f3c5b7d2a7c3e9f00112233445566";
    for (results, field) in [
        (json!([]), "results"),
        (
            json!([good, {"call_id": stranger, "content": "x"}]),
            "results[1].call_id",
        ),
        (json!([good, good]), "results[1].call_id"),
        (json!([good, {"call_id": second}]), "results[1]"),
        (
            json!([{"call_id": second, "content": "x".repeat(300 << 10)}]),
            "results[0]",
        ),
    ] {
        let refused = give(&house, &turn, results).await;
        let seen = (refused.status, refused.problem(), refused.json()["field"].clone());
        assert_eq!(
            seen,
            (StatusCode::UNPROCESSABLE_ENTITY, "invalid_result".into(), json!(field))
        );
    }
    let misread = give(&house, &turn, json!([{"call_id": "call_1", "content": "x"}])).await;
    assert_eq!(misread.problem(), "invalid_body");
    let shown = house.get(&path(&turn)).answer().await.json();
    assert_eq!(shown["awaited"].as_array().unwrap().len(), 2, "nothing was taken");
    let unknown = house.post("/v1/turns/trn_018f3c5b7d2a7c3e9f00112233445566/results");
    let unknown = unknown.json(&json!({"results": [good]})).answer().await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let foreign = house.post(&format!("{}/results", path(&turn))).by_other_org();
    assert_eq!(
        foreign.json(&json!({"results": [good]})).answer().await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_tool_that_can_not_be_offered_is_refused_with_the_turn() {
    let house = House::new().await;
    house.add_sums().await;
    let session = house.session().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut tool = locate();
        change(&mut tool);
        json!({"input": "hi", "tools": [tool]})
    };
    for (body, code, words) in [
        (
            with(&|tool| tool["name"] = json!("double")),
            "invalid_request",
            "has a tool or component with the name double",
        ),
        (
            with(&|tool| tool["name"] = json!("sums")),
            "invalid_request",
            "with the name sums",
        ),
        (
            with(&|tool| tool["name"] = json!("tool_search")),
            "invalid_request",
            "with the name tool_search",
        ),
        (
            with(&|tool| tool["name"] = json!("Locate")),
            "invalid_body",
            "lower-case",
        ),
        (
            with(&|tool| tool["timeout"] = json!("8d")),
            "invalid_request",
            "`timeout`",
        ),
        (
            with(&|tool| tool["input_schema"] = json!({"type": "string"})),
            "invalid_request",
            "not that of an object",
        ),
        (with(&|tool| tool["surprise"] = json!(1)), "invalid_body", "surprise"),
        (
            json!({"input": "hi", "tools": [locate(), locate()]}),
            "invalid_request",
            "locate twice",
        ),
        (
            json!({"input": "hi", "tools": [locate()], "mode": "steer"}),
            "invalid_request",
            "steers",
        ),
    ] {
        let refused = submit(&house, &session, &body).await;
        assert_eq!(refused.problem(), code, "{body}: {}", refused.text());
        assert!(refused.text().contains(words), "{body}: {}", refused.text());
    }
}

#[tokio::test]
async fn arguments_that_do_not_fit_and_calls_over_the_budget_never_reach_the_client() {
    let house = House::new().await;
    let session = house.session().await;
    house.next_answer().calls(&[
        ("locate", json!({"room": 7})),
        ("locate", json!({})),
        ("locate", json!({})),
    ]);
    let body = json!({"input": "where?", "tools": [locate()], "budget": {"tool_calls": 2}});
    let turn = submit(&house, &session, &body).await.json();
    assert_eq!(turn["status"], "awaiting_results");
    assert_eq!(turn["awaited"].as_array().unwrap().len(), 1);
    let events = events(&house, &session, &turn).await;
    let ends: Vec<_> = of_type(&events, "tool.completed")
        .iter()
        .map(|end| end["data"]["error"]["code"].clone())
        .collect();
    assert_eq!(ends, ["invalid_arguments", "denied"]);
}

#[tokio::test]
async fn a_rule_asks_about_a_clients_tool_and_only_what_is_approved_is_handed_over() {
    let rules = json!([{"tool": "client", "when": "arguments.room == 'vault'", "decide": "deny"}, {"tool": "locate", "decide": "ask"}]);
    let house = House::built(Plan {
        agent: json!({"model": "main", "approval": rules}),
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    house.next_answer().calls(&[
        ("locate", json!({"room": "vault"})),
        ("locate", json!({"room": "a"})),
        ("locate", json!({"room": "b"})),
    ]);
    let turn = submit(&house, &session, &json!({"input": "where?", "tools": [locate()]}))
        .await
        .json();
    assert_eq!(turn["status"], "awaiting_approval");
    assert_eq!(turn["awaited"], json!([]));
    let approve = json!({"decisions": [
        {"call_id": turn["approvals"][0]["call_id"], "decision": "approve", "arguments": {"room": "c"}},
        {"call_id": turn["approvals"][1]["call_id"], "decision": "reject"},
    ]});
    let decided = house
        .post(&format!("{}/approvals", path(&turn)))
        .json(&approve)
        .answer()
        .await;
    assert_eq!(decided.status, StatusCode::OK, "{}", decided.text());
    let (org, id) = (
        "default".parse().unwrap(),
        turn["id"].as_str().unwrap().parse().unwrap(),
    );
    let waiting = house.host.wait_for_turn(&org, id);
    let waiting = serde_json::to_value(waiting.await.unwrap()).unwrap();
    assert_eq!(waiting["status"], "awaiting_results");
    assert_eq!(waiting["awaited"].as_array().unwrap().len(), 1);
    assert_eq!(
        waiting["awaited"][0]["arguments"],
        json!({"room": "c"}),
        "as it was approved"
    );
    give(
        &house,
        &turn,
        json!([{"call_id": call(&waiting, 0), "content": "there"}]),
    )
    .await;
    let events = to_the_end(&house, &session, &turn).await;
    let text = completed(&events, call(&waiting, 0))["data"]["output"].to_string();
    assert!(text.contains("The user changed the arguments"), "{text}");
    assert_eq!(of_type(&events, "results.requested").len(), 1);
}

#[tokio::test]
async fn a_secret_in_a_result_is_taken_out() {
    let house = House::new().await;
    let session = house.session().await;
    let set = house
        .put(&format!("{session}/secrets/TOKEN"))
        .json(&json!({"value": "hunter2-hunter2"}));
    assert!(set.answer().await.status.is_success());
    let turn = asked(&house, &session, &[("locate", json!({}))]).await;
    give(
        &house,
        &turn,
        json!([{"call_id": call(&turn, 0), "content": "it is hunter2-hunter2"}]),
    )
    .await;
    let events = to_the_end(&house, &session, &turn).await;
    let end = completed(&events, call(&turn, 0)).to_string();
    assert!(end.contains("[secret:TOKEN]") && !end.contains("hunter2"), "{end}");
}
