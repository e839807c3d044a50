//! Hooks: what guards deny, what they change, and what becomes of a turn when they don't answer.
#![allow(clippy::needless_pass_by_value, reason = "a call reads as the configuration does")]

mod calls;
mod endings;
pub(crate) mod guests;
pub(crate) mod outside;
mod points;
mod ways_round;
pub(crate) mod webhooks;

use crate::{
    house::{House, Plan, wasm},
    metrics::METRICS,
};
use fumehood_server::{MetricsAccess, MetricsPage};
use guests::{Does, hook};
use http::StatusCode;
use outside::{Outside, allow, change, deny};
use serde_json::{Value, json};

/// The key of the webhooks.
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A house that may reach loopback, with the tools `double`, `fall` and `shout`, and a page of metrics.
async fn house() -> House {
    let mut plan = Plan::default();
    plan.config.metrics = Some(MetricsPage {
        metrics: METRICS.clone(),
        access: MetricsAccess::Everybody,
    });
    plan.policy.private_networks = serde_json::from_value(json!(["127.0.0.1/32"])).unwrap();
    let house = House::built(plan).await;
    house.add_sums().await;
    let set = house
        .put("/v1/secrets/HOOK_KEY")
        .json(&json!({"value": KEY}))
        .answer()
        .await;
    assert!(set.status.is_success(), "{}", set.text());
    house
}

/// Adds a component, and has the agent use it as a guard at these points.
async fn guarded(house: &House, does: &Does<'_>, points: Value) {
    house.add("guardian", hook(does)).await;
    house
        .agent(json!({"model": "main", "hook": [by_component("guard", points)]}))
        .await;
}

fn by_component(name: &str, points: Value) -> Value {
    json!({"name": name, "points": points, "mode": "guard", "component": "guardian", "timeout": "30s"})
}

fn by_webhook(name: &str, url: String, points: Value) -> Value {
    json!({"name": name, "points": points, "mode": "guard", "url": url, "key": "HOOK_KEY", "timeout": "30s"})
}

/// A turn in which the model asks for these calls, to where it stands still.
async fn calling(house: &House, session: &str, calls: &[(&str, Value)]) -> Value {
    house.next_answer().calls(calls);
    let answer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "go on"}))
        .answer()
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

async fn say(house: &House, session: &str, input: &str) -> Value {
    let answer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": input}))
        .answer()
        .await;
    answer.json()
}

/// What is counted under these labels.
async fn counted(house: &House, metric: &str, labels: &str) -> u64 {
    let page = house.get("/metrics").answer().await.text();
    let line = format!("{metric}{{{labels}}} ");
    let found = page.lines().find_map(|text| text.strip_prefix(&line));
    found.map_or(0, |count| count.parse().unwrap())
}

async fn events(house: &House, session: &str) -> Vec<Value> {
    let answer = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json")
        .answer()
        .await;
    answer.json()["items"].as_array().unwrap().clone()
}

fn data<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    let of_kind = events.iter().filter(|event| event["type"] == kind);
    of_kind.map(|event| &event["data"]).collect()
}

/// The end of the one call of a tool.
fn ended<'a>(events: &'a [Value], tool: &str) -> &'a Value {
    let ends: Vec<_> = data(events, "tool.completed")
        .into_iter()
        .filter(|data| data["tool"] == tool)
        .collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    ends[0]
}

#[tokio::test]
async fn a_call_that_a_guard_denies_is_an_error_that_the_model_reads_and_its_siblings_run() {
    let house = house().await;
    house.add("guardian", hook(&Does::Denies("no shouting"))).await;
    let mut guard = by_component("quiet", json!(["before_tool_call"]));
    guard["tools"] = json!(["shout"]);
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let session = house.session().await;
    let turn = calling(
        &house,
        &session,
        &[("shout", json!({"n": 3})), ("double", json!({"n": 4}))],
    )
    .await;
    assert_eq!(turn["status"], "completed", "{turn}");

    let events = events(&house, &session).await;
    let denied = ended(&events, "shout");
    assert_eq!(
        (&denied["status"], &denied["error"]["code"]),
        (&json!("denied"), &json!("denied"))
    );
    let words = "calling shout was denied by the hook `quiet`: no shouting";
    assert_eq!(denied["error"]["message"], words);
    assert_eq!(ended(&events, "double")["output"]["structured"], json!({"result": 8}));
    let told = json!({"hook": "quiet", "point": "before_tool_call", "call": denied["call"], "reason": "no shouting"});
    assert_eq!(data(&events, "hook.denied"), [&told]);
    let started = data(&events, "tool.started");
    assert!(started.iter().all(|started| started["tool"] == "double"), "{started:?}");
    let shown = serde_json::to_string(&house.asked()[1].messages).unwrap();
    assert!(shown.contains("no shouting"), "{shown}");
}

#[tokio::test]
async fn a_guard_that_gives_no_answer_denies() {
    for (does, failure) in [
        (Does::Spins, "timeout"),
        (Does::Traps, "crashed"),
        (Does::Fails("out of order"), "unreachable"),
        (Does::Changes("no object"), "invalid_answer"),
        (Does::Changes("[1]"), "invalid_answer"),
        (Does::Changes(r#"{"n": "many"}"#), "invalid_answer"),
    ] {
        let house = house().await;
        house.add("guardian", hook(&does)).await;
        let mut guard = by_component("guard", json!(["before_tool_call"]));
        if failure == "timeout" {
            guard["timeout"] = json!("300ms");
        }
        house.agent(json!({"model": "main", "hook": [guard]})).await;
        let session = house.session().await;
        let turn = calling(&house, &session, &[("double", json!({"n": 4}))]).await;
        assert_eq!(turn["status"], "completed", "{failure}: {turn}");
        let events = events(&house, &session).await;
        assert_eq!(ended(&events, "double")["status"], "denied", "{failure}");
        let failed = data(&events, "hook.failed");
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(
            (&failed[0]["failure"], &failed[0]["mode"]),
            (&json!(failure), &json!("guard"))
        );
        assert!(data(&events, "tool.started").is_empty(), "{failure}");
    }
}

#[tokio::test]
async fn a_guard_whose_component_is_missing_or_no_hook_or_not_granted_denies() {
    let house = house().await;
    for component in ["nobody", "sums"] {
        let guard = json!({"name": "guard", "points": ["before_tool_call"], "mode": "guard", "component": component});
        house.agent(json!({"model": "main", "hook": [guard]})).await;
        let session = house.session().await;
        calling(&house, &session, &[("double", json!({"n": 4}))]).await;
        let events = events(&house, &session).await;
        assert_eq!(ended(&events, "double")["status"], "denied");
        assert_eq!(data(&events, "hook.failed")[0]["failure"], "unavailable");
    }
    // Added, and not decided about.
    let added = house
        .post("/v1/tools?name=guardian")
        .body("application/wasm", hook(&Does::Allows))
        .answer()
        .await;
    assert!(added.status.is_success(), "{}", added.text());
    house
        .agent(json!({"model": "main", "hook": [by_component("guard", json!(["before_tool_call"]))]}))
        .await;
    let session = house.session().await;
    calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    let events = events(&house, &session).await;
    let failed = data(&events, "hook.failed");
    assert!(
        failed[0]["message"]
            .as_str()
            .unwrap()
            .contains("fumehood tool grant guardian"),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_guard_that_allows_changes_nothing() {
    let house = house().await;
    let all = json!([
        "before_turn",
        "before_model_call",
        "after_model_call",
        "before_tool_call",
        "after_tool_call",
        "after_turn"
    ]);
    guarded(&house, &Does::Allows, all).await;
    let session = house.session().await;
    let turn = calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let events = events(&house, &session).await;
    assert_eq!(ended(&events, "double")["output"]["structured"], json!({"result": 8}));
    assert!(
        !events
            .iter()
            .any(|event| event["type"].as_str().unwrap().starts_with("hook.")),
        "{events:?}"
    );
}

#[tokio::test]
async fn a_component_that_is_a_hook_offers_no_tool() {
    let house = house().await;
    guarded(&house, &Does::Allows, json!(["before_turn"])).await;
    let session = house.session().await;
    say(&house, &session, "hi").await;
    let offered: Vec<_> = house.asked()[0]
        .tools
        .iter()
        .map(|tool| tool.name.to_string())
        .collect();
    assert_eq!(offered, ["double", "fall", "shout"]);
    let called = house
        .post("/v1/tools/guardian/call")
        .json(&json!({"arguments": {}}))
        .answer()
        .await;
    assert_eq!(called.problem(), "not_found");
}

#[tokio::test]
async fn what_a_guard_gives_is_what_runs_and_what_approval_judges() {
    let house = house().await;
    house.add("guardian", hook(&Does::Changes(r#"{"n": 20}"#))).await;
    let guard = by_component("guard", json!(["before_tool_call"]));
    let rule = json!({"tool": "double", "when": "arguments.n > 10", "decide": "ask"});
    house
        .agent(json!({"model": "main", "hook": [guard], "approval": [rule]}))
        .await;
    let session = house.session().await;
    let turn = calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    assert_eq!(turn["status"], "awaiting_approval", "{turn}");
    assert_eq!(turn["approvals"][0]["arguments"], json!({"n": 20}));

    let path = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
    let decision = json!({"call_id": turn["approvals"][0]["call_id"], "decision": "approve"});
    let decided = house
        .post(&format!("{path}/approvals"))
        .json(&json!({"decisions": [decision]}))
        .answer()
        .await;
    assert_eq!(decided.status, StatusCode::OK, "{}", decided.text());
    house.has_asked(2).await;
    let events = events(&house, &session).await;
    let output = &ended(&events, "double")["output"];
    assert_eq!(output["structured"], json!({"result": 40}));
    let note = output["content"][0]["text"].as_str().unwrap();
    assert!(
        note.contains(r#"changed the arguments of this call to {"n":20}"#),
        "{note}"
    );
    let changed = data(&events, "hook.changed");
    assert_eq!((changed.len(), &changed[0]["arguments"]), (1, &json!({"n": 20})));
}

#[tokio::test]
async fn what_a_guard_gives_is_what_a_rule_denies() {
    let house = house().await;
    house.add("guardian", hook(&Does::Changes(r#"{"n": 20}"#))).await;
    let guard = by_component("guard", json!(["before_tool_call"]));
    let rule = json!({"tool": "double", "when": "arguments.n > 10", "decide": "deny"});
    house
        .agent(json!({"model": "main", "hook": [guard], "approval": [rule]}))
        .await;
    let session = house.session().await;
    calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    let events = events(&house, &session).await;
    let message = ended(&events, "double")["error"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("approval rule 1"), "{message}");
}

#[tokio::test]
async fn what_a_person_writes_is_judged_by_the_guards_who_change_nothing_of_it() {
    for (does, status) in [
        (Does::Allows, "ok"),
        (Does::Denies("never"), "denied"),
        (Does::Changes(r#"{"n": 20}"#), "denied"),
    ] {
        let house = house().await;
        let rule = json!({"tool": "double", "decide": "ask"});
        house.agent(json!({"model": "main", "approval": [rule]})).await;
        let session = house.session().await;
        let turn = calling(&house, &session, &[("double", json!({"n": 4}))]).await;
        house.add("guardian", hook(&does)).await;
        let guard = by_component("guard", json!(["before_tool_call"]));
        house
            .agent(json!({"model": "main", "hook": [guard], "approval": [rule]}))
            .await;
        let decision =
            json!({"call_id": turn["approvals"][0]["call_id"], "decision": "approve", "arguments": {"n": 5}});
        let decided = house
            .post(&format!("/v1/turns/{}/approvals", turn["id"].as_str().unwrap()))
            .json(&json!({"decisions": [decision]}))
            .answer()
            .await;
        assert_eq!(decided.status, StatusCode::OK, "{}", decided.text());
        house.has_asked(2).await;
        let events = events(&house, &session).await;
        assert_eq!(ended(&events, "double")["status"], status);
    }
}

#[tokio::test]
async fn guards_are_asked_in_their_order_and_the_first_denial_ends_it() {
    let house = house().await;
    let outside = Outside::new(|came| if came.path == "/b" { deny("b says no") } else { allow() }).await;
    let hook = |name: &str, priority: i32| {
        let points = json!(["before_tool_call"]);
        let mut hook = by_webhook(name, format!("{}/{name}", outside.base), points);
        hook["priority"] = json!(priority);
        hook
    };
    let hooks = json!([hook("d", 5), hook("b", 0), hook("c", 0), hook("a", -5)]);
    house.agent(json!({"model": "main", "hook": hooks})).await;
    let session = house.session().await;
    calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    assert_eq!(outside.paths(), ["/a", "/b"]);
}

#[tokio::test]
async fn who_allowed_other_arguments_is_asked_about_the_last_ones() {
    let house = house().await;
    let outside = Outside::new(|came| match came.path.as_str() {
        "/raises" => change(&json!({"n": 20})),
        _ if came.data()["about"]["arguments"]["n"].as_u64() > Some(10) => deny("too much"),
        _ => allow(),
    })
    .await;
    let hook = |name: &str| by_webhook(name, format!("{}/{name}", outside.base), json!(["before_tool_call"]));
    house
        .agent(json!({"model": "main", "hook": [hook("judges"), hook("raises")]}))
        .await;
    let session = house.session().await;
    calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    assert_eq!(outside.paths(), ["/judges", "/raises", "/judges"]);
    let events = events(&house, &session).await;
    assert_eq!(ended(&events, "double")["status"], "denied");
    assert_eq!(data(&events, "hook.denied")[0]["hook"], "judges");
}

#[tokio::test]
async fn a_call_that_a_client_makes_is_judged_as_well() {
    let house = house().await;
    guarded(&house, &Does::Denies("not you either"), json!(["before_tool_call"])).await;
    let session = house.session().await;
    let id = session.rsplit('/').next().unwrap();
    let called = house
        .post("/v1/tools/double/call")
        .json(&json!({"session": id, "arguments": {"n": 1}}))
        .answer()
        .await;
    assert_eq!(called.json()["error"]["code"], "denied", "{}", called.text());
    let events = events(&house, &session).await;
    assert_eq!(data(&events, "hook.denied")[0]["reason"], "not you either");
}

#[tokio::test]
async fn a_guard_whose_component_became_a_tool_gives_no_answer() {
    let house = house().await;
    guarded(&house, &Does::Allows, json!(["before_turn"])).await;
    let session = house.session().await;
    assert_eq!(say(&house, &session, "hi").await["status"], "completed");
    house.add("guardian", wasm()).await;
    let turn = say(&house, &session, "hi").await;
    assert_eq!(turn["error"]["code"], "hook_denied", "{turn}");
}
