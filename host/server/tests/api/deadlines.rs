//! A call ends at the soonest of its deadlines, and its result says whose that was.

use crate::house::{Frame, House, Plan};
use serde_json::{Value, json};

/// A component with a tool that never ends by itself, and its manifest's time limit.
pub(crate) fn endless() -> Vec<u8> {
    let text = r#"(component
        (core module $code
            (func (export "spin") (param i32) (result i32) (loop $forever (br $forever)) unreachable))
        (core instance $running (instantiate $code))
        (func (export "spin") (param "n" u32) (result u32) (canon lift (core func $running "spin"))))"#;
    wat::parse_str(text).unwrap()
}

async fn house(agent: Value) -> House {
    let house = House::built(Plan {
        agent,
        ..Plan::default()
    })
    .await;
    house.add("endless", endless()).await;
    house
}

/// Grants the component so much time for a call.
async fn grant_time(house: &House, time: &str) {
    let grant = json!({"limits": {"time": time, "cpu": "60s"}});
    let granted = house.put("/v1/tools/endless/grant").json(&grant).answer().await;
    assert!(granted.status.is_success(), "{}", granted.text());
}

/// Has a client call it, and returns the error.
async fn call(house: &House, body: Value) -> Value {
    let called = house.post("/v1/tools/spin/call").json(&body).answer().await.json();
    assert_eq!(called["status"], "timeout", "{called}");
    called["error"].clone()
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap()
}

#[tokio::test]
async fn a_clients_time_ends_its_call_if_it_is_the_shortest() {
    let house = house(json!({"model": "main"})).await;
    grant_time(&house, "60s").await;
    let error = call(&house, json!({"arguments": {"n": 1}, "time": "50ms"})).await;
    assert_eq!(error["deadline"], "client");
    assert!(message(&error).contains("50ms that the client gave it"), "{error}");
    grant_time(&house, "40ms").await;
    let error = call(&house, json!({"arguments": {"n": 1}, "time": "60s"})).await;
    assert_eq!(error["deadline"], "time_limit");
    assert!(
        message(&error).contains("40ms, the component's `time` limit"),
        "{error}"
    );
}

#[tokio::test]
async fn a_clients_time_of_zero_or_nonsense_is_refused() {
    let house = house(json!({"model": "main"})).await;
    for time in [json!("0s"), json!(5), json!("soon")] {
        let body = json!({"arguments": {"n": 1}, "time": time});
        let refused = house.post("/v1/tools/spin/call").json(&body).answer().await;
        assert_eq!(refused.problem(), "invalid_body", "{}", refused.text());
    }
}

#[tokio::test]
async fn the_turns_time_budget_ends_its_calls_and_each_result_says_so() {
    let house = house(json!({"model": "main", "budget": {"time": "5s"}})).await;
    grant_time(&house, "60s").await;
    let told = house.next_answer();
    let path = house.session().await;
    let request = house.post(&format!("{path}/turns")).json(&json!({"input": "go"}));
    let frames = request.stream().await;
    told.calls(&[("spin", json!({"n": 1})), ("spin", json!({"n": 2}))]);
    let seen = frames.rest().await;
    let ended: Vec<&Frame> = seen.iter().filter(|frame| frame.event == "tool.completed").collect();
    assert_eq!(ended.len(), 2);
    for frame in ended {
        let data = &frame.data["data"];
        assert_eq!(data["status"], "timeout", "{data}");
        assert_eq!(data["error"]["deadline"], "turn_budget", "{data}");
        assert!(message(&data["error"]).contains("time budget of 5s"), "{data}");
    }
    let last = &seen.last().unwrap().data;
    assert_eq!(last["data"]["error"]["code"], "time_limit", "{last}");
    let warned = seen.iter().filter(|frame| frame.event == "budget.warning");
    let warned: Vec<_> = warned.map(|frame| &frame.data["data"]).collect();
    assert_eq!(warned.len(), 1, "while it waited nobody looked: {warned:?}");
    assert_eq!(
        (&warned[0]["budget"], &warned[0]["percent"]),
        (&json!("time"), &json!(100))
    );
}

#[tokio::test]
async fn a_calls_own_limit_within_the_turns_budget_lets_the_turn_go_on() {
    let house = house(json!({"model": "main", "budget": {"time": "60s"}})).await;
    grant_time(&house, "50ms").await;
    let told = house.next_answer();
    let path = house.session().await;
    let request = house.post(&format!("{path}/turns")).json(&json!({"input": "go"}));
    let frames = request.stream().await;
    told.call("spin", &json!({"n": 1}));
    let seen = frames.rest().await;
    let ended = seen.iter().find(|frame| frame.event == "tool.completed").unwrap();
    assert_eq!(ended.data["data"]["error"]["deadline"], "time_limit", "{ended:?}");
    assert_eq!(seen.last().unwrap().event, "turn.completed");
}
