//! Calls that wait for a person, and what the person decides.

mod waiting;

use crate::house::{Answer, House, wasm};
use fumehood_core::id::CallId;
use http::StatusCode;
use serde_json::{Value, json};

/// A house whose agent has these rules, with the tools `double` and `fall`.
async fn governed(rules: Value) -> House {
    governed_for("24h", rules).await
}

async fn governed_for(timeout: &str, rules: Value) -> House {
    let house = House::new().await;
    house
        .agents([(
            "assistant",
            json!({"model": "main", "approval": rules, "approval_timeout": timeout}),
        )])
        .await;
    house.add_sums().await;
    house
}

fn ask() -> Value {
    json!([{"tool": "double", "decide": "ask"}])
}

/// A turn in which the model asks for these calls of `double`, up to where it waits.
async fn parked(house: &House, session: &str, numbers: &[u32]) -> Value {
    let model = house.next_answer();
    let calls: Vec<_> = numbers.iter().map(|n| ("double", json!({"n": n}))).collect();
    model.calls(&calls);
    let answer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "double them"}))
        .answer()
        .await;
    let turn = answer.json();
    assert_eq!(
        (answer.status, &turn["status"]),
        (StatusCode::OK, &json!("awaiting_approval")),
        "{turn}"
    );
    turn
}

fn path(turn: &Value) -> String {
    format!("/v1/turns/{}", turn["id"].as_str().unwrap())
}

fn call(turn: &Value, nth: usize) -> &Value {
    &turn["approvals"][nth]["call_id"]
}

async fn decide(house: &House, turn: &Value, decisions: Value) -> Answer {
    house
        .post(&format!("{}/approvals", path(turn)))
        .json(&json!({"decisions": decisions}))
        .answer()
        .await
}

async fn events(house: &House, session: &str) -> Vec<Value> {
    let answer = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json")
        .answer()
        .await;
    answer.json()["items"].as_array().unwrap().clone()
}

/// The events of a turn, once it has ended.
async fn to_the_end(house: &House, session: &str, turn: &Value) -> Vec<Value> {
    let id = turn["id"].as_str().unwrap();
    house
        .get(&format!("{session}/events?turn={id}"))
        .stream()
        .await
        .rest()
        .await;
    let mut events = events(house, session).await;
    events.retain(|event| event["turn"] == turn["id"]);
    events
}

fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

fn completed<'a>(events: &'a [Value], call: &Value) -> &'a Value {
    let ends: Vec<_> = of_type(events, "tool.completed")
        .into_iter()
        .filter(|event| event["data"]["call"] == *call)
        .collect();
    assert_eq!(ends.len(), 1, "one end of {call}: {ends:?}");
    &ends[0]["data"]
}

#[tokio::test]
async fn calls_that_nobody_has_to_approve_run_first_and_the_others_are_asked_about_together() {
    let rules = json!([{"tool": "double", "when": "arguments.n > 10", "decide": "ask"}]);
    let house = governed(rules).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1, 20, 2, 30]).await;
    let events = events(&house, &session).await;
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types[types.len() - 2..], ["approval.requested", "turn.paused"]);
    assert_eq!(of_type(&events, "tool.completed").len(), 2, "{types:?}");
    assert_eq!(of_type(&events, "approval.requested").len(), 1);

    let approvals = turn["approvals"].as_array().unwrap();
    let asked: Vec<_> = approvals.iter().map(|one| one["arguments"].clone()).collect();
    assert_eq!(asked, [json!({"n": 20}), json!({"n": 30})]);
    for one in approvals {
        assert_eq!(one["tool"], "double");
        assert_eq!(
            one["rule"],
            "approval rule 1 of the agent `assistant`: ask `double` when arguments.n > 10"
        );
        assert!(one["fingerprint"].as_str().unwrap().starts_with("sha256:"));
        assert!(one["expires"].as_str().unwrap() > turn["created"].as_str().unwrap());
    }
    let shown = house.get(&path(&turn)).answer().await.json();
    assert_eq!(shown["approvals"], turn["approvals"]);
}

#[tokio::test]
async fn what_is_approved_runs_once_with_the_arguments_that_were_shown() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[21]).await;
    let decided = decide(
        &house,
        &turn,
        json!([{"call_id": call(&turn, 0), "decision": "approve"}]),
    )
    .await;
    assert_eq!(decided.status, StatusCode::OK, "{}", decided.text());
    let events = to_the_end(&house, &session, &turn).await;
    let resolved = of_type(&events, "approval.resolved")[0];
    assert_eq!(resolved["source"], json!({"kind": "client"}), "who decided");
    assert_eq!(
        resolved["data"]["decisions"],
        json!([{"call_id": call(&turn, 0), "decision": "approved"}])
    );
    assert_eq!(of_type(&events, "turn.resumed").len(), 1);
    assert_eq!(of_type(&events, "tool.started").len(), 1);
    let end = completed(&events, call(&turn, 0));
    assert_eq!(end["status"], "ok", "{end}");
    assert!(end["output"].to_string().contains("42"), "{end}");
    let shown = house.get(&path(&turn)).answer().await.json();
    assert_eq!(
        (&shown["status"], &shown["approvals"]),
        (&json!("completed"), &json!([]))
    );
}

#[tokio::test]
async fn edited_arguments_run_and_the_model_is_told() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[21]).await;
    let edited =
        json!([{"call_id": call(&turn, 0), "decision": "approve", "arguments": {"n": 5}, "feedback": "smaller"}]);
    assert_eq!(decide(&house, &turn, edited).await.status, StatusCode::OK);
    let events = to_the_end(&house, &session, &turn).await;
    let end = completed(&events, call(&turn, 0))["output"].to_string();
    assert!(end.contains("10") && !end.contains("42"), "{end}");
    assert!(
        end.contains("The user changed the arguments of this call to") && end.contains("smaller"),
        "{end}"
    );
}

#[tokio::test]
async fn a_rejected_call_does_not_run_and_the_model_reads_the_feedback_without_control_characters() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1]).await;
    let feedback = format!("not now\u{1b}[2J\n{}", "x".repeat(5000));
    let rejected = json!([{"call_id": call(&turn, 0), "decision": "reject", "feedback": feedback}]);
    assert_eq!(decide(&house, &turn, rejected).await.status, StatusCode::OK);
    let events = to_the_end(&house, &session, &turn).await;
    assert!(of_type(&events, "tool.started").is_empty());
    let end = completed(&events, call(&turn, 0));
    let said = end["error"]["message"].as_str().unwrap();
    assert_eq!(end["status"], "denied");
    assert!(
        said.starts_with("the user rejected this call, and says: not now[2J\nxxx"),
        "{said}"
    );
    let kept = of_type(&events, "approval.resolved")[0]["data"]["decisions"][0]["feedback"]
        .as_str()
        .unwrap();
    assert_eq!(kept.chars().count(), 2000);
    assert_eq!(events.last().unwrap()["type"], "turn.completed", "the model goes on");
}

#[tokio::test]
async fn a_call_without_a_decision_counts_as_rejected() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1, 2]).await;
    let one = json!([{"call_id": call(&turn, 1), "decision": "approve"}]);
    assert_eq!(decide(&house, &turn, one).await.status, StatusCode::OK);
    let events = to_the_end(&house, &session, &turn).await;
    assert_eq!(completed(&events, call(&turn, 0))["status"], "denied");
    assert_eq!(completed(&events, call(&turn, 1))["status"], "ok");
}

#[tokio::test]
async fn decisions_that_make_no_sense_decide_nothing() {
    let rules = json!([
        {"tool": "double", "when": "arguments.n == 13", "decide": "deny"},
        {"tool": "double", "decide": "ask"},
    ]);
    let house = governed(rules).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1, 2]).await;
    let before = events(&house, &session).await.len();
    let good = json!({"call_id": call(&turn, 0), "decision": "approve"});
    let with = |arguments: Value| json!({"call_id": call(&turn, 1), "decision": "approve", "arguments": arguments});
    for (decisions, code, field, says) in [
        (json!([]), "invalid_decision", "decisions", "at least one"),
        (
            json!([good, {"call_id": CallId::new(), "decision": "approve"}]),
            "invalid_decision",
            "decisions[1].call_id",
            "no call of that id",
        ),
        (json!([good, good]), "invalid_decision", "decisions[1].call_id", "twice"),
        (
            json!([good, with(json!({"n": "many"}))]),
            "invalid_decision",
            "decisions[1].arguments",
            "at /n",
        ),
        (
            json!([good, with(json!({"n": 13}))]),
            "invalid_decision",
            "decisions[1].arguments",
            "approval rule 1 of the agent `assistant`: deny",
        ),
        (
            json!([{"call_id": call(&turn, 0), "decision": "reject", "arguments": {"n": 1}}]),
            "invalid_decision",
            "decisions[0].arguments",
            "a rejected call has no arguments",
        ),
        (
            json!([good, with(json!([1]))]),
            "invalid_body",
            "decisions[1].arguments",
            "",
        ),
        (
            json!([{"call_id": "x", "decision": "approve"}]),
            "invalid_body",
            "decisions[0].call_id",
            "",
        ),
        (
            json!([{"call_id": call(&turn, 0), "decision": "maybe"}]),
            "invalid_body",
            "decisions[0].decision",
            "",
        ),
        (
            json!([{"call_id": call(&turn, 0), "decision": "approve", "always": true}]),
            "invalid_body",
            "decisions[0]",
            "",
        ),
    ] {
        let answer = decide(&house, &turn, decisions.clone()).await;
        assert_eq!(answer.problem(), code, "{decisions}: {}", answer.text());
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem = answer.json();
        assert!(problem["field"].as_str().unwrap().starts_with(field), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
    }
    assert_eq!(events(&house, &session).await.len(), before, "nothing happened");
    assert_eq!(
        house.get(&path(&turn)).answer().await.json()["status"],
        "awaiting_approval"
    );
}

#[tokio::test]
async fn a_turn_that_waits_for_nothing_takes_no_decision() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[1]).await;
    let approve = json!([{"call_id": call(&turn, 0), "decision": "approve"}]);
    let foreign = house
        .post(&format!("{}/approvals", path(&turn)))
        .json(&json!({"decisions": approve}))
        .by_other_org()
        .answer()
        .await;
    assert_eq!(foreign.problem(), "not_found");
    assert_eq!(decide(&house, &turn, approve.clone()).await.status, StatusCode::OK);
    to_the_end(&house, &session, &turn).await;
    let again = decide(&house, &turn, approve).await;
    assert_eq!(
        (again.status, again.problem().as_str()),
        (StatusCode::CONFLICT, "not_awaiting_approval")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_decide_at_once_one_does() {
    let house = governed(ask()).await;
    let session = house.session().await;
    for _ in 0..5 {
        let turn = parked(&house, &session, &[1]).await;
        let decisions = [("approve", 8), ("reject", 8)]
            .into_iter()
            .flat_map(|(word, times)| std::iter::repeat_n(word, times));
        let all = decisions.map(|word| {
            let decision = json!([{"call_id": call(&turn, 0), "decision": word}]);
            decide(&house, &turn, decision)
        });
        let answers = futures::future::join_all(all).await;
        let won = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
        assert_eq!(won, 1);
        for answer in answers.iter().filter(|answer| answer.status != StatusCode::OK) {
            assert_eq!(answer.problem(), "not_awaiting_approval");
        }
        let events = to_the_end(&house, &session, &turn).await;
        assert_eq!(of_type(&events, "approval.resolved").len(), 1);
        completed(&events, call(&turn, 0));
    }
}

#[tokio::test]
async fn what_a_rule_denies_does_not_run_and_the_model_reads_which_rule() {
    let house = governed(json!([{"tool": "double", "when": "arguments.n > 3", "decide": "deny"}])).await;
    let session = house.session().await;
    let model = house.next_answer();
    model.calls(&[("double", json!({"n": 4})), ("double", json!({"n": 3}))]);
    let answer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "x"}))
        .answer()
        .await;
    assert_eq!(answer.json()["status"], "completed");
    let events = events(&house, &session).await;
    let ends = of_type(&events, "tool.completed");
    let denied = ends.iter().find(|end| end["data"]["status"] == "denied").unwrap();
    let said = denied["data"]["error"]["message"].as_str().unwrap();
    assert!(said.contains("approval rule 1 of the agent `assistant`"), "{said}");
    assert_eq!(of_type(&events, "tool.started").len(), 1, "the other one ran");
    assert!(of_type(&events, "approval.requested").is_empty());
}

#[tokio::test]
async fn nobody_is_asked_about_a_call_that_could_not_run() {
    let house = governed(json!([{"tool": "*", "decide": "ask"}])).await;
    let session = house.session().await;
    let model = house.next_answer();
    model.calls(&[
        ("double", json!({"n": "many"})),
        ("no_such_tool", json!({})),
        ("double", json!([1])),
    ]);
    let answer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "x"}))
        .answer()
        .await;
    assert_eq!(answer.json()["status"], "completed", "{}", answer.text());
    let events = events(&house, &session).await;
    assert!(of_type(&events, "approval.requested").is_empty());
    assert_eq!(of_type(&events, "tool.completed").len(), 3);
}

#[tokio::test]
async fn an_update_of_the_component_in_between_is_not_what_was_approved() {
    let house = governed(ask()).await;
    let session = house.session().await;
    let turn = parked(&house, &session, &[21]).await;
    let mut updated = wasm();
    // A custom section: other code, by its digest.
    updated.extend([0, 2, 1, b'x']);
    house.add("sums", updated).await;
    let approve = json!([{"call_id": call(&turn, 0), "decision": "approve"}]);
    assert_eq!(decide(&house, &turn, approve).await.status, StatusCode::OK);
    let events = to_the_end(&house, &session, &turn).await;
    assert!(of_type(&events, "tool.started").is_empty(), "it did not run");
    let end = completed(&events, call(&turn, 0));
    assert_eq!(end["status"], "denied");
    assert!(
        end["error"]["message"]
            .as_str()
            .unwrap()
            .contains("was changed after the call was asked about"),
        "{end}"
    );
}

#[tokio::test]
async fn a_client_that_calls_a_tool_itself_is_who_would_be_asked_but_a_denial_holds_for_it_too() {
    let rules = json!([
        {"tool": "double", "when": "arguments.n == 13", "decide": "deny"},
        {"tool": "double", "decide": "ask"},
    ]);
    let house = governed(rules).await;
    let session = house.session().await;
    let id = session.rsplit('/').next().unwrap();
    let called = async |n: u32| {
        let body = json!({"session": id, "arguments": {"n": n}});
        house.post("/v1/tools/double/call").json(&body).answer().await.json()
    };
    assert_eq!(called(1).await["status"], "ok");
    let denied = called(13).await;
    assert_eq!(denied["status"], "denied");
    assert!(
        denied["error"]["message"].as_str().unwrap().contains("approval rule 1"),
        "{denied}"
    );
}

#[tokio::test]
async fn the_value_of_a_secret_is_shown_to_nobody_who_decides_and_kept_out_of_what_they_say() {
    let house = governed(ask()).await;
    let made = house
        .post("/v1/sessions")
        .json(&json!({"secrets": {"TOKEN": "correct-horse-battery"}}))
        .answer()
        .await;
    let session = made.headers["location"].to_str().unwrap().to_owned();
    let turn = parked(&house, &session, &[1]).await;
    let says = json!([{"call_id": call(&turn, 0), "decision": "reject", "feedback": "use correct-horse-battery"}]);
    assert_eq!(decide(&house, &turn, says).await.status, StatusCode::OK);
    let events = to_the_end(&house, &session, &turn).await;
    let all = serde_json::to_string(&events).unwrap();
    assert!(
        !all.contains("correct-horse") && all.contains("use [secret:TOKEN]"),
        "{all}"
    );
}
