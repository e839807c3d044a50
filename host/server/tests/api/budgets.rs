//! Budgets of orgs and sessions: kept over turns, told of once, and never spent twice.

use crate::house::{Frame, House, Plan, kinds, scripted};
use fumehood_agent::models::{Model, Models};
use fumehood_core::{
    money::Money,
    name::{ModelName, OrgName},
    price::Price,
    spending::Window,
};
use fumehood_policy::spending::OrgBudget;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn tokens_per_day(tokens: u64) -> BTreeMap<OrgName, OrgBudget> {
    per_day(&json!({"tokens": tokens}))
}

fn per_day(parts: &Value) -> BTreeMap<OrgName, OrgBudget> {
    let mut budget: OrgBudget = serde_json::from_value(parts.clone()).unwrap();
    budget.per = Window::Day;
    [(OrgName::default_org(), budget)].into()
}

/// A model that asks for so many calls in each of its steps, and never comes to an end by itself.
fn calls_in_each_step(calls: usize) -> Models {
    let call = "{ tool: nothing, arguments: {} }";
    let calls = vec![call; calls].join(", ");
    let step = format!("{{ text: So far., tool_calls: [ {calls} ] }}");
    let steps = vec![step; 5].join(", ");
    [(
        ModelName::main(),
        scripted(&format!("otherwise: {{ steps: [ {steps} ] }}")),
    )]
    .into()
}

/// A model each of whose answers takes so many tokens.
fn takes(tokens: u64) -> Models {
    let script =
        format!("otherwise: {{ steps: [ {{ text: Here., usage: {{ input_tokens: {tokens}, output_tokens: 0 }} }} ] }}");
    [(ModelName::main(), scripted(&script))].into()
}

async fn stream(house: &House, session: &str) -> Vec<Frame> {
    let request = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    request.stream().await.rest().await
}

async fn ask(house: &House, session: &str) -> crate::house::Answer {
    let request = house.post(&format!("{session}/turns")).json(&json!({"input": "hi"}));
    request.answer().await
}

fn data<'a>(frames: &'a [Frame], kind: &str) -> Vec<&'a Value> {
    let of_kind = frames.iter().filter(|frame| frame.event == kind);
    of_kind.map(|frame| &frame.data["data"]).collect()
}

#[tokio::test]
async fn an_org_that_has_spent_its_budget_begins_no_turn_and_another_org_does() {
    let house = House::built(Plan {
        models: takes(100),
        budgets: tokens_per_day(100),
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    assert_eq!(ask(&house, &session).await.json()["stop_reason"], "end_turn");
    let refused = ask(&house, &house.session().await).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "budget_exhausted")
    );
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
    let compact = house.post(&format!("{session}/compact")).json(&json!({})).answer();
    assert_eq!(
        compact.await.problem(),
        "budget_exhausted",
        "a summary would cost as well"
    );
    let problem = refused.json();
    assert_eq!(
        (&problem["scope"], &problem["budget"]),
        (&json!("org"), &json!("tokens"))
    );
    assert!(problem["detail"].as_str().unwrap().contains("100 tokens"), "{problem}");
    let other = house
        .post("/v1/sessions")
        .by_other_org()
        .json(&json!({}))
        .answer()
        .await;
    let path = other.headers["location"].to_str().unwrap();
    let turn = house
        .post(&format!("{path}/turns"))
        .by_other_org()
        .json(&json!({"input": "hi"}));
    assert_eq!(turn.answer().await.status, StatusCode::OK);
    let nowhere = house.post("/v1/sessions/ses_00000000000000000000000000000001/turns");
    assert_eq!(
        nowhere.json(&json!({"input": "hi"})).answer().await.problem(),
        "not_found"
    );
}

#[tokio::test]
async fn a_turn_that_spends_the_last_of_the_orgs_budget_ends_with_what_it_has() {
    let step = "{ text: So far., tool_calls: [ { tool: nothing, arguments: {} } ], \
        usage: { input_tokens: 90, output_tokens: 10 } }";
    let script = format!("turns: [ {{ steps: [ {step}, {step} ] }} ]");
    let house = House::built(Plan {
        models: [(ModelName::main(), scripted(&script))].into(),
        budgets: tokens_per_day(100),
        ..Plan::default()
    })
    .await;
    let frames = stream(&house, &house.session().await).await;
    let warned = data(&frames, "budget.warning");
    assert_eq!(
        (warned.len(), &warned[0]["scope"], &warned[0]["percent"]),
        (1, &json!("org"), &json!(100))
    );
    let exhausted = data(&frames, "budget.exhausted");
    let expected = json!({"scope": "org", "budget": "tokens", "used": 100, "limit": 100});
    assert_eq!(exhausted, [&expected]);
    let ended = data(&frames, "turn.completed")[0];
    assert_eq!(ended["stop_reason"], "org_token_limit");
    assert_eq!(ended["output"], json!([{"type": "text", "text": "So far."}]));
    assert_eq!(data(&frames, "step.started").len(), 1, "{:?}", kinds(&frames));
}

#[tokio::test]
async fn a_session_has_a_budget_of_its_own() {
    let house = House::built(Plan {
        models: takes(100),
        agent: json!({"model": "main", "session_budget": {"tokens": 150}}),
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    for _ in 0..2 {
        assert_eq!(ask(&house, &session).await.json()["status"], "completed");
    }
    let refused = ask(&house, &session).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "budget_exhausted")
    );
    assert_eq!(refused.json()["scope"], "session");
    assert!(!refused.headers.contains_key("retry-after"), "it never begins anew");
    assert_eq!(ask(&house, &house.session().await).await.json()["status"], "completed");
}

#[tokio::test]
async fn an_orgs_budget_is_told_of_once_whichever_session_comes_there() {
    let house = House::built(Plan {
        models: takes(45),
        budgets: tokens_per_day(1000),
        ..Plan::default()
    })
    .await;
    let mut told = Vec::new();
    for number in 1..=20 {
        let frames = stream(&house, &house.session().await).await;
        let warnings = data(&frames, "budget.warning");
        told.extend(
            warnings
                .iter()
                .map(|warning| (number, warning["percent"].as_u64().unwrap())),
        );
    }
    assert_eq!(told, [(19, 80)], "18 turns took 810 of 1000");
}

#[tokio::test]
async fn of_two_turns_at_once_one_gets_the_last_of_the_budget() {
    for (budget, stop_reason) in [("tokens", "org_token_limit"), ("steps", "org_step_limit")] {
        let house = House::built(Plan {
            budgets: per_day(&json!({ budget: 1 })),
            ..Plan::default()
        })
        .await;
        let (first, second) = (house.session().await, house.session().await);
        let body = json!({"input": "hi"});
        let answer = house.next_answer();
        let mut working = house.post(&format!("{first}/turns")).json(&body).stream().await;
        working.until("step.started").await;
        let mut waiting = house.post(&format!("{second}/turns")).json(&body).stream().await;
        waiting.until("turn.started").await;
        answer.say("Hello.");
        answer.count(1, 0);
        answer.done();
        assert_eq!(
            data(&working.rest().await, "turn.completed")[0]["stop_reason"],
            "end_turn"
        );
        let frames = waiting.rest().await;
        assert_eq!(data(&frames, "turn.completed")[0]["stop_reason"], stop_reason);
        assert_eq!(house.asked().len(), 1, "nothing was asked that nobody could pay for");
    }
}

#[tokio::test]
async fn what_was_held_and_not_spent_is_there_for_the_next() {
    let house = House::built(Plan {
        budgets: tokens_per_day(1),
        ..Plan::default()
    })
    .await;
    let (first, second) = (house.session().await, house.session().await);
    let body = json!({"input": "hi"});
    let answer = house.next_answer();
    let mut working = house.post(&format!("{first}/turns")).json(&body).stream().await;
    working.until("step.started").await;
    let mut waiting = house.post(&format!("{second}/turns")).json(&body).stream().await;
    let started = waiting.until("turn.started").await;
    // It waits for the first, and a cancel would end that.
    assert_eq!(started.last().unwrap().data["type"], "turn.started");
    // The provider counts nothing.
    answer.say("Hello.");
    answer.done();
    assert_eq!(
        data(&working.rest().await, "turn.completed")[0]["stop_reason"],
        "end_turn"
    );
    assert_eq!(
        data(&waiting.rest().await, "turn.completed")[0]["stop_reason"],
        "end_turn"
    );
}

#[tokio::test]
async fn usage_is_told_by_day_agent_and_model_with_the_budget() {
    let price = Price {
        input: Money::from_millionths(10_000),
        output: Money::ZERO,
        cached_input: None,
        cache_write: None,
        reasoning: None,
    };
    let mut models = takes(100);
    let main = models.remove(&ModelName::main()).unwrap();
    models.insert(
        ModelName::main(),
        Model {
            price: Some(price),
            ..main
        },
    );
    let house = House::built(Plan {
        models,
        budgets: tokens_per_day(1000),
        ..Plan::default()
    })
    .await;
    for _ in 0..2 {
        ask(&house, &house.session().await).await;
    }
    let shown = house.get("/v1/usage").answer().await;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text());
    let shown = shown.json();
    let row = &shown["items"][0];
    assert_eq!(
        (&row["agent"], &row["model"], &row["calls"], &row["unmeasured_calls"]),
        (&json!("assistant"), &json!("main"), &json!(2), &json!(0))
    );
    assert_eq!(row["usage"], json!({"input_tokens": 200, "output_tokens": 0}));
    assert_eq!(row["cost"], json!(0.000_002));
    let budget = &shown["budget"];
    assert_eq!(budget["tokens"], json!({"used": 200, "held": 0, "limit": 1000}));
    assert_eq!(budget["per"], "day");
    let foreign = house.get("/v1/usage").by_other_org().answer().await.json();
    assert_eq!(foreign, json!({"items": []}));
    let past = house
        .get("/v1/usage?from=2020-01-01&to=2020-02-01")
        .answer()
        .await
        .json();
    assert_eq!(past["items"], json!([]));
    for query in ["from=2020-02-01&to=2020-01-01", "from=yesterday", "limit=0", "by=day"] {
        let refused = house.get(&format!("/v1/usage?{query}")).answer().await;
        assert_eq!(refused.problem(), "invalid_query", "{query}");
    }
}

#[tokio::test]
async fn what_a_summary_may_take_is_held_while_the_model_is_asked_for_it() {
    let house = House::built(Plan {
        budgets: tokens_per_day(1_000_000),
        ..Plan::default()
    })
    .await;
    let path = house.session().await;
    for _ in 0..3 {
        let turn = house
            .post(&format!("{path}/turns"))
            .json(&json!({"input": "word ".repeat(300)}));
        assert_eq!(turn.answer().await.status, StatusCode::OK);
    }
    let held = || async {
        let usage = house.get("/v1/usage").answer().await.json();
        usage["budget"]["tokens"]["held"].as_u64().unwrap()
    };
    assert_eq!(held().await, 0);
    let summary = house.next_answer();
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    let meanwhile = async {
        stream.until("compaction.started").await;
        assert!(held().await > 0);
        summary.says("Words.");
    };
    let (done, ()) = tokio::join!(house.post(&format!("{path}/compact")).answer(), meanwhile);
    assert_eq!(done.status, StatusCode::OK, "{}", done.text());
    assert_eq!(held().await, 0, "it is let go with the end");
}

#[tokio::test]
async fn an_org_that_has_taken_its_steps_begins_no_other() {
    let house = House::built(Plan {
        models: calls_in_each_step(1),
        budgets: per_day(&json!({"steps": 2})),
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    let frames = stream(&house, &session).await;
    assert_eq!(data(&frames, "step.started").len(), 2, "{:?}", kinds(&frames));
    let exhausted = json!({"scope": "org", "budget": "steps", "used": 2, "limit": 2});
    assert_eq!(data(&frames, "budget.exhausted"), [&exhausted]);
    let ended = data(&frames, "turn.completed")[0];
    assert_eq!(ended["stop_reason"], "org_step_limit");
    assert_eq!(ended["output"], json!([{"type": "text", "text": "So far."}]));
    let refused = ask(&house, &house.session().await).await;
    assert_eq!(
        (refused.problem().as_str(), &refused.json()["budget"]),
        ("budget_exhausted", &json!("steps"))
    );
    assert!(refused.json()["detail"].as_str().unwrap().contains("2 steps"));
    // A summary is no step: it is asked for, and this model gives none.
    let compact = house.post(&format!("{session}/compact")).json(&json!({})).answer();
    assert_eq!(compact.await.problem(), "compaction_failed");
}

#[tokio::test]
async fn the_calls_of_a_step_that_are_beyond_the_sessions_budget_do_not_run_and_the_turn_ends() {
    let house = House::built(Plan {
        models: calls_in_each_step(3),
        agent: json!({"model": "main", "session_budget": {"tool_calls": 2}}),
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    let frames = stream(&house, &session).await;
    let ends = data(&frames, "tool.completed");
    let codes: Vec<_> = ends.iter().map(|end| end["error"]["code"].as_str().unwrap()).collect();
    let mut sorted = codes.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["denied", "tool_not_found", "tool_not_found"], "{codes:?}");
    let refused = ends.iter().find(|end| end["error"]["code"] == "denied").unwrap();
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.contains("session's budget of tool calls"), "{said}");
    assert_eq!(
        data(&frames, "turn.completed")[0]["stop_reason"],
        "session_tool_call_limit"
    );
    let refused = ask(&house, &session).await;
    assert_eq!(refused.json()["budget"], "tool_calls");
    assert!(refused.json()["detail"].as_str().unwrap().contains("2 tool calls"));
}

#[tokio::test]
async fn a_turn_is_cut_off_when_the_time_of_its_session_is_up_and_no_other_begins() {
    let house = House::built(Plan {
        agent: json!({"model": "main", "session_budget": {"time": "400ms"}}),
        ..Plan::default()
    })
    .await;
    let session = house.session().await;
    let answer = house.next_answer();
    let body = json!({"input": "hi"});
    let mut working = house.post(&format!("{session}/turns")).json(&body).stream().await;
    working.until("step.started").await;
    // Nothing is ever said.
    let frames = working.rest().await;
    drop(answer);
    let exhausted = json!({"scope": "session", "budget": "time", "used": 400, "limit": 400});
    assert_eq!(data(&frames, "budget.exhausted"), [&exhausted]);
    let warned = data(&frames, "budget.warning");
    assert_eq!(warned.last().map(|warned| &warned["percent"]), Some(&json!(100)));
    let failed = data(&frames, "turn.failed")[0];
    assert_eq!(failed["error"]["code"], "time_limit");
    let said = failed["error"]["message"].as_str().unwrap();
    assert!(said.contains("session's time budget of 400ms"), "{said}");
    assert!(failed["worked_ms"].as_u64().unwrap() >= 400, "{failed}");

    let refused = ask(&house, &session).await;
    assert_eq!(refused.json()["budget"], "time");
    assert!(refused.json()["detail"].as_str().unwrap().contains("400ms of work"));
    assert_eq!(
        refused.headers["ratelimit-policy"],
        "\"session-budget\";q=400;qu=\"milliseconds\""
    );
    assert_eq!(ask(&house, &house.session().await).await.json()["status"], "completed");
}

#[tokio::test]
async fn what_turns_took_of_steps_calls_and_time_is_told_with_the_budget() {
    let house = House::built(Plan {
        models: calls_in_each_step(2),
        budgets: per_day(&json!({"steps": 3, "tool_calls": 100, "time": "1h"})),
        ..Plan::default()
    })
    .await;
    stream(&house, &house.session().await).await;
    let shown = house.get("/v1/usage").answer().await.json();
    let (row, budget) = (&shown["items"][0], &shown["budget"]);
    assert_eq!((&row["steps"], &row["tool_calls"]), (&json!(3), &json!(6)), "{shown}");
    assert_eq!(budget["steps"], json!({"used": 3, "held": 0, "limit": 3}));
    assert_eq!(budget["tool_calls"], json!({"used": 6, "held": 0, "limit": 100}));
    assert_eq!(budget["time_ms"]["limit"], 3_600_000);
    assert_eq!(budget["time_ms"]["used"], row["worked_ms"]);
    assert!(row["worked_ms"].as_u64().is_some(), "{row}");
}

#[tokio::test]
async fn a_turn_that_waited_while_others_used_up_the_time_of_the_org_ends_before_it_does_anything() {
    let house = House::built(Plan {
        agent: json!({"model": "main", "approval": [{"tool": "double", "decide": "ask"}]}),
        budgets: per_day(&json!({"time": "2s"})),
        ..Plan::default()
    })
    .await;
    house.add_sums().await;
    let (waiting, other) = (house.session().await, house.session().await);
    house.next_answer().calls(&[("double", json!({"n": 1}))]);
    let parked = ask(&house, &waiting).await.json();
    assert_eq!(parked["status"], "awaiting_approval", "{parked}");
    let never = house.next_answer();
    let cut_off = ask(&house, &other).await.json();
    drop(never);
    assert_eq!(cut_off["error"]["code"], "time_limit", "{cut_off}");

    let turn = format!("/v1/turns/{}", parked["id"].as_str().unwrap());
    let approved = json!({"call_id": parked["approvals"][0]["call_id"], "decision": "approve"});
    let decided = house
        .post(&format!("{turn}/approvals"))
        .json(&json!({"decisions": [approved]}));
    assert_eq!(decided.answer().await.status, StatusCode::OK);
    let id = parked["id"].as_str().unwrap();
    let frames = house
        .get(&format!("{waiting}/events?turn={id}"))
        .stream()
        .await
        .rest()
        .await;
    let error = &data(&frames, "turn.failed")[0]["error"];
    assert_eq!(error["code"], "time_limit");
    assert!(error["message"].as_str().unwrap().contains("org's time budget of 2s"));
    assert!(data(&frames, "tool.started").is_empty(), "{:?}", kinds(&frames));
}
