//! The points of a turn, and what a denial does at each.

use super::{
    by_webhook, calling, data, ended, events, guarded,
    guests::Does,
    house,
    outside::{Came, Outside, allow, deny},
    say,
};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn an_input_that_is_denied_is_told_to_no_model_then_or_later() {
    let house = house().await;
    guarded(&house, &Does::Denies("not that"), json!(["before_turn"])).await;
    let session = house.session().await;
    let turn = say(&house, &session, "a forbidden word").await;
    assert_eq!(
        (&turn["status"], &turn["error"]["code"]),
        (&json!("failed"), &json!("hook_denied"))
    );
    assert_eq!(
        turn["error"]["message"],
        "the input was denied by the hook `guard`: not that"
    );
    assert!(house.asked().is_empty());
    let told = events(&house, &session).await;
    assert!(data(&told, "turn.started").is_empty());
    assert_eq!(data(&told, "hook.denied")[0]["point"], "before_turn");

    house.agent(json!({"model": "main"})).await;
    assert_eq!(say(&house, &session, "hello").await["status"], "completed");
    let shown = serde_json::to_string(&house.asked()[0].messages).unwrap();
    assert!(shown.contains("hello") && !shown.contains("forbidden"), "{shown}");
}

#[tokio::test]
async fn a_model_call_that_is_denied_ends_the_turn_and_asks_nobody() {
    let house = house().await;
    guarded(&house, &Does::Denies("not now"), json!(["before_model_call"])).await;
    let session = house.session().await;
    let turn = say(&house, &session, "hi").await;
    assert_eq!(
        (&turn["status"], &turn["error"]["code"]),
        (&json!("failed"), &json!("hook_denied"))
    );
    assert!(house.asked().is_empty());
}

#[tokio::test]
async fn of_an_answer_that_is_denied_nothing_is_kept_but_what_it_took() {
    let house = house().await;
    guarded(&house, &Does::Denies("unfit"), json!(["after_model_call"])).await;
    let session = house.session().await;
    let model = house.next_answer();
    model.say("something unfit");
    model.count(100, 20);
    model.done();
    let turn = say(&house, &session, "hi").await;
    assert_eq!(
        (&turn["status"], &turn["error"]["code"]),
        (&json!("failed"), &json!("hook_denied"))
    );
    assert_eq!(turn["usage"]["input_tokens"], 100, "{turn}");
    let told = events(&house, &session).await;
    assert!(data(&told, "text.completed").is_empty());
    assert_eq!(data(&told, "step.failed")[0]["usage"]["output_tokens"], 20);
    assert!(!serde_json::to_string(&told).unwrap().contains("something unfit"));
}

#[tokio::test]
async fn a_result_that_is_withheld_reaches_neither_the_model_nor_the_journal() {
    let house = house().await;
    guarded(&house, &Does::Denies("private"), json!(["after_tool_call"])).await;
    let session = house.session().await;
    let turn = calling(&house, &session, &[("shout", json!({"n": 9}))]).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let told = events(&house, &session).await;
    let end = ended(&told, "shout");
    assert_eq!(end["status"], "denied");
    let message = end["error"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "shout ran, and what it returned was denied by the hook `guard`: private"
    );
    assert!(!serde_json::to_string(&told).unwrap().contains("AAAAAAAAA"));
    let denied = data(&told, "hook.denied");
    assert_eq!(
        (&denied[0]["point"], &denied[0]["call"]),
        (&json!("after_tool_call"), &end["call"])
    );
}

#[tokio::test]
async fn a_turn_whose_answer_is_denied_at_its_end_fails() {
    let house = house().await;
    guarded(&house, &Does::Denies("unfit"), json!(["after_turn"])).await;
    let session = house.session().await;
    let turn = say(&house, &session, "hi").await;
    assert_eq!(
        (&turn["status"], &turn["error"]["code"]),
        (&json!("failed"), &json!("hook_denied"))
    );
}

#[tokio::test]
async fn what_is_to_steer_a_turn_and_is_denied_is_refused_and_the_turn_goes_on() {
    let house = house().await;
    let steers = |came: &Came| came.data()["about"]["steers"] == true;
    let outside = Outside::new(move |came| if steers(came) { deny("not that") } else { allow() }).await;
    let hook = by_webhook("guard", outside.base.clone(), json!(["before_turn"]));
    house.agent(json!({"model": "main", "hook": [hook]})).await;
    let session = house.session().await;
    let mut model = house.next_answer();
    let steer = house
        .post(&format!("{session}/turns"))
        .json(&json!({"input": "a forbidden word", "mode": "steer"}));
    // The turn goes on from boundary to boundary until the input has come as far as one.
    let work = async {
        house.has_asked(1).await;
        let steered = async {
            for n in 1.. {
                if outside.came().iter().any(steers) {
                    break;
                }
                let next = house.next_answer();
                model.call("double", &json!({"n": n}));
                house.has_asked(n + 1).await;
                model = next;
            }
            model.says("Hello.");
        };
        tokio::join!(steer.answer(), steered).0
    };
    let (turn, steered) = tokio::join!(say(&house, &session, "begin"), work);
    assert_eq!(turn["status"], "completed", "{turn}");
    assert_eq!(
        (steered.status, steered.problem().as_str()),
        (StatusCode::FORBIDDEN, "hook_denied")
    );
    let told = events(&house, &session).await;
    assert_eq!(data(&told, "hook.denied")[0]["reason"], "not that");
    assert!(!serde_json::to_string(&told).unwrap().contains("forbidden"));
}
