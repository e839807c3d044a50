//! What an agent is to its model: skills, and tools that are searched for.

use crate::house::{House, Plan};
use fumehood_agent::skills::Skill;
use fumehood_core::{
    call::{CallErrorCode, CallResult},
    content::Content,
    message::Message,
    name::SkillName,
};
use http::StatusCode;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

async fn submit(house: &House, path: &str) -> Value {
    let answer = house
        .post(&format!("{path}/turns"))
        .json(&json!({"input": "hi"}))
        .answer()
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

/// What came of the last call, as the model was shown it in its N-th request.
fn result(house: &House, request: usize) -> CallResult {
    match house.asked()[request].messages.last() {
        Some(Message::Tool { result, .. }) => result.clone(),
        other => panic!("{other:?}"),
    }
}

/// A house whose model searches for tools, within a budget.
async fn searching(budget: Value) -> House {
    House::built(Plan {
        agent: json!({"model": "main", "tool_search": "always", "budget": budget}),
        ..Plan::default()
    })
    .await
}

fn offered(house: &House, request: usize) -> Vec<String> {
    let asked = house.asked();
    asked[request].tools.iter().map(|tool| tool.name.to_string()).collect()
}

#[tokio::test]
async fn a_skill_is_named_in_the_instructions_and_read_on_demand() {
    let name = SkillName::new("refunds").unwrap();
    let skill = Skill {
        name: name.clone(),
        description: "How refunds are decided.".into(),
        body: "Look up the order.".into(),
        files: BTreeMap::new(),
    };
    let agent = json!({"model": "main", "skills": ["refunds"], "time_zone": "UTC"});
    let house = House::built(Plan {
        agent,
        skills: [(name, Arc::new(skill))].into(),
        ..Plan::default()
    })
    .await;
    let path = house.session().await;
    house.next_answer().call("skill_load", &json!({"name": "refunds"}));
    let turn = submit(&house, &path).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let system = house.asked()[0].system.clone();
    assert!(
        system.contains("- refunds: How refunds are decided.") && system.contains("Today is "),
        "{system}"
    );
    assert!(!system.contains("Look up the order"));
    assert_eq!(
        result(&house, 1).unwrap().content,
        [Content::text("Look up the order.")]
    );
    // It ran in the host: there was no component to start.
    let events = house.get(&format!("{path}/events")).with("accept", "application/json");
    let events = events.answer().await.text();
    assert!(
        events.contains("tool.completed") && !events.contains("tool.started"),
        "{events}"
    );
}

#[tokio::test]
async fn a_model_with_many_tools_finds_and_loads_those_it_needs() {
    let house = searching(json!({})).await;
    house.add_sums().await;
    let path = house.session().await;
    house.next_answer().call("tool_search", &json!({"query": "dou"}));
    house.next_answer().call("tool_load", &json!({"names": ["double"]}));
    house.next_answer().call("double", &json!({"n": 21}));
    submit(&house, &path).await;
    assert_eq!(offered(&house, 0), ["tool_search", "tool_load"]);
    let found = result(&house, 1).unwrap().content[0].as_plain_text();
    assert!(found.contains("\"double\"") && !found.contains("\"shout\""), "{found}");
    assert_eq!(offered(&house, 2), ["tool_search", "tool_load", "double"]);
    assert_eq!(result(&house, 3).unwrap().content[0].as_plain_text(), "42");
    // For the rest of the session.
    submit(&house, &path).await;
    assert_eq!(offered(&house, 4), ["tool_search", "tool_load", "double"]);
}

#[tokio::test]
async fn the_hosts_tools_get_only_objects_as_any_other() {
    let house = searching(json!({})).await;
    let path = house.session().await;
    house.next_answer().malformed_call("tool_search");
    submit(&house, &path).await;
    assert_eq!(result(&house, 1).unwrap_err().code, CallErrorCode::InvalidArguments);
}

#[tokio::test]
async fn the_hosts_tools_count_against_the_budget_of_calls() {
    let house = searching(json!({"tool_calls": 1})).await;
    let path = house.session().await;
    house.next_answer().call("tool_search", &json!({"query": ""}));
    let turn = submit(&house, &path).await;
    assert_eq!(turn["stop_reason"], "tool_call_limit", "{turn}");
}

#[tokio::test]
async fn a_change_of_tools_is_applied_between_two_steps_and_told() {
    let house = House::new().await;
    let path = house.session().await;
    let (first, second) = (house.next_answer(), house.next_answer());
    let asynchronous = house.post(&format!("{path}/turns")).with("prefer", "respond-async");
    let accepted = asynchronous.json(&json!({"input": "hi"})).answer().await.json();
    house.has_asked(1).await;
    house.add_sums().await;
    first.cut_call("double");
    house.has_asked(2).await;
    assert_eq!(
        (offered(&house, 0).len(), offered(&house, 1)),
        (0, vec!["double".into(), "fall".into(), "shout".into()])
    );
    house.delete("/v1/tools/sums").answer().await;
    second.cut_call("double");
    let turn = accepted["id"].as_str().unwrap().parse().unwrap();
    let org = fumehood_core::name::OrgName::default_org();
    house.host.wait_for_turn(&org, turn).await.unwrap();
    assert!(offered(&house, 2).is_empty());
    let asked = house.asked();
    let told = asked[2].messages.iter().filter_map(|message| match message {
        Message::Note { text } if text.contains("tools have changed") => Some(text.as_str()),
        _ => None,
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "Your tools have changed: double, fall, shout (added).",
            "Your tools have changed: double, fall, shout (removed; do not call them)."
        ]
    );
    let events = house.get(&format!("{path}/events")).with("accept", "application/json");
    let events = events.answer().await.json();
    let changes = events["items"].as_array().unwrap().iter();
    let changes: Vec<_> = changes.filter(|event| event["type"] == "tools.changed").collect();
    assert_eq!(changes.len(), 2, "{events}");
    assert_eq!(changes[1]["data"]["removed"], json!(["double", "fall", "shout"]));
}
