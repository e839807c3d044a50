//! Ways round a guard that are none: what a client sends beside its input, other models, other endings, other guards.

use super::{
    by_component, by_webhook, calling, data, ended, events, guarded,
    guests::{Does, hook},
    house,
    outside::{Came, Outside, allow, deny},
    say,
};
use crate::house::{House, Plan, scripted};
use fumehood_agent::models::{Model, Models};
use fumehood_core::{
    name::{ModelName, OrgName},
    spending::Window,
};
use fumehood_policy::spending::OrgBudget;
use http::StatusCode;
use serde_json::{Value, json};

/// Denies what has the word in it.
async fn no_forbidden_word() -> Outside {
    Outside::new(|came| {
        if came.body.contains("forbidden") {
            deny("not that")
        } else {
            allow()
        }
    })
    .await
}

#[tokio::test]
async fn what_a_client_sends_beside_its_input_is_judged_with_it() {
    let house = house().await;
    let outside = no_forbidden_word().await;
    let guard = by_webhook("guard", outside.base.clone(), json!(["before_turn"]));
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let schema = json!({"type": "object", "description": "a forbidden word"});
    for body in [
        json!({"input": "hi", "system": "a forbidden word"}),
        json!({"input": "hi", "output_schema": schema}),
    ] {
        let session = house.session().await;
        let turn = house.post(&format!("{session}/turns")).json(&body).answer().await;
        assert_eq!(turn.json()["error"]["code"], "hook_denied", "{}", turn.text());
    }
    assert!(house.asked().is_empty());
    let came = outside.came();
    let about = |at: usize| came[at].data()["about"].clone();
    let input = json!([{"type": "text", "text": "hi"}]);
    assert_eq!(
        about(0),
        json!({"input": input, "steers": false, "system": "a forbidden word"})
    );
    assert_eq!(
        about(1),
        json!({"input": input, "steers": false, "output_schema": schema})
    );
}

/// A turn whose one step says something and asks for a call, which is more than its budget has.
async fn out_of_budget(house: &House, body: Value) -> Vec<Value> {
    let session = house.session().await;
    let model = house.next_answer();
    model.say("something unfit");
    model.count(100, 0);
    model.calls(&[("double", json!({"n": 1}))]);
    let turn = house.post(&format!("{session}/turns")).json(&body).answer().await;
    assert_eq!(turn.json()["error"]["code"], "hook_denied", "{}", turn.text());
    events(house, &session).await
}

#[tokio::test]
async fn a_turn_that_runs_out_of_its_budget_is_judged_at_its_end() {
    let house = house().await;
    guarded(&house, &Does::Denies("unfit"), json!(["after_turn"])).await;
    let told = out_of_budget(&house, json!({"input": "hi", "budget": {"steps": 1}})).await;
    assert!(data(&told, "turn.completed").is_empty());
    assert_eq!(data(&told, "budget.exhausted")[0]["budget"], "steps");
}

#[tokio::test]
async fn a_turn_that_runs_out_of_its_orgs_budget_is_judged_at_its_end() {
    let budget = OrgBudget {
        per: Window::Day,
        tokens: Some(100),
        ..OrgBudget::default()
    };
    let house = House::built(Plan {
        budgets: [(OrgName::default_org(), budget)].into(),
        ..Plan::default()
    })
    .await;
    house.add_sums().await;
    guarded(&house, &Does::Denies("unfit"), json!(["after_turn"])).await;
    let told = out_of_budget(&house, json!({"input": "hi"})).await;
    assert!(data(&told, "turn.completed").is_empty());
    assert_eq!(data(&told, "budget.exhausted")[0]["scope"], "org");
    assert_eq!(ended(&told, "double")["status"], "ok");
}

#[tokio::test]
async fn of_an_answer_that_is_cut_off_no_text_is_kept_that_no_guard_has_judged() {
    let house = house().await;
    guarded(&house, &Does::Allows, json!(["after_model_call"])).await;
    let session = house.session().await;
    let model = house.next_answer();
    model.say("half an answer");
    model.count(100, 20);
    drop(model);
    let turn = say(&house, &session, "hi").await;
    assert_eq!(turn["error"]["code"], "model_unavailable", "{turn}");
    let told = events(&house, &session).await;
    assert!(data(&told, "text.completed").is_empty(), "{told:?}");
    assert_eq!(data(&told, "step.failed")[0]["usage"]["output_tokens"], 20);

    // The same where a client cuts it off.
    let model = house.next_answer();
    let turn = house
        .post(&format!("{session}/turns"))
        .with("prefer", "respond-async")
        .json(&json!({"input": "again"}))
        .answer()
        .await;
    let path = turn.headers["location"].to_str().unwrap().to_owned();
    let mut stream = house.get(&format!("{session}/events")).stream().await;
    house.has_asked(2).await;
    model.say("half an answer");
    stream.until("text.delta").await;
    let cancelled = house.post(&format!("{path}/cancel")).answer().await;
    assert_eq!(cancelled.json()["status"], "cancelled");
    assert_eq!(say(&house, &session, "and now?").await["status"], "completed");
    let told = events(&house, &session).await;
    assert_eq!(data(&told, "text.completed").len(), 1, "only the last answer is whole");
    let shown = serde_json::to_string(&house.asked()[2].messages).unwrap();
    assert!(!shown.contains("half an answer"), "{shown}");
}

#[tokio::test]
async fn what_was_approved_is_judged_by_the_guards_that_there_are_when_it_runs() {
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
        let decision = json!({"call_id": turn["approvals"][0]["call_id"], "decision": "approve"});
        let decided = house
            .post(&format!("/v1/turns/{}/approvals", turn["id"].as_str().unwrap()))
            .json(&json!({"decisions": [decision]}))
            .answer()
            .await;
        assert_eq!(decided.status, StatusCode::OK, "{}", decided.text());
        house.has_asked(2).await;
        let told = events(&house, &session).await;
        assert_eq!(ended(&told, "double")["status"], status);
    }
}

#[tokio::test]
async fn a_model_that_is_asked_in_the_place_of_another_is_judged_as_well() {
    let name = |name: &str| ModelName::new(name).unwrap();
    let main = Model {
        max_retries: 0,
        fallbacks: vec![name("other")],
        ..scripted("otherwise: { steps: [ { error: { code: overloaded } } ] }")
    };
    let other = scripted("otherwise: { steps: [ { text: from the other } ] }");
    let mut plan = Plan {
        models: Models::from([(name("main"), main), (name("other"), other)]),
        ..Plan::default()
    };
    plan.policy.private_networks = serde_json::from_value(json!(["127.0.0.1/32"])).unwrap();
    let house = House::built(plan).await;
    let key = json!({"value": super::KEY});
    house.put("/v1/secrets/HOOK_KEY").json(&key).answer().await;
    let model = |came: &Came| came.data()["about"]["model"].clone();
    let outside = Outside::new(move |came| {
        if model(came) == "other" {
            deny("not with that one")
        } else {
            allow()
        }
    })
    .await;
    let guard = by_webhook("guard", outside.base.clone(), json!(["before_model_call"]));
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let session = house.session().await;
    let turn = say(&house, &session, "hi").await;
    assert_eq!(turn["error"]["code"], "hook_denied", "{turn}");
    let asked: Vec<_> = outside.came().iter().map(model).collect();
    assert_eq!(asked, ["main", "other"]);
    assert!(data(&events(&house, &session).await, "text.completed").is_empty());
}

#[tokio::test]
async fn inputs_that_say_the_same_are_asked_about_by_ids_of_their_own() {
    let house = house().await;
    let steers = |came: &Came| came.data()["about"]["steers"] == true;
    let outside = Outside::new(|_| allow()).await;
    let guard = by_webhook("guard", outside.base.clone(), json!(["before_turn"]));
    house.agent(json!({"model": "main", "hook": [guard]})).await;
    let session = house.session().await;
    let mut model = house.next_answer();
    let steer = || {
        let body = json!({"input": "continue", "mode": "steer"});
        house.post(&format!("{session}/turns")).json(&body).answer()
    };
    let came = || outside.came().into_iter().filter(steers).collect::<Vec<_>>();
    // The turn goes on from boundary to boundary until both have come as far as one.
    let work = async {
        house.has_asked(1).await;
        let on = async {
            for n in 1.. {
                if came().len() >= 2 {
                    break;
                }
                let next = house.next_answer();
                model.call("double", &json!({"n": n}));
                house.has_asked(n + 1).await;
                model = next;
            }
            model.says("Hello.");
        };
        tokio::join!(steer(), steer(), on)
    };
    let (turn, (first, second, ())) = tokio::join!(say(&house, &session, "begin"), work);
    assert_eq!(turn["status"], "completed", "{turn}");
    for steered in [first, second] {
        assert!(steered.status.is_success(), "{}", steered.text());
    }
    let ids: Vec<_> = came().iter().map(|came| came.headers["webhook-id"].clone()).collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
}
