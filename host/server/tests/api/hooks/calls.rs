//! Hooks and the calls they judge: what is held back with a result, who waits how long, and what counts.

use super::{
    KEY, by_component, by_webhook, calling, data, ended, events, guarded,
    guests::{Does, hook},
    house,
    outside::{Outside, allow},
    say,
};
use crate::house::{House, Plan};
use fumehood_agent::limits::{Limits, OrgLimits};
use fumehood_core::name::OrgName;
use fumehood_policy::quantity::Span;
use http::StatusCode;
use serde_json::{Value, json};

/// A component with the tool `murmur`, which says something beside its result.
fn murmur() -> Vec<u8> {
    let text = r#"(component
        (import "fumehood:tool/progress@0.1.0" (instance $progress
            (export "emit" (func (param "channel" string) (param "chunk" string)))))
        (core module $texts (memory (export "memory") 1)
            (data (i32.const 0) "log") (data (i32.const 16) "private words"))
        (core instance $texts (instantiate $texts))
        (core func $emit (canon lower (func $progress "emit") (memory (core memory $texts "memory"))))
        (core module $code
            (import "host" "emit" (func $emit (param i32 i32 i32 i32)))
            (func (export "murmur") (param i32) (result i32)
                (call $emit (i32.const 0) (i32.const 3) (i32.const 16) (i32.const 13))
                local.get 0))
        (core instance $running (instantiate $code (with "host" (instance (export "emit" (func $emit))))))
        (func (export "murmur") (param "n" u32) (result u32) (canon lift (core func $running "murmur"))))"#;
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn what_a_tool_says_beside_a_result_is_withheld_with_it() {
    for (does, said) in [(Does::Allows, 1), (Does::Denies("private"), 0)] {
        let house = house().await;
        house.add("murmurs", murmur()).await;
        guarded(&house, &does, json!(["after_tool_call"])).await;
        let session = house.session().await;
        let turn = calling(&house, &session, &[("murmur", json!({"n": 1}))]).await;
        assert_eq!(turn["status"], "completed", "{turn}");
        let told = events(&house, &session).await;
        assert_eq!(data(&told, "tool.output").len(), said, "{told:?}");
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(text.contains("private words"), said > 0, "{text}");
        let place = |kind: &str| told.iter().position(|event| event["type"] == kind);
        if said > 0 {
            assert!(place("tool.output") < place("tool.completed"), "{told:?}");
        }
    }
}

async fn call(house: &House, session: &str, body: Value) -> crate::house::Answer {
    let mut body = body;
    body["session"] = json!(session.rsplit('/').next().unwrap());
    house.post("/v1/tools/double/call").json(&body).answer().await
}

#[tokio::test]
async fn who_waits_for_a_call_waits_for_its_guards_no_longer_than_for_the_call() {
    let house = house().await;
    let outside = Outside::new(|_| None).await;
    for point in ["before_tool_call", "after_tool_call"] {
        let mut guard = by_webhook("guard", outside.base.clone(), json!([point]));
        guard["timeout"] = json!("60s");
        house.agent(json!({"model": "main", "hook": [guard]})).await;
        let session = house.session().await;
        let called = call(&house, &session, json!({"arguments": {"n": 1}, "time": "300ms"})).await;
        let result = called.json();
        assert_eq!(
            (&result["status"], &result["error"]["deadline"]),
            (&json!("timeout"), &json!("client")),
            "{result}"
        );
        assert!(
            data(&events(&house, &session).await, "hook.failed").is_empty(),
            "the hook had more time"
        );
    }
}

#[tokio::test]
async fn who_may_not_call_has_no_hooks_run_either() {
    let limited = OrgLimits {
        tool_calls: Some("1/hour".parse().unwrap()),
        ..OrgLimits::default()
    };
    let mut plan = Plan {
        limits: Limits::new([(OrgName::default_org(), limited)].into()),
        ..Plan::default()
    };
    plan.policy.private_networks = serde_json::from_value(json!(["127.0.0.1/32"])).unwrap();
    let house = House::built(plan).await;
    house.add_sums().await;
    let key = json!({"value": KEY});
    house.put("/v1/secrets/HOOK_KEY").json(&key).answer().await;
    let outside = Outside::new(|_| allow()).await;
    let guard = by_webhook("guard", outside.base.clone(), json!(["before_tool_call"]));
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let session = house.session().await;
    let called = call(&house, &session, json!({"arguments": {"n": 1}})).await;
    assert_eq!(called.json()["status"], "ok", "counted once: {}", called.text());
    let refused = call(&house, &session, json!({"arguments": {"n": 1}})).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "rate_limited")
    );
    assert_eq!(outside.came().len(), 1);
}

#[tokio::test]
async fn a_hook_is_asked_no_more_often_than_its_component_is_granted() {
    let house = house().await;
    house.add("guardian", hook(&Does::Allows)).await;
    let rate = json!({"rate": {"calls": "1/hour"}});
    let granted = house.put("/v1/tools/guardian/grant").json(&rate).answer().await;
    assert!(granted.status.is_success(), "{}", granted.text());
    let guard = by_component("guard", json!(["before_turn"]));
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let session = house.session().await;
    assert_eq!(say(&house, &session, "hi").await["status"], "completed");
    assert_eq!(say(&house, &session, "hi").await["error"]["code"], "hook_denied");
    let told = events(&house, &session).await;
    assert_eq!(data(&told, "hook.failed")[0]["failure"], "limited");
    // A question is no call of the org's.
    house.agent(json!({"model": "main"})).await;
    calling(&house, &session, &[("double", json!({"n": 4}))]).await;
    assert_eq!(ended(&events(&house, &session).await, "double")["status"], "ok");
}

#[tokio::test]
async fn a_hook_that_runs_while_its_component_is_replaced_has_only_so_much_time_left() {
    let mut plan = Plan {
        drain: Span::from_millis(0),
        ..Plan::default()
    };
    plan.policy.private_networks = serde_json::from_value(json!(["127.0.0.1/32"])).unwrap();
    let house = House::built(plan).await;
    house.add("guardian", hook(&Does::Spins)).await;
    let grant = json!({"limits": {"time": "60s", "cpu": "60s"}});
    house.put("/v1/tools/guardian/grant").json(&grant).answer().await;
    let mut guard = by_component("guard", json!(["before_turn"]));
    guard["timeout"] = json!("60s");
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let session = house.session().await;
    let mut turn = Box::pin(say(&house, &session, "hi"));
    // Whether the hook was asked before the change or after it: it runs on the version that is replaced, or on the next one.
    let replacing = async {
        loop {
            for mut version in [hook(&Does::Spins), hook(&Does::Spins)].into_iter().enumerate() {
                if version.0 == 0 {
                    version.1.extend([0, 5, 4, b'n', b'o', b't', b'e']);
                }
                let added = house
                    .post("/v1/tools?name=guardian")
                    .body("application/wasm", version.1);
                assert_eq!(added.answer().await.status, StatusCode::CREATED);
            }
        }
    };
    let turn = tokio::select! {
        turn = &mut turn => turn,
        () = replacing => unreachable!(),
    };
    assert_eq!(turn["error"]["code"], "hook_denied", "{turn}");
    let told = events(&house, &session).await;
    assert_eq!(data(&told, "hook.failed")[0]["failure"], "unavailable", "{told:?}");
}
