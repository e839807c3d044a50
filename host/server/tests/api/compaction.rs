//! Conversations that get too long: summed up in time, after a refusal, or because a client asks for it.

use crate::house::House;
use fumehood_core::{content::Content, message::Message, turn::StepStop};
use fumehood_model::ModelErrorKind;
use http::StatusCode;
use serde_json::{Value, json};

async fn events(house: &House, path: &str, family: &str) -> Vec<Value> {
    let events = house.get(&format!("{path}/events")).with("accept", "application/json");
    let events = events.answer().await.json();
    let items = events["items"].as_array().unwrap().iter();
    let of_family = |event: &&Value| event["type"].as_str().unwrap().starts_with(family);
    items.filter(of_family).cloned().collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

async fn submit(house: &House, path: &str, input: &str) -> Value {
    let turn = house.post(&format!("{path}/turns")).json(&json!({"input": input}));
    let answer = turn.answer().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

/// Four hundred and fifty tokens, as they are estimated.
fn long(number: usize) -> String {
    format!("{number}{}", "word ".repeat(300))
}

/// A session with three long turns, of which a fourth is too much for the model.
pub(crate) async fn talkative(house: &House) -> String {
    house.window(2_200);
    let path = house.session().await;
    for number in 1..=3 {
        submit(house, &path, &long(number)).await;
    }
    path
}

fn summaries(messages: &[Message]) -> Vec<&str> {
    let summaries = messages.iter().filter_map(|message| match message {
        Message::Summary { text } => Some(text.as_str()),
        _ => None,
    });
    summaries.collect()
}

fn text_of(message: &Message) -> String {
    match message {
        Message::User { content } => fumehood_core::content::plain_text(content),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_conversation_is_summed_up_before_it_is_more_than_the_model_takes() {
    let house = House::new().await;
    let path = talkative(&house).await;
    house.next_answer().says("The user said a lot of words.");
    let turn = submit(&house, &path, &long(4)).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let told = events(&house, &path, "compaction.").await;
    assert_eq!(types(&told), ["compaction.started", "compaction.completed"]);
    assert_eq!(told[0]["data"]["reason"], "nearly_full");
    let done = &told[1]["data"];
    assert_eq!(done["summary"], "The user said a lot of words.");
    assert!(done["tokens_after"].as_u64() < done["tokens_before"].as_u64(), "{done}");
    assert_eq!(told[1]["source"]["kind"], "model");

    let asked = house.asked();
    let [.., summing_up, step] = asked.as_slice() else {
        panic!("{} requests", asked.len())
    };
    assert!(summing_up.tools.is_empty() && summing_up.system.contains("sum up"));
    assert!(text_of(&summing_up.messages[0]).contains(r#"{"role":"user""#));
    assert_eq!(text_of(&step.messages[0]), long(1), "the first input stays");
    assert_eq!(summaries(&step.messages).len(), 1);
    assert!(summaries(&step.messages)[0].starts_with("[Context compacted]"));
    assert_eq!(text_of(step.messages.last().unwrap()), long(4), "what came last stays");
}

#[tokio::test]
async fn a_summary_from_before_is_part_of_the_next_one() {
    let house = House::new().await;
    let path = talkative(&house).await;
    house.next_answer().says("They agreed on tabs.");
    submit(&house, &path, &long(4)).await;
    submit(&house, &path, &long(5)).await;
    house.next_answer().says("Tabs, still.");
    submit(&house, &path, &long(6)).await;
    let asked = house.asked();
    let again = asked.iter().rfind(|request| request.system.contains("sum up")).unwrap();
    assert!(text_of(&again.messages[0]).contains(r#"{"earlier_summary":"They agreed on tabs."}"#));
    assert_eq!(summaries(&asked.last().unwrap().messages).len(), 1);
}

#[tokio::test]
async fn a_summary_that_is_empty_or_too_long_changes_nothing_and_the_turn_goes_on() {
    for (summary, why) in [(" ", "empty"), (long(9).repeat(4).as_str(), "smaller")] {
        let house = House::new().await;
        let path = talkative(&house).await;
        house.next_answer().says(summary);
        let turn = submit(&house, &path, &long(4)).await;
        assert_eq!(turn["status"], "completed", "{turn}");
        let told = events(&house, &path, "compaction.").await;
        assert_eq!(
            types(&told),
            ["compaction.started", "compaction.failed"],
            "once before the model answers"
        );
        assert!(told[1]["data"]["message"].as_str().unwrap().contains(why), "{told:?}");
        let messages = house.get(&format!("{path}/messages")).answer().await.json();
        assert_eq!(messages["items"].as_array().unwrap().len(), 8, "{messages}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_whole_summary_changes_nothing_and_what_it_took_is_counted() {
    for (stop, why) in [
        (StepStop::Length, "cut off"),
        (StepStop::ToolCalls, "asked for tools"),
        (StepStop::ContentFilter, "withheld"),
    ] {
        let house = House::new().await;
        let path = talkative(&house).await;
        let answer = house.next_answer();
        answer.say("- Task: the us");
        answer.count(70, 7);
        answer.stop(stop);
        let turn = submit(&house, &path, &long(4)).await;
        assert_eq!(turn["status"], "completed", "{turn}");
        let told = events(&house, &path, "compaction.").await;
        assert_eq!(types(&told), ["compaction.started", "compaction.failed"]);
        let failed = &told[1]["data"];
        assert!(failed["message"].as_str().unwrap().contains(why), "{failed}");
        assert_eq!(failed["usage"], json!({"input_tokens": 70, "output_tokens": 7}));
    }
}

#[tokio::test]
async fn what_a_summary_took_that_was_never_whole_is_counted() {
    let house = House::new().await;
    let path = talkative(&house).await;
    let answer = house.next_answer();
    answer.say("- Task");
    answer.count(70, 7);
    drop(answer);
    submit(&house, &path, &long(4)).await;
    let told = events(&house, &path, "compaction.failed").await;
    assert_eq!(
        told[0]["data"]["usage"],
        json!({"input_tokens": 70, "output_tokens": 7})
    );
}

#[tokio::test]
async fn where_the_conversation_is_more_than_the_model_takes_an_extract_stands_for_a_summary_that_failed() {
    let house = House::new().await;
    let path = talkative(&house).await;
    house.window(1_500);
    house.next_answer().says(" ");
    let turn = submit(&house, &path, &long(4)).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let told = events(&house, &path, "compaction.").await;
    assert_eq!(types(&told), ["compaction.started", "compaction.completed"]);
    let summary = told[1]["data"]["summary"].as_str().unwrap();
    assert!(summary.contains("This is an extract"), "{summary}");
}

#[tokio::test]
async fn a_conversation_that_the_model_refuses_as_too_long_is_summed_up_and_asked_about_again() {
    let house = House::new().await;
    let path = talkative(&house).await;
    house.window(1_000_000);
    house.next_refusal(ModelErrorKind::ContextTooLong);
    house.next_answer().says("Words.");
    house.next_answer().says("Here you are.");
    let turn = submit(&house, &path, &long(4)).await;
    assert_eq!(turn["output"], json!([{"type": "text", "text": "Here you are."}]));
    let told = events(&house, &path, "compaction.").await;
    assert_eq!(types(&told), ["compaction.started", "compaction.completed"]);
    assert_eq!(told[0]["data"]["reason"], "overflow");
    assert!(
        events(&house, &path, "retry.").await.is_empty(),
        "it is no fault that passes"
    );
}

#[tokio::test]
async fn a_model_that_goes_on_refusing_fails_the_turn_and_the_next_one_can_go_on() {
    let house = House::new().await;
    let path = talkative(&house).await;
    // Refused: the step, both summaries, and the step each time again.
    for _ in 0..5 {
        house.next_refusal(ModelErrorKind::ContextTooLong);
    }
    house.window(1_000_000);
    let turn = submit(&house, &path, &long(4)).await;
    assert_eq!(
        (&turn["status"], &turn["error"]["code"]),
        (&json!("failed"), &json!("context_too_long"))
    );
    let told = events(&house, &path, "compaction.").await;
    let started = told.iter().filter(|event| event["type"] == "compaction.started");
    assert_eq!(started.count(), 2, "{told:?}");
    assert_eq!(submit(&house, &path, "and now?").await["status"], "completed");
}

#[tokio::test]
async fn where_no_model_can_sum_up_an_extract_stands_for_it() {
    let house = House::new().await;
    let path = talkative(&house).await;
    house.next_refusal(ModelErrorKind::ContextTooLong);
    let turn = submit(&house, &path, &long(4)).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let told = events(&house, &path, "compaction.").await;
    assert_eq!(types(&told), ["compaction.started", "compaction.completed"]);
    assert!(
        told[1]["data"]["summary"]
            .as_str()
            .unwrap()
            .contains("This is an extract")
    );
    assert_eq!(told[1]["source"]["kind"], "host");
}

#[tokio::test]
async fn a_message_that_is_too_large_by_itself_is_shown_shortened_and_kept_whole() {
    let house = House::new().await;
    house.window(1_000);
    let path = house.session().await;
    let input = format!("begin {} end", "word ".repeat(2_000));
    assert_eq!(submit(&house, &path, &input).await["status"], "completed");
    let asked = house.asked();
    let shown = text_of(&asked[0].messages[0]);
    assert!(shown.starts_with("begin") && shown.ends_with("end"), "{shown}");
    assert!(
        shown.contains("bytes are left out here") && shown.len() < 2_500,
        "{}",
        shown.len()
    );
    let messages = house.get(&format!("{path}/messages")).answer().await.json();
    assert_eq!(
        messages["items"][0]["content"],
        serde_json::to_value([Content::text(input)]).unwrap()
    );
}

#[tokio::test]
async fn a_turn_that_is_cancelled_while_it_is_summed_up_ends_at_once() {
    let house = House::new().await;
    let path = talkative(&house).await;
    let _summary = house.next_answer();
    let submitted = house.post(&format!("{path}/turns")).with("prefer", "respond-async");
    let submitted = submitted.json(&json!({"input": long(4)})).answer().await;
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    stream.until("compaction.started").await;
    let turn = submitted.headers["location"].to_str().unwrap();
    let cancelled = house.post(&format!("{turn}/cancel")).answer().await.json();
    assert_eq!(cancelled["status"], "cancelled");
    let told = events(&house, &path, "compaction.").await;
    assert_eq!(types(&told), ["compaction.started", "compaction.failed"]);
}

#[tokio::test]
async fn a_client_has_a_conversation_summed_up() {
    let house = House::new().await;
    let path = house.session().await;
    for number in 1..=3 {
        submit(&house, &path, &long(number)).await;
    }
    house.next_answer().says("Words.");
    let ask = house
        .post(&format!("{path}/compact"))
        .json(&json!({"instructions": "keep the numbers"}));
    let answer = ask.answer().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let done = answer.json();
    assert!(done["tokens_after"].as_u64() < done["tokens_before"].as_u64(), "{done}");
    let told = events(&house, &path, "compaction.").await;
    assert_eq!(types(&told), ["compaction.started", "compaction.completed"]);
    assert_eq!(told[0]["data"]["reason"], "requested");
    assert!(house.asked().last().unwrap().system.contains("keep the numbers"));
    submit(&house, &path, "go on").await;
    assert_eq!(summaries(&house.asked().last().unwrap().messages).len(), 1);
}

#[tokio::test]
async fn an_empty_conversation_is_as_short_as_it_gets() {
    let house = House::new().await;
    let path = house.session().await;
    let done = house.post(&format!("{path}/compact")).answer().await;
    assert_eq!(done.json(), json!({"tokens_before": 0, "tokens_after": 0}));
    assert!(events(&house, &path, "compaction.").await.is_empty());
}

#[tokio::test]
async fn a_conversation_is_summed_up_only_while_no_turn_is_open_and_no_turn_begins_meanwhile() {
    let house = House::new().await;
    let path = house.session().await;
    submit(&house, &path, &long(1)).await;
    submit(&house, &path, &long(2)).await;
    let model = house.next_answer();
    let submitted = house.post(&format!("{path}/turns")).with("prefer", "respond-async");
    let submitted = submitted.json(&json!({"input": "hi"})).answer().await.json();
    let refused = house.post(&format!("{path}/compact")).answer().await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::CONFLICT, "session_busy")
    );
    assert_eq!(refused.json()["turn"], submitted["id"]);
    let turn = submitted["id"].as_str().unwrap();
    let events = house.get(&format!("{path}/events?turn={turn}")).stream().await;
    model.says("x");
    events.rest().await;

    let summary = house.next_answer();
    let mut stream = house.get(&format!("{path}/events")).stream().await;
    let meanwhile = async {
        stream.until("compaction.started").await;
        for route in ["turns", "compact"] {
            let body = if route == "turns" {
                json!({"input": "hi"})
            } else {
                json!({})
            };
            let refused = house.post(&format!("{path}/{route}")).json(&body).answer().await;
            assert_eq!(refused.problem(), "session_busy", "{route}");
        }
        summary.says("Words.");
    };
    let (done, ()) = tokio::join!(house.post(&format!("{path}/compact")).answer(), meanwhile);
    assert_eq!(done.status, StatusCode::OK, "{}", done.text());
    assert_eq!(submit(&house, &path, "go on").await["status"], "completed");
}

#[tokio::test]
async fn what_can_not_be_summed_up_says_why() {
    let house = House::new().await;
    let path = house.session().await;
    submit(&house, &path, &long(1)).await;
    submit(&house, &path, &long(2)).await;
    house.next_refusal(ModelErrorKind::Auth);
    let failed = house.post(&format!("{path}/compact")).answer().await;
    assert_eq!(
        (failed.status, failed.problem().as_str()),
        (StatusCode::BAD_GATEWAY, "compaction_failed")
    );
    for (body, code) in [
        (json!({"instructions": "x".repeat(5_000)}), "invalid_request"),
        (json!({"colour": "red"}), "invalid_body"),
    ] {
        let refused = house.post(&format!("{path}/compact")).json(&body).answer().await;
        assert_eq!(refused.problem(), code);
    }
    let foreign = house.post(&format!("{path}/compact")).by_other_org().answer().await;
    assert_eq!(foreign.problem(), "not_found");
}
