//! What the answer of a turn is: checked where it must follow a schema, and gone on with where it was cut off.

use crate::house::House;
use fumehood_core::{content::Content, message::Message, turn::StepStop};
use fumehood_model::ToolChoice;
use http::StatusCode;
use serde_json::{Value, json};

async fn types(house: &House, path: &str) -> Vec<String> {
    let events = house.get(&format!("{path}/events")).with("accept", "application/json");
    let events = events.answer().await.json();
    let items = events["items"].as_array().unwrap().iter();
    items.map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

async fn submit(house: &House, path: &str, body: Value) -> Value {
    let answer = house.post(&format!("{path}/turns")).json(&body).answer().await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

fn notes(messages: &[Message]) -> Vec<&str> {
    let notes = messages.iter().filter_map(|message| match message {
        Message::Note { text } => Some(text.as_str()),
        _ => None,
    });
    notes.collect()
}

fn total() -> Value {
    json!({"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]})
}

#[tokio::test]
async fn an_answer_that_does_not_follow_its_schema_is_repaired() {
    let house = House::new().await;
    let path = house.session().await;
    for text in [
        "The total is 3.",
        "{\"total\": \"three\"}",
        "```json\n{\"total\": 3}\n```",
    ] {
        let answer = house.next_answer();
        answer.say(text);
        answer.done();
    }
    let turn = submit(&house, &path, json!({"input": "add up", "output_schema": total()})).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    assert_eq!(turn["output"], json!([{"type": "json", "json": {"total": 3}}]));
    let types = types(&house, &path).await;
    let told: Vec<_> = types.iter().filter(|name| name.starts_with("output.")).collect();
    assert_eq!(told, ["output.rejected", "output.rejected", "output.validated"]);

    let asked = house.asked();
    assert!(
        asked[0].system.contains("\"required\":[\"total\"]"),
        "{}",
        asked[0].system
    );
    assert_eq!(asked[0].tool_choice, ToolChoice::Auto);
    assert_eq!(
        asked[1].tool_choice,
        ToolChoice::None,
        "an answer is only written again"
    );
    assert!(notes(&asked[1].messages)[0].contains("it is not JSON"), "{asked:?}");
    assert!(notes(&asked[2].messages)[1].contains("at /total"), "{asked:?}");
    let shown = house.get(&format!("{path}/messages")).answer().await.json();
    assert!(!shown.to_string().contains("it is not JSON"), "{shown}");
}

#[tokio::test]
async fn a_model_that_asks_for_tools_instead_of_repairing_its_answer_runs_none_and_uses_up_its_attempts() {
    let house = House::new().await;
    house.add_sums().await;
    let path = house.session().await;
    house.next_answer().says("The total is 3.");
    for _ in 2..=3 {
        house.next_answer().call("double", &json!({"n": 1}));
    }
    let turn = submit(&house, &path, json!({"input": "add up", "output_schema": total()})).await;
    assert_eq!(turn["error"]["code"], "output_invalid", "{turn}");
    assert_eq!(house.asked().len(), 3);
    let types = types(&house, &path).await;
    assert!(!types.iter().any(|name| name.starts_with("tool.")), "{types:?}");
}

#[tokio::test]
async fn an_answer_that_is_cut_off_before_its_end_is_told_so_and_not_only_that_it_is_no_json() {
    let house = House::new().await;
    let path = house.session().await;
    let cut = house.next_answer();
    cut.say("{\"total\": ");
    cut.stop(StepStop::Length);
    house.next_answer().says("{\"total\": 3}");
    let turn = submit(&house, &path, json!({"input": "add up", "output_schema": total()})).await;
    assert_eq!(turn["status"], "completed", "{turn}");
    let asked = house.asked();
    let told = notes(&asked[1].messages);
    assert!(told[0].contains("reached the output limit"), "{told:?}");
}

#[tokio::test]
async fn an_answer_that_never_follows_its_schema_fails_the_turn() {
    let house = House::new().await;
    let path = house.session().await;
    let turn = submit(&house, &path, json!({"input": "add up", "output_schema": total()})).await;
    assert_eq!(
        (&turn["status"], &turn["error"]["code"]),
        (&json!("failed"), &json!("output_invalid"))
    );
    assert_eq!(house.asked().len(), 3);
}

#[tokio::test]
async fn a_schema_that_the_host_would_not_check_is_refused_before_anything_runs() {
    let house = House::new().await;
    let path = house.session().await;
    for schema in [
        json!({"$ref": "https://example.com/schema"}),
        json!({"$ref": "#"}),
        json!({"type": "strange"}),
        json!({"pattern": "(?=a)b"}),
    ] {
        let turn = house.post(&format!("{path}/turns"));
        let refused = turn
            .json(&json!({"input": "hi", "output_schema": schema}))
            .answer()
            .await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{schema}");
        assert!(refused.text().contains("output_schema"), "{}", refused.text());
    }
    assert_eq!(types(&house, &path).await, ["session.created"]);
}

#[tokio::test]
async fn another_schema_makes_another_request() {
    let house = House::new().await;
    let path = house.session().await;
    let post = async |schema: Value| {
        let turn = house.post(&format!("{path}/turns")).with("idempotency-key", "k");
        turn.json(&json!({"input": "hi", "output_schema": schema}))
            .answer()
            .await
    };
    let answer = house.next_answer();
    answer.say("\"x\"");
    answer.done();
    assert_eq!(post(json!({"type": "string"})).await.status, StatusCode::OK);
    assert_eq!(post(json!({"type": "string"})).await.status, StatusCode::OK);
    let other = post(json!({"type": "number"})).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn an_answer_that_was_cut_off_keeps_its_text_and_loses_its_calls() {
    let house = House::new().await;
    let path = house.session().await;
    let answer = house.next_answer();
    answer.say("I will look. ");
    answer.cut_call("files_read");
    let turn = submit(&house, &path, json!({"input": "hi"})).await;
    assert_eq!(turn["output"], json!([{"type": "text", "text": "Hello."}]));
    let types = types(&house, &path).await;
    assert!(!types.iter().any(|name| name.starts_with("tool.")), "{types:?}");
    let asked = house.asked();
    let told = notes(&asked[1].messages);
    assert!(told[0].contains("files_read"), "{told:?}");
}

#[tokio::test]
async fn a_result_that_is_too_long_for_the_model_is_cut_and_kept_as_a_file() {
    let house = House::new().await;
    house.add_sums().await;
    let path = house.session().await;
    house.next_answer().call("shout", &json!({"n": 150_000}));
    submit(&house, &path, json!({"input": "hi"})).await;
    let asked = house.asked();
    let Some(Message::Tool {
        call,
        result: Ok(output),
        ..
    }) = asked[1].messages.last()
    else {
        panic!("{:?}", asked[1].messages)
    };
    let [Content::Text { text }] = &output.content[..] else {
        panic!("{output:?}")
    };
    assert!(text.len() < 66_000, "{}", text.len());
    assert!(
        text.contains(&format!("the whole is in the file /workspace/tool-outputs/{call}.txt")),
        "{text}"
    );
    let whole = house
        .get(&format!("{path}/files/tool-outputs/{call}.txt"))
        .answer()
        .await;
    assert_eq!(whole.text().matches('A').count(), 150_000);
}

#[tokio::test]
async fn an_answer_of_reasoning_alone_fails_the_turn_and_says_what_to_change() {
    let house = House::new().await;
    let path = house.session().await;
    house.next_answer().stop(StepStop::Length);
    let turn = submit(&house, &path, json!({"input": "hi"})).await;
    assert_eq!(turn["error"]["code"], "empty_answer", "{turn}");
    assert!(turn["error"]["message"].as_str().unwrap().contains("max_output_tokens"));
}
